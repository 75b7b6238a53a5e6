package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
)

func ask(at string) Request {
	return Request{URL: "mem", At: at, Mode: Full, Parallel: 1, Evidence: time.Nanosecond}
}

// outcome judges the world after a run of an operation went well.
func (w *world) outcome(rec *Record, point uint64) error {
	var err error
	switch {
	case len(w.rack.broken) > 0:
		err = fmt.Errorf("rules broken: %v", w.rack.broken)
	case rec.State != rests(rec.Action, rec.Operation):
		err = fmt.Errorf("it is %s: %s", rec.State, rec.Error)
	case rec.Operation != Clone && len(w.rack.alive()) != len(w.vms):
		err = fmt.Errorf("%d VMs run", len(w.rack.alive()))
	case uint64(rec.Checkpoint.ID) != point:
		err = fmt.Errorf("it stands at checkpoint %d, not %d", rec.Checkpoint.ID, point)
	}
	if err == nil {
		err = w.compare(rec, rec.Checkpoint.ID)
	}
	forks, pins := 0, 0
	switch rec.Operation {
	case Test:
		pins = 1
	case Disaster, Planned, Failback:
		forks = 1
	case Clone:
	}
	switch {
	case err != nil:
	case len(w.forks()) != forks:
		err = fmt.Errorf("%d forks, want %d", len(w.forks()), forks)
	case forks == 1 && (w.forks()[0].ID != rec.Fork || !w.forks()[0].Current || w.forks()[0].Fork.ID != rec.Checkpoint.ID):
		err = fmt.Errorf("the fork is not the domain's current timeline at the point: %+v", w.forks()[0])
	case w.pins() != pins:
		err = fmt.Errorf("%d pins, want %d", w.pins(), pins)
	}
	return err
}

// TestOperations does each operation once, and undoes it.
func TestOperations(t *testing.T) {
	for _, op := range operations {
		t.Run(string(op), func(t *testing.T) {
			w := newWorld(t)
			point := uint64(2)
			w.site.mustBeFenced = op == Disaster || has(op, Unwind)
			w.site.planned = has(op, Unwind)
			if w.site.planned {
				point = 4 // pre-sync and final sync
			}
			before := w.objects()
			s, _ := w.process(-1)
			r, err := s.Begin(runDir, op, ask("latest"))
			check(t, err)
			check(t, r.Do(t.Context(), Recover))
			check(t, w.outcome(r.Record(), point))
			if op == Test || op == Clone {
				if after := w.objects(); !slices.Equal(before, after) {
					t.Errorf("the container's timelines changed: %v, %v", before, after)
				}
				if _, err := w.tryPublish(); err != nil {
					t.Errorf("the source cannot publish beside a test: %v", err)
				}
			} else if _, err := w.tryPublish(); !errs.Is(err, errs.Fenced) {
				t.Errorf("a zombie publishes: %v", err)
			}
			switch op {
			case Test, Clone:
				check(t, r.Do(t.Context(), Cleanup))
			case Disaster, Planned, Failback:
				check(t, r.Do(t.Context(), Rollback))
				if w.site.planned != w.site.anyRuns() && op != Disaster {
					t.Error("the source's guests are not in service again")
				}
			}
			check(t, w.gone())
			check(t, r.Close())
		})
	}
}

// objects are the names of all journal objects and heads.
func (w *world) objects() (out []string) {
	for after := ""; ; {
		page, err := w.st.List(context.Background(), "t/", after, 1000)
		check(w.t, err)
		if len(page) == 0 {
			return out
		}
		for _, in := range page {
			out = append(out, in.Key)
			after = in.Key
		}
	}
}

// scenario is what a process that is never killed does.
type scenario struct {
	name  string
	op    Operation
	point uint64
	then  Action // after Recover; empty: nothing
}

var scenarios = []scenario{
	{"test", Test, 2, ""},
	{"test and cleanup", Test, 2, Cleanup},
	{"disaster", Disaster, 2, ""},
	{"disaster and commit", Disaster, 2, Commit},
	{"disaster and rollback", Disaster, 2, Rollback},
	{"planned", Planned, 4, ""},
	{"clone", Clone, 2, ""},
}

