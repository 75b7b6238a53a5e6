package operate

import (
	"context"
	"encoding/json"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/report"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// Entry is a run of a plan in the history.
type Entry struct {
	Run       string             `json:"run"`
	Plan      site.Name          `json:"plan"`
	Asked     plan.Operation     `json:"asked"`     // what was asked for
	Operation plan.Operation     `json:"operation"` // what was done
	By        string             `json:"by"`
	Agreed    string             `json:"agreed,omitempty"`
	Began     time.Time          `json:"began"`
	Ended     time.Time          `json:"ended,omitzero"` // zero: it goes on
	Status    report.Status      `json:"status"`
	Event     plan.Event         `json:"event,omitempty"` // what its end was to the plan
	State     plan.State         `json:"state,omitempty"` // of the plan, afterwards
	Notes     string             `json:"notes,omitempty"`
	Said      *plan.Confirmation `json:"confirmation,omitempty"`
}

// History lists the runs of a plan, or of all with "", the newest first, from a place
// in that order; at most limit, and at most 1000.
func History(ctx context.Context, tx *db.Tx, name site.Name, offset, limit int) (out []Entry, err error) {
	err = tx.Rows(ctx, `SELECT run, plan, asked, operation, started_by, agreed, confirmation, began_at, ended_at, status, event, state_after, notes
		FROM plan_runs WHERE $1 = '' OR plan = $1 ORDER BY began_at DESC, run LIMIT $2 OFFSET $3`,
		[]any{name, max(0, min(limit, maxPage)), max(0, offset)}, func(scan func(...any) error) error {
			e, err := scanEntry(scan)
			out = append(out, e)
			return err
		})
	return out, err
}

// EntryOf returns one run of the history. Kind NotFound.
func EntryOf(ctx context.Context, tx *db.Tx, id string) (Entry, error) {
	var out []Entry
	err := tx.Rows(ctx, `SELECT run, plan, asked, operation, started_by, agreed, confirmation, began_at, ended_at, status, event, state_after, notes
		FROM plan_runs WHERE run = $1`, []any{id}, func(scan func(...any) error) error {
		e, err := scanEntry(scan)
		out = append(out, e)
		return err
	})
	if err == nil && len(out) == 0 {
		err = noRun(id)
	}
	if err != nil {
		return Entry{}, err
	}
	return out[0], nil
}

func noRun(id string) error {
	return errs.New("operate.History", errs.NotFound, db.Text(id, maxKey), "no plan has such a run").WithRemedy("list the runs there are")
}

func scanEntry(scan func(...any) error) (Entry, error) {
	var e Entry
	var began, ended int64
	var said string
	if err := scan(&e.Run, &e.Plan, &e.Asked, &e.Operation, &e.By, &e.Agreed, &said, &began, &ended, &e.Status, &e.Event, &e.State, &e.Notes); err != nil {
		return e, err
	}
	e.Began, e.Ended = db.Time(began), db.Time(ended)
	if e.Status == "" {
		e.Status = report.Running
	}
	if said != "" && said != "{}" {
		e.Said = new(plan.Confirmation)
		if err := json.Unmarshal([]byte(said), e.Said); err != nil {
			return e, errs.E("operate.History", errs.Corrupt, e.Run, err)
		}
	}
	return e, nil
}

// Report returns the report of a run: the one that was kept at its end, or of one that
// goes on what there is so far. Kind NotFound.
func Report(ctx context.Context, tx *db.Tx, id string) (*report.Report, error) {
	var text, notes string
	found, err := tx.Row(ctx, `SELECT report, notes FROM plan_runs WHERE run = $1`, []any{id}, &text, &notes)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, noRun(id)
	case text == "":
		return reportOf(ctx, tx, id)
	}
	r, err := report.Decode([]byte(text))
	if err != nil {
		return nil, err
	}
	r.Notes = notes
	return r, nil
}

// Annotate replaces a run's notes. Kinds: NotFound, Invalid (too long).
func Annotate(ctx context.Context, tx *db.Tx, id, notes string) error {
	if notes != db.Text(notes, maxWords) {
		return errs.New("operate.Annotate", errs.Invalid, "notes", "they are too long, or no text").WithRemedy("shorten them")
	}
	n, err := tx.Exec(ctx, `UPDATE plan_runs SET notes = $2 WHERE run = $1`, id, notes)
	if err == nil && n == 0 {
		err = noRun(id)
	}
	return err
}

// Prune deletes what ended before a time, oldest first, a bounded number at once: of the
// step journal the runs that no plan goes on from, of the history all but each plan's
// last run. It returns how many rows of either went.
func Prune(ctx context.Context, tx *db.Tx, journalBefore, historyBefore int64) (int64, error) {
	var keep []string
	if err := tx.Rows(ctx, `SELECT run FROM plan_states WHERE run <> ''`, nil, func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		keep = append(keep, id)
		return err
	}); err != nil {
		return 0, err
	}
	n, err := runs.Prune(ctx, tx, journalBefore, keep...)
	if err != nil {
		return n, err
	}
	m, err := tx.Exec(ctx, `DELETE FROM plan_runs WHERE run IN (SELECT h.run FROM plan_runs h
		WHERE h.ended_at > 0 AND h.ended_at < $1 AND NOT EXISTS (SELECT 1 FROM plan_states s WHERE s.run = h.run)
		ORDER BY h.ended_at LIMIT $2)`, historyBefore, pruneBatch)
	return n + m, err
}
