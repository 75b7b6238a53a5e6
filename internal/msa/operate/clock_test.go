package operate_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// past moves a time of a row into the past, as if it had come.
func (r *rig) past(statement string, since ...time.Duration) {
	r.t.Helper()
	ago := time.Millisecond
	for _, d := range since {
		ago += d
	}
	r.must(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, statement, tx.Now()-ago.Milliseconds())
		return err
	})
}

// tick has several replicas tick at once and returns how many began a run.
func (r *rig) tick() (began int) {
	r.t.Helper()
	did := make(chan bool, 3)
	for range 3 {
		go func() {
			b, err := r.o.Tick(r.t.Context(), r.d)
			if err != nil {
				r.t.Error(err)
			}
			did <- b
		}()
	}
	for range 3 {
		if <-did {
			began++
		}
	}
	return began
}

// TestTimetable: a test whose time has come begins once, whoever ticks; it is cleaned up
// when it was kept for long enough; one that cannot begin is told.
func TestTimetable(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := newWorld(1, 1)
		p := w.plan("p", "d1")
		p.TestAt, p.TestKeep = "daily 02:30", site.Span(time.Hour)
		r := newRig(t, url, w)
		told := make(chan string, 100)
		var err error
		if r.o, err = operate.New(operate.Options{World: w, Remind: func(_ context.Context, _ *db.Tx, _ site.Name, words string) error {
			told <- words
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
		r.work(r.options())
		if n := r.tick(); n != 0 {
			t.Fatalf("%d began before their time", n)
		}
		r.past(`UPDATE plan_schedules SET next_at = $1`)
		if n := r.tick(); n != 1 {
			t.Fatalf("%d began, want 1", n)
		}
		r.until("p", "tested", func(s operate.Status) bool { return s.State == plan.TestComplete })
		if n := r.tick(); n != 0 {
			t.Errorf("%d began at once again", n)
		}
		r.past(`UPDATE plan_schedules SET next_at = $1`)
		if n := r.tick(); n != 0 || len(told) == 0 || !strings.Contains(<-told, "could not begin") {
			t.Errorf("beside a test that is there: %d", n)
		}
		r.past(`UPDATE plan_states SET last_test = $1`, time.Hour)
		if n := r.tick(); n != 1 {
			t.Errorf("%d cleanups", n)
		}
		r.until("p", "clean", func(s operate.Status) bool { return s.State == plan.Ready })
		r.well()
	})
}

// TestPolicy: before a commit a plan's own decision is made when its time has come.
func TestPolicy(t *testing.T) {
	for policy, want := range map[plan.CommitPolicy]plan.State{plan.CommitAuto: plan.RecoveryComplete, plan.CommitRollback: plan.Ready} {
		w := newWorld(1, 1)
		p := w.plan("p", "d1")
		p.Commit = plan.Commit{Policy: policy, After: site.Span(time.Hour)}
		p.TwoPersons = true // the plan itself has decided
		r := newRig(t, dbtest.SQLite(t), w)
		r.work(r.options())
		r.must(func(ctx context.Context, tx *db.Tx) error {
			q := r.request("p", plan.Planned)
			q.Agreed = operate.Agreement{By: "bob", At: db.Time(tx.Now()), Version: 1}
			_, err := r.o.Begin(ctx, tx, q)
			return err
		})
		r.settled("p")
		s := r.status("p")
		if s.Decide != policy || time.Until(s.Due) < 50*time.Minute {
			t.Errorf("%s at %v", s.Decide, s.Due)
		}
		if n := r.tick(); n != 0 {
			t.Errorf("%s: decided before its time", policy)
		}
		r.past(`UPDATE plan_states SET decide_at = $1`)
		if n := r.tick(); n != 1 {
			t.Errorf("%s: decided %d times", policy, n)
		}
		if s := r.settled("p"); s.State != want {
			t.Errorf("%s led to %s", policy, s.State)
		}
		r.well()
	}
}

// TestReminders: what is overdue is told once a day.
func TestReminders(t *testing.T) {
	w := newWorld(1, 1)
	p := w.plan("p", "d1")
	p.TestEvery = site.Span(30 * 24 * time.Hour)
	r := newRig(t, dbtest.SQLite(t), w)
	told := make(chan string, 100)
	var err error
	if r.o, err = operate.New(operate.Options{World: w, Remind: func(_ context.Context, _ *db.Tx, _ site.Name, words string) error { told <- words; return nil }}); err != nil {
		t.Fatal(err)
	}
	r.tick()
	r.tick()
	if len(told) != 1 || <-told != "it was never tested" {
		t.Errorf("told %d times", len(told)+1)
	}
	r.past(`UPDATE plan_schedules SET reminded_at = $1`, 24*time.Hour)
	r.tick()
	if len(told) != 1 {
		t.Errorf("a day later: %d times", len(told))
	}
}
