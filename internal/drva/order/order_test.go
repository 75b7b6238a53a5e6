package order

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// bench drives a core by hand and keeps what it said.
type bench struct {
	t       *testing.T
	core    *Core
	now     time.Time
	log     []record.Record
	sends   []Send
	results []Result
	events  []Event
}

func newBench(t *testing.T, st *State) *bench {
	b := &bench{t: t, now: time.Unix(1000, 0)}
	b.core = New(Config{}, st, b.now)
	return b.drain()
}

func (b *bench) drain() *bench {
	b.t.Helper()
	var out Output
	b.core.Drain(&out)
	for _, a := range out.Appends {
		for _, r := range a.Recs {
			if n := len(b.log); n > 0 && r.Seq != b.log[n-1].Seq+1 {
				b.t.Fatalf("place %d after %d", r.Seq, b.log[n-1].Seq)
			}
			b.log = append(b.log, r)
		}
	}
	b.sends = append(b.sends, out.Sends...)
	b.results = append(b.results, out.Results...)
	b.events = append(b.events, out.Events...)
	return b
}

func host(n byte, nonce uint64, disks ...byte) *wire.Hello {
	h := &wire.Hello{Host: dr.HostID{UUID: dr.UUID{n}}, Name: "h" + string('0'+rune(n)), Nonce: nonce, Ack: "async", First: 1, Next: 1}
	for i, d := range disks {
		vm := dr.VMID{UUID: dr.UUID{'v', d}}
		h.VMs = append(h.VMs, wire.HelloVM{Config: dr.VMConfig{ID: vm},
			Disks: []wire.HelloDisk{{Index: uint16(i), Disk: dr.Disk{ID: dr.DiskID{UUID: dr.UUID{'d', d}}, VM: vm, Size: 1 << 20}}}})
	}
	return h
}

func (b *bench) attach(c ConnID, h *wire.Hello) *wire.Welcome {
	b.t.Helper()
	b.core.Attach(c, h, b.now)
	b.drain()
	for i := len(b.sends) - 1; i >= 0; i-- {
		if m := b.sends[i]; m.Conn == c && m.Type == wire.TypeWelcome {
			return m.Welcome
		}
	}
	b.t.Fatalf("connection %d is not welcome: %+v", c, b.sends[len(b.sends)-1].Refuse)
	return nil
}

// live attaches a host, ends its replay and syncs its disks.
func (b *bench) live(c ConnID, h *wire.Hello) *wire.Welcome {
	b.t.Helper()
	w := b.attach(c, h)
	b.core.ReplayEnd(c, b.now)
	next := h.Next
	for _, i := range w.Unsynced {
		b.frame(c, record.Record{Kind: record.SyncEnd, Disk: i, HostSeq: next})
		next++
	}
	return w
}

func zero(hostSeq dr.HostSeq, place dr.Seq) record.Record {
	return record.Record{Kind: record.Zero, Length: dr.BlockSize, HostSeq: hostSeq, Seq: place}
}

func (b *bench) frame(c ConnID, recs ...record.Record) {
	b.t.Helper()
	b.core.Frame(c, &Frame{Recs: recs}, b.now)
	b.drain()
}

func (b *bench) last(t wire.Type) Send {
	b.t.Helper()
	for i := len(b.sends) - 1; i >= 0; i-- {
		if b.sends[i].Type == t {
			return b.sends[i]
		}
	}
	b.t.Fatalf("no frame of type %d was sent", t)
	return Send{}
}

