package runs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

// TestRun carries a run with one of everything to its end.
func TestRun(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		var mu sync.Mutex
		var order []string
		kinds := one(func(_ context.Context, c *Call) (Result, error) {
			mu.Lock()
			order = append(order, c.Step.Name)
			mu.Unlock()
			switch c.Step.Name {
			case "flaky":
				if c.Attempt < 3 {
					return Result{}, errors.New("not yet")
				}
			case "job":
				if c.Attempt < 4 {
					return Result{Again: time.Millisecond, Memory: asJSON(c.Attempt)}, nil
				}
				if string(c.Memory) != "3" {
					return Result{}, fmt.Errorf("memory %q", c.Memory)
				}
			case "loud":
				fmt.Fprint(c.Output(), strings.Repeat("x", 9000), "\x00\xffend")
				c.Progress(3, 4)
				c.Warn("mind the gap")
			case "there":
				return Result{AlreadyDone: true}, nil
			case "panics":
				panic("oops")
			case "minor":
				return Result{}, errs.New("x", errs.Denied, "", "no")
			case "slow":
				<-c.Step.wait(t.Context())
			}
			return Result{Note: "ok"}, nil
		})
		flaky, panics, minor := do("flaky"), do("panics"), do("minor")
		flaky.Retry = Retry{Attempts: 3, First: time.Millisecond}
		panics.Retry = flaky.Retry
		minor.OnError = Warn
		lower, end := do("lower"), do("end")
		lower.Group, end.Finally = 1, true
		_, stop := work(t, d, quick(kinds))
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{
			flaky, do("job", "flaky"), do("loud", "job"), do("there"), panics, do("needs-panics", "panics"),
			minor, do("needs-minor", "minor"), timer("timer", 20*time.Millisecond), do("late", "timer"), lower, end,
		}}})
		r, steps := ended(t, d, id)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if r.State != Failed {
			t.Errorf("the run is %s", r.State)
		}
		for name, want := range map[string]Status{
			"flaky": Success, "job": Success, "loud": Warning, "there": AlreadyDone, "panics": Error, "needs-panics": Skipped,
			"minor": Warning, "needs-minor": Success, "timer": Success, "late": Success, "lower": Success, "end": Success,
		} {
			if s := steps[name]; s.Status != want || s.Ended.IsZero() {
				t.Errorf("%s is %s, not %s: %+v", name, s.Status, want, s)
			}
		}
		if s := steps["panics"]; s.Attempt != 1 || !strings.Contains(s.Output, "panic: oops") {
			t.Errorf("the step that panics: %+v", s)
		}
		if out := steps["loud"].Output; len(out) > outputTail || !strings.HasSuffix(out, "x\uFFFD\uFFFDend") || steps["loud"].Done != 3 {
			t.Errorf("output of %d bytes, progress %d", len(out), steps["loud"].Done)
		}
		if slices.Index(order, "lower") < slices.Index(order, "late") || order[len(order)-1] != "end" {
			t.Errorf("order %q", order)
		}
		checkFeed(t, d, id)
	})
}

// wait ends with a context: a step that has no end of its own.
func (st Step) wait(ctx context.Context) <-chan struct{} { return ctx.Done() }

// checkFeed: numbers without a hole, and each step's changes by the table.
func checkFeed(t *testing.T, d *db.DB, id string) {
	t.Helper()
	at := make(map[int]Status)
	var last int64
	tx(t, d, func(ctx context.Context, x *db.Tx) error {
		list, err := Events(ctx, x, 0, maxPage)
		for _, e := range list {
			if e.Seq != last+1 {
				t.Errorf("event %d after %d", e.Seq, last)
			}
			last = e.Seq
			if e.Run != id || e.Change != "step" {
				continue
			}
			from := at[e.Step]
			if from == "" {
				from = Inactive
			}
			if !allowed(from, Status(e.Words)) {
				t.Errorf("step %d became %s after %s", e.Step, e.Words, from)
			}
			at[e.Step] = Status(e.Words)
		}
		return err
	})
	if last == 0 {
		t.Error("no events")
	}
}

