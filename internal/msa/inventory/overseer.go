package inventory

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Overseer has the manager's own site kept: it opens a provider as the site is
// configured, and another when that is changed. Make it with NewOverseer. Run owns a
// goroutine for the keeper; the other methods are for concurrent use.
type Overseer struct {
	o OverseerOptions

	mu     sync.Mutex
	keeper *Keeper // guarded by mu; nil: the site has none
}

// OverseerOptions are what an Overseer is made from.
type OverseerOptions struct {
	Site    site.Name
	Open    func(*site.Site) (Provider, error) // by the site's platform and endpoints; Kind Invalid: none can be had
	DB      *db.DB
	Catalog *catalog.Catalog
	Store   *Store
	Every   time.Duration // how often the configuration is looked at; 0: 5 s
	Logger  *slog.Logger  // nil: nothing is logged
}

// NewOverseer returns an overseer that does nothing before Run.
func NewOverseer(o OverseerOptions) *Overseer {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Every <= 0 {
		o.Every = pollEvery
	}
	return &Overseer{o: o}
}

// Run oversees until ctx ends.
func (v *Overseer) Run(ctx context.Context) error {
	var now *site.Site
	stop := func() {}
	defer func() { stop() }()
	for {
		want, err := v.configured(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			v.o.Logger.Warn("the site's configuration cannot be read", "err", err)
		case err == nil && !sameSite(now, want):
			stop()
			stop, now = v.begin(ctx, want), want
		}
		if !wait(ctx, v.o.Every) {
			return nil
		}
	}
}

// configured returns the site as it is configured; nil: it is not, yet.
func (v *Overseer) configured(ctx context.Context) (*site.Site, error) {
	var s *site.Site
	err := v.o.DB.View(ctx, func(tx *db.Tx) (err error) {
		s, err = catalog.Find[*site.Site](ctx, tx, v.o.Site)
		return err
	})
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	return s, err
}

func sameSite(a, b *site.Site) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Platform == b.Platform && slices.Equal(a.Endpoints, b.Endpoints)
}

// begin opens a site's provider and keeps it until stop is called.
func (v *Overseer) begin(ctx context.Context, s *site.Site) (stop func()) {
	if s == nil {
		return func() {}
	}
	p, err := v.o.Open(s)
	if err != nil {
		v.o.Logger.Warn("the site's platform cannot be looked at", "site", s.Name, "platform", s.Platform, "err", err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	k := NewKeeper(Options{Site: s.Name, Provider: p, DB: v.o.DB, Catalog: v.o.Catalog, Store: v.o.Store, Logger: v.o.Logger})
	v.set(k)
	var wg sync.WaitGroup
	wg.Go(func() { k.Run(ctx) })
	return func() {
		v.set(nil)
		cancel()
		wg.Wait()
		if err := p.Close(); err != nil {
			v.o.Logger.Warn("the site's platform was not let go of", "err", err)
		}
	}
}

func (v *Overseer) set(k *Keeper) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keeper = k
}

// Vacate is Keeper.Vacate at the manager's own site. Kinds besides: Unavailable (the
// platform is not known).
func (v *Overseer) Vacate(ctx context.Context, vm dr.VMID) error {
	v.mu.Lock()
	k := v.keeper
	v.mu.Unlock()
	if k == nil {
		return errs.New("inventory.Vacate", errs.Unavailable, string(v.o.Site), "the site's platform is not known").WithRemedy("configure the site's platform and endpoints")
	}
	return k.Vacate(ctx, vm)
}
