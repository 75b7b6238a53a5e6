package order

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// freezer is host, and takes Freeze.
func freezer(n byte, nonce uint64, disks ...byte) *wire.Hello {
	h := host(n, nonce, disks...)
	h.Features = []string{wire.FeatureFreeze}
	return h
}

func report(round wire.Round, disk byte, state wire.FreezeState, reason string) wire.FreezeReport {
	return wire.FreezeReport{Round: round, VMs: []wire.FreezeVM{{VM: dr.VMID{UUID: dr.UUID{'v', disk}}, State: state, Reason: reason}}}
}

// app begins an application-consistent round and returns its number.
func (b *bench) app(tag string) wire.Round {
	b.t.Helper()
	if _, err := b.core.Cut(dr.AppConsistent, tag, b.now); err != nil {
		b.t.Fatal(err)
	}
	b.drain()
	return b.core.round.number
}

func (b *bench) sent(t wire.Type) (n int) {
	for _, m := range b.sends {
		if m.Type == t {
			n++
		}
	}
	return n
}

func (b *bench) frozen(c ConnID, m wire.FreezeReport) { b.core.Frozen(c, m, b.now); b.drain() }
func (b *bench) thawed(c ConnID, m wire.FreezeReport) { b.core.Thawed(c, m, b.now); b.drain() }

func (b *bench) confirm(c ConnID, r wire.Round, ok bool) {
	m := wire.Confirm{Round: r, OK: ok}
	if !ok {
		m.Reason = wire.ReasonOutside
	}
	b.core.Confirm(c, m, b.now)
	b.drain()
}

func (b *bench) pass(d time.Duration) {
	b.now = b.now.Add(d)
	b.core.Tick(b.now)
	b.drain()
}

func marker(r wire.Round) record.Record {
	return record.Record{Kind: record.Marker, Offset: uint64(r)}
}

func TestAppConsistentRound(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, freezer(1, 7, 1))
	b.live(2, freezer(2, 7, 2))
	r := b.app("nightly")
	if b.sent(wire.TypeFreeze) != 2 || b.last(wire.TypeFreeze).Limit != DefaultFreezeLimit || b.sent(wire.TypeHold) != 0 {
		t.Fatalf("not frozen first: %+v", b.sends)
	}
	b.frozen(1, report(r, 1, wire.FreezeHeld, ""))
	if b.sent(wire.TypeHold) != 0 {
		t.Fatal("cut before all are frozen")
	}
	b.frozen(2, report(r, 2, wire.FreezeHeld, ""))
	if b.sent(wire.TypeHold) != 2 || b.sent(wire.TypeThaw) != 0 {
		t.Fatalf("%+v", b.sends)
	}
	b.frame(1, marker(r))
	b.frame(2, marker(r))
	if b.sent(wire.TypeRelease) != 2 || b.sent(wire.TypeThaw) != 2 {
		t.Fatal("not released and thawed once the cut has its place")
	}
	b.confirm(1, r, true)
	b.confirm(2, r, true)
	b.thawed(1, report(r, 1, wire.FreezeHeld, ""))
	if len(b.results) != 0 {
		t.Fatal("outcome before all have said that they had stayed frozen")
	}
	b.thawed(2, report(r, 2, wire.FreezeHeld, ""))
	if len(b.results) != 1 || b.results[0].Kind != dr.AppConsistent || b.results[0].Scope != dr.Group || b.results[0].Tag != "nightly" || len(b.results[0].Faults) != 0 {
		t.Fatalf("%+v", b.results)
	}
	cut, err := DecodeCut(&b.log[len(b.log)-2])
	res, err2 := DecodeResult(&b.log[len(b.log)-1])
	if err != nil || err2 != nil || cut.Kind != dr.UserTagged || res.Kind != dr.AppConsistent {
		t.Fatalf("the log says %v and %v (%v, %v)", cut.Kind, res.Kind, err, err2)
	}
}

