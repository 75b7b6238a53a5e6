package boottrace

import (
	"sync"
	"sync/atomic"

	"holdfast/internal/dr"
)

// Recorder notes which chunks are read first. It has 900 KiB, all of it from the
// start: a note allocates nothing. Make it with NewRecorder. Safe for concurrent
// use.
type Recorder struct {
	full atomic.Bool // nothing more is noted

	mu    sync.Mutex
	table []uint64 // guarded by mu; of noted, open addressing; 0: free
	list  []uint64 // guarded by mu; noted, in order
}

// NewRecorder returns a recorder that notes from now on.
func NewRecorder() *Recorder {
	return &Recorder{table: make([]uint64, slots), list: make([]uint64, 0, MaxChunks)}
}

// noted is a chunk of a disk by its number; never 0.
func noted(disk uint16, chunk uint32) uint64 { return (uint64(disk)+1)<<32 | uint64(chunk) }

// Note notes a read of the chunks from first to last of a disk that has a number
// with whoever records. What is beyond MaxChunks is left out.
func (r *Recorder) Note(disk uint16, first, last uint32) {
	if r.full.Load() {
		return // without the lock
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := uint64(first); c <= uint64(last) && len(r.list) < MaxChunks; c++ {
		r.noteLocked(noted(disk, uint32(c)))
	}
	if len(r.list) == MaxChunks {
		r.full.Store(true)
	}
}

func (r *Recorder) noteLocked(n uint64) {
	const spread = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	for i := n * spread >> 32; ; i++ {
		switch at := &r.table[i%slots]; *at {
		case n:
			return
		case 0:
			*at = n
			r.list = append(r.list, n)
			return
		}
	}
}

// Stop ends noting. What was noted stays.
func (r *Recorder) Stop() { r.full.Store(true) }

// Len is how many chunks are noted.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.list)
}

// Trace returns what was noted of the disks whose numbers of knows.
func (r *Recorder) Trace(of func(disk uint16) (dr.DiskID, bool)) (t Trace) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.list {
		if id, ok := of(uint16(n>>32 - 1)); ok {
			t.Chunks = append(t.Chunks, Chunk{id, uint32(n)})
		}
	}
	return t
}
