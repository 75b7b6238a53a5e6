package command

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// Peers calls other sites' managers; *pair.Monitor is one.
type Peers interface {
	// Of returns the pair whose manager is a site's, and can be called. Kind Unavailable.
	Of(ctx context.Context, at site.Name) (pair site.Name, err error)
	// Post calls a path of a pair's manager.
	Post(ctx context.Context, pair site.Name, path string, in, out any) error
}

// Effects is operate.Effects by commands, for the manager that runs plans: steps about
// its own site's boxes by its desk, those about another site's by that one's manager.
// Scripts "on the manager" are run here. Its fields are set before it is used; it is for
// concurrent use.
type Effects struct {
	Desk   *Desk
	Site   site.Name    // the manager's own
	Origin string       // the fingerprint of its authority
	Peers  Peers        // nil: no other site is reached
	Logger *slog.Logger // nil: none

	wait time.Duration // of tests; 0: waitFor
}

var _ operate.Effects = (*Effects)(nil)

// of is the command of a step, or of a question in it.
func (e *Effects) of(a *operate.Act, kind string, vm dr.VMID, input any) (*Command, error) {
	b, err := json.Marshal(input)
	if err != nil {
		return nil, errs.E("command.Effects", errs.Internal, a.Step.Name, err)
	}
	if string(a.Memory) == "null" {
		a.Memory = nil
	}
	return &Command{
		Kind: kind, Key: a.Key + "/" + kind, StepKey: a.Key, Origin: e.Origin, Run: a.Run, Plan: a.Plan, From: a.From, To: a.To, Domain: a.Domain, VM: vm,
		Step: a.Step.Name, Seq: a.Seq, Attempt: a.Attempt, Epoch: a.Epoch, OnError: a.Step.OnError, Timeout: a.Step.Timeout, Input: b, Memory: a.Memory,
		Undoes: a.Undoes, UndoesMemory: a.UndoesMemory,
	}, nil
}

// step has a step done at a site: it is under way, and to be looked at again, or has
// ended.
func (e *Effects) step(ctx context.Context, a *operate.Act, at site.Name, kind plan.Kind, vm dr.VMID, input any) (runs.Result, error) {
	c, err := e.of(a, string(kind), vm, input)
	if err != nil {
		return runs.Result{}, err
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	wait := e.wait
	if wait == 0 {
		wait = waitFor
	}
	s, err := e.ask(ctx, at, c, wait)
	if err != nil {
		return runs.Result{}, err
	}
	if !s.Done {
		a.Progress(s.Progress.Done, s.Progress.Total)
		fmt.Fprint(a.Output(), s.Progress.Output)
		memory := s.Progress.Memory
		if len(memory) == 0 {
			memory = a.Memory
		}
		return runs.Result{Again: comeAgain, Memory: memory}, nil
	}
	o := &s.Outcome
	fmt.Fprint(a.Output(), o.Output)
	for _, w := range o.Warnings {
		a.Warn(w)
	}
	if err := o.Failure.Err(); err != nil {
		return runs.Result{}, err
	}
	return runs.Result{AlreadyDone: o.AlreadyDone, Note: o.Note, Memory: o.Memory}, nil
}

// question asks a site's box, or has it do what the caller repeats by itself, and waits.
func (e *Effects) question(ctx context.Context, a *operate.Act, at site.Name, kind string, vm dr.VMID, input any) (bool, error) {
	c, err := e.of(a, kind, vm, input)
	if err != nil {
		return false, err
	}
	if err := a.Hold(ctx); err != nil {
		return false, err
	}
	c.Key += "/" + dr.NewUUID().String()
	if err := e.Desk.DB.View(ctx, func(tx *db.Tx) error { c.Deadline = tx.Now() + answerFor.Milliseconds(); return nil }); err != nil {
		return false, err
	}
	for end := time.Now().Add(answerFor); ; {
		s, err := e.ask(ctx, at, c, min(abroadFor, time.Until(end)))
		if err != nil {
			return false, err
		}
		if s.Done {
			for _, w := range s.Outcome.Warnings {
				a.Warn(w)
			}
			return s.Outcome.Answer, s.Outcome.Failure.Err()
		}
		if time.Until(end) <= 0 {
			err := errs.New("command.Ask", errs.Unavailable, kind+" "+string(c.Domain), "no answer came from site "+string(at)).WithRemedy("see that its appliances run, and reach their manager")
			return false, e.withdraw(ctx, at, c, err)
		}
	}
}

// withdraw cancels what nobody waits for any more, and returns why.
func (e *Effects) withdraw(ctx context.Context, at site.Name, c *Command, why error) error {
	if at == e.Site {
		if err := e.Desk.Cancel(ctx, c.Origin, c.Key); err != nil {
			return err
		}
	}
	return why // abroad it ends by its deadline
}

// ask asks the desk of a site.
func (e *Effects) ask(ctx context.Context, at site.Name, c *Command, wait time.Duration) (Status, error) {
	if at == e.Site {
		return e.Desk.Ask(ctx, c, wait)
	}
	return e.abroad(ctx, at, c, wait)
}

func (e *Effects) source(ctx context.Context, a *operate.Act, kind plan.Kind, vm dr.VMID, in any) (runs.Result, error) {
	return e.step(ctx, a, a.From, kind, vm, in)
}

func (e *Effects) target(ctx context.Context, a *operate.Act, kind plan.Kind, vm dr.VMID, in any) (runs.Result, error) {
	return e.step(ctx, a, a.To, kind, vm, in)
}

// Sync has a domain published.
func (e *Effects) Sync(ctx context.Context, a *operate.Act, in *plan.DomainInputs, final bool) (runs.Result, error) {
	kind := plan.KindSync
	if final {
		kind = plan.KindFinalSync
	}
	return e.source(ctx, a, kind, dr.VMID{}, in)
}

// at is where a VM is.
func at(vm *plan.VMInputs, other site.Name) site.Name {
	if vm.Site != "" {
		return vm.Site
	}
	return other
}

// Running asks whether a VM runs.
func (e *Effects) Running(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (bool, error) {
	return e.question(ctx, a, at(vm, a.From), Running, vm.VM, vm)
}

// Shutdown asks a guest to shut down.
func (e *Effects) Shutdown(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	_, err := e.question(ctx, a, at(vm, a.From), Shutdown, vm.VM, vm)
	return err
}

// Cut takes a VM's power.
func (e *Effects) Cut(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	_, err := e.question(ctx, a, at(vm, a.From), Cut, vm.VM, vm)
	return err
}

// SourceOff sees that nothing of the domain runs.
func (e *Effects) SourceOff(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.source(ctx, a, plan.KindSourceOff, dr.VMID{}, in)
}

// StartSource starts a VM of the protected site.
func (e *Effects) StartSource(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.step(ctx, a, at(vm, a.From), plan.KindStartSource, vm.VM, vm)
}

// WakeHost wakes a host of the recovery site.
func (e *Effects) WakeHost(ctx context.Context, a *operate.Act, in *plan.HostInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindWakeHost, dr.VMID{}, in)
}

// Suspend suspends a VM of the recovery site.
func (e *Effects) Suspend(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindSuspendVM, vm.VM, vm)
}

