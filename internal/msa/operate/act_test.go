package operate_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

func prompt(name string) plan.Callout {
	return plan.Callout{Name: name, Run: plan.Prompt, Ask: name + "?"}
}

// questions lists the open prompts of a plan's run.
func (r *rig) questions(p site.Name) (open []runs.Question) {
	r.t.Helper()
	run := r.status(p).Run
	r.must(func(ctx context.Context, tx *db.Tx) error {
		list, err := runs.Questions(ctx, tx, run, 100)
		open = slices.DeleteFunc(list, func(q runs.Question) bool { return !q.Answered.IsZero() })
		return err
	})
	return open
}

func (r *rig) answer(p site.Name, seq int) error {
	return r.tx(func(ctx context.Context, tx *db.Tx) error { return r.o.Answer(ctx, tx, p, seq, "yes", "bob") })
}

// TestPrompts: a plan waits as long as one of several prompts is open, and goes on where
// it was; a cancel or a failure beside closes them.
func TestPrompts(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := newWorld(1, 3)
		p := w.plan("p", "d1")
		p.VMs = []plan.VM{{VM: "vm1", Post: []plan.Callout{prompt("one")}}, {VM: "vm2", Post: []plan.Callout{prompt("two")}}}
		r := newRig(t, url, w)
		r.work(r.options())
		begin := func(op plan.Operation) {
			t.Helper()
			if _, err := r.begin("p", op); err != nil {
				t.Fatal(err)
			}
			r.until("p", "two prompts", func(s operate.Status) bool { return s.State == plan.WaitingForUser && len(r.questions("p")) == 2 })
		}
		begin(plan.Test)
		open := r.questions("p")
		if err := r.answer("p", open[0].Seq); err != nil {
			t.Fatal(err)
		}
		if s := r.status("p"); s.State != plan.WaitingForUser || s.Paused != plan.TestInProgress {
			t.Errorf("with one prompt open the plan is %s, paused %s", s.State, s.Paused)
		}
		if err := r.answer("p", open[0].Seq); !errs.Is(err, errs.Conflict) {
			t.Errorf("answered twice: %v", err)
		}
		if err := r.answer("p", open[1].Seq); err != nil {
			t.Fatal(err)
		}
		if s := r.settled("p"); s.State != plan.TestComplete || !s.TestOK {
			t.Errorf("%s, %t", s.State, s.TestOK)
		}
		if err := r.answer("p", open[1].Seq); !errs.Is(err, errs.Conflict) {
			t.Errorf("answered at its end: %v", err)
		}
		r.does("p", plan.Cleanup, plan.Ready)
		begin(plan.ForcedDisaster)
		r.must(func(ctx context.Context, tx *db.Tx) error { return r.o.Cancel(ctx, tx, "p", "ann") })
		if s := r.settled("p"); s.State != plan.IncompleteRecovery {
			t.Errorf("%s", s.State)
		}
		r.does("p", plan.Rollback, plan.Ready)
		r.well()
	})
}

// TestFailureBesidePrompt: a step that stops the run ends it though somebody is asked.
func TestFailureBesidePrompt(t *testing.T) {
	w := newWorld(1, 2)
	p := w.plan("p", "d1")
	p.VMs = []plan.VM{{VM: "vm1", Post: []plan.Callout{prompt("one")}},
		{VM: "vm2", Post: []plan.Callout{{Name: "bad", Run: plan.OnManager, Script: plan.Script{Command: []string{"false"}}, Fatal: true}}}}
	r := newRig(t, dbtest.SQLite(t), w)
	asked := make(chan struct{})
	r.site.Fail = func(k plan.Kind, object string, _ *operate.Act) error {
		if k == plan.KindScript && object == "bad" {
			<-asked
			return errs.New("x", errs.Invalid, "", "as planned")
		}
		return nil
	}
	r.work(r.options())
	if _, err := r.begin("p", plan.Planned); err != nil {
		t.Fatal(err)
	}
	r.until("p", "asked", func(s operate.Status) bool { return s.State == plan.WaitingForUser })
	close(asked)
	if s := r.settled("p"); s.State != plan.IncompleteRecovery {
		t.Errorf("%s\n%s", s.State, r.dump(s.Run))
	}
	r.well()
}

