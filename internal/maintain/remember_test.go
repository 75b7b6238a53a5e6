package maintain

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/store"
	"holdfast/internal/store/storetest/fault"
)

// group publishes the cell with a group checkpoint at its end.
func (w *world) group(l *line) {
	w.t.Helper()
	l.frames(w.t)
	l.cp++
	cp := dr.Checkpoint{ID: l.cp, Seq: l.seq + 1, Time: w.clock.Wall(), Scope: dr.Group, Disks: slices.Clone(l.disks)}
	l.b.SetCheckpoint(cp)
	l.b.SetSeqs(l.first, l.seq)
	q, err := l.pub.Publish(w.t.Context(), l.b)
	if err == nil {
		err = q.Wait(w.t.Context())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	l.cell, l.first = map[dr.DiskID]map[uint64]state{}, l.seq+1
	l.truths = append(l.truths, truth{cp, l.head.clone()})
}

// TestCountsAreRemembered: what a full merge counted is told by whoever opens
// the container next, without a pass, and is what comes free.
func TestCountsAreRemembered(t *testing.T) {
	w := newWorld(t, seed(t), testPolicy(), nil)
	t.Cleanup(w.close)
	l := w.lines[0]
	d := &l.disks[0]
	publish := func() {
		w.set(l, d, 0, 40, false)
		w.group(l)
		w.clock.Advance(time.Minute)
	}
	publish()
	publish()
	held := l.cp
	publish()
	pin, err := w.c.Pin(t.Context(), journal.PinOptions{Kind: journal.PinHold, Timeline: l.id, Checkpoint: held, Label: "audit", By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	m := w.maintainer(w.container(&fault.Hooked{}), l, w.clock)
	w.maintain(l, m, true)
	w.clock.Advance(20 * day) // beyond the schedule
	for range 3 {
		publish()
		m.AcceptClock()
		w.maintain(l, m, true)
	}
	fresh, err := New(t.Context(), w.c, Options{Timeline: l.id, Clock: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	st, err := fresh.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(st.Held, l.last.Held) || !reflect.DeepEqual(st.Forecasts, l.last.Forecasts) {
		t.Fatalf("remembered:\n%+v %+v\ncounted:\n%+v %+v", st.Held, st.Forecasts, l.last.Held, l.last.Forecasts)
	}
	i := slices.IndexFunc(st.Held, func(h Held) bool { return h.Reason == "hold" && h.Name == "audit" })
	if i < 0 || st.Held[i].Bytes <= 0 || st.Forecasts.From(0) != st.Stats.Live {
		t.Fatalf("held: %+v, sizes add up to %d of %d", st.Held, st.Forecasts.From(0), st.Stats.Live)
	}
	if err := w.c.Unpin(t.Context(), pin.ID, "test"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it leaves the points one manifest before it leaves the index
		w.maintain(l, m, true)
	}
	if free := st.Stats.Live - l.last.Stats.Live; free != st.Held[i].Bytes {
		t.Errorf("releasing the hold gives back %d bytes; it was said to hold %d alone", free, st.Held[i].Bytes)
	}
	w.ok()
}

// TestPolicyIsRemembered: whoever maintains next without a word follows what
// the one before was told, tag time and locks included.
func TestPolicyIsRemembered(t *testing.T) {
	policy := testPolicy()
	policy.Lock = LockPolicy{Mode: store.LockGovernance, Window: 2 * day}
	w, l := busy(t, testPolicy())
	w.policy = policy
	w.maintain(l, w.maintainer(w.c, l, w.clock), false)
	remembered := func() Policy {
		t.Helper()
		man, ok, err := w.c.ReadManifest(t.Context(), l.id)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		return PolicyOf(man)
	}
	if got := remembered(); !reflect.DeepEqual(got, policy.full()) {
		t.Fatalf("the container remembers %+v, it was %+v", got, policy.full())
	}
	pass := func(p *Policy) *Report {
		t.Helper()
		m, err := New(t.Context(), w.c, Options{Timeline: l.id, Policy: p, Clock: w.clock})
		if err != nil {
			t.Fatal(err)
		}
		r, err := m.Pass(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	w.clock.Advance(30 * time.Hour) // more than half of the window
	if r := pass(nil); r.Extended == 0 {
		t.Errorf("a maintainer that was told nothing extends no lock: %+v", r)
	}
	other := policy
	other.TagFor, other.Lock = 9*day, LockPolicy{}
	pass(&other)
	if got := remembered(); got.TagFor != 9*day || got.Lock.Mode != "" {
		t.Errorf("an explicit policy is remembered as %+v", got)
	}
	// Tags that stay as long as the schedule follow it.
	other.TagFor = 0
	pass(&other)
	longer := remembered()
	longer.Schedule, longer.TagFor = Schedule{{5 * time.Second, time.Hour}, {time.Hour, 50 * day}}, 0
	pass(&longer)
	if got := remembered(); got.TagFor != 50*day {
		t.Errorf("tags stay %v, the schedule %v", got.TagFor, got.Schedule.Span())
	}
	w.ok()
}

// unlocking is a store without locks.
type unlocking struct{ store.Store }

// TestARememberedLockOnAStoreWithout: a container that was copied to a store
// without locks is maintained all the same, and says so.
func TestARememberedLockOnAStoreWithout(t *testing.T) {
	policy := testPolicy()
	policy.Lock = LockPolicy{Mode: store.LockGovernance, Window: 2 * day}
	w, l := busy(t, testPolicy())
	w.policy = policy
	w.maintain(l, w.maintainer(w.c, l, w.clock), false)
	c, err := journal.Open(t.Context(), unlocking{w.back}, w.key.Identity())
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(t.Context(), c, Options{Timeline: l.id, Clock: w.clock, PackAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(3 * time.Hour)
	w.maintain(l, m, true)
	if !l.last.Full || l.last.Packed == 0 || !has(l.last.Alarms, "cannot hold") {
		t.Errorf("%+v", l.last)
	}
	w.ok()
}

// TestProgress: every stage of a pass tells how far it is, and ends no further
// than it said.
func TestProgress(t *testing.T) {
	w, l := busy(t, testPolicy())
	seen := make(map[string]bool)
	m, err := New(t.Context(), w.c, Options{Timeline: l.id, Policy: &w.policy, Clock: w.clock, PackAge: time.Hour, Progress: func(p Progress) {
		seen[p.Stage] = true
		if p.Done < 0 || p.Total != 0 && p.Done > p.Total {
			t.Errorf("%+v", p)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		w.maintain(l, m, true)
		w.clock.Advance(26 * time.Hour)
		w.write(l, 30)
		w.publish(l, true)
	}
	for _, stage := range []string{"taking in", "packing", "deleting"} {
		if !seen[stage] {
			t.Errorf("nothing was told of %s: %v", stage, seen)
		}
	}
	w.ok()
}
