package drva

import (
	"runtime"
	"sync"
	"time"

	"holdfast/internal/fair"
)

// Priority is a domain's weight against others of the same process. The zero
// value is NormalPriority.
type Priority int

// The priorities: each has twice the share of the one before.
const (
	LowPriority    Priority = 1
	NormalPriority Priority = 2
	HighPriority   Priority = 4
)

// ParsePriority reads "low", "normal" or "high"; the empty word is normal.
func ParsePriority(s string) (p Priority, ok bool) {
	switch s {
	case "low":
		return LowPriority, true
	case "", "normal":
		return NormalPriority, true
	case "high":
		return HighPriority, true
	}
	return 0, false
}

// Shared is what the domains of one process share: memory for frames and for
// objects, and the processors that pack them. Each domain has a least of its
// own, so that one whose store or log is stuck takes nothing from the others.
// Make it with NewShared and give it to each Config. Safe for concurrent use.
type Shared struct {
	frames   framePool
	builders *fair.Slots // objects in memory
	packers  *fair.Slots // goroutines that pack
}

// NewShared returns what one process has.
func NewShared() *Shared {
	return &Shared{
		builders: fair.New(maxBuilders-leastBuilders, leastBuilders),
		packers:  fair.New(max(1, runtime.GOMAXPROCS(0)-1), 1),
	}
}

// share is one domain's part in Shared.
type share struct {
	frames   *framePool
	builders *fair.Member
	packers  *fair.Member
}

func (s *Shared) join(p Priority) share {
	return share{frames: &s.frames, builders: s.builders.Join(int(p)), packers: s.packers.Join(int(p))}
}

func (s *share) leave() {
	s.builders.Leave()
	s.packers.Leave()
}

// packTurn is a turn of packing: call it when it is over.
func (s *share) packTurn(began time.Time) { s.packers.Give(time.Since(began).Seconds()) }

// framePool keeps buffers of frames that nobody uses, the last used first, so
// that few are in memory when little comes in, however many hosts there are.
type framePool struct {
	mu    sync.Mutex
	small []*buffer // room for smallFrame
	large []*buffer // room for any frame
}

// take returns a buffer for a frame of so many records and bytes of payload.
func (p *framePool) take(count int, payload uint32) *buffer {
	large := count > smallRecords || payload > smallPayload
	p.mu.Lock()
	list := &p.small
	if large {
		list = &p.large
	}
	if n := len(*list); n > 0 {
		b := (*list)[n-1]
		(*list)[n-1] = nil
		*list = (*list)[:n-1]
		p.mu.Unlock()
		return b
	}
	p.mu.Unlock()
	return newBuffer(large)
}

// give takes a buffer back; beyond what is worth keeping it is let go.
func (p *framePool) give(b *buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list, most := &p.small, keptSmall
	if b.large {
		list, most = &p.large, keptLarge
	}
	if len(*list) < most {
		*list = append(*list, b)
	}
}
