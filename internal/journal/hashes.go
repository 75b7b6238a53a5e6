package journal

import (
	"bytes"
	"context"
	"io"
	"math/bits"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
)

// DiskHashes are the block hashes of a range of one disk, as a history has them
// at its end: of the newest published state, whether or not a checkpoint lies
// there. It is read-only once made and takes about 150 bytes a chunk.
type DiskHashes struct {
	First  uint32            // chunk
	Masks  []uint16          // of each chunk, the blocks that have a hash; the others read as zeroes
	Hashes []uint64          // of each chunk, its 16 blocks
	Keys   []uint8           // of each block, the place of its key in Under
	Under  []segment.HashKey // the keys
	places map[dr.UUID]uint8 // of data keys, in Under
}

// DiskHashes finds the block hashes of chunks from..to-1 of a disk: index parts
// and footers that touch the range are read, no content. What was never written
// reads as zeroes, as it would be recovered.
//
// Memory: DiskHashes' own, 30 bytes for each version in the range, and the
// cache's; whatever the disk's size, to-from bounds it.
//
// Kinds: Invalid for an empty range or one of more than MaxHashRange chunks,
// Corrupt when what the range rests on is damaged or gone, or the store's.
func (h *History) DiskHashes(ctx context.Context, cache *HashCache, disk dr.DiskID, from, to uint32) (*DiskHashes, error) {
	return h.hashes(ctx, cache, leg{h, ^dr.Seq(0), ^dr.ObjectNumber(0)}, disk, from, to)
}

// HashesAt is DiskHashes as of checkpoint cp of this history. Kinds NotFound
// and Unavailable besides, as of Resolve.
func (h *History) HashesAt(ctx context.Context, cache *HashCache, cp CheckpointInfo, disk dr.DiskID, from, to uint32) (*DiskHashes, error) {
	cp, err := h.check(cp)
	if err != nil {
		return nil, err
	}
	return h.hashes(ctx, cache, leg{h, cp.Seq, cp.Object}, disk, from, to)
}

// hashes is DiskHashes of what rests on l.
func (h *History) hashes(ctx context.Context, cache *HashCache, l leg, disk dr.DiskID, from, to uint32) (*DiskHashes, error) {
	const op = "journal.DiskHashes"
	if from >= to || to-from > MaxHashRange || to > segment.MaxChunks {
		return nil, errs.New(op, errs.Invalid, disk.String(), "the range has no chunks, or too many")
	}
	cat := new(index.Catalog)
	number, err := cat.Disk(disk)
	if err != nil {
		return nil, err
	}
	r, err := index.NewResolver(cat, ^dr.Seq(0), []index.Disk{{ID: disk, Size: int64(to) * dr.ChunkSize}})
	if err != nil {
		return nil, errs.E(op, errs.Internal, disk.String(), err)
	}
	r.Skip(0, from)
	w := &hashWalk{cat: cat, r: r, cache: cache, disk: disk, number: number, from: from, to: to}
	if err := w.timeline(ctx, l.h, l.limit, l.last); err != nil {
		return nil, errs.E(op, errs.Internal, disk.String(), err)
	}
	n := to - from
	d := &DiskHashes{First: from, Masks: make([]uint16, n), Hashes: make([]uint64, n*dr.BlocksPerChunk),
		Keys: make([]uint8, n*dr.BlocksPerChunk), places: make(map[dr.UUID]uint8)}
	if err := d.gather(ctx, h, cache, disk, r.Result()); err != nil {
		return nil, errs.E(op, errs.Internal, disk.String(), err)
	}
	return d, nil
}

// hashWalk feeds a Resolver with what touches one range of one disk, newest
// first.
type hashWalk struct {
	cat      *index.Catalog
	r        *index.Resolver
	cache    *HashCache
	disk     dr.DiskID
	number   uint16 // of disk in cat
	from, to uint32
}

