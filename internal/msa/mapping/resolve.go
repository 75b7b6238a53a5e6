package mapping

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// NIC is what becomes of a VM's card at the recovery site.
type NIC struct {
	Index    int            `json:"nic"`
	MAC      string         `json:"mac,omitempty"`
	Network  site.Ref       `json:"network,omitempty"` // empty: an isolated one
	Isolated site.Ref       `json:"isolated,omitempty"`
	Config   site.NICConfig `json:"config,omitzero"` // zero: the guest is not touched
}

// Placement is where a VM goes, and what its guest is told.
type Placement struct {
	VM        dr.VMID   `json:"vm"`
	Name      site.Ref  `json:"name"`
	Site      site.Name `json:"site"`
	Folder    site.Ref  `json:"folder,omitempty"`
	Pool      site.Ref  `json:"pool,omitempty"`
	Host      site.Ref  `json:"host,omitempty"`
	Datastore site.Ref  `json:"datastore,omitempty"`
	Policy    site.Ref  `json:"policy,omitempty"`
	CPUs      int       `json:"cpus,omitempty"`
	MemoryMiB int64     `json:"memory_mib,omitempty"`
	NICs      []NIC     `json:"nics,omitempty"`
	NoMove    bool      `json:"no_move,omitempty"`
}

// Resolver answers where VMs go. It is made once for one direction and may be
// used by several goroutines.
type Resolver struct {
	m        *Mappings
	to       *site.View
	networks map[site.Ref]*NetworkPair
	folders  map[site.Ref]*Pair
	pools    map[site.Ref]*Pair
	policies map[site.Ref]*Pair
	settings map[dr.VMID]*site.RecoverySettings
}

// NewResolver returns the resolver of m, of which from and to are the sites as
// they are now; what is known of neither is not checked to exist. Settings of VMs
// that from does not have are told to l.
func NewResolver(m *Mappings, from, to *site.View, settings []*site.RecoverySettings, l *problem.List) *Resolver {
	r := &Resolver{
		m: m, to: to, networks: map[site.Ref]*NetworkPair{}, folders: index(m.Folders), pools: index(m.Pools),
		policies: index(m.Policies), settings: map[dr.VMID]*site.RecoverySettings{},
	}
	for i := range m.Networks {
		r.networks[m.Networks[i].From] = &m.Networks[i]
	}
	for _, s := range settings {
		if s.Site != m.To {
			continue
		}
		vm, code, why := from.VM(s.VM)
		c := problem.For(l, site.Label(s)).At("vm")
		switch {
		case vm == nil:
			c.Warn(code, why, "correct the name, use the VM's id, or remove the settings")
		case r.settings[vm.ID] != nil:
			c.Block(problem.Duplicate, fmt.Sprintf("%s has settings for VM %s as well", r.settings[vm.ID].Name, s.VM), "keep one of the two")
		default:
			r.settings[vm.ID] = s
		}
	}
	return r
}

func index(pairs []Pair) map[site.Ref]*Pair {
	m := make(map[site.Ref]*Pair, len(pairs))
	for i := range pairs {
		m[pairs[i].From] = &pairs[i]
	}
	return m
}

// Resolve says where a VM goes in a use, Live or Test. Blockers told to c mean
// that it has no place; all else is a warning, and the placement is usable.
func (r *Resolver) Resolve(vm *site.VM, use Use, c problem.Checker) Placement {
	s := r.settings[vm.ID]
	if s == nil {
		s = &site.RecoverySettings{}
	}
	p := Placement{VM: vm.ID, Site: r.m.To, Name: vm.Ref, CPUs: vm.CPUs, MemoryMiB: vm.MemoryMiB, Host: s.Host, NoMove: s.NoMove}
	p.Name = first(s.TargetVM, vm.Ref)
	if s.CPUs != 0 {
		p.CPUs = s.CPUs
	}
	if s.MemoryMiB != 0 {
		p.MemoryMiB = s.MemoryMiB
	}
	p.Pool = r.pool(vm, s, c)
	p.Folder = r.folder(vm, s, c)
	p.Policy = first(s.Policy, to(r.policies[vm.Policy]), r.m.Default.Policy)
	if vm.Policy != "" && p.Policy == "" {
		c.Warn(Unmapped, fmt.Sprintf("no storage policy stands for %q", vm.Policy), "map the policy, or give a default")
	}
	p.Datastore = first(s.Datastore, r.m.Default.Datastore)
	r.exists(&p, c)
	for i := range vm.NICs {
		p.NICs = append(p.NICs, r.nic(vm, s, i, use, c.Index("nics", i)))
	}
	return p
}

