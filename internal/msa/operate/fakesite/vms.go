package fakesite

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
)

func placeOf(in *plan.ConfigureInputs) string {
	return place(&plan.VMInputs{VM: in.Placement.VM, Name: in.Placement.Name, Site: in.Placement.Site, Test: in.Test})
}

// Configure makes a recovered VM.
func (s *Site) Configure(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	at := placeOf(in)
	return s.effect(ctx, a, plan.KindConfigure, in.Placement.VM.String(), func(st *State) bool { return st.vm(at).Plan == string(a.Plan) }, func(st *State) {
		v := st.vm(at)
		if v.Plan != "" {
			st.blame("%s is run by %s and by %s", at, v.Plan, a.Plan)
		}
		if d := st.domain(string(in.Domain)); in.Test && !d.TestDisks || !in.Test && !d.Disks {
			st.blame("%s was made without disks", at)
		}
		*v = VM{Plan: string(a.Plan)}
	})
}

// Address tells a guest its addresses.
func (s *Site) Address(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	at := placeOf(in)
	return s.effect(ctx, a, plan.KindAddress, in.Placement.VM.String(), func(st *State) bool { return st.vm(at).Addressed }, func(st *State) { st.vm(at).Addressed = true })
}

// PowerOn starts a recovered VM.
func (s *Site) PowerOn(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	at := place(vm)
	return s.effect(ctx, a, plan.KindPowerOn, id(vm), func(st *State) bool { return st.vm(at).Running }, func(st *State) {
		v := st.vm(at)
		if v.Plan != string(a.Plan) {
			st.blame("%s started %s, which is of %q", a.Plan, at, v.Plan)
		}
		v.Running, v.Started = true, time.Now().UnixMilli()
	})
}

