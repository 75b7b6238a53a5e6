package inventory

import (
	"cmp"
	"slices"
	"sync"

	"holdfast/internal/dr"
)

// Gather is what stands behind a Watcher, for providers: the VMs that changed since
// somebody looked. It is a set, not a queue: bounded, and nothing is lost, because
// too many mean all. Make it with NewGather. Safe for concurrent use.
type Gather struct {
	wake chan struct{} // one token when there is something to look at

	mu     sync.Mutex
	all    bool             // guarded by mu
	dirty  map[dr.VMID]bool // guarded by mu
	closed bool             // guarded by mu
}

// NewGather returns one in which all is to be looked at.
func NewGather() *Gather {
	g := &Gather{wake: make(chan struct{}, 1), dirty: map[dr.VMID]bool{}}
	g.All()
	return g
}

// Note notes that a VM changed, or is gone.
func (g *Gather) Note(vm dr.VMID) { g.note(func() { g.dirty[vm] = true }) }

// All notes that everything may have changed.
func (g *Gather) All() { g.note(func() { g.all = true }) }

// Wake makes whoever waits look, though nothing changed.
func (g *Gather) Wake() { g.note(func() {}) }

// Close ends it: Take says so from now on.
func (g *Gather) Close() { g.note(func() { g.closed = true }) }

func (g *Gather) note(do func()) {
	g.mu.Lock()
	do()
	g.all = g.all || len(g.dirty) > maxDirty
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Woken gives a token when there is something to Take.
func (g *Gather) Woken() <-chan struct{} { return g.wake }

// Take returns what is to be looked at, in order, and forgets it; open is false
// after Close.
func (g *Gather) Take() (all bool, ids []dr.VMID, open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	all, g.all = g.all, false
	for id := range g.dirty {
		ids = append(ids, id)
	}
	clear(g.dirty)
	slices.SortFunc(ids, func(a, b dr.VMID) int { return cmp.Compare(a.String(), b.String()) })
	return all, ids, !g.closed
}
