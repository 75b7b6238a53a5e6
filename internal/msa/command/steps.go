package command

import (
	"bytes"
	"context"
	"encoding/json"

	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
)

// Steps is a Handler over a value that has methods of operate.Effects, all or some: a
// command whose method it does not have is refused, with kind Invalid.
func Steps(e any) Handler { return steps{e} }

type steps struct{ e any }

// Do calls the method of the command's kind.
func (s steps) Do(ctx context.Context, c *Command, call *runs.Call) Outcome {
	do, ok := methods[c.Kind]
	if !ok {
		return Fail(errs.New("command.Steps", errs.Invalid, c.Kind, "this box knows no such command").WithRemedy("use appliances of the manager's release"))
	}
	a := &operate.Act{Call: call, Plan: c.Plan, Origin: c.Origin, From: c.From, To: c.To, Domain: c.Domain}
	o, err := do(ctx, s.e, a, c.Input)
	if err != nil {
		return Fail(err)
	}
	return o
}

// method calls one method of a value, if it has it.
type method func(ctx context.Context, e any, a *operate.Act, input json.RawMessage) (Outcome, error)

// step makes a method of an interface's, by which a box does a step.
func step[I, T any](f func(I, context.Context, *operate.Act, *T) (runs.Result, error)) method {
	return func(ctx context.Context, e any, a *operate.Act, input json.RawMessage) (Outcome, error) {
		in, err := inputs[I, T](e, input)
		if err != nil {
			return Outcome{}, err
		}
		r, err := f(e.(I), ctx, a, in)
		return Outcome{Again: r.Again, AlreadyDone: r.AlreadyDone, Note: r.Note, Memory: r.Memory}, err
	}
}

// answer makes a method of one by which a box answers.
func answer[I, T any](f func(I, context.Context, *operate.Act, *T) (bool, error)) method {
	return func(ctx context.Context, e any, a *operate.Act, input json.RawMessage) (Outcome, error) {
		in, err := inputs[I, T](e, input)
		if err != nil {
			return Outcome{}, err
		}
		yes, err := f(e.(I), ctx, a, in)
		return Outcome{Answer: yes}, err
	}
}

// effect makes a method of one that says no more than that it was done.
func effect[I, T any](f func(I, context.Context, *operate.Act, *T) error) method {
	return answer(func(i I, ctx context.Context, a *operate.Act, in *T) (bool, error) { return false, f(i, ctx, a, in) })
}

// inputs reads the input of a method that the box must have.
func inputs[I, T any](e any, input json.RawMessage) (*T, error) {
	if _, ok := e.(I); !ok {
		return nil, errs.New("command.Steps", errs.Invalid, "command", "this box does no such thing").WithRemedy("see the roles of the site's appliances")
	}
	in := new(T)
	d := json.NewDecoder(bytes.NewReader(input))
	d.DisallowUnknownFields()
	if err := d.Decode(in); err != nil {
		return nil, errs.E("command.Steps", errs.Invalid, "command", err).WithRemedy("use appliances of the manager's release")
	}
	return in, nil
}