func TestTwentyStarts(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		a, b := open(t, url), open(t, url)
		q := Request{Key: "k", Subject: "plan", Operation: "test", By: "x", Snapshot: Snapshot{Steps: []Step{do("a")}}}
		var wg sync.WaitGroup
		var made atomic.Int64
		var ids sync.Map
		for i := range 20 {
			wg.Go(func() {
				d := a
				if i%2 == 1 {
					d = b
				}
				var id string
				var started bool
				if err := d.Tx(t.Context(), func(x *db.Tx) (err error) { id, started, err = Start(t.Context(), x, q); return err }); err != nil {
					t.Error(err)
				}
				ids.Store(id, true)
				if started {
					made.Add(1)
				}
			})
		}
		wg.Wait()
		n := 0
		ids.Range(func(any, any) bool { n++; return true })
		if made.Load() != 1 || n != 1 {
			t.Errorf("%d runs made, %d ids", made.Load(), n)
		}
		q.Subject = "another"
		if err := a.Tx(t.Context(), func(x *db.Tx) error { _, _, err := Start(t.Context(), x, q); return err }); !errs.Is(err, errs.Conflict) {
			t.Errorf("the key for something else: %v", err)
		}
		// A start in a transaction that is given up has not been.
		q.Key, q.Subject = "k2", "plan"
		gone := errors.New("the caller's")
		if err := a.Tx(t.Context(), func(x *db.Tx) error { _, _, _ = Start(t.Context(), x, q); return gone }); !errors.Is(err, gone) {
			t.Error(err)
		}
		tx(t, a, func(ctx context.Context, x *db.Tx) error {
			list, err := List(ctx, x, "", 0, 100)
			if len(list) != 1 {
				t.Errorf("%d runs", len(list))
			}
			return err
		})
	})
}

func TestPrompts(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		work(t, d, quick(one(func(context.Context, *Call) (Result, error) { return Result{}, nil })))
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{
			prompt("go", Prompt{Question: "Go?", Choices: []string{"yes", "no"}}),
			do("then", "go"),
			prompt("late", Prompt{Question: "Still there?", Within: 20 * time.Millisecond, Default: "no"}, "then"),
		}}})
		// While it waits nobody holds it.
		reachesStep(t, d, id, "go", Running)
		reaches(t, d, id, "let go", func(r Run) bool { return r.State == Active && r.Owner == "" })
		answer := func(a string) error {
			return d.Tx(t.Context(), func(x *db.Tx) error { return Answer(t.Context(), x, id, 1, a, "me") })
		}
		if err := answer("perhaps"); !errs.Is(err, errs.Invalid) {
			t.Errorf("an answer that is not offered: %v", err)
		}
		var wg sync.WaitGroup
		var won atomic.Int64
		for _, a := range []string{"yes", "no", "yes", "no"} {
			wg.Go(func() {
				if err := answer(a); err == nil {
					won.Add(1)
				} else if !errs.Is(err, errs.Conflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d answers counted", won.Load())
		}
		r, steps := ended(t, d, id)
		if r.State != Succeeded || steps["then"].Status != Success {
			t.Errorf("%+v", r)
		}
		tx(t, d, func(ctx context.Context, x *db.Tx) error {
			qs, err := Questions(ctx, x, id, 10)
			if len(qs) != 2 || qs[0].AnsweredBy != "me" || qs[1].Answer != "no" || qs[1].AnsweredBy != "" {
				t.Errorf("%+v", qs)
			}
			return err
		})
		if err := answer("yes"); !errs.Is(err, errs.Conflict) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestUndo: a failure that stops takes back what had begun, the last first; behind the
// point of no return it does not.
func TestUndo(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	var mu sync.Mutex
	var undone []string
	kinds := one(func(_ context.Context, c *Call) (Result, error) {
		if c.Step.Name == "fails" {
			return Result{}, errs.New("x", errs.Denied, "", "no")
		}
		return Result{Memory: asJSON(c.Step.Name)}, nil
	})
	kinds[Kind{"undo", 1}] = DoerFunc(func(_ context.Context, c *Call) (Result, error) {
		mu.Lock()
		defer mu.Unlock()
		undone = append(undone, string(c.UndoesMemory)+c.Undoes[strings.Index(c.Undoes, "/"):])
		return Result{}, nil
	})
	work(t, d, quick(kinds))
	u := &Undo{Kind: "undo", Version: 1}
	with := func(s Step, group int) Step { s.Undo, s.Group = u, group; return s }
	fails, end := do("fails", "c"), do("end")
	fails.OnError, fails.Group, end.Finally = Stop, 2, true
	plan := []Step{with(do("a"), 0), do("b", "a"), with(do("c", "b"), 1), fails, with(do("never", "fails"), 2), end}
	id := begin(t, d, Request{Snapshot: Snapshot{Steps: plan}})
	r, steps := ended(t, d, id)
	if want := []string{`"c"/3`, `"a"/1`}; r.State != Failed || !slices.Equal(undone, want) || steps["undo:never"].Status != Skipped ||
		steps["never"].Status != Skipped || steps["end"].Status != Success {
		t.Errorf("%s, undone %q, want %q\n%s", r.State, undone, want, dump(t, d))
	}
	undone = nil
	plan[2].NoReturn = true
	id = begin(t, d, Request{Snapshot: Snapshot{Steps: plan}})
	if r, steps := ended(t, d, id); r.State != Failed || undone != nil || steps["end"].Status != Success {
		t.Errorf("behind the point of no return: %s, undone %q", r.State, undone)
	}
	// What was not taken back is not done again.
	calls := 0
	plan[3].Kind, plan[3].Version = "count", 1
	again := Kinds{{"count", 1}: DoerFunc(func(context.Context, *Call) (Result, error) { calls++; return Result{}, nil })}
	again[Kind{"do", 1}] = kinds[Kind{"do", 1}]
	again[Kind{"undo", 1}] = kinds[Kind{"undo", 1}]
	rerun := begin(t, d, Request{RerunOf: id, Snapshot: Snapshot{Steps: plan}})
	reaches(t, d, rerun, "parked", func(r Run) bool { return r.State == Parked }) // the first worker has no such kind
	work(t, d, quick(again))
	tx(t, d, func(ctx context.Context, x *db.Tx) error { return Skip(ctx, x, rerun, 5, "me") })
	for parked := true; parked; {
		tx(t, d, func(ctx context.Context, x *db.Tx) error { return Resume(ctx, x, rerun, "me") })
		r, steps = reaches(t, d, rerun, "anything", func(r Run) bool { return r.State != Active })
		parked = r.State == Parked // by whichever of the two workers was first
	}
	if r.State != WithWarnings || calls != 1 || steps["a"].Status != AlreadyDone || steps["c"].Status != AlreadyDone || steps["never"].Status != Skipped {
		t.Errorf("rerun: %s, %d calls\n%s", r.State, calls, dump(t, d))
	}
}

// TestParks: what a release does not know waits for an operator, before anything of
// the run is done.
func TestParks(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		var calls atomic.Int64
		kinds := one(func(context.Context, *Call) (Result, error) { calls.Add(1); return Result{}, nil })
		_, stop := work(t, d, quick(kinds))
		newer := do("newer", "a")
		newer.Version = 2
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{do("a"), newer}}})
		r, _ := reaches(t, d, id, "parked", func(r Run) bool { return r.State == Parked })
		if calls.Load() != 0 || !strings.Contains(r.Reason, "version 2") {
			t.Errorf("%d calls, %q", calls.Load(), r.Reason)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		kinds[Kind{"do", 2}] = kinds[Kind{"do", 1}]
		work(t, d, quick(kinds))
		tx(t, d, func(ctx context.Context, x *db.Tx) error { return Resume(ctx, x, id, "me") })
		if r, _ := ended(t, d, id); r.State != Succeeded || calls.Load() != 2 {
			t.Errorf("resumed: %s, %d calls", r.State, calls.Load())
		}
	})
}

