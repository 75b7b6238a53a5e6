package plan

import (
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/msa/site"
)

// phase adds the groups of one phase.
func (c *compiler) phase(row Row) {
	name := string(row.Phase)
	switch row.Phase {
	case PhaseSync:
		if c.req.Operation != Test || c.p.SyncTest {
			c.add(row, name, 0, c.perDomain(row, KindSync, "sync"))
		}
	case PhaseShutdown:
		c.shutdown(row)
	case PhasePrepare:
		c.add(row, name, 0, c.perDomain(row, KindSourceOff, "see that nothing runs of"))
	case PhaseFinalSync:
		c.add(row, name, 0, c.perDomain(row, KindFinalSync, "publish the last checkpoint of"))
	case PhaseWake:
		var steps []Step
		for _, h := range c.v.Standby {
			steps = append(steps, Step{ID: "wake/" + string(h), Kind: KindWakeHost, Title: "wake " + string(h), Inputs: HostInputs{h}})
		}
		c.add(row, name, 0, c.finish(row, steps))
	case PhaseSuspend:
		c.add(row, name, 0, c.perSuspended(row, KindSuspendVM, "suspend"))
	case PhaseResume:
		c.add(row, name, 0, c.perSuspended(row, KindResumeVM, "resume"))
	case PhaseFence:
		c.add(row, name, 0, c.fences(row))
	case PhaseDisks:
		c.add(row, name, 0, c.disks(row))
	case PhaseTestNetwork:
		c.add(row, name, 0, c.testNetworks(row))
	case PhaseP1, PhaseP2, PhaseP3, PhaseP4, PhaseP5:
		c.starts(row, slices.Index(starts[:], row.Phase))
	default:
		c.endPhase(row, name)
	}
}

// endPhase adds the groups of phases after, or besides, a recovery.
func (c *compiler) endPhase(row Row, name string) {
	switch row.Phase {
	case PhasePowerOff:
		c.add(row, name, 0, c.perVM(row, KindPowerOff, "power off and remove", c.book.To, false))
	case PhaseDiscard:
		c.add(row, name, 0, c.perDomain(row, KindDiscard, "remove disks and pins of"))
	case PhaseReturn:
		c.add(row, name, 0, c.perDomain(row, KindReturn, "give back the history of"))
	case PhaseRestart:
		c.add(row, name, c.boots(), c.perVM(row, KindStartSource, "start again", c.book.From, true))
	case PhasePromote:
		c.add(row, name, 0, c.perDomain(row, KindPromote, "make final"))
	case PhaseProtect:
		c.add(row, name, 0, c.perDomain(row, KindProtect, "protect"))
	case PhaseReverse:
		c.add(row, name, 0, c.perDomain(row, KindReverse, "reverse the direction of"))
	case PhasePlaceholders:
		c.add(row, name, c.boots(), c.placeholders(row))
	case PhaseResync:
		c.add(row, name, 0, c.perDomain(row, KindResync, "resync"))
	case PhaseClean:
		steps := c.perDomain(row, KindCleanDomain, "clean what the old direction left of")
		if c.req.Operation == CleanOldSite {
			steps = append(c.perVM(row, KindRetireVM, "take out of service", c.book.From, true), steps...)
		}
		c.add(row, name, 0, steps)
	}
}

// finish fills in what steps of a phase have in common.
func (c *compiler) finish(row Row, steps []Step) []Step {
	for i := range steps {
		steps[i].Version = StepVersion
		if steps[i].Rule == "" {
			steps[i].Rule = row.Rule
		}
	}
	return steps
}

// perDomain makes one step for each domain.
func (c *compiler) perDomain(row Row, k Kind, words string) []Step {
	var steps []Step
	for _, d := range c.book.Domains {
		in := DomainInputs{Domain: d, VMs: c.vmsOf(d), Test: c.use == "test" || isCleanup(c.req.Operation),
			Reuse: k == KindResync, Forced: c.forced()}
		s := Step{ID: string(row.Phase) + "/" + string(d), Kind: k, Domain: d, Title: words + " " + string(d), Inputs: in}
		if k == KindProtect {
			s.Needs = []string{string(PhasePromote) + "/" + string(d)}
		}
		steps = append(steps, s)
	}
	return c.finish(row, steps)
}

func isCleanup(op Operation) bool { return op == Cleanup || op == ForcedCleanup }

func (c *compiler) forced() bool {
	return c.req.Operation == ForcedCleanup || c.req.Operation == ForcedDisaster || c.req.Operation == ForcedReprotect
}

// vmsOf lists the VMs of a domain that the run is about.
func (c *compiler) vmsOf(d site.Name) (ids []dr.VMID) {
	for _, m := range c.members {
		if m.domain == d {
			ids = append(ids, m.vm.ID)
		}
	}
	return ids
}

// perSuspended makes one step for each non-critical VM of the recovery site.
func (c *compiler) perSuspended(row Row, k Kind, words string) []Step {
	var steps []Step
	for _, ref := range c.p.Suspend {
		in := VMInputs{Name: ref, Site: c.book.To}
		if vm, _, _ := c.v.Recovery.VM(ref); vm != nil {
			in.VM, in.Name = vm.ID, vm.Ref
		}
		steps = append(steps, Step{ID: string(row.Phase) + "/" + string(ref), Kind: k, Title: words + " " + string(ref), Inputs: in})
	}
	return c.finish(row, steps)
}

