package file

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

const head = "apiVersion: holdfast/v1\n"

// TestErrorsNameTheLine: each mistake is told with its line, its field and what to
// do, and all at once.
func TestErrorsNameTheLine(t *testing.T) {
	for name, c := range map[string]struct{ text, line, words string }{
		"an unknown field":    {head + "kind: domain\nname: erp\nstroes: [x]\n", "f:4", "did you mean stores?"},
		"far from any":        {head + "kind: store\nname: erp\nqqqqqq: 1\n", "f:4", "the fields are name"},
		"deeper":              {head + "kind: plan\nname: p\nvms:\n- vm: a\n  port: {prt: 1}\n", "f:6", "vms[0].port.prt"},
		"a field twice":       {head + "kind: site\nname: a\nname: b\n", "f:4", "already, in line 3"},
		"no version":          {"kind: site\nname: a\n", "f:1", "write apiVersion"},
		"another version":     {"apiVersion: v2\nkind: site\n", "f:1", "write apiVersion"},
		"no kind":             {head + "name: a\n", "f:1", "one of site, site-pair"},
		"another kind":        {head + "kind: vm\n", "f:2", "one of site, site-pair"},
		"second document":     {head + "kind: site\nname: a\n---\n" + head + "kind: site\nx: 1\n", "f:7", "no such field"},
		"a list":              {"- a\n", "f:1", "it is no map"},
		"a list for a map":    {head + "kind: domain\nretention: [1]\n", "f:3", "it is no map"},
		"a map for a list":    {head + "kind: domain\nvms: {a: b}\n", "f:3", "it is no list"},
		"a list for a word":   {head + "kind: site\nname: [a]\n", "f:3", "write one value"},
		"a word for a number": {head + "kind: site\nmax_boots: many\n", "f:3", "whole number"},
		"a broken number":     {head + "kind: site\nmax_boots: 1.5\n", "f:3", "whole number"},
		"a huge number":       {head + "kind: site\nmax_boots: 99999999999999999999\n", "f:3", "whole number"},
		"yes":                 {head + "kind: store\nread_only: yes\n", "f:3", "write true or false"},
		"a duration":          {head + "kind: domain\ninterval: 5 s\n", "f:3", "not a duration"},
		"an address":          {head + "kind: recovery-settings\nnics:\n- live:\n    addresses:\n    - 10.2.0.300/24\n", "f:6", "nics[0].live.addresses[0]"},
		"an anchor":           {head + "kind: site\nname: &x a\ntitle: *x\n", "f:3", "write it out"},
		"a merge":             {head + "kind: site\n<<: {name: a}\n", "f:3", "a field's name is a word"},
		"a tag":               {head + "kind: site\nname: !!binary YQ==\n", "f:3", "remove it"},
		"broken YAML":         {head + "kind: [\n", "f", "correct the YAML"},
		"a key that is a map": {head + "kind: site\n{a: b}: c\n", "f:3", "a field's name is a word"},
	} {
		o, l, err := Parse("f", []byte(c.text))
		if o != nil || !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, %v", name, o, err)
			continue
		}
		p := l.All[0]
		if p.Object != c.line || !strings.Contains(p.Field+" "+p.Words+" "+p.Remedy, c.words) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	_, l, _ := Parse("f", []byte(head+"kind: site\na: 1\nb: 2\n---\n"+head+"kind: store\nc: 3\n"))
	if len(l.All) != 3 {
		t.Errorf("of three mistakes, %d are told: %v", len(l.All), l.All)
	}
}

func TestBounds(t *testing.T) {
	if _, _, err := Parse("f", make([]byte, MaxBytes+1)); !errs.Is(err, errs.Full) {
		t.Errorf("%v", err)
	}
	if _, _, err := Parse("f", []byte(strings.Repeat("---\n", MaxDocuments+2))); !errs.Is(err, errs.Full) {
		t.Errorf("%v", err)
	}
	deep := head + "kind: plan\nvms: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n"
	if _, _, err := Parse("f", []byte(deep)); !errs.Is(err, errs.Invalid) {
		t.Errorf("%v", err)
	}
	many := head + "kind: site\n" + strings.Repeat("x: 1\n", 5000)
	if _, l, _ := Parse("f", []byte(many)); len(l.All) > MaxFaults || l.More == 0 {
		t.Errorf("%d mistakes are told, %d are counted", len(l.All), l.More)
	}
	for _, nothing := range []string{"", "---\n", "# only a comment\n", "null\n"} {
		if o, _, err := Parse("f", []byte(nothing)); err != nil || len(o) != 0 {
			t.Errorf("%q: %v, %v", nothing, o, err)
		}
	}
}

