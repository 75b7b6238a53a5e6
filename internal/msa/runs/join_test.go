package runs

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

// TestJoined: what is joined to a run is committed with the change it is told of, and
// while it fails there is no such change.
func TestJoined(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		tx(t, d, func(ctx context.Context, x *db.Tx) error {
			_, err := x.Exec(ctx, "CREATE TABLE told (n BIGINT NOT NULL, state TEXT NOT NULL, open BIGINT NOT NULL)")
			return err
		})
		var failing, calls atomic.Int64
		failing.Store(3)
		o := quick(one(func(context.Context, *Call) (Result, error) { return Result{}, nil }))
		o.Joined = func(ctx context.Context, x *db.Tx, id string) error {
			r, err := Get(ctx, x, id)
			if err != nil {
				return err
			}
			open, err := Questions(ctx, x, id, 10)
			if err != nil {
				return err
			}
			open = slices.DeleteFunc(open, func(q Question) bool { return !q.Answered.IsZero() })
			if _, err := x.Exec(ctx, "INSERT INTO told (n, state, open) VALUES ($1, $2, $3)", calls.Add(1), r.State, len(open)); err != nil {
				return err
			}
			if failing.Add(-1) >= 0 {
				return errors.New("not now")
			}
			return nil
		}
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{do("a"), prompt("ask", Prompt{Question: "?"}, "a"), do("b", "ask")}}})
		work(t, d, o)
		reachesStep(t, d, id, "ask", Running)
		tx(t, d, func(ctx context.Context, x *db.Tx) error { return Answer(ctx, x, id, 2, "yes", "me") })
		ended(t, d, id)
		var got []string
		tx(t, d, func(ctx context.Context, x *db.Tx) error {
			return x.Rows(ctx, "SELECT state, open FROM told ORDER BY n", nil, func(scan func(...any) error) error {
				var state string
				var open int
				err := scan(&state, &open)
				got = append(got, state+string(rune('0'+open)))
				return err
			})
		})
		if want := []string{"active1", "succeeded0"}; !slices.Equal(got, want) || calls.Load() < 5 {
			t.Errorf("committed %q, want %q; %d calls", got, want, calls.Load())
		}
	})
}

// TestGate: behind a gate that failed nothing of a later group begins; what stands
// beside it goes on.
func TestGate(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	k := one(func(_ context.Context, c *Call) (Result, error) {
		if c.Step.Name == "bad" {
			return Result{}, errs.New("x", errs.Invalid, "", "as planned")
		}
		return Result{}, nil
	})
	work(t, d, quick(k))
	gate := func(s Step) Step { s.OnError = Gate; return s }
	later := func(s Step) Step { s.Group = 1; return s }
	for name, c := range map[string]struct {
		steps []Step
		want  map[string]Status
	}{
		"it fails": {[]Step{gate(do("bad")), do("beside"), later(do("next"))},
			map[string]Status{"bad": Error, "beside": Success, "next": Skipped}},
		"it is skipped": {[]Step{do("bad"), gate(do("good", "bad")), later(do("next"))},
			map[string]Status{"bad": Error, "good": Skipped, "next": Skipped}},
		"another fails": {[]Step{gate(do("good")), do("bad"), later(do("next"))},
			map[string]Status{"good": Success, "bad": Error, "next": Success}},
		"behind and after": {[]Step{do("bad"), {Name: "behind", Kind: "do", Version: 1, Behind: []string{"bad"}}, do("after", "bad")},
			map[string]Status{"bad": Error, "behind": Success, "after": Skipped}},
	} {
		r, steps := ended(t, d, begin(t, d, Request{Snapshot: Snapshot{Steps: c.steps}}))
		for step, want := range c.want {
			if steps[step].Status != want {
				t.Errorf("%s: %s is %s, want %s", name, step, steps[step].Status, want)
			}
		}
		if r.State != Failed {
			t.Errorf("%s: %s", name, r.State)
		}
	}
}

// TestRerunInherits: a rerun does what was begun under the key it was begun under, what
// was done not at all, and what comes after something that is another again.
func TestRerunInherits(t *testing.T) {
	d := open(t, dbtest.SQLite(t))
	var broken atomic.Bool
	broken.Store(true)
	keys := make(chan string, 100)
	work(t, d, quick(one(func(_ context.Context, c *Call) (Result, error) {
		keys <- c.Step.Name + " " + c.Key
		if c.Step.Name == "b" && broken.Load() {
			return Result{}, errs.New("x", errs.Invalid, "", "as planned")
		}
		return Result{Memory: asJSON(c.Step.Name)}, nil
	})))
	with := func(s Step, in any) Step { s.Input = asJSON(in); return s }
	snapshot := func(n int) Snapshot {
		return Snapshot{Steps: []Step{do("a"), do("b", "a"), with(do("x"), n), do("y", "x"), do("z")}}
	}
	first := begin(t, d, Request{Snapshot: snapshot(1)})
	was, _ := ended(t, d, first)
	for len(keys) > 0 {
		<-keys
	}
	broken.Store(false)
	second := begin(t, d, Request{Snapshot: snapshot(2), RerunOf: first, Epoch: was.Epoch + 7})
	r, steps := ended(t, d, second)
	if r.Epoch <= was.Epoch+7 {
		t.Errorf("epoch %d after %d", r.Epoch, was.Epoch+7)
	}
	for name, want := range map[string]Status{"a": AlreadyDone, "b": Success, "x": Success, "y": Success, "z": AlreadyDone} {
		if steps[name].Status != want {
			t.Errorf("%s is %s, want %s", name, steps[name].Status, want)
		}
	}
	var got []string
	for len(keys) > 0 {
		got = append(got, <-keys)
	}
	slices.Sort(got)
	if want := []string{"b " + key(first, 2), "x " + key(second, 3), "y " + key(second, 4)}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestAbandon: a parked run ends as it stands, and a rerun goes on from it.
func TestAbandon(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		work(t, d, quick(one(func(context.Context, *Call) (Result, error) { return Result{}, nil })))
		unknown := Step{Name: "b", Kind: "other", Version: 1, After: []string{"a"}}
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{do("a"), unknown}}})
		abandon := func() error {
			return d.Tx(t.Context(), func(x *db.Tx) error { return Abandon(t.Context(), x, id, "me") })
		}
		reaches(t, d, id, "parked", func(r Run) bool { return r.State == Parked })
		if err := abandon(); err != nil {
			t.Fatal(err)
		}
		if err := abandon(); !errs.Is(err, errs.Conflict) {
			t.Errorf("again: %v", err)
		}
		r, steps := ended(t, d, id)
		if r.State != Cancelled || r.CancelledBy != "me" || r.Ended.IsZero() || !steps["b"].Status.Ended() {
			t.Errorf("%s", dump(t, d))
		}
		checkFeed(t, d, id)
		again := begin(t, d, Request{RerunOf: id, Snapshot: Snapshot{Steps: []Step{do("a"), do("c", "a")}}})
		if r, steps := ended(t, d, again); r.State != Succeeded || r.Ended.Sub(r.Created) > time.Hour {
			t.Errorf("%s: %v", r.State, steps)
		}
	})
}
