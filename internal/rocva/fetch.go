package rocva

import (
	"context"
	"fmt"
	"math/bits"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

// span is a run of pieces of one object that is read at once.
type span struct {
	off, end int64
	pieces   []journal.Piece
}

// spans groups pieces, which are in the order of offsets, into reads of at
// most rangeSize bytes that swallow gaps of at most gapSize.
func spans(pieces []journal.Piece) []span {
	var out []span
	for i, p := range pieces {
		off := int64(p.Entry.Offset)
		end := off + int64(p.Entry.Stored)
		if n := len(out); n > 0 && off-out[n-1].end <= gapSize && end-out[n-1].off <= rangeSize {
			s := &out[n-1]
			s.end = max(s.end, end)
			s.pieces = s.pieces[:len(s.pieces)+1]
			continue
		}
		out = append(out, span{off, end, pieces[i : i+1 : len(pieces)]})
	}
	return out
}

// fetcher fetches objects, one at a time. Each worker has its own.
type fetcher struct {
	r      *run
	raw    []byte // of the span being written
	blocks []byte // of the frame being written
}

// Recovery path, step 5: fetch. Objects in the order of their bytes, a few
// ranges at once.

// object writes all that image object i gives to the targets.
func (f *fetcher) object(ctx context.Context, i int) error {
	io := &f.r.img.Objects[i]
	pieces := f.r.wanted(io.Pieces)
	if len(pieces) == 0 {
		return nil
	}
	o, err := f.r.c.OpenObject(ctx, f.r.img.Timeline, io.Number)
	if err != nil {
		return f.r.explain(err)
	}
	for _, s := range spans(pieces) {
		if err := f.span(ctx, o, s); err != nil {
			return err
		}
	}
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
	for i := range s.pieces {
		p := &s.pieces[i]
		if err := f.piece(o, p, raw[int64(p.Entry.Offset)-s.off:][:p.Entry.Stored]); err != nil {
			return err
		}
	}
	return nil
}

func (f *fetcher) piece(o *journal.Object, p *journal.Piece, sealed []byte) (err error) {
	t := f.r.byDisk[p.Disk]
	if int(p.Entry.Disk) >= len(o.Footer.Disks) || o.Footer.Disks[p.Entry.Disk] != t.Disk {
		return f.r.explain(errs.New("rocva.Full", errs.Corrupt, o.Key, "the object is not the one the checkpoint was resolved with"))
	}
	f.blocks, err = o.OpenFrame(f.blocks[:0], &p.Entry, sealed, !f.r.opts.SkipHashes)
	if err != nil {
		return f.r.explain(errs.E("rocva.Full", errs.Internal, o.Key,
			fmt.Errorf("disk %s, chunk %d (byte %d of the disk): %w", t.Disk, p.Entry.Chunk, int64(p.Entry.Chunk)*dr.ChunkSize, err)))
	}
	if len(f.blocks) != bits.OnesCount16(p.Entry.Mask)*dr.BlockSize {
		return f.r.explain(errs.New("rocva.Full", errs.Corrupt, o.Key, "a frame holds another number of blocks than its footer says"))
	}
	n, err := t.write(p.Entry.Chunk, p.Entry.Mask, p.Take, f.blocks)
	f.r.wrote(int64(bits.OnesCount16(p.Take))*dr.BlockSize, n)
	return err
}