// example is the plan package's example, which uses every kind but two.
func example(t testing.TB) []site.Object {
	t.Helper()
	b, err := os.ReadFile("../plan/testdata/erp.yaml")
	if err != nil {
		t.Fatal(err)
	}
	o, _, err := Parse("erp.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// noDiff applies what is exported, and returns what would change.
func noDiff(objects []site.Object) (string, error) {
	text, err := Export(objects)
	if err != nil {
		return "", err
	}
	again, _, err := Parse("export", text)
	if err != nil {
		return "", fmt.Errorf("%w in:\n%s", err, text)
	}
	c, err := Diff(objects, again, true)
	if err != nil {
		return "", err
	}
	if len(c.All) > 0 || c.Unchanged != len(objects) {
		var b strings.Builder
		_ = c.Print(&b)
		return b.String() + string(text), nil
	}
	second, err := Export(again)
	if err == nil && !bytes.Equal(text, second) {
		return "exported again, it is another file:\n" + string(second), nil
	}
	return "", err
}

func TestExampleRoundTrips(t *testing.T) {
	if diff, err := noDiff(example(t)); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestJSONIsYAML(t *testing.T) {
	for _, o := range example(t) {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		text := append([]byte(`{"apiVersion":"holdfast/v1","kind":"`+string(o.Kind())+`",`), b[1:]...)
		again, _, err := Parse("json", text)
		if err != nil || !reflect.DeepEqual(again[0], o) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func span(r *rapid.T, name string) site.Span {
	return site.Span(rapid.Int64Range(0, 40*24*3600).Draw(r, name)) * site.Span(time.Second)
}

// word draws text that people may write, also what YAML might take for something
// else.
func draw(r *rapid.T, name string) string {
	return rapid.OneOf(rapid.SampledFrom([]string{"", "true", "null", "~", "1", "1.5", "0x1", "on", "- a", "a: b", "# x", "'", `"`, "a\nb", "\t", " a ", "2026-01-01", "<<", "&a", "*a", "!x", "{a", "[", "%", "@", "`", "é", "…", "\u2028", "\u0085", "\ufeff", "=", "|", ">"}), rapid.String()).Draw(r, name)
}

func ref(r *rapid.T, name string) site.Ref { return site.Ref(draw(r, name)) }

func addresses(r *rapid.T) (list []netip.Prefix) {
	for range rapid.IntRange(0, 2).Draw(r, "addresses") {
		var b [16]byte
		copy(b[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(r, "address"))
		list = append(list, netip.PrefixFrom(netip.AddrFrom16(b).Unmap(), rapid.IntRange(0, 32).Draw(r, "bits")))
	}
	return list
}

func callout(r *rapid.T) plan.Callout {
	o := plan.Callout{Name: draw(r, "name"), Run: plan.Run(draw(r, "run")), Ask: draw(r, "ask"), Fatal: rapid.Bool().Draw(r, "fatal"),
		At: plan.Place{Before: plan.Phase(draw(r, "before"))}}
	o.Command = rapid.SliceOfN(rapid.String(), 0, 3).Draw(r, "command")
	if rapid.Bool().Draw(r, "env") {
		o.Env = map[string]string{"A": draw(r, "value"), draw(r, "key"): ""}
	}
	if rapid.Bool().Draw(r, "timed") {
		s := span(r, "timeout")
		o.Timeout = &s
	}
	return o
}

// objects draws one object of each kind, valid or not: what can be stored can be
// written and read.
func objects(r *rapid.T) []site.Object {
	meta := func(n string) site.Meta {
		return site.Meta{Name: site.Name(n), Version: site.Version(rapid.IntRange(0, 9).Draw(r, "version")), ID: dr.UUID{byte(rapid.IntRange(0, 1).Draw(r, "id"))}, Title: draw(r, "title"), Folder: ref(r, "folder")}
	}
	p := &plan.Plan{Meta: meta("p"), From: "a", To: "b", Description: draw(r, "description"), Commit: plan.Commit{After: span(r, "after")}, MaxBoots: rapid.IntRange(-1, 5).Draw(r, "boots")}
	for range rapid.IntRange(0, 3).Draw(r, "vms") {
		v := plan.VM{VM: ref(r, "vm"), Priority: rapid.IntRange(0, 6).Draw(r, "priority"), Delay: span(r, "delay"), Start: plan.Start(draw(r, "start"))}
		if rapid.Bool().Draw(r, "agent") {
			s := span(r, "agent")
			v.Agent, v.Ready = &s, &plan.Script{Command: []string{draw(r, "word")}}
			v.Port = &plan.WaitPort{Port: rapid.Int().Draw(r, "port")}
		}
		v.Post = append(v.Post, callout(r))
		p.VMs = append(p.VMs, v)
	}
	p.Callouts = append(p.Callouts, callout(r))
	if rapid.Bool().Draw(r, "point") {
		p.Point = plan.Point{At: time.Unix(rapid.Int64Range(0, 1<<33).Draw(r, "at"), 0).UTC(), Domains: map[site.Name]uint64{"x": rapid.Uint64().Draw(r, "checkpoint")}}
	}
	m := &mapping.Mappings{Meta: meta("m"), From: "a", To: "b", Networks: []mapping.NetworkPair{{From: ref(r, "from"), To: ref(r, "to")}}, Default: mapping.Default{Refuse: rapid.Bool().Draw(r, "refuse")}}
	if list := addresses(r); len(list) > 0 {
		m.Rules = append(m.Rules, mapping.Rule{From: mapping.Subnet{Prefix: list[0], DNS: []netip.Addr{list[0].Addr()}}})
	}
	d := &site.ProtectedDomain{Meta: meta("d"), From: "a", LogSize: rapid.Int64().Draw(r, "size"), Interval: span(r, "interval"), Suspended: rapid.Bool().Draw(r, "suspended")}
	d.Adopt = []site.Rule{{Tag: draw(r, "tag")}}
	d.VMs = []site.Ref{ref(r, "member"), ref(r, "member")}
	d.Retention.Schedule = []site.Slot{{Every: span(r, "every"), For: span(r, "for")}}
	s := &site.RecoverySettings{Meta: meta("s"), VM: ref(r, "vm"), NICs: []site.NICSettings{{NIC: 1, Live: site.NICConfig{Addresses: addresses(r)}}}}
	return []site.Object{
		p, m, d, s, &site.Site{Meta: meta("a"), Endpoints: []string{draw(r, "endpoint")}}, &site.Store{Meta: meta("w"), URL: draw(r, "url")},
		&site.Appliance{Meta: meta("v"), LogPool: rapid.Int64().Draw(r, "pool")}, &site.SitePair{Meta: meta("ab"), Fingerprint: draw(r, "print")},
	}
}

// TestExportRoundTrips: to apply what was exported changes nothing, whatever is
// configured.
func TestExportRoundTrips(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		diff, err := noDiff(objects(r))
		if diff != "" || err != nil {
			r.Fatal(diff, err)
		}
	})
}

// TestApplyIsIdempotent: applied once, a file has nothing more to change, and what
// it does is what it says.
func TestApplyIsIdempotent(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		current, wanted := objects(r), objects(r)
		for _, o := range wanted {
			o.Head().Version = 0
		}
		current = current[:rapid.IntRange(0, len(current)).Draw(r, "current")]
		wanted = wanted[:rapid.IntRange(0, len(wanted)).Draw(r, "wanted")]
		prune := rapid.Bool().Draw(r, "prune")
		c, err := Diff(current, wanted, prune)
		if err != nil {
			r.Fatal(err)
		}
		after := Apply(current, c, dr.NewUUID)
		for _, ch := range c.All {
			if ch.Action == Change && len(ch.Fields) == 0 {
				r.Fatal("a change that changes nothing")
			}
		}
		again, err := Diff(after, wanted, prune)
		if err != nil || len(again.All) > 0 {
			var b strings.Builder
			_ = again.Print(&b)
			r.Fatal(b.String(), err)
		}
	})
}

// TestRoundTripCatches: a writer that forgets something is caught.
func TestRoundTripCatches(t *testing.T) {
	o := example(t)
	text, err := Export(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, forget := range []string{"delay: 30s", "critical: true", "dns: [10.1.0.2]", "timeout: 0s", "start: \"off\""} {
		if !bytes.Contains(text, []byte(forget)) {
			t.Fatalf("%q is not in:\n%s", forget, text)
		}
		again, _, err := Parse("f", bytes.Replace(text, []byte(forget), nil, 1))
		if err != nil {
			// What is left may be no YAML; that is caught, too.
			continue
		}
		c, err := Diff(o, again, true)
		if err != nil || len(c.All) != 1 {
			t.Errorf("without %q: %v, %v", forget, c, err)
		}
	}
}

func TestDiffForPeople(t *testing.T) {
	current, wanted := example(t), example(t)
	for i, o := range current {
		o.Head().ID, o.Head().Version = dr.NewUUID(), site.Version(i+1)
	}
	p := wanted[len(wanted)-1].(*plan.Plan)
	p.VMs[0].Port.Port = 5433
	p.VMs[1], p.VMs[2] = p.VMs[2], p.VMs[1]
	p.VMs = p.VMs[:3]
	p.Suspend = append(p.Suspend, "other")
	p.Callouts[0].Env = nil
	wanted = append(wanted[1:], &site.Store{Meta: site.Meta{Name: "east"}, URL: "s3://east/dr"})
	c, err := Diff(current, wanted, true)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	const want = `- site a
+ store east
    + name: east
    + url: s3://east/dr
~ plan all
    ~ vms[db].port.port: 5432 → 5433
    - vms[relay].vm: relay
    - vms[relay].start: off
    ~ vms order: vms[db], vms[web], vms[batch], vms[relay] → vms[db], vms[batch], vms[web]
    - callouts[dns].env.ZONE: example.com
    ~ suspend: [lab] → [lab, other]
1 to create, 1 to change, 1 to delete, 6 as they are
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	raw, err := json.Marshal(c)
	if err != nil || !strings.Contains(string(raw), `{"field":"vms[db].port.port","old":"5432","new":"5433"}`) {
		t.Errorf("%s, %v", raw, err)
	}
	if c, _ := Diff(current, wanted, false); len(c.All) != 2 {
		t.Errorf("without prune: %v", c.All)
	}
}

func TestVersionsAndDoubles(t *testing.T) {
	old := &site.Site{Meta: site.Meta{Name: "a", Version: 3, ID: dr.NewUUID()}, Platform: site.QEMU}
	for version, ok := range map[site.Version]bool{0: true, 3: true, 2: false} {
		o := &site.Site{Meta: site.Meta{Name: "a", Version: version}, Platform: site.Fake}
		c, err := Diff([]site.Object{old}, []site.Object{o}, false)
		if ok && (err != nil || c.All[0].Version != 3 || c.All[0].ID != old.ID) || !ok && !errs.Is(err, errs.Conflict) {
			t.Errorf("version %d: %v", version, err)
		}
	}
	if _, err := Diff(nil, []site.Object{old, old}, false); !errs.Is(err, errs.Invalid) {
		t.Errorf("%v", err)
	}
	bad := &plan.Plan{Meta: site.Meta{Name: "p"}, Point: plan.Point{At: time.Date(99999, 1, 1, 0, 0, 0, 0, time.UTC)}}
	if _, err := Export([]site.Object{bad}); !errs.Is(err, errs.Invalid) {
		t.Errorf("%v", err)
	}
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile("../plan/testdata/erp.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(head + "kind: site\nname: &a [*a]\n"))
	f.Add([]byte("{\"apiVersion\": \"holdfast/v1\", \"kind\": \"plan\", \"point\": {\"domains\": {\"a\": 1}}}"))
	f.Add([]byte("? - a\n: b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, _, err := Parse("f", b)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, x := range o {
			if seen[site.Label(x)] {
				return // described twice: Diff refuses it
			}
			seen[site.Label(x)] = true
		}
		if diff, err := noDiff(o); diff != "" || err != nil {
			t.Fatal(diff, err)
		}
	})
}
