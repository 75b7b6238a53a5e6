package fakesite

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
)

// Site is a world. The zero value but for Store has no delays and no failures. Its
// fields are set before it is used; it is for concurrent use.
type Site struct {
	Store Store
	// Fail, if not nil, says whether an effect of a kind on an object (a VM's id, a
	// domain) fails, and how.
	Fail func(kind plan.Kind, object string, a *operate.Act) error
	// Point, if not nil, is told where a call is: "before" it looks, "in", before it asks
	// whether it may act, "held" when it may, and "after" its effect. It may end the
	// process, or take its time.
	Point func(where string, kind plan.Kind, a *operate.Act)
	// Boot is how long a guest takes until its agent answers.
	Boot time.Duration
	// JobPolls is how often a job is looked at before it is done, every JobEvery.
	JobPolls int
	JobEvery time.Duration
	// Deaf leaves guests running that are asked to shut down: their power has to be cut.
	Deaf bool
	// Blind and Unfenced leave out a rule, for tests that must notice: to look before an
	// effect; to refuse an older epoch.
	Blind, Unfenced bool

	calls atomic.Int64 // effects under way
}

// Idle reports whether no effect is under way.
func (s *Site) Idle() bool { return s.calls.Load() == 0 }

var _ operate.Effects = (*Site)(nil)

// effect does one effect: it looks, asks, acts. there reports whether it is done.
func (s *Site) effect(ctx context.Context, a *operate.Act, kind plan.Kind, object string, there func(*State) bool, act func(*State)) (runs.Result, error) {
	s.calls.Add(1)
	defer s.calls.Add(-1)
	s.point("before", kind, a)
	if s.Fail != nil {
		if err := s.Fail(kind, object, a); err != nil {
			return runs.Result{}, err
		}
	}
	done := false
	if err := s.Store.Do(ctx, func(st *State) error { done = there(st); return nil }); err != nil {
		return runs.Result{}, err
	}
	if done && !s.Blind {
		return runs.Result{AlreadyDone: true}, nil
	}
	s.point("in", kind, a)
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	s.point("held", kind, a)
	// What is on the wire arrives, whatever becomes of who sent it.
	err := s.Store.Do(context.WithoutCancel(ctx), func(st *State) error {
		if err := s.fenced(st, a); err != nil {
			return err
		}
		if there(st) {
			if done || s.Blind {
				st.blame("%s of %s: twice", kind, object)
			}
			return nil // somebody of the same epoch was faster
		}
		st.Done[a.Key+" "+object]++
		st.Effects++
		act(st)
		return nil
	})
	if err != nil {
		return runs.Result{}, err
	}
	s.point("after", kind, a)
	return runs.Result{}, nil
}

// fenced refuses who has been followed by another.
func (s *Site) fenced(st *State, a *operate.Act) error {
	newest := st.Epochs[string(a.Plan)]
	if a.Epoch < newest {
		if !s.Unfenced {
			return errs.New("fakesite", errs.Fenced, a.Step.Name, "a newer owner has acted for the plan")
		}
		st.blame("%s acted in epoch %d after %d", a.Step.Name, a.Epoch, newest)
	}
	st.Epochs[string(a.Plan)] = max(newest, a.Epoch)
	return nil
}

func (s *Site) point(where string, kind plan.Kind, a *operate.Act) {
	if s.Point != nil {
		s.Point(where, kind, a)
	}
}

// job begins a job under the step's key and looks at it until it is done: then act is
// its effect.
func (s *Site) job(ctx context.Context, a *operate.Act, kind plan.Kind, object string, there func(*State) bool, act func(*State)) (runs.Result, error) {
	if len(a.Memory) > 0 && string(a.Memory) != "null" {
		wait := false
		err := s.Store.Do(ctx, func(st *State) error {
			if err := s.fenced(st, a); err != nil {
				return err
			}
			st.Jobs[a.Key]++
			wait = st.Jobs[a.Key] < s.JobPolls
			a.Progress(int64(st.Jobs[a.Key]), int64(s.JobPolls))
			return nil
		})
		if err != nil || wait {
			return runs.Result{Again: max(time.Millisecond, s.JobEvery), Memory: a.Memory}, err
		}
		r, err := s.effect(ctx, a, kind, object, there, act)
		r.Memory = a.Memory
		return r, err
	}
	done := false
	if err := s.Store.Do(ctx, func(st *State) error { done = there(st); return nil }); err != nil || done && !s.Blind {
		return runs.Result{AlreadyDone: done}, err
	}
	s.point("before", kind, a)
	return runs.Result{Again: max(time.Millisecond, s.JobEvery), Memory: json.RawMessage(`{"job":true}`)}, nil
}

// Sync publishes.
func (s *Site) Sync(ctx context.Context, a *operate.Act, in *plan.DomainInputs, final bool) (runs.Result, error) {
	kind := plan.KindSync
	if final {
		kind = plan.KindFinalSync
	}
	d := string(in.Domain)
	return s.effect(ctx, a, kind, d, func(st *State) bool { return st.Done[a.Key+" "+d] > 0 }, func(st *State) {
		st.domain(d).Synced++
		st.domain(d).Next++
		if final && a.Step.OnError == runs.Stop { // else it is tried once, come what may
			for _, vm := range in.VMs {
				if st.vm(string(a.From) + "/" + vm.String()).Running {
					st.blame("final sync of %s while %s runs", d, vm)
				}
			}
		}
	})
}