// TestOneRunPerDomain: of plans that share a domain one runs, whoever asks when; when
// its recovery is committed the others see so, and go on from there.
func TestOneRunPerDomain(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := newWorld(3, 1)
		w.plan("p", "d1", "d2")
		w.plan("q", "d2", "d3")
		r := newRig(t, url, w)
		var won atomic.Int64
		errors := make(chan error, 8)
		for i := range 8 {
			go func() {
				_, err := r.begin([]site.Name{"p", "q"}[i%2], plan.Test)
				if err == nil {
					won.Add(1)
				}
				errors <- err
			}()
		}
		for range 8 {
			if err := <-errors; err != nil && !errs.Is(err, errs.Conflict) {
				t.Error(err)
			}
		}
		if won.Load() != 1 {
			t.Fatalf("%d of 8 began", won.Load())
		}
		first, other := site.Name("p"), site.Name("q")
		if r.status("q").State == plan.TestInProgress {
			first, other = other, first
		}
		if s := r.status(other); s.State != plan.DomainsInUse {
			t.Errorf("the other plan is %s", s.State)
		}
		r.work(r.options())
		r.until(first, "tested", func(s operate.Status) bool { return s.State == plan.TestComplete })
		r.does(first, plan.Cleanup, plan.Ready)
		if s := r.status(other); s.State != plan.Ready {
			t.Errorf("the other plan is %s", s.State)
		}
		r.does(first, plan.Planned, plan.BeforeCommit)
		r.does(first, plan.CommitRun, plan.RecoveryComplete)
		if s := r.status(other); s.State != plan.PartialRecovery {
			t.Errorf("the other plan is %s", s.State)
		}
		r.does(other, plan.Planned, plan.BeforeCommit) // the rest: what is recovered is left alone
		r.does(other, plan.CommitRun, plan.RecoveryComplete)
		r.does(other, plan.Reprotect, plan.Ready)
		if s := r.status(first); s.State != plan.PartialReprotect {
			t.Errorf("the first plan is %s", s.State)
		}
		r.does(first, plan.Reprotect, plan.Ready)
		for _, p := range []site.Name{"p", "q"} {
			if s := r.status(p); s.State != plan.Ready || !s.Reversed {
				t.Errorf("%s is %s, reversed %t", p, s.State, s.Reversed)
			}
		}
		r.well()
	})
}

// TestKeys: a request with a key begins one run, however often it comes.
func TestKeys(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := newWorld(1, 1)
		w.plan("p", "d1")
		r := newRig(t, url, w)
		q := r.request("p", plan.Test)
		q.Key = "once"
		got := make(chan string, 6)
		for range 6 {
			go func() {
				var b *operate.Begun
				err := r.tx(func(ctx context.Context, tx *db.Tx) (err error) { b, err = r.o.Begin(ctx, tx, q); return err })
				if err != nil {
					t.Error(err)
					got <- ""
					return
				}
				got <- fmt.Sprint(b.Run, b.Does, b.State)
			}()
		}
		first := <-got
		for range 5 {
			if next := <-got; next != first {
				t.Errorf("%s, and %s", first, next)
			}
		}
		q.Operation = plan.Cleanup
		if err := r.tx(func(ctx context.Context, tx *db.Tx) error { _, err := r.o.Begin(ctx, tx, q); return err }); !errs.Is(err, errs.Conflict) {
			t.Errorf("the key for something else: %v", err)
		}
	})
}

