package site

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/msa/problem"
)

func TestNames(t *testing.T) {
	for _, ok := range []Name{"a", "erp", "a-b.c_d", "9", Name(strings.Repeat("x", 63))} {
		if !ok.Valid() {
			t.Errorf("%q refused", ok)
		}
	}
	for _, bad := range []Name{"", "-a", "a-", ".", "A", "a b", "ä", "a/b", Name(strings.Repeat("x", 64)), "a\n"} {
		if bad.Valid() {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestSpans(t *testing.T) {
	for text, want := range map[string]time.Duration{"5s": 5 * time.Second, "1h30m": 90 * time.Minute, "30d": 720 * time.Hour, "0s": 0, "100ms": 100 * time.Millisecond} {
		var s Span
		if err := s.UnmarshalText([]byte(text)); err != nil || s.D() != want {
			t.Errorf("%s: %s, %v", text, s, err)
		}
		var back Span
		if err := back.UnmarshalText([]byte(s.String())); err != nil || back != s {
			t.Errorf("%s became %s, %v", s, back, err)
		}
	}
	for _, bad := range []string{"", "5", "d", "1.5d", "-1d", "1d1h", "99999999d", "x", strings.Repeat("1h", 50)} {
		var s Span
		if err := s.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q accepted as %s", bad, s)
		}
	}
	if Span(time.Hour).String() != "1h" || Span(90*time.Minute).String() != "1h30m" || Span(10*time.Second).String() != "10s" || Span(10*time.Minute).String() != "10m" {
		t.Error("spans are not written short")
	}
}

func FuzzSpan(f *testing.F) {
	for _, s := range []string{"5s", "30d", "1h30m", "-1s", "0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s, back Span
		if s.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := back.UnmarshalText([]byte(s.String())); err != nil || back != s {
			t.Fatalf("%q is %s, which is read as %s: %v", text, s, back, err)
		}
	})
}

func id(n int) (v dr.VMID) {
	binary.BigEndian.PutUint32(v.UUID[:], uint32(n))
	return v
}

// set is objects that are all as they should be.
func set() []Object {
	keep := Retention{Schedule: []Slot{{For: Span(24 * time.Hour)}, {Every: Span(time.Hour), For: Span(30 * 24 * time.Hour)}}}
	return []Object{
		&Site{Meta: Meta{Name: "a"}, Platform: Libvirt, Endpoints: []string{"qemu+tls://node1/system"}, Manager: "https://msa-a:8443"},
		&Site{Meta: Meta{Name: "b"}, Platform: Fake},
		&SitePair{Meta: Meta{Name: "ab"}, Local: "a", Peer: "b", Fingerprint: strings.Repeat("0a", 32), Trust: Trusted},
		&Store{Meta: Meta{Name: "west"}, URL: "azblob://account/container", Credential: "west-key", Lock: "governance"},
		&Appliance{Meta: Meta{Name: "drva1"}, Role: DRVA, Site: "a", Address: "10.0.0.5:7480"},
		&ProtectedDomain{Meta: Meta{Name: "erp"}, From: "a", To: "b", VMs: []Ref{"db", "web"}, Stores: []Name{"west"}, Appliance: "drva1",
			Interval: Span(5 * time.Second), RPOTarget: Span(15 * time.Second), Retention: keep, Bandwidth: "zone UTC; mon-fri 08:00-18:00 20MB/s; * 100MB/s"},
		&ProtectedDomain{Meta: Meta{Name: "mail"}, From: "a", To: "b", VMs: []Ref{"mail"}, Adopt: []Rule{{Tag: "mail"}}, Stores: []Name{"west"}, Retention: keep},
		&RecoverySettings{Meta: Meta{Name: "db-at-b"}, Site: "b", VM: "db", NICs: []NICSettings{{NIC: 0, MAC: "52:54:00:12:34:56",
			Live: NICConfig{Addresses: []netip.Prefix{netip.MustParsePrefix("10.2.0.9/24"), netip.MustParsePrefix("2001:db8::9/64")},
				Gateways: []netip.Addr{netip.MustParseAddr("10.2.0.1"), netip.MustParseAddr("fe80::1")}}}}},
	}
}

func view() *View {
	return NewView(&Inventory{Site: "a", VMs: []VM{{ID: id(1), Ref: "db"}, {ID: id(2), Ref: "web"}, {ID: id(3), Ref: "mail"},
		{ID: id(4), Ref: "relay", Tags: []string{"mail"}, Folder: "prod/mail"}, {ID: id(5), Ref: "twin"}, {ID: id(6), Ref: "twin"}}})
}

func check(objects []Object, v *View) problem.List {
	var l problem.List
	CheckSet(&l, objects, map[Name]*View{"a": v})
	return l
}

func TestSetIsInOrder(t *testing.T) {
	if l := check(set(), view()); len(l.All) > 0 {
		t.Errorf("%v", l.All)
	}
}

// TestMistakesAreTold makes one mistake at a time, and expects it to be told at its
// field.
func TestMistakesAreTold(t *testing.T) {
	domain := func(o []Object) *ProtectedDomain { return o[5].(*ProtectedDomain) }
	nics := func(o []Object) *NICConfig { return &o[7].(*RecoverySettings).NICs[0].Live }
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	for name, c := range map[string]struct {
		change func([]Object)
		field  string
		code   problem.Code
	}{
		"a name":             {func(o []Object) { o[0].Head().Name = "A" }, "name", problem.Form},
		"a long title":       {func(o []Object) { o[0].Head().Title = strings.Repeat("x", 256) }, "title", problem.Range},
		"two of a name":      {func(o []Object) { o[1].Head().Name = "a" }, "name", problem.Duplicate},
		"a platform":         {func(o []Object) { o[0].(*Site).Platform = "vmx" }, "platform", problem.Form},
		"an endpoint":        {func(o []Object) { o[0].(*Site).Endpoints[0] = "node1" }, "endpoints[0]", problem.Form},
		"a password":         {func(o []Object) { o[0].(*Site).Endpoints[0] = "esx://root:secret@h/" }, "endpoints[0]", problem.Form},
		"a manager":          {func(o []Object) { o[0].(*Site).Manager = "http://x" }, "manager", problem.Form},
		"one's own peer":     {func(o []Object) { o[2].(*SitePair).Peer = "a" }, "peer", problem.Contrary},
		"no fingerprint":     {func(o []Object) { o[2].(*SitePair).Fingerprint = "" }, "fingerprint", problem.Missing},
		"a fingerprint":      {func(o []Object) { o[2].(*SitePair).Fingerprint = "zz" }, "fingerprint", problem.Form},
		"a store's lock":     {func(o []Object) { o[3].(*Store).Lock = "hard" }, "lock", problem.Form},
		"no URL":             {func(o []Object) { o[3].(*Store).URL = "" }, "url", problem.Missing},
		"read only":          {func(o []Object) { o[3].(*Store).ReadOnly = true }, "stores[0]", problem.Contrary},
		"a store at home":    {func(o []Object) { o[3].(*Store).Site = "a" }, "stores[0]", problem.Contrary},
		"a host component":   {func(o []Object) { o[4].(*Appliance).Role = IOFilter }, "host", problem.Missing},
		"no DRVA":            {func(o []Object) { o[4].(*Appliance).Role = RocVA }, "appliance", problem.Contrary},
		"a DRVA elsewhere":   {func(o []Object) { o[4].(*Appliance).Site = "b" }, "appliance", problem.Contrary},
		"an unknown site":    {func(o []Object) { domain(o).To = "c" }, "to", problem.Unknown},
		"an unknown store":   {func(o []Object) { domain(o).Stores = []Name{"east"} }, "stores[0]", problem.Unknown},
		"no store":           {func(o []Object) { domain(o).Stores = nil }, "stores", problem.Missing},
		"no VMs":             {func(o []Object) { domain(o).VMs = nil }, "vms", problem.Missing},
		"a VM twice":         {func(o []Object) { domain(o).VMs = []Ref{"db", "db"} }, "vms[1]", problem.Duplicate},
		"by name and id":     {func(o []Object) { domain(o).VMs = []Ref{"db", Ref(id(1).String())} }, "vms[1]", problem.Duplicate},
		"an unknown VM":      {func(o []Object) { domain(o).VMs = []Ref{"gone"} }, "vms[0]", problem.Unknown},
		"an ambiguous VM":    {func(o []Object) { domain(o).VMs = []Ref{"twin"} }, "vms[0]", problem.Ambiguous},
		"in two domains":     {func(o []Object) { domain(o).VMs = []Ref{"mail"} }, "vms", problem.Duplicate},
		"to its own site":    {func(o []Object) { domain(o).To = "a" }, "to", problem.Contrary},
		"interval":           {func(o []Object) { domain(o).Interval = Span(time.Millisecond) }, "interval", problem.Range},
		"interval, long":     {func(o []Object) { domain(o).Interval = Span(61 * time.Second) }, "interval", problem.Range},
		"RPO target":         {func(o []Object) { domain(o).RPOTarget = Span(time.Second) }, "rpo_target", problem.Range},
		"RPO below interval": {func(o []Object) { domain(o).RPOTarget = Span(4 * time.Second) }, "rpo_target", problem.Contrary},
		"app interval":       {func(o []Object) { domain(o).AppInterval = Span(time.Second) }, "app_interval", problem.Range},
		"ack":                {func(o []Object) { domain(o).Ack = "never" }, "ack", problem.Form},
		"periodic":           {func(o []Object) { domain(o).Mode = Periodic }, "mode", problem.Form},
		"a mode":             {func(o []Object) { domain(o).Mode = "hot" }, "mode", problem.Form},
		"priority":           {func(o []Object) { domain(o).Priority = "top" }, "priority", problem.Form},
		"compression":        {func(o []Object) { domain(o).Compression = "max" }, "compression", problem.Form},
		"bandwidth":          {func(o []Object) { domain(o).Bandwidth = "fast" }, "bandwidth", problem.Form},
		"log size":           {func(o []Object) { domain(o).LogSize = 1 }, "log_size", problem.Range},
		"no history":         {func(o []Object) { domain(o).Retention.Schedule = nil }, "retention.schedule", problem.Missing},
		"short history":      {func(o []Object) { domain(o).Retention.Schedule = []Slot{{For: Span(time.Minute)}} }, "retention.schedule[0].for", problem.Range},
		"slots in disorder":  {func(o []Object) { s := domain(o).Retention.Schedule; s[0], s[1] = s[1], s[0] }, "retention.schedule[1]", problem.Contrary},
		"a floor":            {func(o []Object) { domain(o).Retention.Floor = Span(MaxHistory) }, "retention.floor", problem.Contrary},
		"alarm at nothing":   {func(o []Object) { domain(o).Retention.AlarmOnly = true }, "retention.alarm_only", problem.Contrary},
		"an empty rule":      {func(o []Object) { domain(o).Adopt = []Rule{{}} }, "adopt[0]", problem.Missing},
		"two seeds of a disk": {func(o []Object) {
			domain(o).Preseed = []DiskSeed{{"db", "disk0", "/x.raw", false}, {"db", "disk0", "/y.raw", true}}
		}, "preseed[1]", problem.Duplicate},
		"a relative seed":   {func(o []Object) { domain(o).Preseed = []DiskSeed{{"db", "disk0", "x.raw", false}} }, "preseed[0].path", problem.Form},
		"recipients":        {func(o []Object) { domain(o).Recipients = []string{"age1x", "age1x"} }, "recipients[1]", problem.Duplicate},
		"a MAC":             {func(o []Object) { o[7].(*RecoverySettings).NICs[0].MAC = "01:00:5e:00:00:01" }, "nics[0].mac", problem.Form},
		"a network address": {func(o []Object) { nics(o).Addresses = prefix("10.2.0.0/24"); nics(o).Gateways = nil }, "nics[0].live.addresses[0]", problem.Form},
		"a broadcast":       {func(o []Object) { nics(o).Addresses = prefix("10.2.0.127/25"); nics(o).Gateways = nil }, "nics[0].live.addresses[0]", problem.Form},
		"a link-local":      {func(o []Object) { nics(o).Addresses = prefix("fe80::2/64") }, "nics[0].live.addresses[0]", problem.Form},
		"v4 as v6":          {func(o []Object) { nics(o).Addresses = prefix("::ffff:10.2.0.9/120") }, "nics[0].live.addresses[0]", problem.Form},
		"a far gateway":     {func(o []Object) { nics(o).Gateways[0] = netip.MustParseAddr("10.3.0.1") }, "nics[0].live.gateways[0]", problem.Contrary},
		"own gateway":       {func(o []Object) { nics(o).Gateways[0] = netip.MustParseAddr("10.2.0.9") }, "nics[0].live.gateways[0]", problem.Contrary},
		"two gateways":      {func(o []Object) { nics(o).Gateways[1] = netip.MustParseAddr("10.2.0.2") }, "nics[0].live.gateways[1]", problem.Duplicate},
		"DHCP and fixed":    {func(o []Object) { nics(o).DHCP = true }, "nics[0].live.dhcp", problem.Contrary},
		"a DNS server":      {func(o []Object) { nics(o).DNS = []netip.Addr{{}} }, "nics[0].live.dns[0]", problem.Form},
		"an unused setting": {func(o []Object) { o[7].(*RecoverySettings).IP = IPKeep }, "nics[0].live", problem.Contrary},
	} {
		objects := set()
		c.change(objects)
		found := false
		for _, p := range check(objects, view()).All {
			found = found || p.Field == c.field && p.Code == c.code
			if p.Object == "" || p.Words == "" || p.Remedy == "" {
				t.Errorf("%s: %+v does not say enough", name, p)
			}
		}
		if !found {
			t.Errorf("%s: not told at %s as %s: %v", name, c.field, c.code, check(objects, view()).All)
		}
	}
}

func TestMembershipWithoutInventory(t *testing.T) {
	objects := set()
	objects[6].(*ProtectedDomain).VMs = []Ref{"db"}
	var l problem.List
	CheckSet(&l, objects, nil)
	if !l.Has(problem.Duplicate) {
		t.Error("a VM in two domains of a site that is not known was not noticed")
	}
}

func TestAdoption(t *testing.T) {
	v, objects := view(), set()
	mail := objects[6].(*ProtectedDomain)
	none := func(dr.VMID) bool { return false }
	if got := v.Adoptable(mail, none); len(got) != 1 || got[0].Ref != "relay" {
		t.Errorf("%v", got)
	}
	if got := v.Adoptable(mail, func(i dr.VMID) bool { return i == id(4) }); len(got) != 0 {
		t.Error("a VM of another domain is to be adopted")
	}
	for rule, want := range map[Rule]bool{{}: false, {Folder: "prod"}: true, {Folder: "prod/mail"}: true, {Folder: "pro"}: false,
		{Tag: "mail", Folder: "prod"}: true, {Tag: "erp", Folder: "prod"}: false} {
		vm, _, _ := v.VM("relay")
		if rule.Matches(vm) != want {
			t.Errorf("%+v: %t", rule, !want)
		}
	}
}

func TestInventoryIsBounded(t *testing.T) {
	inv := &Inventory{Site: "a", Networks: []Network{{Ref: "n"}, {Ref: "n"}, {}}, VMs: []VM{{ID: id(1), Ref: "x", NICs: make([]VMNIC, 40)}, {Ref: ""}, {ID: id(1), Ref: "y"}}}
	var l problem.List
	inv.Check(&l)
	if len(l.All) < 6 {
		t.Errorf("%v", l.All)
	}
	var none *View
	if vm, code, why := none.VM("x"); vm != nil || code == "" || why == "" || none.All() != nil {
		t.Error("a view of nothing has VMs")
	}
	for _, h := range []Placeholder{{Domain: "erp", VM: "x", Site: "b", Ref: "x"}, {Domain: "X", State: "odd"}} {
		var l problem.List
		h.Check(&l)
		if l.Blocked() != (h.State == "odd") {
			t.Errorf("%v", l.All)
		}
	}
}

// TestJSON: objects come back from JSON as they were.
func TestJSON(t *testing.T) {
	for _, o := range set() {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		again := map[Kind]Object{KindSite: &Site{}, KindPair: &SitePair{}, KindStore: &Store{}, KindBox: &Appliance{}, KindDomain: &ProtectedDomain{}, KindSettings: &RecoverySettings{}}[o.Kind()]
		if err := json.Unmarshal(b, again); err != nil {
			t.Fatal(err)
		}
		c, _ := json.Marshal(again)
		if string(b) != string(c) {
			t.Errorf("%s became %s", b, c)
		}
	}
}

func TestObjectsAreSortedByWhatTheyNeed(t *testing.T) {
	o := set()
	o[0], o[5], o[1] = o[5], o[1], o[0]
	SortObjects(o)
	var last int
	for _, x := range o {
		for i, k := range Kinds() {
			if k == x.Kind() {
				if i < last {
					t.Fatalf("%s comes too late", Label(x))
				}
				last = i
			}
		}
	}
	if Label(o[0]) != "site a" {
		t.Error(Label(o[0]))
	}
}
