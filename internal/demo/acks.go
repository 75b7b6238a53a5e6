package demo

import (
	"context"
	"sort"
	"sync"
	"time"

	"holdfast/internal/demo/ledger"
)

const (
	ackSample = 2 * time.Millisecond // how often acknowledgements are looked at
	maxAcks   = 1 << 20              // samples kept: more commits than TCG guests make in hours
)

// ack is what both guests had acknowledged at a moment.
type ack struct {
	at               time.Time
	leader, follower uint64
}

// acks remembers when each commit was seen to be acknowledged, from outside
// the guests. Safe for concurrent use.
type acks struct {
	mu      sync.Mutex
	samples []ack // guarded by mu; rising
}

// watch samples the driver until ctx ends.
func (a *acks) watch(ctx context.Context, d *ledger.Driver) {
	tick := time.NewTicker(ackSample)
	defer tick.Stop()
	for {
		a.sample(d)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sample takes the clock after the counters: what it records as acknowledged
// at a moment was so before.
func (a *acks) sample(d *ledger.Driver) ack {
	l, f := d.Acked()
	s := ack{leader: l, follower: f, at: time.Now()}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.samples); n == 0 || n < maxAcks && (a.samples[n-1].leader != l || a.samples[n-1].follower != f) {
		a.samples = append(a.samples, s)
	}
	return s
}

// before returns what was seen acknowledged before t.
func (a *acks) before(t time.Time) ack {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := sort.Search(len(a.samples), func(i int) bool { return !a.samples[i].at.Before(t) })
	if i == 0 {
		return ack{at: t}
	}
	return a.samples[i-1]
}