// recovered rebuilds the state from the log up to seq, as a restart does.
func (b *bench) recovered(upTo dr.Seq) *State {
	b.t.Helper()
	st := NewState()
	for i := range b.log {
		if b.log[i].Seq <= upTo {
			if err := st.Apply(&b.log[i]); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	return st
}

func (b *bench) refusal(c ConnID) *wire.Refuse {
	for _, m := range b.sends {
		if m.Conn == c && m.Type == wire.TypeRefuse {
			return m.Refuse
		}
	}
	return nil
}

func (b *bench) cut() dr.CheckpointID {
	b.t.Helper()
	id, err := b.core.Cut(dr.CrashConsistent, "", b.now)
	if err != nil {
		b.t.Fatal(err)
	}
	b.drain()
	return id
}

func TestMergeRestoresPlacesAndFillsHoles(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 1))
	b.live(2, host(2, 7, 2))
	end := b.core.state.Last
	// Five records get places, alternating; then the DRVA forgets them.
	b.frame(1, zero(2, 0))
	b.frame(2, zero(2, 0))
	b.cut() // a place nobody will replay; hold: not yet placed
	b.frame(1, zero(3, 0))
	r := newBench(t, b.recovered(end))
	h1, h2 := host(1, 7, 1), host(2, 7, 2)
	h1.First, h1.Next, h2.First, h2.Next = 2, 5, 2, 3
	r.attach(1, h1)
	r.frame(1, zero(2, end+1), zero(3, end+4), zero(4, 0))
	if len(r.log) != 0 {
		t.Fatal("placed before the other known host is there")
	}
	r.core.ReplayEnd(1, r.now)
	w := r.attach(2, h2)
	if !w.Known || len(w.Unsynced) != 0 {
		t.Errorf("welcome %+v", w)
	}
	r.frame(2, zero(2, end+2))
	r.core.ReplayEnd(2, r.now)
	r.drain()
	var got []string
	for _, x := range r.log {
		got = append(got, fmt.Sprintf("%v/%d", x.Kind, x.Session))
	}
	want := "zero/1 zero/2 pad/0 zero/1 meta/0 meta/0 zero/1"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("order after the restart: %s, want %s", s, want)
	}
	if r.events[len(r.events)-1] != (Event{Kind: ReplayDone, Count: 1}) {
		t.Errorf("events %+v", r.events)
	}
}

func TestLostHostLosesItsSyncAndDelaysNobodyLonger(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 1))
	b.live(2, host(2, 7, 2))
	r := newBench(t, b.recovered(b.core.state.Last))
	h1 := host(1, 7, 1)
	h1.First, h1.Next = 2, 2
	r.attach(1, h1)
	r.core.ReplayEnd(1, r.now)
	if _, err := r.core.Cut(dr.CrashConsistent, "", r.now); !errs.Is(err, errs.Unavailable) {
		t.Errorf("cut during the merge: %v", err)
	}
	at, ok := r.core.Deadline()
	if !ok || at != r.now.Add(DefaultReplayLimit) {
		t.Errorf("deadline %v %v", at, ok)
	}
	r.now = at
	r.core.Tick(at)
	r.drain()
	if r.events[0].Kind != HostLost || r.events[1].Kind != DiskSuspended {
		t.Errorf("events %+v", r.events)
	}
	r.cut()
	r.core.Confirm(1, wire.Confirm{Round: r.last(wire.TypeMark).Round, OK: true}, r.now)
	r.drain()
	// What the log holds of the lost host is offered, for the last time.
	alone := r.results[0]
	if ok, why := alone.Recoverable(); !ok || alone.Scope != dr.Partial || len(alone.Missing) != 2 {
		t.Errorf("checkpoint at the end of the merge: %+v, %s", alone, why)
	}
	if cp := r.results[1]; cp.ID != alone.ID+1 || cp.Scope != dr.Partial || len(cp.Missing) != 1 || cp.Missing[0].UUID != (dr.UUID{'v', 2}) {
		t.Errorf("checkpoint %+v", cp)
	}
	// It comes late: what it kept is taken, and its disk syncs anew.
	h2 := host(2, 7, 2)
	h2.First, h2.Next = 2, 3
	if w := r.attach(2, h2); len(w.Unsynced) != 1 || !w.Known {
		t.Errorf("welcome %+v", w)
	}
}

func TestUnresolvedCheckpointBecomesPartial(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 1))
	id := b.cut() // mark: placed, not confirmed
	r := newBench(t, b.recovered(b.core.state.Last))
	h := host(1, 7, 1)
	h.First, h.Next = 2, 2
	r.attach(1, h)
	r.core.ReplayEnd(1, r.now)
	r.drain()
	if len(r.results) != 1 || r.results[0].ID != id || r.results[0].Scope != dr.Partial || len(r.results[0].Missing) != 1 {
		t.Errorf("results %+v", r.results)
	}
	if next := r.cut(); next != id+1 {
		t.Errorf("next checkpoint is %d after %d", next, id)
	}
}

func TestMarkAnswerDoesNotCoverWritesTrackedBehindTheCut(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 1))
	b.cut()
	b.frame(1, record.Record{Kind: record.TrackBegin, HostSeq: 2})
	b.core.Confirm(1, wire.Confirm{Round: b.last(wire.TypeMark).Round, OK: true}, b.now)
	b.drain()
	if cp := b.results[0]; cp.Scope != dr.Partial || len(cp.Missing) != 1 {
		t.Errorf("a cut before the TrackBegin is %v", cp.Scope)
	}
}

