package operate

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// envelope is the input of a step: the kind's own, and for whom it is. The operation
// is not in it: a recovery that goes on by another name has done what it has done.
type envelope struct {
	Plan   site.Name       `json:"plan"`
	From   site.Name       `json:"from"`
	To     site.Name       `json:"to"`
	VM     dr.VMID         `json:"vm,omitzero"`
	Domain site.Name       `json:"domain,omitempty"`
	Inputs json.RawMessage `json:"inputs"`
}

// Kinds are Doers of every kind of step a plan is compiled to, for a worker's options.
// poll is how often a guest is looked at that boots or shuts down; 0: every second.
func Kinds(e Effects, poll time.Duration) runs.Kinds {
	if poll == 0 {
		poll = pollEvery
	}
	k := runs.Kinds{}
	add := func(kind plan.Kind, do runs.DoerFunc) {
		k[runs.Kind{Name: string(kind), Version: plan.StepVersion}] = do
	}
	domain := func(kind plan.Kind, do func(context.Context, *Act, *plan.DomainInputs) (runs.Result, error)) {
		add(kind, doer(kind, do))
	}
	vm := func(kind plan.Kind, do func(context.Context, *Act, *plan.VMInputs) (runs.Result, error)) {
		add(kind, doer(kind, do))
	}
	placed := func(kind plan.Kind, do func(context.Context, *Act, *plan.ConfigureInputs) (runs.Result, error)) {
		add(kind, doer(kind, do))
	}
	domain(plan.KindSync, func(ctx context.Context, a *Act, in *plan.DomainInputs) (runs.Result, error) {
		return e.Sync(ctx, a, in, false)
	})
	domain(plan.KindFinalSync, func(ctx context.Context, a *Act, in *plan.DomainInputs) (runs.Result, error) {
		return e.Sync(ctx, a, in, true)
	})
	add(plan.KindShutdownVM, doer(plan.KindShutdownVM, shutter{e, poll}.do))
	vm(plan.KindStartSource, func(ctx context.Context, a *Act, in *plan.VMInputs) (runs.Result, error) {
		return startSource(ctx, e, a, in)
	})
	domain(plan.KindSourceOff, e.SourceOff)
	add(plan.KindWakeHost, doer(plan.KindWakeHost, e.WakeHost))
	vm(plan.KindSuspendVM, e.Suspend)
	vm(plan.KindResumeVM, e.Resume)
	add(plan.KindFence, doer(plan.KindFence, e.Fence))
	add(plan.KindPin, doer(plan.KindPin, e.Pin))
	add(plan.KindDisks, doer(plan.KindDisks, e.Disks))
	add(plan.KindTestNetwork, doer(plan.KindTestNetwork, e.TestNetwork))
	placed(plan.KindConfigure, e.Configure)
	placed(plan.KindAddress, e.Address)
	vm(plan.KindPowerOn, e.PowerOn)
	add(plan.KindWaitAgent, doer(plan.KindWaitAgent, func(ctx context.Context, a *Act, in *plan.WaitInputs) (runs.Result, error) {
		return await(poll, func() (bool, error) { return e.AgentUp(ctx, a, &in.VMInputs) })
	}))
	add(plan.KindWaitPort, doer(plan.KindWaitPort, func(ctx context.Context, a *Act, in *plan.WaitInputs) (runs.Result, error) {
		return await(poll, func() (bool, error) { return e.PortUp(ctx, a, &in.VMInputs, in.Port) })
	}))
	add(plan.KindScript, doer(plan.KindScript, e.Script))
	add(plan.KindWaitScript, doer(plan.KindWaitScript, func(ctx context.Context, a *Act, in *plan.ScriptInputs) (runs.Result, error) {
		r, err := e.Script(ctx, a, in)
		if err != nil && ctx.Err() == nil && passes(err) {
			return runs.Result{Again: readyPolls * poll, Note: err.Error()}, nil
		}
		return r, err
	}))
	vm(plan.KindPowerOff, e.PowerOff)
	domain(plan.KindDiscard, e.Discard)
	domain(plan.KindReturn, e.Return)
	domain(plan.KindPromote, e.Promote)
	domain(plan.KindProtect, e.Protect)
	domain(plan.KindReverse, e.Reverse)
	domain(plan.KindResync, e.Resync)
	vm(plan.KindRetireVM, e.Retire)
	placed(plan.KindPlaceholder, e.Placeholder)
	domain(plan.KindCleanDomain, e.Clean)
	return k
}

