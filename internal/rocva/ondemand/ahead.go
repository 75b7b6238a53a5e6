package ondemand

import (
	"context"
	"sync"
)

// ahead finds guests that read in order and keeps a bit ahead of them.
type ahead struct {
	mu     sync.Mutex
	next   uint32 // guarded by mu; where a reader in order goes on
	until  uint32 // guarded by mu; the chunk behind what was asked for ahead
	window uint32 // guarded by mu; chunks; 0: nobody reads in order
	busy   bool   // guarded by mu
}

// lookAhead hears of a read and fetches ahead of a reader that has missed and
// goes on in order.
func (f *fetcher) lookAhead(ctx context.Context, g *gate, a *ahead, s sink, first, last uint32, miss bool, total uint32) {
	from, to := a.step(first, last, miss, total)
	if from == to || !g.enter() {
		return
	}
	go func() {
		defer g.leave()
		defer a.done()
		mine, _ := f.claim(s, wants(s, from, to-1, func(uint32) uint16 { return all16 }))
		defer f.land(s, mine)
		// No matter if it fails: the reader will come and see for himself.
		_ = f.fetch(ctx, s, mine, f.demand)
	}()
}

// step decides what is fetched ahead: chunks from..to-1.
func (a *ahead) step(first, last uint32, miss bool, total uint32) (from, to uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	inOrder := first == a.next || first+1 == a.next
	a.next = last + 1
	if !inOrder {
		a.window, a.until = 0, last+1
		return 0, 0
	}
	if !miss && a.window == 0 || a.busy || a.until > last+1+a.window/2 {
		return 0, 0
	}
	a.window = min(max(2*a.window, aheadFirst), aheadMost)
	from, to = max(a.until, last+1), min(last+1+a.window, total)
	if from >= to {
		return 0, 0
	}
	a.until, a.busy = to, true
	return from, to
}

func (a *ahead) done() {
	a.mu.Lock()
	a.busy = false
	a.mu.Unlock()
}
