package rocva

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
)

// part is a frame to fetch, as the footer of its object describes it.
type part struct {
	entry  *segment.Entry
	target *target
	take   uint16 // the blocks of entry.Mask that belong to the image
}

// span is a run of parts of one object that is read at once.
type span struct {
	off, end int64
	parts    []part
}

// spans groups parts, which are in the order of offsets, into reads of at
// most rangeSize bytes that swallow gaps of at most gapSize.
func spans(parts []part) []span {
	var out []span
	for i, p := range parts {
		off := int64(p.entry.Offset)
		end := off + int64(p.entry.Stored)
		if n := len(out); n > 0 && off-out[n-1].end <= gapSize && end-out[n-1].off <= rangeSize {
			s := &out[n-1]
			s.end = max(s.end, end)
			s.parts = s.parts[:len(s.parts)+1]
			continue
		}
		out = append(out, span{off, end, parts[i : i+1 : len(parts)]})
	}
	return out
}

// fetcher fetches objects, one at a time. Each worker has its own.
type fetcher struct {
	r      *run
	raw    []byte // of the span being written
	blocks []byte // of a frame of which only some blocks are taken
	parts  []part // of the object being written
	out    gather
}

// Recovery path, step 5: fetch. Objects in the order of their bytes, a few
// ranges at once.

// object writes all that image object i gives to the targets. All of it is
// handed to the kernel when it returns nil.
func (f *fetcher) object(ctx context.Context, i int) error {
	io := &f.r.img.Objects[i]
	if !f.r.gives(io) {
		return nil
	}
	o, err := f.r.c.OpenSized(ctx, io.Ref, io.Size)
	if err != nil {
		return f.r.explain(err)
	}
	if err := f.pick(o, io); err != nil {
		return err
	}
	for _, s := range spans(f.parts) {
		if err := f.span(ctx, o, s); err != nil {
			return err
		}
	}
	return f.out.flush()
}

// pick sets parts to what io takes of o for the targets, in the order of
// offsets. The object's own footer says where that lies; it must be the footer
// that the checkpoint was resolved with.
func (f *fetcher) pick(o *journal.Object, io *journal.ImageObject) error {
	entries, err := o.Entries(f.r.img, io)
	if err != nil {
		return f.r.explain(err)
	}
	f.parts = f.parts[:0]
	for i, p := range io.Frames {
		if t := f.r.byDisk[p.Disk]; t != nil {
			f.parts = append(f.parts, part{entries[i], t, p.Take})
		}
	}
	slices.SortFunc(f.parts, func(a, b part) int { return cmp.Compare(a.entry.Offset, b.entry.Offset) })
	return nil
}

func (f *fetcher) span(ctx context.Context, o *journal.Object, s span) error {
	n := int(s.end - s.off)
	if cap(f.raw) < n {
		f.raw = make([]byte, max(n, min(rangeSize, 2*cap(f.raw))))
	}
	raw := f.raw[:n]
	if err := o.ReadAt(ctx, raw, s.off); err != nil {
		return f.r.explain(err)
	}
	f.r.fetched(int64(n))
	for _, p := range s.parts {
		if err := f.part(o, p, raw[int64(p.entry.Offset)-s.off:][:p.entry.Stored]); err != nil {
			return err
		}
	}
	return nil
}

// part opens a frame and gathers what is taken of it.
func (f *fetcher) part(o *journal.Object, p part, sealed []byte) error {
	first, n := bits.TrailingZeros16(p.take), bits.OnesCount16(p.take)
	f.r.gave(int64(n) * dr.BlockSize)
	if p.take != p.entry.Mask || bits.Len16(p.take)-first != n {
		return f.scattered(o, p, sealed)
	}
	// One run of blocks, all of them taken: opened where it is written from.
	room, err := f.out.room(p.target, blockAt(p, first), n*dr.BlockSize)
	if err != nil {
		return err
	}
	if _, err = f.open(o, p, room, sealed); err != nil {
		return err
	}
	f.out.keep(n * dr.BlockSize)
	return nil
}

// scattered opens a frame aside and gathers the blocks that are taken.
func (f *fetcher) scattered(o *journal.Object, p part, sealed []byte) (err error) {
	if f.blocks, err = f.open(o, p, f.blocks[:0], sealed); err != nil {
		return err
	}
	blocks := f.blocks
	for mask := p.entry.Mask; mask != 0; mask &= mask - 1 {
		i := bits.TrailingZeros16(mask)
		if p.take>>i&1 != 0 {
			room, err := f.out.room(p.target, blockAt(p, i), dr.BlockSize)
			if err != nil {
				return err
			}
			f.out.keep(copy(room[:dr.BlockSize], blocks))
		}
		blocks = blocks[dr.BlockSize:]
	}
	return nil
}

// blockAt is where block i of a part's chunk lies on its disk, in bytes.
func blockAt(p part, i int) int64 {
	return int64(p.entry.Chunk)*dr.ChunkSize + int64(i)*dr.BlockSize
}

// open appends a frame's blocks to dst. What comes out is proven to be what
// was captured.
func (f *fetcher) open(o *journal.Object, p part, dst, sealed []byte) ([]byte, error) {
	out, err := o.OpenFrame(dst, p.entry, sealed, !f.r.opts.SkipHashes)
	if err != nil {
		return dst, f.r.explain(errs.E("rocva.Full", errs.Internal, o.Key,
			fmt.Errorf("disk %s, chunk %d (byte %d of the disk): %w", p.target.Disk, p.entry.Chunk, int64(p.entry.Chunk)*dr.ChunkSize, err)))
	}
	if len(out)-len(dst) != p.entry.Size() {
		return dst, f.r.explain(errs.New("rocva.Full", errs.Corrupt, o.Key, "a frame holds another number of blocks than its footer says"))
	}
	return out, nil
}
