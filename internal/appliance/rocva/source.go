package rocva

import (
	"context"
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/recovery"
)

// This appliance is the protected site of the domains that live in a committed recovery
// of it: their guests, their disks and what protects them are here.

// leaving has f work on the run a domain lives in.
func (s *Appliance) leaving(ctx context.Context, a *operate.Act, f func(*owned) error) error {
	o, err := s.living(a.Domain)
	if err != nil {
		return err
	}
	return s.hold(ctx, a, o, "", nil, func(o *owned) error {
		if err := o.run.Refresh(ctx); err != nil {
			return err
		}
		return f(o)
	})
}

// Sync has everything published that the guests wrote: a final one when none runs.
func (s *Appliance) Sync(ctx context.Context, a *operate.Act, in *plan.DomainInputs, final bool) (res runs.Result, err error) {
	err = s.leaving(ctx, a, func(o *owned) error {
		if final {
			if err := s.rest(ctx, o, in.VMs); err != nil && a.Step.OnError == runs.Stop {
				return err
			} else if err != nil {
				a.Warn(err.Error())
			}
		}
		src, err := o.run.Source(ctx)
		if err != nil {
			return err
		}
		if err := src.Sync(ctx); err != nil {
			return err
		}
		if err := a.Hold(ctx); err != nil {
			return err
		}
		id, err := src.Checkpoint(ctx, "plan "+string(a.Plan))
		res.Note = fmt.Sprintf("checkpoint %d", id)
		return err
	})
	return res, err
}

// off demands that none of the VMs runs.
func off(ctx context.Context, r *recovery.Run, vms []dr.VMID) error {
	for _, v := range r.Record().VMs {
		if !slices.Contains(vms, v.Source) {
			continue
		}
		up, err := r.Alive(ctx, v.Source)
		if err != nil {
			return err
		}
		if up {
			return errs.New("rocva.SourceOff", errs.Conflict, v.Config.Name, "it runs at the protected site").WithRemedy("see who started it")
		}
	}
	return nil
}

// rest demands that none of the VMs runs, and that nothing here starts one from then on
// while the domain leaves.
func (s *Appliance) rest(ctx context.Context, o *owned, vms []dr.VMID) error {
	if err := off(ctx, o.run, vms); err != nil {
		return err
	}
	for _, v := range o.run.Record().VMs {
		if !slices.Contains(vms, v.Source) {
			continue
		}
		if o.pending(o.run, v.Source, s.now()) {
			return errs.New("rocva.SourceOff", errs.Conflict, v.Config.Name, "it ended, and is about to be started again").WithRemedy("shut it down first")
		}
		if err := o.run.KeepDown(v.Source, true); err != nil {
			return err
		}
	}
	return nil
}

// Running reports whether a VM runs here: in the recovery its domain lives in, or, of a
// domain that does not live here, as one of the site's platform.
func (s *Appliance) Running(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (bool, error) {
	o, err := s.living(a.Domain)
	if errs.Is(err, errs.NotFound) && s.platform() != nil {
		v, err := s.stranger(ctx, vm)
		if errs.Is(err, errs.NotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		info, err := v.Info(ctx)
		return info.Running, err
	}
	if err != nil {
		return false, err
	}
	if o.mu.TryLock() { // else a step has it, which looked as well
		defer o.mu.Unlock()
		if o.run != nil {
			if err := o.run.Refresh(ctx); err != nil {
				return false, err
			}
		}
	}
	r := o.seen.Load()
	if r == nil {
		return false, errs.New("rocva.Running", errs.Unavailable, "domain "+string(a.Domain), "its recovery was given up by this process").WithRemedy("start the appliance again")
	}
	up, err := r.Alive(ctx, vm.VM)
	return up || err == nil && o.pending(r, vm.VM, s.now()), err // one that is started again must be shut down as well
}

// Shutdown asks a guest to shut down, and does not wait.
func (s *Appliance) Shutdown(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	return s.leaving(ctx, a, func(o *owned) error {
		if err := o.run.KeepDown(vm.VM, true); err != nil {
			return err
		}
		v, err := o.run.Handle(ctx, vm.VM)
		if err != nil || v == nil {
			return err
		}
		go func() { // a press of the button may be missed: it is pressed until the guest is off
			if err := v.Stop(context.WithoutCancel(ctx), hypervisor.StopOptions{Limit: shutdownLimit}); err != nil {
				s.log.Warn("a guest did not shut down", "vm", vm.Name, "err", err)
			}
		}()
		return nil
	})
}

// Cut takes a VM's power.
func (s *Appliance) Cut(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	return s.leaving(ctx, a, func(o *owned) error {
		if err := o.run.KeepDown(vm.VM, true); err != nil {
			return err
		}
		return o.run.StopVM(ctx, vm.VM)
	})
}

// SourceOff sees that nothing of the domain runs.
func (s *Appliance) SourceOff(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return runs.Result{}, s.leaving(ctx, a, func(o *owned) error { return s.rest(ctx, o, in.VMs) })
}

// StartSource starts a VM again that a plan's run has shut down here.
func (s *Appliance) StartSource(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (res runs.Result, err error) {
	err = s.leaving(ctx, a, func(o *owned) error {
		up, err := o.run.Alive(ctx, vm.VM)
		if err != nil || up {
			res.AlreadyDone = up
			return err
		}
		if err := o.run.KeepDown(vm.VM, false); err != nil {
			return err
		}
		return s.inTurn(&res, o.run.Resume(ctx, ""))
	})
	return res, err
}

// Retire sees that an old VM here is off, and stays so; its disks stay. One of the site's
// platform gets another name.
func (s *Appliance) Retire(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	err := s.leaving(ctx, a, func(o *owned) error {
		up, err := o.run.Alive(ctx, vm.VM)
		if err == nil && up {
			err = errs.New("rocva.Retire", errs.Conflict, string(vm.Name), "it runs").WithRemedy("shut it down first")
		}
		if err != nil {
			return err
		}
		return o.run.KeepDown(vm.VM, true)
	})
	if !errs.Is(err, errs.NotFound) {
		return runs.Result{}, err
	}
	return s.retireStranger(ctx, a, vm)
}

// Clean ends the recovery a domain lived in, which it has left: VMs and their protection
// go, disks become seeds of the way back.
func (s *Appliance) Clean(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	err := s.leaving(ctx, a, func(o *owned) error {
		if err := off(ctx, o.run, in.VMs); err != nil {
			return err
		}
		if err := s.sow(o.run.Dir(), o.run.Record()); err != nil {
			return err
		}
		// By force, since it was committed; that the domain has moved on is looked at all
		// the same.
		return o.run.DoWith(ctx, recovery.Cleanup, recovery.ActOptions{Force: true})
	})
	return gone(runs.Result{}, err)
}
