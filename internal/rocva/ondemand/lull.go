package ondemand

import (
	"context"
	"sync/atomic"
	"time"
)

// lull tells when guests read, so that what nobody asked for is fetched when a
// boot leaves room.
type lull struct {
	began       time.Time     // what first and last count from
	window      time.Duration // from the first read on; 0: nothing waits
	first, last atomic.Int64  // when guests read, ns; 0: never
	over        atomic.Bool   // nobody waits any more: reads need not be noted
}

func newLull(window time.Duration) *lull {
	return &lull{began: time.Now().Add(-time.Nanosecond), window: window} // no read is at 0
}

// touch notes a read.
func (l *lull) touch() {
	if l.over.Load() {
		return // a clock is read for every read of every guest otherwise
	}
	now := int64(time.Since(l.began))
	l.last.Store(now)
	if l.first.Load() == 0 {
		l.first.CompareAndSwap(0, now)
	}
}

// left is how long is still to be waited.
func (l *lull) left(now time.Duration) time.Duration {
	first := time.Duration(l.first.Load())
	if first == 0 {
		return 0
	}
	if first+l.window <= now {
		l.over.Store(true)
	}
	return min(first+l.window, time.Duration(l.last.Load())+bootQuiet) - now
}

// wait returns when guests have not read for a while, or their boot has had its
// time, or ctx ends.
func (l *lull) wait(ctx context.Context) {
	for {
		left := l.left(time.Since(l.began))
		if left <= 0 {
			return
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return
		}
	}
}
