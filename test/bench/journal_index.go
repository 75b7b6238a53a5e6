package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/dr"
	"holdfast/internal/index"
	shapes "holdfast/internal/index/workload"
)

const (
	indexStoreFigure = "index_bytes_per_entry_store"
	indexRAMFigure   = "index_bytes_per_entry_ram"
)

var mergeFigures = []string{"merge_entries_per_s"}

const (
	// largeChunks is a disk of 4 TiB, all of it allocated, in chunks.
	largeChunks = 4 << 40 / dr.ChunkSize
	// mergeRuns is how many runs a merge reads: as many as maintenance lets
	// gather.
	mergeRuns = 12
)

// mergeSpeed merges runs of a month of a busy disk under 2880 checkpoints:
// decoding, the rule and coding. It counts processor time, the collector's
// included, so that what else runs on the machine does not matter much.
func (b *bench) mergeSpeed(ctx context.Context, _ string) ([]figure, error) {
	scale := b.sized(10, 400)
	h := shapes.Busy(1, scale)
	runs, err := h.Runs(mergeRuns)
	if err != nil {
		return nil, err
	}
	var rates []float64
	for round := range b.rounds {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		runtime.GC()
		start, cpu := time.Now(), processorTime()
		m, _, err := mergeBusy(h, runs)
		if err != nil {
			return nil, err
		}
		used := processorTime() - cpu
		if m.In < uint64(len(h.Entries)) || m.Out == 0 || m.Out >= m.In {
			return nil, fmt.Errorf("the merge read %d entries of %d and kept %d", m.In, len(h.Entries), m.Out)
		}
		rates = append(rates, float64(m.In)/used.Seconds())
		fmt.Fprintf(os.Stderr, "round %d  %d entries to %d in %.2f s, %.2f s of processor\n", round+1, m.In, m.Out, time.Since(start).Seconds(), used.Seconds())
	}
	b.remark("merge: %d runs of a month of a busy disk of %d GB (%d entries), 2880 retained checkpoints; entries read per second of processor time, collector included",
		mergeRuns, 200/scale, len(h.Entries))
	return []figure{spread(mergeFigures[0], "entries/s", "one core", bound{">=", 5e6}, rates)}, nil
}

// mergeBusy merges all runs by the rule and returns the parts.
func mergeBusy(h *shapes.History, runs [][][]byte) (*index.Merged, [][]byte, error) {
	cat := &index.Catalog{}
	var parts [][]byte
	w := index.NewWriter(cat, func(p index.Part) error { parts = append(parts, p.Bytes); return nil }, index.WriterOptions{})
	m, err := index.Merge(w, shapes.Sources(cat, runs), index.Rule{Retained: h.Retained, Bottom: true})
	if err == nil {
		err = w.Finish()
	}
	return m, parts, err
}

// processorTime is what the program has used so far.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic("bench: the kernel does not tell our own processor time: " + err.Error())
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// shape is an index of one of the two shapes, resolved.
type shape struct {
	entries   int
	store     float64 // bytes an entry
	ram       float64 // bytes an entry
	resolving time.Duration
}

func (s shape) String() string {
	return fmt.Sprintf("%d entries, %.2f bytes each stored, %.2f in memory", s.entries, s.store, s.ram)
}

// indexBytes measures the index of a disk of 4 TiB that was written once, and
// of a month of a busy disk of 200 GB, thinned. The figures are the worse of
// both.
func (b *bench) indexBytes(ctx context.Context, _ string) ([]figure, error) {
	n := b.sized(largeChunks, 1<<20)
	s := synthetic{chunks: n, versions: 1}
	var parts [][]byte
	if err := s.write(s.plan()[0], func(p index.Part) error { parts = append(parts, p.Bytes); return ctx.Err() }); err != nil {
		return nil, err
	}
	base, err := measureShape(parts, n, index.Disk{ID: syntheticDisk, Size: int64(n) * dr.ChunkSize}, s.last())
	if err != nil {
		return nil, fmt.Errorf("baseline: %w", err)
	}
	parts = nil
	scale := b.sized(1, 400)
	h := shapes.Busy(1, scale)
	runs, err := h.Runs(mergeRuns)
	if err != nil {
		return nil, err
	}
	h.Entries = nil // a gigabyte
	m, parts, err := mergeBusy(h, runs)
	if err != nil {
		return nil, err
	}
	busy, err := measureShape(parts, int(m.Out), h.Disk, h.Retained[len(h.Retained)-1])
	if err != nil {
		return nil, fmt.Errorf("busy disk: %w", err)
	}
	b.remark("index of a baseline of %d GiB: %v", int64(n)*dr.ChunkSize/gib, base)
	b.remark("index of 30 days of a busy disk of %d GB, thinned to 2880 checkpoints: %v", 200/scale, busy)
	const against = "the worse of a full baseline and a busy month"
	return []figure{
		spread(indexStoreFigure, "bytes", against+", before sealing (4 KiB a part)", bound{"<=", 6}, []float64{max(base.store, busy.store)}),
		spread(indexRAMFigure, "bytes", against+", held when the last entry is resolved", bound{"<=", 16}, []float64{max(base.ram, busy.ram)}),
	}, nil
}

// measureShape resolves a run and measures it and the memory that takes.
func measureShape(parts [][]byte, entries int, disk index.Disk, seq dr.Seq) (shape, error) {
	s := shape{entries: entries}
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	s.store = float64(size) / float64(entries)
	before := heap()
	start := time.Now()
	cat := &index.Catalog{}
	r, err := index.NewResolver(cat, seq, []index.Disk{disk})
	if err == nil {
		err = r.Add(shapes.Sources(cat, [][][]byte{parts})...)
	}
	if err != nil {
		return s, err
	}
	s.resolving = time.Since(start)
	s.ram = (heap() - before) / float64(entries)
	runtime.KeepAlive(parts) // they are in both
	if got := r.Bytes(0); got != uint64(disk.Size) {
		return s, fmt.Errorf("the index gives %d bytes of a disk of %d that was written everywhere", got, disk.Size)
	}
	if s.ram <= 0 {
		return s, errors.New("resolving took no memory: the measurement is broken")
	}
	return s, nil
}

// heap is what is in use, once nothing is left to be freed: what pools hold
// goes with the second collection.
func heap() float64 {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
