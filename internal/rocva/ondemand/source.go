package ondemand

import (
	"cmp"
	"context"
	"math/bits"
	"slices"
	"sort"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/rocva/frame"
)

// source says where a disk's content comes from. Immutable.
//
// Memory: 2 bytes for each chunk, 8 for each frame.
type source struct {
	disk    journal.ImageDisk
	place   uint16 // in Image.Disks
	img     *journal.Image
	content []uint16 // of each chunk: the blocks that frames give
	blocks  int64    // how many these are
	refs    []ref    // by chunk
}

// ref is a frame of the image: its object's place, and its own in that.
type ref struct{ object, frame uint32 }

func (s *source) take(r ref) journal.Take { return s.img.Objects[r.object].Frames[r.frame] }

// newSource gathers what frames give to the disk at a place of the image. Kind
// Corrupt when one lies outside of it.
func newSource(img *journal.Image, place int) (source, error) {
	s := source{disk: img.Disks[place], place: uint16(place), img: img}
	s.content = make([]uint16, chunks(s.disk.Size))
	for o := range img.Objects {
		for f, t := range img.Objects[o].Frames {
			if t.Disk != s.place {
				continue
			}
			if int64(t.Chunk) >= int64(len(s.content)) {
				return s, errs.New("ondemand.Open", errs.Corrupt, img.Objects[o].Key, "a frame lies outside of its disk")
			}
			s.blocks += int64(bits.OnesCount16(t.Take &^ s.content[t.Chunk]))
			s.content[t.Chunk] |= t.Take
			s.refs = append(s.refs, ref{uint32(o), uint32(f)})
		}
	}
	slices.SortFunc(s.refs, func(a, b ref) int { return cmp.Compare(s.take(a).Chunk, s.take(b).Chunk) })
	return s, nil
}

// from appends the frames that give some of a chunk's blocks.
func (s *source) from(dst []ref, w want) []ref {
	i := sort.Search(len(s.refs), func(i int) bool { return s.take(s.refs[i]).Chunk >= w.chunk })
	for ; i < len(s.refs) && s.take(s.refs[i]).Chunk == w.chunk; i++ {
		if s.take(s.refs[i]).Take&w.blocks != 0 {
			dst = append(dst, s.refs[i])
		}
	}
	return dst
}

// want is blocks of a chunk.
type want struct {
	chunk  uint32
	blocks uint16
}

// wants is the absent blocks of a run of chunks.
func wants(d sink, first, last uint32, all func(chunk uint32) uint16) (out []want) {
	for c := first; c <= last; c++ {
		if m := d.lacks(c, all(c)); m != 0 {
			out = append(out, want{c, m})
		}
	}
	return out
}

// shelf keeps the image's objects open: their footers, which say where frames
// lie and what they must be. Safe for concurrent use.
type shelf struct {
	c   *journal.Container
	img *journal.Image

	mu     sync.Mutex
	open   map[uint32]*shelved // guarded by mu
	frames int                 // guarded by mu; of all that are open
	clock  uint64              // guarded by mu; counts uses
}

// shelved is an object, or one that is being opened.
type shelved struct {
	ready chan struct{} // closed when o or err is there
	o     *frame.Object
	err   error
	used  uint64 // guarded by shelf.mu
}

// get opens object i of the image, once for all who want it at the same time.
func (s *shelf) get(ctx context.Context, i uint32) (*frame.Object, error) {
	for {
		s.mu.Lock()
		s.clock++
		e, known := s.open[i]
		if !known {
			e = &shelved{ready: make(chan struct{})}
			s.open[i] = e
		}
		e.used = s.clock
		s.mu.Unlock()
		if !known {
			s.fill(ctx, i, e)
			return e.o, e.err
		}
		select {
		case <-e.ready:
		case <-ctx.Done():
			return nil, errs.E("ondemand.open", errs.Canceled, s.img.Objects[i].Key, context.Cause(ctx))
		}
		if e.err == nil {
			return e.o, nil
		}
		// Whoever tried may have been in less of a hurry, or gave up: try anew.
		if ctx.Err() != nil {
			return nil, e.err
		}
	}
}

func (s *shelf) fill(ctx context.Context, i uint32, e *shelved) {
	io := &s.img.Objects[i]
	o, err := s.c.OpenSized(ctx, io.Ref, io.Size)
	if err == nil {
		e.o, err = frame.Open(s.img, io, o)
	}
	e.err = err
	s.mu.Lock()
	if err != nil {
		delete(s.open, i)
	} else {
		s.frames += len(o.Footer.Entries)
		s.shrinkLocked()
	}
	s.mu.Unlock()
	close(e.ready)
}

// shrinkLocked closes what was not used for longest, but never the last one.
func (s *shelf) shrinkLocked() {
	for s.frames > maxOpenFrames {
		oldest, found := uint32(0), false
		for i, e := range s.open {
			if e.o != nil && (!found || e.used < s.open[oldest].used) {
				oldest, found = i, true
			}
		}
		if !found || len(s.open) == 1 {
			return
		}
		s.frames -= len(s.open[oldest].o.Footer.Entries)
		delete(s.open, oldest)
	}
}

// diskBytes is blocks in bytes.
func diskBytes(blocks int64) int64 { return blocks * dr.BlockSize }
