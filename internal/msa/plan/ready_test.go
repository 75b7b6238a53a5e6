package plan_test

import (
	"net/netip"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// good is what is known when all is well.
func good() *plan.Facts {
	at := plan.DomainFacts{State: plan.Protected, Newest: noon.Add(-4 * time.Second), Tested: noon.Add(-48 * time.Hour)}
	return &plan.Facts{Now: noon, Standing: plan.Begin(), PeerUp: true, LastTest: noon.Add(-48 * time.Hour), LastTestOK: true,
		Domains: map[site.Name]plan.DomainFacts{"erp": at, "mail": at}, StoresUp: map[site.Name]bool{"west": true}}
}

// perfect changes the world of testdata/erp.yaml so that nothing is to be said.
func perfect(v *plan.View) {
	v.Mappings.Networks[1].Test = "bubble"
	v.Mappings.Rules = append(v.Mappings.Rules, mapping.Rule{
		From: mapping.Subnet{Prefix: netip.MustParsePrefix("198.51.100.0/24")}, To: mapping.Subnet{Prefix: netip.MustParsePrefix("192.0.2.0/24")}})
}

func TestReadiness(t *testing.T) {
	p, v := world(t)
	perfect(v)
	r := plan.Dry(p, v, good())
	if r.Score != 100 || r.VMs != 5 || r.Steps == 0 {
		t.Fatalf("a plan of which all is well: %d, %v", r.Score, r.Problems.All)
	}
	for name, c := range map[string]struct {
		change func(*plan.Plan, *plan.View, *plan.Facts)
		code   problem.Code
		most   int // score
	}{
		"never tested":   {func(_ *plan.Plan, _ *plan.View, f *plan.Facts) { f.LastTest = time.Time{} }, plan.NeverTested, 80},
		"test failed":    {func(_ *plan.Plan, _ *plan.View, f *plan.Facts) { f.LastTestOK = false }, plan.TestFailed, 80},
		"test is old":    {func(p *plan.Plan, _ *plan.View, _ *plan.Facts) { p.TestEvery = site.Span(24 * time.Hour) }, plan.TestOld, 90},
		"no checkpoint":  {func(_ *plan.Plan, _ *plan.View, f *plan.Facts) { delete(f.Domains, "erp") }, plan.NoPoint, 49},
		"store away":     {func(_ *plan.Plan, _ *plan.View, f *plan.Facts) { f.StoresUp = nil }, plan.StoreAway, 49},
		"peer away":      {func(_ *plan.Plan, _ *plan.View, f *plan.Facts) { f.PeerUp = false }, plan.PeerAway, 95},
		"appliance away": {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) { v.Domains["erp"].Appliance = "drva1" }, plan.ApplianceAway, 90},
		"paused": {func(_ *plan.Plan, _ *plan.View, f *plan.Facts) {
			d := f.Domains["erp"]
			d.State = plan.PausedUser
			f.Domains["erp"] = d
		}, plan.NotProtected, 85},
		"rpo missed": {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) {
			v.Domains["mail"].Interval, v.Domains["mail"].RPOTarget = site.Span(time.Second), site.Span(2*time.Second)
		}, plan.RPOMissed, 95},
		"untested checkpoints": {func(_ *plan.Plan, _ *plan.View, f *plan.Facts) {
			d := f.Domains["erp"]
			d.Tested = time.Time{}
			f.Domains["erp"] = d
		}, plan.UntestedPoint, 99},
		"unmapped":          {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) { v.Mappings.Networks = v.Mappings.Networks[:1] }, mapping.Unmapped, 95},
		"no pool":           {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) { v.Mappings.Pools = nil }, mapping.Unmapped, 49},
		"no way back":       {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) { v.Mappings.Pools[0].Reverse = mapping.No }, mapping.NoReverse, 98},
		"too little memory": {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) { v.Recovery.Pools["cluster-b"].MemoryMiB = 1 }, plan.NoCapacity, 85},
		"too little room":   {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) { v.Recovery.Datastores["fast"].Free = 1 }, plan.NoCapacity, 85},
		"an unprotected disk": {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) {
			vm, _, _ := v.Protected.VM("db")
			vm.Disks[0].Protected = false
		}, plan.DiskUnprotected, 90},
		"not adopted": {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) {
			v.Domains["mail"].Adopt = []site.Rule{{Folder: "prod"}}
		}, plan.NotAdopted, 95},
		"no agent": {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) {
			vm, _, _ := v.Protected.VM("db")
			vm.Agent = false
		}, plan.NoAgent, 99},
		"placeholder": {func(_ *plan.Plan, _ *plan.View, f *plan.Facts) {
			f.Placeholders = []site.Placeholder{{Domain: "erp", Ref: "db", State: site.PlaceholderGone}}
		}, plan.PlaceholderBad, 98},
		"in a test": {func(_ *plan.Plan, _ *plan.View, f *plan.Facts) { f.Standing.State = plan.TestComplete }, plan.NotReady, 90},
		"no VMs": {func(_ *plan.Plan, v *plan.View, _ *plan.Facts) {
			v.Protected = site.NewView(&site.Inventory{Site: "a"})
		}, plan.EmptyPlan, 0},
		"a cycle": {func(p *plan.Plan, _ *plan.View, _ *plan.Facts) {
			p.VMs[2].After = []site.Ref{"web"}
		}, plan.Cycle, 49},
	} {
		p, v := world(t)
		perfect(v)
		f := good()
		c.change(p, v, f)
		r := plan.Dry(p, v, f)
		if !r.Problems.Has(c.code) || r.Score > c.most {
			t.Errorf("%s: score %d, %v", name, r.Score, r.Problems.All)
		}
		for _, x := range r.Problems.All {
			if x.Object == "" || x.Words == "" || x.Remedy == "" || x.Code == "" {
				t.Errorf("%s: %+v does not say enough", name, x)
			}
		}
	}
}