func TestHoldRoundCutsWhenAllMarkersAreHere(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 1))
	b.live(2, host(2, 7, 2))
	b.cut()
	round := b.last(wire.TypeHold).Round
	marker := func(n wire.Round) record.Record { return record.Record{Kind: record.Marker, Offset: uint64(n)} }
	b.frame(1, zero(2, 0), marker(round))
	b.frame(2, marker(round-1)) // of a round that is over
	if n := b.log[len(b.log)-1].Kind; n == record.Checkpoint {
		t.Fatal("cut before the second marker")
	}
	b.frame(2, marker(round))
	if n := b.log[len(b.log)-1].Kind; n != record.Checkpoint {
		t.Fatalf("last record is %v", n)
	}
	for c := ConnID(1); c <= 2; c++ {
		b.core.Confirm(c, wire.Confirm{Round: round, OK: true}, b.now)
	}
	b.drain()
	if b.results[0].Scope != dr.Group {
		t.Errorf("%+v", b.results[0])
	}
	// All markers are here, but one hold ended before Release came.
	b.cut()
	round = b.last(wire.TypeHold).Round
	b.frame(1, marker(round))
	b.frame(2, marker(round))
	b.core.Confirm(1, wire.Confirm{Round: round, OK: true}, b.now)
	b.core.Confirm(2, wire.Confirm{Round: round, Reason: wire.ReasonReleased}, b.now)
	b.drain()
	if cp := b.results[1]; cp.Scope != dr.Partial || len(cp.Missing) != 0 {
		t.Errorf("hold that ended early: %v, missing %v", cp.Scope, cp.Missing)
	}
	// A refused hold discards the next round at once; VMs stay covered.
	b.cut()
	b.core.Confirm(2, wire.Confirm{Round: b.last(wire.TypeHold).Round, Reason: wire.ReasonBusy}, b.now)
	b.drain()
	b.core.Confirm(1, wire.Confirm{Round: b.last(wire.TypeRelease).Round, OK: true}, b.now)
	b.drain()
	if cp := b.results[2]; cp.Scope != dr.Partial || len(cp.Missing) != 0 {
		t.Errorf("discarded round: %v, missing %v", cp.Scope, cp.Missing)
	}
	// Markers that do not come in time do the same, by the clock.
	b.cut()
	for range 2 {
		at, _ := b.core.Deadline()
		b.now = at
		b.core.Tick(at)
		b.drain()
	}
	if cp := b.results[3]; cp.Scope != dr.Partial || len(cp.Missing) != 2 {
		t.Errorf("silent round: %v, missing %v", cp.Scope, cp.Missing)
	}
}

func TestDiskChangesHands(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 1, 2))
	b.core.Attach(2, host(2, 7, 2), b.now)
	b.drain()
	if r := b.refusal(2); r == nil || r.Kind != errs.Conflict || r.Remedy == "" || !strings.Contains(r.Message, "h1") || !strings.Contains(r.Message, "h2") {
		t.Fatalf("refusal %+v", r)
	}
	release := hostDiskRecord(OpRelease, 1, 4)
	b.frame(1, zero(3, 0), release)
	h := host(1, 7, 1)
	h.First, h.Next = 5, 5
	b.attach(1+10, h) // without the disk
	if w := b.attach(3, vouching(host(2, 8, 2), wire.HelloResume{Runs: []uint64{7}, Clean: true})); len(w.Unsynced)+len(w.Resumed) != 0 {
		t.Errorf("handed over clean, yet unsynced: %+v", w)
	}
	b.core.Detach(3, b.now)
	if w := b.attach(4, host(3, 9, 2)); len(w.Unsynced) != 1 {
		t.Errorf("taken from a host that is away, yet synced: %+v", w)
	}
	if got, want := b.recovered(b.core.state.Last), b.core.state; !reflect.DeepEqual(disksOf(got), disksOf(want)) {
		t.Errorf("the log tells %+v, the core knows %+v", disksOf(got), disksOf(want))
	}
}

func disksOf(s *State) []DiskBody {
	var b CutBody
	s.snapshot(&b)
	return b.Disks
}

