package maintain

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/store/storetest/fault"
)

// TestModelCatchesBrokenRules plays the same histories under rules that are
// broken one at a time. The model is worth what it catches.
func TestModelCatchesBrokenRules(t *testing.T) {
	most, base := envInt(t, "HOLDFAST_SIM_N", 12), seed(t)
	for name, v := range map[string]variant{
		"what is due is deleted without grace":  {noGrace: true},
		"pins keep nothing":                     {ignorePins: true},
		"branches keep nothing":                 {ignoreForks: true},
		"new journal objects are deleted":       {keepFew: true},
		"a merge forgets the oldest checkpoint": {greedy: true},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range uint64(4 * most) {
				w := newWorld(t, base+i, testPolicy(), nil)
				w.broken = v
				if why := w.play(120); why != "" {
					t.Logf("caught with seed %d: %s", base+i, why[:min(len(why), 200)])
					return
				}
			}
			t.Errorf("not caught in %d histories", 4*most)
		})
	}
}

// actor is somebody who works on the container and can be stopped at any call
// to the store.
type actor struct {
	name string
	gate chan struct{} // written by the test: go on
	at   chan string   // written by the actor: stopped before this call; closed when it ended
}

// gated returns hooks that stop at every call that others could notice or
// that notices others.
func gated(name string) (*actor, *fault.Hooked) {
	a := &actor{name: name, gate: make(chan struct{}), at: make(chan string)}
	h := &fault.Hooked{Before: func(op fault.Op, key string) error {
		if op == "create" || op == "delete" || op == "list" {
			a.at <- string(op) + " " + key
			<-a.gate
		}
		return nil
	}}
	return a, h
}

// start runs f until its first stop.
func (a *actor) start(f func()) {
	go func() {
		defer close(a.at)
		f()
	}()
}

// next lets the actor go to its next stop; ok is false when it ended.
func (a *actor) next() (at string, ok bool) {
	at, ok = <-a.at
	return at, ok
}

func (a *actor) release() { a.gate <- struct{}{} }

// play lets actors take turns as the world's dice say, until all have ended.
func (w *world) race(actors ...*actor) {
	stops := map[*actor]string{}
	for _, a := range actors {
		if at, ok := a.next(); ok {
			stops[a] = at
		}
	}
	for len(stops) > 0 {
		i := w.rng.IntN(len(stops))
		for _, a := range actors { // in a fixed order, for the dice's sake
			if _, waiting := stops[a]; !waiting {
				continue
			}
			if i--; i >= 0 {
				continue
			}
			w.note("%s: %s", a.name, stops[a])
			a.release()
			if at, ok := a.next(); ok {
				stops[a] = at
			} else {
				delete(stops, a)
			}
			break
		}
	}
}

// gatedMaintainer is a maintainer that stops at every call.
func (w *world) gatedMaintainer(name string, l *line, clk journal.Clock) (*actor, *Maintainer) {
	a, h := gated(name)
	stop := h.Before
	h.Before = nil // opening is not part of the race
	c := w.container(h)
	m := w.maintainer(c, l, clk)
	h.Before = stop
	return a, m
}

// prepare writes a history that has something to thin, to merge and to delete.
func (w *world) prepare(l *line) {
	for range 14 {
		w.write(l, 1+w.rng.IntN(4))
		w.publish(l, true)
		w.clock.Advance(time.Duration(5+w.rng.IntN(40)) * time.Minute)
	}
	w.maintain(l, w.crewOf(l), w.rng.IntN(2) == 0)
	for range 8 {
		w.write(l, 1+w.rng.IntN(4))
		w.publish(l, true)
		w.clock.Advance(time.Duration(5+w.rng.IntN(90)) * time.Minute)
	}
}

// playZombie stops a maintainer in the middle of a pass for days, with a clock
// that stands still, while another goes on.
func (w *world) playZombie() string {
	defer w.close()
	l := w.lines[0]
	w.prepare(l)
	other := w.maintainer(w.container(&fault.Hooked{Before: w.watch}), l, w.clock)
	for range 4 { // until nothing is left to do but to look for orphans
		w.maintain(l, other, true)
		w.clock.Advance(2 * time.Hour)
	}
	for range 20 {
		if !l.last.Worked {
			break
		}
		w.clock.Advance(7 * time.Hour)
		w.maintain(l, other, false)
	}
	clk := w.clock.Frozen()
	zombie, mz := w.gatedMaintainer("zombie", l, clk)
	mz.Compact()
	var zombieErr error
	zombie.start(func() { _, zombieErr = mz.Pass(w.t.Context()) })
	for {
		at, ok := zombie.next()
		if !ok {
			return "the zombie got through without writing a manifest"
		}
		if strings.HasPrefix(at, "create "+manifestName(l.id, 1)[:40]) {
			break // all it made is there, and no manifest knows it
		}
		zombie.release()
	}
	w.clock.Advance(time.Duration(w.rng.IntN(80)) * time.Hour)
	if w.rng.IntN(2) == 0 {
		w.publish(l, true)
	}
	other.request(request{sweep: true})
	w.maintain(l, other, false)
	if w.rng.IntN(2) == 0 {
		w.clock.Advance(3 * time.Hour)
		w.maintain(l, other, true)
	}
	for ok := true; ok; _, ok = zombie.next() { // it wakes up
		zombie.release()
	}
	if zombieErr != nil {
		w.note("zombie: %v", zombieErr)
	}
	w.checkAll()
	w.publish(l, true)
	w.maintain(l, other, true)
	w.checkAll()
	return w.fault
}