// Running reports a VM's power.
func (s *Site) Running(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (up bool, err error) {
	if s.Fail != nil {
		if err := s.Fail(plan.KindShutdownVM, id(vm), a); err != nil {
			return false, err
		}
	}
	err = s.Store.Do(ctx, func(st *State) error { up = st.vm(place(vm)).Running; return nil })
	return up, err
}

// Shutdown has a guest stop, unless it is deaf.
func (s *Site) Shutdown(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	if s.Deaf {
		return nil
	}
	return s.Cut(ctx, a, vm)
}

// Cut takes a VM's power.
func (s *Site) Cut(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	at := place(vm)
	_, err := s.effect(ctx, a, plan.KindShutdownVM, id(vm), func(st *State) bool { return !st.vm(at).Running }, func(st *State) { st.vm(at).Running = false })
	return err
}

// SourceOff sees that nothing runs.
func (s *Site) SourceOff(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	s.point("before", plan.KindSourceOff, a)
	if s.Fail != nil {
		if err := s.Fail(plan.KindSourceOff, string(in.Domain), a); err != nil {
			return runs.Result{}, err
		}
	}
	err := s.Store.Do(ctx, func(st *State) error {
		for _, vm := range in.VMs {
			if st.vm(string(a.From) + "/" + vm.String()).Running {
				return errs.New("fakesite.SourceOff", errs.Conflict, vm.String(), "it runs at the protected site").WithRemedy("see who started it")
			}
		}
		return nil
	})
	return runs.Result{}, err
}

// StartSource starts a protected VM again.
func (s *Site) StartSource(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	at := place(vm)
	return s.effect(ctx, a, plan.KindStartSource, id(vm), func(st *State) bool { return st.vm(at).Running }, func(st *State) {
		if other := st.VMs[string(a.To)+"/"+vm.VM.String()]; other != nil && other.Running && other.Plan != "" {
			st.blame("%s was started beside its recovered VM", at)
		}
		st.vm(at).Running = true
	})
}

// WakeHost wakes a host.
func (s *Site) WakeHost(ctx context.Context, a *operate.Act, in *plan.HostInputs) (runs.Result, error) {
	key := "host/" + string(in.Host)
	return s.effect(ctx, a, plan.KindWakeHost, string(in.Host), func(st *State) bool { return st.Suspended[key] }, func(st *State) { st.Suspended[key] = true })
}

// Suspend suspends a VM of the recovery site.
func (s *Site) Suspend(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return s.effect(ctx, a, plan.KindSuspendVM, id(vm), func(st *State) bool { return st.Suspended[id(vm)] }, func(st *State) { st.Suspended[id(vm)] = true })
}

// Resume resumes it.
func (s *Site) Resume(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return s.effect(ctx, a, plan.KindResumeVM, id(vm), func(st *State) bool { return !st.Suspended[id(vm)] }, func(st *State) { delete(st.Suspended, id(vm)) })
}

// Fence takes a domain's history, at a checkpoint.
func (s *Site) Fence(ctx context.Context, a *operate.Act, in *plan.PinInputs) (runs.Result, error) {
	d := string(in.Domain)
	var chosen uint64
	r, err := s.effect(ctx, a, plan.KindFence, d, func(st *State) bool { chosen = st.domain(d).Pin; return st.domain(d).Fenced == string(a.Plan) }, func(st *State) {
		if by := st.domain(d).Fenced; by != "" {
			st.blame("%s was fenced by %s and by %s", d, by, a.Plan)
		}
		chosen = st.choose(in)
		st.domain(d).Fenced, st.domain(d).Pin = string(a.Plan), chosen
	})
	return pinned(r, chosen, err)
}

// Pin chooses a test's checkpoint.
func (s *Site) Pin(ctx context.Context, a *operate.Act, in *plan.PinInputs) (runs.Result, error) {
	d := string(in.Domain)
	var chosen uint64
	r, err := s.effect(ctx, a, plan.KindPin, d, func(st *State) bool { chosen = st.domain(d).TestPin; return chosen > 0 }, func(st *State) {
		chosen = st.choose(in)
		st.domain(d).TestPin = chosen
	})
	return pinned(r, chosen, err)
}

// choose is the checkpoint that is asked for.
func (s *State) choose(in *plan.PinInputs) uint64 {
	if in.Checkpoint > 0 {
		return in.Checkpoint
	}
	return s.domain(string(in.Domain)).Next
}

func pinned(r runs.Result, chosen uint64, err error) (runs.Result, error) {
	if err == nil {
		r.Memory, err = json.Marshal(operate.Pinned{Checkpoint: chosen, TimeMS: time.Now().UnixMilli(), Kind: "group"})
	}
	return r, err
}

// Disks makes a domain's disks.
func (s *Site) Disks(ctx context.Context, a *operate.Act, in *plan.DisksInputs) (runs.Result, error) {
	d := string(in.Domain)
	return s.job(ctx, a, plan.KindDisks, d, func(st *State) bool {
		if in.Test {
			return st.domain(d).TestDisks
		}
		return st.domain(d).Disks
	}, func(st *State) {
		if in.Test {
			st.domain(d).TestDisks = true
		} else {
			st.domain(d).Disks = true
		}
	})
}

// TestNetwork makes a network.
func (s *Site) TestNetwork(ctx context.Context, a *operate.Act, in *plan.NetworkInputs) (runs.Result, error) {
	n := string(a.Plan) + "/" + string(in.Isolated)
	return s.effect(ctx, a, plan.KindTestNetwork, string(in.Isolated), func(st *State) bool { return st.Networks[n] }, func(st *State) { st.Networks[n] = true })
}
