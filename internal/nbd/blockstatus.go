package nbd

import (
	"math"

	"golang.org/x/sys/unix"
)

// advisor serves CACHE, surveyor BLOCK_STATUS. Both may wait for the disk's
// map, so each request gets a goroutine; operations bound their number.
type (
	advisor  struct{ t *transmission }
	surveyor struct{ t *transmission }
)

func (a advisor) Submit(op *Op) {
	f, ok := a.t.disk.(*File)
	if !ok || f.direct {
		op.Complete(nil) // nothing to warm
		return
	}
	go func() { op.Complete(unix.Fadvise(f.fd, op.Offset, op.Length, unix.FADV_WILLNEED)) }()
}

func (s surveyor) Submit(op *Op) {
	go func() { op.Complete(s.survey(op)) }()
}

// survey builds the reply: one chunk with the context's id and pairs of
// length and state, which together cover the start of the range asked for.
func (s surveyor) survey(op *Op) error {
	limit := maxExtents
	if op.Scratch[0] != 0 {
		limit = 1
	}
	b := make([]byte, chunkSize+4, chunkSize+4+64)
	b, err := appendExtents(b, s.t.disk, op.Offset, op.Length, limit)
	if err != nil {
		return err
	}
	putChunk(b, op.cookie, chunkBlockStatus, uint32(len(b)-chunkSize))
	be.PutUint32(b[chunkSize:], contextAllocationID)
	op.region = b
	return nil
}

// appendExtents appends at most limit descriptors of [off, off+n).
func appendExtents(b []byte, p Primary, off, n int64, limit int) ([]byte, error) {
	end := off + n
	for limit > 0 && off < end {
		start, stop, err := p.NextData(off)
		if err != nil {
			return nil, err
		}
		var state uint32
		next := min(stop, end)
		if start > off {
			state, next = stateHole|stateZero, min(start, end)
		}
		if next <= off {
			return nil, unix.EIO // a map that does not move on
		}
		next = min(next, off+math.MaxUint32)
		b = be.AppendUint32(b, uint32(next-off))
		b = be.AppendUint32(b, state)
		off = next
		limit--
	}
	return b, nil
}
