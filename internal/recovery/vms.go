package recovery

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// adopt finds the VMs an earlier life of the process started.
func (r *Run) adopt(ctx context.Context) error {
	if r.hasAdopted() {
		return nil
	}
	if _, err := r.s.fs.Stat(r.path("vms")); errs.Is(err, errs.NotFound) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.adopted = true
		return nil
	}
	vms, err := r.s.opts.Provider.Adopt(ctx, r.path("vms"))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, vm := range vms {
		if !vm.Status().State.Final() {
			r.vms[vm.ID()] = vm
		}
	}
	r.adopted = err == nil
	return err
}

func (r *Run) hasAdopted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.adopted
}

// vm returns a VM that has not ended, or nil.
func (r *Run) vm(id dr.VMID) hypervisor.VM {
	r.mu.Lock()
	defer r.mu.Unlock()
	if vm := r.vms[id]; vm != nil && !vm.Status().State.Final() {
		return vm
	}
	return nil
}

// VM returns a running VM of the run by the name or id it has here; nil: none.
func (r *Run) VM(nameOrID string) hypervisor.VM {
	for _, v := range r.Record().VMs {
		if v.Config.Name == nameOrID || v.Config.ID.String() == nameOrID {
			return r.vm(v.Config.ID)
		}
	}
	return nil
}

// Recovery path, step 9: boot. VMs are built from their configuration at the
// point, not of today, and started in their order; those of a test reach no
// network.

// boot starts what does not run yet, group after group.
func (r *Run) boot(ctx context.Context) error {
	rec := r.Record()
	if rec.Request.NoBoot {
		return nil
	}
	if err := durable.MkdirAll(r.s.fs, r.path("vms")); err != nil {
		return err
	}
	if err := durable.MkdirAll(r.s.fs, r.path("evidence")); err != nil {
		return err
	}
	if err := r.adopt(ctx); err != nil {
		return err
	}
	var err error
	if rec.Watch == Untouched && r.watches() {
		err = r.bootWatched(ctx)
	} else {
		err = r.bootPlain(ctx)
	}
	if err != nil || !rec.BootedAt.IsZero() {
		return err
	}
	return r.change(func(rec *Record) {
		rec.BootedAt = r.s.now().UTC()
		if rec.Request.Auto != Wait {
			rec.Decide = rec.BootedAt.Add(rec.Request.After)
		}
	})
}

// bootPlain starts VMs that nobody watches, or is to watch anew: what an earlier
// life of the process began to watch and did not is given up first.
func (r *Run) bootPlain(ctx context.Context) error {
	if rec := r.Record(); rec.Watch == Begun && !rec.launched(drvaBox) && r.s.opts.Site != nil {
		if err := r.unwatch(ctx); err != nil {
			return err
		}
	}
	return r.inTurn(ctx, func(ctx context.Context, v *VMRecord) error { return r.bootOne(ctx, v, false) })
}

// inTurn does something to each VM, group after group. One that fails keeps no
// other of its group from it.
func (r *Run) inTurn(ctx context.Context, do func(context.Context, *VMRecord) error) error {
	rec := r.Record()
	booted := int64(0)
	for from := 0; from < len(rec.VMs); {
		to := from
		for to < len(rec.VMs) && rec.VMs[to].Group == rec.VMs[from].Group {
			to++
		}
		var mu sync.Mutex
		var failed []error
		var g errgroup.Group
		g.SetLimit(rec.Request.parallel())
		for _, v := range rec.VMs[from:to] {
			g.Go(func() error {
				err := do(ctx, &v)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed = append(failed, errs.E("recovery.boot", errs.Internal, v.Config.Name, err))
				}
				booted++
				r.progress(booted, int64(len(rec.VMs)))
				return nil
			})
		}
		_ = g.Wait() // each says how it went in failed
		if len(failed) > 0 {
			return errors.Join(failed...)
		}
		from = to
	}
	return nil
}