func TestStreamRules(t *testing.T) {
	for name, recs := range map[string][]record.Record{
		"gap":              {zero(3, 0)},
		"falling":          {zero(2, 0), zero(2, 0)},
		"unknown disk":     {{Kind: record.Zero, Disk: 9, Length: 4096, HostSeq: 2}},
		"beyond the disk":  {{Kind: record.Zero, Offset: 1 << 20, Length: 4096, HostSeq: 2}},
		"offset wraps":     {{Kind: record.Zero, Offset: ^uint64(0) &^ 4095, Length: 4096, HostSeq: 2}},
		"forged cut":       {{Kind: record.Checkpoint, HostSeq: 2}},
		"forged session":   {{Kind: record.Session, HostSeq: 2}},
		"broken meta":      {{Kind: record.Meta, HostSeq: 2}},
		"empty disk entry": {{Kind: record.Disk, HostSeq: 2}},
		"early marker":     {{Kind: record.Marker}, zero(2, 0)},
	} {
		b := newBench(t, NewState())
		b.live(1, host(1, 7, 1))
		before := len(b.log)
		b.frame(1, recs...)
		if r := b.refusal(1); r == nil || r.Kind != errs.Invalid || len(b.log) != before {
			t.Errorf("%s: refusal %+v, %d records placed", name, r, len(b.log)-before)
		}
	}
}

func TestReplayIsTakenOnce(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 1))
	b.frame(1, zero(2, 0), zero(3, 0))
	b.core.Detach(1, b.now)
	h := host(1, 7, 1)
	h.First, h.Next = 2, 5
	b.attach(2, h)
	n := len(b.log)
	b.frame(2, zero(2, 0), zero(3, 0), zero(4, 0))
	if got := b.log[n:]; len(got) != 1 || got[0].HostSeq != 4 {
		t.Errorf("placed again: %+v", got)
	}
	// A host that kept less than the log lacks must sync anew.
	b.core.Detach(2, b.now)
	h.First, h.Next = 7, 7
	if w := b.attach(3, h); w.Known || len(w.Unsynced) != 1 {
		t.Errorf("a gap goes unnoticed: %+v", w)
	}
}

func TestDurableIsToldOnce(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 1))
	b.frame(1, zero(2, 0))
	b.frame(1, zero(3, 0))
	n := len(b.sends)
	b.core.Durable(b.core.state.Last)
	b.drain()
	b.core.Durable(b.core.state.Last)
	b.drain()
	if got := b.sends[n:]; len(got) != 1 || got[0].Durable != 3 {
		t.Errorf("told %+v", got)
	}
}

func TestPauseParksHellosAndFrames(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 1))
	b.core.Pause(true, b.now)
	n := len(b.log)
	b.frame(1, zero(2, 0))
	b.core.Attach(2, host(2, 7, 2), b.now)
	b.drain()
	if _, err := b.core.Cut(dr.CrashConsistent, "", b.now); !errs.Is(err, errs.Unavailable) {
		t.Errorf("cut while paused: %v", err)
	}
	if len(b.log) != n || b.core.Queued(1) != 1 {
		t.Errorf("%d records placed while paused", len(b.log)-n)
	}
	b.core.Pause(false, b.now)
	b.drain()
	if b.log[n].HostSeq != 2 || b.last(wire.TypeWelcome).Conn != 2 {
		t.Errorf("after the pause: %+v", b.log[n:])
	}
}

func TestInheritedDisksAreLogged(t *testing.T) {
	st := NewState()
	cp := &dr.Checkpoint{ID: 9, Seq: 90, Disks: []dr.CheckpointDisk{{ID: dr.DiskID{UUID: dr.UUID{'d', 1}}, VM: dr.VMID{UUID: dr.UUID{'v', 1}}, Size: 4096, Synced: true}}}
	st.Inherit(dr.TimelineID{}, 99, cp)
	b := newBench(t, st)
	if len(b.log) != 1 || b.log[0].Seq != 100 || b.log[0].Kind != record.Disk {
		t.Fatalf("%+v", b.log)
	}
	if id := b.cut(); id != 10 {
		t.Errorf("checkpoint %d after 9", id)
	}
	if cp := b.results[0]; cp.Scope != dr.Partial || len(cp.Missing) != 1 {
		t.Errorf("%+v", cp)
	}
}

