package hypervisor

import (
	"sync"
	"time"
)

// ChangeQueue is what stands behind Platform.Changes, for drivers. Make it
// with NewChangeQueue. Safe for concurrent use; starts no goroutine.
type ChangeQueue struct {
	now     func() time.Time // immutable
	changes chan Change      // written under mu, closed by Close

	mu     sync.Mutex
	closed bool // guarded by mu
	lost   int  // guarded by mu; changes dropped since the last one queued
}

// NewChangeQueue returns an empty queue; now is its clock.
func NewChangeQueue(now func() time.Time) *ChangeQueue {
	return &ChangeQueue{now: now, changes: make(chan Change, changeQueue)}
}

// Changes returns the reader's end.
func (q *ChangeQueue) Changes() <-chan Change { return q.changes }

// Put stamps c with the time and queues it, at the cost of the oldest when
// there is no room. No effect after Close.
func (q *ChangeQueue) Put(c Change) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	c.Time = q.now()
	for {
		c.Lost = q.lost
		select {
		case q.changes <- c:
			q.lost = 0
			return
		default:
		}
		select {
		case old := <-q.changes:
			q.lost += 1 + old.Lost
		default: // the reader was faster
		}
	}
}

// Close ends the queue; what is in it can still be read. No effect when closed.
func (q *ChangeQueue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.changes)
	}
}
