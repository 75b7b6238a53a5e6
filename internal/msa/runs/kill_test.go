package runs

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

// TestKilledEverywhere kills the process that holds a run before, in and after every
// step of it, forward, undo and at the end; two replicas take over from each other.
func TestKilledEverywhere(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		h := &outside{d}
		h.make(t)
		act := func(name string, after ...string) Step {
			return Step{Name: name, Kind: "act", Version: 1, After: after, Undo: &Undo{Kind: "act", Version: 1}}
		}
		job := Step{Name: "job", Kind: "job", Version: 1, After: []string{"b", "c"}}
		fails := Step{Name: "fails", Kind: "fail", Version: 1, After: []string{"timer"}, OnError: Stop}
		end := Step{Name: "end", Kind: "act", Version: 1, Finally: true}
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{
			act("a"), act("b", "a"), act("c", "a"), job, prompt("ask", Prompt{Question: "?"}, "job"), timer("timer", 50*time.Millisecond, "ask"), fails, end,
		}}})
		stop := replicas(t, url, 2, helperMode+"=die")
		reachesStep(t, d, id, "ask", Running)
		tx(t, d, func(ctx context.Context, x *db.Tx) error { return Answer(ctx, x, id, 5, "yes", "me") })
		r, steps := ended(t, d, id)
		died := stop()
		if r.State != Failed {
			t.Errorf("%s\n%s", r.State, dump(t, d))
		}
		want := map[string]int{"a": 1, "b": 1, "c": 1, "job": 1, "undo:a": 1, "undo:b": 1, "undo:c": 1, "end": 1}
		got := h.acts(t)
		for name, n := range want {
			if got[name] != n || !steps[name].Status.done() {
				t.Errorf("%s acted %d times and is %s", name, got[name], steps[name].Status)
			}
		}
		if len(got) != len(want) {
			t.Errorf("acts: %v", got)
		}
		points := h.marks(t, "died %")
		// Of two steps that run at once the death of one may be the other's, behind its
		// effect: then that is found and never comes to the point again.
		if all := len(want)*3 + 2; len(points) < all-2 || len(points) > all || died < len(points)/2 {
			t.Errorf("%d deaths at %d points: %q", died, len(points), points)
		}
		t.Logf("%d deaths, epoch %d", died, r.Epoch)
		checkFeed(t, d, id)
	})
}

// TestPoisonedRunParks: a run whose step ends every process is parked, and the next
// process lives; the operator skips the step.
func TestPoisonedRunParks(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		h := &outside{d}
		h.make(t)
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{{Name: "poison", Kind: "act", Version: 1}, {Name: "next", Kind: "act", Version: 1, After: []string{"poison"}}}}})
		stop := replicas(t, url, 1, helperMode+"=poison")
		r, _ := reaches(t, d, id, "parked", func(r Run) bool { return r.State == Parked })
		if n := stop(); n != 4 || r.Reason == "" {
			t.Errorf("%d deaths, %q", n, r.Reason)
		}
		tx(t, d, func(ctx context.Context, x *db.Tx) error {
			if err := Skip(ctx, x, id, 1, "me"); err != nil {
				return err
			}
			return Resume(ctx, x, id, "me")
		})
		work(t, d, quick(h.kinds()))
		if r, _ := ended(t, d, id); r.State != WithWarnings || h.acts(t)["next"] != 1 {
			t.Errorf("%s", dump(t, d))
		}
	})
}

