package operate_test

import (
	"context"
	"fmt"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// doing is what a plan did last that stands in a state.
var doing = map[plan.State]plan.Operation{
	plan.TestInProgress: plan.Test, plan.WaitingForUser: plan.Disaster, plan.CancelInProgress: plan.Disaster, plan.TestInterrupted: plan.Test,
	plan.TestComplete: plan.Test, plan.CleanupInProgress: plan.Cleanup, plan.CleanupIncomplete: plan.Cleanup, plan.CleanupInterrupted: plan.Cleanup,
	plan.RecoveryInProgress: plan.Disaster, plan.IncompleteRecovery: plan.Disaster, plan.RecoveryInterrupted: plan.Disaster, plan.BeforeCommit: plan.Disaster,
	plan.CommitInProgress: plan.CommitRun, plan.CommitIncomplete: plan.CommitRun, plan.RollbackInProgress: plan.Rollback, plan.RollbackIncomplete: plan.Rollback,
	plan.DisasterComplete: plan.CommitRun, plan.SplitBrain: plan.CommitRun, plan.RecoveryComplete: plan.CommitRun,
	plan.ReprotectInProgress: plan.Reprotect, plan.IncompleteReprotect: plan.Reprotect, plan.ReprotectInterrupted: plan.Reprotect,
}

// stand puts a plan and its domains into a state, with a run if one is under way.
func (r *rig) stand(p site.Name, s plan.State, reversed bool) {
	r.t.Helper()
	run := ""
	if s.Running() {
		b, err := r.begin(p, plan.Test)
		if err != nil {
			r.t.Fatal(err)
		}
		run = b.Run
	}
	r.must(func(ctx context.Context, tx *db.Tx) error {
		paused := plan.State("")
		if s == plan.WaitingForUser {
			paused = plan.RecoveryInProgress
		}
		rev := 0
		if reversed {
			rev = 1
		}
		if _, err := tx.Exec(ctx, `DELETE FROM plan_states`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO plan_states (plan, state, doing, paused, reversed, run, epoch, alone, scope, decide, decide_at, reason, last_test, last_test_ok, changed_at)
			VALUES ($1, $2, $3, $4, $5, $6, 0, 0, '{}', '', 0, '', 0, 0, 1)`, p, s, doing[s], paused, rev, run); err != nil {
			return err
		}
		at := map[site.Name]string{"d1": "protected", "d2": "protected"}
		turned := map[site.Name]int{"d1": rev, "d2": rev}
		switch s {
		case plan.RecoveryComplete, plan.DisasterComplete:
			at["d1"], at["d2"] = "failed-over", "failed-over"
		case plan.SplitBrain:
			at["d1"], at["d2"] = "split-brain", "split-brain"
		case plan.PartialRecovery:
			at["d1"] = "failed-over"
		case plan.PartialReprotect:
			at["d2"], turned["d1"] = "failed-over", 1-rev
		case plan.DirectionError:
			turned["d1"] = 1 - rev
		case plan.DomainsInUse:
			if _, err := tx.Exec(ctx, `INSERT INTO plan_claims (domain, plan) VALUES ('d1', 'other')`); err != nil {
				return err
			}
		case plan.NoDomains:
			delete(r.w.domains, "d2")
		}
		for d, f := range at {
			if _, err := tx.Exec(ctx, `INSERT INTO domain_states (domain, failover, reversed, plan, changed_at) VALUES ($1, $2, $3, '', 1)
				ON CONFLICT (domain) DO UPDATE SET failover = excluded.failover, reversed = excluded.reversed`, d, f, turned[d]); err != nil {
				return err
			}
		}
		return nil
	})
}

// ask asks for any operation, by the way there is for it.
func (r *rig) ask(p site.Name, op plan.Operation) error {
	return r.tx(func(ctx context.Context, tx *db.Tx) error {
		switch op {
		case plan.Cancel:
			return r.o.Cancel(ctx, tx, p, "ann")
		case plan.Answer:
			return r.o.Answer(ctx, tx, p, 1, "yes", "ann")
		case plan.Edit, plan.Delete:
			return r.o.MayChange(ctx, tx, p, op)
		}
		_, err := r.o.Begin(ctx, tx, r.request(p, op))
		return err
	})
}

// TestEveryStateAndOperation walks every pair of the table against the rows: what it
// allows is begun and stands as it says, all else is refused and changes nothing.
func TestEveryStateAndOperation(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		base := newRig(t, url, newWorld(2, 1))
		allowed, refused := 0, 0
		for _, line := range plan.Table() {
			for _, op := range plan.Operations() {
				for _, reversed := range []bool{false, true} {
					if base.d.Shared() && reversed != (op == plan.Failback) {
						continue // SQLite has walked them
					}
					r := base.fresh(t)
					r.w.plan("p", "d1", "d2")
					r.stand("p", line.State, reversed)
					before := r.row("p")
					want, ok := goOf(line, op, reversed)
					err := r.ask("p", op)
					what := fmt.Sprintf("%s, %s, reversed %t", line.State, op, reversed)
					switch {
					case !ok:
						refused++
						if !errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" {
							t.Errorf("%s: %v, want Conflict with a remedy", what, err)
						}
						if after := r.row("p"); after != before {
							t.Errorf("%s: refused, and %v became %v", what, before, after)
						}
					case op == plan.Answer:
						if !errs.Is(err, errs.NotFound) { // admitted; there is no such prompt
							t.Errorf("%s: %v", what, err)
						}
					case err != nil:
						t.Errorf("%s: %v", what, err)
					default:
						allowed++
						if after := r.row("p"); want.Next != "" && op != plan.Delete && after.State != want.Next {
							t.Errorf("%s: led to %s, want %s", what, after.State, want.Next)
						}
					}
				}
			}
		}
		t.Logf("%d allowed, %d refused", allowed, refused)
	})
}

func goOf(l plan.Line, op plan.Operation, reversed bool) (plan.Go, bool) {
	for _, g := range l.Allowed {
		if g.Op == op {
			return g, !g.Reversed || reversed
		}
	}
	return plan.Go{}, false
}

// fresh empties the database and makes a world anew.
func (r *rig) fresh(t *testing.T) *rig {
	r.must(func(ctx context.Context, tx *db.Tx) error {
		for _, table := range []string{"plan_states", "plan_claims", "plan_stopped", "domain_states", "plan_runs", "runs"} {
			if _, err := tx.Exec(ctx, `DELETE FROM `+table); err != nil {
				return err
			}
		}
		return nil
	})
	w := newWorld(2, 1)
	o, err := operate.New(operate.Options{World: w})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, d: r.d, w: w, o: o, site: r.site}
}

// row is a plan's row as it is stored.
func (r *rig) row(p site.Name) (s struct {
	State, Doing, Paused plan.State
	Run                  string
	Reversed             int64
	Claims, Runs         int64
}) {
	r.t.Helper()
	r.must(func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Row(ctx, `SELECT state, doing, paused, run, reversed FROM plan_states WHERE plan = $1`, []any{p}, &s.State, &s.Doing, &s.Paused, &s.Run, &s.Reversed); err != nil {
			return err
		}
		if _, err := tx.Row(ctx, `SELECT count(*) FROM plan_claims`, nil, &s.Claims); err != nil {
			return err
		}
		_, err := tx.Row(ctx, `SELECT count(*) FROM runs`, nil, &s.Runs)
		return err
	})
	return s
}
