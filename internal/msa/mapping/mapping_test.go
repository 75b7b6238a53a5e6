package mapping

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/dr"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

func id(n int) (v dr.VMID) {
	binary.BigEndian.PutUint32(v.UUID[:], uint32(n))
	return v
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func rule(from, to string) Rule {
	return Rule{From: Subnet{Prefix: pfx(from)}, To: Subnet{Prefix: pfx(to)}}
}

// mappings are such that nothing is to be said of them.
func mappings() *Mappings {
	r4 := rule("10.1.0.0/24", "10.2.0.0/24")
	r4.From.Gateways, r4.To.Gateways = []netip.Addr{netip.MustParseAddr("10.1.0.1")}, []netip.Addr{netip.MustParseAddr("10.2.0.1")}
	r4.To.DNS = []netip.Addr{netip.MustParseAddr("10.2.0.2")}
	return &Mappings{
		Meta: site.Meta{Name: "ab"}, From: "a", To: "b",
		Networks: []NetworkPair{{From: "lan", To: "lan-b", Test: "bubble", ReverseTest: "bubble-a"}},
		Folders:  []Pair{{From: "prod", To: "dr"}}, Pools: []Pair{{From: "cl-a", To: "cl-b"}}, Policies: []Pair{{From: "gold", To: "gold-b"}},
		Rules: []Rule{r4, rule("2001:db8:1::/64", "2001:db8:2::/64")},
	}
}

func vms() (list []*site.VM) {
	for i, name := range []site.Ref{"db", "web"} {
		list = append(list, &site.VM{ID: id(i + 1), Ref: name, Folder: "prod/erp", Pool: "cl-a", Policy: "gold", NICs: []site.VMNIC{
			{MAC: fmt.Sprintf("52:54:00:00:00:0%d", i+1), Network: "lan", Addresses: []netip.Prefix{pfx(fmt.Sprintf("10.1.0.1%d/24", i)), pfx(fmt.Sprintf("2001:db8:1::1%d/64", i)), pfx("fe80::5054:ff:fe00:1/64")}}}})
	}
	return list
}

func sites(vms []*site.VM) (from, to *site.View) {
	a, b := &site.Inventory{Site: "a"}, &site.Inventory{Site: "b",
		Networks: []site.Network{{Ref: "lan-b", Subnets: []netip.Prefix{pfx("10.2.0.0/24"), pfx("2001:db8:2::/64")}}, {Ref: "bubble", Isolated: true}, {Ref: "open"}},
		Folders:  []site.Folder{{Ref: "dr"}}, Pools: []site.Pool{{Ref: "cl-b"}, {Ref: "cl-c"}}, Policies: []site.Ref{"gold-b"},
		Datastores: []site.Datastore{{Ref: "fast", Pools: []site.Ref{"cl-c"}}},
		VMs:        []site.VM{{ID: id(90), Ref: "there", NICs: []site.VMNIC{{Network: "lan-b", Addresses: []netip.Prefix{pfx("10.2.0.99/24")}}}}}}
	for _, v := range vms {
		a.VMs = append(a.VMs, *v)
	}
	return site.NewView(a), site.NewView(b)
}

func TestResolve(t *testing.T) {
	list := vms()
	from, to := sites(list)
	var l problem.List
	r := NewResolver(mappings(), from, to, nil, &l)
	p := r.Resolve(list[0], Live, problem.For(&l, "db"))
	if p.Folder != "dr" || p.Pool != "cl-b" || p.Policy != "gold-b" || p.Name != "db" || len(l.All) > 0 {
		t.Errorf("%+v, %v", p, l.All)
	}
	n := p.NICs[0]
	if n.Network != "lan-b" || fmt.Sprint(n.Config.Addresses) != "[10.2.0.10/24 2001:db8:2::10/64]" || fmt.Sprint(n.Config.Gateways) != "[10.2.0.1]" || fmt.Sprint(n.Config.DNS) != "[10.2.0.2]" {
		t.Errorf("%+v", n)
	}
	if p = r.Resolve(list[0], Test, problem.For(&l, "db")); p.NICs[0].Network != "bubble" {
		t.Errorf("in a test: %+v", p.NICs[0])
	}
}

func TestOverridesGoFirst(t *testing.T) {
	list := vms()
	from, to := sites(list)
	own := site.NICConfig{Addresses: []netip.Prefix{pfx("10.2.0.80/24")}}
	inTest := site.NICConfig{DHCP: true}
	for name, c := range map[string]struct {
		ip         site.IPMode
		live, test string
	}{
		"auto":    {site.IPAuto, "[10.2.0.80/24]", "dhcp"},
		"manual":  {site.IPManual, "[10.2.0.80/24]", "dhcp"},
		"mapping": {site.IPMappings, "[10.2.0.10/24 2001:db8:2::10/64]", "[10.2.0.10/24 2001:db8:2::10/64]"},
		"keep":    {site.IPKeep, "[]", "[]"},
	} {
		s := &site.RecoverySettings{Meta: site.Meta{Name: "s"}, Site: "b", VM: "db", TargetVM: "db-dr", TargetFolder: "x", Pool: "cl-c", Datastore: "fast",
			CPUs: 8, MemoryMiB: 512, IP: c.ip, NICs: []site.NICSettings{{NIC: 0, Network: "open", Test: "bubble", MAC: "52:54:00:aa:aa:aa", Live: own, InTest: inTest}}}
		var l problem.List
		r := NewResolver(mappings(), from, to, []*site.RecoverySettings{s, {Site: "elsewhere", VM: "db"}}, &l)
		p := r.Resolve(list[0], Live, problem.For(&l, "db"))
		if p.Name != "db-dr" || p.Folder != "x" || p.Pool != "cl-c" || p.CPUs != 8 || p.MemoryMiB != 512 || p.NICs[0].Network != "open" || p.NICs[0].MAC != "52:54:00:aa:aa:aa" {
			t.Errorf("%s: %+v", name, p)
		}
		show := func(n NIC) string {
			if n.Config.DHCP {
				return "dhcp"
			}
			return fmt.Sprint(n.Config.Addresses)
		}
		if got := show(p.NICs[0]); got != c.live {
			t.Errorf("%s, live: %s", name, got)
		}
		p = r.Resolve(list[0], Test, problem.For(&l, "db"))
		if got := show(p.NICs[0]); got != c.test || p.NICs[0].MAC == "52:54:00:aa:aa:aa" {
			t.Errorf("%s, test: %s, %+v", name, got, p.NICs[0])
		}
	}
}

// gaps lists all that is wrong with mappings for VMs.
func gaps(m *Mappings, list []*site.VM, settings ...*site.RecoverySettings) problem.List {
	var l problem.List
	from, to := sites(list)
	m.Check(&l)
	NewResolver(m, from, to, settings, &l).Gaps(list, &l)
	return l
}

func TestNoGaps(t *testing.T) {
	if l := gaps(mappings(), vms()); len(l.All) > 0 {
		t.Errorf("%v", l.All)
	}
}

// TestEveryGapIsTold makes one gap at a time.
func TestEveryGapIsTold(t *testing.T) {
	set := func(nic site.NICConfig) []*site.RecoverySettings {
		return []*site.RecoverySettings{{Meta: site.Meta{Name: "s"}, Site: "b", VM: "db", NICs: []site.NICSettings{{Live: nic}}}}
	}
	addr := func(s string) site.NICConfig { return site.NICConfig{Addresses: []netip.Prefix{pfx(s)}} }
	for name, c := range map[string]struct {
		change   func(*Mappings, []*site.VM)
		settings []*site.RecoverySettings
		code     problem.Code
		words    string
	}{
		"no network":           {func(m *Mappings, _ []*site.VM) { m.Networks = nil }, nil, Unmapped, "isolated"},
		"a refused network":    {func(m *Mappings, _ []*site.VM) { m.Networks, m.Default.Refuse = nil, true }, nil, Unmapped, "no network"},
		"only by default":      {func(m *Mappings, _ []*site.VM) { m.Networks, m.Default.Network = nil, "open" }, nil, Unmapped, "default alone"},
		"no folder":            {func(m *Mappings, _ []*site.VM) { m.Folders = nil }, nil, Unmapped, "no folder"},
		"no pool":              {func(m *Mappings, _ []*site.VM) { m.Pools = nil }, nil, Unmapped, "nowhere to run"},
		"no policy":            {func(m *Mappings, _ []*site.VM) { m.Policies = nil }, nil, Unmapped, "no storage policy"},
		"network is not there": {func(m *Mappings, _ []*site.VM) { m.Networks[0].To = "x" }, nil, NoTarget, "no network"},
		"pool is not there":    {func(m *Mappings, _ []*site.VM) { m.Pools[0].To = "x" }, nil, NoTarget, "no pool"},
		"folder is not there":  {func(m *Mappings, _ []*site.VM) { m.Folders[0].To = "x" }, nil, NoTarget, "no folder"},
		"policy is not there":  {func(m *Mappings, _ []*site.VM) { m.Policies[0].To = "x" }, nil, NoTarget, "no storage policy"},
		"no datastore":         {func(m *Mappings, _ []*site.VM) { m.Default.Datastore = "x" }, nil, NoTarget, "no datastore"},
		"out of reach":         {func(m *Mappings, _ []*site.VM) { m.Default.Datastore = "fast" }, nil, NoTarget, "does not reach"},
		"test is live":         {func(m *Mappings, _ []*site.VM) { m.Networks[0].Test = "open" }, nil, TestLive, "not isolated"},
		"no network back":      {func(m *Mappings, _ []*site.VM) { m.Networks[0].Reverse = No }, nil, NoReverse, "lan-b"},
		"no folder back":       {func(m *Mappings, _ []*site.VM) { m.Folders[0] = Pair{From: "prod/erp", To: "dr", Reverse: No} }, nil, NoReverse, "prod/erp"},
		"no pool back":         {func(m *Mappings, _ []*site.VM) { m.Pools[0].Reverse = No }, nil, NoReverse, "cl-b"},
		"no policy back":       {func(m *Mappings, _ []*site.VM) { m.Policies[0].Reverse = No }, nil, NoReverse, "gold-b"},
		"two ways back":        {func(m *Mappings, _ []*site.VM) { m.Pools = append(m.Pools, Pair{From: "cl-z", To: "cl-b"}) }, nil, TwoBack, "cl-z"},
		"a gateway back":       {func(m *Mappings, _ []*site.VM) { m.Rules[0].From.Gateways = nil }, nil, NoReverse, "no gateway"},
		"one subnet twice":     {func(m *Mappings, _ []*site.VM) { m.Rules = append(m.Rules, rule("10.1.0.0/24", "10.9.0.0/24")) }, nil, Overlap, "as well"},
		"nested subnets":       {func(m *Mappings, _ []*site.VM) { m.Rules = append(m.Rules, rule("10.1.0.0/16", "10.9.0.0/16")) }, nil, Overlap, "longer prefix"},
		"one target twice":     {func(m *Mappings, _ []*site.VM) { m.Rules = append(m.Rules, rule("10.5.0.0/24", "10.2.0.0/24")) }, nil, Overlap, "meet there"},
		"v6 targets overlap":   {func(m *Mappings, _ []*site.VM) { m.Rules = append(m.Rules, rule("2001:db8:9::/48", "2001:db8:2::/48")) }, nil, Overlap, "meet there"},
		"other lengths":        {func(m *Mappings, _ []*site.VM) { m.Rules[0].To.Prefix = pfx("10.2.0.0/25") }, nil, problem.Contrary, "one length"},
		"other families":       {func(m *Mappings, _ []*site.VM) { m.Rules[1].To.Prefix = pfx("10.3.0.0/24") }, nil, problem.Contrary, "v6 subnet"},
		"an address as subnet": {func(m *Mappings, _ []*site.VM) { m.Rules[0].To.Prefix = pfx("10.2.0.1/24") }, nil, problem.Form, "not a subnet"},
		"gateway outside":      {func(m *Mappings, _ []*site.VM) { m.Rules[0].To.Gateways[0] = netip.MustParseAddr("10.3.0.1") }, nil, Outside, "10.3.0.1"},
		"address outside":      {func(m *Mappings, _ []*site.VM) { m.Rules[0].To = Subnet{Prefix: pfx("10.7.0.0/24")} }, nil, Outside, "10.7.0.10"},
		"own address outside":  {func(*Mappings, []*site.VM) {}, set(addr("10.8.0.1/24")), Outside, "10.8.0.1"},
		"another prefix":       {func(*Mappings, []*site.VM) {}, set(addr("10.2.0.30/16")), Outside, "10.2.0.30/16"},
		"v6 outside":           {func(*Mappings, []*site.VM) {}, set(addr("2001:db8:7::1/64")), Outside, "2001:db8:7::1"},
		"one address twice":    {func(*Mappings, []*site.VM) {}, set(addr("10.2.0.11/24")), Conflict, "10.2.0.11"},
		"v6 twice":             {func(*Mappings, []*site.VM) {}, set(addr("2001:db8:2::11/64")), Conflict, "2001:db8:2::11"},
		"somebody is there":    {func(*Mappings, []*site.VM) {}, set(addr("10.2.0.99/24")), Conflict, "there now"},
		"the gateway's":        {func(_ *Mappings, v []*site.VM) { v[0].NICs[0].Addresses[0] = pfx("10.1.0.1/24") }, nil, Conflict, "gateway"},
		"one MAC twice":        {func(_ *Mappings, v []*site.VM) { v[1].NICs[0].MAC = v[0].NICs[0].MAC }, nil, Conflict, "52:54:00"},
		"v6 without a rule":    {func(m *Mappings, _ []*site.VM) { m.Rules = m.Rules[:1] }, nil, NoRule, "2001:db8:1::"},
		"manual without one":   {func(*Mappings, []*site.VM) {}, []*site.RecoverySettings{{Meta: site.Meta{Name: "s"}, Site: "b", VM: "db", IP: site.IPManual}}, NoRule, "manual"},
		"settings of nobody":   {func(*Mappings, []*site.VM) {}, []*site.RecoverySettings{{Meta: site.Meta{Name: "s"}, Site: "b", VM: "gone"}}, problem.Unknown, "gone"},
		"settings twice":       {func(*Mappings, []*site.VM) {}, append(set(addr("10.2.0.30/24")), &site.RecoverySettings{Meta: site.Meta{Name: "t"}, Site: "b", VM: "db"}), problem.Duplicate, "as well"},
		"different to nowhere": {func(m *Mappings, _ []*site.VM) { m.Pools[0].Reverse = Different }, nil, problem.Contrary, "different"},
		"one site":             {func(m *Mappings, _ []*site.VM) { m.To = "a" }, nil, problem.Missing, "one site to another"},
		"a network twice":      {func(m *Mappings, _ []*site.VM) { m.Networks = append(m.Networks, m.Networks[0]) }, nil, problem.Duplicate, "lan"},
	} {
		m, list := mappings(), vms()
		c.change(m, list)
		l := gaps(m, list, c.settings...)
		found := false
		for _, p := range l.All {
			found = found || p.Code == c.code && strings.Contains(p.Words+p.Remedy, c.words)
			if p.Object == "" || p.Words == "" || p.Remedy == "" {
				t.Errorf("%s: %+v does not say enough", name, p)
			}
		}
		if !found {
			t.Errorf("%s: not told as %s with %q: %v", name, c.code, c.words, l.All)
		}
	}
}

func TestWayBack(t *testing.T) {
	m := mappings()
	m.Folders = append(m.Folders, Pair{From: "lab", To: "dr/lab", Reverse: Different, ReverseTo: "attic"}, Pair{From: "tmp", To: "dr/tmp", Reverse: No})
	m.Rules[0].Network, m.Pools[0].Reverse = "lan", "yes"
	b := m.Reverse()
	if b.From != "b" || b.To != "a" || len(b.Folders) != 2 || b.Folders[1] != (Pair{From: "dr/lab", To: "attic"}) {
		t.Errorf("%+v", b)
	}
	if len(b.Pools) != 1 || b.Pools[0] != (Pair{From: "cl-b", To: "cl-a"}) {
		t.Errorf("%+v", b.Pools)
	}
	if b.Networks[0] != (NetworkPair{From: "lan-b", To: "lan", Test: "bubble-a", ReverseTest: "bubble"}) {
		t.Errorf("%+v", b.Networks)
	}
	if b.Rules[0].Network != "lan-b" || b.Rules[0].From.Prefix != pfx("10.2.0.0/24") || b.Rules[0].To.Gateways[0] != netip.MustParseAddr("10.1.0.1") {
		t.Errorf("%+v", b.Rules)
	}
	// Somebody's VM comes home with the address it had.
	home := b.ruled(&site.VMNIC{Network: "lan-b", Addresses: []netip.Prefix{pfx("10.2.0.10/24"), pfx("2001:db8:2::10/64")}}, Live, problem.For(&problem.List{}, ""))
	if fmt.Sprint(home.Addresses) != "[10.1.0.10/24 2001:db8:1::10/64]" || fmt.Sprint(home.Gateways) != "[10.1.0.1]" {
		t.Errorf("%+v", home)
	}
}

func TestNarrowestRule(t *testing.T) {
	m := &Mappings{Rules: []Rule{rule("10.0.0.0/8", "11.0.0.0/8"), rule("10.1.0.0/16", "12.1.0.0/16"), rule("10.1.0.0/16", "13.1.0.0/16"), rule("10.1.0.0/16", "14.1.0.0/16")}}
	m.Rules[2].Use, m.Rules[3].Network = Test, "lan"
	for _, c := range []struct {
		network site.Ref
		use     Use
		a, want string
	}{{"x", Live, "10.1.2.3", "12.1.2.3/16"}, {"x", Test, "10.1.2.3", "13.1.2.3/16"}, {"lan", Live, "10.1.2.3", "14.1.2.3/16"}, {"x", Live, "10.9.2.3", "11.9.2.3/8"}} {
		a := netip.MustParseAddr(c.a)
		if got := m.rule(c.network, a, c.use).move(a).String(); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	if m.rule("x", netip.MustParseAddr("192.0.2.1"), Live) != nil {
		t.Error("a rule for an address of none")
	}
}

// TestMove: the host's part stays, the address is in the target, and the way back
// leads to where it was.
func TestMove(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		size := rapid.SampledFrom([]int{4, 16}).Draw(r, "family")
		bytes := rapid.SliceOfN(rapid.Byte(), size, size)
		bits := rapid.IntRange(0, 8*size).Draw(r, "bits")
		a, _ := netip.AddrFromSlice(bytes.Draw(r, "address"))
		base, _ := netip.AddrFromSlice(bytes.Draw(r, "target"))
		from, to := netip.PrefixFrom(a, bits).Masked(), netip.PrefixFrom(base, bits).Masked()
		there := Rule{From: Subnet{Prefix: from}, To: Subnet{Prefix: to}}
		back := Rule{From: Subnet{Prefix: to}, To: Subnet{Prefix: from}}
		moved := there.move(a)
		if !to.Contains(moved.Addr()) || moved.Bits() != bits {
			r.Fatalf("%s became %s, which is not in %s", a, moved, to)
		}
		if home := back.move(moved.Addr()); home.Addr() != a {
			r.Fatalf("%s became %s, and came back as %s", a, moved, home)
		}
	})
}

