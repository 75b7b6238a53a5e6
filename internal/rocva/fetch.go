package rocva

import (
	"context"
	"math/bits"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/rocva/frame"
)

// fetcher fetches objects, one at a time. Each worker has its own.
type fetcher struct {
	r      *run
	raw    []byte       // of the span being written
	blocks []byte       // of a frame of which only some blocks are taken
	parts  []frame.Part // of the object being written
	out    gather
}

// Recovery path, step 6: fetch. Objects in the order of their bytes, a few
// ranges at once.

// object writes all that image object i gives to the targets. All of it is
// handed to the kernel when it returns nil.
func (f *fetcher) object(ctx context.Context, i int) error {
	io := &f.r.img.Objects[i]
	if !f.r.gives(io) {
		return nil
	}
	o, err := f.open(ctx, io)
	if err != nil {
		return f.r.explain(err)
	}
	f.parts = o.Parts(f.parts[:0], func(t journal.Take) bool { return f.r.byDisk[t.Disk] != nil })
	for _, s := range frame.SpansOver(f.parts, rangeSize, f.r.gap) {
		if err := f.span(ctx, o, s); err != nil {
			return f.r.explain(err)
		}
	}
	return f.out.flush()
}

// open opens an object. Its own footer says where what is taken lies; it must
// be the footer that the checkpoint was resolved with.
func (f *fetcher) open(ctx context.Context, io *journal.ImageObject) (*frame.Object, error) {
	o, err := f.r.openObject(ctx, io.Ref, io.Size)
	if err != nil {
		return nil, err
	}
	return frame.Open(f.r.img, io, o)
}

func (f *fetcher) span(ctx context.Context, o *frame.Object, s frame.Span) error {
	n := int(s.End - s.Off)
	if cap(f.raw) < n {
		f.raw = make([]byte, max(n, min(rangeSize, 2*cap(f.raw))))
	}
	raw := f.raw[:n]
	if err := o.ReadAt(ctx, raw, s.Off); err != nil {
		return err
	}
	f.r.fetched(int64(n))
	for _, p := range s.Parts {
		if err := f.part(o, p, s.Sealed(raw, p)); err != nil {
			return err
		}
	}
	return nil
}

// part opens a frame and gathers what is taken of it.
func (f *fetcher) part(o *frame.Object, p frame.Part, sealed []byte) error {
	first, n := bits.TrailingZeros16(p.Take), bits.OnesCount16(p.Take)
	f.r.gave(int64(n) * dr.BlockSize)
	if p.Take != p.Entry.Mask || bits.Len16(p.Take)-first != n {
		return f.scattered(o, p, sealed)
	}
	// One run of blocks, all of them taken: opened where it is written from.
	room, err := f.out.room(f.r.byDisk[p.Disk], p.At(first), n*dr.BlockSize)
	if err != nil {
		return err
	}
	if _, err = o.Blocks(room, p, sealed, !f.r.opts.SkipHashes); err != nil {
		return err
	}
	f.out.keep(n * dr.BlockSize)
	return nil
}

// scattered opens a frame aside and gathers the blocks that are taken.
func (f *fetcher) scattered(o *frame.Object, p frame.Part, sealed []byte) (err error) {
	if f.blocks, err = o.Blocks(f.blocks[:0], p, sealed, !f.r.opts.SkipHashes); err != nil {
		return err
	}
	blocks := f.blocks
	for mask := p.Entry.Mask; mask != 0; mask &= mask - 1 {
		i := bits.TrailingZeros16(mask)
		if p.Take>>i&1 != 0 {
			room, err := f.out.room(f.r.byDisk[p.Disk], p.At(i), dr.BlockSize)
			if err != nil {
				return err
			}
			f.out.keep(copy(room[:dr.BlockSize], blocks))
		}
		blocks = blocks[dr.BlockSize:]
	}
	return nil
}
