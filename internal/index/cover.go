package index

import (
	"math/bits"

	"holdfast/internal/dr"
)

// coverPage is the number of chunks whose masks are allocated together: 256
// MiB of a disk in 8 KiB of memory.
const coverPage = 1 << 12

type maskPage [coverPage]uint16

// coverage is the set of a disk's blocks that a newer version has answered
// for: 2 bytes a chunk, allocated where needed.
type coverage struct {
	chunks uint32 // of the disk
	last   uint16 // the last chunk's blocks that lie on the disk
	left   uint64 // blocks not covered
	pages  []*maskPage
	whole  []bool // the page is covered at one stroke
}

func newCoverage(size int64) *coverage {
	blocks := (uint64(max(size, 0)) + dr.BlockSize - 1) / dr.BlockSize
	chunks := (blocks + dr.BlocksPerChunk - 1) / dr.BlocksPerChunk
	n := (chunks + coverPage - 1) / coverPage
	c := &coverage{chunks: uint32(chunks), last: fullMask, left: blocks, pages: make([]*maskPage, n), whole: make([]bool, n)}
	if rest := blocks % dr.BlocksPerChunk; rest != 0 {
		c.last = 1<<rest - 1
	}
	return c
}

// add covers blocks of a chunk and returns those that were not covered and lie
// on the disk.
func (c *coverage) add(chunk uint32, mask uint16) uint16 {
	if chunk >= c.chunks || c.whole[chunk/coverPage] {
		return 0
	}
	if chunk == c.chunks-1 {
		mask &= c.last
	}
	p := c.pages[chunk/coverPage]
	if p == nil {
		p = new(maskPage)
		c.pages[chunk/coverPage] = p
	}
	fresh := mask &^ p[chunk%coverPage]
	p[chunk%coverPage] |= mask
	c.left -= uint64(bits.OnesCount16(fresh))
	return fresh
}

// addRange covers the chunks from..to-1.
func (c *coverage) addRange(from, to uint32) {
	for to = min(to, c.chunks); from < to; {
		if page := from / coverPage; from%coverPage == 0 && to >= min(from+coverPage, c.chunks) {
			c.addPage(page)
			from += coverPage
			continue
		}
		c.add(from, fullMask)
		from++
	}
}

// addPage covers a page and gives its memory back.
func (c *coverage) addPage(page uint32) {
	if c.whole[page] {
		return
	}
	first := page * coverPage
	n := min(coverPage, c.chunks-first)
	blocks := uint64(n) * dr.BlocksPerChunk
	if first+n == c.chunks {
		blocks -= dr.BlocksPerChunk - uint64(bits.OnesCount16(c.last))
	}
	if p := c.pages[page]; p != nil {
		for _, m := range p {
			blocks -= uint64(bits.OnesCount16(m))
		}
	}
	c.left -= blocks
	c.pages[page], c.whole[page] = nil, true
}
