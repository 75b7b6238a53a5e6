package drva

import (
	"bytes"
	"cmp"
	"maps"
	"math/bits"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/segment"
)

// cell gathers records until an object is closed: of each block only the
// newest state. Owned by the shipper.
type cell struct {
	first dr.Seq // of the records covered; 0: none yet
	last  dr.Seq
	disks map[dr.DiskID]*diskCell
	mem   arena
	runs  int // zero runs of all disks
	metas []meta
	raw   uint64 // bytes of data that came in

	logged, most int64 // about what its records take in the log; closed from most on
}

// diskCell is one disk's part. Data is always newer than a zero run that
// covers the same block.
type diskCell struct {
	chunks map[uint32]*chunkCell
	zeros  []zeroRun // sorted, disjoint
}

// chunkCell is the data of one chunk.
type chunkCell struct {
	mask  uint16
	seq   dr.Seq // newest of its records
	slots [dr.BlocksPerChunk]uint32
}

// zeroRun is blocks [first, end), zeroed.
type zeroRun struct {
	first, end uint64
	seq        dr.Seq // newest of its records
}

// meta is a VM configuration to be stored before the object.
type meta struct {
	seq dr.Seq
	cfg dr.VMConfig
}

// newCell returns a cell that is closed when the records in it take most bytes
// of the log, however little of them is still the newest.
func newCell(most int64) *cell { return &cell{disks: map[dr.DiskID]*diskCell{}, most: most} }

// begin empties the cell; the next record it covers is first.
func (c *cell) begin(first dr.Seq) {
	clear(c.disks)
	c.mem.reset()
	c.first, c.last, c.runs, c.metas, c.raw, c.logged = first, first-1, 0, nil, 0, 0
}

// full reports whether the cell must be closed.
func (c *cell) full() bool {
	return c.mem.used() >= objectBlocks || c.runs >= objectZeros || len(c.metas) >= objectMetas || c.logged >= c.most
}

func (c *cell) disk(id dr.DiskID) *diskCell {
	d := c.disks[id]
	if d == nil {
		d = &diskCell{chunks: map[uint32]*chunkCell{}}
		c.disks[id] = d
	}
	return d
}

// write takes a Data, Zero or Discard record.
func (c *cell) write(id dr.DiskID, r *record.Record) {
	d := c.disk(id)
	first, count := r.Offset/dr.BlockSize, uint64(r.Length)/dr.BlockSize
	if r.Kind != record.Data {
		c.zero(d, zeroRun{first, first + count, r.Seq})
		return
	}
	c.raw += uint64(r.Length)
	for i := range count {
		c.block(d, first+i, r.Seq, r.Payload[i*dr.BlockSize:(i+1)*dr.BlockSize])
	}
}

func (c *cell) block(d *diskCell, block uint64, seq dr.Seq, p []byte) {
	chunk, i := uint32(block/dr.BlocksPerChunk), block%dr.BlocksPerChunk
	x := d.chunks[chunk]
	if x == nil {
		x = &chunkCell{}
		d.chunks[chunk] = x
	}
	if x.mask&(1<<i) == 0 {
		x.mask |= 1 << i
		x.slots[i] = c.mem.take()
	}
	x.seq = seq
	copy(c.mem.block(x.slots[i]), p)
}

// zero forgets the data in z and remembers the run.
func (c *cell) zero(d *diskCell, z zeroRun) {
	lo, hi := uint32(z.first/dr.BlocksPerChunk), uint32((z.end-1)/dr.BlocksPerChunk)
	if int(hi-lo) < len(d.chunks) {
		for chunk := lo; chunk <= hi; chunk++ {
			c.drop(d, chunk, z)
		}
	} else {
		for chunk := range d.chunks {
			if chunk >= lo && chunk <= hi {
				c.drop(d, chunk, z)
			}
		}
	}
	c.runs -= len(d.zeros)
	d.zeros = addRun(d.zeros, z)
	c.runs += len(d.zeros)
}

