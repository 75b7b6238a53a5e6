package plan_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// rewriteFlag is declared by the package's own test.
func rewriteFlag() bool { return flag.Lookup("rewrite").Value.String() == "true" }

// text renders a runbook for people who review it.
func text(b *plan.Runbook) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s of %s, %s to %s\n", b.Operation, b.Plan, b.From, b.To)
	groups := func(list []plan.Group) {
		for _, g := range list {
			fmt.Fprintf(&s, "== %s", g.Name)
			if g.Parallel > 0 {
				fmt.Fprintf(&s, ", %d at once", g.Parallel)
			}
			if len(g.Gate) > 0 {
				fmt.Fprintf(&s, ", gate %s", g.Gate)
			}
			s.WriteString("\n")
			for _, st := range g.Steps {
				in, _ := json.Marshal(st.Inputs)
				fmt.Fprintf(&s, "   %s %s (%s)", st.ID, st.Kind, st.Rule)
				if len(st.Needs) > 0 {
					fmt.Fprintf(&s, " needs %s", strings.Join(st.Needs, " "))
				}
				if len(st.After) > 0 {
					fmt.Fprintf(&s, " after %s", strings.Join(st.After, " "))
				}
				fmt.Fprintf(&s, "\n      %s\n      %s\n", st.Title, in)
				if u := st.Undo; u != nil {
					in, _ := json.Marshal(u.Inputs)
					fmt.Fprintf(&s, "      undo: %s %s %s\n", u.Kind, u.Title, in)
				}
			}
		}
	}
	groups(b.Groups)
	if b.Fence != "" {
		fmt.Fprintf(&s, "an error before %s is unwound\n", b.Fence)
	}
	out := s.String()
	for n := range 60 { // ids are long, and numbers tell as much
		out = strings.ReplaceAll(out, vmID(n).String(), fmt.Sprintf("#%d", n))
	}
	return out
}

var everyOperation = []plan.Operation{plan.Test, plan.Cleanup, plan.ForcedCleanup, plan.Planned, plan.Disaster, plan.ForcedDisaster,
	plan.CommitRun, plan.Rollback, plan.Reprotect, plan.ForcedReprotect, plan.Failback, plan.CleanOldSite}

func TestGoldenRunbooks(t *testing.T) {
	for _, op := range everyOperation {
		p, v := world(t)
		b, l, err := plan.Compile(p, plan.Request{Operation: op}, v)
		if err != nil {
			t.Errorf("%s: %v", op, err)
			continue
		}
		for _, x := range l.All {
			if x.Severity == problem.Blocker {
				t.Errorf("%s: %s", op, x)
			}
		}
		path := filepath.Join("testdata", string(op)+".golden")
		got := text(b)
		if rewriteFlag() {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is not %s (-rewrite writes it):\n%s", op, path, got)
		}
		again, _, _ := plan.Compile(p, plan.Request{Operation: op}, v)
		if !reflect.DeepEqual(b, again) {
			t.Errorf("%s: compiled again, it is another", op)
		}
	}
}

// TestStepsAreData: every step's inputs survive JSON, by its kind.
func TestStepsAreData(t *testing.T) {
	seen := map[plan.Kind]bool{}
	for _, op := range everyOperation {
		p, v := world(t)
		v.Standby = []site.Ref{"node9"}
		p.VMs[0].Ready = &plan.Script{Command: []string{"/bin/true"}}
		b, _, err := plan.Compile(p, plan.Request{Operation: op}, v)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range b.Groups {
			for _, s := range g.Steps {
				seen[s.Kind] = true
				raw, err := json.Marshal(s.Inputs)
				if err != nil {
					t.Fatal(err)
				}
				in, err := plan.DecodeInputs(s.Kind, s.Version, raw)
				if err != nil {
					t.Fatalf("%s: %v", s.ID, err)
				}
				back, _ := json.Marshal(in)
				if string(back) != string(raw) {
					t.Errorf("%s: %s became %s", s.ID, raw, back)
				}
				if got := reflect.ValueOf(in).Elem().Type(); got != reflect.TypeOf(s.Inputs) {
					t.Errorf("%s: inputs of %s are %s, not %T", s.ID, s.Kind, got, s.Inputs)
				}
			}
		}
	}
	if len(seen) != 31 {
		t.Errorf("%d kinds of steps were met, there are 31", len(seen))
	}
	for _, c := range []struct {
		kind    plan.Kind
		version int
		raw     string
	}{{"other", 1, "{}"}, {plan.KindFence, 2, "{}"}, {plan.KindFence, 1, `{"domian":"x"}`}, {plan.KindFence, 1, "["}} {
		if _, err := plan.DecodeInputs(c.kind, c.version, []byte(c.raw)); !errs.Is(err, errs.Invalid) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func FuzzDecodeInputs(f *testing.F) {
	f.Add("fence", 1, []byte(`{"domain":"erp"}`))
	f.Add("configure-vm", 1, []byte(`{"domain":"erp","placement":{"vm":"00000001-0000-0000-0000-000000000000","nics":[{"nic":0,"config":{"addresses":["10.2.0.1/24"]}}]}}`))
	f.Fuzz(func(t *testing.T, kind string, version int, raw []byte) {
		in, err := plan.DecodeInputs(plan.Kind(kind), version, raw)
		if err != nil {
			return
		}
		out, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := plan.DecodeInputs(plan.Kind(kind), version, out); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	})
}

func TestCompileRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*plan.Plan, *plan.View)
		code   problem.Code
		words  string
	}{
		"cycle": {func(p *plan.Plan, _ *plan.View) {
			p.VMs = append(p.VMs, plan.VM{VM: "mail", After: []site.Ref{"relay"}})
			p.VMs[3].After = []site.Ref{"mail"}
		}, plan.Cycle, "mail → relay → mail"},
		"a dependency on what starts later": {func(p *plan.Plan, _ *plan.View) { p.VMs[0].After = []site.Ref{"web"} }, plan.CrossPriority, "db (P1) starts before web (P2)"},
		"a VM of another plan":              {func(p *plan.Plan, _ *plan.View) { p.VMs = append(p.VMs, plan.VM{VM: "other"}) }, problem.Unknown, "in no domain"},
		"a VM by name and by id":            {func(p *plan.Plan, _ *plan.View) { p.VMs = append(p.VMs, plan.VM{VM: site.Ref(vmID(1).String())}) }, problem.Duplicate, "there already"},
		"a domain that is not there":        {func(p *plan.Plan, _ *plan.View) { p.Domains = append(p.Domains, "gone") }, problem.Unknown, "gone"},
		"no mappings":                       {func(_ *plan.Plan, v *plan.View) { v.Mappings = nil }, "unmapped", "no mappings"},
		"no pool":                           {func(_ *plan.Plan, v *plan.View) { v.Mappings.Pools = nil }, "unmapped", "nowhere to run"},
		"two points":                        {func(p *plan.Plan, _ *plan.View) { p.Point = plan.Point{App: true, Tag: "x"} }, problem.Contrary, "several points"},
	} {
		p, v := world(t)
		c.change(p, v)
		b, l, err := plan.Compile(p, plan.Request{Operation: plan.Planned}, v)
		if b != nil || !errs.Is(err, errs.Invalid) || !l.Has(c.code) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, %v", name, err, l.All)
		}
	}
}

