package journal

import (
	"math/bits"

	"holdfast/internal/dr"
)

// coverPage is the number of chunks whose masks are allocated together: 2 GiB
// of a disk in 64 KiB of memory.
const coverPage = 1 << 15

const fullMask = 1<<dr.BlocksPerChunk - 1

type maskPage [coverPage]uint16

// coverage is the set of a disk's blocks that a newer object has answered
// for: 2 bytes a chunk, allocated where needed. Pages covered at one stroke
// take none.
type coverage struct {
	blocks uint64 // of the disk
	left   uint64 // not covered
	pages  []*maskPage
	whole  []bool // page is covered at one stroke
}

func newCoverage(size int64) *coverage {
	blocks := (uint64(size) + dr.BlockSize - 1) / dr.BlockSize
	chunks := (blocks + dr.BlocksPerChunk - 1) / dr.BlocksPerChunk
	n := (chunks + coverPage - 1) / coverPage
	return &coverage{blocks: blocks, left: blocks, pages: make([]*maskPage, n), whole: make([]bool, n)}
}

// within is the part of chunk that lies on the disk.
func (c *coverage) within(chunk uint64) uint16 {
	first := chunk * dr.BlocksPerChunk
	switch {
	case first >= c.blocks:
		return 0
	case c.blocks-first >= dr.BlocksPerChunk:
		return fullMask
	}
	return 1<<(c.blocks-first) - 1
}

// add covers mask of chunk and returns the blocks that were not covered yet
// and lie on the disk.
func (c *coverage) add(chunk uint64, mask uint16) uint16 {
	mask &= c.within(chunk)
	i := chunk / coverPage
	if mask == 0 || c.whole[i] {
		return 0
	}
	p := c.pages[i]
	if p == nil {
		p = new(maskPage)
		c.pages[i] = p
	}
	fresh := mask &^ p[chunk%coverPage]
	p[chunk%coverPage] |= mask
	c.left -= uint64(bits.OnesCount16(fresh))
	return fresh
}

// addRange covers count blocks from first.
func (c *coverage) addRange(first, count uint64) {
	if first >= c.blocks {
		return
	}
	end := first + min(count, c.blocks-first)
	const pageBlocks = coverPage * dr.BlocksPerChunk
	for first < end {
		if page := first / pageBlocks; first%pageBlocks == 0 && end >= min(first+pageBlocks, c.blocks) {
			c.coverPage(page, min(pageBlocks, c.blocks-first))
			first += pageBlocks
			continue
		}
		chunk, in := first/dr.BlocksPerChunk, first%dr.BlocksPerChunk
		n := min(dr.BlocksPerChunk-in, end-first)
		c.add(chunk, uint16((1<<n-1)<<in))
		first += n
	}
}

// coverPage covers all of a page, which has blocks blocks on the disk.
func (c *coverage) coverPage(page, blocks uint64) {
	if c.whole[page] {
		return
	}
	if p := c.pages[page]; p != nil {
		for _, m := range p {
			blocks -= uint64(bits.OnesCount16(m))
		}
	}
	c.left -= blocks
	c.whole[page], c.pages[page] = true, nil
}

func maskBytes(mask uint16) int64 { return int64(bits.OnesCount16(mask)) * dr.BlockSize }
