package drva

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/store/mem"
	"holdfast/internal/wire"
)

func TestLevelsHaveHysteresis(t *testing.T) {
	l := LevelNormal
	for _, step := range []struct {
		fill float64
		want Level
	}{
		{0.69, LevelNormal}, {0.70, LevelWarn}, {0.66, LevelWarn}, {0.64, LevelNormal},
		{0.86, LevelThrottle}, {0.81, LevelThrottle}, {0.79, LevelWarn}, {0.60, LevelNormal},
		{0.99, LevelTrack}, {0.90, LevelTrack}, {0.71, LevelTrack}, {0.69, LevelWarn}, {0, LevelNormal},
	} {
		if l = l.next(step.fill); l != step.want {
			t.Fatalf("at %.2f: %v, want %v", step.fill, l, step.want)
		}
	}
	if got := LevelFull.next(0.9); got != LevelTrack {
		t.Errorf("with room again: %v", got)
	}
	for v := LevelNormal; v <= LevelFull; v++ {
		var back Level
		if b, _ := v.MarshalText(); back.UnmarshalText(b) != nil || back != v {
			t.Errorf("%v comes back as %v", v, back)
		}
	}
}

// fluid is a domain as a basin: what flows in and out in a tenth of a second.
// Hosts obey; what they do not send while they track they send again as a
// resync, at twice the speed.
type fluid struct {
	quota, want      float64 // bytes; bytes a second
	used, dirty      float64
	level            Level
	changes, resyncs int
	highest          float64
	next             func(Level, float64) Level
}

func (f *fluid) run(d time.Duration, drainAt func(time.Duration) float64) {
	const dt = 0.1
	tracking := false
	for at := time.Duration(0); at < d; at += 100 * time.Millisecond {
		out := drainAt(at)
		in := f.want
		if f.level == LevelThrottle {
			in = min(in, throttleRate(out, f.used/f.quota))
		}
		switch {
		case tracking:
			f.dirty = min(f.dirty+in*dt, f.quota/10) // hot blocks are written again and again
			in = 0
		case f.dirty > 0:
			again := min(f.dirty, 2*f.want*dt)
			f.dirty -= again
			in += again / dt
		}
		f.used = min(max(f.used+(in-out)*dt, 0), f.quota)
		f.highest = max(f.highest, f.used/f.quota)
		if l := f.next(f.level, f.used/f.quota); l != f.level {
			if l < LevelTrack && f.level >= LevelTrack {
				f.resyncs++
			}
			f.level, f.changes = l, f.changes+1
		}
		tracking = f.level >= LevelTrack
	}
}

// TestLevelsDoNotOscillate: an hour of a store that is too slow, that is away,
// and that is erratic. Without hysteresis the level would never come to rest.
func TestLevelsDoNotOscillate(t *testing.T) {
	none := func(_ Level, fill float64) Level { return LevelNormal.next(fill) }
	wave := func(mean float64) func(time.Duration) float64 {
		return func(at time.Duration) float64 { return mean * (1 + 0.9*math.Sin(at.Seconds()/20)) }
	}
	for name, c := range map[string]struct {
		drain   func(time.Duration) float64
		changes int // at most
	}{
		"slow":    {func(time.Duration) float64 { return 20e6 }, 4},
		"away":    {func(time.Duration) float64 { return 0 }, 3},
		"erratic": {wave(20e6), 8},
		"back": {func(at time.Duration) float64 {
			if at > 10*time.Minute && at < 40*time.Minute {
				return 0
			}
			return 80e6
		}, 8},
	} {
		run := func(next func(Level, float64) Level) *fluid {
			f := &fluid{quota: 16e9, want: 50e6, next: next}
			f.run(time.Hour, c.drain)
			return f
		}
		f := run(Level.next)
		if f.changes > c.changes {
			t.Errorf("%s: %d changes of level in an hour", name, f.changes)
		}
		if name != "away" && name != "back" && f.highest >= bounds[LevelTrack].enter {
			t.Errorf("%s: filled to %.2f although throttled", name, f.highest)
		}
		broken := run(none)
		t.Logf("%s: %d changes, %d resyncs, highest %.2f; without hysteresis %d changes", name, f.changes, f.resyncs, f.highest, broken.changes)
		if name == "back" && broken.changes <= c.changes {
			t.Errorf("%s: without hysteresis %d changes: the test proves nothing", name, broken.changes)
		}
	}
}

