package maintain

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// busy is a world whose one timeline has a history of hours.
func busy(t *testing.T, policy Policy) (*world, *line) {
	t.Helper()
	w := newWorld(t, seed(t), policy, nil)
	t.Cleanup(w.close)
	l := w.lines[0]
	w.prepare(l)
	return w, l
}

// ok ends the test when a promise was broken.
func (w *world) ok() {
	w.t.Helper()
	w.checkAll()
	if w.failed() {
		w.t.Fatal(w.fault)
	}
}

func has(list []string, words string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, words) })
}

func TestPlanChangesNothing(t *testing.T) {
	w, l := busy(t, testPolicy())
	writes := 0
	h := &fault.Hooked{Before: func(op fault.Op, _ string) error {
		if op == "create" || op == "delete" {
			writes++
		}
		return nil
	}}
	m := w.maintainer(w.container(h), l, w.clock)
	w.clock.Advance(7 * time.Hour)
	plan, err := m.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if writes != 0 || len(plan.Drop) == 0 || len(plan.Keep) == 0 || plan.Backlog != 8 {
		t.Fatalf("%d writes; drop %d, keep %d, backlog %d", writes, len(plan.Drop), len(plan.Keep), plan.Backlog)
	}
	r, err := m.Pass(t.Context())
	if err != nil || r.Dropped != len(plan.Drop) || r.Kept != len(plan.Keep) {
		t.Fatalf("planned %d dropped of %d, it were %d of %d, %v", len(plan.Drop), len(plan.Keep), r.Dropped, r.Kept, err)
	}
	w.ok()
}

func TestStatus(t *testing.T) {
	w, l := busy(t, testPolicy())
	cp, _, _ := w.pick(l)
	if _, err := w.c.Pin(t.Context(), journal.PinOptions{Kind: journal.PinHold, Checkpoint: cp.ID, Label: "court case 7", By: "test"}); err != nil {
		t.Fatal(err)
	}
	m := w.crewOf(l)
	w.maintain(l, m, true)
	for _, who := range []*Maintainer{m, w.maintainer(w.container(&fault.Hooked{}), l, w.clock)} { // one that worked, and one that did not
		s, err := who.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Generation == 0 || s.Stats.Live == 0 || s.Stats.Stored < s.Stats.Live || s.Kept == 0 || s.Oldest.IsZero() || s.LastRun.IsZero() {
			t.Errorf("status: %+v", s)
		}
		if !slices.ContainsFunc(s.Held, func(h Held) bool { return h.Name == "court case 7" && h.Reason == "hold" && h.Checkpoint == cp.ID }) {
			t.Errorf("the hold is not named: %+v", s.Held)
		}
	}
}

func TestIdleTimelineWritesNothing(t *testing.T) {
	w, l := busy(t, testPolicy())
	m := w.maintainer(w.container(&fault.Hooked{}), l, w.clock)
	for range 12 {
		w.maintain(l, m, false)
		w.clock.Advance(7 * time.Hour)
	}
	idle := 0
	for range 12 { // a day and a half
		w.maintain(l, m, false)
		w.clock.Advance(3 * time.Hour)
		if !l.last.Worked {
			idle++
		}
	}
	if idle < 8 {
		t.Errorf("of 12 passes over an idle timeline %d wrote nothing", idle)
	}
	w.ok()
}

func TestLocksNeedAStoreThatLocks(t *testing.T) {
	w, _ := busy(t, testPolicy())
	policy := testPolicy()
	policy.Lock = LockPolicy{Mode: store.LockCompliance, Window: 10 * day}
	// The hooks hide the store's ability.
	if _, err := New(t.Context(), w.container(&fault.Hooked{}), Options{Policy: &policy}); !errs.Is(err, errs.Invalid) {
		t.Fatalf("got %v", err)
	}
}

