package ondemand

import (
	"bytes"
	"runtime"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// TestLostStore: reads of absent blocks wait for the store for the limit and are
// then errors; what is here goes on; a store that is back is noticed; nothing
// reads as zeroes meanwhile.
func TestLostStore(t *testing.T) {
	sky := fault.NewSky(mem.New(), 1, fault.Weather{}, nil)
	w := newWorld(t, sky, seeded(t), 6, 2<<20)
	fs := durabletest.New(durabletest.Config{})
	check(t, durable.MkdirAll(fs, "/d"))
	const limit = 500 * time.Millisecond
	s := w.open(t, fs, "/d", Options{StallLimit: limit})
	dev := s.Device(w.img.Disks[0].ID)
	have := bytes.Repeat([]byte{9}, 64<<10)
	write(t, dev, have, 0, 0)
	sky.Change(fault.Weather{Storm: 1})

	p := bytes.Repeat([]byte{0xaa}, 128<<10)
	began := time.Now()
	err := do(dev, req{Kind: nbd.Read, Offset: 512 << 10, Length: int64(len(p)), Data: p})
	if took := time.Since(began); !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) == "" || took < limit {
		t.Fatalf("%v after %v", err, took)
	}
	if p := s.Progress(); p.Stalled.IsZero() || p.Why == nil {
		t.Errorf("progress does not say that it is stalled")
	}
	check(t, do(dev, req{Kind: nbd.Read, Length: 64 << 10, Data: p[:64<<10]}))
	same(t, "what is here", p[:64<<10], have)
	// A write that cuts blocks needs them; one that does not needs nothing.
	cut := s.find(w.img.Disks[0].ID).firstOf(512 << 10)
	if err := do(dev, req{Kind: nbd.Write, Offset: cut + 1, Length: 5, Data: []byte("lost!")}); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("a cutting write: %v", err)
	}
	write(t, dev, have, 1<<20, nbd.FUA)

	check(t, s.Close())

	// A store that comes back in time is only slow.
	s = w.open(t, fs, "/d", Options{})
	dev = s.Device(w.img.Disks[0].ID)
	read, run := make(chan error), make(chan error)
	go func() {
		read <- do(dev, req{Kind: nbd.Read, Offset: 512 << 10, Length: int64(len(p)), Data: p})
	}()
	go func() { run <- s.Run(t.Context()) }()
	for storms := sky.Count("Storm") + 3; sky.Count("Storm") < storms; {
		runtime.Gosched() // until both have been refused
	}
	sky.Change(fault.Weather{})
	check(t, <-read)
	same(t, "after the store is back", p, w.disks[0][512<<10:][:len(p)])
	check(t, <-run)
	if p := s.Progress(); !p.Whole || !p.Stalled.IsZero() {
		t.Errorf("progress %+v", p)
	}
	copy(w.disks[0], have)
	copy(w.disks[0][1<<20:], have)
	same(t, "the disk", whole(t, dev), w.disks[0])
	check(t, s.Close())
}

// firstOf is where the first block at or after off is that has content.
func (d *disk) firstOf(off int64) int64 {
	for ; off < d.size; off += dr.BlockSize {
		if d.content[off/dr.ChunkSize]>>(off%dr.ChunkSize/dr.BlockSize)&1 == 1 {
			return off
		}
	}
	panic("the world has no content")
}

// TestDamage: what lies damaged is an error of its readers and of Run, which
// fetches all the rest; what was damaged on the way is read again.
func TestDamage(t *testing.T) {
	rng := seeded(t)
	st := mem.New()
	w := newWorld(t, st, rng, 6, 2<<20)
	sky := fault.NewSky(st, rng.Uint64(), fault.Weather{Flip: 0.2, Short: 0.1, Lost: 0.1}, nil)
	flaky := *w
	flaky.c = reopen(t, sky, w)
	fs := durabletest.New(durabletest.Config{})
	check(t, durable.MkdirAll(fs, "/d"))
	s := flaky.open(t, fs, "/d", Options{})
	dev := s.Device(w.img.Disks[0].ID)
	for s.Run(t.Context()) != nil { // three damaged tries in a row happen
	}
	same(t, "the disk", whole(t, dev), w.disks[0])
	check(t, s.Discard())

	last := w.img.Objects[len(w.img.Objects)-1]
	st.Damage(last.Key, func(b []byte) []byte { b[5000] ^= 4; return b })
	s = w.open(t, fs, "/d", Options{})
	dev = s.Device(w.img.Disks[0].ID)
	if err := s.Run(t.Context()); !errs.Is(err, errs.Corrupt) || errs.RemedyOf(err) == "" {
		t.Fatalf("run: %v", err)
	}
	bad := 0
	for off := int64(0); off < dev.Size(); off += 4096 {
		p := make([]byte, 4096)
		if err := do(dev, req{Kind: nbd.Read, Offset: off, Length: 4096, Data: p}); errs.Is(err, errs.Corrupt) {
			bad++
		} else if check(t, err); !bytes.Equal(p, w.disks[0][off:off+4096]) {
			t.Fatalf("block %d is not what was captured", off/4096)
		}
	}
	if bad == 0 || bad > 16 {
		t.Errorf("%d blocks are lost by one flipped bit", bad)
	}
	check(t, s.Discard())
}
