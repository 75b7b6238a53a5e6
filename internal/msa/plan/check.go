package plan

import (
	"fmt"
	"slices"
	"time"

	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/timetable"
)

// Check adds every problem the plan has by itself. What needs inventories and
// mappings is found by Compile and Dry.
func (p *Plan) Check(l *problem.List) {
	c := site.CheckHead(l, p)
	c.Lines("description", p.Description, site.MaxText)
	if !p.From.Valid() || !p.To.Valid() || p.From == p.To {
		c.Block(problem.Missing, "a plan is from one site to another", "name two sites, in from and to")
	}
	c.Count("domains", len(p.Domains), MaxDomains)
	if len(p.Domains) == 0 {
		c.At("domains").Block(problem.Missing, "the plan recovers nothing", "name a domain")
	}
	problem.Unique(c, "domains", p.Domains, func(n site.Name) string { return string(n) })
	c.Count("vms", len(p.VMs), MaxVMs)
	problem.Unique(c, "vms", p.VMs, func(v VM) string { return string(v.VM) })
	for i := range p.VMs {
		p.VMs[i].check(c.Index("vms", i))
	}
	c.Count("callouts", len(p.Callouts), MaxCallouts)
	for i := range p.Callouts {
		p.Callouts[i].checkAtPhase(c.Index("callouts", i))
	}
	p.checkLists(c)
	p.Point.check(c.At("point"))
	problem.OneOf(c, "disks", p.Disks, DisksInstant, DisksFull, DisksWarm)
	p.Commit.check(c.At("commit"))
	problem.Within(c, "max_boots", p.MaxBoots, 0, MaxBoots)
	site.WithinSpan(c, "test_every", p.TestEvery, 24*time.Hour, 366*24*time.Hour, true)
	if _, err := timetable.Parse(p.TestAt); err != nil {
		c.At("test_at").Block(problem.Form, err.Error(), "write days and a time: sat 02:30")
	}
	site.WithinSpan(c, "test_keep", p.TestKeep, time.Minute, 7*24*time.Hour, true)
	if p.TestKeep != 0 && p.TestAt == "" {
		c.At("test_keep").Block(problem.Contrary, "no test begins by itself", "give test_at, or leave it out")
	}
}

func (p *Plan) checkLists(c problem.Checker) {
	c.Count("suspend", len(p.Suspend), MaxSuspended)
	for i, r := range p.Suspend {
		c.NeedText(fmt.Sprintf("suspend[%d]", i), string(r), site.MaxRef)
	}
	problem.Unique(c, "suspend", p.Suspend, func(r site.Ref) string { return string(r) })
	c.Count("test_networks", len(p.TestNetworks), MaxNetworks)
	problem.Unique(c, "test_networks", p.TestNetworks, func(t TestNetwork) string { return string(t.From) })
	for i, t := range p.TestNetworks {
		c.Index("test_networks", i).NeedText("from", string(t.From), site.MaxRef)
		c.Index("test_networks", i).Text("to", string(t.To), site.MaxRef)
	}
}

func (p *Point) check(c problem.Checker) {
	n := 0
	for _, given := range []bool{p.App, !p.At.IsZero(), p.Tag != "", len(p.Domains) > 0} {
		if given {
			n++
		}
	}
	if n > 1 {
		c.Block(problem.Contrary, "several points are named", "give one of app, at, tag and domains")
	}
	c.Text("tag", p.Tag, site.MaxRef)
	c.Count("domains", len(p.Domains), MaxDomains)
}

func (m *Commit) check(c problem.Checker) {
	problem.OneOf(c, "policy", m.Policy, CommitByHand, CommitAuto, CommitRollback)
	switch {
	case m.Policy == CommitByHand && m.After != 0:
		c.At("after").Block(problem.Contrary, "nothing is decided by itself", "give a policy, or leave after out")
	case m.Policy != CommitByHand:
		site.WithinSpan(c, "after", m.After, MinCommit, MaxCommit, false)
	}
}