// TestWhatWasFlushedIsInTheCut: a lone asynchronous host's last records before
// the freeze are on their way when it says Frozen.
func TestWhatWasFlushedIsInTheCut(t *testing.T) {
	run := func(f flaws) bool {
		b := newBench(t, NewState())
		b.core.flaws = f
		b.live(1, freezer(1, 7, 1))
		r := b.app("")
		b.frozen(1, report(r, 1, wire.FreezeHeld, ""))
		b.frame(1, zero(2, 0), marker(r)) // the stream is behind the answers
		b.confirm(1, r, true)
		b.thawed(1, report(r, 1, wire.FreezeHeld, ""))
		if len(b.results) != 1 || b.results[0].Kind != dr.AppConsistent {
			t.Fatalf("%+v", b.results)
		}
		at := slices.IndexFunc(b.log, func(r record.Record) bool { return r.Kind == record.Zero })
		return b.log[at].Seq < b.results[0].Checkpoint.Seq
	}
	if !run(flaws{}) {
		t.Error("the checkpoint lacks what was flushed")
	}
	if run(flaws{noMarker: true}) {
		t.Error("a cut without a marker is not noticed")
	}
}

// TestFailedFreezeIsCrashConsistentAndSaysWhy: the faults, each on host 2.
func TestFailedFreezeIsCrashConsistentAndSaysWhy(t *testing.T) {
	finish := func(b *bench, r wire.Round) {
		if b.core.round != nil && b.core.round.collecting {
			b.frame(1, marker(r))
			if b.core.conns[2] != nil {
				b.frame(2, marker(r))
			}
		}
		b.confirm(1, r, true)
		b.confirm(2, r, true)
		b.thawed(1, report(r, 1, wire.FreezeHeld, ""))
	}
	held := func(b *bench, r wire.Round) { b.frozen(2, report(r, 2, wire.FreezeHeld, "")) }
	for name, c := range map[string]struct {
		reason string
		scope  dr.Scope
		second *wire.Hello
		do     func(b *bench, r wire.Round)
	}{
		"refused": {"no agent", dr.Group, nil, func(b *bench, r wire.Round) {
			b.frozen(2, report(r, 2, wire.FreezeFailed, "no agent"))
			finish(b, r)
			b.thawed(2, report(r, 2, wire.FreezeFailed, ""))
		}},
		"late": {"in time", dr.Group, nil, func(b *bench, r wire.Round) {
			b.pass(DefaultFreezeWait)
			held(b, r)
			finish(b, r)
			b.thawed(2, report(r, 2, wire.FreezeHeld, ""))
		}},
		"silent": {"in time", dr.Group, nil, func(b *bench, r wire.Round) {
			b.pass(DefaultFreezeWait)
			finish(b, r)
			b.pass(DefaultThawWait)
		}},
		"thaw unanswered": {"stayed frozen", dr.Group, nil, func(b *bench, r wire.Round) {
			held(b, r)
			finish(b, r)
			b.pass(DefaultThawWait)
		}},
		"thawed by itself": {"dead-man", dr.Group, nil, func(b *bench, r wire.Round) {
			held(b, r)
			finish(b, r)
			b.thawed(2, report(r, 2, wire.FreezeFailed, "dead-man timer"))
		}},
		"thawed before the cut": {"before the checkpoint was cut", dr.Group, nil, func(b *bench, r wire.Round) {
			b.thawed(2, report(r, 2, wire.FreezeHeld, ""))
			finish(b, r)
		}},
		"link lost while freezing": {"link", dr.Partial, nil, func(b *bench, r wire.Round) {
			b.core.Detach(2, b.now)
			b.drain()
			finish(b, r)
		}},
		"link lost before thawed": {"link", dr.Group, nil, func(b *bench, r wire.Round) {
			held(b, r)
			finish(b, r)
			b.core.Detach(2, b.now)
			b.drain()
		}},
		"another's VM": {"does not tell of it", dr.Group, nil, func(b *bench, r wire.Round) {
			b.frozen(2, report(r, 1, wire.FreezeHeld, ""))
			finish(b, r)
			b.thawed(2, report(r, 1, wire.FreezeHeld, ""))
		}},
		"old host": {"version", dr.Group, host(2, 7, 2), finish},
	} {
		b := newBench(t, NewState())
		second := c.second
		if second == nil {
			second = freezer(2, 7, 2)
		}
		b.live(1, freezer(1, 7, 1))
		b.live(2, second)
		r := b.app("x")
		b.frozen(1, report(r, 1, wire.FreezeHeld, ""))
		c.do(b, r)
		if len(b.results) != 1 {
			t.Errorf("%s: %d outcomes", name, len(b.results))
			continue
		}
		got := b.results[0]
		if got.Kind != dr.UserTagged || got.Scope != c.scope || len(got.Faults) != 1 || got.Faults[0].VM != (dr.VMID{UUID: dr.UUID{'v', 2}}) || !strings.Contains(got.Faults[0].Reason, c.reason) {
			t.Errorf("%s: %v %v, faults %+v", name, got.Kind, got.Scope, got.Faults)
		}
		if c.second == nil && name != "link lost while freezing" && b.sent(wire.TypeThaw) != 2 {
			t.Errorf("%s: %d hosts were told to thaw", name, b.sent(wire.TypeThaw))
		}
	}
}