// TestConfirmation: who begins a real run says so; a second person agrees once, to the
// version they saw, and is another one.
func TestConfirmation(t *testing.T) {
	w := newWorld(1, 1)
	p := w.plan("p", "d1")
	r := newRig(t, dbtest.SQLite(t), w)
	try := func(change func(*operate.Request)) error {
		return r.tx(func(ctx context.Context, tx *db.Tx) error {
			q := r.request("p", plan.Planned)
			change(&q)
			_, err := r.o.Begin(ctx, tx, q)
			if err == nil {
				return errs.New("test", errs.Canceled, "", "it began; undone")
			}
			return err
		})
	}
	began, none := errs.Canceled, func(*operate.Request) {}
	agreed := func(by string, v site.Version, ago time.Duration) func(*operate.Request) {
		return func(q *operate.Request) {
			q.Agreed = operate.Agreement{By: by, At: time.Now().Add(-time.Minute - ago), Version: v}
		}
	}
	want := func(what string, err error, kind errs.Kind) {
		t.Helper()
		if !errs.Is(err, kind) || kind != began && errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v, want %s", what, err, kind)
		}
	}
	want("confirmed", try(none), began)
	want("not confirmed", try(func(q *operate.Request) { q.Confirm = nil }), errs.Denied)
	want("another version", try(func(q *operate.Request) { q.Confirm.Version = 7 }), errs.Conflict)
	want("another operation", try(func(q *operate.Request) { q.Confirm.Does = plan.Disaster }), errs.Denied)
	p.TwoPersons = true
	want("alone", try(none), errs.Denied)
	want("with a made-up second", try(func(q *operate.Request) {
		q.Confirm.Second, q.Confirm.Agreed, q.Confirm.AgreedTo = "bob", time.Now(), 1
	}), errs.Denied)
	want("agreed to another version", try(agreed("bob", 2, 0)), errs.Conflict)
	want("agreed by herself", try(agreed("ann", 1, 0)), errs.Denied)
	want("agreed long ago", try(agreed("bob", 1, time.Hour)), errs.Denied)
	want("agreed", try(agreed("bob", 1, 0)), began)
	r.must(func(ctx context.Context, tx *db.Tx) error {
		q := r.request("p", plan.Planned)
		agreed("bob", 1, 0)(&q)
		b, err := r.o.Begin(ctx, tx, q)
		if err != nil {
			return err
		}
		e, err := operate.EntryOf(ctx, tx, b.Run)
		if e.Agreed != "bob" || e.Said == nil || e.Said.Second != "bob" || e.Said.By != "ann" {
			t.Errorf("%+v", e)
		}
		return err
	})
}

// TestParked: a run whose steps this release does not know waits; its plan is
// interrupted; resumed it goes on, or another operation takes its place.
func TestParked(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		w := newWorld(1, 1)
		w.plan("p", "d1")
		r := newRig(t, url, w)
		old := r.options()
		delete(old.Kinds, runs.Kind{Name: string(plan.KindPowerOn), Version: 1})
		stop := r.work(old)
		r.does("p", plan.Disaster, plan.RecoveryInterrupted)
		first := r.status("p")
		if !strings.Contains(first.Reason, "power-on") {
			t.Errorf("why: %q", first.Reason)
		}
		if err := r.ask("p", plan.Cancel); !errs.Is(err, errs.Conflict) {
			t.Errorf("cancel: %v", err)
		}
		stop()
		r.work(r.options())
		r.must(func(ctx context.Context, tx *db.Tx) error { return r.o.Resume(ctx, tx, "p", "ann") })
		if s := r.settled("p"); s.State != plan.BeforeCommit || s.Run != first.Run {
			t.Errorf("%s", s.State)
		}
		if err := r.tx(func(ctx context.Context, tx *db.Tx) error { return r.o.Resume(ctx, tx, "p", "ann") }); !errs.Is(err, errs.Conflict) {
			t.Errorf("resumed twice: %v", err)
		}
		r.well()
	})
}

// TestGivenUp: a rollback takes the place of a parked recovery, and undoes what it did.
func TestGivenUp(t *testing.T) {
	w := newWorld(1, 2)
	w.plan("p", "d1")
	r := newRig(t, dbtest.SQLite(t), w)
	old := r.options()
	delete(old.Kinds, runs.Kind{Name: string(plan.KindPowerOn), Version: 1})
	stop := r.work(old)
	r.does("p", plan.Planned, plan.RecoveryInterrupted)
	parked := r.status("p")
	stop()
	r.work(r.options())
	r.does("p", plan.Rollback, plan.Ready)
	st := r.state()
	for n := 1; n <= 2; n++ {
		if !st.VMs["a/"+vmID(n).String()].Running {
			t.Errorf("VM %d does not run at home", n)
		}
	}
	r.must(func(ctx context.Context, tx *db.Tx) error {
		was, err := runs.Get(ctx, tx, parked.Run)
		now, nerr := runs.Get(ctx, tx, r.status("p").Run)
		if nerr != nil {
			return nerr
		}
		if was.State != runs.Cancelled || now.Epoch <= was.Epoch {
			t.Errorf("%s in epoch %d, then epoch %d", was.State, was.Epoch, now.Epoch)
		}
		e, eerr := operate.EntryOf(ctx, tx, parked.Run)
		if eerr != nil || e.Ended.IsZero() || e.Event != plan.Interrupted {
			t.Errorf("%+v, %v", e, eerr)
		}
		return err
	})
	r.well()
}

