package site

import (
	"fmt"
	"net"
	"net/netip"

	"holdfast/internal/msa/problem"
)

// IPMode says where a VM's addresses at the recovery site come from.
type IPMode string

// The modes. The zero value is IPAuto.
const (
	IPAuto     IPMode = ""        // the card's own setting, else the subnet rules, else as recorded
	IPMappings IPMode = "mapping" // the subnet rules alone
	IPManual   IPMode = "manual"  // the cards' own settings alone; each card needs one
	IPKeep     IPMode = "keep"    // the guest is not touched
)

// NICConfig is what a guest's card is told. The zero value leaves the card alone.
type NICConfig struct {
	DHCP      bool           `json:"dhcp,omitempty"`      // v4 by DHCP
	Autoconf  bool           `json:"autoconf,omitempty"`  // v6 by router advertisement
	Addresses []netip.Prefix `json:"addresses,omitempty"` // v4 and v6, as 10.2.0.12/24, 2001:db8::12/64
	Gateways  []netip.Addr   `json:"gateways,omitempty"`  // at most one of each family
	DNS       []netip.Addr   `json:"dns,omitempty"`       // servers
	Suffixes  []string       `json:"suffixes,omitempty"`  // DNS search list
}

// IsZero reports whether the card is left alone.
func (n *NICConfig) IsZero() bool {
	return !n.DHCP && !n.Autoconf && len(n.Addresses) == 0 && len(n.Gateways) == 0 && len(n.DNS) == 0 && len(n.Suffixes) == 0
}

// Check adds what is wrong with a card's setting, whatever network it is on.
func (n *NICConfig) Check(c problem.Checker) {
	c.Count("addresses", len(n.Addresses), MaxAddresses)
	c.Count("dns", len(n.DNS), MaxServers)
	c.Count("suffixes", len(n.Suffixes), MaxServers)
	for i, s := range n.Suffixes {
		c.NeedText(fmt.Sprintf("suffixes[%d]", i), s, MaxRef)
	}
	v4, v6 := false, false
	for i, p := range n.Addresses {
		if words := Unusable(p); words != "" {
			c.Index("addresses", i).Block(problem.Form, p.String()+" "+words, "give an address of a host in its subnet")
		}
		v4, v6 = v4 || p.Addr().Is4(), v6 || p.Addr().Is6()
	}
	if n.DHCP && v4 {
		c.At("dhcp").Block(problem.Contrary, "the card has both DHCP and a fixed v4 address", "choose one")
	}
	n.checkGateways(c)
	problem.Unique(c, "addresses", n.Addresses, func(p netip.Prefix) string { return p.Addr().String() })
	for i, a := range n.DNS {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			c.Index("dns", i).Block(problem.Form, a.String()+" is no server's address", "give the server's address")
		}
	}
	if len(n.Gateways) > 0 && !v4 && !v6 {
		c.At("gateways").Block(problem.Contrary, "a gateway without an address", "give an address, or leave the gateway to DHCP")
	}
}

func (n *NICConfig) checkGateways(c problem.Checker) {
	c.Count("gateways", len(n.Gateways), 2)
	for i, g := range n.Gateways {
		at := c.Index("gateways", i)
		if !g.IsValid() || g.IsUnspecified() || g.IsMulticast() {
			at.Block(problem.Form, g.String()+" is no gateway's address", "give the router's address")
			continue
		}
		if i == 1 && g.Is4() == n.Gateways[0].Is4() {
			at.Block(problem.Duplicate, "two gateways of one family", "keep one of each family")
		}
		reached := g.Is6() && g.IsLinkLocalUnicast()
		for _, p := range n.Addresses {
			reached = reached || p.IsValid() && p.Contains(g)
			if p.Addr() == g {
				at.Block(problem.Contrary, g.String()+" is the card's own address", "give the router's address")
			}
		}
		if !reached && len(n.Addresses) > 0 {
			at.Block(problem.Contrary, g.String()+" is in no subnet of the card", "correct the gateway, or the length of the prefix")
		}
	}
}

// Unusable says why no host can have an address; empty: one can.
func Unusable(p netip.Prefix) string {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return "is not an address with the length of its prefix"
	case a.Is4In6():
		return "is a v4 address written as v6"
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast():
		return "is no address a host can have"
	case a.Is6() && a.IsLinkLocalUnicast():
		return "is of the link alone, and made by the guest itself"
	case a.Is4() && p.Bits() < 31 && a == p.Masked().Addr():
		return "is the subnet's own address"
	case a.Is4() && p.Bits() < 31 && a == lastOf(p):
		return "is the subnet's broadcast address"
	}
	return ""
}

// lastOf returns the last v4 address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// NICSettings overrides the mappings for one card of a VM.
type NICSettings struct {
	NIC     int       `json:"nic"`               // from 0 on, in the VM's order
	Network Ref       `json:"network,omitempty"` // live; empty: as mapped
	Test    Ref       `json:"test,omitempty"`    // network of a test; empty: as mapped
	MAC     string    `json:"mac,omitempty"`     // live; empty: as recorded
	Live    NICConfig `json:"live,omitzero"`
	InTest  NICConfig `json:"in_test,omitzero"` // zero: as live
}

