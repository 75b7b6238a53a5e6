package fleet

import (
	"context"
	"sync"
	"time"

	"holdfast/internal/errs"
)

// Run settles, judges, looks at containers and asks peers until ctx ends. A store or a
// peer that hangs keeps nothing else waiting.
func (f *Fleet) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, l := range []struct {
		every time.Duration
		woken <-chan struct{}
		do    func()
	}{
		{settleEvery, f.wake, func() {
			f.told("settle", f.Settle(ctx))
			f.told("alarms", f.Judge(ctx))
			f.told("placeholders", f.Restore(ctx, time.Now()))
		}},
		{settleEvery, nil, func() { f.told("containers", f.Containers(ctx)) }},
		{askEvery, nil, func() { f.told("peers", f.AskPeers(ctx)) }},
	} {
		wg.Go(func() {
			tick := time.NewTicker(l.every)
			defer tick.Stop()
			for ctx.Err() == nil {
				l.do()
				select {
				case <-ctx.Done():
				case <-l.woken:
				case <-tick.C:
				}
			}
		})
	}
	wg.Wait()
}

// told logs an error when it is another one than before.
func (f *Fleet) told(what string, err error) {
	words := ""
	if err != nil && !errs.Is(err, errs.Canceled) {
		words = err.Error()
	}
	f.mu.Lock()
	same := f.log[what] == words
	f.log[what] = words
	f.mu.Unlock()
	if !same && words != "" {
		f.Logger.Warn("the fleet is not as it should be", "what", what, "err", err, "remedy", errs.RemedyOf(err))
	}
}
