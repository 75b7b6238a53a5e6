package operate

import (
	"context"
	"encoding/json"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// Joined is for runs.Options.Joined: what a run's prompt, parking or end means for its
// plan is decided in the transaction in which it happens. A run that is no plan's is
// left alone.
func (o *Operator) Joined(ctx context.Context, tx *db.Tx, id string) error {
	var name site.Name
	found, err := tx.Row(ctx, `SELECT plan FROM plan_runs WHERE run = $1`, []any{id}, &name)
	if err != nil || !found {
		return err
	}
	r, err := lock(ctx, tx, name)
	if err != nil || r.Run != id {
		return err
	}
	run, err := runs.Get(ctx, tx, id)
	if err != nil {
		return err
	}
	was := r.Standing
	if err := o.prompts(ctx, tx, r); err != nil {
		return err
	}
	event := plan.Event("")
	switch {
	case run.State == runs.Parked:
		event, r.Reason = plan.Interrupted, run.Reason
		o.move(r, event)
		if err := o.domains(ctx, tx, r, run, nil, event); err != nil {
			return err
		}
	case run.State.Ended():
		if event, err = o.end(ctx, tx, r, run); err != nil {
			return err
		}
	}
	if r.Standing == was && event == "" {
		return nil
	}
	if err := r.save(ctx, tx); err != nil {
		return err
	}
	if event == "" {
		event = plan.Event(r.State)
	}
	return o.note(ctx, tx, name, string(event), "")
}

// prompts has a plan wait for an answer as long as a prompt of its run is open.
func (o *Operator) prompts(ctx context.Context, tx *db.Tx, r *row) error {
	var open int64
	if _, err := tx.Row(ctx, `SELECT count(*) FROM run_prompts p JOIN run_steps s ON s.run = p.run AND s.seq = p.seq
		WHERE p.run = $1 AND p.answered_at = 0 AND s.status = 'running'`, []any{r.Run}, &open); err != nil {
		return err
	}
	switch {
	case open > 0 && (r.State == plan.TestInProgress || r.State == plan.RecoveryInProgress):
		o.move(r, plan.Asked)
	case open == 0 && r.State == plan.WaitingForUser:
		next, _, err := r.Admit(plan.Answer)
		if err != nil {
			return err
		}
		r.Standing = next
	}
	return nil
}

// move follows an event. One that the table does not have is a bug: the plan's state is
// said to be unknown then, and why, instead of a run that never ends.
func (o *Operator) move(r *row, e plan.Event) {
	next, err := r.After(e)
	if err != nil {
		o.log.Error("a plan's run reports what its state does not allow", "plan", r.Plan, "state", r.State, "event", e, "doing", r.Doing)
		r.Reason = "its run reported " + string(e) + " in state " + string(r.State) + ": report this"
		next = r.Standing
		next.State, next.Paused = plan.UnknownState, ""
	}
	r.Standing = next
}

// end does all that a run's end means.
func (o *Operator) end(ctx context.Context, tx *db.Tx, r *row, run runs.Run) (plan.Event, error) {
	steps, err := runs.Steps(ctx, tx, run.ID)
	if err != nil {
		return "", err
	}
	h, err := headFor(ctx, tx, run.ID)
	if err != nil {
		return "", err
	}
	does := r.Doing
	if recovers(does) {
		r.Alone = does == plan.ForcedDisaster || does == plan.Disaster && !reached(steps)
	}
	event := eventOf(h, run, steps)
	if event == plan.Succeeded && does == plan.CommitRun && r.Alone {
		event = plan.SucceededAlone
	}
	o.move(r, event)
	if err := o.domains(ctx, tx, r, run, steps, event); err != nil {
		return event, err
	}
	if err := o.downed(ctx, tx, r, does, event, h, steps); err != nil {
		return event, err
	}
	if does == plan.Test {
		r.Tested, r.TestOK = db.Time(tx.Now()), event == plan.Succeeded
	}
	if r.State == plan.BeforeCommit && h.Commit.Policy != plan.CommitByHand {
		r.Decide, r.Due = h.Commit.Policy, db.Time(tx.Now()).Add(h.Commit.After.D())
	}
	if r.State == plan.Ready {
		r.scope, r.Alone = scope{}, false
	}
	if !r.State.Holds() {
		if err := release(ctx, tx, r.Plan); err != nil {
			return event, err
		}
	}
	return event, o.closeRun(ctx, tx, r, run.ID, event)
}

// eventOf is what a run's end is to its plan.
func eventOf(h *head, run runs.Run, steps []runs.StepState) plan.Event {
	switch {
	case run.State == runs.Succeeded, run.State == runs.WithWarnings:
		return plan.Succeeded
	case unwound(h, steps):
		return plan.Unwound
	case !run.Cancelled.IsZero():
		return plan.Cancelled
	}
	return plan.Failed
}

// unwound reports whether a run that could be taken back was, wholly.
func unwound(h *head, steps []runs.StepState) bool {
	if !h.Fence {
		return false
	}
	for i := range steps {
		st := &steps[i]
		if st.Step.NoReturn && !st.Begun.IsZero() {
			return false
		}
		if st.Phase == runs.Undoing && (st.Status == runs.Error || !st.Status.Ended()) {
			return false
		}
	}
	return true
}

// reached reports whether all that was to be done at the protected site was done.
func reached(steps []runs.StepState) bool {
	for i := range steps {
		st := &steps[i]
		if atSource(plan.Kind(st.Step.Kind)) && (st.Failed || st.Missed || st.Status == runs.Skipped) {
			return false
		}
	}
	return true
}

// domains moves the domains of a run. steps may be nil: they are read.
func (o *Operator) domains(ctx context.Context, tx *db.Tx, r *row, run runs.Run, steps []runs.StepState, e plan.Event) error {
	h, err := headFor(ctx, tx, run.ID)
	if err != nil {
		return err
	}
	if steps == nil {
		if steps, err = runs.Steps(ctx, tx, run.ID); err != nil {
			return err
		}
	}
	all := tallies(h, steps)
	out := outcome{op: plan.Operation(run.Operation), over: run.State.Ended() || run.State == runs.Parked, unwound: e == plan.Unwound}
	for _, name := range h.Domains {
		from, part := h.Began[name]
		if !part {
			continue
		}
		d, err := Domain(ctx, tx, name)
		if err != nil {
			return err
		}
		to, flips := stands(from, out, all[name])
		if to == d.Failover && !flips {
			continue
		}
		d.Failover, d.Plan = to, r.Plan
		d.Reversed = d.Reversed != flips
		if err := d.save(ctx, tx); err != nil {
			return err
		}
	}
	return nil
}

// downed keeps which VMs of the protected site the plan's runs have shut down, as long
// as a rollback may have to start them again.
func (o *Operator) downed(ctx context.Context, tx *db.Tx, r *row, does plan.Operation, e plan.Event, h *head, steps []runs.StepState) error {
	if recovers(does) && e != plan.Unwound {
		for i := range steps {
			st := &steps[i]
			var m stopping
			if st.Step.Kind != string(plan.KindShutdownVM) || len(st.Memory) == 0 {
				continue
			}
			if err := json.Unmarshal(st.Memory, &m); err != nil {
				return errs.E("operate.end", errs.Corrupt, st.Step.Name, err)
			}
			if id, _ := h.about(&st.Step); m.Stops {
				if _, err := tx.Exec(ctx, `INSERT INTO plan_stopped (plan, vm) VALUES ($1, $2) ON CONFLICT (plan, vm) DO NOTHING`, r.Plan, id.String()); err != nil {
					return err
				}
			}
		}
	}
	if r.State == plan.Ready || r.State == plan.RecoveryComplete || r.State == plan.DisasterComplete {
		_, err := tx.Exec(ctx, `DELETE FROM plan_stopped WHERE plan = $1`, r.Plan)
		return err
	}
	return nil
}

// closeRun enters what became of a run into the history, with its report.
func (o *Operator) closeRun(ctx context.Context, tx *db.Tx, r *row, id string, e plan.Event) error {
	run, err := runs.Get(ctx, tx, id)
	if err != nil {
		return err
	}
	r.epoch = max(r.epoch, run.Epoch)
	rep, err := reportOf(ctx, tx, id)
	if err != nil {
		return err
	}
	rep.State = string(r.State)
	text, err := rep.JSON()
	if err != nil {
		return err
	}
	if _, err = tx.Exec(ctx, `UPDATE plan_runs SET ended_at = $2, status = $3, event = $4, state_after = $5, report = $6 WHERE run = $1`,
		id, tx.Now(), rep.Status, e, r.State, string(text)); err != nil {
		return err
	}
	return tellEnded(ctx, tx, r.Plan, rep)
}

// headFor reads the head of a run.
func headFor(ctx context.Context, tx *db.Tx, id string) (*head, error) {
	var text string
	found, err := tx.Row(ctx, `SELECT head FROM plan_runs WHERE run = $1`, []any{id}, &text)
	if err != nil {
		return nil, err
	}
	h := new(head)
	if !found {
		return nil, errs.New("operate.head", errs.NotFound, id, "no plan has such a run")
	}
	if err := json.Unmarshal([]byte(text), h); err != nil {
		return nil, errs.E("operate.head", errs.Corrupt, id, err)
	}
	return h, nil
}

// due reports whether a time has come.
func due(at time.Time, now int64) bool { return !at.IsZero() && at.UnixMilli() <= now }
