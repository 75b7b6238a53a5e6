package journaltest

import (
	"sync"
	"time"
)

// Clock is a journal.Clock that tests set. Make it with NewClock. Safe for concurrent use.
type Clock struct {
	mu   sync.Mutex
	wall time.Time     // guarded by mu
	boot time.Duration // guarded by mu
}

// NewClock returns a clock that stands at a time, of a machine that has been up for an
// hour.
func NewClock(wall time.Time) *Clock { return &Clock{wall: wall, boot: time.Hour} }

// Wall is the time of day.
func (c *Clock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall
}

// Boot is how long the machine has been up.
func (c *Clock) Boot() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot
}

// Advance has time pass.
func (c *Clock) Advance(d time.Duration) { c.Add(d, d) }

// Add moves both apart: a wall clock that is set, or a machine that was asleep.
func (c *Clock) Add(wall, boot time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall, c.boot = c.wall.Add(wall), c.boot+boot
}

// Frozen is a clock of its own that stands where this one does.
func (c *Clock) Frozen() *Clock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &Clock{wall: c.wall, boot: c.boot}
}