func TestExemptVMsDoNotKeepOthersFromBeingConsistent(t *testing.T) {
	for state, want := range map[wire.FreezeState]dr.CheckpointKind{wire.FreezeHeld: dr.AppConsistent, wire.FreezeExempt: dr.CrashConsistent} {
		b := newBench(t, NewState())
		b.live(1, freezer(1, 7, 1))
		b.live(2, freezer(2, 7, 2))
		r := b.app("")
		b.frozen(1, report(r, 1, state, ""))
		b.frozen(2, report(r, 2, wire.FreezeExempt, "powered off"))
		b.frame(1, marker(r))
		b.frame(2, marker(r))
		for c := ConnID(1); c <= 2; c++ {
			b.confirm(c, r, true)
			b.thawed(c, report(r, byte(c), wire.FreezeHeld, ""))
		}
		if len(b.results) != 1 || b.results[0].Kind != want || len(b.results[0].Faults) != 0 {
			t.Errorf("%v: %+v", state, b.results)
		}
	}
}

func TestRestartDuringAFreezeLeavesACrashConsistentPoint(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, freezer(1, 7, 1))
	r := b.app("")
	b.frozen(1, report(r, 1, wire.FreezeHeld, ""))
	b.frame(1, marker(r)) // cut, and then the DRVA dies
	open := b.recovered(b.core.state.Last).open
	if open == nil || open.Kind != dr.CrashConsistent {
		t.Fatalf("the log alone says %+v", open)
	}
	again := newBench(t, b.recovered(b.core.state.Last))
	again.pass(DefaultReplayLimit)
	if len(again.results) == 0 || again.results[0].Kind != dr.CrashConsistent || again.results[0].Scope != dr.Partial {
		t.Fatalf("%+v", again.results)
	}
}

