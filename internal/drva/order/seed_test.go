package order

import (
	"reflect"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// TestSeededDisk: what is seeded is in the order and in no checkpoint, survives
// a restart, and is offered to its host, after which nobody seeds it any more.
func TestSeededDisk(t *testing.T) {
	b := newBench(t, NewState())
	b.live(1, host(1, 7, 'a'))
	d := host(2, 8, 'b').VMs[0].Disks[0].Disk
	recs := []record.Record{{Kind: record.Zero, Length: dr.BlockSize}, {Kind: record.Zero, Offset: 8192, Length: dr.BlockSize}}
	if err := b.core.Seed(d, recs); err != nil {
		t.Fatal(err)
	}
	b.drain()
	b.cut()
	b.drain()
	last := &b.log[len(b.log)-1]
	for i := range b.log {
		if b.log[i].Kind == record.Checkpoint {
			last = &b.log[i]
		}
	}
	cp, err := CheckpointOf(last)
	if err != nil || len(cp.Disks) != 1 || cp.Disks[0].ID == d.ID {
		t.Fatalf("checkpoint %+v, %v", cp, err)
	}
	st := NewState()
	for i := range b.log {
		if err := st.Apply(&b.log[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(st.Summary(), b.core.state.Summary()) {
		t.Fatalf("restarted: %v\nwas: %v", st.Summary(), b.core.state.Summary())
	}
	if err := b.core.Seed(d, nil); err != nil { // to go on is allowed
		t.Fatal(err)
	}
	w := b.live(2, host(2, 8, 'b'))
	if len(w.Hashed) != 1 {
		t.Fatalf("%+v", w)
	}
	if err := b.core.Seed(d, recs); !errs.Is(err, errs.Conflict) {
		t.Fatalf("seeded under its host: %v", err)
	}
	if got, seq, _, ok := b.core.Placed(2, 0); !ok || got.ID != d.ID || seq != 1 {
		t.Fatalf("placed %v up to %d, %v", got, seq, ok)
	}
	if _, _, _, ok := b.core.Placed(2, 1); ok {
		t.Fatal("a disk the host does not have is placed")
	}
	for _, x := range disksOf(b.core.state) {
		if x.Seed {
			t.Fatalf("still a seed: %+v", x)
		}
	}
}

// TestPlacedWaitsForTheOrder: while a restart is merged, or a host replays,
// nothing is known of its records.
func TestPlacedWaitsForTheOrder(t *testing.T) {
	b := newBench(t, NewState())
	b.attach(1, host(1, 7, 'a'))
	if _, _, _, ok := b.core.Placed(1, 0); ok {
		t.Fatal("placed before the replay has ended")
	}
	b.core.ReplayEnd(1, b.now)
	b.drain()
	b.core.Pause(true, b.now)
	b.frame(1, zero(1, 0))
	if _, seq, _, ok := b.core.Placed(1, 0); !ok || seq != 0 {
		t.Fatalf("a record that waits counts as placed: %d, %v", seq, ok)
	}
	b.core.Pause(false, b.now)
	b.drain()
	if _, seq, last, ok := b.core.Placed(1, 0); !ok || seq != 1 || last != b.log[len(b.log)-1].Seq {
		t.Fatalf("placed up to %d, last %d, %v", seq, last, ok)
	}
	st := NewState()
	for i := range b.log {
		if err := st.Apply(&b.log[i]); err != nil {
			t.Fatal(err)
		}
	}
	again := newBench(t, st)
	h := host(1, 7, 'a')
	h.Next = 2
	again.attach(1, h)
	if _, _, _, ok := again.core.Placed(1, 0); ok {
		t.Fatal("placed while a restart is merged")
	}
}