// TestZombieMaintainers: whatever a maintainer finds when it wakes up, nothing
// that anybody needs is gone.
func TestZombieMaintainers(t *testing.T) {
	n, base := envInt(t, "HOLDFAST_SIM_N", 12), seed(t)
	for i := range uint64(n) {
		w := newWorldAt(t, base+i, testPolicy(), nil, time.Now().Add(-600*day))
		if why := w.playZombie(); why != "" {
			t.Fatalf("HOLDFAST_SEED=%d: %s\n%s", base+i, why, strings.Join(tail(w.log, 60), "\n"))
		}
	}
}

// TestZombiesCatchBrokenRules breaks the two rules that sweeping rests on.
func TestZombiesCatchBrokenRules(t *testing.T) {
	n, base := 10*envInt(t, "HOLDFAST_SIM_N", 12), seed(t)
	for name, v := range map[string]variant{
		"orphans are swept without a manifest": {noBump: true},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range uint64(n) {
				w := newWorldAt(t, base+i, testPolicy(), nil, time.Now().Add(-600*day))
				w.broken = v
				if why := w.playZombie(); why != "" {
					t.Logf("caught with seed %d: %s", base+i, why)
					return
				}
			}
			t.Fatalf("not caught in %d histories", n)
		})
	}
}

// playRace lets two maintainers, one who pins, one who branches and a reader
// work at the same time, several rounds long.
func (w *world) playRace(rounds int) string {
	defer w.close()
	l := w.lines[0]
	for range rounds {
		w.prepare(l)
		one, m1 := w.gatedMaintainer("one", l, w.clock)
		two, m2 := w.gatedMaintainer("two", l, w.clock)
		m1.Compact()
		if w.rng.IntN(2) == 0 {
			m2.Compact()
		}
		pass := func(m *Maintainer) func() {
			return func() {
				if _, err := m.Pass(w.t.Context()); err != nil && !strings.Contains(err.Error(), "another maintainer") &&
					!strings.Contains(err.Error(), "manifest before it") {
					w.fail("pass: %v", err)
				}
			}
		}
		pinner, hp := gated("pinner")
		pins := w.gatedUser(hp)
		forker, hf := gated("forker")
		forks := w.gatedUser(hf)
		cp, _, ok := w.pick(l)
		cq, _, _ := w.pick(l)
		if !ok {
			return "nothing to pin"
		}
		one.start(pass(m1))
		two.start(pass(m2))
		var pin journal.PinInfo
		var pinErr, forkErr error
		var child = l.id
		pinner.start(func() {
			pin, pinErr = pins.Pin(w.t.Context(), journal.PinOptions{Kind: journal.PinHold, Timeline: l.id, Checkpoint: cp.ID, Label: "race", By: "test"})
		})
		forker.start(func() {
			child, forkErr = forks.Fork(w.t.Context(), journal.ForkOptions{Parent: l.id, Checkpoint: cq.ID, By: "test", Test: true})
		})
		w.race(one, two, pinner, forker)
		if pinErr == nil {
			w.pins = append(w.pins, pinned{pin, l})
		}
		if forkErr == nil && len(w.lines) < 5 {
			w.adopt(l, child, cq.ID)
		} else if forkErr == nil {
			if err := w.c.DropTimeline(w.t.Context(), child, "test"); err != nil {
				w.fail("drop: %v", err)
			}
		}
		w.checkAll()
		w.crewOf(l)
		for range 3 { // what was dropped is merged away, what was held is still there
			w.clock.Advance(time.Duration(1+w.rng.IntN(5)) * time.Hour)
			w.publish(l, true)
			w.maintain(l, w.crewOf(l), true)
			w.checkAll()
			if w.failed() {
				return w.fault
			}
		}
	}
	return w.fault
}

// gatedUser opens the container for somebody who does not maintain it.
func (w *world) gatedUser(h *fault.Hooked) *journal.Container {
	stop := h.Before
	h.Before = nil
	c := w.container(h)
	h.Before = stop
	return c
}

// TestRaces plays maintainers, pins and branches against each other, one call
// to the store at a time.
func TestRaces(t *testing.T) {
	n, base := max(1, envInt(t, "HOLDFAST_SIM_N", 12)/4), seed(t)
	held := 0
	for i := range uint64(n) {
		w := newWorldAt(t, base+i, testPolicy(), nil, time.Now().Add(-600*day))
		if why := w.playRace(4); why != "" {
			t.Fatalf("HOLDFAST_SEED=%d: %s\n%s", base+i, why, strings.Join(tail(w.log, 60), "\n"))
		}
		held += len(w.pins) + len(w.lines) - 1
	}
	t.Logf("%d races from seed %d, %d pins and branches made in them held", 4*n, base, held)
	if held < 2*n {
		t.Fatal("too little was held to prove anything")
	}
}

// TestRacesCatchBrokenRules: without the manifest between dropping a
// checkpoint and forgetting its versions, a pin can come too late.
func TestRacesCatchBrokenRules(t *testing.T) {
	n, base := 10*envInt(t, "HOLDFAST_SIM_N", 12), seed(t)
	for i := range uint64(n) {
		w := newWorldAt(t, base+i, testPolicy(), nil, time.Now().Add(-600*day))
		w.broken = variant{eager: true}
		if why := w.playRace(4); why != "" {
			t.Logf("caught with seed %d: %s", base+i, why)
			return
		}
	}
	t.Fatalf("not caught in %d races", n)
}

// manifestName is the key of a manifest.
func manifestName(t dr.TimelineID, generation uint64) string {
	return fmt.Sprintf("t/%v/m/%016x", t, generation)
}