// timeline adds what timeline h has of records below limit, in objects up to
// number last, and then what it falls through to.
func (w *hashWalk) timeline(ctx context.Context, h *History, limit dr.Seq, last dr.ObjectNumber) error {
	h.mu.RLock()
	m, base, why := h.manifest, h.base, h.lostWhy
	h.mu.RUnlock()
	if b := base.broken(); b != "" {
		why = b
	}
	if why != "" {
		return errs.New("journal.DiskHashes", errs.Corrupt, h.timeline.String(), "the history is damaged: "+why)
	}
	if err := w.tail(ctx, h, limit, last); err != nil {
		return err
	}
	if m != nil {
		for i := range m.Runs {
			if w.r.Left() == 0 {
				return nil
			}
			if m.Runs[i].First < limit {
				if err := w.run(ctx, h.c, m.Runs[i].Parts, limit); err != nil {
					return err
				}
			}
		}
	}
	if base == nil || w.r.Left() == 0 {
		return nil
	}
	return w.timeline(ctx, base.hist, min(limit, base.head.Point.Seq), base.head.Object)
}

// tail adds the journal objects behind the anchor, newest first.
func (w *hashWalk) tail(ctx context.Context, h *History, limit dr.Seq, last dr.ObjectNumber) error {
	refs := h.objectsUpTo(last)
	for end := len(refs); end > 0 && w.r.Left() > 0; end = max(0, end-walkBatch) {
		var want []ImageObject
		for _, ref := range refs[max(0, end-walkBatch):end] {
			if ref.kind == segment.Journal {
				want = append(want, ImageObject{Ref: index.ObjectID{Timeline: h.timeline, Number: ref.number}, Size: ref.size, Print: ref.print})
			}
		}
		objects, err := w.cache.open(ctx, h.c, want)
		if err != nil {
			return err
		}
		s := index.NewSorter(w.cat)
		for i := len(objects) - 1; i >= 0; i-- {
			if s.Room() < len(objects[i].Footer.Entries)+3*len(objects[i].Footer.Zeros) {
				if err := w.r.Add(s.Source()); err != nil {
					return err
				}
				s = index.NewSorter(w.cat)
			}
			if err := w.add(s, objects[i], limit); err != nil {
				return err
			}
		}
		if err := w.r.Add(s.Source()); err != nil {
			return err
		}
	}
	return nil
}

// add adds an object's versions in the range.
func (w *hashWalk) add(s *index.Sorter, o *Object, limit dr.Seq) error {
	object, err := w.cat.Object(o.Ref)
	if err != nil {
		return err
	}
	for i := range o.Footer.Entries {
		e := &o.Footer.Entries[i]
		if o.Footer.Disks[e.Disk] != w.disk || e.Seq >= limit || e.Chunk < w.from || e.Chunk >= w.to {
			continue
		}
		if err := s.AddFrame(w.number, e.Chunk, e.Mask, e.Seq, object, e.Counter, e.Stored); err != nil {
			return err
		}
	}
	lo, hi := uint64(w.from)*dr.BlocksPerChunk, uint64(w.to)*dr.BlocksPerChunk
	for _, z := range o.Footer.Zeros {
		first, end := max(z.First, lo), min(z.First+z.Count, hi)
		if o.Footer.Disks[z.Disk] != w.disk || z.Seq >= limit || first >= end {
			continue
		}
		if err := s.AddZeros(w.number, first, end-first, z.Seq); err != nil {
			return err
		}
	}
	return nil
}

