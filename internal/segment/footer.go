package segment

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/extent"
)

// Entry is one frame: the state of some blocks of one chunk.
type Entry struct {
	Disk      uint16 // index in Footer.Disks
	Chunk     uint32
	Mask      uint16 // the blocks present, bit 0 the chunk's first
	Raw       bool   // not compressed
	Seq       dr.Seq
	Offset    uint32 // in the object, bytes
	Stored    uint32 // bytes in the object, the tag included
	Counter   uint32 // the frame's nonce: its place in the order of writing
	FirstHash uint32 // its blocks' hashes in Footer.Hashes
}

// Blocks is the number of blocks the frame holds.
func (e *Entry) Blocks() int { return bits.OnesCount16(e.Mask) }

// Size is the frame's size in bytes once opened.
func (e *Entry) Size() int { return e.Blocks() * dr.BlockSize }

// ZeroRange is a run of blocks that read as zeroes: zeroed or discarded.
type ZeroRange struct {
	Disk         uint16 // index in Footer.Disks
	First, Count uint64 // blocks
	Seq          dr.Seq
}

// DiskStats is what an object holds of one disk, in bytes. A jump of the
// ratio or of the volume is how an encrypted guest shows.
type DiskStats struct {
	Raw    int64 // before compression
	Stored int64 // in the object
	Zeroed int64 // covered by zero ranges
}

// Footer is the index of an object. It is read-only once made, and may then be
// shared.
type Footer struct {
	Disks       []dr.DiskID
	Entries     []Entry        // by disk, chunk, counter
	Zeros       []ZeroRange    // by disk, first block
	Hashes      []uint64       // of each block, see BlockHasher, in the order of Entries
	Checkpoint  *dr.Checkpoint // at the end of the object; nil when there is none
	First, Last dr.Seq         // the records the object covers; Last = First-1 when none
	Stats       []DiskStats    // of each of Disks

	// Of a packed object: from where each frame was copied, by its counter,
	// which is its place in Entries too; and the objects meant. Nil otherwise.
	Copied  []CopiedFrom
	Origins []Origin
}

// FramesEnd is the offset behind the last frame, which is the footer's.
func (f *Footer) FramesEnd() int64 {
	end := int64(HeaderSize)
	for i := range f.Entries {
		end = max(end, int64(f.Entries[i].Offset)+int64(f.Entries[i].Stored))
	}
	return end
}

func compareEntries(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.Disk, b.Disk), cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(a.Counter, b.Counter))
}

func compareZeros(a, b ZeroRange) int {
	return cmp.Or(cmp.Compare(a.Disk, b.Disk), cmp.Compare(a.First, b.First))
}

// check tells what makes f no index of one checkpoint cell: content outside
// the object's records or behind its checkpoint, or a block with two states.
// Entries and Zeros are sorted and their fields within bounds.
func (f *Footer) check(h *Header) error {
	if f.Last < f.First && f.Last+1 != f.First {
		return fmt.Errorf("covers records %d to %d, which is no range", f.First, f.Last)
	}
	for i := range f.Entries {
		if err := f.checkSeq(h.Kind, f.Entries[i].Seq); err != nil {
			return fmt.Errorf("chunk %d of disk %v: %w", f.Entries[i].Chunk, f.Disks[f.Entries[i].Disk], err)
		}
	}
	for i := range f.Zeros {
		if err := f.checkSeq(h.Kind, f.Zeros[i].Seq); err != nil {
			return fmt.Errorf("zeroes from block %d of disk %v: %w", f.Zeros[i].First, f.Disks[f.Zeros[i].Disk], err)
		}
	}
	if h.Packed {
		return f.checkPacked()
	}
	return f.checkCell()
}

func (f *Footer) checkSeq(kind Kind, seq dr.Seq) error {
	if kind == Journal && (seq < f.First || seq > f.Last) {
		return fmt.Errorf("record %d is not among the object's, %d to %d", seq, f.First, f.Last)
	}
	if f.Checkpoint != nil && seq >= f.Checkpoint.Seq {
		return fmt.Errorf("record %d is behind the object's checkpoint at %d", seq, f.Checkpoint.Seq)
	}
	return nil
}

// checkCell finds a block with two states, in one pass over both lists.
func (f *Footer) checkCell() error {
	for i := 1; i < len(f.Zeros); i++ {
		a, b := &f.Zeros[i-1], &f.Zeros[i]
		if a.Disk == b.Disk && a.First+a.Count > b.First {
			return fmt.Errorf("block %d of disk %v is zeroed twice", b.First, f.Disks[b.Disk])
		}
	}
	var seen uint16 // blocks of the current chunk that have a state
	zeros := f.Zeros
	for i := range f.Entries {
		e := &f.Entries[i]
		if i == 0 || f.Entries[i-1].Disk != e.Disk || f.Entries[i-1].Chunk != e.Chunk {
			seen, zeros = zeroedIn(zeros, e.Disk, e.Chunk)
		}
		if both := seen & e.Mask; both != 0 {
			block := uint64(e.Chunk)*dr.BlocksPerChunk + uint64(bits.TrailingZeros16(both))
			return fmt.Errorf("block %d of disk %v has two states", block, f.Disks[e.Disk])
		}
		seen |= e.Mask
	}
	return nil
}