// TestStop: a worker that stops lets go at once, however long the lease, and another
// goes on; a step that does not end keeps its run.
func TestStop(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		hour := quick(nil)
		hour.Lease, hour.Grace = time.Hour, 100*time.Millisecond
		in, release := make(chan struct{}, 9), make(chan struct{})
		hour.Kinds = one(func(ctx context.Context, c *Call) (Result, error) {
			in <- struct{}{}
			<-ctx.Done()
			if c.Step.Name == "stubborn" {
				<-release
			}
			return Result{}, ctx.Err()
		})
		_, stop := work(t, d, hour)
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{do("a")}}})
		<-in
		if err := stop(); err != nil {
			t.Error(err)
		}
		other := hour
		other.Kinds = one(func(context.Context, *Call) (Result, error) { return Result{}, nil })
		_, stopOther := work(t, d, other)
		if r, steps := ended(t, d, id); r.State != Succeeded || steps["a"].Attempt != 2 {
			t.Errorf("%s", dump(t, d))
		}
		stopOther()
		hour.Lease = 300 * time.Millisecond
		hour.Renew = 50 * time.Millisecond
		_, stop = work(t, d, hour)
		begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{do("stubborn")}}})
		<-in
		if err := stop(); !errs.Is(err, errs.Unavailable) {
			t.Errorf("a step that does not end: %v", err)
		}
		close(release)
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{
		{Lease: 3 * time.Second, Renew: 1001 * time.Millisecond}, {Lease: -1}, {Parallel: -1}, {Lease: 100 * time.Hour},
		{Kinds: Kinds{{KindWait, 1}: DoerFunc(nil)}}, {Kinds: Kinds{{"x", 1}: nil}},
	} {
		if _, err := NewWorker(nil, o); !errs.Is(err, errs.Invalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := NewWorker(nil, Options{}); err != nil {
		t.Error(err)
	}
}
