package limit

import (
	"context"
	"slices"
	"sync"
	"time"
)

// bucket allows bytes in one direction. Callers stand in line: the first waits
// for the clock, the others for their turn. The next one first is of the party
// that has had least for its weight, and of those of one party the one that came
// first.
type bucket struct {
	rate func(now time.Time) (Rate, time.Time) // allowed now, and until when

	mu      sync.Mutex
	line    []*caller     // the first one's turn is closed; guarded by mu
	served  float64       // how far the parties' shares have come; guarded by mu
	changed chan struct{} // closed and replaced when the schedule changes; guarded by mu
	current Rate          // as of last; guarded by mu
	tokens  float64       // bytes that may go now; guarded by mu
	last    time.Time     // when tokens was right; guarded by mu
}

// caller stands in the line of a bucket.
type caller struct {
	turn chan struct{}
	of   *party
}

// party is who callers stand in line for, in one direction.
type party struct {
	weight float64
	had    float64 // bytes for its weight; guarded by the bucket's mu
}

func newBucket(rate func(time.Time) (Rate, time.Time)) *bucket {
	return &bucket{rate: rate, changed: make(chan struct{})}
}

// take waits until n bytes may go, slice by slice in turn with others. When
// ctx ends first it returns the cause; what was allowed until then is spent.
func (b *bucket) take(ctx context.Context, of *party, n int) error {
	if n <= 0 {
		return nil
	}
	me := &caller{of: of}
	b.enter(me)
	defer b.leave(me)
	for {
		part := min(n, slice)
		if err := b.takeSlice(ctx, me, float64(part)); err != nil {
			return err
		}
		if n -= part; n == 0 {
			return nil
		}
		b.again(me)
	}
}

func (b *bucket) takeSlice(ctx context.Context, me *caller, need float64) error {
	select {
	case <-me.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		wait, changed := b.spend(me.of, need)
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

// enter puts a caller at the end of the line.
func (b *bucket) enter(me *caller) {
	b.mu.Lock()
	defer b.mu.Unlock()
	me.turn = make(chan struct{})
	b.line = append(b.line, me)
	if len(b.line) == 1 {
		close(me.turn)
	}
}

// leave takes a caller out of the line and lets the next one be first.
func (b *bucket) leave(me *caller) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := slices.Index(b.line, me)
	b.line = slices.Delete(b.line, at, at+1)
	if at == 0 {
		b.nextLocked()
	}
}

// again puts the first in line at its end, for its next slice.
func (b *bucket) again(me *caller) {
	b.mu.Lock()
	defer b.mu.Unlock()
	me.turn = make(chan struct{})
	b.line = append(slices.Delete(b.line, 0, 1), me)
	b.nextLocked()
}

// nextLocked lets one be first.
func (b *bucket) nextLocked() {
	if len(b.line) == 0 {
		return
	}
	next := 0
	for i, c := range b.line {
		if max(c.of.had, b.served) < max(b.line[next].of.had, b.served) {
			next = i
		}
	}
	first := b.line[next]
	b.line = slices.Insert(slices.Delete(b.line, next, next+1), 0, first)
	close(first.turn)
}

// spend takes need tokens and returns 0, or says how long to wait before the
// next try at most.
func (b *bucket) spend(of *party, need float64) (wait time.Duration, changed chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	until := b.fillLocked(now)
	if b.current == Unlimited || b.tokens >= need {
		if b.current != Unlimited {
			b.tokens -= need
		}
		b.served = max(of.had, b.served) // who was idle saves nothing up
		of.had = b.served + need/of.weight
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