// drop forgets the blocks of a chunk that lie in z.
func (c *cell) drop(d *diskCell, chunk uint32, z zeroRun) {
	x := d.chunks[chunk]
	if x == nil {
		return
	}
	base := uint64(chunk) * dr.BlocksPerChunk
	for m := x.mask; m != 0; m &= m - 1 {
		i := bits.TrailingZeros16(m)
		if b := base + uint64(i); b >= z.first && b < z.end {
			x.mask &^= 1 << i
			c.mem.give(x.slots[i])
		}
	}
	if x.mask == 0 {
		delete(d.chunks, chunk)
	}
}

// addRun adds z to sorted disjoint runs, merging what touches.
func addRun(runs []zeroRun, z zeroRun) []zeroRun {
	i, _ := slices.BinarySearchFunc(runs, z.first, func(r zeroRun, at uint64) int { return cmp.Compare(r.end, at) })
	j := i
	for j < len(runs) && runs[j].first <= z.end {
		z.first, z.end, z.seq = min(z.first, runs[j].first), max(z.end, runs[j].end), max(z.seq, runs[j].seq)
		j++
	}
	return slices.Replace(runs, i, j, z)
}

// Write path, step 7: pack the cell per chunk into an object.

// pack fills b with the cell, sorted by disk and chunk.
func (c *cell) pack(b *segment.Builder) error {
	ids := slices.SortedFunc(maps.Keys(c.disks), func(x, y dr.DiskID) int { return bytes.Compare(x.UUID[:], y.UUID[:]) })
	var blocks [dr.ChunkSize]byte
	for _, id := range ids {
		d := c.disks[id]
		chunks := slices.Sorted(maps.Keys(d.chunks))
		for _, n := range chunks {
			x := d.chunks[n]
			p := blocks[:0]
			for m := x.mask; m != 0; m &= m - 1 {
				p = append(p, c.mem.block(x.slots[bits.TrailingZeros16(m)])...)
			}
			if err := b.AddFrame(id, n, x.mask, x.seq, p); err != nil {
				return err
			}
		}
		for _, z := range d.zeros {
			if err := d.packZeros(b, id, z, chunks); err != nil {
				return err
			}
		}
	}
	return nil
}

// packZeros adds the parts of z that no data covers.
func (d *diskCell) packZeros(b *segment.Builder, id dr.DiskID, z zeroRun, chunks []uint32) error {
	at := z.first
	i, _ := slices.BinarySearch(chunks, uint32(z.first/dr.BlocksPerChunk))
	for ; i < len(chunks) && uint64(chunks[i])*dr.BlocksPerChunk < z.end; i++ {
		for m := d.chunks[chunks[i]].mask; m != 0; m &= m - 1 {
			block := uint64(chunks[i])*dr.BlocksPerChunk + uint64(bits.TrailingZeros16(m))
			if block < at || block >= z.end {
				continue
			}
			if block > at {
				if err := b.AddZero(id, at, block-at, z.seq); err != nil {
					return err
				}
			}
			at = block + 1
		}
	}
	if at >= z.end {
		return nil
	}
	return b.AddZero(id, at, z.end-at, z.seq)
}

// arena is the memory of a cell's blocks, in pieces that are kept.
type arena struct {
	pieces [][]byte
	next   uint32
	free   []uint32
}

// pieceBlocks is the number of blocks of a piece: 1 MiB.
const pieceBlocks = 256

func (a *arena) reset() { a.next, a.free = 0, a.free[:0] }

// used is the number of blocks in use.
func (a *arena) used() int { return int(a.next) - len(a.free) }

func (a *arena) take() uint32 {
	if n := len(a.free); n > 0 {
		s := a.free[n-1]
		a.free = a.free[:n-1]
		return s
	}
	if int(a.next) == len(a.pieces)*pieceBlocks {
		a.pieces = append(a.pieces, make([]byte, pieceBlocks*dr.BlockSize))
	}
	a.next++
	return a.next - 1
}

func (a *arena) give(s uint32) { a.free = append(a.free, s) }

func (a *arena) block(s uint32) []byte {
	p := a.pieces[s/pieceBlocks]
	off := s % pieceBlocks * dr.BlockSize
	return p[off : off+dr.BlockSize : off+dr.BlockSize]
}
