package index

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// zone is a zero range of whole chunks that lies over the place of a sweep.
type zone struct {
	seq  dr.Seq
	end  uint32 // the chunk behind it
	open bool   // a merge is writing a piece of it
	at   int    // where that piece stands in what the merge keeps back
}

// visitor is told what lies where, place by place in the order of a run.
// Versions and zones come newest first; a visitor may mark zones.
type visitor interface {
	// chunk: versions of a chunk, and the zones over it.
	chunk(c uint32, vs []Entry, zs []zone) error
	// gap: nothing but zones over the chunks from..to-1.
	gap(from, to uint32, zs []zone) error
	// ended: zone z ends before chunk c.
	ended(z *zone, c uint32)
	// begin: what follows is of this disk. ok is false to leave it out.
	begin(disk uint16) (ok bool)
	// done: the disk ends.
	done() error
	// left: an entry of a disk that was left out.
	left(e *Entry)
}

// errStop is a visitor's word that it has seen enough.
var errStop = errors.New("enough")

// sweep walks several sources at once. What it holds is a block of each, the
// versions of one chunk and the zones over it.
type sweep struct {
	cat     *Catalog
	v       visitor
	cursors []*cursor
	heap    []uint64 // chunk<<32 | place in cursors, of those on the current disk
	vs      []Entry
	zones   []zone
	pos     uint32 // chunks before it on the current disk are done
	read    uint64 // entries
}

// cursor is a place in one source.
type cursor struct {
	src   Source
	block []Entry // from the place on; empty at the end
	last  Entry
	begun bool
}

// advance takes n entries off and reads on when the block is used up.
func (c *cursor) advance(cat *Catalog, n int) error {
	if n < len(c.block) {
		c.block = c.block[n:]
		return nil
	}
	if n > 0 {
		c.last, c.begun = c.block[n-1], true
	}
	block, err := c.src.Next()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err == nil && len(block) == 0 {
		return errs.New("index.sweep", errs.Internal, "", "a source gave no entries and no end")
	}
	if c.block = block; err == nil && c.begun {
		return c.order(cat)
	}
	return nil
}

// order checks the new block against the end of the one before: parts are each
// in order, and here is whether they follow one another.
func (c *cursor) order(cat *Catalog) error {
	e := &c.block[0]
	back := e.Disk == c.last.Disk && e.before(&c.last)
	if e.Disk != c.last.Disk {
		back = compareDisks(cat.disks[c.last.Disk], cat.disks[e.Disk]) > 0
	}
	if back {
		return corrupt("index.sweep", fmt.Errorf("a run goes back from chunk %d to chunk %d", c.last.Chunk, e.Chunk))
	}
	return nil
}

