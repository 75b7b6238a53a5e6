package maintain

import (
	"errors"
	"io"
	"math/bits"
	"sort"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/index"
	"holdfast/internal/journal"
)

// eachOf calls f for a source's entries.
func eachOf(src index.Source, f func(*index.Entry) error) error {
	for {
		es, err := src.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		for i := range es {
			if err := f(&es[i]); err != nil {
				return err
			}
		}
	}
}

// sizer counts who the newest viewer of each frame is. It takes the entries a
// merge kept, in their order. Memory: the versions of one chunk and the zero
// ranges over it.
type sizer struct {
	seqs  []dr.Seq // of the retained checkpoints, the newest seq each sees
	sizes *Sizes
	disk  uint16
	chunk uint32
	zones []index.Entry // zero ranges that may reach further chunks, newest first within a chunk's list
	list  []index.Entry // of chunk, newest first
	any   bool
}

func newSizer(_ *index.Catalog, points []journal.Point, at time.Time) *sizer {
	s := &sizer{sizes: &Sizes{At: at.UTC()}}
	for i := range points {
		s.seqs = append(s.seqs, max(points[i].Seq, 1)-1)
		s.sizes.IDs = append(s.sizes.IDs, points[i].ID)
		s.sizes.Time = append(s.sizes.Time, points[i].Time.UTC())
	}
	s.sizes.Last = make([]int64, len(points)+1)
	s.sizes.Alone = make([]int64, len(points)+1)
	return s
}

// add takes the next entry.
func (s *sizer) add(e *index.Entry) {
	if s.any && (e.Disk != s.disk || e.Chunk != s.chunk) {
		s.settle()
	}
	if s.any && e.Disk != s.disk {
		s.zones = s.zones[:0]
	}
	s.any, s.disk, s.chunk = true, e.Disk, e.Chunk
	if e.Zero && e.Chunks > 1 {
		s.zones = append(s.zones, *e)
		return
	}
	s.list = append(s.list, *e)
}

// settle counts the frames of one chunk.
func (s *sizer) settle() {
	s.reach()
	if len(s.zones) > 0 {
		s.list = append(s.list, s.zones...)
		sort.SliceStable(s.list, func(i, j int) bool { return s.list[i].Seq > s.list[j].Seq })
	}
	var newer [dr.BlocksPerChunk]dr.Seq // seq of the version above; 0: none
	for i := range s.list {
		e := &s.list[i]
		if !e.Zero {
			s.count(e, &newer)
		}
		for m := e.Mask; m != 0; m &= m - 1 {
			newer[bits.TrailingZeros16(m)] = e.Seq
		}
	}
	s.list = s.list[:0]
}

// reach drops the zero ranges that end before the chunk.
func (s *sizer) reach() {
	kept := s.zones[:0]
	for _, z := range s.zones {
		if z.Chunk+z.Chunks > s.chunk {
			kept = append(kept, z)
		}
	}
	s.zones = kept
}

// count finds a frame's newest viewer: of the checkpoints before the version
// above each of its blocks the newest.
func (s *sizer) count(e *index.Entry, newer *[dr.BlocksPerChunk]dr.Seq) {
	last := -1
	for m := e.Mask; m != 0 && last < len(s.seqs); m &= m - 1 {
		above := newer[bits.TrailingZeros16(m)]
		if above == 0 {
			last = len(s.seqs) // the head sees it
			continue
		}
		last = max(last, s.below(above)-1)
	}
	if last < 0 {
		last = 0 // a frame nobody sees is not kept by a merge
	}
	s.sizes.Last[last] += int64(e.Stored)
	if s.below(e.Seq) == last {
		s.sizes.Alone[last] += int64(e.Stored)
	}
}

// below is the number of checkpoints that do not see seq.
func (s *sizer) below(seq dr.Seq) int {
	return sort.Search(len(s.seqs), func(i int) bool { return s.seqs[i] >= seq })
}

func (s *sizer) finish() *Sizes {
	s.settle()
	return s.sizes
}
