package fleet

import (
	"context"
	"time"

	"holdfast/internal/errs"
)

// Run settles, looks at containers and asks peers until ctx ends.
func (f *Fleet) Run(ctx context.Context) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		f.told("settle", f.Settle(ctx))
		f.told("containers", f.Containers(ctx))
		if f.peersDue(time.Now()) {
			f.told("peers", f.AskPeers(ctx))
		}
		f.told("alarms", f.Judge(ctx))
		f.told("placeholders", f.Restore(ctx, time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-tick.C:
		}
	}
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