// AgentUp reports whether a guest has booted.
func (s *Site) AgentUp(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (up bool, err error) {
	if s.Fail != nil {
		if err := s.Fail(plan.KindWaitAgent, id(vm), a); err != nil {
			return false, err
		}
	}
	s.point("before", plan.KindWaitAgent, a)
	err = s.Store.Do(ctx, func(st *State) error {
		v := st.vm(place(vm))
		up = v.Running && time.Now().UnixMilli()-v.Started >= s.Boot.Milliseconds()
		return nil
	})
	return up, err
}

// PortUp is AgentUp.
func (s *Site) PortUp(ctx context.Context, a *operate.Act, vm *plan.VMInputs, _ int) (bool, error) {
	return s.AgentUp(ctx, a, vm)
}

// Script runs once under its key.
func (s *Site) Script(ctx context.Context, a *operate.Act, in *plan.ScriptInputs) (runs.Result, error) {
	fmt.Fprintf(a.Output(), "%s ran %q\n", in.Name, in.Command)
	return s.effect(ctx, a, plan.KindScript, in.Name, func(st *State) bool { return st.Done[a.Key+" "+in.Name] > 0 }, func(*State) {})
}

// PowerOff removes a recovered VM.
func (s *Site) PowerOff(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	at := place(vm)
	return s.effect(ctx, a, plan.KindPowerOff, id(vm), func(st *State) bool { return st.vm(at).Plan == "" }, func(st *State) {
		if by := st.vm(at).Plan; by != string(a.Plan) {
			st.blame("%s removed %s of %s", a.Plan, at, by)
		}
		delete(st.VMs, at)
	})
}

// Discard removes disks and pins.
func (s *Site) Discard(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	d := string(in.Domain)
	return s.effect(ctx, a, plan.KindDiscard, d, func(st *State) bool {
		x := st.domain(d)
		if in.Test {
			return !x.TestDisks && x.TestPin == 0
		}
		return !x.Disks
	}, func(st *State) {
		for _, vm := range in.VMs {
			at := string(a.To) + "/" + vm.String()
			if in.Test {
				at = "test/" + vm.String()
			}
			if v := st.VMs[at]; v != nil && v.Running && v.Plan != "" {
				st.blame("disks of %s were removed while it runs", at)
			}
		}
		if x := st.domain(d); in.Test {
			x.TestDisks, x.TestPin = false, 0
		} else {
			x.Disks = false
		}
	})
}

// Return drops the fork.
func (s *Site) Return(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	d := string(in.Domain)
	return s.effect(ctx, a, plan.KindReturn, d, func(st *State) bool { return st.domain(d).Fenced == "" }, func(st *State) {
		st.domain(d).Fenced, st.domain(d).Pin = "", 0
	})
}

// Promote makes a recovery final.
func (s *Site) Promote(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	d := string(in.Domain)
	return s.job(ctx, a, plan.KindPromote, d, func(st *State) bool { return st.domain(d).Promoted }, func(st *State) { st.domain(d).Promoted = true })
}

// Protect protects it where it is.
func (s *Site) Protect(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	d := string(in.Domain)
	return s.effect(ctx, a, plan.KindProtect, d, func(st *State) bool { return st.domain(d).Protected }, func(st *State) { st.domain(d).Protected = true })
}

// Reverse turns a domain's direction round.
func (s *Site) Reverse(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	d := string(in.Domain)
	to := string(a.To)
	return s.effect(ctx, a, plan.KindReverse, d, func(st *State) bool { return st.Done["at "+d] > 0 && st.vmsAre(in, to) }, func(st *State) {
		st.Done["at "+d] = 1
		x := st.domain(d)
		x.Reversed = !x.Reversed
		for _, vm := range in.VMs {
			st.vm(to + "/" + vm.String()).Plan = "" // protected VMs from now on
		}
	})
}

// vmsAre reports whether a domain's VMs at a site are protected ones.
func (s *State) vmsAre(in *plan.DomainInputs, at string) bool {
	for _, vm := range in.VMs {
		if v := s.VMs[at+"/"+vm.String()]; v == nil || v.Plan != "" {
			return false
		}
	}
	return true
}

// Resync waits for the first recovery point of the new direction.
func (s *Site) Resync(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	d := string(in.Domain)
	return s.job(ctx, a, plan.KindResync, d, func(st *State) bool { return st.Done[a.Key+" "+d] > 0 }, func(st *State) { st.domain(d).Synced++ })
}

// Retire takes an old VM out of service.
func (s *Site) Retire(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	at := place(vm)
	return s.effect(ctx, a, plan.KindRetireVM, id(vm), func(st *State) bool { return st.vm(at).Retired }, func(st *State) {
		*st.vm(at) = VM{Retired: true}
	})
}

// Placeholder puts a placeholder in its place.
func (s *Site) Placeholder(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	at := placeOf(in)
	return s.effect(ctx, a, plan.KindPlaceholder, in.Placement.VM.String(), func(st *State) bool { return st.vm(at).Placeholder }, func(st *State) {
		if v := st.vm(at); v.Running {
			st.blame("a placeholder was put over %s, which runs", at)
		}
		*st.vm(at) = VM{Placeholder: true}
	})
}

// Clean forgets the old direction's leftovers.
func (s *Site) Clean(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	d := string(in.Domain)
	return s.effect(ctx, a, plan.KindCleanDomain, d, func(st *State) bool { return st.Done[a.Key+" "+d] > 0 }, func(st *State) {
		x := st.domain(d)
		x.Fenced, x.Pin, x.Disks, x.Promoted, x.Protected = "", 0, false, false, false
		delete(st.Done, "at "+d)
	})
}

// Broken returns the rules that were broken, none if all was well.
func (s *Site) Broken(ctx context.Context) (words []string, err error) {
	err = s.Store.Do(ctx, func(st *State) error { words = append(words, st.Broken...); return nil })
	return words, err
}

// Power sets a protected VM's power, as its owner would.
func (s *Site) Power(ctx context.Context, vm *plan.VMInputs, on bool) error {
	return s.Store.Do(ctx, func(st *State) error { st.vm(place(vm)).Running = on; return nil })
}

// Failing is an error for scripted failures: it passes when transient is set.
func Failing(transient bool) error {
	kind := errs.Invalid
	if transient {
		kind = errs.Transient
	}
	return errs.New("fakesite", kind, "", "a scripted failure")
}