// doer decodes a step's inputs for the method that does it.
func doer[T any](kind plan.Kind, do func(context.Context, *Act, *T) (runs.Result, error)) runs.DoerFunc {
	return func(ctx context.Context, c *runs.Call) (runs.Result, error) {
		var env envelope
		d := json.NewDecoder(bytes.NewReader(c.Input))
		d.DisallowUnknownFields()
		if err := d.Decode(&env); err != nil {
			return runs.Result{}, errs.E("operate.Do", errs.Invalid, c.Step.Name, err)
		}
		raw, err := plan.DecodeInputs(kind, c.Step.Version, env.Inputs)
		if err != nil {
			return runs.Result{}, err
		}
		in, ok := raw.(*T)
		if !ok {
			return runs.Result{}, errs.New("operate.Do", errs.Internal, c.Step.Name, "the kind has other inputs than its doer")
		}
		return do(ctx, &Act{Call: c, Plan: env.Plan, From: env.From, To: env.To, Domain: env.Domain}, in)
	}
}

// await looks once whether a guest answers.
func await(poll time.Duration, up func() (bool, error)) (runs.Result, error) {
	ok, err := up()
	switch {
	case err != nil && !passes(err):
		return runs.Result{}, err
	case err != nil:
		return runs.Result{Again: poll, Note: err.Error()}, nil
	case !ok:
		return runs.Result{Again: poll}, nil
	}
	return runs.Result{}, nil
}

// passes reports whether asking again may help.
func passes(err error) bool {
	switch errs.KindOf(err) {
	case errs.Invalid, errs.NotFound, errs.Corrupt, errs.Denied, errs.Fenced:
		return false
	}
	return true
}

// stopping is the memory of a VM's shutdown. It is stored before the guest is told, so
// that whoever undoes it starts no VM that was off before.
type stopping struct {
	Stops bool  `json:"stops"`              // it ran: it is this plan that stops it
	Asked int64 `json:"asked_ms,omitempty"` // when the guest was asked, UTC milliseconds
	Cut   bool  `json:"cut,omitempty"`
}

// shutter shuts VMs down: look, note, ask, wait, cut.
type shutter struct {
	e    Effects
	poll time.Duration
}

func (s shutter) do(ctx context.Context, a *Act, in *plan.ShutdownInputs) (runs.Result, error) {
	var m stopping
	if len(a.Memory) > 0 {
		if err := json.Unmarshal(a.Memory, &m); err != nil {
			return runs.Result{}, errs.E("operate.shutdown", errs.Corrupt, a.Step.Name, err)
		}
	}
	up, err := s.e.Running(ctx, a, &in.VMInputs)
	if err != nil {
		return runs.Result{}, err
	}
	switch {
	case !up && !m.Stops:
		return runs.Result{AlreadyDone: true, Note: "it was off"}, nil
	case !up:
		if m.Cut {
			a.Warn("its power was cut")
		}
		return remember(m, 0)
	case !m.Stops:
		return remember(stopping{Stops: true}, time.Millisecond)
	}
	now := time.Now().UnixMilli()
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	switch {
	case in.Cut || m.Cut || m.Asked > 0 && now-m.Asked >= in.Timeout.Milliseconds():
		m.Cut = !in.Cut // who wants the power cut is not warned of it
		if err := s.e.Cut(ctx, a, &in.VMInputs); err != nil {
			return runs.Result{}, err
		}
	case m.Asked == 0:
		if err := s.e.Shutdown(ctx, a, &in.VMInputs); err != nil {
			return runs.Result{}, err
		}
		m.Asked = now
	}
	// It is looked at at once, then every so often.
	if m.Asked == now || m.Cut || in.Cut {
		return remember(m, min(s.poll, 10*time.Millisecond))
	}
	return remember(m, s.poll)
}

func remember(m stopping, again time.Duration) (runs.Result, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return runs.Result{}, errs.E("operate.remember", errs.Internal, "", err)
	}
	return runs.Result{Again: again, Memory: b}, nil
}

// startSource starts a VM again: as an undo, one that the step it takes back stopped.
func startSource(ctx context.Context, e Effects, a *Act, in *plan.VMInputs) (runs.Result, error) {
	if a.Undoes != "" {
		var m stopping
		if len(a.UndoesMemory) > 0 {
			if err := json.Unmarshal(a.UndoesMemory, &m); err != nil {
				return runs.Result{}, errs.E("operate.start", errs.Corrupt, a.Step.Name, err)
			}
		}
		if !m.Stops {
			return runs.Result{AlreadyDone: true, Note: "it was off before"}, nil
		}
	}
	return e.StartSource(ctx, a, in)
}
