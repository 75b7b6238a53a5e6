package drva

import (
	"context"
	"time"

	"holdfast/internal/segment"
)

// Tuning is what of a Config can be changed while the appliance runs. Its fields mean the
// same there; zero values are the defaults.
type Tuning struct {
	Interval      time.Duration
	AppInterval   time.Duration
	RPOTarget     time.Duration
	NoThrottle    bool
	ThrottleDelay time.Duration
	Compression   segment.Level
}

// Tuning is what of c can be changed while the appliance runs.
func (c *Config) Tuning() Tuning {
	return Tuning{c.Interval, c.AppInterval, c.RPOTarget, c.NoThrottle, c.ThrottleDelay, c.Compression}
}

// set has c be tuned so.
func (c *Config) set(t *Tuning) {
	c.Interval, c.AppInterval, c.RPOTarget = t.Interval, t.AppInterval, t.RPOTarget
	c.NoThrottle, c.ThrottleDelay, c.Compression = t.NoThrottle, t.ThrottleDelay, t.Compression
}

// Check says what is wrong with a tuning. Kind Invalid.
func (t *Tuning) Check() error {
	c := Config{}
	c.set(t)
	return c.checkTuning()
}

// Tune changes what can be changed while the appliance runs: epoch, hosts and log stay as
// they are. Times between checkpoints count from now on. What is the same changes nothing.
// Kind Invalid: then nothing has changed.
func (s *Server) Tune(ctx context.Context, t Tuning) error {
	c := Config{}
	c.set(&t)
	if err := c.checkTuning(); err != nil {
		return err
	}
	t = c.Tuning()
	if was := s.tuning.Swap(&t); *was == t {
		return nil
	}
	s.post(ctx, event{do: (*sequencer).retime}) // who does not hear it goes by the new times after the next
	return nil
}

// retime has the next checkpoints be when the new intervals have them.
func (q *sequencer) retime() {
	now, t := time.Now(), q.s.tuning.Load()
	q.nextCut = now.Add(t.Interval)
	switch {
	case t.AppInterval == 0:
		q.nextApp = time.Time{}
	case q.nextApp.IsZero() || q.nextApp.After(now.Add(t.AppInterval)):
		q.nextApp = now.Add(t.AppInterval)
	}
}

// retarget takes another target, and reports whether it is another one: what was kept of
// the old one says nothing of it.
func (a *rpoAlarm) retarget(t *Tuning) bool {
	a.calm = max(calmLeast, calmIntervals*t.Interval)
	if a.target == t.RPOTarget {
		return false
	}
	a.target, a.state, a.better = t.RPOTarget, NoTarget, time.Time{}
	return true
}
