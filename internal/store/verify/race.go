package verify

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"holdfast/internal/errs"
)

const remedyOnce = "use a store that implements conditional writes (S3 If-None-Match: *, Azure If-None-Match) for every path to it; this one lets two writers believe they own one name, which would corrupt a history silently"

// heat is one race for one name.
type heat struct {
	key     string
	bodies  []made
	conns   []*conn // of the racers, in turn
	readers []*conn // look afterwards; the first also during the race
	gap     time.Duration
}

func costCreateOnce(s *scale, conns uint64) Budget {
	n, racers := uint64(s.rounds), uint64(s.racers)
	body := int64(raceBody + raceSpread)
	small := Budget{n * (racers + looks + 2*conns + 1), int64(n*racers+n) * body, int64(n*(looks+conns)) * (body + 1)}
	large := Budget{uint64(s.bigRacers) + looks + 2*conns + 1, int64(s.bigRacers+1) * s.bigBody, int64(looks+conns) * (s.bigBody + 1)}
	return small.plus(large)
}

// tryCreateOnce lets many writers race for one name, round after round: at
// one moment and one after the other, over one connection and over all, with
// small bodies and large ones.
func tryCreateOnce(ctx context.Context, p *probe) finding {
	began := time.Now()
	wins, over := 0, 0
	for round := range p.scale.rounds {
		h := p.heat(fmt.Sprintf("%srace/%03d", p.prefix, round), p.scale.racers, func(i int) int {
			return raceBody + (i*7919+round*104729)%raceSpread
		})
		if round%3 == 1 && round > 0 { // begin inside each other's requests
			h.gap = time.Since(began) / time.Duration(round*2*p.scale.racers)
		}
		if round%4 == 3 {
			h.conns = p.conns[:1]
		}
		if f := p.run(ctx, h); f != nil {
			return *f
		}
		wins++
		over += len(h.bodies)
	}
	h := p.heat(p.prefix+"race/large", p.scale.bigRacers, func(int) int { return int(p.scale.bigBody) })
	if f := p.run(ctx, h); f != nil {
		return *f
	}
	return pass("%d races of up to %d writers over %d connections: one winner each, its bytes read, %d losers told so",
		wins+1, p.scale.racers, len(p.conns), over+len(h.bodies)-wins-1)
}

func (p *probe) heat(key string, racers int, size func(i int) int) *heat {
	h := &heat{key: key, conns: p.conns, readers: p.conns}
	for i := range racers {
		h.bodies = append(h.bodies, made{p.fresh(), size(i)})
	}
	return h
}

// run runs a heat and judges it, then checks that one more Create is refused.
func (p *probe) run(ctx context.Context, h *heat) *finding {
	seen, results := p.start(ctx, h)
	winner, f := p.judge(ctx, h, results)
	if f != nil {
		return f
	}
	m := h.bodies[winner]
	want := body(m)
	for _, got := range seen {
		if !bytes.Equal(got, want) {
			return fail(remedyOnce, "a reader during the race for %s saw %d bytes that are not the winner's %d", h.key, len(got), m.size)
		}
	}
	for _, c := range h.readers {
		if f := p.holds(ctx, c, h.key, m); f != nil {
			if f.verdict == Fail {
				f.detail = "after a race, the winner's bytes are not what is read: " + f.detail
				f.remedy = remedyOnce
			}
			return f
		}
	}
	switch err := p.conn(winner+1).create(ctx, h.key, body(made{p.fresh(), m.size})); {
	case err == nil:
		return fail(remedyOnce, "%s was created again after its race was over", h.key)
	case !errs.Is(err, errs.Exists):
		return trouble("creating over an existing object", err)
	}
	p.keep(h.key, m)
	return nil
}