func fuzzSeeds() []record.Record {
	d := (&disk{Disk: dr.Disk{ID: dr.DiskID{UUID: dr.UUID{1}}, VM: dr.VMID{UUID: dr.UUID{2}}, Size: 4096}, index: 3}).body()
	return []record.Record{
		mustEncode(record.Checkpoint, &CutBody{ID: 1, Mode: ModeHold, Disks: []DiskBody{d}}),
		mustEncode(record.CheckpointResult, &ResultBody{ID: 1, Scope: "partial", Missing: []dr.VMID{{UUID: dr.UUID{2}}}}),
		mustEncode(record.Session, &SessionBody{Session: 1, Host: dr.HostID{UUID: dr.UUID{4}}, Ack: "sync", Binds: []Bind{{0, 3}}}),
		mustEncode(record.Disk, &d),
		mustEncode(record.Meta, &dr.VMConfig{ID: dr.VMID{UUID: dr.UUID{2}}}),
	}
}

// FuzzApply: no payload panics; what applies is what this package would write.
func FuzzApply(f *testing.F) {
	for _, r := range fuzzSeeds() {
		f.Add(uint8(r.Kind), uint16(3), r.Payload[:r.Length])
	}
	f.Add(uint8(record.Disk), uint16(0), []byte(`{"op":"release"}`))
	f.Fuzz(func(t *testing.T, kind uint8, index uint16, payload []byte) {
		r := record.Record{Kind: record.Kind(kind), Disk: index, Seq: 5, Session: 1, Length: uint32(len(payload)), Payload: payload}
		_, _ = decodeHostDisk(&r)
		st := NewState()
		err := st.Apply(&r)
		var e *errs.Error
		if err != nil && (!errors.As(err, &e) || e.Kind != errs.Corrupt || errs.RemedyOf(err) == "") {
			t.Fatalf("%v", err)
		}
		if err == nil {
			core := New(Config{}, st, time.Unix(1, 0))
			core.Tick(time.Unix(100, 0))
			_, _ = core.Cut(dr.CrashConsistent, "", time.Unix(101, 0))
			core.Tick(time.Unix(200, 0))
		}
	})
}

func TestPayloadsRoundTrip(t *testing.T) {
	st := NewState()
	for _, r := range fuzzSeeds() {
		r.Disk, r.Session = 3, 0
		if err := st.Apply(&r); err != nil {
			t.Errorf("%v: %v", r.Kind, err)
		}
	}
}

// FuzzFrames: whatever a host sends, the core neither panics nor breaks the
// density of the order.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{2, 0, 2, 0, 13, 0, 3, 1, 7, 0, 4, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		b := newBench(t, NewState())
		b.live(1, host(1, 7, 1))
		b.live(2, host(2, 7, 2))
		script = script[:min(len(script), 1200)] // restarts read the whole log: keep it short
		for i := 0; i+4 <= len(script); i += 4 {
			s := script[i : i+4]
			r := record.Record{Kind: record.Kind(s[0] % 16), Flags: record.Flags(s[1]), Disk: uint16(s[1] >> 6), HostSeq: dr.HostSeq(s[2]), Seq: dr.Seq(s[3])}
			if r.Kind == record.Data || r.Kind == record.Zero || r.Kind == record.Discard {
				r.Length = 4096
			}
			if r.Kind == record.Data {
				r.Payload = make([]byte, 4096)
			}
			c := ConnID(1 + s[1]%4)
			switch s[3] % 8 {
			case 0:
				h := host(byte(1+c%2), uint64(7+s[2]%2), byte(1+c%2))
				h.First, h.Next = dr.HostSeq(1+s[2]%4), dr.HostSeq(1+s[2]%8)
				b.core.Attach(c, h, b.now)
			case 1:
				b.core.ReplayEnd(c, b.now)
			case 2:
				b.core.Detach(c, b.now)
			case 3:
				_, _ = b.core.Cut(dr.CrashConsistent, "", b.now)
			case 4:
				b.now = b.now.Add(time.Second)
				b.core.Tick(b.now)
			case 5:
				// A crash loses the end of the log.
				upTo := b.core.state.Last - min(b.core.state.Last, dr.Seq(s[1]%8))
				kept := slices.DeleteFunc(b.log, func(r record.Record) bool { return r.Seq > upTo })
				b.log = kept
				r := newBench(t, b.recovered(upTo))
				r.log, r.now = append(kept, r.log...), b.now
				b = r
			default:
				b.core.Frame(c, &Frame{Recs: []record.Record{r}}, b.now)
			}
			b.drain()
		}
	})
}