// flood writes n records of a mebibyte.
func (h *host) flood(n int) {
	for i := range n {
		p := make([]byte, 1<<20)
		p[0] = byte(i)
		h.capture(record.Record{Kind: record.Data, Length: 1 << 20, Offset: uint64(i%64) << 20, Payload: p, CRC: record.Checksum(p)})
	}
}

// TestHostsTrackBeforeTheLogIsFull: a host that knows the order gets it in time,
// is never left unread, and streams again when the log has drained; also where
// the last level and the end of the log are three writes apart.
func TestHostsTrackBeforeTheLogIsFull(t *testing.T) {
	for _, quota := range []int64{64 << 20, 128 << 20} {
		t.Run(fmt.Sprintf("%d MiB", quota>>20), func(t *testing.T) { trackBeforeFull(t, quota) })
	}
}

func trackBeforeFull(t *testing.T, quota int64) {
	rng := seeded(t)
	st := &gateStore{Store: mem.New()}
	r := newRig(t, st, func(c *Config) { c.Quota = quota })
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 64<<20).modern(), r)
	h.sync()
	r.checkpoint("first")
	st.set(true)
	for h.order() == wire.TrackNone {
		h.flood(1)
		h.settle()
		if s := r.srv.Status(); s.State == "full" {
			t.Fatalf("the log is full before the host was told: %+v", s.Load)
		}
	}
	s := r.srv.Status()
	if h.order() != wire.TrackLogFull || s.Load.Level != LevelTrack || s.Load.Cause == "" || s.Log.Absorbs == 0 {
		t.Errorf("order %v, load %+v", h.order(), s.Load)
	}
	h.mu.Lock()
	throttled := len(h.throttles)
	h.mu.Unlock()
	if throttled == 0 {
		t.Error("the host was not slowed down first")
	}
	late := connected(t, newHost(t, r, rng, dr.Async, 1<<20).modern(), r)
	if late.order() != wire.TrackLogFull {
		t.Error("a host that attaches now is not told to track")
	}
	st.set(false)
	eventually(t, "the log drains and hosts stream", func() bool {
		return h.order() == wire.TrackNone && late.order() == wire.TrackNone && r.srv.Status().Load.Level < LevelTrack
	})
	codes := map[string]bool{}
	for _, e := range r.srv.Events(0).Events {
		codes[e.Code] = true
		if e.Severity != Info && e.Remedy == "" {
			t.Errorf("%s has no remedy", e.Code)
		}
	}
	for _, want := range []string{"log-warn", "log-throttle", "log-track"} {
		if !codes[want] {
			t.Errorf("no event %s: %v", want, codes)
		}
	}
	h.settle()
	r.checkpoint("last")
	r.stop()
	r.compare(h)
}

