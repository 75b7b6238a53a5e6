package plan

import (
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// View is the world as a run finds it, in the run's direction: when the plan is
// reversed, Protected is the site its domains were recovered to; VMs are there
// under the names, or ids, by which domains and plan know them.
type View struct {
	Domains   map[site.Name]*site.ProtectedDomain
	Protected *site.View // as it is, or as it was last seen
	Recovery  *site.View // nil: not known, nothing is checked to exist
	// Site is the recovery site's own object; nil: defaults.
	Site     *site.Site
	Standby  []site.Ref        // hosts of the recovery site that sleep
	Mappings *mapping.Mappings // from Protected to Recovery
	Back     *mapping.Mappings // from Recovery to Protected; nil: Mappings, reversed
	Settings []*site.RecoverySettings
}

// Request says what is asked of a plan this time.
type Request struct {
	Operation Operation
	Point     Point      // zero: the plan's
	VMs       []site.Ref // only these, and domains that have one; empty: all
}

// compiler is one compilation.
type compiler struct {
	p       *Plan
	req     *Request
	v       *View
	story   *Story
	book    *Runbook
	members []*member
	groups  [Priorities][]*member
	places  map[*member]*mapping.Placement
	use     mapping.Use
	point   Point
}

// Compile makes the runbook of an operation. Problems are all that was found; if
// a blocker is among them the runbook is nil, with one exception: a recovery from
// a disaster goes on without the VMs that have no place, which it lists as left
// out. Kinds of errors: Invalid.
func Compile(p *Plan, req Request, v *View) (*Runbook, problem.List, error) {
	const op = "plan.Compile"
	var l problem.List
	story, ok := StoryOf(req.Operation)
	if !ok {
		return nil, l, errs.New(op, errs.Invalid, string(req.Operation), "this operation has no steps")
	}
	p.Check(&l)
	c := &compiler{p: p, req: &req, v: v, story: story, places: map[*member]*mapping.Placement{}, use: mapping.Live, point: req.Point}
	if req.Operation == Test {
		c.use = mapping.Test
	}
	if c.point.IsZero() {
		c.point = p.Point
	}
	c.point.check(problem.For(&l, site.Label(p)).At("point"))
	c.members = p.members(v, &l)
	c.subset(&l)
	c.groups = byPriority(c.members, problem.For(&l, site.Label(p)))
	c.book = &Runbook{Plan: p.Name, Version: p.Version, Operation: req.Operation, Domains: c.domains(), Commit: p.Commit}
	c.book.From, c.book.To = v.sites(p)
	blocked := l.Blocked()
	c.place(&l)
	if blocked || l.Blocked() && !c.tolerant() {
		return nil, l, l.Err(op)
	}
	c.build()
	return c.book, l, nil
}

// sites are those of a run in the view's direction.
func (v *View) sites(p *Plan) (from, to site.Name) {
	switch {
	case v.Mappings != nil:
		return v.Mappings.From, v.Mappings.To
	case v.Protected != nil && v.Protected.Site == p.To:
		return p.To, p.From
	}
	return p.From, p.To
}

// tolerant reports whether the operation goes on without VMs that have no place.
func (c *compiler) tolerant() bool {
	return c.req.Operation == Disaster || c.req.Operation == ForcedDisaster || c.req.Operation == ForcedReprotect
}

// subset leaves only the VMs that were asked for.
func (c *compiler) subset(l *problem.List) {
	if len(c.req.VMs) == 0 {
		return
	}
	want := map[dr.VMID]bool{}
	at := problem.For(l, site.Label(c.p))
	for i, ref := range c.req.VMs {
		vm, code, why := c.v.Protected.VM(ref)
		if vm == nil || !slices.ContainsFunc(c.members, func(m *member) bool { return m.vm.ID == vm.ID }) {
			if code == "" {
				code, why = problem.Unknown, fmt.Sprintf("VM %s is in no domain of the plan", ref)
			}
			at.Index("request.vms", i).Block(code, why, "name VMs of the plan")
			continue
		}
		want[vm.ID] = true
	}
	c.members = slices.DeleteFunc(c.members, func(m *member) bool { return !want[m.vm.ID] })
	for _, m := range c.members {
		m.after = slices.DeleteFunc(m.after, func(o *member) bool { return !want[o.vm.ID] })
	}
}

// domains are those of the plan that have a VM in the run, in the plan's order.
func (c *compiler) domains() (names []site.Name) {
	for _, d := range c.p.Domains {
		if len(c.req.VMs) == 0 || slices.ContainsFunc(c.members, func(m *member) bool { return m.domain == d }) {
			names = append(names, d)
		}
	}
	return names
}

// place finds where each VM goes, if the operation starts VMs or makes
// placeholders.
func (c *compiler) place(l *problem.List) {
	back := c.story.has(PhasePlaceholders)
	if !c.story.has(PhaseP1) && !back {
		return
	}
	m := c.v.Mappings
	if m == nil {
		problem.For(l, site.Label(c.p)).At("mappings").Block(mapping.Unmapped, "there are no mappings between the two sites", "make mappings, and name them in the plan")
		return
	}
	from, to := c.v.Protected, c.v.Recovery
	var there *mapping.Resolver
	if back {
		there = mapping.NewResolver(m, from, to, c.v.Settings, &problem.List{})
		if from, to = c.v.Recovery, c.v.Protected; c.v.Back != nil {
			m = c.v.Back
		} else {
			m = m.Reverse()
		}
	}
	if len(c.p.TestNetworks) > 0 && c.use == mapping.Test {
		m = c.p.withTestNetworks(m)
	}
	r := mapping.NewResolver(m, from, to, c.v.Settings, l)
	for _, mem := range c.members {
		var found problem.List
		p := r.Resolve(c.stands(mem, there), c.use, problem.For(&found, "VM "+string(mem.vm.Ref)))
		if found.Blocked() && c.tolerant() {
			c.book.LeftOut = append(c.book.LeftOut, LeftOut{mem.vm.Ref, found.All[0].String()})
		} else {
			c.places[mem] = &p
		}
		l.Merge(found)
	}
}

// stands is the VM as the mappings see it: of the way back, as it is at the
// recovery site now or, if that is not known, as the mappings put it there.
func (c *compiler) stands(m *member, there *mapping.Resolver) *site.VM {
	if there == nil {
		return m.vm
	}
	if vm, _, _ := c.v.Recovery.VM(site.Ref(m.vm.ID.String())); vm != nil {
		return vm
	}
	p := there.Resolve(m.vm, mapping.Live, problem.For(&problem.List{}, ""))
	vm := site.VM{ID: m.vm.ID, Ref: p.Name, Folder: p.Folder, Pool: p.Pool, Policy: p.Policy, CPUs: p.CPUs, MemoryMiB: p.MemoryMiB}
	for _, n := range p.NICs {
		vm.NICs = append(vm.NICs, site.VMNIC{MAC: n.MAC, Network: n.Network, Addresses: n.Config.Addresses})
	}
	return &vm
}

// withTestNetworks returns mappings in which the plan's own test networks hold.
func (p *Plan) withTestNetworks(m *mapping.Mappings) *mapping.Mappings {
	n := *m
	n.Networks = slices.Clone(m.Networks)
	for _, t := range p.TestNetworks {
		i := slices.IndexFunc(n.Networks, func(x mapping.NetworkPair) bool { return x.From == t.From })
		if i < 0 {
			n.Networks = append(n.Networks, mapping.NetworkPair{From: t.From, Test: t.To, Reverse: mapping.No})
			continue
		}
		n.Networks[i].Test = t.To
	}
	return &n
}

// boots is how many VMs are started at once.
func (c *compiler) boots() int {
	switch {
	case c.p.MaxBoots > 0:
		return c.p.MaxBoots
	case c.v.Site != nil:
		return c.v.Site.Boots()
	}
	return site.DefaultBoots
}

// build makes the groups of each phase of the story, with the callouts around it.
func (c *compiler) build() {
	for _, row := range c.story.Rows {
		c.callouts(Place{Before: row.Phase}, row)
		if row.Phase == c.story.Fence {
			c.book.Fence = string(row.Phase)
		}
		c.phase(row)
		c.callouts(Place{After: row.Phase}, row)
	}
}

// add adds a group, unless it is empty.
func (c *compiler) add(row Row, name string, parallel int, steps []Step) {
	if len(steps) == 0 {
		return
	}
	g := Group{Name: name, Phase: row.Phase, Title: row.Words, Parallel: parallel, Steps: steps}
	if slices.Contains(starts[:], row.Phase) {
		for _, m := range c.groups[slices.Index(starts[:], row.Phase)] {
			if m.set != nil && m.set.Critical {
				g.Gate = append(g.Gate, m.vm.ID)
			}
		}
	}
	c.book.Groups = append(c.book.Groups, g)
}

// callouts adds the plan's scripts and prompts at a place, one after the other.
func (c *compiler) callouts(at Place, row Row) {
	var steps []Step
	for i := range c.p.Callouts {
		o := &c.p.Callouts[i]
		if o.At != at || !o.holds(c.req.Operation) || o.Run == Prompt && !c.story.Prompts {
			continue
		}
		s := c.callout(o, nil)
		s.ID, s.Rule = fmt.Sprintf("%s/%d", at, i), RuleBestEffort
		if o.Fatal {
			s.Rule = RuleStop
		}
		if len(steps) > 0 {
			s.After = []string{steps[len(steps)-1].ID}
		}
		steps = append(steps, s)
	}
	c.add(row, at.String(), 1, steps)
}

// String renders "before p1".
func (p Place) String() string {
	if p.Before != "" {
		return "before " + string(p.Before)
	}
	return "after " + string(p.After)
}

// holds reports whether a callout is done in an operation. A forced operation is
// the same as the one it forces.
func (o *Callout) holds(op Operation) bool {
	plain := map[Operation]Operation{ForcedCleanup: Cleanup, ForcedDisaster: Disaster, ForcedReprotect: Reprotect}
	return len(o.Only) == 0 || slices.Contains(o.Only, op) || slices.Contains(o.Only, plain[op])
}

// callout makes the step of a script or prompt; vm is nil at a phase.
func (c *compiler) callout(o *Callout, vm *VMInputs) Step {
	if o.Run == Prompt {
		return Step{Kind: KindPrompt, Version: StepVersion, Title: o.Name, Inputs: PromptInputs{o.Name, o.Ask, vm}}
	}
	in := ScriptInputs{Name: o.Name, Run: o.Run, Command: o.Command, Env: o.Env, Limit: o.Limit(), Box: o.Box, VM: vm}
	if vm == nil && o.Run == InGuest {
		if found, _, _ := c.v.Protected.VM(o.VM); found != nil {
			in.VM = &VMInputs{VM: found.ID, Name: found.Ref, Site: c.book.To, Test: c.req.Operation == Test}
		}
	}
	return Step{Kind: KindScript, Version: StepVersion, Title: o.Name, Inputs: in}
}

// IsZero reports whether nothing is said: the newest checkpoint.
func (p Point) IsZero() bool { return !p.App && p.At.IsZero() && p.Tag == "" && len(p.Domains) == 0 }
