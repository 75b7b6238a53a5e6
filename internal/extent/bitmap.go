package extent

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

const wordBits = 64

// Bitmap remembers which chunks of one disk are dirty, one bit each: 8 MiB
// for 4 TiB. It is bounded by the disk's size and allocates only when made.
//
// All methods may be called concurrently and never block; a bit set before a
// call began is seen by it. Calls over many chunks ([Bitmap.Set],
// [Bitmap.SetAll], [Bitmap.Count]) are atomic per 64 chunks, not as a whole.
// The zero value is a bitmap of an empty disk.
type Bitmap struct {
	size  int64
	words []atomic.Uint64
	count atomic.Int64 // set bits; follows each change of a word
}

// NewBitmap returns an all-clear bitmap for a disk of size bytes; a last,
// partial chunk counts as one. Sizes are checked where disks are attached:
// like make, it panics when size is negative or above MaxSize.
func NewBitmap(size int64) *Bitmap {
	if size < 0 || size > MaxSize {
		panic(fmt.Sprintf("extent.NewBitmap: size %d is not within 0..%d", size, int64(MaxSize)))
	}
	chunks := (size + ChunkSize - 1) / ChunkSize
	return &Bitmap{size: size, words: make([]atomic.Uint64, (chunks+wordBits-1)/wordBits)}
}

// Size is the disk's size in bytes.
func (b *Bitmap) Size() int64 { return b.size }

// Chunks is the number of chunks the bitmap covers.
func (b *Bitmap) Chunks() int64 { return (b.size + ChunkSize - 1) / ChunkSize }

// Set marks every chunk touched by n bytes from off. Parts outside the disk
// are ignored.
func (b *Bitmap) Set(off, n int64) {
	lo := max(off, 0)
	if n <= 0 || lo >= b.size {
		return
	}
	hi := b.size
	if off < b.size-n { // off+n would be below size, and so does not overflow
		hi = off + n
	}
	if hi <= lo {
		return
	}
	b.setChunks(lo/ChunkSize, (hi-1)/ChunkSize)
}

// SetAll marks every chunk.
func (b *Bitmap) SetAll() { b.Set(0, b.size) }

// setChunks marks chunks first to last, both included and both on the disk.
func (b *Bitmap) setChunks(first, last int64) {
	for w := first / wordBits; w <= last/wordBits; w++ {
		mask := ^uint64(0)
		if w == first/wordBits {
			mask &= ^uint64(0) << (first % wordBits)
		}
		if w == last/wordBits {
			mask &= ^uint64(0) >> (wordBits - 1 - last%wordBits)
		}
		old := b.words[w].Or(mask)
		if fresh := bits.OnesCount64(mask &^ old); fresh != 0 {
			b.count.Add(int64(fresh))
		}
	}
}

// ClearChunk clears a chunk's bit and reports whether it was set: of any
// number of concurrent clearers exactly one is told so. A chunk beyond the
// disk is never set.
func (b *Bitmap) ClearChunk(chunk uint32) bool {
	if int64(chunk) >= b.Chunks() {
		return false
	}
	bit := uint64(1) << (chunk % wordBits)
	if b.words[chunk/wordBits].And(^bit)&bit == 0 {
		return false
	}
	b.count.Add(-1)
	return true
}

// Test reports whether a chunk's bit is set. A chunk beyond the disk is never
// set.
func (b *Bitmap) Test(chunk uint32) bool {
	return int64(chunk) < b.Chunks() && b.words[chunk/wordBits].Load()>>(chunk%wordBits)&1 != 0
}

// Count is the number of set chunks; exact when nothing changes meanwhile.
func (b *Bitmap) Count() int64 { return b.count.Load() }

// Next returns the first set chunk at or after from; ok is false when there
// is none.
func (b *Bitmap) Next(from uint32) (chunk uint32, ok bool) {
	w := int64(from) / wordBits
	if w >= int64(len(b.words)) {
		return 0, false
	}
	word := b.words[w].Load() &^ (uint64(1)<<(from%wordBits) - 1)
	for word == 0 {
		if w++; w >= int64(len(b.words)) {
			return 0, false
		}
		word = b.words[w].Load()
	}
	return uint32(w)*wordBits + uint32(bits.TrailingZeros64(word)), true
}
