package index

import (
	"iter"
	"math/bits"

	"holdfast/internal/dr"
)

// Blocks is a set of blocks of one disk: 2 bytes for each chunk it was told
// of, none for stretches of 256 MiB that are in it as a whole or not at all.
// Blocks behind the disk's end are never in it. One goroutine uses a Blocks at
// a time; a nil one is empty.
type Blocks struct {
	c   *coverage
	all uint64 // blocks of the disk
}

// NewBlocks returns the empty set of a disk of size bytes, which is within
// 0..dr.MaxDiskSize.
func NewBlocks(size int64) *Blocks {
	c := newCoverage(size)
	return &Blocks{c: c, all: c.left}
}

// Add adds blocks of a chunk, bit 0 its first.
func (b *Blocks) Add(chunk uint32, mask uint16) { b.c.add(chunk, mask) }

// AddBytes adds every block touched by n bytes from off; parts outside the
// disk are left out.
func (b *Blocks) AddBytes(off, n int64) {
	end := min(off+min(n, dr.MaxDiskSize), int64(b.c.chunks)*dr.ChunkSize)
	off = max(off, 0)
	for off < end {
		chunk, in := uint32(off/dr.ChunkSize), off%dr.ChunkSize
		if whole := uint32(end / dr.ChunkSize); in == 0 && whole > chunk {
			b.c.addRange(chunk, whole)
			off = int64(whole) * dr.ChunkSize
			continue
		}
		first := uint(in / dr.BlockSize)
		last := uint((min(end-off+in, dr.ChunkSize) - 1) / dr.BlockSize)
		b.c.add(chunk, uint16(uint32(fullMask)>>(dr.BlocksPerChunk-1-last)&^(1<<first-1)))
		off = int64(chunk+1) * dr.ChunkSize
	}
}

// AddAll adds the whole disk.
func (b *Blocks) AddAll() { b.c.addRange(0, b.c.chunks) }

// Union adds what is in o, which may be of a disk of another size.
func (b *Blocks) Union(o *Blocks) {
	for chunk, mask := range o.Chunks() {
		b.c.add(chunk, mask)
	}
}

// Count is the number of blocks in the set.
func (b *Blocks) Count() uint64 {
	if b == nil {
		return 0
	}
	return b.all - b.c.left
}

// Mask returns which blocks of a chunk are in the set.
func (b *Blocks) Mask(chunk uint32) uint16 {
	if b == nil {
		return 0
	}
	return b.c.mask(chunk)
}

// Chunks yields the chunks of which blocks are in the set, ascending, and the
// blocks. The set must not change meanwhile.
func (b *Blocks) Chunks() iter.Seq2[uint32, uint16] {
	return func(yield func(uint32, uint16) bool) {
		if b == nil {
			return
		}
		for page := range b.c.pages {
			if b.c.pages[page] == nil && !b.c.whole[page] {
				continue
			}
			first := uint32(page) * coverPage
			for c := first; c < min(first+coverPage, b.c.chunks); c++ {
				if m := b.c.mask(c); m != 0 && !yield(c, m) {
					return
				}
			}
		}
	}
}

// Bytes yields the set as stretches of bytes, ascending and apart; the last may
// end behind a disk that ends inside a block.
func (b *Blocks) Bytes() iter.Seq2[int64, int64] {
	return func(yield func(off, n int64) bool) {
		var off, n int64
		for chunk, mask := range b.Chunks() {
			for m := uint32(mask); m != 0; {
				first := bits.TrailingZeros32(m)
				count := bits.TrailingZeros32(^(m >> first))
				m &^= (1<<count - 1) << first
				at := int64(chunk)*dr.ChunkSize + int64(first)*dr.BlockSize
				if n > 0 && off+n == at {
					n += int64(count) * dr.BlockSize
					continue
				}
				if n > 0 && !yield(off, n) {
					return
				}
				off, n = at, int64(count)*dr.BlockSize
			}
		}
		if n > 0 {
			yield(off, n)
		}
	}
}

// Without yields the stretches of b that are not in o, as Bytes does.
func (b *Blocks) Without(o *Blocks) iter.Seq2[int64, int64] {
	rest := &Blocks{c: b.c.clone(), all: b.all}
	rest.c.remove(o)
	return rest.Bytes()
}

// mask is which blocks of a chunk are covered.
func (c *coverage) mask(chunk uint32) uint16 {
	if chunk >= c.chunks {
		return 0
	}
	own := uint16(fullMask)
	if chunk == c.chunks-1 {
		own = c.last
	}
	if c.whole[chunk/coverPage] {
		return own
	}
	if p := c.pages[chunk/coverPage]; p != nil {
		return p[chunk%coverPage] & own
	}
	return 0
}

func (c *coverage) clone() *coverage {
	n := *c
	n.pages, n.whole = make([]*maskPage, len(c.pages)), append([]bool(nil), c.whole...)
	for i, p := range c.pages {
		if p != nil {
			q := *p
			n.pages[i] = &q
		}
	}
	return &n
}

// remove uncovers what is in o.
func (c *coverage) remove(o *Blocks) {
	for page := range c.pages {
		if c.pages[page] == nil && !c.whole[page] {
			continue
		}
		first := uint32(page) * coverPage
		for chunk := first; chunk < min(first+coverPage, c.chunks); chunk++ {
			if m := o.Mask(chunk) & c.mask(chunk); m != 0 {
				c.split(page)
				c.pages[page][chunk-first] &^= m
				c.left += uint64(bits.OnesCount16(m))
			}
		}
	}
}

// split gives a page that is covered at one stroke its masks back.
func (c *coverage) split(page int) {
	if !c.whole[page] {
		return
	}
	p := new(maskPage)
	first := uint32(page) * coverPage
	for chunk := first; chunk < min(first+coverPage, c.chunks); chunk++ {
		p[chunk-first] = c.mask(chunk)
	}
	c.whole[page], c.pages[page] = false, p
}

// only covers all that is not in b.
func (c *coverage) only(b *Blocks) {
	for page := range c.pages {
		first := uint32(page) * coverPage
		switch {
		case b == nil || b.c.untouched(page):
			c.addPage(uint32(page))
		default:
			for chunk := first; chunk < min(first+coverPage, c.chunks); chunk++ {
				c.add(chunk, ^b.Mask(chunk))
			}
		}
	}
}

// untouched reports whether nothing of a page is covered.
func (c *coverage) untouched(page int) bool {
	return page >= len(c.pages) || c.pages[page] == nil && !c.whole[page]
}
