package fake

import (
	"context"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// VM is one scripted run. Besides hypervisor.VM it takes blows.
type VM struct {
	provider *Provider // immutable, as all here
	id       dr.VMID
	name     string
	script   Behaviour
	serial   string
	life     *hypervisor.Lifecycle
}

var _ hypervisor.VM = (*VM)(nil)

// run makes the VM Running, and then Paused if its script names a bad disk.
func (v *VM) run() {
	v.life.Move(hypervisor.Running, "")
	if v.script.StuckOn != "" {
		v.IOError(v.script.StuckOn)
	}
}

// end frees the VM's place and makes the final move.
func (v *VM) end(to hypervisor.State, reason string) {
	v.provider.mu.Lock()
	if v.provider.vms[v.id] == v {
		delete(v.provider.vms, v.id)
	}
	v.provider.mu.Unlock()
	v.life.Move(to, reason)
}

// Crash ends the run as a dying hypervisor process would.
func (v *VM) Crash(reason string) { v.end(hypervisor.Crashed, reason) }

// PowerOff ends the run as the guest itself does.
func (v *VM) PowerOff() { v.end(hypervisor.Stopped, "guest-shutdown") }

// IOError is a disk's failure: an event, and the VM is Paused.
func (v *VM) IOError(disk string) {
	words := "write error on disk " + disk + ": scripted"
	v.life.Emit(hypervisor.Event{Kind: hypervisor.IOError, Disk: disk, Detail: words})
	v.life.Move(hypervisor.Paused, words)
}

// Reset is the guest's own reboot: an event, and it runs on.
func (v *VM) Reset() { v.life.Emit(hypervisor.Event{Kind: hypervisor.GuestReset}) }

// Status returns the state now.
func (v *VM) Status() hypervisor.Status { return v.life.Status() }

// Serial returns a path at which nothing listens, or "".
func (v *VM) Serial() string { return v.serial }

// Events returns the VM's events.
func (v *VM) Events() <-chan hypervisor.Event { return v.life.Events() }

// Pause halts the VM.
func (v *VM) Pause(ctx context.Context) error {
	if err := v.alive(ctx, "fake.Pause"); err != nil {
		return err
	}
	v.life.Move(hypervisor.Paused, "paused")
	return nil
}

// Resume lets a Paused VM run.
func (v *VM) Resume(ctx context.Context) error {
	if err := v.alive(ctx, "fake.Resume"); err != nil {
		return err
	}
	if v.Status().State == hypervisor.Paused {
		v.run()
	}
	return nil
}

// alive refuses for a VM in a final state and for a ctx that has ended.
func (v *VM) alive(ctx context.Context, op string) error {
	if s := v.Status(); s.State.Final() {
		return errs.New(op, errs.Conflict, v.name, "the VM is "+s.State.String()+": "+s.Reason)
	}
	if ctx.Err() != nil {
		return errs.E(op, errs.Canceled, v.name, context.Cause(ctx))
	}
	return nil
}

// Stop asks the scripted guest to shut down.
func (v *VM) Stop(ctx context.Context, opt hypervisor.StopOptions) error {
	err := v.orderly(ctx, opt)
	if err != nil && opt.Force && ctx.Err() == nil {
		return v.Kill(ctx)
	}
	return err
}

func (v *VM) orderly(ctx context.Context, opt hypervisor.StopOptions) error {
	const op = "fake.Stop"
	switch s := v.Status(); {
	case s.State.Final():
		return nil
	case s.State == hypervisor.Paused:
		return errs.New(op, errs.Conflict, v.name, "a paused guest cannot shut down")
	}
	v.life.Move(hypervisor.Stopping, "")
	obeys := time.NewTimer(v.script.StopAfter)
	defer obeys.Stop()
	if v.script.Deaf {
		obeys.Stop()
	}
	limit := time.NewTimer(opt.EffectiveLimit())
	defer limit.Stop()
	select {
	case <-obeys.C:
		v.PowerOff()
		return nil
	case <-v.life.Ended():
		return nil
	case <-ctx.Done():
		v.life.Move(hypervisor.Running, "the guest did not shut down")
		return errs.E(op, errs.Canceled, v.name, context.Cause(ctx))
	case <-limit.C:
		v.life.Move(hypervisor.Running, "the guest did not shut down")
		return errs.New(op, errs.Transient, v.name, "the guest did not shut down in "+opt.EffectiveLimit().String())
	}
}

// Kill ends the VM at once.
func (v *VM) Kill(ctx context.Context) error {
	v.end(hypervisor.Stopped, "killed")
	return nil
}

// Wait returns the final status once there is one.
func (v *VM) Wait(ctx context.Context) (hypervisor.Status, error) { return v.life.Wait(ctx) }
