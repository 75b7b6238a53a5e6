package ondemand

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Trace is what a VM read while it booted, in order. The zero value is empty.
type Trace struct {
	Chunks []TraceChunk // each once, by its first read; at most 32 Ki
}

// TraceChunk is a chunk of a disk.
type TraceChunk struct {
	Disk  dr.DiskID
	Chunk uint32
}

// The encoding of a trace, for a container's keeping:
//
//	| version u8 = 1 | disks uvarint | disk ids, 16 each | chunks uvarint |
//	| disk uvarint | chunk, as the difference to the one before, varint | …
const traceVersion = 1

// Encode returns the trace's stored form. Chunks beyond the bounds are left
// out.
func (t Trace) Encode() []byte {
	places := map[dr.DiskID]uint64{}
	var ids, list []byte
	n, last := uint64(0), int64(0)
	for _, c := range t.Chunks {
		at, known := places[c.Disk]
		if n == maxTrace {
			break
		} else if !known && len(places) == maxTraceDisks {
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
	b := binary.AppendUvarint([]byte{traceVersion}, uint64(len(places)))
	b = binary.AppendUvarint(append(b, ids...), n)
	return append(b, list...)
}

// DecodeTrace reads what Encode made. Kind Corrupt when it is nothing of the
// kind; kind Invalid for another version.
func DecodeTrace(b []byte) (Trace, error) {
	const op = "ondemand.DecodeTrace"
	var t Trace
	if len(b) == 0 || b[0] != traceVersion {
		return t, errs.New(op, errs.Invalid, "", "it is no boot trace of a version this program knows")
	}
	r := reader{b: b[1:]}
	disks := make([]dr.DiskID, 0, maxTraceDisks)
	for range r.count(maxTraceDisks) {
		var id dr.DiskID
		copy(id.UUID[:], r.bytes(len(id.UUID)))
		disks = append(disks, id)
	}
	last := int64(0)
	for range r.count(maxTrace) {
		at := r.count(maxTraceDisks)
		last += r.varint()
		if r.bad || at >= uint64(len(disks)) || last < 0 || last >= dr.MaxDiskSize/dr.ChunkSize {
			r.bad = true
			break
		}
		t.Chunks = append(t.Chunks, TraceChunk{disks[at], uint32(last)})
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

// recorder notes what is read from the first read on, for traceFor.
type recorder struct {
	mu    sync.Mutex
	begun time.Time               // guarded by mu
	seen  map[TraceChunk]struct{} // guarded by mu
	list  []TraceChunk            // guarded by mu
	over  atomic.Bool             // set once
}

// note adds the chunks of a read.
func (r *recorder) note(disk dr.DiskID, first, last uint32) {
	if r.over.Load() {
		return // without the lock: every read comes by here
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.begun.IsZero() {
		r.begun, r.seen = now, map[TraceChunk]struct{}{}
	}
	for c := first; c <= last && len(r.list) < maxTrace; c++ {
		k := TraceChunk{disk, c}
		if _, known := r.seen[k]; !known {
			r.seen[k] = struct{}{}
			r.list = append(r.list, k)
		}
	}
	if now.Sub(r.begun) >= traceFor || len(r.list) == maxTrace {
		r.over.Store(true)
	}
}

// trace returns what was read of the given disks.
func (r *recorder) trace(of func(dr.DiskID) bool) (t Trace) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.list {
		if of(c.Disk) {
			t.Chunks = append(t.Chunks, c)
		}
	}
	return t
}