// bootOne starts a VM, unless it runs, and records it; paused: before its first
// instruction.
func (r *Run) bootOne(ctx context.Context, v *VMRecord, paused bool) error {
	if v.Recorded == nil {
		return r.warn(errs.New("recovery.boot", errs.NotFound, v.Config.Name, v.Error).WithRemedy("attach its disks to a VM by hand"))
	}
	vm := r.vm(v.Config.ID)
	if vm == nil && r.Record().Request.down(v) {
		return nil
	}
	var err error
	if vm == nil {
		started := func(hypervisor.VM) {}
		if r.s.turn != nil {
			if started, err = r.s.turn(r.Record().ID, v.Config.ID); err != nil {
				return err
			}
		}
		spec := r.spec(v)
		spec.Paused = paused
		if vm, err = r.s.opts.Provider.Start(ctx, spec); err != nil {
			vm = nil
		}
		started(vm)
	} else if !paused && vm.Status().State == hypervisor.Paused {
		err = vm.Resume(ctx) // a start that a crash cut off, or a disk that was away
	}
	if err != nil {
		return errors.Join(err, r.noteVM(v.Config.ID, func(v *VMRecord) { v.State, v.Error = "failed", err.Error() }))
	}
	r.mu.Lock()
	r.vms[v.Config.ID] = vm
	r.mu.Unlock()
	return r.noteVM(v.Config.ID, func(v *VMRecord) {
		v.State, v.Error, v.Serial, v.Monitor = vm.Status().State.String(), "", vm.Serial(), vm.Monitor()
		if v.Started.IsZero() {
			v.Started = r.s.now().UTC()
		}
	})
}

func (r *Run) noteVM(id dr.VMID, do func(*VMRecord)) error {
	return r.change(func(rec *Record) {
		if v := rec.VM(id); v != nil {
			do(v)
		}
	})
}

// revive has the VMs of a run that rests run again, after their host has lost
// power or the process that served their disks has died.
func (r *Run) revive(ctx context.Context) error {
	if !r.Record().runs() {
		return nil
	}
	again := []func(context.Context) error{r.plan, r.hydrate, r.boot}
	if r.fill != nil {
		r.fill.again() // the disks are served: nothing of the store is needed
		again = again[2:]
	}
	if r.Record().Committed {
		again = append(again, r.protect)
	}
	for _, do := range again {
		if err := do(ctx); err != nil {
			return err
		}
	}
	if r.Record().Committed {
		if err := r.define(ctx); err != nil {
			return err
		}
	}
	return r.change(func(rec *Record) { rec.Error, rec.Kind, rec.Remedy = "", "", "" })
}

// spec is what a VM is started from.
func (r *Run) spec(v *VMRecord) hypervisor.Spec {
	rec := r.Record()
	q := &rec.Request
	s := hypervisor.Spec{Config: v.Config, Sources: map[dr.DiskID]hypervisor.Source{}}
	s.WorkDir, s.Keep, s.Serial, s.Screen, s.Agent = r.path("vms"), true, true, true, true
	s.SerialLog = r.path("evidence", r.evidenceName(v)+".serial.log")
	s.Accelerator, s.ExitOnReset = q.Accelerator, q.ExitOnReset
	s.Networks = map[string]hypervisor.Network{}
	for _, n := range v.Config.NICs {
		s.Networks[n.Network] = q.Networks[n.Network] // what is mapped to nothing is isolated
	}
	for _, d := range rec.Disks {
		if d.VM == v.Config.ID {
			s.Sources[d.ID] = r.diskSource(&d)
		}
	}
	return s
}

// diskSource is where a VM finds a disk when it starts.
func (r *Run) diskSource(d *DiskRecord) hypervisor.Source {
	src := hypervisor.Source{Path: r.diskPath(d)}
	if r.fill != nil {
		src = r.fill.where(r, d)
	}
	return src
}

func (r *Run) evidenceName(v *VMRecord) string { return fileName(v.Config.Name, v.Config.ID.UUID) }