// TestPausedWorker: one that slept over its lease, in the middle of a step that does
// not listen, finds that it may not act any more.
func TestPausedWorker(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		h := &outside{d}
		h.make(t)
		file := filepath.Join(t.TempDir(), "now")
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{{Name: "a", Kind: "act", Version: 1}}}})
		paused := spawn(t, url, helperFile+"="+file)
		until(t, d, "the step under way", func(ctx context.Context, x *db.Tx) (bool, error) {
			var n int
			_, err := x.Row(ctx, "SELECT count(*) FROM marks WHERE name = 'waits'", nil, &n)
			return n == 1, err
		})
		for stopped := false; !stopped; {
			paused.Process.Signal(syscall.SIGSTOP)
			// It may have been stopped as the one writer SQLite has: then let it go on.
			err := d.Tx(t.Context(), func(x *db.Tx) error { _, err := x.Exec(t.Context(), "DELETE FROM marks WHERE name = 'x'"); return err })
			if stopped = err == nil; !stopped {
				paused.Process.Signal(syscall.SIGCONT)
			}
		}
		work(t, d, quick(h.kinds()))
		if r, _ := ended(t, d, id); r.State != Succeeded || r.Epoch < 2 {
			t.Errorf("%s", dump(t, d))
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		paused.Process.Signal(syscall.SIGCONT)
		until(t, d, "that it gives up", func(ctx context.Context, x *db.Tx) (bool, error) {
			var n int
			_, err := x.Row(ctx, "SELECT count(*) FROM marks WHERE name LIKE 'gave up%'", nil, &n)
			return n == 1, err
		})
		if n := h.acts(t)["a"]; n != 1 {
			t.Errorf("it acted %d times", n)
		}
		if why := h.marks(t, "gave up%"); !slices.Contains([]string{"gave up: fenced", "gave up: canceled"}, why[0]) {
			t.Errorf("%q", why)
		}
	})
}

// TestTimeZones: a timer begun by a process in one zone ends in time by one in another.
func TestTimeZones(t *testing.T) {
	const d1 = 1500 * time.Millisecond
	dbtest.Each(t, func(t *testing.T, url string) {
		d := open(t, url)
		id := begin(t, d, Request{Snapshot: Snapshot{Steps: []Step{timer("t", d1)}}})
		tokyo := spawn(t, url, "TZ=Asia/Tokyo")
		reachesStep(t, d, id, "t", Running)
		tokyo.Process.Kill()
		tokyo.Wait()
		spawn(t, url, "TZ=America/Los_Angeles")
		_, steps := ended(t, d, id)
		if took := steps["t"].Ended.Sub(steps["t"].Begun); took < d1 {
			t.Errorf("a timer of %v ended after %v", d1, took)
		}
	})
}

// TestDatabaseRestart: the server goes, at once or in order, in the middle of steps;
// each effect is there once, and nobody restarts anything.
func TestDatabaseRestart(t *testing.T) {
	url := dbtest.Postgres(t)
	d := open(t, url)
	h := &outside{d}
	h.make(t)
	k := h.kinds()
	slow := k[Kind{"act", 1}]
	in, on := make(chan struct{}, 100), make(chan struct{})
	k[Kind{"gate", 1}] = DoerFunc(func(ctx context.Context, c *Call) (Result, error) {
		if c.Attempt == 1 {
			in <- struct{}{}
			<-on
		}
		return slow.Do(ctx, c)
	})
	o := quick(k)
	work(t, d, o)
	var steps []Step
	for _, name := range []string{"a", "b", "c"} {
		steps = append(steps, Step{Name: name, Kind: "gate", Version: 1, Retry: Retry{Attempts: 100, First: 10 * time.Millisecond, Max: 100 * time.Millisecond}})
	}
	id := begin(t, d, Request{Snapshot: Snapshot{Steps: steps}})
	for range steps {
		<-in
	}
	dbtest.Restart(t, syscall.SIGQUIT, func() { close(on) })
	if r, _ := ended(t, d, id); !r.State.Ended() || r.State == Failed {
		t.Errorf("%s", dump(t, d))
	}
	for name, n := range h.acts(t) {
		if n != 1 {
			t.Errorf("%s acted %d times", name, n)
		}
	}
	// And while nothing runs.
	dbtest.Restart(t, syscall.SIGINT, func() {})
	var again string
	for {
		err := d.Tx(t.Context(), func(x *db.Tx) (err error) {
			again, _, err = Start(t.Context(), x, Request{Key: "again", Subject: "s", Operation: "o", By: "me", Snapshot: Snapshot{Steps: []Step{{Name: "x", Kind: "act", Version: 1}}}})
			return err
		})
		if err == nil {
			break
		}
		if !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
	}
	if r, _ := ended(t, d, again); r.State != Succeeded {
		t.Errorf("%s", dump(t, d))
	}
}
