package index

import (
	"fmt"
	"math/bits"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Disk is a disk to be resolved.
type Disk struct {
	ID   dr.DiskID
	Size int64 // bytes; blocks behind it are left out
}

// Take says which blocks of a frame belong to an image. 12 bytes.
type Take struct {
	Frame uint32 // the frame's counter in its object
	Chunk uint32 // of the disk: a reader of one place need not open every object
	Disk  uint16 // place among the Resolver's disks
	Take  uint16 // the blocks taken, of those the frame holds
}

// Taken is what an image takes of one object.
type Taken struct {
	Object ObjectID
	Frames []Take // by run, disk, chunk; a frame is there once
	Stored uint64 // bytes these frames take in the object
}

// Resolver finds what makes disks as of a record: of each block the newest
// version with a seq up to it. Runs are added from the newest on, and whoever
// has loose versions newer than all runs (the journal's tail) adds these
// first.
//
// Memory: 2 bytes for each chunk of a disk that versions answer for, 12 bytes
// for each frame taken and up to as much again while a list grows, the Catalog,
// and a part and a block of each source being added. One goroutine uses a
// Resolver at a time.
type Resolver struct {
	cat     *Catalog
	seq     dr.Seq
	disks   []Disk
	place   map[dr.DiskID]uint16
	covered []*coverage
	bytes   []uint64  // of each disk, given by frames
	taken   []Taken   // by object of the catalog; Object is filled in at the end
	given   []*Blocks // of each disk, given by frames; nil unless Track was called
	now     int       // place of the disk being swept
}

// NewResolver returns a Resolver of disks as of seq.
func NewResolver(cat *Catalog, seq dr.Seq, disks []Disk) (*Resolver, error) {
	const op = "index.NewResolver"
	if len(disks) > MaxDisks {
		return nil, errs.E(op, errs.Invalid, "", fmt.Errorf("%d disks are more than %d", len(disks), MaxDisks))
	}
	r := &Resolver{cat: cat, seq: seq, disks: disks, place: make(map[dr.DiskID]uint16), bytes: make([]uint64, len(disks))}
	for i, d := range disks {
		if _, twice := r.place[d.ID]; twice || d.Size < 0 || d.Size > dr.MaxDiskSize {
			return nil, errs.E(op, errs.Invalid, d.ID.String(), fmt.Errorf("disk of %d bytes is too large or named twice", d.Size))
		}
		r.place[d.ID] = uint16(i)
		r.covered = append(r.covered, newCoverage(d.Size))
	}
	return r, nil
}

// Skip leaves the first chunks of the disk at the given place out, as if newer
// versions answered for them: with a size that ends behind a range, the range
// alone is resolved. It is for use before the first Add.
func (r *Resolver) Skip(disk int, chunks uint32) { r.covered[disk].addRange(0, chunks) }

// Track keeps what frames give of each disk, for Given: 2 bytes more for each
// chunk of a disk that frames answer for. It is for use before the first Add.
func (r *Resolver) Track() {
	r.given = make([]*Blocks, len(r.disks))
	for i, d := range r.disks {
		r.given[i] = NewBlocks(d.Size)
	}
}

// Given is what frames give of the disk at the given place, since Track.
func (r *Resolver) Given(disk int) *Blocks { return r.given[disk] }

// Answered returns the blocks of the disk at the given place that the versions
// added so far answer for, zeroes too. The set is the caller's.
func (r *Resolver) Answered(disk int) *Blocks {
	all := newCoverage(r.disks[disk].Size).left
	return &Blocks{c: r.covered[disk].clone(), all: all}
}

// Only leaves all blocks of the disk at the given place out that are not in b,
// as if what was added so far answered for them. A nil b is empty.
func (r *Resolver) Only(disk int, b *Blocks) { r.covered[disk].only(b) }

// Left is the number of blocks that no version has answered for. At 0 nothing
// older is needed.
func (r *Resolver) Left() uint64 {
	n := uint64(0)
	for _, c := range r.covered {
		n += c.left
	}
	return n
}

// Add adds a run, or several of which the order does not matter, older than
// all that was added before. It ends early when all is covered. Errors are the
// sources'.
func (r *Resolver) Add(sources ...Source) error {
	if r.Left() == 0 {
		return nil
	}
	s := sweep{cat: r.cat, v: r}
	if err := s.run(sources); err != nil {
		return errs.E("index.Resolve", errs.Internal, "", err)
	}
	return nil
}

// Result returns what is taken, by object in the order of their numbers in the
// Catalog; objects that give nothing are absent. Blocks that no frame gives
// are zeroes. The Resolver is used up.
func (r *Resolver) Result() []Taken {
	out := r.taken[:0]
	for i, t := range r.taken {
		if len(t.Frames) > 0 {
			t.Object = r.cat.objects[i]
			out = append(out, t)
		}
	}
	clear(r.taken[len(out):])
	r.taken = nil
	return out
}

// Bytes is how much of the disk at the given place frames give; the rest of it
// is zeroes.
func (r *Resolver) Bytes(disk int) uint64 { return r.bytes[disk] }

func (r *Resolver) begin(disk uint16) bool {
	at, ok := r.place[r.cat.disks[disk]]
	r.now = int(at)
	return ok && r.covered[at].left > 0
}

func (r *Resolver) left(*Entry) {}

func (r *Resolver) done() error { return nil }

func (r *Resolver) ended(*zone, uint32) {}

func (r *Resolver) chunk(c uint32, vs []Entry, zs []zone) error {
	cover := r.covered[r.now]
	for len(zs) > 0 && zs[0].seq > r.seq {
		zs = zs[1:]
	}
	for i := range vs {
		e := &vs[i]
		if e.Seq > r.seq {
			continue
		}
		if len(zs) > 0 && zs[0].seq > e.Seq {
			break // all below is covered by the zone
		}
		if fresh := cover.add(c, e.Mask); fresh != 0 && !e.Zero {
			r.take(e, fresh)
		}
	}
	if len(zs) > 0 {
		cover.add(c, fullMask)
	}
	return r.enough()
}

func (r *Resolver) take(e *Entry, fresh uint16) {
	if int(e.Object) >= len(r.taken) {
		r.taken = append(r.taken, make([]Taken, max(int(e.Object)+1, len(r.cat.objects))-len(r.taken))...)
	}
	t := &r.taken[e.Object]
	t.Frames = append(t.Frames, Take{Frame: e.Frame, Chunk: e.Chunk, Disk: uint16(r.now), Take: fresh})
	t.Stored += uint64(e.Stored)
	r.bytes[r.now] += uint64(bits.OnesCount16(fresh)) * dr.BlockSize
	if r.given != nil {
		r.given[r.now].Add(e.Chunk, fresh)
	}
}

func (r *Resolver) gap(from, to uint32, zs []zone) error {
	if zs[len(zs)-1].seq <= r.seq { // the oldest is seen, or none
		r.covered[r.now].addRange(from, to)
	}
	return r.enough()
}

// enough ends the sweep when nothing is left to find.
func (r *Resolver) enough() error {
	if r.covered[r.now].left == 0 && r.Left() == 0 {
		return errStop
	}
	return nil
}
