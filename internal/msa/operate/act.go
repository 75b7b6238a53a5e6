package operate

import (
	"context"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// Cancel asks the plan's run to stop: what can be unwound is, and the plan then stands
// where the table allows a way on. Kinds: NotFound, Conflict (nothing runs that could
// be cancelled).
func (o *Operator) Cancel(ctx context.Context, tx *db.Tx, name site.Name, by string) error {
	return o.act(ctx, tx, name, plan.Cancel, by, func(r *row) error { return runs.Cancel(ctx, tx, r.Run, by) })
}

// Answer answers a prompt of the plan's run: its step's number and what is said. The
// plan goes on when no other is open. Kinds: NotFound, Invalid (the answer), Conflict
// (nothing is asked, or somebody was faster).
func (o *Operator) Answer(ctx context.Context, tx *db.Tx, name site.Name, seq int, answer, by string) error {
	return o.act(ctx, tx, name, plan.Answer, by, func(r *row) error { return runs.Answer(ctx, tx, r.Run, seq, answer, by) })
}

// act does what the table admits of a run that is under way.
func (o *Operator) act(ctx context.Context, tx *db.Tx, name site.Name, op plan.Operation, by string, do func(*row) error) error {
	if _, err := o.opts.World.Plan(ctx, tx, name); err != nil {
		return err
	}
	r, err := lock(ctx, tx, name)
	if err != nil {
		return err
	}
	next, _, err := r.Admit(op)
	if err != nil {
		return err
	}
	if err := do(r); err != nil {
		return err
	}
	r.Standing = next
	if err := o.prompts(ctx, tx, r); err != nil { // of several, others may be open
		return err
	}
	if err := r.save(ctx, tx); err != nil {
		return err
	}
	return o.note(ctx, tx, name, string(op), by)
}

// parked takes a plan whose run waits parked.
func parked(ctx context.Context, tx *db.Tx, name site.Name) (*row, error) {
	r, err := lock(ctx, tx, name)
	if err != nil {
		return nil, err
	}
	if r.Run != "" {
		run, err := runs.Get(ctx, tx, r.Run)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return nil, err
		}
		if err == nil && run.State == runs.Parked {
			return r, nil
		}
	}
	return nil, errs.New("operate.Resume", errs.Conflict, "plan "+string(name), "no run of it is parked").WithRemedy("run the operation again instead")
}

// Resume has the plan's parked run go on with what it was doing, undoing included: what
// rerun is to a run that has ended. Kinds: Conflict (none is parked, or the table does
// not allow it).
func (o *Operator) Resume(ctx context.Context, tx *db.Tx, name site.Name, by string) error {
	r, err := parked(ctx, tx, name)
	if err != nil {
		return err
	}
	next, does, err := r.Admit(plan.Rerun)
	if err != nil {
		return err
	}
	if does != r.Doing {
		return errs.New("operate.Resume", errs.Conflict, "plan "+string(name), "rerun is "+string(does)+" now").WithRemedy("begin that")
	}
	if err := runs.Resume(ctx, tx, r.Run, by); err != nil {
		return err
	}
	r.Standing, r.Reason = next, ""
	run, err := runs.Get(ctx, tx, r.Run)
	if err != nil {
		return err
	}
	if !run.Cancelled.IsZero() { // the cancel was under way
		r.State, r.Paused = plan.CancelInProgress, ""
	}
	if err := o.prompts(ctx, tx, r); err != nil {
		return err
	}
	if err := r.save(ctx, tx); err != nil {
		return err
	}
	return o.note(ctx, tx, name, "resume", by)
}

// Skip has the plan's parked run go on, once it is resumed, as if one of its steps were
// done. Kinds: NotFound, Conflict.
func (o *Operator) Skip(ctx context.Context, tx *db.Tx, name site.Name, seq int, by string) error {
	r, err := parked(ctx, tx, name)
	if err != nil {
		return err
	}
	return runs.Skip(ctx, tx, r.Run, seq, by)
}

// MayChange reports whether a plan may be edited or deleted now; the caller does it in
// the same transaction. Kinds: NotFound, Conflict (why not, and what to do).
func (o *Operator) MayChange(ctx context.Context, tx *db.Tx, name site.Name, op plan.Operation) error {
	if op != plan.Edit && op != plan.Delete {
		return errs.New("operate.MayChange", errs.Invalid, string(op), "this changes no plan").WithRemedy("ask for edit or delete")
	}
	p, err := o.opts.World.Plan(ctx, tx, name)
	if err != nil {
		return err
	}
	return o.mayChange(ctx, tx, p, op)
}

func (o *Operator) mayChange(ctx context.Context, tx *db.Tx, p *plan.Plan, op plan.Operation) error {
	r, err := lock(ctx, tx, p.Name)
	if err != nil {
		return err
	}
	if err := o.see(ctx, tx, p, r); err != nil {
		return err
	}
	_, _, err = r.Admit(op)
	return err
}
