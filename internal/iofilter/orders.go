package iofilter

import (
	"context"
	"time"

	"holdfast/internal/wire"
)

// Why a host tracks by order of the DRVA; shown to people.
const (
	causeLogFull    = "the DRVA's replication log is nearly full"
	causePausedUser = "protection of the domain is paused by a user"
)

// onOrder takes what the DRVA asks of a host besides rounds.
func (o *outlet) onOrder(t wire.Type, body []byte) error {
	switch t {
	case wire.TypeFreeze:
		m, err := wire.ParseFreeze(body)
		if err == nil {
			o.freeze.begin(m)
		}
		return err
	case wire.TypeThaw:
		round, err := wire.ParseRound(body)
		if err == nil {
			o.freeze.thaw(round)
		}
		return err
	case wire.TypeThrottle:
		m, err := wire.ParseThrottle(body)
		if err == nil {
			o.mu.Lock()
			o.throttleLocked(m)
			o.unlock()
		}
		return err
	}
	m, err := wire.ParseTrack(body)
	if err == nil {
		o.mu.Lock()
		o.orderLocked(m.Reason)
		o.unlock()
	}
	return err
}

// orderLocked has the host track until the DRVA says otherwise, or lets it
// stream again. A link that ends does not end the order: the next Welcome says
// what holds.
func (o *outlet) orderLocked(reason wire.TrackReason) {
	if o.order == reason {
		return
	}
	o.order = reason
	cause := ""
	switch reason {
	case wire.TrackNone:
		o.tryLeaveLocked(o.now())
		o.armLocked(o.now()) // the time it must track at least may not be over
		return
	case wire.TrackPausedUser:
		cause = causePausedUser
	default:
		cause = causeLogFull
	}
	o.trackLocked(cause)
	o.mode.cause = cause // also when the host tracks already
	o.restateLocked()
}

// slowdown spreads acknowledgements: the DRVA's throttle. Guarded by the
// outlet's mutex.
//
// Each write takes the time its bytes take at the rate, behind those before it,
// and its acknowledgement is kept back until then, or for most, whichever is
// less. The debt is never more than most: a guest that has paused is not made
// to pay for what it wrote before.
type slowdown struct {
	rate    uint64 // bytes a second; 0: off
	most    time.Duration
	next    time.Duration // when the next write may be acknowledged
	waiting opList        // in the order of their times, Scratch[1]
}

// throttleLocked takes another rate; what is kept back under the old one is let
// go when the throttle ends.
func (o *outlet) throttleLocked(m wire.Throttle) {
	o.slow.rate, o.slow.most = m.Rate, m.Delay
	o.slowed.Store(m.Rate > 0)
	if m.Rate == 0 {
		o.hurryLocked()
		o.slow.next = 0
	}
}

// hurryLocked lets go of what is kept back.
func (o *outlet) hurryLocked() { o.ready.take(&o.slow.waiting) }

// slowLocked keeps back what has just become ready, as far as its turn has not
// come. Caller has a rate.
func (o *outlet) slowLocked() {
	s := &o.slow
	if o.ready.head == nil || o.mode.tracking {
		return
	}
	now := o.now()
	var all opList
	all.take(&o.ready)
	for op := all.pop(); op != nil; op = all.pop() {
		if op.Scratch[2] == paid {
			op.Scratch[2] = 0
			o.ready.push(op)
			continue
		}
		s.next = max(s.next, now) + spent(op.Length, s.rate)
		s.next = min(s.next, now+s.most)
		if s.next-now < slowGrain {
			o.ready.push(op)
			continue
		}
		op.Scratch[1], op.Scratch[2] = uint64(s.next), paid
		s.waiting.push(op)
		o.armLocked(s.next)
	}
}

const (
	// paid marks an operation that has been kept back once, in Scratch[2].
	paid = 1
	// slowGrain is what is not worth keeping anybody back for: less than a timer
	// is late.
	slowGrain = 200 * time.Microsecond
)

// spent is what n bytes take at a rate.
func spent(n int64, rate uint64) time.Duration {
	return time.Duration(float64(n) / float64(rate) * float64(time.Second))
}

// slowDueLocked lets go of those whose turn has come.
func (o *outlet) slowDueLocked(now time.Duration) {
	for op := o.slow.waiting.head; op != nil && time.Duration(op.Scratch[1]) <= now; op = o.slow.waiting.head {
		o.ready.push(o.slow.waiting.pop())
	}
}

// slowCursor makes the sync cursor pay for n bytes it has put into the stream:
// all of what they take, for nobody waits for it.
func (o *outlet) slowCursor(ctx context.Context, n int) {
	o.mu.Lock()
	wait := time.Duration(0)
	if s := &o.slow; s.rate > 0 {
		wait = min(spent(int64(n), s.rate), time.Second)
	}
	o.mu.Unlock()
	if wait > 0 {
		sleepUntil(ctx, nil, wait)
	}
}