// Resume resumes it.
func (e *Effects) Resume(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindResumeVM, vm.VM, vm)
}

// Fence takes a domain's history.
func (e *Effects) Fence(ctx context.Context, a *operate.Act, in *plan.PinInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindFence, dr.VMID{}, in)
}

// Pin chooses a test's checkpoint.
func (e *Effects) Pin(ctx context.Context, a *operate.Act, in *plan.PinInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindPin, dr.VMID{}, in)
}

// Disks makes a domain's disks.
func (e *Effects) Disks(ctx context.Context, a *operate.Act, in *plan.DisksInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindDisks, dr.VMID{}, in)
}

// TestNetwork makes an isolated network.
func (e *Effects) TestNetwork(ctx context.Context, a *operate.Act, in *plan.NetworkInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindTestNetwork, dr.VMID{}, in)
}

// Configure makes a VM as it is to be.
func (e *Effects) Configure(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindConfigure, in.Placement.VM, in)
}

// Address tells a guest its addresses.
func (e *Effects) Address(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindAddress, in.Placement.VM, in)
}

// PowerOn starts a recovered VM.
func (e *Effects) PowerOn(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindPowerOn, vm.VM, vm)
}

// AgentUp asks whether a guest's agent answers.
func (e *Effects) AgentUp(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (bool, error) {
	return e.question(ctx, a, a.To, AgentUp, vm.VM, vm)
}

// PortUp asks whether a guest's port accepts.
func (e *Effects) PortUp(ctx context.Context, a *operate.Act, vm *plan.VMInputs, port int) (bool, error) {
	return e.question(ctx, a, a.To, PortUp, vm.VM, &plan.WaitInputs{VMInputs: *vm, Port: port})
}

// Script runs a command: of the manager as a process of this one, others by boxes.
func (e *Effects) Script(ctx context.Context, a *operate.Act, in *plan.ScriptInputs) (runs.Result, error) {
	if in.Run == plan.OnManager {
		if err := a.Hold(ctx); err != nil {
			return runs.Result{}, err
		}
		return runs.Result{}, Run(ctx, a, in)
	}
	var vm dr.VMID
	if in.VM != nil {
		vm = in.VM.VM
	}
	if in.Run == plan.OnAppliance { // of the manager that runs the plan: another site's boxes run no scripts for us
		return e.step(ctx, a, e.Site, plan.KindScript, vm, in)
	}
	return e.target(ctx, a, plan.KindScript, vm, in)
}

// PowerOff powers a recovered VM off.
func (e *Effects) PowerOff(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindPowerOff, vm.VM, vm)
}

// Discard removes what a test or recovery made.
func (e *Effects) Discard(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindDiscard, dr.VMID{}, in)
}

// Return makes the protected site's history the current one again.
func (e *Effects) Return(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindReturn, dr.VMID{}, in)
}

// Promote makes the recovered VMs the domain.
func (e *Effects) Promote(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindPromote, dr.VMID{}, in)
}

// Protect begins their protection.
func (e *Effects) Protect(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindProtect, dr.VMID{}, in)
}

// Reverse protects them towards the old site.
func (e *Effects) Reverse(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindReverse, dr.VMID{}, in)
}

// Resync is done at their first recovery point.
func (e *Effects) Resync(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(ctx, a, plan.KindResync, dr.VMID{}, in)
}

// Retire takes an old VM out of service.
func (e *Effects) Retire(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.source(ctx, a, plan.KindRetireVM, vm.VM, vm)
}

// Placeholder puts a placeholder in its place.
func (e *Effects) Placeholder(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	return e.source(ctx, a, plan.KindPlaceholder, in.Placement.VM, in)
}

// Clean removes what the old direction left.
func (e *Effects) Clean(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.source(ctx, a, plan.KindCleanDomain, dr.VMID{}, in)
}
