package runs

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// load reads a run whole. One that has no rows yet is unfolded.
func load(ctx context.Context, tx *db.Tx, id string) (*model, error) {
	m := &model{id: id}
	var snapshot string
	var unfolded, cancelAt int64
	found, err := tx.Row(ctx, `SELECT rerun_of, state, phase, verdict, reason, unfolded, cancel_at FROM runs WHERE id = $1`, []any{id},
		&m.rerunOf, &m.state, &m.phase, &m.verdict, &m.reason, &unfolded, &cancelAt)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, noRun("runs.load", id)
	}
	m.cancelled = cancelAt > 0
	if _, err := tx.Row(ctx, `SELECT snapshot FROM run_snapshots WHERE run = $1`, []any{id}, &snapshot); err != nil {
		return nil, err
	}
	var s Snapshot
	if err := json.Unmarshal([]byte(snapshot), &s); err != nil {
		return nil, errs.E("runs.load", errs.Corrupt, id, err)
	}
	if m.parallel = s.Parallel; m.parallel == 0 {
		m.parallel = defaultParallel
	}
	m.room = s.Room
	if unfolded != 0 {
		m.steps, err = loadSteps(ctx, tx, id)
		return m, err
	}
	m.steps = unfold(&s)
	m.events = append(m.events, event{0, "run", string(Active)})
	if m.rerunOf != "" {
		before, err := loadSteps(ctx, tx, m.rerunOf)
		if err != nil {
			return nil, err
		}
		if len(before) == 0 {
			m.park("the run it was to go on from has been deleted: resume it to do all of its steps, or cancel it")
		}
		inherit(m.steps, before, m.rerunOf, tx.Now())
	}
	return m, nil
}

// loadSteps reads the steps of a run, all of them, by number.
func loadSteps(ctx context.Context, tx *db.Tx, id string) (steps []*step, err error) {
	err = tx.Rows(ctx, `SELECT `+stepColumns+` FROM run_steps WHERE run = $1 ORDER BY seq`, []any{id}, func(scan func(...any) error) error {
		st, err := scanStep(scan)
		if err != nil {
			return err
		}
		steps = append(steps, st)
		if st.seq != len(steps) {
			return errs.New("runs.load", errs.Corrupt, id, fmt.Sprintf("step %d is missing", len(steps)))
		}
		for _, dep := range slices.Concat(st.spec.Deps, st.spec.Waits) {
			if dep < 1 || dep >= st.seq {
				return errs.New("runs.load", errs.Corrupt, id, fmt.Sprintf("step %d depends on %d", st.seq, dep))
			}
		}
		if st.spec.Undoes < 0 || st.spec.Undoes >= st.seq {
			return errs.New("runs.load", errs.Corrupt, id, fmt.Sprintf("step %d undoes %d", st.seq, st.spec.Undoes))
		}
		return nil
	})
	return steps, err
}

func scanStep(scan func(...any) error) (*step, error) {
	st := new(step)
	var spec string
	var blocks, executes int64
	if err := scan(&st.seq, &st.phase, &spec, &st.status, &blocks, &executes, &st.attempt, &st.failures, &st.due,
		&st.begun, &st.ended, &st.done, &st.total, &st.note, &st.memory, &st.output); err != nil {
		return nil, err
	}
	st.blocks, st.executes = blocks != 0, executes != 0
	if err := json.Unmarshal([]byte(spec), &st.spec); err != nil {
		return nil, errs.E("runs.load", errs.Corrupt, fmt.Sprintf("step %d", st.seq), err)
	}
	return st, nil
}
