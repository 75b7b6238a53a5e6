package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/dr"
)

// reader takes a footer's plain form apart. After the first thing that does
// not fit it returns zeroes and keeps the reason in err.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.fail("ends too early")
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) byte() byte {
	if p := r.bytes(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if p := r.bytes(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (r *reader) uuid() (u dr.UUID) {
	copy(u[:], r.bytes(len(u)))
	return u
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("ends inside a number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail("ends inside a number")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads the number of elements to follow, each of at least size bytes,
// so that no count makes the caller allocate more than a small multiple of
// what is there.
func (r *reader) count(what string, most, size int) int {
	n := r.uvarint()
	if n > uint64(most) || n*uint64(size) > uint64(len(r.b)) {
		r.fail("holds %d %s: more than it has room for", n, what)
		return 0
	}
	return int(n)
}

// parseFooter is the inverse of Footer.encode. more allows bytes behind the
// known columns, as a newer version may append.
func parseFooter(plain []byte, h *Header, more bool) (*Footer, error) {
	if len(plain) > MaxFooter {
		return nil, fmt.Errorf("footer of %d bytes is larger than %d", len(plain), MaxFooter)
	}
	r := &reader{b: plain}
	f := &Footer{}
	disks := r.count("disks", MaxDisks, diskLeast)
	entries := r.count("frames", MaxFrames, entryLeast)
	zeros := r.count("zero ranges", MaxZeros, zeroLeast)
	blocks := r.count("block hashes", MaxBlocks, 8)
	f.First, f.Last = dr.Seq(r.uvarint()), dr.Seq(r.uvarint())
	f.Disks = r.disks(disks)
	f.Entries = r.entries(entries, blocks, disks, f.First)
	f.Zeros = r.zeros(zeros, disks, f.First)
	f.Checkpoint = r.checkpoint()
	hashes := r.bytes(8 * blocks)
	if h.Packed {
		r.origins(f)
	}
	if r.err == nil && len(r.b) != 0 && !more {
		r.fail("has %d bytes behind its end", len(r.b))
	}
	if r.err != nil {
		return nil, fmt.Errorf("footer %w", r.err)
	}
	f.Hashes = make([]uint64, blocks)
	for i := range f.Hashes {
		f.Hashes[i] = binary.LittleEndian.Uint64(hashes[8*i:])
	}
	if !f.place() {
		return nil, errors.New("footer's frames are not numbered from 0 without gaps")
	}
	if err := f.check(h); err != nil {
		return nil, fmt.Errorf("footer: %w", err)
	}
	return f, nil
}

func (r *reader) disks(n int) []dr.DiskID {
	ids := make([]dr.DiskID, n)
	seen := make(map[dr.DiskID]bool, n)
	for i := range ids {
		ids[i].UUID = r.uuid()
		if r.err == nil && seen[ids[i]] {
			r.fail("names disk %v twice", ids[i])
		}
		seen[ids[i]] = true
	}
	return ids
}

func (r *reader) entries(n, blocks, disks int, first dr.Seq) []Entry {
	es := make([]Entry, n)
	r.chunks(es, disks)
	for i := range es {
		if p := r.bytes(2); p != nil {
			es[i].Mask = binary.LittleEndian.Uint16(p)
		}
		if blocks -= es[i].Blocks(); es[i].Mask == 0 || blocks < 0 {
			r.fail("has a frame without blocks or without hashes")
			return nil
		}
	}
	if blocks != 0 {
		r.fail("has %d hashes of no block", blocks)
	}
	if raw := r.bytes((n + 7) / 8); raw != nil {
		for i := range es {
			es[i].Raw = raw[i/8]>>(i%8)&1 != 0
		}
	}
	last := first
	for i := range es {
		last += dr.Seq(r.varint())
		es[i].Seq = last
	}
	r.stored(es)
	next := int64(0)
	for i := range es {
		c := next + r.varint()
		if c < 0 || c >= int64(n) {
			r.fail("numbers a frame %d of %d", c, n)
			return nil
		}
		es[i].Counter = uint32(c)
		next = c + 1
	}
	if r.err != nil || !slices.IsSortedFunc(es, compareEntries) {
		r.fail("has frames out of order")
		return nil
	}
	return es
}

// chunks reads the columns of disks and chunks.
func (r *reader) chunks(es []Entry, disks int) {
	i := 0
	for disk := range disks {
		n := r.uvarint()
		if n > uint64(len(es)-i) {
			r.fail("has more frames than it counts")
			return
		}
		for range n {
			es[i].Disk = uint16(disk)
			i++
		}
	}
	if i != len(es) {
		r.fail("has frames of no disk")
		return
	}
	for i := range es {
		chunk := r.uvarint()
		if chunk < MaxChunks && i > 0 && es[i-1].Disk == es[i].Disk {
			chunk += uint64(es[i-1].Chunk)
		}
		if chunk >= MaxChunks {
			r.fail("has a frame beyond the largest disk")
			return
		}
		es[i].Chunk = uint32(chunk)
	}
}

// stored reads the column of sizes and bounds their sum.
func (r *reader) stored(es []Entry) {
	sum := uint64(HeaderSize)
	for i := range es {
		size := uint64(es[i].Size() + Overhead)
		if !es[i].Raw {
			if n := r.uvarint(); n <= Overhead || n >= size {
				r.fail("has a compressed frame of %d bytes for %d", n, size)
				return
			} else {
				size = n
			}
		}
		es[i].Stored = uint32(size)
		if sum += size; sum > MaxObjectSize {
			r.fail("has frames beyond the largest object")
			return
		}
	}
}

func (r *reader) zeros(n, disks int, first dr.Seq) []ZeroRange {
	zs := make([]ZeroRange, n)
	last := first
	for i := range zs {
		disk := r.uvarint()
		z := ZeroRange{First: r.uvarint(), Count: r.uvarint()}
		last += dr.Seq(r.varint())
		z.Seq = last
		if disk >= uint64(disks) || z.Count == 0 || z.First >= maxDiskBlocks || z.Count > maxDiskBlocks-z.First {
			r.fail("has a zero range beyond the largest disk, or of none")
			return nil
		}
		z.Disk = uint16(disk)
		zs[i] = z
	}
	if !slices.IsSortedFunc(zs, compareZeros) {
		r.fail("has zero ranges out of order")
	}
	return zs
}

func (r *reader) checkpoint() *dr.Checkpoint {
	switch present := r.byte(); {
	case r.err != nil || present == 0:
		return nil
	case present != 1:
		r.fail("has an unknown mark in place of a checkpoint")
		return nil
	}
	c := &dr.Checkpoint{Kind: dr.CheckpointKind(r.byte()), Scope: dr.Scope(r.byte())}
	if c.Kind > dr.UserTagged || c.Scope > dr.Group {
		r.fail("has a checkpoint of unknown kind %d or scope %d", c.Kind, c.Scope)
		return nil
	}
	c.ID, c.Seq = dr.CheckpointID(r.uvarint()), dr.Seq(r.uvarint())
	c.Time = fromUnixNano(int64(r.uint64()))
	c.Tag = string(r.bytes(r.count("bytes of tag", MaxTag, 1)))
	for range r.count("missing VMs", MaxMissing, missingSize) {
		c.Missing = append(c.Missing, dr.VMID{UUID: r.uuid()})
	}
	for range r.count("disks in its checkpoint", MaxDisks, checkpointDisk) {
		d := dr.CheckpointDisk{ID: dr.DiskID{UUID: r.uuid()}, VM: dr.VMID{UUID: r.uuid()}, Size: int64(r.uint64())}
		synced := r.byte()
		if d.Size < 0 || d.Size > dr.MaxDiskSize || synced > 1 {
			r.fail("has a checkpoint with a disk of %d bytes, synced %d", d.Size, synced)
			return nil
		}
		d.Synced = synced == 1
		c.Disks = append(c.Disks, d)
	}
	return c
}
