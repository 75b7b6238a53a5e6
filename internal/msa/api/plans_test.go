package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/operate/fakesite"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// plansFile is a plan over one domain of two VMs, with a prompt before its disks.
const plansFile = `apiVersion: holdfast/v1
kind: domain
name: erp
from: a
to: b
vms: [vm1, vm2]
stores: [s]
retention:
  schedule: [{for: 24h}]
---
apiVersion: holdfast/v1
kind: mappings
name: m
from: a
to: b
---
apiVersion: holdfast/v1
kind: plan
name: p
from: a
to: b
domains: [erp]
vms:
  - {vm: vm1, priority: 1, agent: 0s}
  - {vm: vm2, priority: 2, agent: 0s}
callouts:
  - {name: go, at: {before: disks}, run: prompt, ask: "Go on?", only: [test]}
two_persons: true
`

// planRig is the API with plans that are carried out on a fake site.
type planRig struct {
	*rig
	o *operate.Operator
}

func newPlanRig(t *testing.T) *planRig {
	c := &catalog.Catalog{Views: func(context.Context, *db.Tx) (map[site.Name]*site.View, error) {
		a := &site.Inventory{Site: "a"}
		for n := range 2 {
			var id dr.VMID
			binary.BigEndian.PutUint32(id.UUID[:], uint32(n+1))
			a.VMs = append(a.VMs, site.VM{ID: id, Ref: site.Ref(fmt.Sprintf("vm%d", n+1)), CPUs: 1, MemoryMiB: 64})
		}
		b := *a
		b.Site = "b"
		return map[site.Name]*site.View{"a": site.NewView(a), "b": site.NewView(&b)}, nil
	}}
	o, err := operate.New(operate.Options{World: operate.InCatalog(c), Note: operate.Feed})
	if err != nil {
		t.Fatal(err)
	}
	c.Guards = append(c.Guards, o.Guard)
	r := &planRig{newRig(t, dbtest.SQLite(t), func(x *Options) { x.Catalog, x.Plans = c, o }), o}
	for _, n := range []string{"a", "b"} {
		r.send("PUT", "/sites/"+n, siteOf(n)).want(http.StatusCreated)
	}
	r.send("PUT", "/stores/s", v1.Store{Meta: v1.Meta{Name: "s"}, URL: "file:///srv"}).want(http.StatusCreated)
	r.send("POST", "/apply", plansFile).want(http.StatusOK)
	return r
}

