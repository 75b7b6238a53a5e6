package ondemand

import (
	"testing"
	"time"

	"holdfast/internal/boottrace"
	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/nbd"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// boot reads as a guest that boots; it returns how many of its reads the store
// had to be waited for, which in a storm is an error.
func boot(s *Set, dev nbd.Disk) (stalled int) {
	for _, off := range []int64{0, 1 << 20, 300 << 10, 3 << 20, 2<<20 + 4096, 700 << 10} {
		if do(dev, req{Kind: nbd.Read, Offset: off, Length: 8192, Data: make([]byte, 8192)}) != nil {
			stalled++
		}
	}
	return stalled
}

// TestTraceIsFetchedFirst: what one boot read another does not wait for, in whose
// trace it is: not one of its reads needs a store that is lost by then. Without
// the trace they do. Traces of other disks and beyond the disk's end are nothing.
func TestTraceIsFetchedFirst(t *testing.T) {
	sky := fault.NewSky(mem.New(), 1, fault.Weather{}, nil)
	w := newWorld(t, sky, seeded(t), 6, 4<<20)
	fs := durabletest.New(durabletest.Config{})
	for _, dir := range []string{"/first", "/with", "/without"} {
		check(t, durable.MkdirAll(fs, dir))
	}
	id := w.img.Disks[0].ID
	first := w.open(t, fs, "/first", Options{})
	if n := boot(first, first.Device(id)); n != 0 {
		t.Fatalf("%d reads failed", n)
	}
	trace := first.Trace(func(dr.DiskID) bool { return true })
	check(t, first.Close())
	if len(trace.Chunks) != 7 || trace.Chunks[0].Chunk != 0 || trace.Chunks[3].Chunk != 48 {
		t.Fatalf("recorded %+v", trace)
	}
	foreign := Trace{Chunks: []boottrace.Chunk{{Disk: dr.DiskID{UUID: dr.NewUUID()}, Chunk: 1}, {Disk: id, Chunk: 64}, {Disk: id, Chunk: 1<<30 - 1}}}
	const limit = 50 * time.Millisecond
	stalls := map[string]int{}
	for dir, list := range map[string][]Trace{"/with": {foreign, trace}, "/without": {foreign}} {
		s := w.open(t, fs, dir, Options{StallLimit: limit})
		for _, tr := range list {
			s.prefetch(t.Context(), tr)
		}
		sky.Change(fault.Weather{Storm: 1})
		stalls[dir] = boot(s, s.Device(id))
		sky.Change(fault.Weather{})
		check(t, s.Close())
	}
	if stalls["/with"] != 0 || stalls["/without"] == 0 {
		t.Errorf("reads that waited in vain: %v", stalls)
	}
	s := w.open(t, fs, "/with", Options{Prefetch: []Trace{foreign, trace, {}}})
	check(t, s.Run(t.Context()))
	same(t, "the disk", whole(t, s.Device(id)), w.disks[0])
	check(t, s.Close())
}
