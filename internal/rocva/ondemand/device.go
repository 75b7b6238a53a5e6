package ondemand

import (
	"context"
	"errors"
	"io"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/nbd"
)

// device is a disk as an NBD server sees it.
type device struct{ d *disk }

var _ nbd.Disk = (*device)(nil)

// Size implements nbd.Primary.
func (v *device) Size() int64 { return v.d.size }

// Submit implements nbd.Device. A read of what is held and in memory is answered
// at once: a hand-over to a goroutine and to the connection's writer cost more
// than the read, and guests got 0.70 of the reads of a plain file. Any other
// operation has a goroutine, since it may wait for the store or the disk;
// connections bound their number.
func (v *device) Submit(op *nbd.Op) {
	if !v.d.set.gate.enter() {
		op.Complete(errs.New("ondemand.Submit", errs.Unavailable, v.d.path, "the disk is closed"))
		return
	}
	var missing []want
	if op.Kind == nbd.Read {
		v.d.set.fetch.boot.touch()
		missing = v.d.look(op.Offset, op.Length)
		if len(missing) == 0 && v.d.readCached(op.Data, op.Offset) {
			op.Complete(nil)
			v.d.set.gate.leave()
			return
		}
	}
	go func() {
		defer v.d.set.gate.leave()
		op.Complete(v.do(op, missing))
	}()
}

// do executes op; missing is what a read has to wait for.
func (v *device) do(op *nbd.Op, missing []want) error {
	ctx, r := v.d.set.ctx, extent.Range{Off: op.Offset, Len: op.Length}
	switch op.Kind {
	case nbd.Read:
		return v.d.guestRead(ctx, op.Data, op.Offset, missing)
	case nbd.Write:
		err := v.d.guestWrite(ctx, r, func(part extent.Range) error {
			return v.d.write(op.Data[part.Off-op.Offset:][:part.Len], part.Off)
		})
		return v.settle(ctx, op, err)
	case nbd.Trim:
		if r = v.d.alignIn(r); r.Empty() {
			return v.settle(ctx, op, nil)
		}
		return v.settle(ctx, op, v.d.guestWrite(ctx, r, v.d.zero))
	case nbd.WriteZeroes:
		return v.settle(ctx, op, v.d.guestWrite(ctx, r, v.d.zero))
	case nbd.Flush:
		return v.d.ledger.flush(ctx)
	}
	return errs.New("ondemand.Submit", errs.Invalid, v.d.path, "unknown operation")
}

// settle ends a write: with FUA it is answered when it is durable.
func (v *device) settle(ctx context.Context, op *nbd.Op, err error) error {
	if err == nil && op.Flags&nbd.FUA != 0 {
		err = v.d.ledger.flush(ctx)
	}
	return err
}

// ReadAt implements nbd.Primary.
func (v *device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errs.New("ondemand.ReadAt", errs.Invalid, v.d.path, "negative offset")
	}
	n := int(max(0, min(int64(len(p)), v.d.size-off)))
	if n > 0 {
		if !v.d.set.gate.enter() {
			return 0, errs.New("ondemand.ReadAt", errs.Unavailable, v.d.path, "the disk is closed")
		}
		defer v.d.set.gate.leave()
		if err := v.d.guestRead(v.d.set.ctx, p[:n], off, v.d.look(off, int64(n))); err != nil {
			return 0, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// NextData implements nbd.Primary: what the checkpoint has content for or the
// guest wrote may be data, the rest is zeroes.
func (v *device) NextData(off int64) (start, end int64, err error) {
	return nextData(v.d.size, off, func(c uint32) uint16 { return v.d.content[c] | v.d.writes(c) })
}

// nextData finds the first run of blocks at or after off that data says may be
// data.
func nextData(size, off int64, data func(chunk uint32) uint16) (start, end int64, err error) {
	const full = all16
	block := max(off, 0) / dr.BlockSize
	blocks := (size + dr.BlockSize - 1) / dr.BlockSize
	run := func(want bool) {
		for block < blocks {
			m := data(uint32(block / dr.BlocksPerChunk))
			switch {
			case m>>(block%dr.BlocksPerChunk)&1 == 1 != want:
				return
			case block%dr.BlocksPerChunk == 0 && (want && m == full || !want && m == 0):
				block += dr.BlocksPerChunk
			default:
				block++
			}
		}
	}
	run(false)
	start = min(max(block*dr.BlockSize, off), size)
	run(true)
	return start, min(block*dr.BlockSize, size), nil
}

// alignIn is the whole blocks in r; the last one of a disk may be short.
func (d *disk) alignIn(r extent.Range) extent.Range {
	lo, hi := (r.Off+dr.BlockSize-1)&^(dr.BlockSize-1), r.End()&^(dr.BlockSize-1)
	if r.End() == d.size {
		hi = d.size
	}
	return extent.Range{Off: lo, Len: max(0, hi-lo)}
}

// look hears of a read of n bytes at off, n > 0, and says which blocks of it are
// absent. It waits for nothing.
func (d *disk) look(off, n int64) (missing []want) {
	r := extent.Range{Off: off, Len: n}
	first, last := chunkSpan(r)
	d.set.record.note(d.place, first, last)
	if d.present.Load() == d.blocks {
		return nil
	}
	missing = wants(d, first, last, func(c uint32) uint16 {
		touched, _ := blocksOf(c, r, d.size)
		return touched
	})
	d.set.fetch.lookAhead(d.set.ctx, &d.set.gate, &d.ahead, d, first, last, len(missing) > 0, uint32(len(d.state)))
	return missing
}

// readCached fills p with what is held; false when it would wait for the device,
// or failed: then whoever waits finds out why.
func (d *disk) readCached(p []byte, off int64) bool {
	if d.cached == nil {
		return false
	}
	n, err := d.cached.ReadCached(p, off)
	return err == nil && n == len(p)
}

// guestRead fills p, having fetched what is missing of it.
func (d *disk) guestRead(ctx context.Context, p []byte, off int64, missing []want) error {
	if len(missing) > 0 {
		if err := d.set.fetch.hold(ctx, d, missing); err != nil {
			return err
		}
	}
	n, err := d.file.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return errs.E("ondemand.read", errs.Internal, d.path, err)
}
