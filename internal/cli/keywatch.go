package cli

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
)

// keyWatchEvery is how often an appliance looks for a data key newer than the
// one it seals under: one list of a few names, 48 requests a day.
const keyWatchEvery = 30 * time.Minute

// keyStatus is the data key an appliance seals under.
type keyStatus struct {
	Generation uint32  `json:"generation"`
	Newer      dr.UUID `json:"newer,omitzero"` // the store has this one, which came after it
}

// restartWords is what to do about a newer data key.
const restartWords = "restart it: it seals under the newest data key, and opens what is sealed under it, from its start on"

// keyWatch looks for rotations of the data key beside what seals. It is safe
// for concurrent use and never fails what it runs beside.
type keyWatch struct {
	c          *journal.Container
	log        *slog.Logger
	generation uint32

	mu    sync.Mutex
	newer dr.UUID // zero: none
}

func newKeyWatch(c *journal.Container, log *slog.Logger) *keyWatch {
	k := &keyWatch{c: c, log: log}
	for _, g := range c.Generations() {
		if g.Current {
			k.generation = g.Number
		}
	}
	return k
}

// beside returns main with the watch running beside it.
func (k *keyWatch) beside(main func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		tick := time.NewTicker(keyWatchEvery)
		defer tick.Stop()
		wg.Go(func() { k.run(ctx, tick.C) })
		return main(ctx)
	}
}

// run looks at once, and whenever it is time.
func (k *keyWatch) run(ctx context.Context, tick <-chan time.Time) {
	for {
		k.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

// look looks once, and warns the first time a newer data key is there. A store
// that does not answer says nothing about keys; publishing complains of it.
func (k *keyWatch) look(ctx context.Context) {
	id, newer, err := k.c.RotatedSince(ctx)
	if err != nil {
		k.log.Debug("could not look for a newer data key", "err", err)
		return
	}
	if !newer {
		id = dr.UUID{}
	}
	k.mu.Lock()
	was := k.newer
	k.newer = id
	k.mu.Unlock()
	if newer && was != id {
		k.log.Warn("the data key was rotated; this process seals under the old one", "generation", k.generation, "newer", id.String(), "remedy", restartWords)
	}
}

func (k *keyWatch) status() keyStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	return keyStatus{Generation: k.generation, Newer: k.newer}
}
