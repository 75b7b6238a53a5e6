package recovery

import (
	"context"
	"maps"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// Steps of Recover behind which ActOptions.Until may stop.
const (
	UntilPinned   = "pin"     // Test: the checkpoint is chosen and held
	UntilForked   = "fork"    // Disaster: the old history is ended, the new one begun
	UntilHydrated = "hydrate" // VMs can be started
)

// Place changes how a VM of the run, by its id in the container, is built here, and
// says what stands behind networks that o names. No effect on one that was started.
// Kinds: NotFound, those of writing the record.
func (r *Run) Place(vm dr.VMID, o Override, networks map[string]hypervisor.Network) error {
	found := false
	err := r.change(func(rec *Record) {
		if rec.Request.Networks == nil {
			rec.Request.Networks = map[string]hypervisor.Network{}
		}
		maps.Copy(rec.Request.Networks, networks)
		if rec.Request.Overrides == nil {
			rec.Request.Overrides = map[string]Override{}
		}
		for i := range rec.VMs {
			v := &rec.VMs[i]
			if v.Source != vm || v.Recorded == nil {
				continue
			}
			found = true
			if !v.Started.IsZero() {
				continue
			}
			was := v.Config
			rec.Request.Overrides[vm.String()] = o
			v.Config = rec.Request.apply(*v.Recorded)
			v.Config.ID, v.Config.Disks = was.ID, was.Disks // as they were laid out
		}
	})
	if err == nil && !found {
		err = errs.New("recovery.Place", errs.NotFound, vm.String(), "the run has no such VM, or no configuration of it")
	}
	return err
}

// Build says how the disks of a run are to be built whose point is chosen, and which are
// not begun: the mode, and the disks that are there already. Kinds: Invalid, Conflict
// (they are begun), those of writing the record.
func (r *Run) Build(mode Mode, standby string, onto map[dr.DiskID]string) error {
	const op = "recovery.Build"
	rec := r.Record()
	if rec.step("hydrate") != nil {
		return errs.New(op, errs.Conflict, r.dir, "its disks are begun already")
	}
	q := rec.clone().Request
	q.Mode, q.Standby, q.Onto = mode, standby, onto
	if err := q.check(); err != nil {
		return errs.E(op, errs.Invalid, r.dir, err)
	}
	return r.change(func(rec *Record) { rec.Request.Mode, rec.Request.Standby, rec.Request.Onto = mode, standby, onto })
}

// Building reports whether disks of the run's current try are begun.
func (r *Run) Building() bool { return r.Record().step("hydrate") != nil }

// KeepDown says whether a VM, by its id in the container, stays down when it has ended:
// one that somebody shut down is not started by Resume. Kinds: those of writing the record.
func (r *Run) KeepDown(vm dr.VMID, down bool) error {
	if rec := r.Record(); rec.Request.Overrides[vm.String()].Down == down {
		return nil
	}
	return r.change(func(rec *Record) {
		if rec.Request.Overrides == nil {
			rec.Request.Overrides = map[string]Override{}
		}
		o := rec.Request.Overrides[vm.String()]
		o.Down = down
		rec.Request.Overrides[vm.String()] = o
	})
}

// StartVM starts one VM of a run whose disks can be read, by its id in the container;
// no effect on one that runs. It is for who starts VMs in an order of his own: nobody
// watches them then, and what they wrote is found by comparing when they are protected.
// Kinds: NotFound, Conflict (there are no disks yet), those of the hypervisor.
func (r *Run) StartVM(ctx context.Context, vm dr.VMID) error {
	const op = "recovery.StartVM"
	rec := r.Record()
	if rec.State != Hydrating && !rec.runs() && rec.State != Booting {
		return errs.New(op, errs.Conflict, r.dir, "the run is "+string(rec.State))
	}
	for _, d := range []string{r.path("vms"), r.path("evidence")} {
		if err := durable.MkdirAll(r.s.fs, d); err != nil {
			return err
		}
	}
	if err := r.adopt(ctx); err != nil {
		return err
	}
	if err := r.change(func(rec *Record) { rec.Watch = Unwatched }); err != nil {
		return err
	}
	for i := range rec.VMs {
		if rec.VMs[i].Source == vm {
			return r.bootOne(ctx, &rec.VMs[i], false)
		}
	}
	return errs.New(op, errs.NotFound, vm.String(), "the run has no such VM")
}

// StopVM ends a VM of the run at once, by its id in the container; no effect on one
// that does not run.
func (r *Run) StopVM(ctx context.Context, vm dr.VMID) error {
	if err := r.adopt(ctx); err != nil {
		return err
	}
	for _, v := range r.Record().VMs {
		if v.Source != vm {
			continue
		}
		if h := r.vm(v.Config.ID); h != nil {
			return h.Kill(ctx)
		}
	}
	return nil
}

// Runs reports whether a VM, by its id in the container, runs here.
func (r *Run) Runs(ctx context.Context, vm dr.VMID) (bool, error) {
	if err := r.adopt(ctx); err != nil {
		return false, err
	}
	for _, v := range r.Record().VMs {
		if v.Source != vm {
			continue
		}
		if h := r.vm(v.Config.ID); h != nil {
			return h.Status().State == hypervisor.Running, nil
		}
	}
	return false, nil
}

// Alive reports whether a VM, by its id in the container, has not ended: it runs, is
// paused, or shuts down.
func (r *Run) Alive(ctx context.Context, vm dr.VMID) (bool, error) {
	h, err := r.Handle(ctx, vm)
	return h != nil, err
}

// Refresh finds VMs of the run that somebody else has started: those of a committed run
// may be the platform's own. It is the owner's, as Do is.
func (r *Run) Refresh(ctx context.Context) error {
	r.mu.Lock()
	r.adopted = false
	r.mu.Unlock()
	return r.adopt(ctx)
}

// Handle returns a VM that has not ended, by its id in the container; nil: there is none.
func (r *Run) Handle(ctx context.Context, vm dr.VMID) (hypervisor.VM, error) {
	if err := r.adopt(ctx); err != nil {
		return nil, err
	}
	for _, v := range r.Record().VMs {
		if v.Source == vm {
			return r.vm(v.Config.ID), nil
		}
	}
	return nil, nil
}

// Unprotected reports whether something has ended of the protection of a committed run.
// It may be asked by any.
func (r *Run) Unprotected() bool {
	rec := r.Record()
	return rec.Committed && rec.Hydrated && slices.ContainsFunc(rec.Launched, func(p Process) bool { return p.hasEnded() })
}

// KeepProtected starts that again. VMs are left as they are.
func (r *Run) KeepProtected(ctx context.Context) error {
	if !r.Unprotected() {
		return nil
	}
	return r.launch(ctx)
}

// Sockets are where the DRVA and the host component of the run's own protection answer,
// if there is one.
func (r *Run) Sockets() (drva, host string) {
	return r.protectPath("drva.sock"), r.protectPath("host.sock")
}