// conflicts finds two VMs with one address, slowly: what Gaps must tell.
func conflicts(r *Resolver, list []*site.VM) bool {
	type key struct {
		network site.Ref
		a       netip.Addr
	}
	seen := map[key]bool{}
	for _, vm := range list {
		p := r.Resolve(vm, Live, problem.For(&problem.List{}, ""))
		for _, n := range p.NICs {
			for _, a := range n.Config.Addresses {
				if seen[key{n.Network, a.Addr()}] {
					return true
				}
				seen[key{n.Network, a.Addr()}] = true
			}
		}
	}
	return false
}

// TestConflictsOfRandomVMs: Gaps tells a conflict exactly if there is one.
func TestConflictsOfRandomVMs(t *testing.T) {
	met := 0
	rapid.Check(t, func(r *rapid.T) {
		var list []*site.VM
		for i := range rapid.IntRange(1, 6).Draw(r, "vms") {
			net := rapid.SampledFrom([]string{"10.1.0", "10.5.0"}).Draw(r, "net")
			list = append(list, &site.VM{ID: id(i + 1), Ref: site.Ref(fmt.Sprint("vm", i)), Pool: "cl-a", Folder: "prod", NICs: []site.VMNIC{
				{Network: "lan", Addresses: []netip.Prefix{pfx(fmt.Sprintf("%s.%d/24", net, rapid.IntRange(10, 14).Draw(r, "host")))}}}})
		}
		m := mappings()
		m.Rules = []Rule{rule("10.1.0.0/24", "10.2.0.0/24"), rule("10.5.0.0/24", "10.2.0.0/24")}
		from, to := sites(list)
		var l problem.List
		res := NewResolver(m, from, to, nil, &l)
		res.Gaps(list, &l)
		want := conflicts(res, list)
		if l.Has(Conflict) != want {
			r.Fatalf("a conflict: %t; told: %v", want, l.All)
		}
		if want {
			met++
		}
	})
	if met == 0 {
		t.Error("no conflict was ever met")
	}
}