func TestConfirm(t *testing.T) {
	p := &plan.Plan{Meta: site.Meta{Name: "all", Version: 7}}
	yes := plan.Confirmation{By: "ann", Plan: "all", Version: 7, Does: plan.Planned}
	two := yes
	two.Second, two.Agreed, two.AgreedTo = "bob", noon.Add(-time.Minute), 7
	for name, c := range map[string]struct {
		op   plan.Operation
		two  bool
		conf plan.Confirmation
		want errs.Kind // Internal: it may begin
	}{
		"a test needs none":      {plan.Test, true, plan.Confirmation{}, errs.Internal},
		"nobody":                 {plan.Planned, false, plan.Confirmation{}, errs.Denied},
		"confirmed":              {plan.Planned, false, yes, errs.Internal},
		"another operation":      {plan.Disaster, false, yes, errs.Denied},
		"another plan":           {plan.Planned, false, plan.Confirmation{By: "ann", Plan: "erp", Version: 7, Does: plan.Planned}, errs.Denied},
		"an older version":       {plan.Planned, false, plan.Confirmation{By: "ann", Plan: "all", Version: 6, Does: plan.Planned}, errs.Conflict},
		"forced, unaware":        {plan.ForcedDisaster, false, plan.Confirmation{By: "ann", Plan: "all", Version: 7, Does: plan.ForcedDisaster}, errs.Denied},
		"forced, aware":          {plan.ForcedDisaster, false, plan.Confirmation{By: "ann", Plan: "all", Version: 7, Does: plan.ForcedDisaster, Alone: true}, errs.Internal},
		"no second person":       {plan.Planned, true, yes, errs.Denied},
		"two persons":            {plan.Planned, true, two, errs.Internal},
		"the same person twice":  {plan.Planned, true, func() plan.Confirmation { c := two; c.Second = "ann"; return c }(), errs.Denied},
		"agreed to another":      {plan.Planned, true, func() plan.Confirmation { c := two; c.AgreedTo = 6; return c }(), errs.Conflict},
		"agreed long ago":        {plan.Planned, true, func() plan.Confirmation { c := two; c.Agreed = noon.Add(-2 * time.Hour); return c }(), errs.Denied},
		"agreed in the future":   {plan.Planned, true, func() plan.Confirmation { c := two; c.Agreed = noon.Add(time.Minute); return c }(), errs.Denied},
		"a rollback is real too": {plan.Rollback, false, plan.Confirmation{}, errs.Denied},
	} {
		p.TwoPersons = c.two
		err := p.Confirm(c.op, &c.conf, noon)
		if (err == nil) != (c.want == errs.Internal) || err != nil && (!errs.Is(err, c.want) || errs.RemedyOf(err) == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p.Confirm(plan.Planned, nil, noon) == nil {
		t.Error("no confirmation at all")
	}
}

// TestPlanCheck: every mistake is told, each at its field.
func TestPlanCheck(t *testing.T) {
	wait := func(d time.Duration) *site.Span { s := site.Span(d); return &s }
	p := &plan.Plan{
		Meta: site.Meta{Name: "Bad Name"}, From: "a", To: "a", Disks: "half", MaxBoots: -1, TestEvery: site.Span(time.Hour),
		Commit: plan.Commit{Policy: plan.CommitAuto, After: site.Span(time.Second)}, Domains: []site.Name{"d", "d"},
		VMs: []plan.VM{{VM: "x", Priority: 6, After: []site.Ref{"x"}, Agent: wait(time.Hour), Port: &plan.WaitPort{Port: 0}, Delay: site.Span(2 * time.Hour),
			Stop: plan.Stop{Timeout: wait(-time.Second)}, Start: "maybe",
			Pre:  []plan.Callout{{Name: "a", Run: plan.InGuest, Script: plan.Script{Command: []string{"x"}}, At: plan.Place{Before: plan.PhaseP1}}},
			Post: []plan.Callout{{Name: "b", Run: "moon", Script: plan.Script{Command: []string{"x"}, Timeout: wait(60000 * time.Second), Env: map[string]string{"HOLDFAST_X": "", "1": ""}}}}}},
		Callouts: []plan.Callout{
			{Name: "", Run: plan.Prompt, At: plan.Place{Before: plan.PhaseDiscard}, Only: []plan.Operation{plan.Cleanup, "other"}},
			{Name: "c", Run: plan.OnAppliance, At: plan.Place{Before: "nowhere"}},
			{Name: "d", Run: plan.InGuest, At: plan.Place{After: plan.PhaseSync}, Script: plan.Script{Command: []string{"x"}}},
			{Name: "e", Run: plan.OnManager, Ask: "what?", Script: plan.Script{Command: []string{"x"}}},
		},
		Suspend: []site.Ref{"", "y", "y"}, TestNetworks: []plan.TestNetwork{{}},
	}
	var l problem.List
	p.Check(&l)
	fields := map[string]bool{}
	for _, x := range l.All {
		fields[x.Field] = true
		if x.Remedy == "" || x.Object == "" {
			t.Errorf("%+v does not say enough", x)
		}
	}
	for _, f := range []string{"name", "", "disks", "max_boots", "test_every", "commit.after", "domains[1]", "vms[0].priority", "vms[0].after[0]",
		"vms[0].agent", "vms[0].port.port", "vms[0].port.timeout", "vms[0].delay", "vms[0].stop.timeout", "vms[0].start", "vms[0].pre[0].run", "vms[0].pre[0].at",
		"vms[0].post[0].run", "vms[0].post[0].timeout", "vms[0].post[0].env", "callouts[0].name", "callouts[0].ask", "callouts[0].only[1]", "callouts[0].run",
		"callouts[1].appliance", "callouts[1].command", "callouts[1].at", "callouts[2].vm", "callouts[2].at", "callouts[3].at", "callouts[3].ask",
		"suspend[0]", "suspend[2]", "test_networks[0].from"} {
		if !fields[f] {
			t.Errorf("%q: nothing is said", f)
		}
	}
	if err := l.Err("test"); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Error(err)
	}
}

// TestTimesAtTheirBounds: the least and most that the ranges allow are let pass.
func TestTimesAtTheirBounds(t *testing.T) {
	for _, d := range []time.Duration{0, plan.MaxWait} {
		for _, s := range []time.Duration{0, plan.MaxTimeout} {
			wait, limit := site.Span(d), site.Span(s)
			p := &plan.Plan{Meta: site.Meta{Name: "p"}, From: "a", To: "b", Domains: []site.Name{"d"},
				VMs: []plan.VM{{VM: "x", Agent: &wait, Delay: wait, Stop: plan.Stop{Timeout: &wait},
					Post: []plan.Callout{{Name: "s", Run: plan.InGuest, Script: plan.Script{Command: []string{"x"}, Timeout: &limit}}}}}}
			var l problem.List
			p.Check(&l)
			if len(l.All) > 0 {
				t.Errorf("%s, %s: %v", d, s, l.All)
			}
		}
	}
}
