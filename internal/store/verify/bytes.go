package verify

import (
	"bytes"
	"context"
	"math/rand/v2"
	"time"
)

const remedyRanges = "use a store that answers range requests exactly; switch off proxies that cut or transform what they pass on"

// edgeRanges are {offset, length} around the ends of an object of rangeBody
// bytes and around page and part sizes.
var edgeRanges = [][2]int{
	{0, 1}, {0, 4096}, {1, 4096}, {4095, 2}, {4096, 64 << 10}, {65535, 65537}, {512<<10 - 1, 512<<10 + 2}, {0, rangeBody},
	{rangeBody - 1, 1}, {rangeBody - 10, 10}, {rangeBody - 10, 100}, {0, rangeBody + 100}, {rangeBody, 1}, {rangeBody, 4096},
	{rangeBody + 1, 10}, {rangeBody * 2, 10}, {rangeBody / 3, rangeBody},
}

func costRanges(s *scale, _ uint64) Budget {
	n := uint64(len(edgeRanges) + s.ranges)
	return Budget{1 + n, rangeBody, int64(n) * (rangeBody + 100)}
}

// tryRanges reads pieces of an object, at its edges and at random.
func tryRanges(ctx context.Context, p *probe) finding {
	key := p.prefix + "ranges"
	m, err := p.put(ctx, p.conns[0], key, rangeBody)
	if err != nil {
		return *trouble("creating", err)
	}
	want := body(m)
	ranges := edgeRanges[:len(edgeRanges):len(edgeRanges)]
	src := rand.New(rand.NewPCG(p.fresh(), 2))
	for range p.scale.ranges {
		off := src.IntN(rangeBody)
		ranges = append(ranges, [2]int{off, 1 + src.IntN(min(rangeBody-off, 128<<10))})
	}
	for i, r := range ranges {
		off, n := r[0], r[1]
		b := make([]byte, n)
		got, err := p.conn(i).readRange(ctx, key, b, int64(off))
		if err != nil {
			return *trouble("reading a range", err)
		}
		rest := want[min(off, rangeBody):min(off+n, rangeBody)]
		if got != len(rest) {
			return *fail(remedyRanges, "%d bytes at %d of an object of %d: %d came instead of %d", n, off, rangeBody, got, len(rest))
		}
		if !bytes.Equal(b[:got], rest) {
			return *fail(remedyRanges, "%d bytes at %d of an object of %d are not those written", n, off, rangeBody)
		}
	}
	return pass("%d ranges exact, at the edges and past the end", len(ranges))
}

func costObjectSize(s *scale, _ uint64) Budget {
	pieces := uint64(s.object/readPiece) + 1
	return Budget{2 + pieces, s.object, s.object + 1}
}

// tryObjectSize writes the largest object a container can hold and reads it
// back, which also shows whether anything is cut off silently.
func tryObjectSize(ctx context.Context, p *probe) finding {
	const remedy = "raise the limit on the size of requests, in the store and in every proxy before it, to 32 MiB and more"
	key := p.prefix + "large"
	began := time.Now()
	m, err := p.put(ctx, p.conns[0], key, int(p.scale.object))
	if err != nil {
		f := trouble("creating an object of "+mib(p.scale.object), err)
		f.remedy = remedy
		return *f
	}
	put := time.Since(began)
	if f := p.holds(ctx, p.conn(1), key, m); f != nil {
		if f.verdict == Fail {
			f.remedy = remedy
		}
		return *f
	}
	if p.opts.Quick {
		return pass("%s written in %v and read back; a full trial writes %s", mib(p.scale.object), put.Round(time.Millisecond), mib(fullScale.object))
	}
	return pass("%s, the most there can be, written in %v and read back", mib(p.scale.object), put.Round(time.Millisecond))
}
