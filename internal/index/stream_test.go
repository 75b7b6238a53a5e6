package index

import (
	"io"
	"runtime"
	"testing"

	"holdfast/internal/dr"
)

// endless is a baseline of n chunks that nobody holds.
type endless struct {
	n, at  int
	object uint32
	step   dr.Seq
	out    [BlockEntries]Entry
	peak   *uint64
}

// Next implements Source.
func (s *endless) Next() ([]Entry, error) {
	if s.at == s.n {
		return nil, io.EOF
	}
	n := min(len(s.out), s.n-s.at)
	for i := range n {
		at := s.at + i
		s.out[i] = Entry{
			Seq: dr.Seq(at)*s.step + s.step, Chunk: uint32(at), Chunks: 1, Mask: fullMask, Object: s.object, Frame: uint32(at % 500), Stored: 30_000 + uint32(at*7919%9000),
		}
	}
	s.at += n
	if s.at/BlockEntries%16 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		*s.peak = max(*s.peak, m.Sys-m.HeapReleased)
	}
	return s.out[:n], nil
}

// TestMergeHoldsNoRun: merging runs of many parts takes memory for parts, not
// for runs. The bound is for 12 sources' blocks and dst's part, held twice by
// the collector; the runs' entries would take 40 times the count of chunks.
func TestMergeHoldsNoRun(t *testing.T) {
	chunks := knob(t, "HOLDFAST_INDEX_CHUNKS", 1<<20) // 67108864 for a disk of 4 TiB
	cat := &Catalog{}
	must[uint16](t)(cat.Disk(diskID(1)))
	var peak uint64
	var sources []Source
	for i := range 2 {
		o := must[uint32](t)(cat.Object(journalID(i + 1)))
		sources = append(sources, &endless{n: chunks, object: o, step: dr.Seq(2 - i), peak: &peak})
	}
	parts, size := 0, 0
	w := NewWriter(cat, func(p Part) error { parts++; size += len(p.Bytes); return nil }, WriterOptions{})
	m, err := Merge(w, sources, Rule{Bottom: true})
	if err == nil {
		err = w.Finish()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d entries in, %d out in %d parts of %d bytes together, peak %d MiB", m.In, m.Out, parts, size, peak>>20)
	if peak > 200<<20 {
		t.Errorf("held %d MiB", peak>>20)
	}
	if m.In != uint64(2*chunks) || m.Out != uint64(chunks) {
		t.Errorf("%d in, %d out", m.In, m.Out)
	}
}