// RecoverySettings overrides the mappings for one VM, at one recovery site: where
// it is placed, and what its cards are told. How and when it starts is a plan's.
type RecoverySettings struct {
	Meta
	Site         Name          `json:"site"` // the recovery site
	VM           Ref           `json:"vm"`
	TargetVM     Ref           `json:"target_vm,omitempty"` // name there; empty: as recorded
	TargetFolder Ref           `json:"target_folder,omitempty"`
	Pool         Ref           `json:"pool,omitempty"`
	Host         Ref           `json:"host,omitempty"`
	Datastore    Ref           `json:"datastore,omitempty"`
	Policy       Ref           `json:"policy,omitempty"`
	CPUs         int           `json:"cpus,omitempty"`       // 0: as recorded
	MemoryMiB    int64         `json:"memory_mib,omitempty"` // 0: as recorded
	IP           IPMode        `json:"ip,omitempty"`
	NICs         []NICSettings `json:"nics,omitempty"`
	NoMove       bool          `json:"no_move,omitempty"` // the platform must not migrate it live
}

// Kind is KindSettings.
func (*RecoverySettings) Kind() Kind { return KindSettings }

// Check adds every problem the settings have by themselves.
func (r *RecoverySettings) Check(l *problem.List) {
	c := CheckHead(l, r)
	needName(c, "site", r.Site, "site")
	c.NeedText("vm", string(r.VM), MaxRef)
	for _, f := range []struct {
		field string
		ref   Ref
	}{{"target_vm", r.TargetVM}, {"target_folder", r.TargetFolder}, {"pool", r.Pool}, {"host", r.Host}, {"datastore", r.Datastore}, {"policy", r.Policy}} {
		c.Text(f.field, string(f.ref), MaxRef)
	}
	problem.OneOf(c, "ip", r.IP, IPAuto, IPMappings, IPManual, IPKeep)
	problem.Within(c, "cpus", r.CPUs, 0, 4096)
	problem.Within(c, "memory_mib", r.MemoryMiB, 0, 64<<20)
	c.Count("nics", len(r.NICs), MaxNICs)
	problem.Unique(c, "nics", r.NICs, func(n NICSettings) string { return fmt.Sprint(n.NIC) })
	for i := range r.NICs {
		r.checkNIC(c.Index("nics", i), &r.NICs[i])
	}
}

func (r *RecoverySettings) checkNIC(c problem.Checker, n *NICSettings) {
	problem.Within(c, "nic", n.NIC, 0, MaxNICs-1)
	c.Text("network", string(n.Network), MaxRef)
	c.Text("test", string(n.Test), MaxRef)
	if n.MAC != "" {
		if m, err := net.ParseMAC(n.MAC); err != nil || len(m) != 6 || m[0]&1 != 0 {
			c.At("mac").Block(problem.Form, fmt.Sprintf("%q is not the address of a card", n.MAC), "write it as 52:54:00:12:34:56")
		}
	}
	if !n.Live.IsZero() && (r.IP == IPMappings || r.IP == IPKeep) {
		c.At("live").Warn(problem.Contrary, "ip mode "+string(r.IP)+" does not use it", "remove it, or change the mode")
	}
	n.Live.Check(c.At("live"))
	n.InTest.Check(c.At("in_test"))
}

// PlaceholderState is how a placeholder stands. Names are stable.
type PlaceholderState string

// The states of a placeholder.
const (
	PlaceholderPlanned PlaceholderState = ""        // to be created
	PlaceholderPresent PlaceholderState = "present" // there, and as it should be
	PlaceholderDrifted PlaceholderState = "drifted" // there, but not as the mappings say now
	PlaceholderGone    PlaceholderState = "gone"    // somebody removed it
	PlaceholderUsed    PlaceholderState = "used"    // a recovered VM stands in its place
)

// Placeholder stands for a protected VM at its recovery site, so that its place
// is kept and people see it: a VM without disks, that cannot be started.
type Placeholder struct {
	Domain Name             `json:"domain"`
	VM     Ref              `json:"vm"` // at the protected site, by id
	Site   Name             `json:"site"`
	Ref    Ref              `json:"ref"` // its name there
	Folder Ref              `json:"folder,omitempty"`
	Pool   Ref              `json:"pool,omitempty"`
	State  PlaceholderState `json:"state,omitempty"`
	Error  string           `json:"error,omitempty"`
}

// Check adds every problem a placeholder has by itself.
func (p *Placeholder) Check(l *problem.List) {
	c := problem.For(l, "placeholder "+string(p.Ref))
	needName(c, "domain", p.Domain, "domain")
	needName(c, "site", p.Site, "site")
	c.NeedText("vm", string(p.VM), MaxRef)
	c.NeedText("ref", string(p.Ref), MaxRef)
	c.Text("folder", string(p.Folder), MaxRef)
	c.Text("pool", string(p.Pool), MaxRef)
	c.Lines("error", p.Error, MaxText)
	problem.OneOf(c, "state", p.State, PlaceholderPlanned, PlaceholderPresent, PlaceholderDrifted, PlaceholderGone, PlaceholderUsed)
}
