package maintain

import (
	"testing"
	"time"

	"holdfast/internal/journal"
	"holdfast/internal/journal/journaltest"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/meter"
	"holdfast/internal/store/storetest/fault"
)

// dense publishes n checkpoints, one every so often.
func (w *world) dense(l *line, n int, every time.Duration) {
	for range n {
		w.write(l, 2)
		w.publish(l, true)
		w.clock.Advance(every)
	}
}

// beside is a world whose maintainer works beside the publisher, with all
// requests counted.
func beside(t *testing.T) (*world, *line, *Maintainer, *meter.Store) {
	t.Helper()
	var bill *meter.Store
	w := newWorld(t, seed(t), testPolicy(), func(c *journaltest.Clock) backing { bill = meter.New(mem.NewAt(c.Wall)); return bill })
	t.Cleanup(w.close)
	l := w.lines[0]
	m, err := New(t.Context(), w.c, Options{Policy: &w.policy, Clock: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	w.maintain(l, m, false) // from here on what is published is kept at hand
	return w, l, m, bill
}

// lockAll holds all journal objects of a timeline for ten days.
func (w *world) lockAll(l *line) {
	w.t.Helper()
	locker, ok := store.AsLocker(w.back)
	if !ok {
		w.t.Fatal("the store does not lock")
	}
	all, err := keysUnder(w.t.Context(), w.back, journal.JournalPrefix(l.id))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, in := range all {
		if err := locker.ExtendLock(w.t.Context(), in.Key, store.Lock{Mode: store.LockGovernance, Until: w.clock.Wall().Add(10 * day)}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestGathering: small objects that come one soon after the other are gathered
// in the pass that takes them in, without reading one; rare ones, few ones and
// those that are held longer are left for later.
func TestGathering(t *testing.T) {
	for name, c := range map[string]struct {
		n     int
		every time.Duration
		hold  bool
		want  bool
	}{
		"dense":  {2 * gatherLeast, 5 * time.Second, false, true},
		"few":    {gatherLeast - 1, 5 * time.Second, false, false},
		"rare":   {2 * gatherLeast, time.Minute, false, false},
		"locked": {2 * gatherLeast, 5 * time.Second, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, l, m, _ := beside(t)
			w.dense(l, c.n, c.every)
			if c.hold {
				w.lockAll(l)
			}
			w.maintain(l, m, false)
			w.ok()
			if got := l.last.Packed > 0; got != c.want {
				t.Fatalf("%d of %d objects were gathered", l.last.Packed, l.last.Flushed)
			}
			man, _, err := w.c.ReadManifest(t.Context(), l.id)
			if err != nil {
				t.Fatal(err)
			}
			live, data := 0, 0
			for _, o := range man.Objects {
				if o.Live > 0 {
					live++
					if !o.ID.Data.IsZero() {
						data++
					}
				}
			}
			if c.want && (live != data || data != 1) || !c.want && data != 0 {
				t.Errorf("%d objects are live, %d of them gathered ones", live, data)
			}
			for range 4 {
				w.clock.Advance(13 * time.Hour)
				w.publish(l, true)
				w.maintain(l, m, true)
			}
			w.checkExact(l)
			w.ok()
		})
	}
}

// TestGatheringReadsNothing: beside the publisher a pass over small objects
// costs a fixed number of requests, however many they are.
func TestGatheringReadsNothing(t *testing.T) {
	var costs []uint64
	for _, n := range []int{gatherLeast, 4 * gatherLeast} {
		w, l, m, bill := beside(t)
		w.dense(l, n, 5*time.Second)
		before := bill.Counts().Requests()
		w.maintain(l, m, false)
		costs = append(costs, bill.Counts().Requests()-before)
		if l.last.Packed < n*3/4 || w.failed() { // some hold but zeroes
			t.Fatalf("%d of %d were gathered; %s", l.last.Packed, n, w.fault)
		}
	}
	if costs[1] > costs[0]+2 {
		t.Errorf("%d requests for %d objects, %d for %d", costs[0], gatherLeast, costs[1], 4*gatherLeast)
	}
}

// TestGatheringLeavesDamageAlone: a frame that is not what was sealed is not
// copied; its object stays, with an alarm, and the rest is gathered.
func TestGatheringLeavesDamageAlone(t *testing.T) {
	w, l, _, bill := beside(t)
	w.dense(l, 2*gatherLeast, 5*time.Second)
	w.set(l, &l.disks[0], 3, 1, false)
	w.publish(l, true)
	number := uint64(l.pub.Published())
	bill.Unwrap().(*mem.Store).Damage(journal.JournalPrefix(l.id)+hex(number), func(b []byte) []byte {
		b[4096+40] ^= 1 // within its first frame
		return b
	})
	far := w.maintainer(w.container(&fault.Hooked{}), l, w.clock) // reads from the store
	far.gathers = gathering{gatherLeast, gatherEvery}
	w.maintain(l, far, false)
	if !has(l.last.Alarms, "is damaged and stays as it is") || l.last.Packed < gatherLeast {
		t.Fatalf("gathered %d; alarms %v", l.last.Packed, l.last.Alarms)
	}
}
