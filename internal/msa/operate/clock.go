package operate

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/timetable"
)

// By is who asks when nobody does.
const (
	byTimetable = "time-table"
	byPolicy    = "commit policy"
)

// Tick does what is due by the clock, each in a transaction of its own: tests of
// time-tables, their cleanup, decisions before a commit, reminders. Several processes
// may tick: what is due is taken by an UPDATE of its row, in the transaction that begins
// it, so that it happens once. What is refused is undone, told, and tried no more until
// it is due again. It returns whether it began a run. Errors of one plan do not keep the
// others from their turn; the first is returned.
func (o *Operator) Tick(ctx context.Context, d *db.DB) (began bool, err error) {
	var plans []*plan.Plan
	if err := d.View(ctx, func(tx *db.Tx) (err error) { plans, err = o.opts.World.Plans(ctx, tx); return err }); err != nil {
		return false, err
	}
	for _, p := range plans {
		for _, turn := range []func(context.Context, *db.Tx, *plan.Plan, string) (bool, error){o.decide, o.scheduled, o.cleanup, o.remind} {
			did, why := false, ""
			do := func(tx *db.Tx) (err error) { did, err = turn(ctx, tx, p, why); return err }
			one := d.Tx(ctx, do)
			if refused(one) {
				why = one.Error()
				one = d.Tx(ctx, do)
			}
			if one != nil && err == nil {
				err = errs.E("operate.Tick", errs.Internal, site.Label(p), one)
			}
			began = began || did && one == nil
		}
	}
	return began, err
}

// Watch ticks every so often until ctx ends; wake is called when a run was begun.
func (o *Operator) Watch(ctx context.Context, d *db.DB, every time.Duration, wake func()) {
	t := time.NewTicker(every)
	defer t.Stop()
	var looked time.Time // whether plans are ready
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		began, err := o.Tick(ctx, d)
		if err != nil && ctx.Err() == nil {
			o.log.Warn("what is due was not all done", "err", err)
		}
		deep := time.Since(looked) >= readyEvery
		if deep {
			looked = time.Now()
		}
		if err := o.Judge(ctx, d, deep); err != nil && ctx.Err() == nil {
			o.log.Warn("the plans' alarms are not up to date", "err", err)
		}
		if began {
			wake()
		}
	}
}

// refused reports whether an error says that it cannot be done now, not that the
// database is away.
func refused(err error) bool {
	for _, k := range []errs.Kind{errs.Conflict, errs.Invalid, errs.NotFound, errs.Denied} {
		if errs.Is(err, k) {
			return true
		}
	}
	return false
}

// decide carries out a plan's own decision before a commit.
func (o *Operator) decide(ctx context.Context, tx *db.Tx, p *plan.Plan, why string) (bool, error) {
	r, err := read(ctx, tx, p.Name)
	if err != nil || r.State != plan.BeforeCommit || !due(r.Due, tx.Now()) {
		return false, err
	}
	n, err := tx.Exec(ctx, `UPDATE plan_states SET decide_at = 0 WHERE plan = $1 AND decide_at = $2 AND state = 'before-commit'`, p.Name, ms(r.Due))
	if err != nil || n == 0 {
		return false, err
	}
	op := plan.CommitRun
	if r.Decide == plan.CommitRollback {
		op = plan.Rollback
	}
	return o.byClock(ctx, tx, Request{Plan: p.Name, Operation: op, By: byPolicy, policy: true}, why)
}

// schedule is a row of plan_schedules.
type schedule struct {
	text                    string
	next, cleanup, reminded int64
}

func scheduleOf(ctx context.Context, tx *db.Tx, name site.Name) (s schedule, err error) {
	_, err = tx.Row(ctx, `SELECT timetable, next_at, cleanup_at, reminded_at FROM plan_schedules WHERE plan = $1`, []any{name}, &s.text, &s.next, &s.cleanup, &s.reminded)
	return s, err
}

func (s schedule) save(ctx context.Context, tx *db.Tx, name site.Name) error {
	_, err := tx.Exec(ctx, `INSERT INTO plan_schedules (plan, timetable, next_at, cleanup_at, reminded_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (plan) DO UPDATE SET timetable = excluded.timetable, next_at = excluded.next_at, cleanup_at = excluded.cleanup_at, reminded_at = excluded.reminded_at`,
		name, s.text, s.next, s.cleanup, s.reminded)
	return err
}

// take takes the row for what is due; ok is false when somebody else has.
func (s schedule) take(ctx context.Context, tx *db.Tx, name site.Name) (ok bool, err error) {
	n, err := tx.Exec(ctx, `UPDATE plan_schedules SET plan = plan WHERE plan = $1 AND timetable = $2 AND next_at = $3 AND cleanup_at = $4 AND reminded_at = $5`,
		name, s.text, s.next, s.cleanup, s.reminded)
	return n == 1, err
}

