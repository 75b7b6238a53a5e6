package runs

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// poke takes a run's row and wakes whoever looks after it; it returns how the run
// stands. What the caller does next in the transaction, the owner finds.
func poke(ctx context.Context, tx *db.Tx, op, id string) (state State, phase Phase, cancelAt int64, err error) {
	found, err := tx.Row(ctx, `UPDATE runs SET pokes = pokes + 1, due_at = 0 WHERE id = $1 RETURNING state, phase, cancel_at`, []any{id}, &state, &phase, &cancelAt)
	if err == nil && !found {
		err = noRun(op, id)
	}
	return state, phase, cancelAt, err
}

// Cancel asks a run to stop: steps under way are interrupted, what can be undone is,
// what is to run at the end does. A cancelled run is cancelled once; a parked one
// goes on with that. Kinds: NotFound, Conflict (it has ended, or is being undone or
// ended already: that is not interrupted).
func Cancel(ctx context.Context, tx *db.Tx, id, by string) error {
	const op = "runs.Cancel"
	state, phase, at, err := poke(ctx, tx, op, id)
	if err != nil {
		return err
	}
	if at > 0 && state == Active {
		return nil
	}
	if state.Ended() || phase != Forward {
		return errs.New(op, errs.Conflict, id, fmt.Sprintf("the run is %s, in phase %s: there is nothing left to cancel", state, phase)).
			WithRemedy("wait for its end")
	}
	if _, err := tx.Exec(ctx, `UPDATE runs SET cancel_at = $2, cancel_by = $3, state = 'active', reason = '', crashes = 0 WHERE id = $1`,
		id, tx.Now(), db.Text(by, maxName)); err != nil {
		return err
	}
	return saveEvents(ctx, tx, id, []event{{0, "cancel", by}})
}

// Resume has a parked run go on. Kinds: NotFound, Conflict (it is not parked).
func Resume(ctx context.Context, tx *db.Tx, id, by string) error {
	const op = "runs.Resume"
	state, _, _, err := poke(ctx, tx, op, id)
	if err != nil {
		return err
	}
	if state != Parked {
		return errs.New(op, errs.Conflict, id, "the run is "+string(state)+", not parked")
	}
	if _, err := tx.Exec(ctx, `UPDATE runs SET state = 'active', reason = '', crashes = 0 WHERE id = $1`, id); err != nil {
		return err
	}
	return saveEvents(ctx, tx, id, []event{{0, "resume", by}})
}

// Skip has a parked run go on, once it is resumed, as if one of its steps were done.
// The run ends with warnings. Kinds: NotFound (run or step), Conflict (the run is not
// parked, or the step has ended).
func Skip(ctx context.Context, tx *db.Tx, id string, seq int, by string) error {
	const op = "runs.Skip"
	state, _, _, err := poke(ctx, tx, op, id)
	if err != nil {
		return err
	}
	if state != Parked {
		return errs.New(op, errs.Conflict, id, "the run is "+string(state)+": only steps of a parked run are skipped by hand").
			WithRemedy("cancel the run, or let it end and start another")
	}
	// A run that never began has no rows yet.
	if err := ensureUnfolded(ctx, tx, id); err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `UPDATE run_steps SET status = 'skipped', blocks = 0, executes = 0, due_at = 0, ended_at = $3, note = $4
		WHERE run = $1 AND seq = $2 AND status IN ('inactive', 'running')`, id, seq, tx.Now(), db.Text("skipped by "+by, maxWords))
	if err != nil {
		return err
	}
	if n == 0 {
		return errs.New(op, errs.Conflict, fmt.Sprintf("%s step %d", id, seq), "there is no such step, or it has ended")
	}
	return saveEvents(ctx, tx, id, []event{{seq, "step", string(Skipped)}})
}

