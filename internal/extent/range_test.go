package extent

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// small draws ranges within four chunks, where every byte can be checked.
func small(t *rapid.T, label string) Range {
	off := rapid.Int64Range(0, 4*ChunkSize).Draw(t, label+".off")
	return Range{off, rapid.Int64Range(0, 4*ChunkSize-off).Draw(t, label+".len")}
}

func (r Range) has(x int64) bool { return x >= r.Off && x < r.Off+r.Len }

func TestIntersectIsTheSharedBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := small(t, "a"), small(t, "b")
		got := a.Intersect(b)
		if got != b.Intersect(a) {
			t.Fatalf("not symmetric: %v and %v", got, b.Intersect(a))
		}
		for _, edge := range []int64{a.Off, a.End(), b.Off, b.End()} {
			for x := edge - 1; x <= edge+1; x++ {
				if got.has(x) != (a.has(x) && b.has(x)) {
					t.Fatalf("byte %d of %v in %v ∩ %v", x, got, a, b)
				}
			}
		}
		if (got.Len > 0) == got.Empty() || got.Empty() != (got == Range{}) {
			t.Fatalf("overlap of %v and %v: %v", a, b, got)
		}
		if a.Contains(b) != (b.Empty() || got == b) {
			t.Fatalf("%v contains %v, but they share %v", a, b, got)
		}
	})
}

func TestAlign(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := small(t, "r")
		g := rapid.SampledFrom([]int64{512, BlockSize, ChunkSize}).Draw(t, "grain")
		aligned := func(r Range) bool { return (r.Off|r.Len)&(g-1) == 0 }
		out := r.AlignOut(g)
		if !aligned(out) {
			t.Fatalf("%v out %v: not aligned to %d", r, out, g)
		}
		if !out.Contains(r) {
			t.Fatalf("%v not in %v", r, out)
		}
		if !r.Empty() && (r.Off-out.Off >= g || out.End()-r.End() >= g) {
			t.Fatalf("%v out to %v takes a whole grain too much", r, out)
		}
		if aligned(r) && !r.Empty() && out != r {
			t.Fatalf("aligned %v became %v", r, out)
		}
	})
}

func TestChunksCoverExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := small(t, "r")
		at := r.Off
		for c, part := range r.Chunks() {
			if part.Off != at || part.Empty() || !Chunk(c).Contains(part) {
				t.Fatalf("%v: part %v of chunk %d at %d", r, part, c, at)
			}
			at = part.End()
		}
		if at != r.End() {
			t.Fatalf("%v: parts end at %d", r, at)
		}
	})
	for range (Range{0, 10 * ChunkSize}).Chunks() {
		break // stopping early must be allowed
	}
	for c, part := range (Range{MaxSize - 1, 1}).Chunks() {
		if c != 1<<30-1 || part.Len != 1 {
			t.Fatalf("last byte: chunk %d %v", c, part)
		}
	}
}

func TestMaskMatchesBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		off := rapid.Int64Range(-ChunkSize, 2*ChunkSize).Draw(t, "off")
		n := rapid.Int64Range(0, 3*ChunkSize).Draw(t, "n")
		var want uint16
		for b := range int64(BlocksPerChunk) {
			if !(Range{off, n}).Intersect(Range{b * BlockSize, BlockSize}).Empty() {
				want |= 1 << b
			}
		}
		if got := Mask(off, n); got != want {
			t.Fatalf("Mask(%d, %d) = %016b, want %016b", off, n, got, want)
		}
	})
}

func TestRunsOfEveryMask(t *testing.T) {
	for m := range 1 << BlocksPerChunk {
		var got uint16
		last := int64(-1)
		for r := range Runs(uint16(m)) {
			if r.Off <= last || r.Empty() {
				t.Fatalf("mask %016b: run %v after byte %d", m, r, last)
			}
			last = r.End() // a neighbouring run would begin here: runs must be longest
			got |= Mask(r.Off, r.Len)
		}
		if got != uint16(m) {
			t.Fatalf("mask %016b: runs give %016b", m, got)
		}
	}
	for range Runs(0x5555) {
		break
	}
}

func TestInNeverOverflows(t *testing.T) {
	for _, c := range []struct {
		r    Range
		size int64
		want bool
	}{
		{Range{0, 0}, 0, true},
		{Range{0, 10}, 10, true},
		{Range{10, 0}, 10, true},
		{Range{1, 10}, 10, false},
		{Range{11, 0}, 10, false},
		{Range{-1, 1}, 10, false},
		{Range{1, -1}, 10, false},
		{Range{math.MaxInt64, math.MaxInt64}, 10, false},
		{Range{5, math.MaxInt64}, 10, false},
		{Range{math.MinInt64, math.MinInt64}, 10, false},
	} {
		if got := c.r.In(c.size); got != c.want {
			t.Errorf("%v in %d: got %v, want %v", c.r, c.size, got, c.want)
		}
	}
}