// start lets the racers go and returns what a reader saw meanwhile.
func (p *probe) start(ctx context.Context, h *heat) (seen [][]byte, results []error) {
	p.sent(h.key)
	results = make([]error, len(h.bodies))
	bodies := make([][]byte, len(h.bodies))
	longest := 0
	for i, m := range h.bodies {
		bodies[i] = body(m)
		longest = max(longest, m.size)
	}
	gun := make(chan struct{})
	var wg sync.WaitGroup
	for i := range h.bodies {
		wg.Go(func() {
			<-gun
			if h.gap > 0 {
				pause(ctx, h.gap*time.Duration(i))
			}
			results[i] = h.conns[i%len(h.conns)].create(ctx, h.key, bodies[i])
		})
	}
	wg.Go(func() {
		<-gun
		for range looks {
			b := make([]byte, longest+1)
			if n, err := h.readers[0].readRange(ctx, h.key, b, 0); err == nil {
				seen = append(seen, b[:n])
			}
			pause(ctx, lookGap)
		}
	})
	close(gun)
	wg.Wait()
	return seen, results
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// judge finds the one winner among results.
func (p *probe) judge(ctx context.Context, h *heat, results []error) (winner int, f *finding) {
	winner = -1
	wins := 0
	var odd error
	for i, err := range results {
		switch {
		case err == nil:
			winner = i
			wins++
		case !errs.Is(err, errs.Exists):
			odd = err
		}
	}
	switch {
	case wins > 1:
		return 0, fail(remedyOnce, "%d of %d writers racing for %s were told that they created it", wins, len(results), h.key)
	case odd != nil:
		return 0, trouble(fmt.Sprintf("racing for %s", h.key), odd)
	case wins == 1:
		return winner, nil
	}
	// The winner's answer was lost, and its repeat met its own object.
	b := make([]byte, raceBody+raceSpread+int(p.scale.bigBody))
	n, err := h.readers[0].readRange(ctx, h.key, b[:h.longest()+1], 0)
	if errs.Is(err, errs.NotFound) {
		return 0, fail(remedyOnce, "all %d writers racing for %s were told that it exists, and it does not", len(results), h.key)
	}
	if err != nil {
		return 0, trouble("reading "+h.key, err)
	}
	for i, m := range h.bodies {
		if bytes.Equal(b[:n], body(m)) {
			return i, nil
		}
	}
	return 0, fail(remedyOnce, "%s holds bytes that none of its %d writers wrote", h.key, len(results))
}

func (h *heat) longest() int {
	n := 0
	for _, m := range h.bodies {
		n = max(n, m.size)
	}
	return n
}

// overwrites are the sizes tried over an existing object of smallBody bytes:
// the same, shorter, longer, empty.
var overwrites = []int{smallBody, smallBody / 2, smallBody * 2, 0}

func costOverwrite(_ *scale, conns uint64) Budget {
	n := uint64(len(overwrites)) + 1
	return Budget{1 + conns*3*n, smallBody + int64(conns*n)*2*smallBody, int64(conns*n) * 2 * (smallBody + 1)}
}

// tryOverwrite creates over an existing object, calmly: other bytes, and the
// very same.
func tryOverwrite(ctx context.Context, p *probe) finding {
	key := p.prefix + "overwrite"
	m, err := p.put(ctx, p.conns[0], key, smallBody)
	if err != nil {
		return *trouble("creating", err)
	}
	tries := 0
	for _, c := range p.conns {
		bodies := [][]byte{body(m)}
		for _, size := range overwrites {
			bodies = append(bodies, body(made{p.fresh(), size}))
		}
		for i, b := range bodies {
			err := c.create(ctx, key, b)
			what := fmt.Sprintf("with %d other bytes", len(b))
			if i == 0 {
				what = "with the very same bytes"
			}
			if err == nil {
				return *fail(remedyOnce, "a name that exists was created again %s", what)
			}
			if !errs.Is(err, errs.Exists) {
				return *trouble("creating over an existing object "+what, err)
			}
			if f := p.holds(ctx, c, key, m); f != nil {
				if f.verdict == Fail {
					f.detail = "after a create over it was refused, an object is not as it was: " + f.detail
					f.remedy = remedyOnce
				}
				return *f
			}
			tries++
		}
	}
	return pass("%d creates over an existing object refused, its content unchanged", tries)
}

func costRecreate(s *scale, conns uint64) Budget {
	n, racers, body := uint64(s.recreate), uint64(s.racers), int64(raceBody+raceSpread)
	per := Budget{1 + 1 + 1 + racers + looks + 2*conns + 1 + racers + 3, int64(2*racers+3) * body, int64(looks+conns+2) * (body + 1)}
	return Budget{per.Requests * n, per.Up * int64(n), per.Down * int64(n)}
}

// tryRecreate deletes a name and lets writers race for it again: with the
// deletion done, and while it is under way.
func tryRecreate(ctx context.Context, p *probe) finding {
	if !p.mayDelete {
		return finding{NotPermitted, "not tried: the credentials may not delete", "nothing for a publisher or a recovery"}
	}
	size := func(i int) int { return raceBody + i*991%raceSpread }
	for round := range p.scale.recreate {
		key := fmt.Sprintf("%sagain/%03d", p.prefix, round)
		if _, err := p.put(ctx, p.conn(round), key, smallBody); err != nil {
			return *trouble("creating", err)
		}
		p.forget(key)
		if err := p.conn(round+1).remove(ctx, key); err != nil {
			return *trouble("deleting", err)
		}
		if f := p.run(ctx, p.heat(key, p.scale.racers, size)); f != nil {
			if f.verdict == Fail {
				f.detail = "after a deletion: " + f.detail
			}
			return *f
		}
		if f := p.contest(ctx, p.heat(key, p.scale.racers, size), round); f != nil {
			return *f
		}
	}
	return pass("%d names deleted and raced for again, at leisure and during the deletion: never two winners, never old bytes", p.scale.recreate)
}

// contest deletes an existing key once while racers try to create it: at most
// one can succeed, and then its bytes are there.
func (p *probe) contest(ctx context.Context, h *heat, round int) *finding {
	p.forget(h.key)
	results := make([]error, len(h.bodies))
	var removed error
	var wg sync.WaitGroup
	for i, m := range h.bodies {
		b := body(m)
		wg.Go(func() { results[i] = p.conn(i).create(ctx, h.key, b) })
	}
	wg.Go(func() { removed = p.conn(round).remove(ctx, h.key) })
	wg.Wait()
	winner, wins := -1, 0
	for i, err := range results {
		if err == nil {
			winner = i
			wins++
		} else if !errs.Is(err, errs.Exists) {
			return trouble("creating during a deletion", err)
		}
	}
	switch {
	case removed != nil:
		return trouble("deleting during creations", removed)
	case wins > 1:
		return fail(remedyOnce, "one deletion of %s let %d writers create it", h.key, wins)
	case wins == 1:
		if f := p.holds(ctx, p.conn(round+1), h.key, h.bodies[winner]); f != nil {
			return f
		}
		p.keep(h.key, h.bodies[winner])
	}
	return nil
}
