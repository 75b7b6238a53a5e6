package drva

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/record"
)

// TestCellKeepsTheNewestState compares a cell after random records with a
// plain map of blocks.
func TestCellKeepsTheNewestState(t *testing.T) {
	const blocks = 600
	rng := seeded(t)
	id := dr.DiskID{UUID: dr.NewUUID()}
	for range 60 {
		c := newCell(1 << 40)
		c.begin(1)
		want := map[uint64][]byte{} // nil: zeroed
		for seq := dr.Seq(1); seq < 80; seq++ {
			first := rng.Uint64N(blocks)
			n := min(1+rng.Uint64N(60), blocks-first)
			r := record.Record{Kind: record.Zero, Seq: seq, Offset: first * dr.BlockSize, Length: uint32(n * dr.BlockSize)}
			if rng.IntN(3) > 0 {
				r.Kind, r.Payload = record.Data, randomBytes(rng, int(r.Length))
			}
			c.write(id, &r)
			for i := range n {
				want[first+i] = nil
				if r.Payload != nil {
					want[first+i] = r.Payload[i*dr.BlockSize : (i+1)*dr.BlockSize]
				}
			}
		}
		checkCell(t, c, id, want)
	}
}

// checkCell packs nothing: it reads the cell as pack does.
func checkCell(t *testing.T, c *cell, id dr.DiskID, want map[uint64][]byte) {
	t.Helper()
	d, data := c.disks[id], 0
	for chunk, x := range d.chunks {
		for i := range uint64(dr.BlocksPerChunk) {
			if x.mask&(1<<i) == 0 {
				continue
			}
			data++
			b := uint64(chunk)*dr.BlocksPerChunk + i
			if p := want[b]; p == nil || !bytes.Equal(p, c.mem.block(x.slots[i])) {
				t.Fatalf("block %d has the wrong data", b)
			}
			delete(want, b)
		}
	}
	if data != c.mem.used() {
		t.Fatalf("%d blocks of data, %d in the arena", data, c.mem.used())
	}
	for i, z := range d.zeros {
		if z.first >= z.end || i > 0 && d.zeros[i-1].end >= z.first {
			t.Fatalf("zero runs are not sorted and disjoint: %v", d.zeros)
		}
		for b := z.first; b < z.end; b++ {
			if p, ok := want[b]; ok && p != nil {
				t.Fatalf("block %d is zero, not data", b)
			}
			delete(want, b)
		}
	}
	if len(want) > 0 {
		t.Fatalf("%d blocks have no state", len(want))
	}
}

func randomBytes(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := 0; i < n; i += 512 {
		p[i] = byte(1 + rng.IntN(255))
	}
	return p
}

// TestCellIsBounded: a huge discard is one run, whatever it covers, and many
// small ones fill the cell.
func TestCellIsBounded(t *testing.T) {
	c := newCell(1 << 40)
	c.begin(1)
	id := dr.DiskID{UUID: dr.NewUUID()}
	for i := range uint64(64) {
		c.write(id, &record.Record{Kind: record.Discard, Seq: dr.Seq(i + 1), Offset: i * record.MaxRange, Length: record.MaxRange})
	}
	if c.runs != 1 || len(c.disks[id].chunks) != 0 {
		t.Errorf("64 GiB discarded: %d runs, %d chunks", c.runs, len(c.disks[id].chunks))
	}
	c.begin(1)
	for i := uint64(0); !c.full(); i++ {
		if i > objectZeros {
			t.Fatal("the cell never fills")
		}
		c.write(id, &record.Record{Kind: record.Zero, Seq: dr.Seq(i + 1), Offset: 2 * i * dr.BlockSize, Length: dr.BlockSize})
	}
}
