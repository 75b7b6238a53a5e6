package operate_test

import (
	"context"
	"slices"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/report"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// TestStory is the life of a plan: test, cleanup, planned migration, commit, reprotect,
// failback, commit, reprotect; a disaster, its rollback.
func TestStory(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) { newRig(t, url, storyPlan()).story() })
}

func storyPlan() *world {
	w := newWorld(2, 2)
	p := w.plan("p", "d1", "d2")
	p.VMs = []plan.VM{{VM: "vm1", Priority: 1, Critical: true}, {VM: "vm2", Priority: 2}, {VM: "vm4", After: []site.Ref{"vm3"}}}
	p.Suspend = []site.Ref{"lab"}
	return w
}

// story is what TestStory tells.
func (r *rig) story() {
	t, w := r.t, r.w
	r.site.JobPolls = 2
	r.work(r.options())
	r.does("p", plan.Test, plan.TestComplete)
	if d := r.failover("d1"); d.Failover != plan.DomainTested {
		t.Errorf("d1 is %s", d.Failover)
	}
	r.does("p", plan.Cleanup, plan.Ready)
	for _, leg := range []struct {
		op   plan.Operation
		from string
		to   string
	}{{plan.Planned, "a", "b"}, {plan.Failback, "b", "a"}} {
		r.does("p", leg.op, plan.BeforeCommit)
		st := r.state()
		for i := range w.a.VMs {
			id := w.a.VMs[i].ID.String()
			if st.VMs[leg.from+"/"+id].Running || !st.VMs[leg.to+"/"+id].Running {
				t.Errorf("%s: VM %d runs at the wrong site", leg.op, i+1)
			}
		}
		r.does("p", plan.CommitRun, plan.RecoveryComplete)
		if d := r.failover("d2"); d.Failover != plan.FailedOver {
			t.Errorf("d2 is %s", d.Failover)
		}
		r.does("p", plan.Reprotect, plan.Ready)
		if s := r.status("p"); s.Reversed != (leg.to == "b") || r.failover("d1").Reversed != s.Reversed {
			t.Errorf("after %s: reversed %t", leg.op, s.Reversed)
		}
	}
	r.does("p", plan.Disaster, plan.BeforeCommit)
	r.does("p", plan.Rollback, plan.Ready)
	for i := range w.a.VMs {
		id := w.a.VMs[i].ID.String()
		if st := r.state(); !st.VMs["a/"+id].Running || st.VMs["b/"+id] != nil && st.VMs["b/"+id].Running {
			t.Errorf("after the rollback VM %d does not run at home alone", i+1)
		}
	}
	r.well()
	r.history(10)
}

// history checks what is kept of n runs.
func (r *rig) history(n int) {
	r.t.Helper()
	r.must(func(ctx context.Context, tx *db.Tx) error {
		list, err := operate.History(ctx, tx, "p", 0, 100)
		if err != nil {
			return err
		}
		if len(list) != n {
			r.t.Errorf("%d runs in the history, want %d", len(list), n)
		}
		for _, e := range list {
			rep, err := operate.Report(ctx, tx, e.Run)
			if err != nil {
				return err
			}
			if e.Ended.IsZero() || rep.State != string(e.State) || rep.Operation != string(e.Operation) || len(rep.Steps) == 0 || rep.By != "ann" {
				r.t.Errorf("%s: %+v", e.Operation, e)
			}
			if e.Operation == plan.Planned {
				checkPlanned(r.t, rep)
			}
			if _, err := rep.HTML(); err != nil {
				return err
			}
		}
		return nil
	})
}

func checkPlanned(t testing.TB, rep *report.Report) {
	if len(rep.Domains) != 2 {
		t.Fatalf("%+v", rep.Domains)
	}
	for _, d := range rep.Domains {
		if d.Up != 2 || d.VMs != 2 || d.Checkpoint == 0 || d.RTO <= 0 || d.RPO != 0 {
			t.Errorf("%+v", d)
		}
	}
	if rep.Steps[0].Number != "1.1.1" || rep.From != "a" || rep.To != "b" || rep.Status != report.Success {
		t.Errorf("%+v", rep.Steps[0])
	}
}

// TestUnwound: a planned migration that fails before its fence starts again what it shut
// down, and nothing else; behind the fence it does not.
func TestUnwound(t *testing.T) {
	for _, c := range []struct {
		name  string
		fails plan.Kind
		want  plan.State
		home  bool
		stand plan.Failover
	}{
		{"sync", plan.KindSync, plan.Ready, true, plan.AtRest},
		{"shutdown", plan.KindSourceOff, plan.Ready, true, plan.AtRest},
		{"final sync", plan.KindFinalSync, plan.Ready, true, plan.AtRest},
		{"fence", plan.KindFence, plan.IncompleteRecovery, false, plan.FailedIncomplete},
		{"disks", plan.KindDisks, plan.IncompleteRecovery, false, plan.FailedIncomplete},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(1, 3)
			w.plan("p", "d1")
			r := newRig(t, dbtest.SQLite(t), w)
			off := &plan.VMInputs{VM: vmID(2), Site: "a"}
			if err := r.site.Power(t.Context(), off, false); err != nil {
				t.Fatal(err)
			}
			broken := true
			r.site.Fail = func(k plan.Kind, _ string, _ *operate.Act) error {
				if k == c.fails && broken {
					return errs.New("x", errs.Invalid, "", "as planned")
				}
				return nil
			}
			stop := r.work(r.options())
			r.does("p", plan.Planned, c.want)
			st := r.state()
			for n := 1; n <= 3; n++ {
				if up := st.VMs["a/"+vmID(n).String()].Running; up != (c.home && n != 2) {
					t.Errorf("VM %d runs at the protected site: %t", n, up)
				}
			}
			if d := r.failover("d1"); d.Failover != c.stand {
				t.Errorf("the domain is %s, want %s", d.Failover, c.stand)
			}
			stop()
			broken = false
			r.work(r.options())
			if c.want == plan.IncompleteRecovery {
				r.rerun(c.fails)
			} else {
				r.does("p", plan.Planned, plan.BeforeCommit)
			}
			r.does("p", plan.Rollback, plan.Ready)
			st = r.state()
			for n := 1; n <= 3; n++ {
				if up := st.VMs["a/"+vmID(n).String()].Running; up != (n != 2) {
					t.Errorf("after the rollback VM %d runs at the protected site: %t", n, up)
				}
			}
			r.well()
		})
	}
}

// rerun goes on with a recovery: what is done shows so.
func (r *rig) rerun(failed plan.Kind) {
	r.t.Helper()
	r.does("p", plan.Rerun, plan.BeforeCommit)
	s := r.status("p")
	r.must(func(ctx context.Context, tx *db.Tx) error {
		steps, err := runs.Steps(ctx, tx, s.Run)
		for _, st := range steps {
			done := slices.Contains([]plan.Kind{plan.KindSync, plan.KindShutdownVM, plan.KindSourceOff, plan.KindFinalSync}, plan.Kind(st.Step.Kind))
			if done && st.Status != runs.AlreadyDone || plan.Kind(st.Step.Kind) == failed && st.Status != runs.Success {
				r.t.Errorf("%s is %s", st.Step.Name, st.Status)
			}
		}
		return err
	})
}

// report is that of the plan's last run.
func (r *rig) report(p site.Name) (rep *report.Report) {
	r.t.Helper()
	id := r.status(p).Run
	r.must(func(ctx context.Context, tx *db.Tx) (err error) { rep, err = operate.Report(ctx, tx, id); return err })
	return rep
}