func TestOldResultsStayReadable(t *testing.T) {
	body := []byte(`{"id":3,"scope":"group"}`)
	r := record.Record{Kind: record.CheckpointResult, Length: uint32(len(body)), Payload: body}
	if b, err := DecodeResult(&r); err != nil || b.Kind != 0 {
		t.Fatalf("%+v, %v", b, err)
	}
	for _, bad := range []string{`{"id":3,"scope":"partial","kind":"app"}`, `{"id":3,"scope":"group","kind":"user"}`} {
		r.Payload, r.Length = []byte(bad), uint32(len(bad))
		if _, err := DecodeResult(&r); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// TestAppConsistencyIsTrue runs random schedules of writes, freezes, thaws by
// the hosts' own timers, lost frames and lost links, and compares what an
// application-consistent checkpoint says with what the guests did. Each rule is
// removed in turn, and that must be noticed.
func TestAppConsistencyIsTrue(t *testing.T) {
	seed := rand.Uint64() >> 33
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("HOLDFAST_SEED=%d", seed)
	for name, f := range map[string]flaws{"": {}, "no marker": {noMarker: true}, "trust frozen": {trustFrozen: true}, "late counts": {countLate: true}} {
		app, violations := 0, 0
		var first string
		for i := range uint64(4000) {
			w := newQuietWorld(t, rand.New(rand.NewPCG(seed+i, 3)), f)
			if is, bad := w.run(); is {
				app++
				if bad != "" {
					if violations++; first == "" {
						first = fmt.Sprintf("seed %d: %s", seed+i, bad)
					}
				}
			}
		}
		t.Logf("flaw %q: %d application-consistent, %d of them false", name, app, violations)
		switch {
		case app < 200:
			t.Errorf("flaw %q: too few for a proof", name)
		case name == "" && violations > 0:
			t.Error(first)
		case name != "" && violations == 0:
			t.Errorf("without the rule %q nothing is noticed", name)
		}
	}
}

// quietWorld is one round over hosts whose messages travel in order, each way.
type quietWorld struct {
	b     *bench
	rng   *rand.Rand
	hosts []*quietGuest
	round wire.Round
}

// quietGuest is a host with one VM that writes unless it is frozen.
type quietGuest struct {
	conn          ConnID
	up, down      []func()
	next          dr.HostSeq
	froze, thawed bool
	flushed       dr.HostSeq // last record before the freeze
	wanted        bool
	dead          bool // its link is lost
}

func newQuietWorld(t *testing.T, rng *rand.Rand, f flaws) *quietWorld {
	w := &quietWorld{b: newBench(t, NewState()), rng: rng}
	w.b.core.flaws = f
	for i := range 1 + rng.IntN(2) {
		n := byte(i + 1)
		h := freezer(n, 7, n)
		w.b.live(ConnID(n), h)
		w.hosts = append(w.hosts, &quietGuest{conn: ConnID(n), next: 2})
	}
	w.round = w.b.app("")
	w.hear()
	return w
}

// hear lets what the core sent travel.
func (w *quietWorld) hear() {
	for _, m := range w.b.sends {
		if int(m.Conn) > len(w.hosts) {
			continue
		}
		g := w.hosts[m.Conn-1]
		switch m.Type {
		case wire.TypeFreeze:
			g.down = append(g.down, func() { g.wanted = true })
		case wire.TypeHold:
			// The marker goes behind everything in the stream, all of which is in
			// g.up already.
			g.down = append(g.down, func() { g.up = append(g.up, func() { w.b.frame(g.conn, marker(w.round)) }) })
		case wire.TypeRelease, wire.TypeMark:
			g.down = append(g.down, func() { g.up = append(g.up, func() { w.b.confirm(g.conn, w.round, true) }) })
		case wire.TypeThaw:
			g.down = append(g.down, func() { w.thaw(g, true) })
		}
	}
	w.b.sends = nil
}

// thaw ends a guest's freeze, by the DRVA's word or by the host's own timer.
func (w *quietWorld) thaw(g *quietGuest, asked bool) {
	state := wire.FreezeFailed
	if asked && g.froze && !g.thawed {
		state = wire.FreezeHeld
	}
	if g.thawed || !g.wanted {
		return
	}
	g.thawed = true
	m := report(w.round, byte(g.conn), state, "timer")
	g.up = slices.Insert(g.up, w.rng.IntN(1+len(g.up)), func() { w.b.thawed(g.conn, m) }) // answers overtake records
}

// run plays until there is an outcome. app: it claims to be
// application-consistent; bad: it is not.
func (w *quietWorld) run() (app bool, bad string) {
	for range 400 {
		w.step(w.hosts[w.rng.IntN(len(w.hosts))])
		if at, ok := w.b.core.Deadline(); ok && w.rng.IntN(60) == 0 {
			w.b.pass(at.Sub(w.b.now))
		}
		w.hear()
		if len(w.b.results) > 0 {
			break
		}
	}
	if len(w.b.results) == 0 || w.b.results[0].Kind != dr.AppConsistent {
		return false, ""
	}
	cut := w.b.results[0].Checkpoint.Seq
	for _, g := range w.hosts {
		have := dr.HostSeq(1)
		for _, r := range w.b.log {
			if r.Kind == record.Zero && r.Seq < cut && w.b.core.streams[r.Session].host.UUID[0] == byte(g.conn) {
				have = r.HostSeq
			}
		}
		if have != g.flushed {
			return true, fmt.Sprintf("host %d: record %d was the last flushed, the cut ends with %d", g.conn, g.flushed, have)
		}
	}
	return true, ""
}

// step is one thing that may happen at a host.
func (w *quietWorld) step(g *quietGuest) {
	switch n := w.rng.IntN(20); {
	case g.dead:
	case n < 6 && len(g.up) > 0:
		do := g.up[0]
		g.up = g.up[1:]
		do()
	case n < 12 && len(g.down) > 0:
		do := g.down[0]
		g.down = g.down[1:]
		do()
	case n < 15 && (!g.froze || g.thawed):
		r := zero(g.next, 0)
		g.next++
		g.up = append(g.up, func() { w.b.frame(g.conn, r) })
	case n < 17 && g.wanted && !g.froze && !g.thawed:
		g.froze, g.flushed = true, g.next-1
		m := report(w.round, byte(g.conn), wire.FreezeHeld, "")
		g.up = slices.Insert(g.up, w.rng.IntN(1+len(g.up)), func() { w.b.frozen(g.conn, m) })
	case n == 17 && g.froze && w.rng.IntN(10) == 0:
		w.thaw(g, false)
	case n == 18 && w.rng.IntN(60) == 0:
		g.dead = true
		w.b.core.Detach(g.conn, w.b.now)
		w.b.drain()
	}
}
