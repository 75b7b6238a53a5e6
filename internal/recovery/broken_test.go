package recovery

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

// without is the program less a step.
func without(a Action, name string) func(Action, *Record) []step {
	return func(b Action, rec *Record) []step {
		p := program(b, rec)
		if a == b {
			p = slices.DeleteFunc(p, func(s step) bool { return s.name == name })
		}
		return p
	}
}

// moved is the program with a step in front of another.
func moved(a Action, name, before string) func(Action, *Record) []step {
	return func(b Action, rec *Record) []step {
		p := program(b, rec)
		if a != b {
			return p
		}
		i := slices.IndexFunc(p, func(s step) bool { return s.name == name })
		st := p[i]
		p = slices.Delete(p, i, i+1)
		return slices.Insert(p, slices.IndexFunc(p, func(s step) bool { return s.name == before }), st)
	}
}

// other is the program with another way to do a step.
func other(a Action, name string, do func(*Run, context.Context) error) func(Action, *Record) []step {
	return func(b Action, rec *Record) []step {
		p := program(b, rec)
		for i := range p {
			if a == b && p[i].name == name {
				p[i].do = do
			}
		}
		return p
	}
}

// TestBrokenRulesAreNoticed breaks the rules of doc.go one by one; the tests
// must say so.
func TestBrokenRulesAreNoticed(t *testing.T) {
	for _, c := range []struct {
		name    string
		sc      scenario
		program func(Action, *Record) []step
	}{
		{"boot before the fence", scenario{op: Disaster, point: 2}, moved(Recover, "fence", "evidence")},
		{"boot without the fence", scenario{op: Disaster, point: 2}, without(Recover, "fence")},
		{"boot before the disks are whole", scenario{op: Test, point: 2}, moved(Recover, "boot", "hydrate")},
		{"the point is not chosen again after the fence", scenario{op: Disaster, point: 3}, without(Recover, "settle")},
		{"cleanup forgets the pin", scenario{op: Test, then: Cleanup}, without(Cleanup, "pins")},
		{"cleanup forgets the VMs", scenario{op: Test, then: Cleanup}, without(Cleanup, "stop")},
		{"cleanup removes disks under running VMs", scenario{op: Test, then: Cleanup}, moved(Cleanup, "discard", "stop")},
		{"rollback forgets the fork", scenario{op: Disaster, then: Rollback}, without(Rollback, "drop")},
		{"a test has no pin", scenario{op: Test, point: 2}, without(Recover, "pin")},
		{"a second life forks again", scenario{op: Disaster, point: 2}, other(Recover, "fork", forkBlindly)},
		{"a second life pins again", scenario{op: Test, point: 2}, other(Recover, "pin", pinBlindly)},
		{"guests are shut down before that is on record", scenario{op: Planned, point: 4}, other(Recover, "shut down", shutDownBlindly)},
		{"the source's guests run on in a planned migration", scenario{op: Planned, point: 4}, without(Recover, "shut down")},
	} {
		t.Run(c.name, func(t *testing.T) {
			for k := 0; k < 700; k++ {
				caught, done := brokenAt(t, &c.sc, c.program, k-1)
				if caught != "" {
					t.Logf("caught at operation %d: %s", k-1, caught)
					return
				}
				if done {
					break
				}
			}
			t.Error("nobody noticed")
		})
	}
}