// run walks the sources to their ends, or until the visitor has seen enough.
func (s *sweep) run(sources []Source) error {
	for _, src := range sources {
		c := &cursor{src: src}
		if err := c.advance(s.cat, 0); err != nil {
			return err
		}
		s.cursors = append(s.cursors, c)
	}
	for {
		disk, any := s.lowest()
		if !any {
			return nil
		}
		if err := s.disk(disk); errors.Is(err, errStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// lowest is the disk that comes next.
func (s *sweep) lowest() (disk uint16, any bool) {
	for _, c := range s.cursors {
		if len(c.block) == 0 {
			continue
		}
		if d := c.block[0].Disk; !any || compareDisks(s.cat.disks[d], s.cat.disks[disk]) < 0 {
			disk, any = d, true
		}
	}
	return disk, any
}

func (s *sweep) disk(disk uint16) error {
	if !s.v.begin(disk) {
		return s.skip(disk)
	}
	s.heap, s.zones, s.pos = s.heap[:0], s.zones[:0], 0
	for i, c := range s.cursors {
		if len(c.block) > 0 && c.block[0].Disk == disk {
			s.heap = append(s.heap, uint64(c.block[0].Chunk)<<32|uint64(i))
		}
	}
	slices.Sort(s.heap) // a sorted slice is a heap
	for len(s.heap) > 0 {
		chunk := uint32(s.heap[0] >> 32)
		if len(s.zones) > 0 {
			if err := s.gapTo(chunk); err != nil {
				return err
			}
		}
		s.pos = chunk
		if err := s.gather(disk, chunk); err != nil {
			return err
		}
		if len(s.zones) > 0 {
			s.expire(chunk)
		}
		if len(s.vs) == 0 {
			continue // zones begin here and nothing else lies here
		}
		if err := s.v.chunk(chunk, s.vs, s.zones); err != nil {
			return err
		}
		s.pos = chunk + 1
	}
	if err := s.gapTo(MaxChunks); err != nil {
		return err
	}
	s.expire(MaxChunks)
	return s.v.done()
}

// skip passes over the disk's entries.
func (s *sweep) skip(disk uint16) error {
	for _, c := range s.cursors {
		for len(c.block) > 0 && c.block[0].Disk == disk {
			s.read += uint64(len(c.block))
			for i := range c.block {
				s.v.left(&c.block[i])
			}
			if err := c.advance(s.cat, len(c.block)); err != nil {
				return err
			}
		}
	}
	return nil
}

// gapTo visits the stretches under zones from pos up to a chunk. Zones that
// end just there stay: another part of the same may go on.
func (s *sweep) gapTo(to uint32) error {
	for len(s.zones) > 0 && s.pos < to {
		stop := to
		for i := range s.zones {
			stop = min(stop, s.zones[i].end)
		}
		if stop > s.pos {
			if err := s.v.gap(s.pos, stop, s.zones); err != nil {
				return err
			}
			s.pos = stop
		}
		if stop == to {
			break
		}
		s.expire(stop)
	}
	s.pos = to
	return nil
}

// expire takes out zones that end at chunk or before.
func (s *sweep) expire(chunk uint32) {
	kept := s.zones[:0]
	for i := range s.zones {
		if z := &s.zones[i]; z.end <= chunk {
			s.v.ended(z, z.end)
			continue
		}
		kept = append(kept, s.zones[i])
	}
	s.zones = kept
}

// gather takes the chunk's entries from all sources: versions into vs, zero
// ranges into zones.
func (s *sweep) gather(disk uint16, chunk uint32) error {
	s.vs = s.vs[:0]
	for len(s.heap) > 0 && uint32(s.heap[0]>>32) == chunk {
		c := s.cursors[uint32(s.heap[0])]
		if err := s.take(c, disk, chunk); err != nil {
			return err
		}
		if len(c.block) > 0 && c.block[0].Disk == disk {
			s.heap[0] = uint64(c.block[0].Chunk)<<32 | s.heap[0]&(1<<32-1)
		} else {
			s.heap[0] = s.heap[len(s.heap)-1]
			s.heap = s.heap[:len(s.heap)-1]
		}
		s.sift()
	}
	for i := 1; i < len(s.vs); i++ {
		if s.vs[i].Seq > s.vs[i-1].Seq { // sources are not newest first
			slices.SortStableFunc(s.vs, func(a, b Entry) int { return cmp.Compare(b.Seq, a.Seq) })
			break
		}
	}
	return nil
}

// take takes the chunk's entries from one source.
func (s *sweep) take(c *cursor, disk uint16, chunk uint32) error {
	for len(c.block) > 0 && c.block[0].Chunk == chunk && c.block[0].Disk == disk {
		n := 0
		for ; n < len(c.block) && c.block[n].Chunk == chunk; n++ {
			if e := &c.block[n]; e.Zero && e.Mask == fullMask {
				if err := s.addZone(e); err != nil {
					return err
				}
				continue
			}
			s.vs = append(s.vs, c.block[n])
		}
		s.read += uint64(n)
		if len(s.vs) > MaxVersions {
			return errs.E("index.sweep", errs.Full, s.cat.disks[disk].String(), fmt.Errorf("more than %d versions of chunk %d", MaxVersions, chunk)).
				WithRemedy("thin the history: keep fewer checkpoints")
		}
		if err := c.advance(s.cat, n); err != nil {
			return err
		}
	}
	return nil
}

// addZone adds a zero range, or makes the one it continues longer.
func (s *sweep) addZone(e *Entry) error {
	i := 0
	for i < len(s.zones) && s.zones[i].seq > e.Seq {
		i++
	}
	if i < len(s.zones) && s.zones[i].seq == e.Seq {
		s.zones[i].end = max(s.zones[i].end, e.end())
		return nil
	}
	if len(s.zones) == MaxRanges {
		return errs.E("index.sweep", errs.Full, s.cat.disks[e.Disk].String(), fmt.Errorf("more than %d zero ranges over chunk %d", MaxRanges, e.Chunk)).
			WithRemedy("thin the history: keep fewer checkpoints")
	}
	s.zones = slices.Insert(s.zones, i, zone{seq: e.Seq, end: e.end()})
	return nil
}

// sift brings the heap's first element to its place.
func (s *sweep) sift() {
	h := s.heap
	for i := 0; ; {
		l := 2*i + 1
		if l >= len(h) {
			return
		}
		if l+1 < len(h) && h[l+1] < h[l] {
			l++
		}
		if h[i] <= h[l] {
			return
		}
		h[i], h[l] = h[l], h[i]
		i = l
	}
}
