package peer

import (
	"context"
	"net/url"
	"strconv"
	"sync"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/site"
)

// Source asks the paired manager.
type Source interface {
	// Get asks for a path of its API, below /api/v1, and decodes the answer. Kinds: what
	// the manager says; Unavailable.
	Get(ctx context.Context, path string, query url.Values, out any) error
}

const (
	// askEvery is how often the generation is asked for: what is known of a peer's VMs
	// need not be newer for a recovery plan, and one small answer costs nothing.
	askEvery = 15 * time.Second
	// pageSize is how many VMs are asked for at once: some 700 kB.
	pageSize = 500
	// maxPages ends a list that has no end.
	maxPages = site.MaxVMs/pageSize + 1
)

// Provider tells what a paired site has. Make it with New. Safe for concurrent use; it
// starts no goroutine.
type Provider struct {
	site   site.Name // immutable, as the next two
	source Source
	every  time.Duration

	mu       sync.Mutex
	closed   bool            // guarded by mu
	watchers map[*watch]bool // guarded by mu
}

var _ inventory.Provider = (*Provider)(nil)

// New returns the provider of a site whose manager is asked by source, as often as
// every says; 0: 15 s.
func New(of site.Name, source Source, every time.Duration) *Provider {
	if every <= 0 {
		every = askEvery
	}
	return &Provider{site: of, source: source, every: every, watchers: map[*watch]bool{}}
}

// Name returns "peer".
func (p *Provider) Name() string { return "peer" }

// Places returns nil: placeholders stand at the site of the manager that keeps them.
func (p *Provider) Places() hypervisor.PlaceKeeper { return nil }

// Close ends all watchers.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for w := range p.watchers {
		w.Gather.Close()
	}
	return nil
}

// watch is one watch.
type watch struct {
	*inventory.Gather
	p          *Provider
	tick       *time.Ticker
	generation int64 // that was told last
}

// Watch begins to watch.
func (p *Provider) Watch(ctx context.Context) (inventory.Watcher, error) {
	const op = "peer.Watch"
	if ctx.Err() != nil {
		return nil, errs.E(op, errs.Canceled, string(p.site), context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errs.New(op, errs.Unavailable, string(p.site), "the provider was closed")
	}
	w := &watch{Gather: inventory.NewGather(), p: p, tick: time.NewTicker(p.every)}
	p.watchers[w] = true
	return w, nil
}

// Close ends the watch.
func (w *watch) Close() {
	w.tick.Stop()
	w.p.mu.Lock()
	delete(w.p.watchers, w)
	w.p.mu.Unlock()
	w.Gather.Close()
}

// Next waits until the peer has another generation, and reads it.
func (w *watch) Next(ctx context.Context) (inventory.Update, error) {
	const op = "peer.Next"
	for {
		select {
		case <-ctx.Done():
			return inventory.Update{}, errs.E(op, errs.Canceled, string(w.p.site), context.Cause(ctx))
		case <-w.Woken():
		case <-w.tick.C:
		}
		all, _, open := w.Take()
		if !open {
			return inventory.Update{}, errs.New(op, errs.Unavailable, string(w.p.site), "the watch was closed")
		}
		g, err := w.p.generation(ctx)
		if err == nil && !all && g == w.generation {
			continue
		}
		var inv *site.Inventory
		if err == nil {
			inv, err = w.p.whole(ctx)
		}
		if err != nil {
			w.All()
			if ctx.Err() == nil {
				err = errs.E(op, errs.Unavailable, string(w.p.site), err)
			}
			return inventory.Update{}, err
		}
		w.generation = g
		return inventory.Update{Whole: inv}, nil
	}
}

// generation asks which generation the peer's inventory has. Kind NotFound: it knows
// nothing of its own site yet.
func (p *Provider) generation(ctx context.Context) (int64, error) {
	var page v1.Page[v1.InventoryState]
	if err := p.source.Get(ctx, "/inventories", nil, &page); err != nil {
		return 0, err
	}
	for _, s := range page.Items {
		if s.Site == p.site {
			return s.Generation, nil
		}
	}
	return 0, errs.New("peer.Next", errs.NotFound, string(p.site), "the peer's manager knows nothing of its site's platform")
}

// whole reads everything. What changes while it is read is read again: the generation
// was asked for before.
func (p *Provider) whole(ctx context.Context) (*site.Inventory, error) {
	path := "/inventories/" + url.PathEscape(string(p.site))
	inv := &site.Inventory{}
	if err := p.source.Get(ctx, path, nil, inv); err != nil {
		return nil, err
	}
	inv.Site, inv.VMs = p.site, nil
	q := url.Values{"limit": {strconv.Itoa(pageSize)}}
	for range maxPages {
		var page v1.Page[site.VM]
		if err := p.source.Get(ctx, path+"/vms", q, &page); err != nil {
			return nil, err
		}
		inv.VMs = append(inv.VMs, page.Items...)
		if page.Next == "" {
			return inv, nil
		}
		q.Set("cursor", page.Next)
	}
	return nil, errs.New("peer.Next", errs.Full, string(p.site), "the peer's list of VMs has no end")
}
