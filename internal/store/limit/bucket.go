package limit

import (
	"context"
	"slices"
	"sync"
	"time"
)

// bucket allows bytes in one direction. Callers stand in line: the first waits
// for the clock, the others for their turn.
type bucket struct {
	rate func(now time.Time) (Rate, time.Time) // allowed now, and until when

	mu      sync.Mutex
	line    []chan struct{} // of the callers; the first one's is closed; guarded by mu
	changed chan struct{}   // closed and replaced when the schedule changes; guarded by mu
	current Rate            // as of last; guarded by mu
	tokens  float64         // bytes that may go now; guarded by mu
	last    time.Time       // when tokens was right; guarded by mu
}

func newBucket(rate func(time.Time) (Rate, time.Time)) *bucket {
	return &bucket{rate: rate, changed: make(chan struct{})}
}

// take waits until n bytes may go, slice by slice in turn with others. When
// ctx ends first it returns the cause; what was allowed until then is spent.
func (b *bucket) take(ctx context.Context, n int) error {
	for n > 0 {
		part := min(n, slice)
		if err := b.takeSlice(ctx, float64(part)); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

func (b *bucket) takeSlice(ctx context.Context, need float64) error {
	turn := make(chan struct{})
	b.mu.Lock()
	b.line = append(b.line, turn)
	if len(b.line) == 1 {
		close(turn)
	}
	b.mu.Unlock()
	defer b.leave(turn)
	select {
	case <-turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		wait, changed := b.spend(need)
		if wait == 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// leave takes a caller out of the line and lets the next one be first.
func (b *bucket) leave(turn chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := slices.Index(b.line, turn)
	b.line = slices.Delete(b.line, at, at+1)
	if at == 0 && len(b.line) > 0 {
		close(b.line[0])
	}
}

// spend takes need tokens and returns 0, or says how long to wait before the
// next try at most.
func (b *bucket) spend(need float64) (wait time.Duration, changed chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	until := b.fillLocked(now)
	if b.current == Unlimited {
		return 0, nil
	}
	if b.tokens >= need {
		b.tokens -= need
		return 0, nil
	}
	wait = time.Duration((need - b.tokens) / float64(b.current) * float64(time.Second))
	return max(min(wait, until.Sub(now)), time.Microsecond), b.changed
}

// fillLocked adds what was allowed since last at the rate that held then, and
// looks up the rate that holds now.
func (b *bucket) fillLocked(now time.Time) (until time.Time) {
	if passed := now.Sub(b.last); passed > 0 {
		b.tokens += passed.Seconds() * float64(b.current)
		b.last = now
	}
	b.current, until = b.rate(now)
	b.tokens = min(b.tokens, max(slice, float64(b.current)*burst.Seconds()))
	return until
}

// refund gives back what was taken and not used.
func (b *bucket) refund(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens += float64(max(n, 0)) // bounded when it is next looked at
}

// wake lets the first in line look at the schedule again.
func (b *bucket) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
}