func first(refs ...site.Ref) site.Ref {
	for _, r := range refs {
		if r != "" {
			return r
		}
	}
	return ""
}

func to(p *Pair) site.Ref {
	if p == nil {
		return ""
	}
	return p.To
}

func (r *Resolver) pool(vm *site.VM, s *site.RecoverySettings, c problem.Checker) site.Ref {
	pool := first(s.Pool, to(r.pools[vm.Pool]), r.m.Default.Pool)
	if pool == "" && s.Host == "" && (vm.Pool != "" || r.to != nil && len(r.to.Pools) > 0) {
		c.Block(Unmapped, fmt.Sprintf("no pool at %s stands for %q: the VM has nowhere to run", r.m.To, vm.Pool), "map the pool, or give a default pool")
	}
	return pool
}

// folder is what stands for the VM's folder, or for the nearest one above.
func (r *Resolver) folder(vm *site.VM, s *site.RecoverySettings, c problem.Checker) site.Ref {
	if s.TargetFolder != "" {
		return s.TargetFolder
	}
	for f := vm.Folder; f != ""; {
		if p := r.folders[f]; p != nil {
			return p.To
		}
		i := strings.LastIndexByte(string(f), '/')
		f = f[:max(i, 0)]
	}
	if vm.Folder != "" && r.m.Default.Folder == "" {
		c.Warn(Unmapped, fmt.Sprintf("no folder stands for %q: the VM goes to the root", vm.Folder), "map the folder, or give a default")
	}
	return r.m.Default.Folder
}

// exists tells what of a placement is not at the recovery site.
func (r *Resolver) exists(p *Placement, c problem.Checker) {
	if r.to == nil {
		return
	}
	if p.Pool != "" && r.to.Pools[p.Pool] == nil {
		c.Block(NoTarget, fmt.Sprintf("%s has no pool %q", r.m.To, p.Pool), "correct the mapping, or make the pool")
	}
	if p.Folder != "" && !r.to.Folders[p.Folder] {
		c.Warn(NoTarget, fmt.Sprintf("%s has no folder %q", r.m.To, p.Folder), "correct the mapping, or make the folder")
	}
	if p.Policy != "" && !r.to.Policies[p.Policy] {
		c.Warn(NoTarget, fmt.Sprintf("%s has no storage policy %q", r.m.To, p.Policy), "correct the mapping, or make the policy")
	}
	ds := r.to.Datastores[p.Datastore]
	switch {
	case p.Datastore == "":
	case ds == nil:
		c.Block(NoTarget, fmt.Sprintf("%s has no datastore %q", r.m.To, p.Datastore), "correct the default or the VM's settings")
	case len(ds.Pools) > 0 && p.Pool != "" && !slices.Contains(ds.Pools, p.Pool):
		c.Block(NoTarget, fmt.Sprintf("pool %q does not reach datastore %q", p.Pool, p.Datastore), "choose a datastore its hosts reach")
	}
}

// nic says what becomes of a card.
func (r *Resolver) nic(vm *site.VM, s *site.RecoverySettings, i int, use Use, c problem.Checker) NIC {
	card := &vm.NICs[i]
	var own site.NICSettings
	for _, n := range s.NICs {
		if n.NIC == i {
			own = n
		}
	}
	n := NIC{Index: i, MAC: card.MAC}
	if use == Live && own.MAC != "" {
		n.MAC = own.MAC
	}
	pair := r.networks[card.Network]
	switch {
	case use == Test:
		n.Network = own.Test
		if n.Network == "" && pair != nil {
			n.Network = pair.Test
		}
	case own.Network != "":
		n.Network = own.Network
	case pair != nil:
		n.Network = pair.To
	default:
		n.Network = r.m.Default.Network
	}
	r.checkNetwork(&n, card, use, pair != nil || own.Network != "", c)
	if n.Network == "" {
		n.Isolated = card.Network // cards of one network meet in one isolated network
	}
	n.Config = r.config(s, &own, card, use, c)
	return n
}

