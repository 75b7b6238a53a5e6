package runs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

// TestCancelStorm cancels runs of a hundred parallel steps while these end, from
// several replicas and more than once: each run ends once, its end steps run, what
// began is taken back and what did not is not.
func TestCancelStorm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dbtest.Each(t, func(t *testing.T, url string) {
		rng := rand.New(rand.NewPCG(seed, 1))
		a, b := open(t, url), open(t, url)
		var undone sync.Map
		var wrong atomic.Int64
		kinds := one(func(ctx context.Context, c *Call) (Result, error) {
			if c.Step.Finally {
				if ctx.Err() != nil {
					wrong.Add(1)
				}
				return Result{}, nil
			}
			select {
			case <-ctx.Done():
				return Result{}, ctx.Err()
			case <-time.After(time.Duration(c.Seq%7) * time.Millisecond):
				return Result{}, nil
			}
		})
		kinds[Kind{"undo", 1}] = DoerFunc(func(_ context.Context, c *Call) (Result, error) {
			if _, twice := undone.LoadOrStore(c.Undoes, true); twice {
				wrong.Add(1)
			}
			return Result{}, nil
		})
		work(t, a, quick(kinds))
		work(t, b, quick(kinds))
		const runs, steps = 4, 100
		var ids []string
		for range runs {
			s := Snapshot{Parallel: 30}
			for i := range steps {
				st := do(fmt.Sprintf("s%d", i))
				st.Undo = &Undo{Kind: "undo", Version: 1}
				s.Steps = append(s.Steps, st)
			}
			end := do("end")
			end.Finally = true
			s.Steps = append(s.Steps, end)
			ids = append(ids, begin(t, a, Request{Snapshot: s}))
		}
		var wg sync.WaitGroup
		for i, id := range ids {
			after := 1 + rng.IntN(steps-1)
			reachesStep(t, a, id, fmt.Sprintf("s%d", after/2), Success)
			for range 3 {
				wg.Go(func() {
					d := []*db.DB{a, b}[i%2]
					if err := d.Tx(t.Context(), func(x *db.Tx) error { return Cancel(t.Context(), x, id, "me") }); err != nil && !errs.Is(err, errs.Conflict) {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		for _, id := range ids {
			r, got := ended(t, a, id)
			if r.State != Cancelled && r.State != Succeeded || got["end"].Status != Success {
				t.Errorf("%s, its end %s", r.State, got["end"].Status)
			}
			for name, s := range got {
				u, ok := got["undo:"+name]
				began := ok && !s.Begun.IsZero()
				if _, did := undone.Load(key(id, s.Seq)); ok && (!s.Status.Ended() || (r.State == Cancelled && began) != did) {
					t.Errorf("%s is %s, began %v, its undo %s, done %v", name, s.Status, began, u.Status, did)
				}
			}
			if err := a.Tx(t.Context(), func(x *db.Tx) error { return Cancel(t.Context(), x, id, "me") }); !errs.Is(err, errs.Conflict) {
				t.Errorf("cancelled after the end: %v", err)
			}
		}
		if wrong.Load() != 0 {
			t.Errorf("%d steps at the end were interrupted or taken back twice", wrong.Load())
		}
	})
}

// TestParallel: a hundred steps at once, within the bounds of run and process.
func TestParallel(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		var now, most [3]atomic.Int64 // of each run, and of both
		kinds := one(func(_ context.Context, c *Call) (Result, error) {
			which := 0
			if c.Step.Group > 0 {
				which = 1
			}
			for _, i := range []int{which, 2} {
				n := now[i].Add(1)
				for m := most[i].Load(); n > m && !most[i].CompareAndSwap(m, n); m = most[i].Load() {
				}
				defer now[i].Add(-1)
			}
			time.Sleep(time.Millisecond) // so that steps overlap
			return Result{}, nil
		})
		o := quick(kinds)
		o.Parallel = 15
		work(t, d, o)
		make := func(parallel, group int) Snapshot {
			s := Snapshot{Parallel: parallel}
			for i := range 100 {
				st := do(fmt.Sprintf("s%d", i))
				st.Group = group
				s.Steps = append(s.Steps, st)
			}
			return s
		}
		began := time.Now()
		ids := []string{begin(t, d, Request{Snapshot: make(10, 0)}), begin(t, d, Request{Snapshot: make(12, 1)})}
		for _, id := range ids {
			if r, _ := ended(t, d, id); r.State != Succeeded {
				t.Error(r.State)
			}
		}
		t.Logf("2 × 100 steps in %v, at most %d and %d at once", time.Since(began), most[0].Load(), most[1].Load())
		if most[0].Load() > 10 || most[1].Load() > 12 || most[2].Load() > 15 || most[0].Load() < 2 {
			t.Errorf("%d and %d at once", most[0].Load(), most[1].Load())
		}
	})
}

// TestSequence runs steps one after the other: 200, or as many as
// HOLDFAST_RUNS_STEPS says, and tells how long it took.
func TestSequence(t *testing.T) {
	n := 200
	if s := os.Getenv("HOLDFAST_RUNS_STEPS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		work(t, d, quick(one(func(context.Context, *Call) (Result, error) { return Result{}, nil })))
		var s Snapshot
		for i := range n {
			st := do(fmt.Sprintf("s%d", i))
			if i > 0 {
				st.After = []string{fmt.Sprintf("s%d", i-1)}
			}
			s.Steps = append(s.Steps, st)
		}
		began := time.Now()
		if r, _ := ended(t, d, begin(t, d, Request{Snapshot: s})); r.State != Succeeded {
			t.Error(r.State)
		}
		took := time.Since(began)
		t.Logf("%d steps in %v: %.0f/s", n, took, float64(n)/took.Seconds())
	})
}

// TestPrune: a run that is deleted leaves no row in any table; what goes on, or is
// parked, stays.
func TestPrune(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		work(t, d, quick(one(func(_ context.Context, c *Call) (Result, error) { c.Warn("w"); return Result{}, nil })))
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{do("a"), prompt("p", Prompt{Question: "?", Within: 1, Default: "x"})}}})
		ended(t, d, id)
		strange := do("strange")
		strange.Version = 7
		parked := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{strange}}})
		reaches(t, d, parked, "parked", func(r Run) bool { return r.State == Parked })
		active := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{prompt("p", Prompt{Question: "?"})}}})
		reachesStep(t, d, active, "p", Running)
		count := func(id string) (out map[string]int) {
			out = make(map[string]int)
			tx(t, d, func(ctx context.Context, x *db.Tx) error {
				for _, table := range []string{"runs", "run_steps", "run_notes", "run_prompts", "run_events"} {
					column := "run"
					if table == "runs" {
						column = "id"
					}
					var n int
					if _, err := x.Row(ctx, "SELECT count(*) FROM "+table+" WHERE "+column+" = $1", []any{id}, &n); err != nil {
						return err
					}
					out[table] = n
				}
				return nil
			})
			return out
		}
		for table, n := range count(id) {
			if n == 0 {
				t.Errorf("%s has no row to delete", table)
			}
		}
		others := []map[string]int{count(parked), count(active)}
		prune := func(before int64) (n int64) {
			tx(t, d, func(ctx context.Context, x *db.Tx) (err error) { n, err = Prune(ctx, x, before); return err })
			return n
		}
		if n := prune(1); n != 0 {
			t.Errorf("%d runs deleted that are newer", n)
		}
		if n := prune(never); n != 1 {
			t.Errorf("%d runs deleted", n)
		}
		for table, n := range count(id) {
			if n != 0 {
				t.Errorf("%s keeps %d rows", table, n)
			}
		}
		if got := []map[string]int{count(parked), count(active)}; fmt.Sprint(got) != fmt.Sprint(others) {
			t.Errorf("others had %v, have %v", others, got)
		}
	})
}