// TestStoreOutageLosesNoPoint: every checkpoint cut while the store took nothing
// is in the container afterwards, with exactly what its disks held, in the order
// in which they were cut.
func TestStoreOutageLosesNoPoint(t *testing.T) {
	rng := seeded(t)
	st := &gateStore{Store: mem.New()}
	r := newRig(t, st, func(c *Config) { c.Quota = 256 << 20 })
	r.start()
	a := connected(t, newHost(t, r, rng, dr.Async, 4<<20, 1<<20), r)
	b := connected(t, newHost(t, r, rng, dr.Async, 8<<20), r)
	a.sync()
	b.sync()
	r.checkpoint("before")
	st.set(true)
	const points = 60 // far more than the publisher and the shipper hold
	var cut []dr.CheckpointID
	for i := range points {
		a.writes(1 + rng.IntN(20))
		b.writes(1 + rng.IntN(20))
		tag := fmt.Sprintf("p%d", i)
		eventually(t, "a checkpoint is cut", func() bool {
			cp, err := r.srv.Checkpoint(t.Context(), tag)
			if err != nil && !errs.Is(err, errs.Unavailable) {
				t.Fatal(err)
			}
			if err == nil && cp.Scope == dr.Group {
				cut = append(cut, cp.ID)
			}
			return err == nil
		})
	}
	st.set(false)
	last := r.checkpoint("after")
	a.settle()
	b.settle()
	r.stop()
	listed, before := map[dr.CheckpointID]bool{}, dr.CheckpointID(0)
	for _, p := range r.history().Checkpoints() {
		if p.ID <= before {
			t.Errorf("checkpoint %d is listed behind %d", p.ID, before)
		}
		before, listed[p.ID] = p.ID, true
	}
	lost := 0
	for _, id := range cut {
		if !listed[id] {
			lost++
		}
	}
	if lost > 0 || len(cut) < points*9/10 || !listed[last.ID] {
		t.Errorf("%d of %d checkpoints cut in the outage are lost", lost, len(cut))
	}
	if n := r.compare(a, b); n < len(cut) {
		t.Errorf("%d recoverable checkpoints, %d were cut", n, len(cut))
	}
}

func TestPauseOutlivesTheProcess(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, func(c *Config) { c.Interval = time.Second })
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 1<<20).modern(), r)
	h.sync()
	r.checkpoint("x")
	if err := r.srv.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the host is told", func() bool { return h.order() == wire.TrackPausedUser })
	if _, err := r.srv.Checkpoint(t.Context(), "y"); !errs.Is(err, errs.Conflict) {
		t.Errorf("checkpoint while paused: %v", err)
	}
	h.disconnect()
	r.stop()
	r.start()
	connectAll(t, r, h)
	if h.order() != wire.TrackPausedUser || r.srv.Status().Paused == nil {
		t.Fatalf("after a restart the order is %v", h.order())
	}
	if err := r.srv.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the host is told", func() bool { return h.order() == wire.TrackNone })
	h.disconnect()
	r.stop()
	r.start()
	connectAll(t, r, h)
	if h.order() != wire.TrackNone || r.srv.Status().Paused != nil {
		t.Fatalf("after resume and a restart the order is %v", h.order())
	}
	r.checkpoint("z")
	h.disconnect()
}

func TestAppCheckpointsAreWhatTheHostsSay(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, func(c *Config) { c.Limits.FreezeWait, c.Limits.ThawWait = time.Second, time.Second })
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 1<<20).modern(), r)
	h.sync()
	h.freeze = func(wire.Type, dr.VMID) (wire.FreezeState, string) { return wire.FreezeHeld, "" }
	good, faults, err := r.srv.AppCheckpoint(t.Context(), "good")
	if err != nil || good.Kind != dr.AppConsistent || len(faults) != 0 {
		t.Fatalf("%v, %+v, %v", good.Kind, faults, err)
	}
	h.mu.Lock()
	h.freeze = func(t wire.Type, _ dr.VMID) (wire.FreezeState, string) {
		if t == wire.TypeThaw {
			return wire.FreezeFailed, "dead-man timer"
		}
		return wire.FreezeHeld, ""
	}
	h.mu.Unlock()
	bad, faults, err := r.srv.AppCheckpoint(t.Context(), "bad")
	if err != nil || bad.Kind != dr.UserTagged || len(faults) != 1 {
		t.Fatalf("%v, %+v, %v", bad.Kind, faults, err)
	}
	r.checkpoint("end")
	ev := r.srv.Events(0).Events
	if len(ev) == 0 || ev[len(ev)-1].Code != "freeze-failed" || ev[len(ev)-1].Object != "vm "+h.hello.VMs[0].Config.ID.String() {
		t.Errorf("events: %+v", ev)
	}
	r.stop()
	kinds := map[dr.CheckpointID]dr.CheckpointKind{}
	for _, p := range r.history().Checkpoints() {
		kinds[p.ID] = p.Kind
	}
	if kinds[good.ID] != dr.AppConsistent || kinds[bad.ID] != dr.UserTagged {
		t.Errorf("the container says %v", kinds)
	}
}

