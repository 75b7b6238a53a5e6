package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"holdfast/internal/boottrace"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/nbd"
	"holdfast/internal/rocva"
	"holdfast/internal/rocva/ondemand"
)

// nbdName is the socket on which disks are served while they are filled.
const nbdName = "nbd.sock"

// filling is the disks of a run while they are filled and their VMs run on them:
// an NBD server over a Set, and the Set's work in the background.
type filling struct {
	set    *ondemand.Set
	socket string
	ctx    context.Context    // of filling and serving
	stop   context.CancelFunc // ends it
	ran    chan error         // room for one: what the Set's work came to
	served chan error         // room for one: how serving ended
	ended  bool               // it serves and fills no more
	failed error              // of filling; the owner's, as all here
}

// instant opens the disks, serves them and begins to fill them. It returns before
// they are whole.
func (r *Run) instant(ctx context.Context) error {
	rec := r.Record()
	if r.fill != nil {
		return nil
	}
	var targets []rocva.Target
	finished := 0
	for _, d := range rec.Disks {
		path := r.diskPath(&d)
		targets = append(targets, rocva.Target{Disk: d.Source, Path: path})
		done, err := ondemand.Finished(r.s.fs, path)
		if err != nil {
			return err
		}
		if done {
			finished++
		}
	}
	if finished == len(targets) {
		return r.change(func(rec *Record) { rec.Hydrated = true })
	}
	set, err := ondemand.Open(ctx, r.container, r.image, targets, ondemand.Options{
		Prefetch: r.traces(ctx), FS: r.s.opts.FS, Logger: r.s.log, StallLimit: r.s.opts.StallLimit, Rate: rec.Request.Rate,
	})
	if err != nil {
		return err
	}
	f := &filling{set: set, socket: r.path(nbdName), ran: make(chan error, 1), served: make(chan error, 1)}
	if err := f.serve(r, rec); err != nil {
		return errors.Join(err, set.Close())
	}
	r.setFill(f)
	return nil
}

// traces are what the VMs read when they booted before, as far as that is known:
// it only makes boots faster.
func (r *Run) traces(ctx context.Context) (out []ondemand.Trace) {
	for _, v := range r.Record().VMs {
		b, err := r.container.Trace(ctx, v.Source)
		if err == nil && len(b) == 0 {
			continue
		}
		var t boottrace.Trace
		if err == nil {
			t, err = boottrace.Decode(b)
		}
		if err != nil {
			r.s.log.Warn("a boot trace cannot be used: the VM boots without", "vm", v.Config.Name, "err", err)
			continue
		}
		r.s.log.Info("what the VM read when it booted is fetched first", "vm", v.Config.Name, "chunks", len(t.Chunks))
		out = append(out, t)
	}
	return out
}

// keepTraces stores what the VMs read in this boot, for the next one. Where the
// store lets us only read there is none.
func (r *Run) keepTraces(ctx context.Context, set *ondemand.Set) {
	rec := r.Record()
	for _, v := range rec.VMs {
		t := set.Trace(func(id dr.DiskID) bool {
			return slices.ContainsFunc(rec.Disks, func(d DiskRecord) bool { return d.Source == id && d.VM == v.Config.ID })
		})
		if len(t.Chunks) == 0 {
			continue // it never booted
		}
		if err := r.container.PutTrace(ctx, rec.Parent, v.Source, rec.Checkpoint.Seq, t.Encode()); err != nil && !errs.Is(err, errs.Exists) {
			r.s.log.Debug("no boot trace is kept", "vm", v.Config.Name, "err", err)
		}
	}
}

// serve starts the NBD server and the filling.
func (f *filling) serve(r *Run, rec *Record) error {
	var exports []nbd.Export
	for _, d := range rec.Disks {
		exports = append(exports, nbd.Export{Name: d.ID.String(), Disk: f.set.Device(d.Source)})
	}
	srv, err := nbd.NewServer(nbd.Options{Exports: exports, Logger: r.s.log})
	if err != nil {
		return err
	}
	ln, err := nbd.Listen(f.socket)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	f.ctx, f.stop = ctx, stop
	go func() { f.served <- srv.Serve(ctx, ln) }()
	go func() { f.ran <- f.set.Run(ctx) }()
	return nil
}