// TestPeer: after a forced disaster the peer comes back with its old VMs; they are
// cleaned up, and nothing else is touched.
func TestPeer(t *testing.T) {
	w := newWorld(1, 2)
	w.plan("p", "d1")
	r := newRig(t, dbtest.SQLite(t), w)
	r.work(r.options())
	r.does("p", plan.ForcedDisaster, plan.BeforeCommit)
	r.does("p", plan.CommitRun, plan.DisasterComplete)
	tell := func(e plan.Event) error {
		return r.tx(func(ctx context.Context, tx *db.Tx) error { return r.o.Tell(ctx, tx, "p", e, "peer") })
	}
	if err := tell(plan.Succeeded); !errs.Is(err, errs.Invalid) {
		t.Errorf("%v", err)
	}
	if err := tell(plan.PeerReturned); err != nil {
		t.Fatal(err)
	}
	if d := r.failover("d1"); d.Failover != plan.DomainSplitBrain {
		t.Errorf("the domain is %s", d.Failover)
	}
	r.does("p", plan.Planned, plan.RecoveryComplete)
	if d := r.failover("d1"); d.Failover != plan.FailedOver {
		t.Errorf("the domain is %s", d.Failover)
	}
	st := r.state()
	if !st.VMs["b/"+vmID(1).String()].Running || !st.VMs["a/"+vmID(1).String()].Retired {
		t.Errorf("%+v, %+v", st.VMs["b/"+vmID(1).String()], st.VMs["a/"+vmID(1).String()])
	}
	r.does("p", plan.Reprotect, plan.Ready)
	r.well()
}

// TestCancelEverywhere cancels each operation at each of its effects: what is left is a
// state with a way on, and on that way everything ends as it began.
func TestCancelEverywhere(t *testing.T) {
	for _, op := range []plan.Operation{plan.Test, plan.Planned, plan.Disaster, plan.ForcedDisaster} {
		for n := 1; ; n++ {
			if over := cancelAt(t, op, n); over {
				t.Logf("%s: cancelled at %d effects", op, n-1)
				break
			}
		}
	}
}

func cancelAt(t *testing.T, op plan.Operation, n int) (over bool) {
	w := newWorld(1, 2)
	p := w.plan("p", "d1")
	p.MaxBoots = 1 // one effect after the other
	r := newRig(t, dbtest.SQLite(t), w)
	var count atomic.Int64
	var ended atomic.Bool
	r.site.Point = func(where string, _ plan.Kind, _ *operate.Act) {
		if where == "in" && !ended.Load() && count.Add(1) == int64(n) {
			r.must(func(ctx context.Context, tx *db.Tx) error { return r.o.Cancel(ctx, tx, "p", "ann") })
		}
	}
	defer r.work(r.options())()
	if _, err := r.begin("p", op); err != nil {
		t.Fatal(err)
	}
	s := r.settled("p")
	ended.Store(true)
	over = count.Load() < int64(n)
	switch {
	case s.State == plan.Ready: // unwound
	case op == plan.Test && s.State == plan.TestComplete:
		r.does("p", plan.Cleanup, plan.Ready)
	case s.State == plan.IncompleteRecovery || over && s.State == plan.BeforeCommit:
		r.does("p", plan.Rollback, plan.Ready)
	default:
		t.Fatalf("%s, cancelled at effect %d, is %s\n%s", op, n, s.State, r.dump(s.Run))
	}
	st := r.state()
	for i := range w.a.VMs {
		id := w.a.VMs[i].ID.String()
		if !st.VMs["a/"+id].Running || st.VMs["b/"+id] != nil && st.VMs["b/"+id].Plan != "" || st.VMs["test/"+id] != nil && st.VMs["test/"+id].Plan != "" {
			t.Errorf("%s, cancelled at effect %d: VM %d is not as it was", op, n, i+1)
		}
	}
	if d := r.failover("d1"); d.Failover != plan.AtRest {
		t.Errorf("%s, cancelled at effect %d: the domain is %s", op, n, d.Failover)
	}
	r.well()
	return over
}