// perVM makes one step for each VM, those that start last first unless forward.
func (c *compiler) perVM(row Row, k Kind, words string, at site.Name, forward bool) []Step {
	var steps []Step
	for _, g := range c.groups {
		for _, m := range g {
			in := VMInputs{VM: m.vm.ID, Name: m.vm.Ref, Site: at, Test: isCleanup(c.req.Operation)}
			steps = append(steps, Step{ID: string(row.Phase) + "/" + m.vm.ID.String(), Kind: k, VM: m.vm.ID, Domain: m.domain,
				Title: words + " " + string(m.vm.Ref), Inputs: in})
		}
	}
	if !forward {
		slices.Reverse(steps)
	}
	return c.finish(row, steps)
}

// shutdown adds a group for each priority, P5 first; inside one, a VM is shut down
// when those that depend on it are.
func (c *compiler) shutdown(row Row) {
	for i := range slices.Backward(c.groups[:]) {
		var steps []Step
		users := map[*member][]string{} // ids of the steps of those that come after it
		for _, m := range slices.Backward(c.groups[i]) {
			s := Step{ID: "shutdown/" + m.vm.ID.String(), Kind: KindShutdownVM, VM: m.vm.ID, Domain: m.domain, Title: "shut down " + string(m.vm.Ref), After: users[m]}
			in := ShutdownInputs{VMInputs: VMInputs{VM: m.vm.ID, Name: m.vm.Ref, Site: c.book.From}, Timeout: DefaultShutdown}
			if m.set != nil {
				in.Cut, in.Timeout = m.set.Stop.Cut, or(m.set.Stop.Timeout, DefaultShutdown)
			}
			s.Inputs = in
			if c.story.Fence != "" {
				s.Undo = &Undo{KindStartSource, StepVersion, "start again " + string(m.vm.Ref), in.VMInputs}
			}
			for _, o := range m.after {
				users[o] = append(users[o], s.ID)
			}
			steps = append(steps, s)
		}
		c.add(row, fmt.Sprintf("shutdown p%d", i+1), 0, c.finish(row, steps))
	}
}

// pin says which checkpoint of a domain is recovered.
func (c *compiler) pin(d site.Name) PinInputs {
	return PinInputs{Domain: d, VMs: c.vmsOf(d), Point: c.point, Checkpoint: c.point.Domains[d],
		Final: c.req.Operation == Planned || c.req.Operation == Failback, Test: c.req.Operation == Test}
}

// fences makes a step for each domain that ends the old history at a checkpoint and
// begins the new one there: choosing the point, the fence and the fork are one act.
func (c *compiler) fences(row Row) []Step {
	var steps []Step
	for _, d := range c.book.Domains {
		steps = append(steps, Step{ID: "fence/" + string(d), Kind: KindFence, Domain: d, Title: "fence the old owner of " + string(d), Inputs: c.pin(d)})
	}
	return c.finish(row, steps)
}

// disks makes disks of each domain. A test holds the checkpoint first; a recovery's is
// held by its fork.
func (c *compiler) disks(row Row) []Step {
	var steps []Step
	for _, d := range c.book.Domains {
		test := c.req.Operation == Test
		needs := "fence/" + string(d)
		if test {
			pin := Step{ID: "pin/" + string(d), Kind: KindPin, Domain: d, Title: "choose the checkpoint of " + string(d), Inputs: c.pin(d)}
			steps, needs = append(steps, pin), pin.ID
		}
		steps = append(steps, Step{ID: "disks/" + string(d), Kind: KindDisks, Domain: d, Title: "make the disks of " + string(d), Needs: []string{needs},
			Inputs: DisksInputs{DomainInputs{Domain: d, VMs: c.vmsOf(d), Reuse: c.req.Operation == Failback, Test: test}, c.p.Disks}})
	}
	return c.finish(row, steps)
}

// testNetworks makes one step for each network that is isolated for the test.
func (c *compiler) testNetworks(row Row) []Step {
	var steps []Step
	seen := map[site.Ref]bool{}
	for _, m := range c.members {
		p := c.places[m]
		if p == nil {
			continue
		}
		for _, n := range p.NICs {
			if n.Network == "" && !seen[n.Isolated] {
				seen[n.Isolated] = true
				steps = append(steps, Step{ID: "network/" + string(n.Isolated), Kind: KindTestNetwork,
					Title: "isolated network for " + string(n.Isolated), Inputs: NetworkInputs{n.Isolated}})
			}
		}
	}
	return c.finish(row, steps)
}

// placeholders takes each old VM out of service and puts a placeholder in its
// place.
func (c *compiler) placeholders(row Row) []Step {
	var steps []Step
	for _, m := range c.members {
		id := m.vm.ID.String()
		retire := Step{ID: "retire/" + id, Kind: KindRetireVM, VM: m.vm.ID, Domain: m.domain, Title: "take out of service " + string(m.vm.Ref),
			Inputs: VMInputs{VM: m.vm.ID, Name: m.vm.Ref, Site: c.book.From}}
		steps = append(steps, retire)
		if p := c.places[m]; p != nil {
			steps = append(steps, Step{ID: "placeholder/" + id, Kind: KindPlaceholder, VM: m.vm.ID, Domain: m.domain,
				Title: "placeholder for " + string(m.vm.Ref), Needs: []string{retire.ID}, Inputs: ConfigureInputs{Domain: m.domain, Placement: *p}})
		}
	}
	return c.finish(row, steps)
}
