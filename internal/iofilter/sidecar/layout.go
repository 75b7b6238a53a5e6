package sidecar

import (
	"encoding/binary"
	"hash/crc32"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
)

// Offsets in a head; docs/format/sidecar.md.
const (
	magic   = "HFS1"
	version = 1

	atVersion    = 4
	atState      = 5
	atRuns       = 6
	atSerial     = 8
	atDisk       = 16
	atSize       = 32
	atRegion     = 40
	atGeneration = 48
	atDurable    = 56
	atModified   = 64
	atRunList    = 72
	atHeadCRC    = sectorSize - 4

	atNumber    = 4
	atSectorGen = 8
)

// State of a sidecar.
type state uint8

const (
	inUse state = 0 // open regions may differ from the log's copy
	clean state = 1 // nothing differs, and nobody wrote since
	void  state = 2 // it vouches for nothing
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	le         = binary.LittleEndian
)

// Identity is the disk a sidecar belongs to.
type Identity struct {
	Disk dr.DiskID
	Size int64 // bytes
}

func (i Identity) regions() int { return int((i.Size + RegionSize - 1) >> regionShift) }

// pages is how many pages of sectors the disk has.
func (i Identity) pages() int {
	sectors := (i.regions() + sectorRegions - 1) / sectorRegions
	return (sectors + sectorsPerPage - 1) / sectorsPerPage
}

func (i Identity) fileSize() int { return (headPages + i.pages()) * pageSize }

// head is the part of the file that is not bits.
type head struct {
	id         Identity
	state      state
	serial     uint64
	generation uint64
	durable    dr.HostSeq // of the stream of runs[0]: no bit was cleared for a later record
	modified   int64      // clean: the primary's modification time, Unix nanoseconds; 0: it tells none
	runs       []uint64
}

// put encodes h into a page.
func (h *head) put(page []byte) {
	clear(page)
	copy(page, magic)
	page[atVersion], page[atState] = version, byte(h.state)
	le.PutUint16(page[atRuns:], uint16(len(h.runs)))
	le.PutUint64(page[atSerial:], h.serial)
	copy(page[atDisk:], h.id.Disk.UUID[:])
	le.PutUint64(page[atSize:], uint64(h.id.Size))
	le.PutUint32(page[atRegion:], RegionSize)
	le.PutUint64(page[atGeneration:], h.generation)
	le.PutUint64(page[atDurable:], uint64(h.durable))
	le.PutUint64(page[atModified:], uint64(h.modified))
	for i, n := range h.runs {
		le.PutUint64(page[atRunList+8*i:], n)
	}
	le.PutUint32(page[atHeadCRC:], crc32.Checksum(page[:atHeadCRC], castagnoli))
}

// parse decodes a page; false: it is not a head of this version.
func (h *head) parse(page []byte) bool {
	n := int(le.Uint16(page[atRuns:]))
	if string(page[:4]) != magic || page[atVersion] != version || state(page[atState]) > void || n > MaxRuns ||
		le.Uint32(page[atRegion:]) != RegionSize ||
		le.Uint32(page[atHeadCRC:]) != crc32.Checksum(page[:atHeadCRC], castagnoli) {
		return false
	}
	*h = head{
		state: state(page[atState]), serial: le.Uint64(page[atSerial:]), generation: le.Uint64(page[atGeneration:]),
		durable: dr.HostSeq(le.Uint64(page[atDurable:])), modified: int64(le.Uint64(page[atModified:])),
		id: Identity{Size: int64(le.Uint64(page[atSize:]))},
	}
	copy(h.id.Disk.UUID[:], page[atDisk:])
	for i := range n {
		h.runs = append(h.runs, le.Uint64(page[atRunList+8*i:]))
	}
	return true
}

// bits is a set of regions.
type bits []uint64

func newBits(n int) bits { return make(bits, (n+63)/64) }

func (b bits) has(r int) bool { return b[r/64]>>(r%64)&1 != 0 }
func (b bits) set(r int)      { b[r/64] |= 1 << (r % 64) }
func (b bits) clear(r int)    { b[r/64] &^= 1 << (r % 64) }

// fill sets the first n bits.
func (b bits) fill(n int) {
	for i := range b {
		b[i] = ^uint64(0)
	}
	if n%64 != 0 {
		b[len(b)-1] = 1<<(n%64) - 1
	}
}

// sectorWords is the words of bits in one sector: 62, with nothing left over.
const sectorWords = sectorRegions / 64

// putSector encodes the sector of a number; bits beyond the disk are 0.
func putSector(p []byte, number int, generation uint64, open bits) {
	clear(p[:sectorSize])
	le.PutUint32(p[atNumber:], uint32(number))
	le.PutUint64(p[atSectorGen:], generation)
	for i := range sectorWords {
		if w := number*sectorWords + i; w < len(open) {
			le.PutUint64(p[sectorHead+8*i:], open[w])
		}
	}
	le.PutUint32(p, crc32.Checksum(p[4:sectorSize], castagnoli))
}

// takeSector adds a sector's regions to open; what is damaged or of another
// file is all open.
func takeSector(p []byte, number int, generation uint64, open bits) {
	sound := le.Uint32(p) == crc32.Checksum(p[4:sectorSize], castagnoli) &&
		le.Uint32(p[atNumber:]) == uint32(number) && le.Uint64(p[atSectorGen:]) == generation
	for i := range sectorWords {
		w := number*sectorWords + i
		switch {
		case w >= len(open):
			return
		case sound:
			open[w] |= le.Uint64(p[sectorHead+8*i:])
		default:
			open[w] = ^uint64(0)
		}
	}
}

// encode is the whole file.
func encode(h *head, open bits) []byte {
	p := durable.AlignedBytes(h.id.fileSize())
	h.put(p[:pageSize])
	h.put(p[pageSize : 2*pageSize])
	for n := range h.id.pages() * sectorsPerPage {
		putSector(p[headPages*pageSize+n*sectorSize:], n, h.generation, open)
	}
	return p
}

// decode reads a file of the disk; false: it cannot be used.
func decode(p []byte, id Identity) (h head, open bits, ok bool) {
	if len(p) != id.fileSize() {
		return h, nil, false
	}
	var b head
	okA, okB := h.parse(p[:pageSize]), b.parse(p[pageSize:2*pageSize])
	if okB && (!okA || b.serial > h.serial) {
		h = b
	}
	if !okA && !okB || h.id != id || h.state == void || len(h.runs) == 0 {
		return h, nil, false
	}
	open = newBits(id.regions())
	for n := range id.pages() * sectorsPerPage {
		takeSector(p[headPages*pageSize+n*sectorSize:], n, h.generation, open)
	}
	if n := id.regions(); n%64 != 0 {
		open[len(open)-1] &= 1<<(n%64) - 1
	}
	return h, open, true
}
