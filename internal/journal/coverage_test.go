package journal

import (
	"testing"

	"holdfast/internal/dr"
)

// TestCoverageAgainstOneBoolPerBlock compares with the obvious representation.
func TestCoverageAgainstOneBoolPerBlock(t *testing.T) {
	rng := seeded(t)
	for range 40 {
		blocks := uint64(1 + rng.IntN(3*coverPage*dr.BlocksPerChunk))
		c := newCoverage(int64(blocks)*dr.BlockSize - int64(rng.IntN(dr.BlockSize)))
		want := make([]bool, blocks)
		for range 30 {
			if rng.IntN(2) == 0 {
				first, count := rng.Uint64N(blocks+10), rng.Uint64N(2*blocks)
				c.addRange(first, count)
				for b := first; b < min(first+count, blocks); b++ {
					want[b] = true
				}
				continue
			}
			chunk, mask := rng.Uint64N(blocks/dr.BlocksPerChunk+2), uint16(rng.Uint32())
			got := c.add(chunk, mask)
			for i := range uint64(dr.BlocksPerChunk) {
				b := chunk*dr.BlocksPerChunk + i
				fresh := mask>>i&1 == 1 && b < blocks && !want[b]
				if fresh != (got>>i&1 == 1) {
					t.Fatalf("block %d: fresh %v", b, fresh)
				}
				if fresh {
					want[b] = true
				}
			}
		}
		left := uint64(0)
		for _, w := range want {
			if !w {
				left++
			}
		}
		if c.left != left {
			t.Fatalf("%d blocks left, want %d", c.left, left)
		}
	}
	// The largest disk zeroed at one stroke takes no memory for masks.
	c := newCoverage(dr.MaxDiskSize)
	c.addRange(0, dr.MaxDiskSize/dr.BlockSize)
	if c.left != 0 {
		t.Fatalf("%d left", c.left)
	}
}
