package runs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(helperURL) != "" {
		helper()
		return
	}
	os.Exit(dbtest.Main(m))
}

// patience ends waits that would hang; conditions end them all.
const patience = 3 * time.Minute

func open(t testing.TB, url string) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// tx runs f in a transaction that must succeed.
func tx(t testing.TB, d *db.DB, f func(ctx context.Context, tx *db.Tx) error) {
	t.Helper()
	if err := d.Tx(t.Context(), func(x *db.Tx) error { return f(t.Context(), x) }); err != nil {
		t.Fatal(err)
	}
}

func begin(t testing.TB, d *db.DB, q Request) string {
	t.Helper()
	if q.Key == "" {
		q.Key = fmt.Sprintf("%s %d", t.Name(), time.Now().UnixNano())
	}
	q.Subject, q.Operation, q.By = "plan", "test", "somebody"
	var id string
	tx(t, d, func(ctx context.Context, x *db.Tx) (err error) { id, _, err = Start(ctx, x, q); return err })
	return id
}

// until waits for a condition on the rows.
func until(t testing.TB, d *db.DB, what string, ok func(ctx context.Context, x *db.Tx) (bool, error)) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		done := false
		err := d.View(t.Context(), func(x *db.Tx) (err error) { done, err = ok(t.Context(), x); return err })
		if err != nil && !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Transient) {
			t.Fatal(err)
		}
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never: %s\n%s", what, dump(t, d))
		}
		time.Sleep(5 * time.Millisecond) // between questions; the answer decides
	}
}

// ended waits for a run's end and returns it with its steps by name.
func ended(t testing.TB, d *db.DB, id string) (Run, map[string]StepState) {
	t.Helper()
	return reaches(t, d, id, "an end", func(r Run) bool { return r.State.Ended() })
}

func reaches(t testing.TB, d *db.DB, id, what string, ok func(Run) bool) (r Run, steps map[string]StepState) {
	t.Helper()
	until(t, d, what+" of "+id, func(ctx context.Context, x *db.Tx) (bool, error) {
		var err error
		if r, err = Get(ctx, x, id); err != nil || !ok(r) {
			return false, err
		}
		list, err := Steps(ctx, x, id)
		steps = make(map[string]StepState)
		for _, s := range list {
			steps[s.Step.Name] = s
		}
		return true, err
	})
	return r, steps
}

// reachesStep waits for a status of a step.
func reachesStep(t testing.TB, d *db.DB, id, name string, want Status) {
	t.Helper()
	until(t, d, name+" "+string(want), func(ctx context.Context, x *db.Tx) (bool, error) {
		list, err := Steps(ctx, x, id)
		for _, s := range list {
			if s.Step.Name == name && s.Status == want {
				return true, err
			}
		}
		return false, err
	})
}

func dump(t testing.TB, d *db.DB) (out string) {
	_ = d.View(context.Background(), func(x *db.Tx) error {
		rs, _ := List(context.Background(), x, "", 0, 10)
		for _, r := range rs {
			out += fmt.Sprintf("%+v\n", r)
			steps, _ := Steps(context.Background(), x, r.ID)
			for _, s := range steps[:min(len(steps), 30)] {
				out += fmt.Sprintf("  %d %s %s attempt %d: %s\n", s.Seq, s.Step.Name, s.Status, s.Attempt, s.Note)
			}
		}
		return nil
	})
	return out
}

// quick are options with which takeovers take a second.
func quick(k Kinds) Options {
	return Options{Kinds: k, Lease: 3 * time.Second, Renew: 200 * time.Millisecond, Poll: 10 * time.Millisecond, Crashes: 1000}
}

// work runs a worker until the test ends, or stop is called, which returns its error.
func work(t testing.TB, d *db.DB, o Options) (w *Worker, stop func() error) {
	t.Helper()
	w, err := NewWorker(d, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { err = w.Run(ctx); close(done) }()
	stop = sync.OnceValue(func() error { cancel(); <-done; return err })
	t.Cleanup(func() { stop() })
	return w, stop
}

// one is the only kind of a test, version 1.
func one(f DoerFunc) Kinds { return Kinds{{"do", 1}: f} }

func do(name string, after ...string) Step {
	return Step{Name: name, Kind: "do", Version: 1, After: after}
}

func asJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func prompt(name string, p Prompt, after ...string) Step {
	return Step{Name: name, Kind: KindPrompt, Version: 1, Input: asJSON(p), After: after}
}

func timer(name string, d time.Duration, after ...string) Step {
	return Step{Name: name, Kind: KindWait, Version: 1, Input: asJSON(Wait{d}), After: after}
}
