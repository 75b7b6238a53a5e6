package maintain

import (
	"strings"
	"testing"
	"time"

	"holdfast/internal/journal"
	"holdfast/internal/journal/journaltest"
	"holdfast/internal/store/storetest/fault"
)

// script is a short history with everything in it, then one pass against a
// store that dies at the k-th call, before it has its effect or after. What is
// left must be whole at once, and after others went on. It returns how many
// calls a pass takes when nothing dies. back is as of newWorld.
func script(t *testing.T, back func(*journaltest.Clock) backing, seed uint64, v variant, at int, late, once bool) (calls int, broke string) {
	w := newWorld(t, seed, testPolicy(), back)
	defer w.close()
	l := w.lines[0]
	w.prepare(l)
	for range 16 { // past the age at which journal objects may go
		w.write(l, 2)
		w.publish(l, true)
		w.clock.Advance(150 * time.Minute)
	}
	w.maintain(l, w.maintainer(w.container(&fault.Hooked{Before: w.watch}), l, w.clock), true)
	for range 4 { // something to pack again
		w.clock.Advance(time.Hour)
		w.write(l, 3)
		w.publish(l, true)
	}
	w.clock.Advance(90 * time.Minute)
	w.branch(l)
	k := &killer{at: -1, late: late, once: once}
	h := &fault.Hooked{}
	m := w.maintainer(w.container(h), l, w.clock)
	m.broken = v
	h.Before, h.After = k.before, k.after
	k.at = at
	m.Compact()
	r, err := m.Pass(t.Context())
	if err != nil && at < 0 {
		t.Fatal(err)
	}
	if at < 0 && (r.Deleted == 0 || !r.Full || r.Packed == 0) {
		t.Fatalf("the script's pass does too little: %+v", r)
	}
	w.checkAll()
	if !once {
		m = w.maintainer(w.container(&fault.Hooked{Before: w.watch}), l, w.clock) // it restarts
	} else {
		h.Before, h.After = w.watch, nil
	}
	for range 3 {
		w.publish(l, true)
		w.maintain(l, m, true)
		w.clock.Advance(5 * time.Hour)
	}
	w.checkAll()
	w.clock.Advance(60 * time.Hour)
	l.crew = []*Maintainer{m, m}
	w.settle()
	return k.calls, w.fault
}

// TestCrashAtEveryCall kills the store at each call of a pass in turn: as a
// crash, and as one lost answer to a maintainer that lives on.
func TestCrashAtEveryCall(t *testing.T) {
	base := seed(t)
	calls, broke := script(t, nil, base, variant{}, -1, false, false)
	if broke != "" {
		t.Fatal(broke)
	}
	step := max(1, calls/max(1, envInt(t, "HOLDFAST_SIM_N", 12)/3))
	tried := 0
	for k := int(base) % step; k < calls; k += step {
		for mode := range 4 {
			if _, broke := script(t, nil, base, variant{}, k, mode&1 != 0, mode&2 != 0); broke != "" {
				t.Fatalf("HOLDFAST_SEED=%d, call %d of %d, answer lost %v, lives on %v: %s", base, k, calls, mode&1 != 0, mode&2 != 0, broke)
			}
			tried++
		}
	}
	t.Logf("a pass of %d calls to the store, stopped in %d ways", calls, tried)
}

// TestCrashesCatchBrokenRules: deletion before the manifest shows when the
// manifest is never written.
func TestCrashesCatchBrokenRules(t *testing.T) {
	base := seed(t)
	calls, _ := script(t, nil, base, variant{early: true}, -1, false, false)
	for k := calls / 3; k < calls; k++ {
		if _, broke := script(t, nil, base, variant{early: true}, k, false, false); broke != "" {
			t.Logf("caught at call %d of %d: %s", k, calls, broke)
			return
		}
	}
	t.Fatal("not caught")
}

// TestDroppedTimeline: of a branch that was given up nothing is left in the
// end but its names.
func TestDroppedTimeline(t *testing.T) {
	w := newWorld(t, seed(t), testPolicy(), nil)
	defer w.close()
	l := w.lines[0]
	w.prepare(l)
	w.branch(l)
	child := w.lines[1]
	for range 60 {
		w.write(child, 2)
		w.publish(child, true)
		w.clock.Advance(10 * time.Minute)
	}
	w.maintain(child, w.crewOf(child), true)
	w.check(child)
	w.drop(child)
	m := w.crewOf(l)
	l.crew = []*Maintainer{m, m}
	for range 6 {
		w.clock.Advance(13 * time.Hour)
		w.publish(l, true)
		w.maintain(l, m, true)
	}
	if w.failed() {
		t.Fatal(w.fault)
	}
	for _, prefix := range []string{journal.DataPrefix, journal.PartPrefix} {
		all, err := keysUnder(t.Context(), w.back, prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range all {
			h, err := w.c.ReadHeader(t.Context(), in.Key)
			if err != nil {
				t.Fatal(err)
			}
			if h.Timeline == child.id {
				t.Errorf("%s of the dropped timeline is left", in.Key)
			}
		}
	}
	all, err := keysUnder(t.Context(), w.back, journal.JournalPrefix(child.id))
	if err != nil {
		t.Fatal(err)
	}
	if left := len(all); left != journal.KeepNumbers {
		t.Errorf("%d journal objects of the dropped timeline are left", left)
	}
	w.checkAll()
	if w.failed() {
		t.Fatal(w.fault)
	}
	if _, err := w.maintainer(w.container(&fault.Hooked{}), child, w.clock).Pass(t.Context()); err == nil || !strings.Contains(err.Error(), "given up") {
		t.Errorf("a pass over a dropped timeline: %v", err)
	}
}
