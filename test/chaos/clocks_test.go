package chaos

import (
	"testing"
	"time"
)

// clocks remembers how the DRVA's clock was set, so that what it dates can be
// compared with what the test saw by the machine's.
type clocks struct {
	began time.Time
	steps []step
}

// step is a time in which the DRVA's clock may have been so far ahead. It is a
// little too long, because it is unknown when exactly the clock was set.
type step struct {
	from, to time.Time // to is zero while it lasts
	ahead    time.Duration
}

// step notes that the clock is about to be set.
func (c *clocks) step(ahead time.Duration) {
	c.steps = append(c.steps, step{from: time.Now(), ahead: ahead})
}

// right notes that the clock was set right.
func (c *clocks) right() { c.steps[len(c.steps)-1].to = time.Now() }

// earliest is the first moment at which the DRVA's clock may have said t.
func (c *clocks) earliest(t time.Time) time.Time {
	now, found := time.Now(), time.Time{}
	try := func(at time.Time) {
		if at.After(c.began) && !at.After(now) && (found.IsZero() || at.Before(found)) {
			found = at
		}
	}
	try(t)
	for _, s := range c.steps {
		if at := t.Add(-s.ahead); !at.Before(s.from) && (s.to.IsZero() || !at.After(s.to)) {
			try(at)
		}
	}
	return found
}

func TestEarliestMomentOfASteppedClock(t *testing.T) {
	now := time.Now()
	ago := func(s int) time.Time { return now.Add(-time.Duration(s) * time.Second) }
	c := clocks{began: ago(100), steps: []step{
		{from: ago(80), to: ago(70), ahead: time.Hour},
		{from: ago(60), to: ago(50), ahead: -30 * time.Second},
	}}
	for _, e := range []struct {
		what       string
		said, want time.Time
	}{
		{"a right clock", ago(90), ago(90)},
		{"an hour ahead", ago(75).Add(time.Hour), ago(75)},
		{"an hour ahead, when it was not", ago(65).Add(time.Hour), time.Time{}},
		{"behind, or right before", ago(85), ago(85)},
		{"behind the beginning", ago(101), time.Time{}},
	} {
		if got := c.earliest(e.said); !got.Equal(e.want) {
			t.Errorf("%s: %v, not %v", e.what, got, e.want)
		}
	}
}