// TestOverwritingTheSameBlocksCannotFillTheLog: what no object need hold any
// more is trimmed, also while no checkpoint can be cut.
func TestOverwritingTheSameBlocksCannotFillTheLog(t *testing.T) {
	rng := seeded(t)
	r := newRig(t, nil, func(c *Config) { c.Quota = 64 << 20 }) // a checkpoint a minute
	r.start()
	h := connected(t, newHost(t, r, rng, dr.Async, 64<<20), r)
	h.sync()
	for range 130 {
		h.flood(1)
	}
	h.settle()
	r.checkpoint("x")
	r.stop()
	r.compare(h)
}

func TestEventRing(t *testing.T) {
	var r eventRing
	if e := r.after(0); len(e.Events) != 0 || e.Lost != 0 {
		t.Fatalf("%+v", e)
	}
	for range maxEventsKept + 10 {
		r.add(Event{Code: "x"})
	}
	e := r.after(0)
	if e.Lost != 10 || len(e.Events) != maxEventsKept || e.Events[0].Seq != 11 {
		t.Fatalf("lost %d, %d kept from %d", e.Lost, len(e.Events), e.Events[0].Seq)
	}
	last := uint64(maxEventsKept + 10)
	if e := r.after(last); len(e.Events) != 0 || e.Lost != 0 {
		t.Fatalf("%+v", e)
	}
	if e := r.after(last - 2); len(e.Events) != 2 || e.Events[0].Seq != last-1 {
		t.Fatalf("%+v", e)
	}
	if e := r.after(last + 99); len(e.Events) != maxEventsKept {
		t.Fatal("a reader of an earlier run gets nothing")
	}
}

// TestRPOAlarm: raised at once, lowered when it has stayed better, and no news
// between two checkpoints.
func TestRPOAlarm(t *testing.T) {
	run := func(calm time.Duration) (states []Meeting) {
		a := rpoAlarm{target: 10 * time.Second, calm: calm}
		now := time.Unix(1000, 0)
		age := -1.0
		for i := range 400 {
			now = now.Add(time.Second)
			switch {
			case i < 10: // no point yet
			case i >= 100 && i < 200: // the store is away
				age++
			case i%5 == 0:
				age = 4
			default:
				age++
			}
			if a.look(age, now) {
				states = append(states, a.state)
				if e := a.event(age, "the store"); (e.Severity == Info) != (e.Remedy == "") {
					t.Errorf("%+v", e)
				}
			}
		}
		return states
	}
	want := fmt.Sprint([]Meeting{NoPoint, Meets, Nearly, NotMeeting, Nearly})
	if got := fmt.Sprint(run(15 * time.Second)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := fmt.Sprint(run(0)); got == want {
		t.Error("without the wait every tooth of the saw would be the same news: the test proves nothing")
	}
	none := rpoAlarm{}
	if none.look(1e6, time.Now()) {
		t.Error("an alarm without a target")
	}
}

// TestDomainsDoNotStarveEachOther: two domains in one process. One has a store
// that takes nothing and ten times the load; the other's points arrive in time.
func TestDomainsDoNotStarveEachOther(t *testing.T) {
	rng := seeded(t)
	shared := NewShared()
	lis := newPipeListener()
	front := NewFront(lis, nil, nil)
	stuckStore := &gateStore{Store: mem.New()}
	stuck := newRig(t, stuckStore, func(c *Config) {
		c.Listener, c.Shared, c.Priority, c.Quota, c.Interval = nil, shared, HighPriority, 256<<20, time.Second
	})
	good := newRig(t, nil, func(c *Config) { c.Listener, c.Shared, c.Interval = nil, shared, time.Second })
	front.Expect()
	front.Expect()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := front.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer stop()
	for _, r := range []*rig{stuck, good} {
		r.start()
		r.lis = lis
	}
	early := newHost(t, good, rng, dr.Async, 1<<20)
	if err := early.connect(good); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a domain that is not ready answers %v", err)
	}
	front.Add(stuck.srv)
	front.Add(good.srv)
	hs, hg := newHost(t, stuck, rng, dr.Async, 64<<20).modern(), newHost(t, good, rng, dr.Async, 8<<20)
	connectAll(t, stuck, hs)
	connectAll(t, good, hg)
	hs.sync()
	hg.sync()
	good.checkpoint("first")
	stuck.checkpoint("first")
	stuckStore.set(true)
	flood := make(chan struct{})
	go func() {
		defer close(flood)
		for range 30 {
			if hs.order() != wire.TrackNone {
				return
			}
			hs.flood(5)
		}
	}()
	worst := 0.0
	for range 12 { // a dozen checkpoints under the other's outage
		before := good.srv.Status().Checkpoints.Published
		hg.writes(20)
		eventually(t, "the healthy domain publishes", func() bool {
			s := good.srv.Status()
			worst = max(worst, s.RPO)
			return s.Checkpoints.Published > before
		})
	}
	<-flood
	if s := stuck.srv.Status(); s.Publisher.UnderWay == 0 {
		t.Errorf("the other domain is not stuck: %+v", s.Publisher)
	}
	t.Logf("worst RPO of the healthy domain at a 1 s interval: %.2f s", worst)
	stuckStore.set(false)
	hs.settle()
	hg.settle()
	stuck.checkpoint("last")
	good.checkpoint("last")
	stuck.stop()
	good.stop()
	stuck.compare(hs)
	good.compare(hg)
}