// The methods of operate.Effects one by one: what a box has of them it does.
type (
	syncer interface {
		Sync(context.Context, *operate.Act, *plan.DomainInputs, bool) (runs.Result, error)
	}
	asker interface {
		Running(context.Context, *operate.Act, *plan.VMInputs) (bool, error)
	}
	shutter interface {
		Shutdown(context.Context, *operate.Act, *plan.VMInputs) error
	}
	cutter interface {
		Cut(context.Context, *operate.Act, *plan.VMInputs) error
	}
	sourceOffer interface {
		SourceOff(context.Context, *operate.Act, *plan.DomainInputs) (runs.Result, error)
	}
	sourceStarter interface {
		StartSource(context.Context, *operate.Act, *plan.VMInputs) (runs.Result, error)
	}
	waker interface {
		WakeHost(context.Context, *operate.Act, *plan.HostInputs) (runs.Result, error)
	}
	suspender interface {
		Suspend(context.Context, *operate.Act, *plan.VMInputs) (runs.Result, error)
	}
	resumer interface {
		Resume(context.Context, *operate.Act, *plan.VMInputs) (runs.Result, error)
	}
	fencer interface {
		Fence(context.Context, *operate.Act, *plan.PinInputs) (runs.Result, error)
	}
	pinner interface {
		Pin(context.Context, *operate.Act, *plan.PinInputs) (runs.Result, error)
	}
	diskMaker interface {
		Disks(context.Context, *operate.Act, *plan.DisksInputs) (runs.Result, error)
	}
	networkMaker interface {
		TestNetwork(context.Context, *operate.Act, *plan.NetworkInputs) (runs.Result, error)
	}
	configurer interface {
		Configure(context.Context, *operate.Act, *plan.ConfigureInputs) (runs.Result, error)
	}
	addresser interface {
		Address(context.Context, *operate.Act, *plan.ConfigureInputs) (runs.Result, error)
	}
	starter interface {
		PowerOn(context.Context, *operate.Act, *plan.VMInputs) (runs.Result, error)
	}
	agentAsker interface {
		AgentUp(context.Context, *operate.Act, *plan.VMInputs) (bool, error)
	}
	portAsker interface {
		PortUp(context.Context, *operate.Act, *plan.VMInputs, int) (bool, error)
	}
	scripter interface {
		Script(context.Context, *operate.Act, *plan.ScriptInputs) (runs.Result, error)
	}
	stopper interface {
		PowerOff(context.Context, *operate.Act, *plan.VMInputs) (runs.Result, error)
	}
	discarder interface {
		Discard(context.Context, *operate.Act, *plan.DomainInputs) (runs.Result, error)
	}
	returner interface {
		Return(context.Context, *operate.Act, *plan.DomainInputs) (runs.Result, error)
	}
	promoter interface {
		Promote(context.Context, *operate.Act, *plan.DomainInputs) (runs.Result, error)
	}
	protector interface {
		Protect(context.Context, *operate.Act, *plan.DomainInputs) (runs.Result, error)
	}
	reverser interface {
		Reverse(context.Context, *operate.Act, *plan.DomainInputs) (runs.Result, error)
	}
	resyncer interface {
		Resync(context.Context, *operate.Act, *plan.DomainInputs) (runs.Result, error)
	}
	retirer interface {
		Retire(context.Context, *operate.Act, *plan.VMInputs) (runs.Result, error)
	}
	placeholderMaker interface {
		Placeholder(context.Context, *operate.Act, *plan.ConfigureInputs) (runs.Result, error)
	}
	cleaner interface {
		Clean(context.Context, *operate.Act, *plan.DomainInputs) (runs.Result, error)
	}
)

// synced is the method of both kinds of syncs.
func synced(final bool) method {
	return step(func(s syncer, ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
		return s.Sync(ctx, a, in, final)
	})
}

// methods are those of all kinds of commands.
var methods = map[string]method{
	string(plan.KindSync): synced(false), string(plan.KindFinalSync): synced(true),
	Running: answer(asker.Running), Shutdown: effect(shutter.Shutdown), Cut: effect(cutter.Cut),
	string(plan.KindSourceOff):   step(sourceOffer.SourceOff),
	string(plan.KindStartSource): step(sourceStarter.StartSource),
	string(plan.KindWakeHost):    step(waker.WakeHost),
	string(plan.KindSuspendVM):   step(suspender.Suspend),
	string(plan.KindResumeVM):    step(resumer.Resume),
	string(plan.KindFence):       step(fencer.Fence),
	string(plan.KindPin):         step(pinner.Pin),
	string(plan.KindDisks):       step(diskMaker.Disks),
	string(plan.KindTestNetwork): step(networkMaker.TestNetwork),
	string(plan.KindConfigure):   step(configurer.Configure),
	string(plan.KindAddress):     step(addresser.Address),
	string(plan.KindPowerOn):     step(starter.PowerOn),
	AgentUp:                      answer(agentAsker.AgentUp),
	PortUp: answer(func(p portAsker, ctx context.Context, a *operate.Act, in *plan.WaitInputs) (bool, error) {
		return p.PortUp(ctx, a, &in.VMInputs, in.Port)
	}),
	string(plan.KindScript):      step(scripter.Script),
	string(plan.KindPowerOff):    step(stopper.PowerOff),
	string(plan.KindDiscard):     step(discarder.Discard),
	string(plan.KindReturn):      step(returner.Return),
	string(plan.KindPromote):     step(promoter.Promote),
	string(plan.KindProtect):     step(protector.Protect),
	string(plan.KindReverse):     step(reverser.Reverse),
	string(plan.KindResync):      step(resyncer.Resync),
	string(plan.KindRetireVM):    step(retirer.Retire),
	string(plan.KindPlaceholder): step(placeholderMaker.Placeholder),
	string(plan.KindCleanDomain): step(cleaner.Clean),
}
