package operate

import (
	"context"
	"fmt"
	"slices"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/report"
	"holdfast/internal/msa/site"
)

// judged are the alarms of plans and runs that are this package's to raise and to clear;
// deep ones cost a compilation of each plan.
var (
	judged = []alarm.Code{alarm.RunParked, alarm.RunWaits, alarm.TestOverdue, alarm.TestLeft, alarm.CommitWaits}
	deeply = append(slices.Clone(judged), alarm.NotReady)
)

// Judge raises and clears the alarms of plans and runs; deep: of plans' readiness as
// well. Any replica may do so at any time.
func (o *Operator) Judge(ctx context.Context, d *db.DB, deep bool) error {
	h := alarm.Held{}
	if err := d.View(ctx, func(tx *db.Tx) error {
		clear(h)
		if err := waiting(ctx, tx, h); err != nil {
			return err
		}
		plans, err := o.opts.World.Plans(ctx, tx)
		for _, p := range plans {
			if err := o.judgePlan(ctx, tx, p, deep, h); err != nil {
				return err
			}
		}
		return err
	}); err != nil {
		return err
	}
	codes := judged
	if deep {
		codes = deeply
	}
	return d.Tx(ctx, func(tx *db.Tx) error { return alarm.Settle(ctx, tx, codes, h) })
}

// waiting adds the runs that wait for people.
func waiting(ctx context.Context, tx *db.Tx, h alarm.Held) error {
	for code, query := range map[alarm.Code]string{
		alarm.RunParked: `SELECT id, subject, reason FROM runs WHERE state = 'parked' ORDER BY id LIMIT $1`,
		alarm.RunWaits: `SELECT r.id, r.subject, max(s.name) FROM run_prompts p JOIN run_steps s ON s.run = p.run AND s.seq = p.seq JOIN runs r ON r.id = p.run
			WHERE p.answered_at = 0 AND s.status = 'running' GROUP BY r.id, r.subject ORDER BY r.id LIMIT $1`,
	} {
		if err := tx.Rows(ctx, query, []any{maxHeld}, func(scan func(...any) error) error {
			var id, subject, why string
			err := scan(&id, &subject, &why)
			h.Add(code, "run "+id, subject+": "+why)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// judgePlan adds what is wrong with a plan.
func (o *Operator) judgePlan(ctx context.Context, tx *db.Tx, p *plan.Plan, deep bool, h alarm.Held) error {
	s, err := o.Look(ctx, tx, p.Name)
	if err != nil {
		return err
	}
	object := "plan " + string(p.Name)
	if code, words := overdue(p, &s, db.Time(tx.Now())); words != "" {
		h.Add(code, object, words)
	}
	if !deep || s.State != plan.Ready {
		return nil
	}
	r, err := o.Ready(ctx, tx, p.Name)
	switch {
	case errs.Is(err, errs.NotFound): // deleted meanwhile
		return nil
	case err != nil:
		return err
	case r.Problems.Blocked():
		h.Add(alarm.NotReady, object, r.Problems.Err("operate.Judge").Error())
	}
	return nil
}

// tellBegun tells that a run has begun, and tellEnded how it ended.
func tellBegun(ctx context.Context, tx *db.Tx, name site.Name, does plan.Operation, by string) error {
	return alarm.Tell(ctx, tx, alarm.RunStarted, "plan "+string(name), fmt.Sprintf("%s, begun by %s", does, by))
}

func tellEnded(ctx context.Context, tx *db.Tx, name site.Name, rep *report.Report) error {
	code := alarm.RunEnded
	if rep.Status == report.Error {
		code = alarm.RunFailed
	}
	return alarm.Tell(ctx, tx, code, "plan "+string(name), fmt.Sprintf("%s: %s; the plan is %s now", rep.Operation, rep.Status, rep.State))
}