// again goes on filling after it was given up.
func (f *filling) again() {
	if f.failed == nil {
		return
	}
	f.failed = nil
	go func() { f.ran <- f.set.Run(f.ctx) }()
}

// where is where a VM finds a disk.
func (f *filling) where(r *Run, d *DiskRecord) hypervisor.Source {
	return hypervisor.Source{Socket: f.socket, Export: d.ID.String(), Path: r.diskPath(d)}
}

// progress is how far the disks are.
func (f *filling) progress() *Filling {
	p := f.set.Progress()
	out := &Filling{Rate: p.Rate, ETA: p.ETA.Seconds()}
	for _, d := range p.Disks {
		out.Bytes, out.Total = out.Bytes+d.Present, out.Total+d.Content
	}
	if p.ETA == 0 && !p.Whole {
		out.ETA = -1
	}
	switch {
	case !p.Stalled.IsZero():
		out.Stalled = fmt.Sprintf("the store gives nothing since %s: %v", p.Stalled.UTC().Format(time.RFC3339), p.Why)
	case p.Why != nil:
		out.Stalled = p.Why.Error()
	}
	return out
}

// end stops serving and filling. What guests still wait for is broken off: their
// hypervisor asks again.
func (f *filling) end() error {
	if f.ended {
		return nil
	}
	f.stop()
	f.ended = true
	err := <-f.served
	if _, gone := os.Stat(f.socket); gone == nil {
		err = errors.Join(err, os.Remove(f.socket))
	}
	return err
}

// close lets go of the disks; another life goes on with them.
func (f *filling) close() error { return errors.Join(f.end(), f.set.Close()) }

// discard removes them.
func (f *filling) discard() error { return errors.Join(f.end(), f.set.Discard()) }

func (r *Run) setFill(f *filling) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fill = f
}

// filled gives what filling came to: nil when all disks are whole. It gives
// nothing when none are being filled.
func (r *Run) filled() <-chan error {
	if r.fill == nil {
		return nil
	}
	return r.fill.ran
}

// Recovery path, step 10: fill. Blocks that no guest asked for are fetched in the
// background; then each guest moves to its plain file, without a restart.

// settle moves every VM to its plain files once these are whole, lets go of what
// served them, and protects what is committed.
func (r *Run) settle(ctx context.Context, filled error) error {
	if filled != nil {
		return r.fillFailed(ctx, filled)
	}
	if err := r.leave(ctx); err != nil {
		return err
	}
	f := r.fill
	if err := f.end(); err != nil {
		return err
	}
	fetched := f.set.Progress().Fetched
	r.keepTraces(ctx, f.set)
	if err := f.set.Finish(ctx); err != nil {
		return err
	}
	if err := f.set.Close(); err != nil {
		return err
	}
	r.setFill(nil)
	if err := r.change(func(rec *Record) { rec.Hydrated = true; rec.Bytes += fetched }); err != nil {
		return err
	}
	rec := r.Record()
	if rec.Committed {
		if err := r.define(ctx); err != nil {
			return err
		}
		return r.launch(ctx)
	}
	if rec.Operation == Clone {
		return r.unpin(ctx)
	}
	return nil
}

// hasEnded reports whether a VM that does not answer has ended, or does in a
// moment.
func hasEnded(ctx context.Context, vm hypervisor.VM) bool {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	_, err := vm.Wait(ctx)
	return err == nil
}

// fillFailed notes that the background gave up. Guests go on: what is there is
// read, what is not stalls and fails.
func (r *Run) fillFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	r.s.log.Error("the disks are not filled any more", "run", r.dir, "err", err, "remedy", errs.RemedyOf(err))
	r.fill.failed = err
	return r.change(func(rec *Record) {
		rec.Error, rec.Kind, rec.Remedy = "the disks are not filled any more: "+err.Error(), errs.KindOf(err).String(), errs.RemedyOf(err)
	})
}