// work has a worker that cannot do some kinds carry runs out, until stop.
func (r *planRig) work(without ...plan.Kind) (stop func()) {
	r.t.Helper()
	k := operate.Kinds(&fakesite.Site{Store: &fakesite.Memory{}}, time.Millisecond)
	for _, kind := range without {
		delete(k, runs.Kind{Name: string(kind), Version: plan.StepVersion})
	}
	w, err := runs.NewWorker(r.db, runs.Options{Kinds: k, Joined: r.o.Joined, Poll: 5 * time.Millisecond})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = w.Run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

func (r *planRig) status() v1.PlanStatus {
	return as[v1.PlanStatus](r.send("GET", "/plans/p/status", nil).want(http.StatusOK))
}

// reaches waits for a state of the plan.
func (r *planRig) reaches(want plan.State) v1.PlanStatus {
	r.t.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(5 * time.Millisecond) { // between questions; the answer decides
		var s operate.Status
		if err := r.db.View(r.t.Context(), func(tx *db.Tx) (err error) { s, err = r.o.Look(r.t.Context(), tx, "p"); return err }); err != nil {
			r.t.Fatal(err)
		}
		if s.State == want {
			return r.status()
		}
		if time.Now().After(end) {
			r.t.Fatalf("the plan is %s, never %s", s.State, want)
		}
	}
}

// confirmed is a request that somebody stands for.
func (r *planRig) confirmed(op plan.Operation) v1.StartRun {
	p := as[v1.Plan](r.send("GET", "/plans/p", nil).want(http.StatusOK))
	return v1.StartRun{RunQuestion: v1.RunQuestion{Operation: string(op)},
		Confirm: &v1.ConfirmRun{Plan: "p", Version: uint64(p.Version), Operation: string(op), Alone: true}}
}

// agreed is a request that a second person has approved.
func (r *planRig) agreed(op plan.Operation) v1.StartRun {
	r.t.Helper()
	q := r.confirmed(op)
	a := as[v1.AskedApproval](r.send("POST", "/plans/p/approvals", q.RunQuestion).want(http.StatusCreated))
	r.must(a.ID)
	q.Confirm.Approval = a.ID
	return q
}

// must has a second person approve.
func (r *planRig) must(id string) {
	r.t.Helper()
	if err := r.db.Tx(r.t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(r.t.Context(), `UPDATE approvals SET verdict = 'approved', decided_by = 'bob', decided_at = $2 WHERE id = $1`, id, tx.Now())
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
}

// TestPlansOverTheAPI: a plan is looked at, tested, cleaned up, run with a second
// person, committed and reprotected; its runs are seen and their reports read.
func TestPlansOverTheAPI(t *testing.T) {
	r := newPlanRig(t)
	defer r.work()()
	if s := r.status(); s.State != "ready" || !slices.Contains(s.Allowed, "test") || slices.Contains(s.Allowed, "failback") || len(s.Domains) != 1 {
		t.Errorf("%+v", s)
	}
	if ready := as[v1.PlanReadiness](r.send("GET", "/plans/p/readiness", nil).want(http.StatusOK)); ready.VMs != 2 || len(ready.Faults) == 0 {
		t.Errorf("%+v", ready)
	}
	preview := as[v1.PlanPreview](r.send("POST", "/plans/p/preview", v1.RunQuestion{Operation: "planned"}).want(http.StatusOK))
	if !preview.OK || len(preview.Groups) < 5 {
		t.Errorf("%+v", preview)
	}
	r.send("POST", "/plans/p/runs", v1.StartRun{RunQuestion: v1.RunQuestion{Operation: "test"}}).problem(http.StatusUnprocessableEntity, errs.Invalid)
	r.send("POST", "/plans/p/tests", v1.StartRun{RunQuestion: v1.RunQuestion{Operation: "cleanup"}}).problem(http.StatusConflict, errs.Conflict)
	first := as[v1.StartedRun](r.send("POST", "/plans/p/tests", v1.StartRun{RunQuestion: v1.RunQuestion{Operation: "test"}, Notes: "as every week"}).want(http.StatusAccepted))
	r.reaches(plan.WaitingForUser)
	prompts := as[v1.Page[v1.OpenPrompt]](r.send("GET", "/prompts", nil).want(http.StatusOK))
	if len(prompts.Items) != 1 || prompts.Items[0].Question != "Go on?" {
		t.Fatalf("%+v", prompts)
	}
	r.send("PUT", "/plans/p", as[v1.Plan](r.send("GET", "/plans/p", nil).want(http.StatusOK))).want(http.StatusOK) // nothing changes
	r.send("DELETE", "/plans/p", nil, "If-Match", "*").problem(http.StatusConflict, errs.Conflict)
	r.send("POST", "/plans/p/answer", v1.AnswerPrompt{Step: prompts.Items[0].Step, Answer: "yes"}).want(http.StatusOK)
	r.reaches(plan.TestComplete)
	r.look(first.Run)
	r.send("POST", "/plans/p/tests", v1.StartRun{RunQuestion: v1.RunQuestion{Operation: "cleanup"}}).want(http.StatusAccepted)
	r.reaches(plan.Ready)
	r.send("POST", "/plans/p/runs", v1.StartRun{RunQuestion: v1.RunQuestion{Operation: "planned"}}).problem(http.StatusForbidden, errs.Denied)
	r.send("POST", "/plans/p/runs", r.confirmed(plan.Planned)).problem(http.StatusForbidden, errs.Denied)
	q := r.agreed(plan.Planned)
	q.VMs = []v1.Ref{"vm1"} // that is not what was approved
	r.send("POST", "/plans/p/runs", q).problem(http.StatusForbidden, errs.Denied)
	for _, leg := range []struct {
		op   plan.Operation
		path string
		want plan.State
	}{{plan.Planned, "runs", plan.BeforeCommit}, {plan.CommitRun, "runs", plan.RecoveryComplete}, {plan.Reprotect, "reprotects", plan.Ready}} {
		r.send("POST", "/plans/p/"+leg.path, r.agreed(leg.op)).want(http.StatusAccepted)
		r.reaches(leg.want)
	}
	if s := r.status(); !s.Reversed || !slices.Contains(s.Allowed, "failback") {
		t.Errorf("%+v", s)
	}
}

// look reads all there is of a run.
func (r *planRig) look(id string) {
	r.t.Helper()
	list := as[v1.Page[v1.PlanRun]](r.send("GET", "/plans/p/runs?limit=1", nil).want(http.StatusOK))
	if len(list.Items) != 1 || list.Items[0].Run != id || list.Next == "" {
		r.t.Errorf("%+v", list)
	}
	run := as[v1.PlanRun](r.send("GET", "/runs/"+id, nil).want(http.StatusOK))
	if run.Status != "success" || len(run.Steps) == 0 || run.Notes != "as every week" {
		r.t.Errorf("%+v", run)
	}
	r.send("PUT", "/runs/"+id+"/notes", v1.RunNotes{Notes: "seen <b>twice</b>"}).want(http.StatusNoContent)
	var doc struct {
		Operation, Notes string
		Steps            []json.RawMessage
	}
	if err := json.Unmarshal(r.send("GET", "/runs/"+id+"/report", nil).want(http.StatusOK).body, &doc); err != nil || doc.Operation != "test" || len(doc.Steps) == 0 || doc.Notes != "seen <b>twice</b>" {
		r.t.Errorf("%+v, %v", doc, err)
	}
	page := r.send("GET", "/runs/"+id+"/report.html", nil).want(http.StatusOK)
	if !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") || !bytes.Contains(page.body, []byte("seen &lt;b&gt;twice")) {
		r.t.Errorf("%s", page.Header.Get("Content-Type"))
	}
	if table := r.send("GET", "/runs/"+id+"/report.csv", nil).want(http.StatusOK); !bytes.Contains(table.body, []byte("p1")) {
		r.t.Errorf("%s", table.body)
	}
}

// TestRunsUnderWay: a run is cancelled; a parked one goes on without a step.
func TestRunsUnderWay(t *testing.T) {
	r := newPlanRig(t)
	stop := r.work()
	r.send("POST", "/plans/p/tests", v1.StartRun{RunQuestion: v1.RunQuestion{Operation: "test"}}).want(http.StatusAccepted)
	r.reaches(plan.WaitingForUser)
	r.send("POST", "/plans/p/cancel", nil).want(http.StatusOK)
	r.reaches(plan.TestComplete)
	r.send("POST", "/plans/p/tests", v1.StartRun{RunQuestion: v1.RunQuestion{Operation: "cleanup"}}).want(http.StatusAccepted)
	r.reaches(plan.Ready)
	stop()
	stop = r.work(plan.KindPowerOn) // of another release: it parks what it does not know
	r.send("POST", "/plans/p/runs", r.agreed(plan.ForcedDisaster)).want(http.StatusAccepted)
	s := r.reaches(plan.RecoveryInterrupted)
	stop()
	r.who = string(auth.PlanAuthor) // may test plans, and not run them
	r.send("POST", "/plans/p/resume", nil).problem(http.StatusForbidden, errs.Denied)
	r.who = "admin"
	run := as[v1.PlanRun](r.send("GET", "/runs/"+s.Run, nil).want(http.StatusOK))
	i := slices.IndexFunc(run.Steps, func(st v1.RunStep) bool { return st.Kind == string(plan.KindPowerOn) })
	r.send("POST", "/plans/p/skip", v1.SkipStep{Step: run.Steps[i].Step}).want(http.StatusOK)
	defer r.work()()
	r.send("POST", "/plans/p/resume", nil).want(http.StatusOK)
	r.reaches(plan.BeforeCommit)
	again := as[v1.PlanRun](r.send("GET", "/runs/"+s.Run, nil).want(http.StatusOK))
	if again.Steps[i].Status != "skipped" {
		t.Errorf("%+v", again.Steps[i])
	}
}
