package iofilter

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/boottrace"
	"holdfast/internal/dr"
	"holdfast/internal/nbd"
	"holdfast/internal/wire"
)

// bootRig is a host with a VM of two disks and a DRVA that keeps traces.
type bootRig struct {
	*rig
	want []boottrace.Chunk // first reads, in order
}

func newBootRig(t *testing.T) *bootRig {
	b := &bootRig{rig: newRig(t, dr.Async, 16<<20, 8<<20)}
	b.drva.keeps = true
	b.synced()
	return b
}

// read reads from a disk; counted says that a trace must name it.
func (b *bootRig) read(disk int, off, n int64, counted bool) {
	b.t.Helper()
	b.must(b.submit(disk, nbd.Read, off, n, make([]byte, n)))
	for c := off / dr.ChunkSize; counted && c <= (off+n-1)/dr.ChunkSize; c++ {
		if k := (boottrace.Chunk{Disk: b.o.disks[disk].info.ID, Chunk: uint32(c)}); !slices.Contains(b.want, k) {
			b.want = append(b.want, k)
		}
	}
}

// boots reads as a guest that boots does.
func (b *bootRig) boots() {
	b.t.Helper()
	b.read(0, 0, 512, true)
	for i := range int64(leastBoot) {
		b.read(0, (i*7%200)*dr.ChunkSize+4096, 70<<10, true)
		b.read(1, (i%100)*dr.ChunkSize, 4096, true)
	}
}

func (b *bootRig) told() []wire.BootTrace {
	synctest.Wait()
	b.drva.mu.Lock()
	defer b.drva.mu.Unlock()
	return slices.Clone(b.drva.traces)
}

// TestBootTraces: what a VM reads from its boot sector on is told to the DRVA in
// order, when its time is over or its guest is gone, once; a reader that begins
// elsewhere, or reads little, tells nothing; a DRVA that keeps none hears of none.
func TestBootTraces(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBootRig(t)
		defer b.end()
		leave := []func(){b.o.disks[0].enter(), b.o.disks[1].enter()}
		b.boots()
		if n := len(b.told()); n != 0 {
			t.Fatalf("%d traces before the boot is over", n)
		}
		time.Sleep(boottrace.For + time.Second)
		b.read(0, 15<<20, 4096, false)
		got := b.told()
		if len(got) != 1 || got[0].VM != b.o.disks[0].info.VM || !slices.Equal(got[0].Trace.Chunks, b.want) {
			t.Fatalf("told %d traces, or another than %d chunks", len(got), len(b.want))
		}
		for _, l := range leave {
			l()
		}
		// Again, and gone before the time is over.
		leave = []func(){b.o.disks[0].enter(), b.o.disks[1].enter()}
		b.boots()
		leave[0]()
		if n := len(b.told()); n != 1 {
			t.Fatal("it is over while a disk is in use")
		}
		leave[1]()
		if got := b.told(); len(got) != 2 || !slices.Equal(got[1].Trace.Chunks, b.want) {
			t.Fatalf("%d traces", len(got))
		}
		// A guest that runs already, and a look at the partition table.
		for _, first := range []int64{5 << 20, 0} {
			end := b.o.disks[0].enter()
			b.read(0, first, 512, false)
			for i := range int64(2 * leastBoot) {
				b.read(0, (i%100)*dr.ChunkSize*min(first, 1), 512, false)
			}
			end()
		}
		if n := len(b.told()); n != 2 {
			t.Fatalf("%d traces, of what was no boot too", n)
		}
		if len(b.o.boots.under) != 0 || b.o.disks[0].boot.Load() != nil {
			t.Error("something is still recorded")
		}
	})
}

// TestBootTraceWaitsForItsLink: what ended while there was no link, or none that
// keeps traces, is told later; of many only the youngest.
func TestBootTraceWaitsForItsLink(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBootRig(t)
		defer b.end()
		rejoin := func(keeps bool) {
			b.drva.mu.Lock()
			b.drva.keeps = keeps
			b.drva.mu.Unlock()
			b.drva.conn.kill()
			time.Sleep(time.Minute)
			b.settle(time.Minute)
		}
		rejoin(false)
		for range maxBoots + 3 {
			leave := b.o.disks[0].enter()
			b.read(0, 0, 512, false)
			for i := range int64(leastBoot) {
				b.read(0, i*dr.ChunkSize, 512, false)
			}
			leave()
		}
		if n := len(b.told()); n != 0 {
			t.Fatalf("%d traces told to a DRVA that keeps none", n)
		}
		rejoin(true)
		if n := len(b.told()); n != maxBoots {
			t.Fatalf("%d traces told, want %d", n, maxBoots)
		}
	})
}

// TestReadsCostNothing: neither a read while nothing is recorded nor one that is
// noted allocates.
func TestReadsCostNothing(t *testing.T) {
	r := newRig(t, dr.Async, 16<<20)
	tp := &tap{disk: r.o.disks[0], primary: r.mem[0]}
	op, buf := nbd.NewOp(func(*nbd.Op, error) {}), make([]byte, 4096)
	at := int64(0)
	read := func() {
		op.Kind, op.Offset, op.Length, op.Data = nbd.Read, at%(16<<20), 4096, buf
		at += dr.ChunkSize
		tp.Submit(op)
	}
	for _, recorded := range []bool{false, true} {
		if recorded {
			defer r.o.disks[0].enter()()
			at = 0
			read()
			if b := r.o.disks[0].boot.Load(); b == nil || b.rec.Load() == nil {
				t.Fatal("nothing is recorded")
			}
		}
		if n := testing.AllocsPerRun(500, read); n != 0 {
			t.Errorf("recorded %v: %v allocations a read", recorded, n)
		}
	}
}
