package runs

import (
	"sync"
	"time"
)

// clock tells two times: the monotonic one stands still while the machine sleeps, the
// wall's is set by whoever likes.
type clock struct {
	mono func() time.Duration
	wall func() time.Time
}

func realClock() clock {
	base := time.Now()
	return clock{
		mono: func() time.Duration { return time.Since(base) },
		wall: func() time.Time { return time.Now().Round(0) }, // without the monotonic reading
	}
}

// instant is one look at both.
type instant struct {
	mono time.Duration
	wall time.Time
}

func (c clock) now() instant { return instant{c.mono(), c.wall()} }

// lease is what this process believes of a run it holds. For concurrent use.
type lease struct {
	safe time.Duration // 80 % of the lease: then local work ends

	mu    sync.Mutex
	since instant // before the claim or renewal was asked for that succeeded last
	over  bool    // it was seen to have lapsed since
}

func newLease(whole time.Duration, asked instant) *lease {
	return &lease{safe: whole / 5 * 4, since: asked}
}

// renewed notes that a renewal succeeded that was asked for at an instant. The
// database counts from later, so we end earlier.
func (l *lease) renewed(asked instant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if asked.mono > l.since.mono {
		l.since, l.over = asked, false
	}
}

// lapsed reports whether work under the lease has to end, by either clock. A wall
// clock that was set back is ignored: the monotonic one still counts, and what has
// lapsed once, as after a sleep, stays so until it is renewed.
func (l *lease) lapsed(now instant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = l.over || now.mono-l.since.mono >= l.safe || now.wall.Sub(l.since.wall) >= l.safe
	return l.over
}
