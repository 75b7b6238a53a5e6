package iofilter

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/store/limit"
)

// pacer keeps the sync cursor within its schedule, and makes it give way to
// guests: while their writes take longer than they do without it, it reads
// more slowly, down to a floor at which it still gets on. Methods may be called
// concurrently, wait by the cursor alone.
type pacer struct {
	strain strain

	mu       sync.Mutex
	schedule limit.Schedule // guarded by mu
	changed  chan struct{}  // closed and replaced when the schedule changes; guarded by mu
	yielded  float64        // what the guests leave, bytes a second; +Inf: all; guarded by mu

	// Owned by the cursor.
	debt   float64   // bytes read that the rate has not allowed yet
	judged time.Time // when the guests' latency was last looked at
	read   float64   // bytes read since then
	rested time.Time // when the guests last had the disk for themselves
}

func newPacer(s limit.Schedule) *pacer {
	return &pacer{schedule: s, changed: make(chan struct{}), yielded: math.Inf(1)}
}

func (p *pacer) set(s limit.Schedule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.schedule = s
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pacer) get() (limit.Schedule, limit.Rate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rate, _ := p.rateLocked(time.Now())
	if math.IsInf(rate, 1) {
		return p.schedule, limit.Unlimited
	}
	return p.schedule, limit.Rate(rate)
}

// rateLocked is what is allowed at now in bytes a second, and for how long that
// is known.
func (p *pacer) rateLocked(now time.Time) (rate float64, until time.Time) {
	up, _, until := p.schedule.At(now)
	if up == limit.Unlimited {
		return p.yielded, until
	}
	return min(float64(up), p.yielded), until
}

// wait blocks until n bytes that have been read are allowed.
func (p *pacer) wait(ctx context.Context, n int) {
	p.debt += float64(n)
	p.read += float64(n)
	p.judge(time.Now())
	for p.debt > 0 && ctx.Err() == nil {
		began := time.Now()
		p.mu.Lock()
		rate, until := p.rateLocked(began)
		changed := p.changed
		p.mu.Unlock()
		if math.IsInf(rate, 1) {
			p.debt = 0
			break
		}
		span := min(time.Duration(p.debt/rate*float64(time.Second)), until.Sub(began))
		sleepUntil(ctx, changed, max(span, time.Microsecond))
		p.debt -= rate * time.Since(began).Seconds()
	}
	p.debt = max(p.debt, -float64(syncWindow)) // what a late timer has lost may be made up for
	p.rest(ctx)
}

// judge looks at the guests' latency once in a while and changes the pace.
func (p *pacer) judge(now time.Time) {
	if p.judged.IsZero() {
		p.judged, p.read = now, 0
		return
	}
	took := now.Sub(p.judged)
	if took < yieldEvery {
		return
	}
	speed := p.read / took.Seconds()
	p.judged, p.read = now, 0
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.strain.judgement() {
	case strained:
		p.yielded = max(min(p.yielded, speed)/2, yieldFloor)
	case relaxed:
		if p.yielded *= yieldRise; p.yielded > 4*speed && p.yielded > 4*yieldFloor {
			p.yielded = math.Inf(1) // something else is the limit
		}
	}
}

// rest leaves the disk to the guests for a moment now and then, to learn how
// fast it is without the cursor.
func (p *pacer) rest(ctx context.Context) {
	if now := time.Now(); p.strain.seen.Load() == 0 || now.Sub(p.rested) < restEvery {
		return
	}
	sleepUntil(ctx, nil, restFor)
	p.rested = time.Now()
	p.strain.seen.Store(0)
}

// strain compares how long guests' writes take at the primary while the cursor
// reads with how long they take without it. Safe for concurrent use. Samples
// are only taken while there is something to copy: the way of a write costs
// nothing else in ordinary times.
type strain struct {
	on    atomic.Bool  // samples are wanted
	quiet atomic.Int64 // the cursor has not read since this outlet time; 0: it reads
	seen  atomic.Int64 // samples since the last rest
	fresh atomic.Int64 // samples taken while the cursor read, since the last judgement
	calm  median       // without the cursor
	busy  median       // with it
}

// Judgements.
type judgement uint8

const (
	unjudged judgement = iota
	relaxed
	strained
)

// sample takes in a write that was at the primary from begin to end.
func (s *strain) sample(begin, end time.Duration) {
	s.seen.Add(1)
	quiet := s.quiet.Load()
	if quiet != 0 && begin > time.Duration(quiet)+restSettle {
		s.calm.add(int64(end - begin))
		return
	}
	s.busy.add(int64(end - begin))
	s.fresh.Add(1)
}

// judgement judges the samples since the last one. Few samples say nothing: no
// guest is there to be disturbed.
func (s *strain) judgement() judgement {
	n := s.fresh.Swap(0)
	calm := s.calm.value()
	switch {
	case n == 0:
		return relaxed
	case n < yieldSamples || calm == 0:
		return unjudged
	case s.busy.value() > yieldFactor*calm && s.busy.value()-calm > int64(yieldSlack):
		return strained
	}
	return relaxed
}

// reading notes that the cursor begins to read, or has ended.
func (s *strain) reading(begins bool, now time.Duration) {
	if begins {
		s.quiet.Store(0)
		return
	}
	s.quiet.Store(int64(now))
}

// median follows the median of what is added: each value moves it a little
// towards itself. Values that cross each other may be lost, which does not
// matter to a median.
type median struct{ at atomic.Int64 }

func (m *median) add(v int64) {
	at := m.at.Load()
	step := max(at/16, 500)
	switch {
	case at == 0:
		at = v
	case v > at:
		at = min(at+step, v)
	default:
		at = max(at-step, v)
	}
	m.at.Store(max(at, 1))
}

func (m *median) value() int64 { return m.at.Load() }
