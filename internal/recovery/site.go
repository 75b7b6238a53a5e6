package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Source is the site that protects the domain now, as a planned migration needs
// it. Methods are called one at a time.
type Source interface {
	// Sync waits until every write so far of every disk is on its way: no copy or
	// resync is under way. Kinds: Unavailable (a box does not answer), Conflict
	// (protection is paused), Canceled.
	Sync(ctx context.Context) error
	// Running lists the VMs that run there.
	Running(ctx context.Context) ([]dr.VMID, error)
	// Shutdown shuts a guest down in order and returns when it is off. Kinds:
	// Transient (it did not obey).
	Shutdown(ctx context.Context, vm dr.VMID) error
	// Start starts a VM again; no effect on one that runs.
	Start(ctx context.Context, vm dr.VMID) error
	// Checkpoint cuts a checkpoint that holds every write so far and returns when
	// it is published.
	Checkpoint(ctx context.Context, tag string) (dr.CheckpointID, error)
	// Close lets go of the site; it changes nothing there.
	Close() error
}

// reach opens the source once in this process's life.
func (r *Run) reach(ctx context.Context) (Source, error) {
	if r.source != nil {
		return r.source, nil
	}
	if r.s.opts.Source == nil {
		return nil, errs.New("recovery.source", errs.Invalid, r.dir, "this service reaches no source site")
	}
	s, err := r.s.opts.Source(ctx, r.Record().Request.Source)
	if err == nil {
		r.source = s
	}
	return s, err
}

// preSync has the source publish what it has, so that little is left to do while
// its guests are off.
func (r *Run) preSync(ctx context.Context) error {
	s, err := r.reach(ctx)
	if err != nil {
		return err
	}
	if err := s.Sync(ctx); err != nil {
		return err
	}
	_, err = s.Checkpoint(ctx, r.label())
	return err
}

// shutDown shuts the source's guests down, those that start last first. Which
// ones is on record before the first is told, so that unwinding starts no other.
func (r *Run) shutDown(ctx context.Context) error {
	s, err := r.reach(ctx)
	if err != nil {
		return err
	}
	running, err := s.Running(ctx)
	if err != nil {
		return err
	}
	rec := r.Record()
	var order []dr.VMID
	for _, v := range slices.Backward(rec.VMs) {
		if slices.Contains(running, v.Source) {
			order = append(order, v.Source)
		}
	}
	if err := r.change(func(rec *Record) {
		for _, id := range order {
			if !slices.Contains(rec.Stopped, id) {
				rec.Stopped = append(rec.Stopped, id)
			}
		}
	}); err != nil {
		return err
	}
	for i, id := range order {
		if err := s.Shutdown(ctx, id); err != nil {
			return errs.E("recovery.shutdown", errs.Internal, id.String(), fmt.Errorf("the guest was not shut down: %w", err))
		}
		r.progress(int64(i+1), int64(len(order)))
	}
	return nil
}

// finalSync has the source publish its last checkpoint, and demands that it is
// one of the whole domain.
func (r *Run) finalSync(ctx context.Context) error {
	s, err := r.reach(ctx)
	if err != nil {
		return err
	}
	running, err := s.Running(ctx)
	if err != nil {
		return err
	}
	if stray := slices.DeleteFunc(running, func(id dr.VMID) bool { return r.notRecovered(id) }); len(stray) > 0 {
		return errs.New("recovery.finalSync", errs.Conflict, stray[0].String(), "the guest runs at the source again").
			WithRemedy("see who started it; then resume")
	}
	if err := s.Sync(ctx); err != nil {
		return err
	}
	id, err := s.Checkpoint(ctx, r.label())
	if err != nil {
		return err
	}
	h, err := r.readHistory(ctx)
	if err != nil {
		return err
	}
	if err := r.pick(h, fmt.Sprint(uint64(id))); err != nil {
		return err
	}
	if cp := r.Record().Checkpoint; cp.Scope != dr.Group {
		return notWhole(brief(cp))
	}
	return nil
}

// notRecovered reports whether a VM is none of those the run recovers.
func (r *Run) notRecovered(id dr.VMID) bool {
	return !slices.ContainsFunc(r.Record().VMs, func(v VMRecord) bool { return v.Source == id })
}

// restart starts the source's guests that the run shut down.
func (r *Run) restart(ctx context.Context) error {
	rec := r.Record()
	if len(rec.Stopped) == 0 {
		return nil
	}
	s, err := r.reach(ctx)
	if err != nil {
		return err
	}
	var all error
	for _, id := range slices.Backward(rec.Stopped) {
		if err := s.Start(ctx, id); err != nil {
			all = errors.Join(all, errs.E("recovery.restart", errs.Internal, id.String(), err))
		}
	}
	if all != nil {
		return all
	}
	if rec.Action == Rollback || rec.triedFence() {
		if err := r.warn(errs.New("recovery.restart", errs.Fenced, rec.Request.URL, "the source's guests run again, and its DRVA may have been fenced").
			WithRemedy("start the source's DRVA again: it goes on with its own log")); err != nil {
			return err
		}
	}
	return r.change(func(rec *Record) { rec.Stopped = nil })
}

// triedFence reports whether the source's publisher may have been shut out.
func (rec *Record) triedFence() bool {
	return slices.ContainsFunc(rec.Steps, func(s StepRecord) bool { return s.Name == "fence" })
}