// brokenAt runs a scenario under a broken program, killed at operation k
// (negative: not at all), and reports what the rules say of it.
func brokenAt(t *testing.T, sc *scenario, broken func(Action, *Record) []step, k int) (caught string, done bool) {
	t.Helper()
	w := newWorld(t)
	w.site.planned, w.site.mustBeFenced = has(sc.op, Unwind), has(sc.op, Rollback)
	point := sc.point
	arm := func(s *Service) {
		s.opts.program = broken
		s.opts.crash = func(at string) {
			if at == "before fence" && sc.op == Disaster && w.last == 2 && sc.point == 3 {
				w.publish() // the source is quicker
			}
		}
	}
	s, l := w.process(k)
	arm(s)
	r, err := drive(t.Context(), s, sc)
	if k >= 0 {
		if err == nil && !l.dead {
			return "", true
		}
		w.end(s, l, durabletest.ProcessDeath, uint64(k))
		s, _ = w.process(-1)
		arm(s)
		if w.site.planned {
			if r, err = s.Open(runDir); err != nil {
				return "", false // it was not begun
			}
			err = undo(t.Context(), r)
			if err == nil {
				err = w.gone()
			}
			if err == nil && !w.site.bothRun() {
				err = fmt.Errorf("the source's guests are not in service")
			}
			return words(err, w), false
		}
		r, err = drive(t.Context(), s, sc)
	}
	if err == nil && sc.then != "" {
		err = w.gone()
	} else if err == nil {
		err = w.outcome(r.Record(), point)
	}
	return words(err, w), false
}

func words(err error, w *world) string {
	switch {
	case err != nil:
		return err.Error()
	case len(w.rack.broken) > 0:
		return w.rack.broken[0]
	}
	return ""
}

func (s *site) bothRun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, on := range s.running {
		if !on {
			return false
		}
	}
	return true
}

// forkBlindly does not look for what an earlier life forked.
func forkBlindly(r *Run, ctx context.Context) error {
	rec := r.Record()
	id, err := r.container.Fork(ctx, journal.ForkOptions{Parent: rec.Parent, Checkpoint: rec.Checkpoint.ID, Label: r.label()})
	if err != nil {
		return err
	}
	return r.change(func(rec *Record) { rec.Fork = id })
}

// pinBlindly does not look for what an earlier life pinned.
func pinBlindly(r *Run, ctx context.Context) error {
	c, err := r.open(ctx)
	if err != nil {
		return err
	}
	p, err := c.Pin(ctx, r.pinOptions(r.Record()))
	if err != nil {
		return err
	}
	return r.notePin(p.ID)
}

// shutDownBlindly notes what it shut down afterwards.
func shutDownBlindly(r *Run, ctx context.Context) error {
	s, err := r.reach(ctx)
	if err != nil {
		return err
	}
	running, err := s.Running(ctx)
	if err != nil {
		return err
	}
	for _, id := range running {
		if err := s.Shutdown(ctx, id); err != nil {
			return err
		}
	}
	return r.change(func(rec *Record) { rec.Stopped = append([]dr.VMID(nil), running...) })
}

// TestPlannedPutsTheSourceBack: errors before the source's history is ended.
func TestPlannedPutsTheSourceBack(t *testing.T) {
	for _, point := range []string{"pre-sync", "shut down", "final sync", "cancelled"} {
		t.Run(point, func(t *testing.T) {
			w := newWorld(t)
			w.site.planned, w.site.mustBeFenced = true, true
			s, _ := w.process(-1)
			bad := errs.New("test", errs.Unavailable, "", "it does not work")
			s.opts.program = other(Recover, point, func(*Run, context.Context) error { return bad })
			r, err := s.Begin(runDir, Planned, ask("latest"))
			check(t, err)
			if point == "shut down" {
				s.opts.program = nil
				w.site.deaf = true // the second guest does not obey
			}
			if point == "cancelled" {
				s.opts.program, s.opts.crash = nil, func(at string) {
					if at == "after shut down" {
						r.Cancel()
					}
				}
			}
			if err := r.Do(t.Context(), Recover); err == nil {
				t.Fatal("no error")
			} else {
				t.Log(err)
			}
			if rec := r.Record(); rec.State != Unwound || rec.Fence != 0 {
				t.Errorf("it is %s", rec.State)
			}
			if !w.site.bothRun() {
				t.Error("the source's guests are not in service")
			}
			if _, err := w.tryPublish(); err != nil {
				t.Errorf("the source cannot publish: %v", err)
			}
			check(t, r.Do(t.Context(), Cleanup))
			check(t, w.gone())
		})
	}
}

