package index

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Sorter brings entries into a run's order, in memory: at most MaxSorted of 40
// bytes. It is what the frames and zero ranges of footers go through. The zero
// value is not usable. One goroutine uses a Sorter at a time.
type Sorter struct {
	cat     *Catalog
	entries []Entry
}

// NewSorter returns an empty Sorter of entries numbered by cat.
func NewSorter(cat *Catalog) *Sorter { return &Sorter{cat: cat} }

// Len is the number of entries held.
func (s *Sorter) Len() int { return len(s.entries) }

// Room is how many more entries fit.
func (s *Sorter) Room() int { return MaxSorted - len(s.entries) }

// Add adds one entry. Kind Full when there is no room: write what is held as a
// run and begin the next. Invalid for what is no version.
func (s *Sorter) Add(e Entry) error {
	const op = "index.Sorter.Add"
	if err := e.check(); err != nil {
		return errs.E(op, errs.Invalid, "", err)
	}
	if int(e.Disk) >= len(s.cat.disks) || !e.Zero && int(e.Object) >= len(s.cat.objects) {
		return errs.E(op, errs.Invalid, "", fmt.Errorf("version of chunk %d is of a disk or object the catalog lacks", e.Chunk))
	}
	if len(s.entries) == MaxSorted {
		return errs.E(op, errs.Full, "", fmt.Errorf("more than %d entries", MaxSorted))
	}
	s.entries = append(s.entries, e)
	return nil
}

// AddFrame adds the version a frame holds.
func (s *Sorter) AddFrame(disk uint16, chunk uint32, mask uint16, seq dr.Seq, object, frame, stored uint32) error {
	return s.Add(Entry{Seq: seq, Chunk: chunk, Chunks: 1, Object: object, Frame: frame, Stored: stored, Mask: mask, Disk: disk})
}

// AddZeros adds a run of count blocks from first that read as zeroes: at most
// three entries, for the chunks it fills and for those it begins and ends in.
func (s *Sorter) AddZeros(disk uint16, first, count uint64, seq dr.Seq) error {
	const op = "index.Sorter.AddZeros"
	const most = uint64(MaxChunks) * dr.BlocksPerChunk
	if count == 0 || first >= most || count > most-first {
		return errs.E(op, errs.Invalid, "", fmt.Errorf("%d blocks from %d are none, or beyond the largest disk", count, first))
	}
	if s.Room() < 3 {
		return errs.E(op, errs.Full, "", fmt.Errorf("more than %d entries", MaxSorted))
	}
	for count > 0 {
		chunk, in := first/dr.BlocksPerChunk, first%dr.BlocksPerChunk
		n := min(dr.BlocksPerChunk-in, count)
		e := Entry{Seq: seq, Chunk: uint32(chunk), Chunks: 1, Mask: uint16((1<<n - 1) << in), Disk: disk, Zero: true}
		if whole := count / dr.BlocksPerChunk; in == 0 && whole > 0 {
			e.Chunks, n = uint32(whole), whole*dr.BlocksPerChunk
		}
		if err := s.Add(e); err != nil {
			return err
		}
		first, count = first+n, count-n
	}
	return nil
}

// Source sorts what is held and returns it; nothing may be added until Reset.
func (s *Sorter) Source() Source {
	byID := make([]uint16, len(s.cat.disks))
	for i := range byID {
		byID[i] = uint16(i)
	}
	slices.SortFunc(byID, func(a, b uint16) int { return compareDisks(s.cat.disks[a], s.cat.disks[b]) })
	rank := make([]uint16, len(byID))
	for i, d := range byID {
		rank[d] = uint16(i)
	}
	slices.SortStableFunc(s.entries, func(a, b Entry) int {
		if a.Disk != b.Disk {
			return cmp.Compare(rank[a.Disk], rank[b.Disk])
		}
		return cmp.Or(cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(b.Seq, a.Seq))
	})
	return &sorted{s.entries}
}

// Reset empties the Sorter and keeps its memory. What Source returned is void.
func (s *Sorter) Reset() { s.entries = s.entries[:0] }

// sorted is the Source of entries in memory.
type sorted struct{ entries []Entry }

// Next implements Source.
func (s *sorted) Next() ([]Entry, error) {
	if len(s.entries) == 0 {
		return nil, io.EOF
	}
	n := 1
	for n < min(len(s.entries), BlockEntries) && s.entries[n].Disk == s.entries[0].Disk {
		n++
	}
	out := s.entries[:n]
	s.entries = s.entries[n:]
	return out, nil
}
