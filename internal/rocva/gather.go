package rocva

import (
	"holdfast/internal/dr"
	"holdfast/internal/durable"
)

// gather collects blocks that lie side by side on a disk, so that one write
// takes them all. The zero value is ready to use. It is one goroutine's.
//
// What room returned is written by flush, by room when it begins elsewhere,
// or not at all: an object counts as done only after a flush.
type gather struct {
	buf []byte  // gatherSize, page aligned; made when first needed
	n   int     // bytes of it that are filled
	t   *target // where they go
	at  int64   // byte of the disk
}

// room makes place for the n bytes of t from at, which the caller has yet to
// fill: n is at most a chunk. The result is empty with n bytes of capacity; keep tells
// that they are there.
func (g *gather) room(t *target, at int64, n int) ([]byte, error) {
	if g.buf == nil {
		g.buf = durable.AlignedBytes(gatherSize)
	}
	if g.t != t || g.at+int64(g.n) != at || g.n+n > len(g.buf) {
		if err := g.flush(); err != nil {
			return nil, err
		}
		g.t, g.at = t, at
	}
	return g.buf[g.n : g.n : g.n+n], nil
}

// keep adds n bytes of the room that was made last.
func (g *gather) keep(n int) { g.n += n }

// flush writes what was gathered. Blocks that are zeroes are left as the holes
// they are, where there was nothing before.
func (g *gather) flush() error {
	b, at := g.buf[:g.n], g.at
	g.n = 0
	if g.t != nil && g.t.stays {
		return g.t.put(b, at)
	}
	for len(b) > 0 {
		zeros := leading(b, true)
		b, at = b[zeros:], at+int64(zeros)
		data := leading(b, false)
		if err := g.t.put(b[:data], at); err != nil {
			return err
		}
		b, at = b[data:], at+int64(data)
	}
	return nil
}

// leading is how many bytes of b, which is whole blocks, come before the first
// block that is zeroes or not as zero says.
func leading(b []byte, zero bool) (n int) {
	for n < len(b) && isZero(b[n:n+dr.BlockSize]) == zero {
		n += dr.BlockSize
	}
	return n
}