func (v *VM) check(c problem.Checker) {
	c.NeedText("vm", string(v.VM), site.MaxRef)
	problem.Within(c, "priority", v.Priority, 0, Priorities)
	problem.OneOf(c, "start", v.Start, PowerOn, StayDown)
	c.Count("after", len(v.After), MaxDepends)
	problem.Unique(c, "after", v.After, func(r site.Ref) string { return string(r) })
	for i, r := range v.After {
		c.NeedText(fmt.Sprintf("after[%d]", i), string(r), site.MaxRef)
		if r == v.VM {
			c.Index("after", i).Block(Cycle, string(r)+" comes after itself", "remove it")
		}
	}
	if v.Agent != nil {
		site.WithinSpan(c, "agent", *v.Agent, 0, MaxWait, false)
	}
	if v.Port != nil {
		problem.Within(c.At("port"), "port", v.Port.Port, 1, 65535)
		site.WithinSpan(c.At("port"), "timeout", v.Port.Timeout, time.Second, MaxWait, false)
	}
	if v.Ready != nil {
		v.Ready.check(c.At("ready"))
	}
	site.WithinSpan(c, "delay", v.Delay, 0, MaxWait, true)
	if v.Stop.Timeout != nil {
		site.WithinSpan(c.At("stop"), "timeout", *v.Stop.Timeout, 0, MaxWait, false)
	}
	if v.Start == StayDown && (len(v.Pre)+len(v.Post) > 0 || v.Port != nil || v.Ready != nil) {
		c.At("start").Warn(problem.Contrary, "the VM is not started, so nothing is done before or after its start", "remove the steps, or start it")
	}
	for _, list := range []struct {
		field string
		all   []Callout
	}{{"pre", v.Pre}, {"post", v.Post}} {
		c.Count(list.field, len(list.all), MaxVMCallouts)
		for i := range list.all {
			at := c.Index(list.field, i)
			list.all[i].check(at)
			if list.all[i].At != (Place{}) {
				at.At("at").Block(problem.Contrary, "a step of a VM is around its start, not around a phase", "remove at")
			}
			if list.field == "pre" && list.all[i].Run == InGuest {
				at.At("run").Block(problem.Contrary, "the guest does not run yet", "make it a step after the start, or run it elsewhere")
			}
		}
	}
}

// checkAtPhase checks a callout of a plan.
func (o *Callout) checkAtPhase(c problem.Checker) {
	o.check(c)
	phase := o.At.Before
	if phase == "" {
		phase = o.At.After
	}
	if (o.At.Before == "") == (o.At.After == "") {
		c.At("at").Block(problem.Missing, "it is not said where it comes", "give one of before and after")
		return
	}
	known, asks := false, false
	for _, s := range Stories() {
		if s.has(phase) && o.holds(s.Operation) {
			known, asks = true, asks || s.Prompts
		}
	}
	if !known {
		c.At("at").Block(problem.Unknown, fmt.Sprintf("phase %q is in none of its operations", phase), "choose a phase that one of them has")
		return
	}
	if o.Run == Prompt && !asks {
		c.At("run").Block(problem.Contrary, "nobody is asked in a cleanup, commit, rollback or reprotect", "ask in a test or recovery")
	}
	if o.Run == InGuest && o.VM == "" {
		c.At("vm").Block(problem.Missing, "it is not said in which guest", "name a VM")
	}
	guests := append(slices.Clone(starts[:]), PhasePowerOff, PhasePromote, PhaseProtect)
	if o.Run == InGuest && !slices.Contains(guests, phase) {
		c.At("at").Block(problem.Contrary, fmt.Sprintf("no recovered guest runs around %q", phase), "place it around p1 to p5, power-off, promote or protect")
	}
}

func (o *Callout) check(c problem.Checker) {
	c.NeedText("name", o.Name, site.MaxTitle)
	problem.OneOf(c, "run", o.Run, OnManager, OnAppliance, InGuest, Prompt)
	c.Count("only", len(o.Only), len(Operations()))
	for i, op := range o.Only {
		if _, ok := StoryOf(op); !ok {
			c.Index("only", i).Block(problem.Unknown, fmt.Sprintf("%q is no operation with steps", op), "name a test, planned, disaster, …")
		}
	}
	c.Lines("ask", o.Ask, MaxPrompt)
	if o.Run == Prompt {
		if o.Ask == "" {
			c.At("ask").Block(problem.Missing, "nothing is asked", "write what people are to see to")
		}
		if len(o.Command) > 0 || o.Fatal {
			c.At("run").Block(problem.Contrary, "a prompt runs nothing, and cannot fail", "remove command and stop_on_failure")
		}
		return
	}
	if o.Ask != "" {
		c.At("ask").Block(problem.Contrary, "a script asks nobody", "make it a prompt, or remove ask")
	}
	if o.Run == OnAppliance && !o.Box.Valid() {
		c.At("appliance").Block(problem.Missing, "it is not said on which appliance", "name one")
	}
	o.Script.check(c)
}

func (s *Script) check(c problem.Checker) {
	if len(s.Command) == 0 || s.Command[0] == "" {
		c.At("command").Block(problem.Missing, "there is no command", "write it as a list of words: [/usr/local/bin/tell, dns]")
	}
	c.Count("command", len(s.Command), MaxWords)
	for i, w := range s.Command {
		c.Lines(fmt.Sprintf("command[%d]", i), w, MaxArgument)
	}
	c.Count("env", len(s.Env), MaxEnvironment)
	for k, v := range s.Env {
		if !variable(k) {
			c.At("env").Block(problem.Form, fmt.Sprintf("%q is no variable of one's own", k), "use A-Z, a-z, 0-9 and _, not beginning with a digit or HOLDFAST_")
		}
		c.Lines("env", v, MaxArgument)
	}
	if s.Timeout != nil {
		site.WithinSpan(c, "timeout", *s.Timeout, 0, MaxTimeout, false)
	}
}

func variable(k string) bool {
	if k == "" || len(k) > site.MaxName || k[0] >= '0' && k[0] <= '9' || len(k) >= 9 && k[:9] == "HOLDFAST_" {
		return false
	}
	for i := range len(k) {
		c := k[i]
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