// TestFramesShareOnePool: what idles holds nothing, and a small frame does not
// take a large buffer.
func TestFramesShareOnePool(t *testing.T) {
	var p framePool
	small, large := p.take(1, 4096), p.take(1, smallPayload+4096)
	if len(small.payload) != smallPayload || len(large.payload) != wire.MaxPayload || cap(p.take(smallRecords+1, 0).recs) < smallRecords+1 {
		t.Fatal("wrong sizes")
	}
	p.give(small)
	if p.take(2, 8192) != small {
		t.Error("the last used is not used first")
	}
	for range 2 * keptLarge {
		p.give(newBuffer(true))
	}
	if len(p.large) != keptLarge {
		t.Errorf("%d large buffers are kept", len(p.large))
	}
}

func TestCompressionFollowsTheBacklog(t *testing.T) {
	for _, c := range []struct {
		fill     float64
		underWay int
		want     string
	}{{0.1, 0, "better"}, {0.6, 8, "better"}, {0.6, 1, "fastest"}, {0.9, 8, "better"}, {0.9, 1, "none"}} {
		set, _ := ParseCompression("better")
		if got := wordOf(levelFor(set, c.fill, c.underWay)); got != c.want {
			t.Errorf("at %.1f with %d under way: %s, want %s", c.fill, c.underWay, got, c.want)
		}
	}
	if l, ok := ParseCompression("none"); !ok || wordOf(levelFor(l, 0.6, 0)) != "none" {
		t.Error("none does not stay none")
	}
	if _, ok := ParseCompression("zip"); ok {
		t.Error("zip is taken")
	}
	if !bytes.Equal([]byte(wordOf(0)), []byte("fastest")) {
		t.Error("the zero value is not fastest")
	}
}

// A checkpoint that a clock dated ahead, as one does that is set back
// afterwards, is one, and ages.
func TestRPOOfAClockThatWasSetBack(t *testing.T) {
	var r runStatus
	now := time.Now()
	if got := r.rpo(now); got >= 0 {
		t.Errorf("%v without a checkpoint", got)
	}
	r.sawGroup(now.Add(time.Hour).Round(0), now)
	if got := r.rpo(now.Add(5 * time.Second)); got != 5 {
		t.Errorf("%v s, 5 s after one that is dated ahead", got)
	}
	r.sawGroup(now.Add(-2*time.Second), now)
	if got := r.rpo(now.Add(5 * time.Second)); got != 7 {
		t.Errorf("%v s, 5 s after one that was 2 s old", got)
	}
}
