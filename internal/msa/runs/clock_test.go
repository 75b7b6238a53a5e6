package runs

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/msa/db/dbtest"
)

// TestClockIsSet: a wall clock that jumps ahead, as after a machine slept, ends what is
// under way at once, and the run goes on; one that is set back changes nothing.
func TestClockIsSet(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		var ahead atomic.Int64
		in := make(chan struct{}, 10)
		back := make(chan struct{})
		o := quick(one(func(ctx context.Context, c *Call) (Result, error) {
			in <- struct{}{}
			if c.Step.Name == "b" {
				<-back
				return Result{}, c.Hold(ctx)
			}
			if c.Attempt == 1 {
				<-ctx.Done()
				if err := c.Hold(context.WithoutCancel(ctx)); err == nil {
					t.Error("it may still act")
				}
				return Result{}, ctx.Err()
			}
			return Result{}, nil
		}))
		o.Lease, o.Renew = time.Hour, time.Minute
		w, err := NewWorker(d, o)
		if err != nil {
			t.Fatal(err)
		}
		wall := w.clock.wall
		w.clock.wall = func() time.Time { return wall().Add(time.Duration(ahead.Load())) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{do("a"), do("b", "a")}}})
		<-in
		ahead.Store(int64(2 * time.Hour))
		<-in // a's second attempt
		<-in // b
		ahead.Store(int64(-2 * time.Hour))
		close(back)
		r, steps := ended(t, d, id)
		if r.State != Succeeded || steps["a"].Attempt != 2 || steps["b"].Attempt != 1 {
			t.Errorf("%s", dump(t, d))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// FuzzSnapshot: what Check lets through can be unfolded, depends on lower numbers alone
// and ends, whatever its steps do.
func FuzzSnapshot(f *testing.F) {
	for _, s := range []Snapshot{
		{Steps: []Step{do("a"), do("b", "a"), prompt("p", Prompt{Question: "?"}), timer("t", time.Second)}},
		{Steps: []Step{{Name: "a", Kind: "do", Version: 1, OnError: Stop, Undo: &Undo{Kind: "do", Version: 1}}, {Name: "e", Kind: "do", Version: 1, Finally: true}}},
	} {
		f.Add([]byte(asJSON(s)), uint64(3))
	}
	f.Add([]byte(`{"steps":[{"name":"a","kind":"wait","version":1,"input":{"for":-1}}]}`), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, fate uint64) {
		var s Snapshot
		if json.Unmarshal(b, &s) != nil || len(s.Steps) > 50 || s.Check() != nil {
			return
		}
		m := &model{id: "x", state: Active, phase: Forward, parallel: max(1, s.Parallel), steps: unfold(&s)}
		for i, st := range m.steps {
			if st.seq != i+1 || st.spec.Undoes >= st.seq {
				t.Fatalf("row %d: %+v", i, st)
			}
			for _, dep := range st.spec.Deps {
				if dep < 1 || dep >= st.seq {
					t.Fatalf("%d depends on %d", st.seq, dep)
				}
			}
		}
		now := int64(1)
		for range 10 * (len(m.steps) + 3) * 10 {
			begin, _ := m.advance(now, func() bool { return true })
			if m.state != Active {
				break
			}
			for _, st := range begin {
				r := report{seq: st.seq, attempt: st.attempt}
				if fate = fate*6364136223846793005 + 1442695040888963407; fate>>62 == 0 && st.attempt < 20 {
					r.err = context.DeadlineExceeded
				}
				m.take(r, now)
			}
			for _, st := range m.steps {
				if st.spec.Kind == KindPrompt && st.status == Running {
					m.set(st, Success, now, "")
				}
			}
			if due := m.due(); len(begin) == 0 && due < never {
				now = max(now+1, due)
			}
		}
		if !m.state.Ended() {
			t.Fatalf("%s %s: %s\n%s", m.state, m.phase, m.reason, strings.TrimSpace(string(b)))
		}
	})
}