// ensureUnfolded makes the rows of a run that was parked before a worker could.
func ensureUnfolded(ctx context.Context, tx *db.Tx, id string) error {
	m, err := load(ctx, tx, id)
	if err != nil || len(m.steps) == 0 || !m.steps[0].fresh {
		return err
	}
	if err := saveRows(ctx, tx, m); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE runs SET unfolded = 1 WHERE id = $1`, id)
	return err
}

// Answer answers a prompt: once, the first counts. Kinds: NotFound (no such prompt is
// open), Invalid (an answer it does not offer), Conflict (it is answered, or its run
// does not wait for it any more).
func Answer(ctx context.Context, tx *db.Tx, id string, seq int, answer, by string) error {
	const op = "runs.Answer"
	state, phase, cancelAt, err := poke(ctx, tx, op, id)
	if err != nil {
		return err
	}
	object := fmt.Sprintf("%s step %d", id, seq)
	var spec struct {
		Input json.RawMessage `json:"input"`
	}
	var text string
	found, err := tx.Row(ctx, `SELECT s.spec FROM run_steps s JOIN run_prompts p ON p.run = s.run AND p.seq = s.seq WHERE s.run = $1 AND s.seq = $2`,
		[]any{id, seq}, &text)
	switch {
	case err != nil:
		return err
	case !found:
		return errs.New(op, errs.NotFound, object, "no prompt is open there")
	case state.Ended() || phase == Forward && cancelAt > 0:
		return errs.New(op, errs.Conflict, object, "its run does not wait for an answer any more")
	}
	var p Prompt
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return errs.E(op, errs.Corrupt, object, err)
	}
	if err := json.Unmarshal(spec.Input, &p); err != nil {
		return errs.E(op, errs.Corrupt, object, err)
	}
	if err := p.accepts(answer); err != nil {
		return err
	}
	n, err := tx.Exec(ctx, sqlText.answer, id, seq, db.Text(answer, maxWords), db.Text(by, maxName), tx.Now())
	if err != nil {
		return err
	}
	if n == 0 {
		return errs.New(op, errs.Conflict, object, "the prompt is answered already, or its step has ended").WithRemedy("look at the run: somebody else was faster")
	}
	if _, err := tx.Exec(ctx, `UPDATE run_steps SET status = 'success', ended_at = $3, due_at = 0, note = $4 WHERE run = $1 AND seq = $2 AND status = 'running'`,
		id, seq, tx.Now(), db.Text("answered: "+answer, maxWords)); err != nil {
		return err
	}
	return saveEvents(ctx, tx, id, []event{{seq, "step", string(Success)}})
}

// Abandon ends a parked run as cancelled, as it stands: nothing more of it is done or
// undone. What it did is told by its rows, and a rerun goes on from them. Kinds:
// NotFound, Conflict (it is not parked).
func Abandon(ctx context.Context, tx *db.Tx, id, by string) error {
	const op = "runs.Abandon"
	state, _, _, err := poke(ctx, tx, op, id)
	if err != nil {
		return err
	}
	if state != Parked {
		return errs.New(op, errs.Conflict, id, "the run is "+string(state)+", not parked").WithRemedy("cancel it")
	}
	if err := ensureUnfolded(ctx, tx, id); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE run_steps SET status = 'cancelled', blocks = 1, executes = 0, due_at = 0, ended_at = $2
		WHERE run = $1 AND status IN ('inactive', 'running')`, id, tx.Now()); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE runs SET state = 'cancelled', reason = '', cancel_at = CASE WHEN cancel_at = 0 THEN $2 ELSE cancel_at END,
		cancel_by = CASE WHEN cancel_by = '' THEN $3 ELSE cancel_by END, ended_at = $2 WHERE id = $1`, id, tx.Now(), db.Text(by, maxName)); err != nil {
		return err
	}
	return saveEvents(ctx, tx, id, []event{{0, "run", string(Cancelled)}})
}

// Prune deletes ended runs that ended before a time, oldest first, with all their
// rows, at most a bounded number at once; it returns how many. Parked runs stay, and
// those to be kept: others may go on from them.
func Prune(ctx context.Context, tx *db.Tx, before int64, keep ...string) (int64, error) {
	args := []any{before, pruneBatch}
	var not strings.Builder
	for _, id := range keep {
		args = append(args, id)
		fmt.Fprintf(&not, " AND id <> $%d", len(args))
	}
	return tx.Exec(ctx, `DELETE FROM runs WHERE id IN (SELECT id FROM runs
		WHERE state NOT IN ('active', 'parked') AND ended_at < $1`+not.String()+` ORDER BY ended_at LIMIT $2)`, args...)
}
