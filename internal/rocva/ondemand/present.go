package ondemand

import (
	"encoding/binary"
	"hash/crc32"
	"iter"
	"maps"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// The format of PATH.present; drawn in doc.go.
const (
	mapMagic   = "hfheld01"
	headerSize = 8 + 32 + 8 + 16 + 4
	recordRoom = 4 + 1 + 4 // length, kind, CRC

	kindHeld    = 1
	kindWritten = 2
	kindWriting = 3
	kindClosed  = 4
	kindWhole   = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header says of which disk a map is, and for which boot its kind 3 counts.
type header struct {
	image [32]byte
	size  int64
	boot  [16]byte
}

func (h header) encode() []byte {
	b := append([]byte(mapMagic), h.image[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.size))
	b = append(b, h.boot[:]...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// seed is what the header's records' CRCs begin with.
func (h header) seed() uint32 { return crc32.Checksum(h.encode(), castagnoli) }

func decodeHeader(b []byte) (h header, err error) {
	const op = "ondemand.present"
	if len(b) < headerSize || string(b[:8]) != mapMagic {
		return h, errs.New(op, errs.Corrupt, "", "it is no map of a disk that is being made")
	}
	if crc32.Checksum(b[:headerSize-4], castagnoli) != binary.LittleEndian.Uint32(b[headerSize-4:]) {
		return h, errs.New(op, errs.Corrupt, "", "its header is not what was written")
	}
	copy(h.image[:], b[8:])
	h.size = int64(binary.LittleEndian.Uint64(b[40:]))
	copy(h.boot[:], b[48:])
	if h.size < 0 || h.size > dr.MaxDiskSize {
		return h, errs.New(op, errs.Corrupt, "", "its header names no disk's size")
	}
	return h, nil
}

// chunks is how many chunks a disk of size bytes has.
func chunks(size int64) int64 { return (size + dr.ChunkSize - 1) / dr.ChunkSize }

// appendRecord appends one record to b.
func appendRecord(b []byte, seed uint32, kind byte, payload []byte) []byte {
	from := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(append(b, kind), payload...)
	return binary.LittleEndian.AppendUint32(b, crc32.Update(seed, castagnoli, b[from:]))
}

// appendMasks appends records of a kind that speak of masks, which come in the
// order of chunks. Chunks with no block are left out.
func appendMasks(b []byte, seed uint32, kind byte, masks iter.Seq2[uint32, uint16]) []byte {
	var payload []byte
	next := uint32(0) // the chunk behind the last run
	var first, n uint32
	var mask uint16
	put := func() {
		if n > 0 {
			payload = binary.AppendUvarint(payload, uint64(first-next))
			payload = binary.AppendUvarint(payload, uint64(n))
			payload = binary.LittleEndian.AppendUint16(payload, mask)
			next = first + n
		}
		n = 0
	}
	for c, m := range masks {
		if m == 0 {
			continue
		}
		if n > 0 && c == first+n && m == mask {
			n++
			continue
		}
		put()
		if len(payload) > maxPayload-16 {
			b, payload, next = appendRecord(b, seed, kind, payload), payload[:0], 0
		}
		first, n, mask = c, 1, m
	}
	put()
	if len(payload) > 0 {
		b = appendRecord(b, seed, kind, payload)
	}
	return b
}

// sorted yields a set of masks in the order of chunks.
func sorted(m map[uint32]uint16) iter.Seq2[uint32, uint16] {
	return func(yield func(uint32, uint16) bool) {
		for _, c := range slices.Sorted(maps.Keys(m)) {
			if !yield(c, m[c]) {
				return
			}
		}
	}
}

// story is what a map's records tell.
type story struct {
	closed bool // nothing was written after what was recorded
	whole  bool
	// marks is called for each run of chunks of one mask.
	marks func(kind byte, first, n uint32, mask uint16)
}

// read goes over the records of a map, as far as they are what was written.
func (s *story) read(h header, b []byte) {
	seed, total := h.seed(), uint64(chunks(h.size))
	for b = b[headerSize:]; len(b) >= recordRoom; {
		n := uint64(binary.LittleEndian.Uint32(b))
		if n > maxPayload || n+recordRoom > uint64(len(b)) {
			return
		}
		body, rest := b[:5+n], b[5+n:]
		if crc32.Update(seed, castagnoli, body) != binary.LittleEndian.Uint32(rest) {
			return
		}
		s.closed = body[4] == kindClosed
		s.whole = s.whole || body[4] == kindWhole
		if body[4] <= kindWriting && !s.runs(body[4], body[5:], total) {
			return
		}
		b = rest[4:]
	}
}

// runs reads a payload; false when it makes no sense.
func (s *story) runs(kind byte, payload []byte, total uint64) bool {
	r := reader{b: payload}
	next := uint64(0)
	for len(r.b) > 0 {
		first := next + r.count(total)
		n := r.count(total)
		mask := r.bytes(2)
		if r.bad || n == 0 || first+n > total {
			return false
		}
		s.marks(kind, uint32(first), uint32(n), binary.LittleEndian.Uint16(mask))
		next = first + n
	}
	return true
}

// mapLimit is how large the map of a disk may be, in bytes: every block in a
// record of its own, and then some.
func mapLimit(size int64) int64 { return dr.BlocksPerChunk*16*chunks(size) + mapSlack }

// reader takes numbers off b; bad once there was none.
type reader struct {
	b   []byte
	bad bool
}

// count is a number of at most limit; 0 once the reader is bad.
func (r *reader) count(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit || r.bad {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n int) []byte {
	if len(r.b) < n || r.bad {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}
