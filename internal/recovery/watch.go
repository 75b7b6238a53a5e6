package recovery

import (
	"context"
	"errors"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
	"holdfast/internal/iofilter/sidecar"
)

// Watch is how far a run is in having a host component see every write of its
// VMs, so that what they wrote since the point is known when they are protected,
// and nothing is compared. Names are stable. Where that is not so, the disks are
// compared with the container.
//
//	untouched ─▶ begun ─┬─▶ watched
//	      (or none)     └── anything went wrong, or the process died ─▶ begun, for good
//
// A disk's sidecar is made while its VM stands still: before the first
// instruction, or when it moves from the export on which it was filled to its
// file. It goes on when the host component is in the disk's path.
type Watch string

// The stages of a Watch.
const (
	Unwatched Watch = ""          // nobody knows what the VMs wrote
	Untouched Watch = "untouched" // the disks hold the point: no VM has run on them
	Begun     Watch = "begun"     // sidecars are being made, or it was given up
	Watched   Watch = "watched"   // all the VMs write passes the host component
)

// watches reports whether the run's VMs are to be watched before its commit.
func (r *Run) watches() bool {
	rec := r.Record()
	return r.s.opts.Site != nil && !rec.Request.NoProtect && has(rec.Operation, Commit)
}

// watch has the host component in the paths of all disks when it returns. The VMs
// stand still, and the disks hold the point but for what written says. On error
// VMs may go on: their disks are compared.
func (r *Run) watch(ctx context.Context, written func(dr.DiskID) []extent.Range) error {
	rec := r.Record()
	for _, d := range rec.Disks {
		path := iofilter.SidecarPath(r.diskPath(&d))
		if path == "" {
			continue // a device: it has none, and is compared
		}
		var open []sidecar.Range
		for _, x := range written(d.Source) {
			open = append(open, sidecar.Range{Off: x.Off, N: x.Len})
		}
		run := dr.OriginRun(rec.Fork, rec.Checkpoint.ID, rec.Checkpoint.Seq, d.ID)
		if err := sidecar.Create(r.s.fs, path, sidecar.Identity{Disk: d.ID, Size: d.Size}, run, open); err != nil {
			return err
		}
	}
	err := r.configure(ctx, true)
	if err == nil {
		err = r.start(ctx, hostBox)
	}
	if err == nil {
		err = r.inPath(ctx)
	}
	if err == nil {
		err = r.change(func(rec *Record) { rec.Watch = Watched })
	}
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	err = errors.Join(err, r.unwatch(undo))
	if ctx.Err() != nil {
		return errs.E("recovery.watch", errs.Canceled, r.dir, err)
	}
	return r.warn(errs.E("recovery.watch", errs.Internal, r.dir, err).WithRemedy("none is needed: when the VMs are protected their disks are compared with the container"))
}

// inPath waits until the host component is in the path of every disk. A VM that
// ends meanwhile ends the wait: it would never come.
func (r *Run) inPath(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, watchLimit, errors.New("the host component did not get into the VMs' paths in time"))
	defer cancel()
	disks := r.Record().Disks
	return poll(ctx, "recovery.watch", r.protectPath("host.sock"), func(h *iofilter.Status) (bool, error) {
		for _, d := range disks {
			if r.vm(d.VM) == nil {
				return false, errs.New("recovery.watch", errs.Unavailable, d.VM.String(), "this VM has ended")
			}
			in := false
			for _, have := range h.Disks {
				in = in || have.ID == d.ID && have.Clients > 0
			}
			if !in {
				return false, nil
			}
		}
		return live.Settled(r.s.fs, r.protectPath("live.json"))
	})
}

// unwatch ends a host component of which nobody knows how far it came, before the
// VMs go on: what it was told of disks that stand still is not true any more.
func (r *Run) unwatch(ctx context.Context) error {
	if err := r.endProcesses(ctx); err != nil {
		return err
	}
	return durable.RemoveTree(r.s.fs, r.protectPath())
}

// bootWatched starts every VM before its first instruction, has it watched, and
// lets it run in its group's turn.
func (r *Run) bootWatched(ctx context.Context) error {
	if err := r.change(func(rec *Record) { rec.Watch = Begun }); err != nil {
		return err
	}
	if err := r.inTurn(ctx, func(ctx context.Context, v *VMRecord) error { return r.bootOne(ctx, v, true) }); err != nil {
		return err
	}
	if err := r.watch(ctx, func(dr.DiskID) []extent.Range { return nil }); err != nil {
		return err
	}
	return r.inTurn(ctx, func(ctx context.Context, v *VMRecord) error { return r.bootOne(ctx, v, false) })
}

// standStill halts the VMs of the run that run, and returns how to let them go
// on.
func (r *Run) standStill(ctx context.Context) (goOn func(context.Context) error, err error) {
	var halted []hypervisor.VM
	begin := time.Now()
	goOn = func(ctx context.Context) error {
		var all error
		for _, vm := range halted {
			if vm.Status().State.Final() {
				continue
			}
			if err := vm.Resume(ctx); err != nil && !hasEnded(ctx, vm) {
				all = errors.Join(all, errs.E("recovery.resume", errs.Internal, vm.Name(), err))
			}
		}
		r.s.log.Info("the VMs go on", "run", r.dir, "pause", time.Since(begin))
		return all
	}
	for _, v := range r.Record().VMs {
		vm := r.vm(v.Config.ID)
		if vm == nil || vm.Status().State != hypervisor.Running {
			continue
		}
		if err := vm.Pause(ctx); err != nil {
			if hasEnded(ctx, vm) {
				continue
			}
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
			defer cancel()
			return nil, errors.Join(errs.E("recovery.pause", errs.Internal, vm.Name(), err), goOn(undo))
		}
		halted = append(halted, vm)
	}
	return goOn, nil
}

// leave moves every VM from the export on which its disks were filled to its
// files. If the run's VMs are watched they stand still for it, until the host
// component is in their paths.
func (r *Run) leave(ctx context.Context) error {
	if !r.watches() || r.Record().Watch != Unwatched {
		return r.switchAll(ctx)
	}
	if err := r.change(func(rec *Record) { rec.Watch = Begun }); err != nil {
		return err
	}
	goOn, err := r.standStill(ctx)
	if err != nil {
		return err
	}
	if err = r.switchAll(ctx); err == nil {
		err = r.watch(ctx, r.fill.set.Written)
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	return errors.Join(err, goOn(undo))
}

// switchAll moves every disk of a VM that runs to its file.
func (r *Run) switchAll(ctx context.Context) error {
	for _, d := range r.Record().Disks {
		vm := r.vm(d.VM)
		if vm == nil {
			continue // it has ended: it finds its disk when it is started again
		}
		sw, err := vm.SwitchDisk(ctx, d.ID)
		if err != nil && hasEnded(ctx, vm) {
			r.s.log.Warn("the VM has ended: it finds its disk when it is started again", "run", r.dir, "vm", vm.Name())
			continue
		}
		if err != nil {
			return errs.E("recovery.switch", errs.Internal, vm.Name(), err)
		}
		r.s.log.Info("disk switched", "vm", vm.Name(), "disk", d.ID.String(), "pause", sw.Pause, "route", sw.Route)
	}
	return nil
}
