package operate_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// alarms are those that hold, as "code object"; runs are called "run".
func (r *rig) alarms() (list []string) {
	r.t.Helper()
	if err := r.o.Judge(r.t.Context(), r.d, true); err != nil {
		r.t.Fatal(err)
	}
	r.must(func(ctx context.Context, tx *db.Tx) error {
		list = nil
		page, _, err := alarm.List(ctx, tx, false, alarm.Cursor{}, 100)
		for _, a := range page {
			object, _, run := strings.Cut(a.Object, "run ")
			if run {
				object = "run"
			}
			if a.Detail == "" {
				r.t.Errorf("%s says nothing", a.Code)
			}
			list = append(list, string(a.Code)+" "+object)
		}
		return err
	})
	slices.Sort(list)
	return list
}

func (r *rig) wantAlarms(when string, want ...string) {
	r.t.Helper()
	if got := r.alarms(); !slices.Equal(got, want) {
		r.t.Errorf("%s: the alarms are %q, want %q", when, got, want)
	}
}

func (r *rig) exec(text string, args ...any) {
	r.t.Helper()
	r.must(func(ctx context.Context, tx *db.Tx) error { _, err := tx.Exec(ctx, text, args...); return err })
}

// TestPlanAlarms: each alarm of plans and runs is raised by what it is about, and cleared
// when that is over.
func TestPlanAlarms(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := newWorld(1, 1)
		p := w.plan("p", "d1")
		r := newRig(t, url, w)
		var err error
		r.o, err = operate.New(operate.Options{World: w, Facts: func(_ context.Context, tx *db.Tx, _ *plan.Plan, f *plan.Facts) error {
			f.Domains = map[site.Name]plan.DomainFacts{"d1": {State: plan.Protected, Newest: db.Time(tx.Now())}}
			f.StoresUp, f.PeerUp = map[site.Name]bool{"s": true}, true
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		r.work(r.options())
		r.wantAlarms("at first")
		p.TestEvery = site.Span(30 * 24 * time.Hour)
		r.wantAlarms("tests are asked for", "test-overdue plan p")
		w.a.VMs[0].Ref = "renamed"
		r.wantAlarms("a VM is gone", "plan-not-ready plan p", "test-overdue plan p")
		w.a.VMs[0].Ref = "vm1"
		r.does("p", plan.Test, plan.TestComplete)
		r.wantAlarms("tested")
		r.past(`UPDATE plan_states SET last_test = $1`, 25*time.Hour)
		r.wantAlarms("a test that is left", "test-not-cleaned plan p")
		r.does("p", plan.Cleanup, plan.Ready)
		r.wantAlarms("cleaned up")
		r.does("p", plan.Planned, plan.BeforeCommit)
		r.wantAlarms("nobody has decided", "commit-waits plan p")
		r.does("p", plan.CommitRun, plan.RecoveryComplete)
		r.wantAlarms("decided")
		run := r.status("p").Run
		r.exec(`UPDATE runs SET state = 'parked', reason = 'an unknown step' WHERE id = $1`, run)
		r.wantAlarms("parked", "run-parked run")
		r.exec(`UPDATE runs SET state = 'succeeded' WHERE id = $1`, run)
		r.exec(`INSERT INTO run_prompts (run, seq, question, choices, opened_at, answer, answered_by, answered_at) SELECT run, seq, 'well?', '[]', 1, '', '', 0 FROM run_steps WHERE run = $1 AND seq = 1`, run)
		r.exec(`UPDATE run_steps SET status = 'running' WHERE run = $1 AND seq = 1`, run)
		r.wantAlarms("a prompt", "run-waits run")
		r.exec(`UPDATE run_prompts SET answered_at = 1`)
		r.wantAlarms("answered")
		r.must(func(ctx context.Context, tx *db.Tx) error {
			events, _, err := alarm.Events(ctx, tx, "", 500)
			told := map[alarm.Code]int{}
			for _, e := range events {
				told[e.Code]++
			}
			if told[alarm.RunStarted] != 4 || told[alarm.RunEnded] != 4 || told[alarm.RunFailed] != 0 {
				t.Errorf("told are %v", told)
			}
			return err
		})
	})
}

// TestRunFailed: how a run has failed is told.
func TestRunFailed(t *testing.T) {
	w := newWorld(1, 1)
	w.plan("p", "d1")
	r := newRig(t, dbtest.SQLite(t), w)
	r.site.Fail = func(k plan.Kind, _ string, _ *operate.Act) error {
		if k == plan.KindDisks {
			return errs.New("x", errs.Invalid, "", "as planned")
		}
		return nil
	}
	r.work(r.options())
	if _, err := r.begin("p", plan.Test); err != nil {
		t.Fatal(err)
	}
	r.settled("p")
	r.must(func(ctx context.Context, tx *db.Tx) error {
		events, _, err := alarm.Events(ctx, tx, "", 500)
		if !slices.ContainsFunc(events, func(e alarm.Event) bool { return e.Code == alarm.RunFailed && e.Object == "plan p" }) {
			t.Errorf("%+v", events)
		}
		return err
	})
}
