package boottrace

import (
	"encoding/binary"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Trace is what a VM read while it booted, in order. The zero value is empty.
type Trace struct {
	Chunks []Chunk // each once, by its first read; at most MaxChunks
}

// Chunk is a chunk of a disk.
type Chunk struct {
	Disk  dr.DiskID
	Chunk uint32
}

// version is the first byte of an encoded trace.
const version = 1

// Encode returns the trace's stored form. Chunks beyond the bounds are left
// out.
func (t Trace) Encode() []byte {
	places := map[dr.DiskID]uint64{}
	var ids, list []byte
	n, last := uint64(0), int64(0)
	for _, c := range t.Chunks {
		at, known := places[c.Disk]
		if n == MaxChunks {
			break
		} else if !known && len(places) == MaxDisks {
			continue
		} else if !known {
			at = uint64(len(places))
			places[c.Disk] = at
			ids = append(ids, c.Disk.UUID[:]...)
		}
		list = binary.AppendUvarint(list, at)
		list = binary.AppendVarint(list, int64(c.Chunk)-last)
		last = int64(c.Chunk)
		n++
	}
	b := binary.AppendUvarint([]byte{version}, uint64(len(places)))
	b = binary.AppendUvarint(append(b, ids...), n)
	return append(b, list...)
}

// Decode reads what Encode made. Kind Corrupt when it is nothing of the
// kind; kind Invalid for another version.
func Decode(b []byte) (Trace, error) {
	const op = "boottrace.Decode"
	var t Trace
	if len(b) == 0 || b[0] != version {
		return t, errs.New(op, errs.Invalid, "", "it is no boot trace of a version this program knows")
	}
	r := reader{b: b[1:]}
	disks := make([]dr.DiskID, 0, MaxDisks)
	for range r.count(MaxDisks) {
		var id dr.DiskID
		copy(id.UUID[:], r.bytes(len(id.UUID)))
		disks = append(disks, id)
	}
	last := int64(0)
	for range r.count(MaxChunks) {
		at := r.count(MaxDisks)
		last += r.varint()
		if r.bad || at >= uint64(len(disks)) || last < 0 || last >= dr.MaxDiskSize/dr.ChunkSize {
			r.bad = true
			break
		}
		t.Chunks = append(t.Chunks, Chunk{disks[at], uint32(last)})
	}
	if r.bad || len(r.b) != 0 {
		return Trace{}, errs.New(op, errs.Corrupt, "", fmt.Sprintf("the boot trace of %d bytes cannot be read", len(b)))
	}
	return t, nil
}

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

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 || v > dr.MaxDiskSize || v < -dr.MaxDiskSize || r.bad {
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