// drive does the scenario from wherever the record stands.
func drive(ctx context.Context, s *Service, sc *scenario) (*Run, error) {
	r, err := s.Open(runDir)
	if errs.Is(err, errs.NotFound) {
		r, err = s.Begin(runDir, sc.op, ask("latest"))
	}
	if err != nil {
		return nil, err
	}
	rec := r.Record()
	if rec.Action == Recover && rec.State != rests(Recover, sc.op) {
		if err := r.Do(ctx, Recover); err != nil {
			return r, err
		}
	}
	if sc.then == "" || r.Record().State == rests(sc.then, sc.op) {
		return r, r.revive(ctx)
	}
	if err := r.Do(ctx, sc.then); err != nil {
		return r, err
	}
	return r, r.revive(ctx)
}

// TestKilledAnywhere kills the process at every operation on files, store, VMs
// and source in turn, by a kill and by a loss of power, and lets another go on:
// the end is the same. Half of them are undone instead: nothing is left.
func TestKilledAnywhere(t *testing.T) {
	rng := seeded(t)
	stride := 16 // make recover-long: every operation
	if os.Getenv("HOLDFAST_RECOVER_LONG") != "" {
		stride = 1
	}
	for _, sc := range scenarios {
		for _, loss := range []durabletest.Loss{durabletest.ProcessDeath, durabletest.PowerLoss} {
			t.Run(fmt.Sprint(sc.name, loss), func(t *testing.T) {
				n, undone := 0, 0
				for k := rng.IntN(stride); ; k += stride {
					finished, undo := killedAt(t, &sc, k, loss, rng.Uint64())
					if finished {
						break
					}
					n++
					if undo {
						undone++
					}
				}
				t.Logf("%d kills, %d undone", n, undone)
				if n < 200/stride {
					t.Errorf("only %d kills", n)
				}
			})
		}
	}
}

func killedAt(t *testing.T, sc *scenario, k int, loss durabletest.Loss, seed uint64) (finished, undone bool) {
	t.Helper()
	w := newWorld(t)
	w.site.planned = has(sc.op, Unwind)
	w.site.mustBeFenced = has(sc.op, Rollback)
	s, l := w.process(k)
	_, err := drive(t.Context(), s, sc)
	if err == nil && !l.dead {
		return true, false
	}
	w.end(s, l, loss, seed)
	s, _ = w.process(-1)
	r, err := s.Open(runDir)
	begun := err == nil
	if begun && seed%2 == 0 && undoable(r.Record()) {
		if err = undo(t.Context(), r); err == nil {
			err = w.gone()
		}
		if err == nil && w.site.planned && !w.site.anyRuns() {
			err = errors.New("the source's guests are not in service")
		}
		if len(w.rack.broken) > 0 {
			err = fmt.Errorf("rules broken: %v", w.rack.broken)
		}
		if err != nil {
			t.Fatalf("killed at operation %d and undone: %v\n%s", k, err, trail(r))
		}
		return false, true
	}
	if begun {
		check(t, r.Close())
	} else if !errs.Is(err, errs.NotFound) {
		t.Fatalf("killed at operation %d: %v", k, err)
	}
	r, err = drive(t.Context(), s, sc)
	if err != nil {
		t.Fatalf("killed at operation %d: going on: %v (%s)\n%s", k, err, errs.RemedyOf(err), trail(r))
	}
	rec := r.Record()
	switch sc.then {
	case Cleanup, Rollback:
		err = w.gone()
	default:
		point := sc.point
		if w.site.planned { // a checkpoint that was cut twice is another one
			point = uint64(w.last)
		}
		err = w.outcome(rec, point)
	}
	if err != nil {
		t.Fatalf("killed at operation %d: %v\n%s", k, err, trail(r))
	}
	return false, false
}

// undoable says of which records undo is right.
func undoable(rec *Record) bool { return !rec.Committed && rec.State != Clean }

// undo takes back what a run did, whatever it was.
func undo(ctx context.Context, r *Run) error {
	rec := r.Record()
	if rec.undo() == Unwind && rec.State != Unwound {
		if err := r.Do(ctx, Unwind); err != nil {
			return err
		}
		return r.Do(ctx, Cleanup)
	}
	if has(rec.Operation, Rollback) && rec.State != RolledBack && rec.State != Unwound && rec.Action != Cleanup {
		if err := r.Do(ctx, Rollback); err != nil {
			return err
		}
	}
	return r.Do(ctx, Cleanup)
}

func trail(r *Run) string {
	if r == nil {
		return "no run"
	}
	out := ""
	for _, s := range r.Record().Steps {
		out += fmt.Sprintf("%d %s %s %s %s\n", s.Try, s.Action, s.Name, s.Status, s.Error)
	}
	return out
}