func (r *Resolver) checkNetwork(n *NIC, card *site.VMNIC, use Use, mapped bool, c problem.Checker) {
	switch {
	case use == Live && n.Network == "" && r.m.Default.Refuse:
		c.Block(Unmapped, fmt.Sprintf("no network at %s stands for %q", r.m.To, card.Network), "map the network")
	case use == Live && n.Network == "":
		c.Warn(Unmapped, fmt.Sprintf("no network at %s stands for %q: the card is isolated", r.m.To, card.Network), "map the network")
	case use == Live && !mapped:
		c.Warn(Unmapped, fmt.Sprintf("%q is mapped by the default alone", card.Network), "map the network")
	}
	if n.Network == "" || r.to == nil {
		return
	}
	at := r.to.Networks[n.Network]
	switch {
	case at == nil && r.m.Default.Refuse:
		c.Block(NoTarget, fmt.Sprintf("%s has no network %q", r.m.To, n.Network), "correct the mapping, or make the network")
	case at == nil:
		c.Warn(NoTarget, fmt.Sprintf("%s has no network %q: the card is isolated", r.m.To, n.Network), "correct the mapping, or make the network")
		n.Network = ""
	case use == Test && !at.Isolated:
		c.Warn(TestLive, fmt.Sprintf("a test would run on %q, which is not isolated", n.Network), "map a test network that reaches nothing else")
	}
}

// config is what a card is told.
func (r *Resolver) config(s *site.RecoverySettings, own *site.NICSettings, card *site.VMNIC, use Use, c problem.Checker) site.NICConfig {
	manual := own.Live
	if use == Test && !own.InTest.IsZero() {
		manual = own.InTest
	}
	switch s.IP {
	case site.IPKeep:
		return site.NICConfig{}
	case site.IPManual:
		if manual.IsZero() {
			c.Warn(NoRule, "ip mode manual, but the card has no setting: it keeps its addresses", "give the card's addresses, or another ip mode")
		}
		return manual
	case site.IPAuto:
		if !manual.IsZero() {
			return manual
		}
	case site.IPMappings:
	}
	return r.m.ruled(card, use, c)
}

// ruled is what the subnet rules make of a card's addresses.
func (m *Mappings) ruled(card *site.VMNIC, use Use, c problem.Checker) site.NICConfig {
	var n site.NICConfig
	if len(m.Rules) == 0 {
		return n
	}
	for _, a := range card.Addresses {
		if site.Unusable(a) != "" {
			continue // of the link alone, or none: guests make those themselves
		}
		rule := m.rule(card.Network, a.Addr(), use)
		if rule == nil {
			c.Warn(NoRule, fmt.Sprintf("no rule moves %s on %q", a, card.Network), "add a rule for its subnet, or settings for the VM")
			continue
		}
		n.Addresses = append(n.Addresses, rule.move(a.Addr()))
		n.Gateways = union(n.Gateways, rule.To.Gateways)
		n.DNS = union(n.DNS, rule.To.DNS)
		n.Suffixes = union(n.Suffixes, rule.To.Suffixes)
	}
	n.Gateways = oneOfEach(n.Gateways)
	return n
}

func union[T comparable](list, more []T) []T {
	for _, v := range more {
		if !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

// oneOfEach keeps the first gateway of each family: a guest has one way out.
func oneOfEach(list []netip.Addr) (kept []netip.Addr) {
	for _, a := range list {
		if !slices.ContainsFunc(kept, func(k netip.Addr) bool { return k.Is4() == a.Is4() }) {
			kept = append(kept, a)
		}
	}
	return kept
}