// TestRerunOfDeleted: what an earlier run had done cannot be told any more, so nothing is
// done before an operator says so.
func TestRerunOfDeleted(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	var calls atomic.Int64
	o := quick(one(func(context.Context, *Call) (Result, error) { calls.Add(1); return Result{}, nil }))
	s := Snapshot{Steps: []Step{do("a")}}
	_, stop := work(t, d, o)
	first := begin(t, d, Request{Snapshot: s})
	ended(t, d, first)
	stop()
	again := begin(t, d, Request{RerunOf: first, Snapshot: s})
	tx(t, d, func(ctx context.Context, x *db.Tx) error { _, err := Prune(ctx, x, never); return err })
	work(t, d, o)
	reaches(t, d, again, "parked", func(r Run) bool { return r.State == Parked })
	if calls.Load() != 1 {
		t.Errorf("%d calls", calls.Load())
	}
	tx(t, d, func(ctx context.Context, x *db.Tx) error { return Resume(ctx, x, again, "me") })
	if r, _ := ended(t, d, again); r.State != Succeeded || calls.Load() != 2 {
		t.Errorf("%s", dump(t, d))
	}
	if err := d.Tx(t.Context(), func(x *db.Tx) error {
		_, _, err := Start(t.Context(), x, Request{Key: "z", Subject: "s", Operation: "o", By: "me", RerunOf: first, Snapshot: s})
		return err
	}); !errs.Is(err, errs.NotFound) {
		t.Errorf("a rerun of nothing: %v", err)
	}
}