// zeroedIn returns the mask of a chunk's blocks that zeros cover, and zeros
// without what lies wholly before the chunk.
func zeroedIn(zeros []ZeroRange, disk uint16, chunk uint32) (mask uint16, rest []ZeroRange) {
	first := uint64(chunk) * dr.BlocksPerChunk
	for len(zeros) > 0 && (zeros[0].Disk < disk || zeros[0].Disk == disk && zeros[0].First+zeros[0].Count <= first) {
		zeros = zeros[1:]
	}
	for _, z := range zeros {
		if z.Disk != disk || z.First >= first+dr.BlocksPerChunk {
			break
		}
		lo, hi := max(z.First, first)-first, min(z.First+z.Count, first+dr.BlocksPerChunk)-first
		mask |= extent.Mask(int64(lo)*dr.BlockSize, int64(hi-lo)*dr.BlockSize)
	}
	return mask, zeros
}

// place derives what is not stored: offsets, first hashes and stats. It
// reports whether the counters are exactly 0..n-1.
func (f *Footer) place() bool {
	order := make([]uint32, len(f.Entries)) // by counter, the entry's index + 1
	hash := uint32(0)
	for i := range f.Entries {
		e := &f.Entries[i]
		if int(e.Counter) >= len(order) || order[e.Counter] != 0 {
			return false
		}
		order[e.Counter] = uint32(i) + 1
		e.FirstHash = hash
		hash += uint32(e.Blocks())
	}
	offset := uint32(HeaderSize) // bounded: the parser has summed Stored up
	for _, i := range order {
		f.Entries[i-1].Offset = offset
		offset += f.Entries[i-1].Stored
	}
	f.Stats = make([]DiskStats, len(f.Disks))
	for i := range f.Entries {
		e := &f.Entries[i]
		f.Stats[e.Disk].Raw += int64(e.Size())
		f.Stats[e.Disk].Stored += int64(e.Stored)
	}
	for _, z := range f.Zeros {
		f.Stats[z.Disk].Zeroed += int64(z.Count) * dr.BlockSize
	}
	return true
}

// encode appends the footer's plain form; see doc.go for its layout.
func (f *Footer) encode(b []byte, packed bool) []byte {
	for _, n := range []int{len(f.Disks), len(f.Entries), len(f.Zeros), len(f.Hashes)} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendUvarint(b, uint64(f.First))
	b = binary.AppendUvarint(b, uint64(f.Last))
	for _, d := range f.Disks {
		b = append(b, d.UUID[:]...)
	}
	b = f.encodeEntries(b)
	b = f.encodeZeros(b)
	b = encodeCheckpoint(b, f.Checkpoint)
	b = slices.Grow(b, 8*len(f.Hashes))
	for _, h := range f.Hashes {
		b = binary.LittleEndian.AppendUint64(b, h)
	}
	if packed {
		b = f.encodeOrigins(b)
	}
	return b
}

// encodeEntries writes one column after the other, so that equal things lie
// together and compress.
func (f *Footer) encodeEntries(b []byte) []byte {
	es := f.Entries
	for disk, i := 0, 0; disk < len(f.Disks); disk++ {
		start := i
		for i < len(es) && int(es[i].Disk) == disk {
			i++
		}
		b = binary.AppendUvarint(b, uint64(i-start))
	}
	for i := range es {
		delta := es[i].Chunk
		if i > 0 && es[i-1].Disk == es[i].Disk {
			delta -= es[i-1].Chunk
		}
		b = binary.AppendUvarint(b, uint64(delta))
	}
	for i := range es {
		b = binary.LittleEndian.AppendUint16(b, es[i].Mask)
	}
	for i := 0; i < len(es); i += 8 {
		var octet byte
		for j := i; j < min(i+8, len(es)); j++ {
			if es[j].Raw {
				octet |= 1 << (j - i)
			}
		}
		b = append(b, octet)
	}
	last := f.First
	for i := range es {
		b = binary.AppendVarint(b, int64(es[i].Seq-last))
		last = es[i].Seq
	}
	for i := range es {
		if !es[i].Raw { // a raw frame's size follows from its mask
			b = binary.AppendUvarint(b, uint64(es[i].Stored))
		}
	}
	next := uint32(0)
	for i := range es {
		b = binary.AppendVarint(b, int64(es[i].Counter)-int64(next))
		next = es[i].Counter + 1
	}
	return b
}

func (f *Footer) encodeZeros(b []byte) []byte {
	last := f.First
	for _, z := range f.Zeros {
		b = binary.AppendUvarint(b, uint64(z.Disk))
		b = binary.AppendUvarint(b, z.First)
		b = binary.AppendUvarint(b, z.Count)
		b = binary.AppendVarint(b, int64(z.Seq-last))
		last = z.Seq
	}
	return b
}

func encodeCheckpoint(b []byte, c *dr.Checkpoint) []byte {
	if c == nil {
		return append(b, 0)
	}
	b = append(b, 1, byte(c.Kind), byte(c.Scope))
	b = binary.AppendUvarint(b, uint64(c.ID))
	b = binary.AppendUvarint(b, uint64(c.Seq))
	b = binary.LittleEndian.AppendUint64(b, uint64(unixNano(c.Time)))
	b = binary.AppendUvarint(b, uint64(len(c.Tag)))
	b = append(b, c.Tag...)
	b = binary.AppendUvarint(b, uint64(len(c.Missing)))
	for _, vm := range c.Missing {
		b = append(b, vm.UUID[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(c.Disks)))
	for _, d := range c.Disks {
		b = append(b, d.ID.UUID[:]...)
		b = append(b, d.VM.UUID[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(d.Size))
		synced := byte(0)
		if d.Synced {
			synced = 1
		}
		b = append(b, synced)
	}
	return b
}
