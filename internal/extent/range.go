package extent

import (
	"iter"
	"math/bits"

	"holdfast/internal/dr"
)

// The units of capture and the largest disk, in bytes, by the short names
// arithmetic wants.
const (
	BlockSize      = dr.BlockSize
	ChunkSize      = dr.ChunkSize
	BlocksPerChunk = dr.BlocksPerChunk
	MaxSize        = dr.MaxDiskSize
)

// Range is Len bytes from byte Off of a disk (or of a chunk, where a function
// says so). The zero value is empty.
type Range struct {
	Off, Len int64
}

// End is the first byte after r.
func (r Range) End() int64 { return r.Off + r.Len }

// Empty reports whether r covers nothing.
func (r Range) Empty() bool { return r.Len <= 0 }

// In reports whether r is well formed and lies inside a disk of size bytes.
// It is the check for ranges that come from outside: no value makes it
// overflow.
func (r Range) In(size int64) bool {
	return r.Off >= 0 && r.Len >= 0 && r.Off <= size && r.Len <= size-r.Off
}

// Contains reports whether every byte of o is in r. An empty o is contained.
func (r Range) Contains(o Range) bool {
	return o.Empty() || o.Off >= r.Off && o.End() <= r.End()
}

// Intersect is the bytes in both ranges; the zero Range when there are none.
func (r Range) Intersect(o Range) Range {
	lo, hi := max(r.Off, o.Off), min(r.End(), o.End())
	if hi <= lo {
		return Range{}
	}
	return Range{lo, hi - lo}
}

// AlignOut is the smallest range of whole grains that contains r. grain is a
// power of two, as BlockSize or ChunkSize. An empty r stays empty.
func (r Range) AlignOut(grain int64) Range {
	if r.Empty() {
		return Range{}
	}
	lo := r.Off &^ (grain - 1)
	hi := (r.End() + grain - 1) &^ (grain - 1)
	return Range{lo, hi - lo}
}

// Chunks yields r split at chunk boundaries, in order: the chunk's number and
// the part of r in it, still in bytes from the start of the disk.
func (r Range) Chunks() iter.Seq2[uint32, Range] {
	return func(yield func(uint32, Range) bool) {
		for off, end := r.Off, r.End(); off < end; {
			next := min(off&^(ChunkSize-1)+ChunkSize, end)
			if !yield(uint32(off/ChunkSize), Range{off, next - off}) {
				return
			}
			off = next
		}
	}
}

// Chunk is the whole range of chunk number c.
func Chunk(c uint32) Range { return Range{int64(c) * ChunkSize, ChunkSize} }

// Mask has a bit for each block touched by n bytes from byte off of a chunk.
// Bytes outside 0..ChunkSize are ignored.
func Mask(off, n int64) uint16 {
	r := Range{off, n}.Intersect(Range{0, ChunkSize}).AlignOut(BlockSize)
	count := uint(r.Len / BlockSize)
	return uint16((uint32(1)<<count - 1) << uint(r.Off/BlockSize))
}

// Runs yields the runs of neighbouring blocks in mask, in order, in bytes
// from the start of the chunk.
func Runs(mask uint16) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		for m := uint32(mask); m != 0; {
			first := bits.TrailingZeros32(m)
			count := bits.TrailingZeros32(^(m >> first))
			if !yield(Range{int64(first) * BlockSize, int64(count) * BlockSize}) {
				return
			}
			m &^= (uint32(1)<<count - 1) << first
		}
	}
}
