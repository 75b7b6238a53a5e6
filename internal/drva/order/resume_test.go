package order

import (
	"reflect"
	"slices"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// vouching adds to every disk of h what a sidecar says.
func vouching(h *wire.Hello, r wire.HelloResume) *wire.Hello {
	for i := range h.VMs {
		for j := range h.VMs[i].Disks {
			h.VMs[i].Disks[j].Resume = &r
		}
	}
	return h
}

func hostDiskRecord(op string, index uint16, hs dr.HostSeq) record.Record {
	r := mustEncode(record.Disk, struct {
		Op string `json:"op"`
	}{op})
	r.Disk, r.HostSeq = index, hs
	return r
}

// restart is a core that goes on after b's log.
func (b *bench) restart() *bench {
	b.t.Helper()
	r := newBench(b.t, b.recovered(b.core.state.Last))
	r.log, r.now = slices.Clone(b.log), b.now
	r.drain()
	return r
}

// lapse lets the wait for hosts after a restart pass.
func (b *bench) lapse() *bench {
	b.t.Helper()
	if at, ok := b.core.Deadline(); ok {
		b.now = at
	}
	b.core.Tick(b.now)
	return b.drain()
}

// theDisk is the only disk as the core knows it.
func (b *bench) theDisk() DiskBody {
	b.t.Helper()
	d := disksOf(b.core.state)
	if len(d) != 1 {
		b.t.Fatalf("%d disks", len(d))
	}
	if got := disksOf(b.recovered(b.core.state.Last)); !reflect.DeepEqual(got, d) {
		b.t.Fatalf("the log tells %+v, the core knows %+v", got, d)
	}
	return d[0]
}

// scopeNow cuts a checkpoint that every host confirms.
func (b *bench) scopeNow(conns ...ConnID) dr.Checkpoint {
	b.t.Helper()
	b.cut()
	for _, c := range conns {
		b.core.Confirm(c, wire.Confirm{Round: b.last(wire.TypeMark).Round, OK: true}, b.now)
	}
	b.drain()
	return b.results[len(b.results)-1].Checkpoint
}

// TestRunGoesOnBySidecar: the disk is unsynced from the binding until SyncEnd,
// and nothing else has to be copied, on whichever host.
func TestRunGoesOnBySidecar(t *testing.T) {
	for name, next := range map[string]*wire.Hello{"same host": host(1, 8, 1), "another host": host(2, 8, 1)} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, NewState())
			b.live(1, host(1, 7, 1))
			b.frame(1, zero(2, 0), zero(3, 0))
			if cp := b.scopeNow(1); cp.Scope != dr.Group {
				t.Fatalf("before: %v", cp.Scope)
			}
			b.core.Detach(1, b.now)
			w := b.attach(2, vouching(next, wire.HelloResume{Runs: []uint64{7}, Durable: 3}))
			b.core.ReplayEnd(2, b.now)
			if len(w.Unsynced) != 0 || !slices.Equal(w.Resumed, []uint16{0}) {
				t.Fatalf("welcome %+v", w)
			}
			if cp := b.scopeNow(2); cp.Scope != dr.Partial || len(cp.Missing) != 1 {
				t.Errorf("before SyncEnd: %v, missing %v", cp.Scope, cp.Missing)
			}
			b.frame(2, record.Record{Kind: record.SyncEnd, HostSeq: 1})
			if cp := b.scopeNow(2); cp.Scope != dr.Group {
				t.Errorf("after SyncEnd: %v", cp.Scope)
			}
			b.theDisk()
		})
	}
}

// TestSidecarIsRefused: every way in which a sidecar can be stale.
func TestSidecarIsRefused(t *testing.T) {
	sound := wire.HelloResume{Runs: []uint64{7}, Durable: 3}
	for name, x := range map[string]struct {
		before func(b *bench)
		say    wire.HelloResume
		shape  func(h *wire.Hello)
		want   bool
	}{
		"sound":                 {say: sound, want: true},
		"runner-up":             {say: wire.HelloResume{Runs: []uint64{5, 7}, Durable: 900}, want: true},
		"another run":           {say: wire.HelloResume{Runs: []uint64{6}}},
		"no run":                {say: wire.HelloResume{}},
		"too many runs":         {say: wire.HelloResume{Runs: []uint64{7, 1, 2, 3, 4}}},
		"the log was set back":  {say: wire.HelloResume{Runs: []uint64{7}, Durable: 4}},
		"another size":          {say: sound, shape: func(h *wire.Hello) { h.VMs[0].Disks[0].Disk.Size *= 2 }},
		"taken over in between": {say: sound, before: func(b *bench) { b.live(5, host(1, 77, 1)); b.core.Detach(5, b.now) }},
		"void": {say: sound, before: func(b *bench) {
			b.attach(6, with(host(1, 7, 1), 4))
			b.frame(6, hostDiskRecord(OpVoid, 0, 4))
			b.core.Detach(6, b.now)
		}},
		"its run was given up":   {say: sound, before: func(b *bench) { b.attach(6, with(host(1, 7, 1), 9)); b.core.Detach(6, b.now) }},
		"unprotected in between": {say: sound, before: func(b *bench) { b.attach(6, with(host(1, 7), 4)); b.core.Detach(6, b.now) }},
		"tracking, not yet copied": {say: sound, before: func(b *bench) {
			b.attach(6, with(host(1, 7, 1), 4))
			b.frame(6, record.Record{Kind: record.TrackBegin, HostSeq: 4})
			b.core.Detach(6, b.now)
		}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, NewState())
			b.live(1, host(1, 7, 1))
			b.frame(1, zero(2, 0), zero(3, 0))
			b.core.Detach(1, b.now)
			if x.before != nil {
				x.before(b)
			}
			h := vouching(host(1, 8, 1), x.say)
			if x.shape != nil {
				x.shape(h)
			}
			w := b.attach(2, h)
			if (len(w.Resumed) == 1) != x.want || len(w.Resumed)+len(w.Unsynced) != 1 {
				t.Errorf("welcome %+v", w)
			}
			if got, want := disksOf(b.recovered(b.core.state.Last)), disksOf(b.core.state); !reflect.DeepEqual(got, want) {
				t.Errorf("the log tells %+v, the core knows %+v", got, want)
			}
		})
	}
}