// TestDisasterGoesOnWithoutSome: what would stop a migration leaves VMs out of a
// recovery from a disaster, and is told.
func TestDisasterGoesOnWithoutSome(t *testing.T) {
	p, v := world(t)
	v.Mappings.Pools = nil
	v.Settings[0].Pool = "cluster-b" // relay alone has a place
	b, l, err := plan.Compile(p, plan.Request{Operation: plan.Disaster}, v)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.LeftOut) != 4 || !l.Blocked() {
		t.Errorf("left out: %v", b.LeftOut)
	}
	if s := text(b); !strings.Contains(s, "vm/#5/configure") || strings.Contains(s, "vm/#1/configure") {
		t.Error(s)
	}
	// What is wrong with the plan itself is not passed over.
	p.Domains = append(p.Domains, "gone")
	if _, _, err := plan.Compile(p, plan.Request{Operation: plan.ForcedDisaster}, v); err == nil {
		t.Error("a plan with an unknown domain was run")
	}
}

func TestSubset(t *testing.T) {
	p, v := world(t)
	b, _, err := plan.Compile(p, plan.Request{Operation: plan.Test, VMs: []site.Ref{"web"}, Point: plan.Point{Domains: map[site.Name]uint64{"erp": 7}}}, v)
	if err != nil {
		t.Fatal(err)
	}
	s := text(b)
	if len(b.Domains) != 1 || strings.Contains(s, "vm/#1/") || !strings.Contains(s, "vm/#2/power-on") || !strings.Contains(s, `"checkpoint":7`) {
		t.Error(s)
	}
	if _, _, err := plan.Compile(p, plan.Request{Operation: plan.Test, VMs: []site.Ref{"other"}}, v); !errs.Is(err, errs.Invalid) {
		t.Errorf("a VM of no domain: %v", err)
	}
	if _, _, err := plan.Compile(p, plan.Request{Operation: plan.Cancel}, v); !errs.Is(err, errs.Invalid) {
		t.Errorf("cancel has no steps: %v", err)
	}
}

func TestThousandVMs(t *testing.T) {
	p, v := large(1000)
	began := time.Now()
	b, l, err := plan.Compile(p, plan.Request{Operation: plan.Planned}, v)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d steps in %s, %d notes", b.Steps(), time.Since(began), len(l.All))
	if b.Steps() < 6000 {
		t.Errorf("%d steps", b.Steps())
	}
	if bad := disorder(p, v, b); bad != "" {
		t.Error(bad)
	}
}

func BenchmarkCompile1000(b *testing.B) {
	p, v := large(1000)
	for b.Loop() {
		if _, _, err := plan.Compile(p, plan.Request{Operation: plan.Planned}, v); err != nil {
			b.Fatal(err)
		}
	}
}

// TestWayBack: a reprotect places VMs by the mappings of the way back, if somebody wrote
// them; those of the way there, reversed, know no pool when they have a default one.
func TestWayBack(t *testing.T) {
	p, v := world(t)
	m := *v.Mappings
	m.Pools, m.Default.Pool = nil, "there"
	v.Mappings = &m
	blocked := func() bool {
		_, l, err := plan.Compile(p, plan.Request{Operation: plan.Reprotect}, v)
		return err != nil || l.Blocked()
	}
	if !blocked() {
		t.Error("VMs have a place at the protected site that nobody named")
	}
	back := m.Reverse()
	ia, _ := inventories()
	back.Default.Pool = ia.Pools[0].Ref
	v.Back = back
	if blocked() {
		t.Error("the mappings of the way back are not used")
	}
}