// run adds what one run of the index has in the range, reading only the parts
// that reach into it.
func (w *hashWalk) run(ctx context.Context, c *Container, parts []PartRef, limit dr.Seq) error {
	var mine []PartRef
	for _, p := range parts {
		if compareKeys(p.Last, PartKey{Disk: w.disk, Chunk: w.from}) >= 0 && compareKeys(p.First, PartKey{Disk: w.disk, Chunk: w.to - 1}) <= 0 {
			mine = append(mine, p)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	src := index.NewRun(w.cat, len(mine), func(i int) ([]byte, error) { return w.cache.part(ctx, c, mine[i]) })
	src.Seek(w.disk, w.from)
	return w.r.Add(&inRange{w: w, src: src, limit: limit})
}

// inRange leaves out of a source what is of another disk, behind the range, or
// not below a record.
type inRange struct {
	w     *hashWalk
	src   index.Source
	limit dr.Seq
	kept  []index.Entry
	done  bool
}

// Next implements index.Source.
func (n *inRange) Next() ([]index.Entry, error) {
	for !n.done {
		es, err := n.src.Next()
		if err != nil {
			return nil, err
		}
		n.kept = n.kept[:0]
		for i := range es {
			e := &es[i]
			switch {
			case e.Disk != n.w.number:
				id := n.w.cat.Disks()[e.Disk]
				n.done = n.done || bytes.Compare(id.UUID[:], n.w.disk.UUID[:]) > 0
			case e.Chunk >= n.w.to:
				n.done = true
			case e.Seq < n.limit:
				n.kept = append(n.kept, *e)
			}
		}
		if len(n.kept) > 0 {
			return n.kept, nil
		}
	}
	return nil, io.EOF
}

// gather takes the hashes of what was resolved from the objects' footers.
func (d *DiskHashes) gather(ctx context.Context, h *History, cache *HashCache, disk dr.DiskID, taken []index.Taken) error {
	for len(taken) > 0 {
		batch := taken[:min(len(taken), walkBatch)]
		taken = taken[len(batch):]
		want := make([]ImageObject, len(batch))
		for i := range batch {
			size, print, ok := h.objectSize(batch[i].Object)
			if !ok {
				return errs.New("journal.DiskHashes", errs.Corrupt, ObjectName(batch[i].Object), "the index refers to this object and no manifest lists it")
			}
			want[i] = ImageObject{Ref: batch[i].Object, Size: size, Print: print}
		}
		objects, err := cache.open(ctx, h.c, want)
		if err != nil {
			return err
		}
		for i, o := range objects {
			for _, t := range batch[i].Frames {
				if err := d.take(h.c, o, disk, t); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// take takes the hashes of one frame's blocks.
func (d *DiskHashes) take(c *Container, o *Object, disk dr.DiskID, t Take) error {
	e, err := o.Entry(t.Frame)
	if err != nil {
		return err
	}
	if o.Footer.Disks[e.Disk] != disk || t.Take&^e.Mask != 0 || e.Chunk < d.First || e.Chunk-d.First >= uint32(len(d.Masks)) {
		return errs.New("journal.DiskHashes", errs.Corrupt, o.Key, "a frame is not the one the index names")
	}
	origin, _ := o.Footer.OriginOf(&o.Header, e)
	key, err := d.keyPlace(c, origin.Key)
	if err != nil {
		return err
	}
	at := e.Chunk - d.First
	d.Masks[at] |= t.Take
	hash := e.FirstHash
	for m := e.Mask; m != 0; m &= m - 1 {
		i := uint32(bits.TrailingZeros16(m))
		if t.Take>>i&1 != 0 {
			d.Hashes[at*dr.BlocksPerChunk+i], d.Keys[at*dr.BlocksPerChunk+i] = o.Footer.Hashes[hash], key
		}
		hash++
	}
	return nil
}

// keyPlace is the place in Under of the hash key that belongs to a data key.
func (d *DiskHashes) keyPlace(c *Container, id dr.UUID) (uint8, error) {
	if at, ok := d.places[id]; ok {
		return at, nil
	}
	key, err := c.dataKey(id)
	if err != nil {
		return 0, err
	}
	at := uint8(len(d.Under)) // maxGenerations keeps it in a byte
	d.Under, d.places[id] = append(d.Under, segment.HashKeyOf(key)), at
	return at, nil
}

// open opens objects, readParallel at a time; the result has their order. Kind
// Corrupt when one is another than its fingerprint is of.
func (k *HashCache) open(ctx context.Context, c *Container, want []ImageObject) ([]*Object, error) {
	out := make([]*Object, len(want))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readParallel)
	for i := range want {
		if out[i] = k.object(want[i].Ref); out[i] != nil {
			continue
		}
		g.Go(func() (err error) {
			if out[i], err = c.OpenSized(ctx, want[i].Ref, want[i].Size); err == nil {
				k.keepObject(out[i])
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, o := range out {
		if err := o.Is(want[i].Print); err != nil {
			return nil, err
		}
	}
	return out, nil
}