// stop ends every VM of the run, by force: their disks go.
func (r *Run) stop(ctx context.Context) error {
	if err := r.adopt(ctx); err != nil {
		return err
	}
	if err := r.lastLook(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	vms := make([]hypervisor.VM, 0, len(r.vms))
	for _, vm := range r.vms {
		vms = append(vms, vm)
	}
	r.mu.Unlock()
	var all error
	for _, vm := range vms {
		if err := vm.Kill(ctx); err != nil {
			all = errors.Join(all, errs.E("recovery.stop", errs.Internal, vm.Name(), err))
		}
	}
	if all != nil {
		return all
	}
	r.mu.Lock()
	clear(r.vms)
	r.mu.Unlock()
	if d, ok := r.s.opts.Provider.(hypervisor.Definer); ok && r.Record().Committed {
		return d.Undefine(ctx, r.path("vms"))
	}
	return nil
}

// define has the platform keep the VMs of a committed run as its own, if it keeps
// books; those whose disks are still being filled once that is done.
func (r *Run) define(ctx context.Context) error {
	d, ok := r.s.opts.Provider.(hypervisor.Definer)
	rec := r.Record()
	if !ok || !rec.Hydrated {
		return nil
	}
	if err := r.adopt(ctx); err != nil {
		return err
	}
	for _, v := range rec.VMs {
		vm := r.vm(v.Config.ID)
		if vm == nil {
			continue
		}
		if err := d.Define(ctx, vm); err != nil {
			return errs.E("recovery.define", errs.Internal, vm.Name(), err)
		}
	}
	return nil
}

// evidence looks at every VM's screen once it had time to come up.
func (r *Run) evidence(ctx context.Context) error {
	wait := r.Record().Request.Evidence
	if wait == 0 && r.Record().Operation == Test {
		wait = evidenceWait
	}
	if wait == 0 {
		return nil
	}
	t := newTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return errs.E("recovery.evidence", errs.Canceled, r.dir, context.Cause(ctx))
	}
	return r.lastLook(ctx)
}

// lastLook takes screenshots, and bounds the serial logs. What cannot be seen is
// a warning.
func (r *Run) lastLook(ctx context.Context) error {
	for _, v := range r.Record().VMs {
		if err := r.boundSerial(&v); err != nil {
			if err := r.warn(err); err != nil {
				return err
			}
		}
		vm := r.vm(v.Config.ID)
		if vm == nil {
			continue
		}
		shot, err := vm.Screenshot(ctx)
		if err == nil && len(shot) > maxShot {
			err = errs.New("recovery.evidence", errs.Full, v.Config.Name, "the screenshot is larger than any may be")
		}
		name := r.evidenceName(&v) + ".png"
		if err == nil {
			err = durable.WriteFile(r.s.fs, r.path("evidence", name), shot)
		}
		if err != nil {
			err = r.warn(errs.E("recovery.evidence", errs.Internal, v.Config.Name, fmt.Errorf("no screenshot: %w", err)))
		} else {
			err = r.noteVM(v.Config.ID, func(v *VMRecord) { v.Shot = name })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// boundSerial keeps the end of a serial log that has grown too long. The
// hypervisor appends to it, so that it may be cut while a guest speaks: what is
// said in between is lost.
func (r *Run) boundSerial(v *VMRecord) error {
	path := r.path("evidence", r.evidenceName(v)+".serial.log")
	st, err := r.s.fs.Stat(path)
	if err != nil || st.Size <= 2*maxSerial {
		return nil //nolint:nilerr // there is no log: nothing to bound
	}
	keep := make([]byte, maxSerial)
	n, err := durable.ReadRange(r.s.fs, path, keep, st.Size-maxSerial)
	if err != nil {
		return err
	}
	f, err := r.s.fs.OpenFile(path, durable.Write)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		err = f.WriteAtv([][]byte{keep[:n]}, 0)
	}
	return errors.Join(err, f.Close())
}