// scheduled begins a test whose time has come. Times that passed while nobody ticked
// are one.
func (o *Operator) scheduled(ctx context.Context, tx *db.Tx, p *plan.Plan, why string) (bool, error) {
	s, err := scheduleOf(ctx, tx, p.Name)
	if err != nil || s.text == p.TestAt && (p.TestAt == "" || s.next > tx.Now()) {
		return false, err
	}
	t, err := timetable.Parse(p.TestAt)
	if err != nil {
		return false, errs.E("operate.Tick", errs.Invalid, site.Label(p), err)
	}
	was := s
	s.next = ms(t.Next(db.Time(tx.Now())))
	if s.text != p.TestAt { // it is new, or was changed: from now on
		s.text = p.TestAt
		return false, s.save(ctx, tx, p.Name)
	}
	if ok, err := was.take(ctx, tx, p.Name); err != nil || !ok {
		return false, err
	}
	if err := s.save(ctx, tx, p.Name); err != nil {
		return false, err
	}
	return o.byClock(ctx, tx, Request{Plan: p.Name, Operation: plan.Test, By: byTimetable}, why)
}

// cleanup cleans a test of the time-table up when it has been kept for long enough.
func (o *Operator) cleanup(ctx context.Context, tx *db.Tx, p *plan.Plan, why string) (bool, error) {
	if p.TestKeep == 0 {
		return false, nil
	}
	r, err := read(ctx, tx, p.Name)
	if err != nil || r.State != plan.TestComplete || r.Run == "" || !due(r.Tested.Add(p.TestKeep.D()), tx.Now()) {
		return false, err
	}
	e, err := EntryOf(ctx, tx, r.Run)
	if err != nil || e.By != byTimetable {
		return false, err
	}
	s, err := scheduleOf(ctx, tx, p.Name)
	if err != nil || s.cleanup > tx.Now() {
		return false, err
	}
	if ok, err := s.take(ctx, tx, p.Name); err != nil || !ok {
		return false, err
	}
	s.cleanup = tx.Now() + remindEvery.Milliseconds() // then it is tried again, if need be
	if err := s.save(ctx, tx, p.Name); err != nil {
		return false, err
	}
	return o.byClock(ctx, tx, Request{Plan: p.Name, Operation: plan.Cleanup, By: byTimetable}, why)
}

// byClock begins an operation nobody asks for. why, if not empty, is why that was
// refused a moment ago: then people are told.
func (o *Operator) byClock(ctx context.Context, tx *db.Tx, q Request, why string) (bool, error) {
	if why != "" {
		return false, o.reminds(ctx, tx, q.Plan, fmt.Sprintf("%s was due by its %s and could not begin: %s", q.Operation, q.By, why))
	}
	_, err := o.Begin(ctx, tx, q)
	return err == nil, err
}

func (o *Operator) reminds(ctx context.Context, tx *db.Tx, name site.Name, words string) error {
	if o.opts.Remind == nil {
		return nil
	}
	return o.opts.Remind(ctx, tx, name, words)
}

// Overdue says why people should see to a plan; "": they need not. Tests older than the
// plan allows, tests and recoveries that nobody has ended.
func Overdue(p *plan.Plan, s *Status, now time.Time) string {
	_, words := overdue(p, s, now)
	return words
}

// overdue is Overdue, with the alarm that it is.
func overdue(p *plan.Plan, s *Status, now time.Time) (alarm.Code, string) {
	switch {
	case s.State == plan.BeforeCommit && s.Decide == plan.CommitByHand:
		return alarm.CommitWaits, "its recovered VMs wait for a decision: commit, or roll back"
	case s.State == plan.TestComplete && p.TestKeep == 0 && now.Sub(s.Tested) > remindEvery:
		return alarm.TestLeft, "a test's VMs still run: clean up"
	case p.TestEvery != 0 && s.Tested.IsZero():
		return alarm.TestOverdue, "it was never tested"
	case p.TestEvery != 0 && now.Sub(s.Tested) > p.TestEvery.D():
		return alarm.TestOverdue, "its last test was on " + s.Tested.Format(time.DateOnly) + ", and one is due every " + p.TestEvery.String()
	}
	return "", ""
}

// remind tells once a day what is overdue.
func (o *Operator) remind(ctx context.Context, tx *db.Tx, p *plan.Plan, _ string) (bool, error) {
	r, err := read(ctx, tx, p.Name)
	if err != nil {
		return false, err
	}
	words := Overdue(p, &r.Status, db.Time(tx.Now()))
	if words == "" {
		return false, nil
	}
	s, err := scheduleOf(ctx, tx, p.Name)
	if err != nil || tx.Now()-s.reminded < remindEvery.Milliseconds() {
		return false, err
	}
	if s == (schedule{}) { // so that there is a row to take
		if err := s.save(ctx, tx, p.Name); err != nil {
			return false, err
		}
	}
	if ok, err := s.take(ctx, tx, p.Name); err != nil || !ok {
		return false, err
	}
	s.reminded = tx.Now()
	if err := s.save(ctx, tx, p.Name); err != nil {
		return false, err
	}
	return false, o.reminds(ctx, tx, p.Name, words)
}