// TestCancelAndResume stops a run in each step; it goes on.
func TestCancelAndResume(t *testing.T) {
	for _, op := range []Operation{Test, Disaster} {
		for _, st := range recoverProgram(op) {
			if st.name == "evidence" {
				continue // the last: nothing asks any more
			}
			w := newWorld(t)
			s, _ := w.process(-1)
			r, err := s.Begin(runDir, op, ask("latest"))
			check(t, err)
			s.opts.crash = func(at string) {
				if at == "after "+st.name {
					r.Cancel()
				}
			}
			if err := r.Do(t.Context(), Recover); !errs.Is(err, errs.Canceled) || errs.RemedyOf(err) == "" {
				t.Fatalf("%s %s: %v", op, st.name, err)
			}
			if rec := r.Record(); rec.State != Incomplete {
				t.Fatalf("%s %s: it is %s", op, st.name, rec.State)
			}
			s.opts.crash = nil
			check(t, r.Resume(t.Context(), ""))
			check(t, w.outcome(r.Record(), 2))
		}
	}
}

// TestSecondTry rolls back and tries an earlier point.
func TestSecondTry(t *testing.T) {
	w := newWorld(t)
	w.site.mustBeFenced = true
	s, _ := w.process(-1)
	r, err := s.Begin(runDir, Disaster, ask("latest"))
	check(t, err)
	check(t, r.Do(t.Context(), Recover))
	check(t, w.outcome(r.Record(), 2))
	if err := r.Resume(t.Context(), "1"); !errs.Is(err, errs.Conflict) {
		t.Errorf("the point was changed before a rollback: %v", err)
	}
	check(t, r.Rollback(t.Context()))
	check(t, w.gone())
	if err := r.Resume(t.Context(), ""); !errs.Is(err, errs.Conflict) {
		t.Errorf("%v", err)
	}
	check(t, r.Resume(t.Context(), "1"))
	check(t, w.outcome(r.Record(), 1))
	check(t, r.Do(t.Context(), Commit))
	if err := r.Rollback(t.Context()); !errs.Is(err, errs.Conflict) {
		t.Errorf("a committed run was rolled back: %v", err)
	}
	if err := r.DoWith(t.Context(), Cleanup, ActOptions{}); !errs.Is(err, errs.Conflict) {
		t.Errorf("the domain was removed: %v", err)
	}
	if err := r.DoWith(t.Context(), Cleanup, ActOptions{Force: true}); !errs.Is(err, errs.Conflict) || len(w.rack.alive()) != 2 {
		t.Errorf("the domain was removed by force: %v", err)
	}
}

// TestFinal: a recovery of all that was written refuses a history whose last checkpoint
// lacks a host, before the source is fenced, and does not go back to an older one; it
// goes on once the domain is whole.
func TestFinal(t *testing.T) {
	w := newWorld(t)
	s, _ := w.process(-1)
	w.away = true
	w.publish()
	r, err := s.Begin(runDir, Disaster, ask(Final))
	check(t, err)
	if err := r.DoWith(t.Context(), Recover, ActOptions{Until: UntilForked}); !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" {
		t.Fatalf("%v, remedy %q", err, errs.RemedyOf(err))
	}
	w.away = false
	last, err := w.tryPublish()
	if err != nil {
		t.Fatalf("the source was fenced: %v", err)
	}
	check(t, r.Do(t.Context(), Recover))
	check(t, w.outcome(r.Record(), uint64(last)))
	if _, err := w.tryPublish(); !errs.Is(err, errs.Fenced) {
		t.Errorf("the source publishes still: %v", err)
	}
}

// TestWrongPoint: nothing is fenced for a point that cannot be recovered.
func TestWrongPoint(t *testing.T) {
	for _, at := range []string{"99", "tag:none", "2001-01-01T00:00:00Z", "gibberish"} {
		w := newWorld(t)
		s, _ := w.process(-1)
		r, err := s.Begin(runDir, Disaster, ask(at))
		check(t, err)
		if err := r.Do(t.Context(), Recover); err == nil || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v", at, err)
		}
		if _, err := w.tryPublish(); err != nil {
			t.Errorf("%s: the source was fenced: %v", at, err)
		}
		check(t, r.Resume(t.Context(), "latest"))
		check(t, w.outcome(r.Record(), 3))
	}
}