func TestLocksAreExtended(t *testing.T) {
	policy := testPolicy()
	policy.Lock = LockPolicy{Mode: store.LockGovernance, Window: 10 * day}
	w := newWorld(t, seed(t), testPolicy(), nil)
	t.Cleanup(w.close)
	l := w.lines[0]
	w.prepare(l)
	m, err := New(t.Context(), w.c, Options{Policy: &policy, Clock: w.clock, PackAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w.maintain(l, m, true)
	st := w.back.(*mem.Store)
	check := func() {
		t.Helper()
		man, _, err := w.c.ReadManifest(t.Context(), l.id)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, o := range man.Objects {
			if o.Live == 0 {
				continue
			}
			n++
			lock, err := st.ReadLock(t.Context(), journal.ObjectName(o.ID))
			if err != nil || lock.Until.Sub(w.clock.Wall()) < 5*day || !o.Retain.Equal(lock.Until) {
				t.Errorf("%v is held until %v, the manifest says %v: %v", o.ID, lock.Until, o.Retain, err)
			}
		}
		if n == 0 {
			t.Error("nothing is live")
		}
	}
	check()
	w.clock.Advance(6 * day)
	w.publish(l, true)
	w.maintain(l, m, false)
	if l.last.Extended == 0 {
		t.Error("no lock was extended")
	}
	check()
	// What is held is not deleted, is named, and goes when the lock has run out.
	for range 6 {
		w.write(l, 30)
		w.publish(l, true)
		w.clock.Advance(26 * time.Hour)
		w.maintain(l, m, true)
	}
	if !slices.ContainsFunc(l.last.Held, func(h Held) bool { return h.Reason == "lock" && h.Bytes > 0 && h.Until.After(w.clock.Wall()) }) {
		t.Errorf("nothing is named as held by a lock: %+v", l.last.Held)
	}
	w.ok()
}

func TestClockSetAhead(t *testing.T) {
	w, l := busy(t, testPolicy())
	m := w.maintainer(w.container(&fault.Hooked{Before: w.watch}), l, w.clock)
	w.maintain(l, m, false)
	w.maintain(l, m, true)
	before := l.last.Kept
	w.clock.Advance(365 * day) // publisher, store and maintainer live on one machine
	for range 3 {
		w.publish(l, true)
		w.maintain(l, m, true)
	}
	if l.last.Kept < before || !has(l.last.Paused, "no clock is wrong") {
		t.Fatalf("%d checkpoints of %d are left; paused: %v", l.last.Kept, before, l.last.Paused)
	}
	m.AcceptClock()
	w.maintain(l, m, true)
	if l.last.Dropped == 0 || len(l.last.Paused) != 0 {
		t.Errorf("after it was accepted: dropped %d, paused %v", l.last.Dropped, l.last.Paused)
	}
	w.ok()
}

func TestSizeLimit(t *testing.T) {
	w, l := busy(t, testPolicy())
	m := w.maintainer(w.container(&fault.Hooked{}), l, w.clock)
	for range 3 {
		w.maintain(l, m, true)
	}
	full := l.last.Stats.Live
	f := l.last.Forecasts.Forecast(full)
	if f.Keeps < l.last.Now.Sub(l.last.Oldest) || l.last.Forecasts.From(0) != full {
		t.Errorf("forecast for what there is: %+v; sizes add up to %d of %d", f, l.last.Forecasts.From(0), full)
	}
	half := l.last.Forecasts.Forecast(full * 2 / 3)
	for mode, policy := range map[LimitMode]Policy{Shorten: testPolicy(), AlarmOnly: testPolicy()} {
		policy.SizeLimit, policy.Limit = full*2/3, mode
		if mode == Shorten {
			continue // below: it goes last
		}
		limited, err := New(t.Context(), w.c, Options{Policy: &policy, Clock: w.clock, PackAge: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		w.maintain(l, limited, true)
		if l.last.Dropped != 0 || !has(l.last.Alarms, "limit") {
			t.Errorf("alarm only: dropped %d, alarms %v", l.last.Dropped, l.last.Alarms)
		}
	}
	policy := testPolicy()
	policy.SizeLimit = full * 2 / 3
	limited, err := New(t.Context(), w.c, Options{Policy: &policy, Clock: w.clock, PackAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	kept := l.last.Kept
	for range 6 {
		w.maintain(l, limited, true)
	}
	if l.last.Stats.Live > policy.SizeLimit && !has(l.last.Alarms, "what may be given up") {
		t.Errorf("%d bytes live, the limit is %d: %v", l.last.Stats.Live, policy.SizeLimit, l.last.Alarms)
	}
	if l.last.Kept >= kept {
		t.Errorf("%d checkpoints of %d are left", l.last.Kept, kept)
	}
	man, _, err := w.c.ReadManifest(t.Context(), l.id)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range man.Points { // tagged ones keep their own time
		if reach := l.last.Now.Sub(q.Time); q.Reasons[0].Kind == journal.BySchedule && reach > max(half.Keeps, Floor)+2*time.Hour {
			t.Errorf("the history reaches %v, the forecast was %v", reach, half.Keeps)
		}
	}
	for _, tr := range l.truths { // whoever wants all of it back asks the schedule
		if tr.point().Offered && w.clock.Wall().Sub(tr.cp.Time) < Floor {
			if _, there := findPoint(man.Points, tr.cp.ID); !there {
				t.Errorf("checkpoint #%d of the last hour is gone", tr.cp.ID)
			}
		}
	}
}

func TestSuspects(t *testing.T) {
	w, l := busy(t, testPolicy())
	m := w.maintainer(w.container(&fault.Hooked{}), l, w.clock)
	w.maintain(l, m, false)
	m.mem.detector = Detector{seen: 1 << 30, stored: 1 << 28, rate: 1000, watched: time.Hour, raw: suspectVolume, out: suspectVolume}
	w.write(l, 3)
	w.publish(l, true)
	w.maintain(l, m, false)
	if !has(l.last.Alarms, "looks encrypted") {
		t.Fatalf("alarms: %v", l.last.Alarms)
	}
	for range 5 { // all around it stays though the schedule is done with it
		w.clock.Advance(20 * time.Hour)
		w.publish(l, true)
		w.maintain(l, m, true)
	}
	kept := l.last.Kept
	m.ClearSuspects()
	w.maintain(l, m, true)
	if l.last.Kept >= kept || l.last.Dropped == 0 {
		t.Errorf("%d checkpoints were kept, after clearing %d", kept, l.last.Kept)
	}
	w.ok()
}

func TestDamage(t *testing.T) {
	damage := func(body []byte) []byte { body[len(body)/2] ^= 1; return body }
	t.Run("journal object", func(t *testing.T) {
		w, l := busy(t, testPolicy())
		n := l.pub.Published() - 3
		w.back.(*mem.Store).Damage(journal.JournalPrefix(l.id)+hex(uint64(n)), func(b []byte) []byte { b[len(b)-100] ^= 1; return b })
		r, err := w.crewOf(l).Pass(t.Context())
		if !errs.Is(err, errs.Corrupt) || r == nil || r.Flushed == 0 || r.Dropped != 0 || r.Deleted != 0 || !has(r.Paused, "nothing is thinned") {
			t.Fatalf("%+v, %v", r, err)
		}
	})
	t.Run("newest manifest", func(t *testing.T) {
		w, l := busy(t, testPolicy())
		w.maintain(l, w.crewOf(l), false)
		w.maintain(l, w.crewOf(l), true)
		w.back.(*mem.Store).Damage(manifestName(l.id, l.last.Generation), damage)
		w.maintain(l, w.crewOf(l), false)
		if !has(l.last.Alarms, "is damaged and is replaced") {
			t.Errorf("alarms: %v", l.last.Alarms)
		}
		w.maintain(l, w.crewOf(l), true)
		h, err := w.c.History(t.Context(), journal.HistoryOptions{Timeline: l.id})
		if err != nil {
			t.Fatal(err)
		}
		for _, cp := range h.Checkpoints() {
			if cp.Recoverable {
				w.checkPoint(h, cp, l.truthOf(cp.ID))
			}
		}
		if w.failed() {
			t.Fatal(w.fault)
		}
	})
	t.Run("index part", func(t *testing.T) {
		w, l := busy(t, testPolicy())
		w.maintain(l, w.crewOf(l), false)
		man, _, err := w.c.ReadManifest(t.Context(), l.id)
		if err != nil {
			t.Fatal(err)
		}
		w.back.(*mem.Store).Damage(journal.PartName(man.Runs[0].Parts[0].ID), damage)
		w.publish(l, true)
		w.clock.Advance(7 * time.Hour)
		m := w.crewOf(l)
		m.Compact()
		r, err := m.Pass(t.Context())
		if !errs.Is(err, errs.Corrupt) || r == nil || r.Flushed == 0 || r.Dropped != 0 || r.Deleted != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}

func hex(n uint64) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 16)
	for i := range out {
		out[15-i] = digits[n>>(4*i)&15]
	}
	return string(out)
}

func TestDeniedDeletion(t *testing.T) {
	w, l := busy(t, testPolicy())
	h := &fault.Hooked{Before: func(op fault.Op, key string) error {
		if op == "delete" {
			return errs.New("test.Delete", errs.Denied, key, "this role may not delete")
		}
		return nil
	}}
	m := w.maintainer(w.container(h), l, w.clock)
	for range 3 {
		w.maintain(l, m, true)
		w.clock.Advance(3 * time.Hour)
		w.publish(l, true)
	}
	if !has(l.last.Alarms, "refuses to delete") || l.last.Deleted != 0 {
		t.Errorf("deleted %d, alarms %v", l.last.Deleted, l.last.Alarms)
	}
	w.ok()
}

// TestRunRests lets Run fail and work again, in virtual time.
func TestRunRests(t *testing.T) {
	w, l := busy(t, testPolicy())
	var failing, calls = true, 0
	h := &fault.Hooked{}
	m := w.maintainer(w.container(h), l, w.clock)
	h.Before = func(op fault.Op, key string) error {
		if failing && op == "list" {
			calls++
			return errs.New("test.List", errs.Unavailable, key, "no network")
		}
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m.wake, m.turn = make(chan struct{}, 1), make(chan struct{}, 1) // of this bubble
		m.turn <- struct{}{}
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		time.Sleep(4*DefaultInterval + time.Second)
		synctest.Wait()
		s := m.state
		if calls != breakerFailures || s.Failures != breakerFailures || !strings.Contains(s.LastError, "no network") {
			t.Errorf("after 8 minutes: %d passes, %+v", calls, s)
		}
		time.Sleep(breakerRest - time.Minute)
		synctest.Wait()
		if calls != breakerFailures {
			t.Errorf("it does not rest: %d passes", calls)
		}
		m.Wake()
		synctest.Wait()
		if calls != breakerFailures+1 {
			t.Errorf("it does not wake up: %d passes", calls)
		}
		cancel()
		if err := <-ended; !errs.Is(err, errs.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
	failing = false
	s, err := m.Status(t.Context())
	if err != nil || !s.Resting {
		t.Errorf("status: %+v, %v", s, err)
	}
	m.turn = make(chan struct{}, 1)
	m.turn <- struct{}{}
	w.maintain(l, m, false)
	if m.failures() != 0 || m.state.Generation == 0 {
		t.Errorf("after the network came back: %+v", m.state)
	}
	w.ok()
}

func TestOptions(t *testing.T) {
	w := newWorld(t, 1, testPolicy(), nil)
	t.Cleanup(w.close)
	for name, o := range map[string]Options{
		"interval":      {Interval: time.Second},
		"pack age":      {PackAge: time.Minute},
		"name":          {By: strings.Repeat("x", 256)},
		"grace":         {Policy: &Policy{Grace: time.Minute}},
		"schedule":      {Policy: &Policy{Schedule: Schedule{{time.Minute, time.Minute}}}},
		"limit":         {Policy: &Policy{SizeLimit: -1}},
		"lock, no mode": {Policy: &Policy{Lock: LockPolicy{Window: day}}},
		"lock mode":     {Policy: &Policy{Lock: LockPolicy{Mode: "soft", Window: day}}},
		"tags":          {Policy: &Policy{TagFor: -1}},
	} {
		if _, err := New(t.Context(), w.c, o); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(t.Context(), w.c, Options{Timeline: dr.TimelineID{UUID: dr.NewUUID()}}); !errs.Is(err, errs.NotFound) {
		t.Errorf("no such timeline: %v", err)
	}
}

// A maintainer that was away says so, and only as long as it is behind.
func TestMaintenanceThatStoodStillSaysSo(t *testing.T) {
	w, l, m, _ := beside(t)
	w.dense(l, backlogAlarm+1, 100*time.Millisecond)
	w.maintain(l, m, false)
	if !has(l.last.Alarms, "does not keep up") {
		t.Errorf("%d objects behind: %v", l.last.Backlog, l.last.Alarms)
	}
	w.dense(l, 3, time.Second)
	w.maintain(l, m, false)
	if has(l.last.Alarms, "does not keep up") {
		t.Errorf("%d objects behind: %v", l.last.Backlog, l.last.Alarms)
	}
}
