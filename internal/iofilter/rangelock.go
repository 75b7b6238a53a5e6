package iofilter

import (
	"slices"
	"sync"
	"time"

	"holdfast/internal/nbd"
)

// claim is a byte range of a disk, whole blocks, wanted or held: by a guest's
// operation, or (op nil) by the sync cursor, which hears of it on ready.
type claim struct {
	lo, hi int64
	op     *nbd.Op
	via    *tap          // where op goes on
	at     time.Duration // when op arrived
	ready  chan struct{} // cursor: capacity 1
	age    uint64        // of the range lock, when the claim was made
}

func (c *claim) overlaps(d *claim) bool { return c.lo < d.hi && d.lo < c.hi }

// rangeLock keeps overlapping writes of one disk apart. Nobody blocks in it:
// an operation that must wait is parked and handed to whoever releases what it
// waits for, since the thread that submits may be the one that has to reap the
// operation in the way. First come, first served among those that overlap.
//
// A disk has few operations in flight, so a linear scan beats a tree.
type rangeLock struct {
	mu      sync.Mutex
	held    []claim
	waiting []claim

	age   uint64        // rises with each quiesce
	older int           // claims made before the last quiesce
	quiet chan struct{} // closed when there are none left; nil: nobody waits
}

// acquire reports whether c is held now; if not it is parked.
func (l *rangeLock) acquire(c claim) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.age = l.age
	if l.blocked(&c, len(l.waiting)) {
		l.waiting = append(l.waiting, c)
		return false
	}
	l.held = append(l.held, c)
	return true
}

// blocked reports whether a holder or one of the first n waiters is in the way.
func (l *rangeLock) blocked(c *claim, n int) bool {
	for i := range l.held {
		if c.overlaps(&l.held[i]) {
			return true
		}
	}
	for i := range n {
		if c.overlaps(&l.waiting[i]) {
			return true
		}
	}
	return false
}

// release gives up the claim of op (nil: the cursor's) and returns it, with
// the parked operations that hold their claims now and have to be started.
func (l *rangeLock) release(op *nbd.Op) (was claim, start []claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.held, func(c claim) bool { return c.op == op })
	was = l.held[i]
	last := len(l.held) - 1
	l.held[i] = l.held[last]
	l.held[last] = claim{}
	l.held = l.held[:last]
	if l.quiet != nil && was.age < l.age {
		if l.older--; l.older == 0 {
			close(l.quiet)
			l.quiet = nil
		}
	}
	for i := 0; i < len(l.waiting); {
		c := l.waiting[i]
		if l.blocked(&c, i) {
			i++
			continue
		}
		l.waiting = slices.Delete(l.waiting, i, i+1)
		l.held = append(l.held, c)
		if c.op == nil {
			c.ready <- struct{}{}
		} else {
			start = append(start, c)
		}
	}
	return was, start
}

// quiesce returns a channel that is closed when every claim there is now has
// been released: what they wrote is on the primary, and in the stream or
// marked. Claims made from now on are not waited for. One caller at a time.
func (l *rangeLock) quiesce() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.age++
	quiet := make(chan struct{})
	l.older, l.quiet = len(l.held)+len(l.waiting), quiet
	if l.older == 0 {
		close(quiet)
		l.quiet = nil
	}
	return quiet
}
