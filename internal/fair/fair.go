package fair

import (
	"context"
	"slices"
	"sync"

	"holdfast/internal/errs"
)

// Slots are shared by members. Make it with New. Safe for concurrent use.
type Slots struct {
	mu      sync.Mutex
	shared  int // slots all share
	least   int // each member's own besides
	used    int // of the shared ones
	clock   float64
	members []*Member
}

// New returns slots without members: shared ones that all may have, and least
// for each member alone. Both at least 0, and not both 0.
func New(shared, least int) *Slots { return &Slots{shared: shared, least: least} }

// Member takes slots. Make it with Slots.Join. Safe for concurrent use.
type Member struct {
	s      *Slots
	weight float64
	// Guarded by s.mu.
	pass  float64 // what it has had, for its weight
	mean  float64 // of a turn's cost
	held  int
	left  bool
	queue []chan struct{} // waiting, in order; closed when granted
}

// Join adds a member. Weights count against each other; below 1 means 1. Leave
// takes it out again.
func (s *Slots) Join(weight int) *Member {
	m := &Member{s: s, weight: float64(max(weight, 1)), mean: 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = append(s.members, m)
	return m
}

// Leave takes the member out, and gives back what it holds: a Give that comes
// later changes nothing. It must not be waiting.
func (m *Member) Leave() {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	for m.held > 0 {
		m.backLocked(m.mean)
	}
	m.left = true
	m.s.members = slices.DeleteFunc(m.s.members, func(o *Member) bool { return o == m })
}

// Try takes a slot if one can be had without waiting.
func (m *Member) Try() bool {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if len(m.queue) > 0 || !m.mayLocked() {
		return false
	}
	m.grantLocked()
	return true
}

// Take waits for a slot. Kind Canceled when ctx ended first.
func (m *Member) Take(ctx context.Context) error {
	m.s.mu.Lock()
	turn := make(chan struct{})
	m.queue = append(m.queue, turn)
	m.s.serveLocked()
	m.s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if at := slices.Index(m.queue, turn); at >= 0 {
		m.queue = slices.Delete(m.queue, at, at+1)
	} else {
		m.backLocked(0) // it was granted in the same moment
	}
	return errs.E("fair.Take", errs.Canceled, "", context.Cause(ctx))
}

// Give gives a slot back. cost is what the turn was, in any unit that all
// members of the Slots use: bytes, seconds.
func (m *Member) Give(cost float64) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.backLocked(cost)
}

// mayLocked reports whether the member may have one more.
func (m *Member) mayLocked() bool { return m.held < m.s.least || m.s.used < m.s.shared }

// grantLocked gives the member a slot, charging what its turns usually cost:
// else whoever takes long turns would be charged too late.
func (m *Member) grantLocked() {
	if m.held >= m.s.least {
		m.s.used++
	}
	m.held++
	m.pass = max(m.pass, m.s.clock)
	m.s.clock = m.pass
	m.pass += m.mean / m.weight
}

func (m *Member) backLocked(cost float64) {
	if m.left {
		return
	}
	m.held--
	if m.held >= m.s.least {
		m.s.used--
	}
	m.pass += (cost - m.mean) / m.weight
	m.mean += (cost - m.mean) / 8
	m.s.serveLocked()
}

// serveLocked gives out what there is, to those who have had least.
func (s *Slots) serveLocked() {
	for {
		var next *Member
		for _, m := range s.members {
			if len(m.queue) > 0 && m.mayLocked() && (next == nil || max(m.pass, s.clock) < max(next.pass, s.clock)) {
				next = m
			}
		}
		if next == nil {
			return
		}
		close(next.queue[0])
		next.queue = next.queue[1:]
		next.grantLocked()
	}
}