// with sets where a host's stream stands.
func with(h *wire.Hello, at dr.HostSeq) *wire.Hello {
	h.First, h.Next = at, at
	return h
}

// TestSidecarOutlivesRestarts: a DRVA that gave a host up, or died between the
// records of a binding, accepts the sidecar afterwards all the same.
func TestSidecarOutlivesRestarts(t *testing.T) {
	sound := wire.HelloResume{Runs: []uint64{7}, Durable: 3}
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 1))
	b.frame(1, zero(2, 0), zero(3, 0))
	lost := b.restart().lapse()
	if d := lost.theDisk(); d.Synced || !d.Suspended {
		t.Fatalf("given up: %+v", d)
	}
	again := lost.restart().lapse()
	if w := again.attach(2, vouching(host(2, 8, 1), sound)); len(w.Resumed) != 1 {
		t.Errorf("after the host was given up twice: %+v", w)
	}
	// During the merge the host is still waited for, and given up when it is
	// over.
	during := b.restart()
	if w := during.attach(2, vouching(host(2, 8, 1), sound)); len(w.Resumed) != 1 {
		t.Errorf("during the merge: %+v", w)
	}
	during.core.ReplayEnd(2, during.now)
	during.lapse()
	if d := during.theDisk(); d.Synced || d.Syncing != d.Owner || during.refusal(2) != nil {
		t.Errorf("after the merge: %+v, refusal %+v", d, during.refusal(2))
	}
	// Every prefix of the log that ends inside the binding.
	from := b.core.state.Last
	b.core.Detach(1, b.now)
	b.attach(2, vouching(host(2, 8, 1), sound))
	for last := from; last <= b.core.state.Last; last++ {
		r := newBench(t, b.recovered(last))
		r.lapse()
		said := wire.HelloResume{Runs: []uint64{7, 8}, Durable: 3}
		w := r.attach(3, vouching(host(3, 9, 1), said))
		if len(w.Resumed) != 1 {
			t.Errorf("the log ends at %d of %d..%d: %+v, disks %+v", last, from, b.core.state.Last, w, disksOf(r.core.state))
		}
		for _, d := range disksOf(r.core.state) {
			if d.Synced {
				t.Errorf("the log ends at %d: synced before anything was copied", last)
			}
		}
	}
}

// TestReleasedDisk: clean needs no copy, not clean only what is open, and
// another run's word counts for nothing.
func TestReleasedDisk(t *testing.T) {
	for name, x := range map[string]struct {
		say               *wire.HelloResume
		unsynced, resumed int
	}{
		"clean":       {&wire.HelloResume{Runs: []uint64{7}, Clean: true}, 0, 0},
		"not clean":   {&wire.HelloResume{Runs: []uint64{7}}, 0, 1},
		"another run": {&wire.HelloResume{Runs: []uint64{6}, Clean: true}, 1, 0},
		"no sidecar":  {nil, 1, 0},
	} {
		b := newBench(t, NewState())
		b.live(1, host(1, 7, 1))
		b.frame(1, zero(2, 0), hostDiskRecord(OpRelease, 0, 3))
		b.core.Detach(1, b.now)
		if waiting, _ := b.restart().core.Merging(); waiting != 0 {
			t.Errorf("%s: a restart waits for a host that has left", name)
		}
		h := host(2, 8, 1)
		if x.say != nil {
			h = vouching(h, *x.say)
		}
		w := b.attach(2, h)
		if len(w.Unsynced) != x.unsynced || len(w.Resumed) != x.resumed {
			t.Errorf("%s: %+v", name, w)
		}
		if d := b.theDisk(); d.Synced != (x.unsynced+x.resumed == 0) {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
