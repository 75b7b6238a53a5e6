package plan

import (
	"fmt"
	"time"
)

// chain is the steps of one VM's start, each of which needs the one before.
type chain struct {
	c     *compiler
	m     *member
	vm    VMInputs
	steps []Step
}

// add adds a step that needs the one before; of the chain's first step the needs
// are given by the caller.
func (h *chain) add(name string, k Kind, title string, inputs any) {
	h.put(name, Step{Kind: k, Title: title + " " + string(h.vm.Name), Inputs: inputs})
}

func (h *chain) put(name string, s Step) {
	s.ID, s.VM, s.Domain = "vm/"+h.m.vm.ID.String()+"/"+name, h.m.vm.ID, h.m.domain
	if len(h.steps) > 0 {
		s.Needs = append(s.Needs, h.steps[len(h.steps)-1].ID)
	}
	h.steps = append(h.steps, s)
}

// starts adds the group of one priority: a chain for each VM. A chain's first
// step needs its domain's disks, and comes after the chains of the VMs it depends
// on, whether they came up or not: what is up without its database is seen to
// sooner than what is not up at all.
func (c *compiler) starts(row Row, i int) {
	var steps []Step
	last := map[*member]string{}
	for _, m := range c.groups[i] {
		p := c.places[m]
		if p == nil {
			continue // left out
		}
		h := &chain{c: c, m: m, vm: VMInputs{VM: m.vm.ID, Name: p.Name, Site: c.book.To, Test: c.req.Operation == Test}}
		h.configure()
		h.steps[0].Needs = []string{"disks/" + string(m.domain)}
		for _, o := range m.after {
			if id := last[o]; id != "" {
				h.steps[0].After = append(h.steps[0].After, id)
			}
		}
		if m.set == nil || m.set.Start == PowerOn {
			h.start()
		}
		last[m] = h.steps[len(h.steps)-1].ID
		steps = append(steps, h.steps...)
	}
	c.add(row, string(row.Phase), c.boots(), c.finish(row, steps))
}

// configure makes the VM as it is to be here.
func (h *chain) configure() {
	p := h.c.places[h.m]
	in := ConfigureInputs{Domain: h.m.domain, Placement: *p, Test: h.vm.Test}
	h.add("configure", KindConfigure, "configure", in)
	for i := range p.NICs {
		if !p.NICs[i].Config.IsZero() {
			h.add("address", KindAddress, "set the addresses of", in)
			return
		}
	}
}

// start starts the VM and waits until it is up.
func (h *chain) start() {
	set := h.m.set
	if set == nil {
		set = &VM{}
	}
	h.callouts("pre", set.Pre)
	h.add("power-on", KindPowerOn, "start", h.vm)
	h.wait("agent", KindWaitAgent, "wait for the agent of", 0, or(set.Agent, DefaultAgentWait))
	if set.Port != nil {
		h.wait("port", KindWaitPort, fmt.Sprintf("wait for port %d of", set.Port.Port), set.Port.Port, set.Port.Timeout.D())
	}
	if set.Ready != nil {
		in := ScriptInputs{Name: "ready", Run: InGuest, Command: set.Ready.Command, Env: set.Ready.Env, Limit: set.Ready.Limit(), VM: &h.vm}
		h.add("ready", KindWaitScript, "wait until its script is content with", in)
	}
	h.wait("delay", KindDelay, "wait after the start of", 0, set.Delay.D())
	h.callouts("post", set.Post)
}

// wait adds a wait, if it is one. A guest without an agent is a warning: its
// steps go on.
func (h *chain) wait(name string, k Kind, title string, port int, limit time.Duration) {
	if limit == 0 {
		return
	}
	s := Step{Kind: k, Title: title + " " + string(h.vm.Name), Inputs: WaitInputs{h.vm, port, limit}}
	if k == KindWaitAgent && (h.m.set == nil || h.m.set.Agent == nil) {
		s.Rule = RuleBestEffort // nobody said that it has one
	}
	h.put(name, s)
}

// callouts adds a VM's scripts and prompts. A failing one stops the chain.
func (h *chain) callouts(when string, list []Callout) {
	for i := range list {
		o := &list[i]
		if !o.holds(h.c.req.Operation) {
			continue
		}
		s := h.c.callout(o, &h.vm)
		if o.Fatal {
			s.Rule = RuleStop
		}
		h.put(fmt.Sprintf("%s-%d", when, i), s)
	}
}
