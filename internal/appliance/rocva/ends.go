package rocva

import (
	"context"
	"encoding/json"

	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/recovery"
)

// Discard ends a test, or rolls a recovery back: VMs, disks, pins and the fork go.
func (s *Appliance) Discard(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	action := recovery.Rollback
	if in.Test {
		action = recovery.Cleanup
	}
	res, err := gone(s.job(ctx, a, use{domain: in.Domain, test: in.Test, job: string(action)}, func(o *owned) func(context.Context) error {
		return func(ctx context.Context) error {
			return o.run.DoWith(ctx, action, recovery.ActOptions{Force: in.Forced && in.Test})
		}
	}))
	s.keepWarm() // of a domain that is recovered no more
	return res, err
}

// Return looks that the fork is gone: it goes with the disks.
func (s *Appliance) Return(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	err := s.with(ctx, a, use{domain: in.Domain}, func(o *owned) error {
		return errs.New("rocva.Return", errs.Conflict, string(in.Domain), "its recovery is "+string(o.run.Record().State)).WithRemedy("roll back again")
	})
	return gone(runs.Result{}, err)
}

// Promote ends the recovery, and commits it; it is done when its disks are whole.
func (s *Appliance) Promote(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	// Who fills the disks of a run that is committed goes on undisturbed.
	r, err := s.look(ctx, a, in.Domain, false)
	if err != nil {
		return runs.Result{}, err
	}
	if rec := r.Record(); !rec.Committed || rec.State.Active() {
		res, err := s.job(ctx, a, use{domain: in.Domain, job: "commit"}, func(o *owned) func(context.Context) error {
			return func(ctx context.Context) error { return commit(ctx, o.run) }
		})
		if err != nil || res.Again > 0 {
			return res, err
		}
	}
	if r.Record().Hydrated {
		return runs.Result{}, nil
	}
	if n := r.Status().Hydration; n != nil {
		a.Progress(n.Bytes, n.Total)
	}
	return runs.Result{Again: jobEvery, Memory: json.RawMessage(`{"job":true}`)}, nil
}

func commit(ctx context.Context, r *recovery.Run) error {
	rec := r.Record()
	if rec.Committed && !rec.State.Active() {
		return nil
	}
	if rec.Action == recovery.Recover && rec.State != recovery.BeforeCommit {
		for i := range rec.VMs { // what the plan has not started stays down
			v := &rec.VMs[i]
			if v.Recorded == nil || !v.Started.IsZero() {
				continue
			}
			o := rec.Request.Overrides[v.Source.String()]
			o.Down = true
			if err := r.Place(v.Source, o, nil); err != nil {
				return err
			}
		}
		if err := r.Do(ctx, recovery.Recover); err != nil {
			return err
		}
	}
	return r.Do(ctx, recovery.Commit)
}

// Protect looks that the commit has prepared the protection here.
func (s *Appliance) Protect(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return s.committed(ctx, a, in)
}

// Reverse looks that the domain goes on here: its history has from the fence on.
func (s *Appliance) Reverse(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return s.committed(ctx, a, in)
}

func (s *Appliance) committed(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return runs.Result{AlreadyDone: true, Note: "it comes with the commit"}, s.with(ctx, a, use{domain: in.Domain, lives: true}, func(o *owned) error {
		if rec := o.run.Record(); !rec.Committed {
			return errs.New("rocva.Protect", errs.Conflict, string(in.Domain), "its recovery is "+string(rec.State)).WithRemedy("commit it first")
		}
		return nil
	})
}

// Resync waits for the first recovery point here.
func (s *Appliance) Resync(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return s.job(ctx, a, use{domain: in.Domain, job: "reprotect", lives: true}, func(o *owned) func(context.Context) error {
		return func(ctx context.Context) error {
			if o.run.Record().State == recovery.Protected {
				return nil
			}
			return o.run.Do(ctx, recovery.Reprotect)
		}
	})
}
