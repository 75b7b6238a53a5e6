package inventory

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Source is a site that is to be kept.
type Source struct {
	Site site.Name
	// How says in words how it is looked at: when that is another, its provider is
	// opened anew.
	How  string
	Open func() (Provider, error) // Kind Invalid: no provider can be had this way
}

// Overseer has sites kept: the manager's own, by its platform, and those of its peers,
// by their managers. It opens providers as they are configured, and others when that is
// changed. Make it with NewOverseer. Run owns a goroutine for each keeper; the other
// methods are for concurrent use.
type Overseer struct {
	o OverseerOptions

	mu      sync.Mutex
	keepers map[site.Name]*kept // guarded by mu
}

// kept is a site that is kept.
type kept struct {
	how    string
	keeper *Keeper // nil: no provider can be had
	stop   func()
}

// OverseerOptions are what an Overseer is made from.
type OverseerOptions struct {
	// Sources returns the sites to keep; of two with one name the first counts.
	Sources func(context.Context, *db.Tx) ([]Source, error)
	DB      *db.DB
	Catalog *catalog.Catalog
	Store   *Store
	Owner   string        // of its keepers; "": names of theirs
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
	return &Overseer{o: o, keepers: map[site.Name]*kept{}}
}

// Run oversees until ctx ends.
func (v *Overseer) Run(ctx context.Context) error {
	defer v.settle(ctx, nil)
	for {
		var list []Source
		err := v.o.DB.View(ctx, func(tx *db.Tx) (err error) { list, err = v.o.Sources(ctx, tx); return err })
		if err == nil {
			v.settle(ctx, list)
		} else if ctx.Err() == nil {
			v.o.Logger.Warn("which sites are to be looked at is not known", "err", err)
		}
		if !wait(ctx, v.o.Every) {
			return nil
		}
	}
}

// settle keeps what is wanted, and nothing else. Of Run's goroutine alone.
func (v *Overseer) settle(ctx context.Context, list []Source) {
	want := map[site.Name]Source{}
	for _, w := range list {
		if _, twice := want[w.Site]; !twice && len(want) < maxViews {
			want[w.Site] = w
		}
	}
	v.mu.Lock()
	var over []*kept
	for name, k := range v.keepers {
		if w, ok := want[name]; !ok || w.How != k.how {
			over = append(over, k)
			delete(v.keepers, name)
		}
	}
	v.mu.Unlock()
	for _, k := range over {
		k.stop()
	}
	for name, w := range want {
		v.mu.Lock()
		_, has := v.keepers[name]
		v.mu.Unlock()
		if has {
			continue
		}
		k := v.begin(ctx, w)
		v.mu.Lock()
		v.keepers[name] = k
		v.mu.Unlock()
	}
}

// begin opens a site's provider and keeps it until stop is called. What cannot be
// opened is not tried again before it is configured otherwise.
func (v *Overseer) begin(ctx context.Context, w Source) *kept {
	p, err := w.Open()
	if err != nil {
		v.o.Logger.Warn("a site cannot be looked at", "site", w.Site, "how", w.How, "err", err)
		return &kept{how: w.How, stop: func() {}}
	}
	ctx, cancel := context.WithCancel(ctx)
	k := NewKeeper(Options{Site: w.Site, Provider: p, DB: v.o.DB, Catalog: v.o.Catalog, Store: v.o.Store, Owner: v.o.Owner, Logger: v.o.Logger})
	var wg sync.WaitGroup
	wg.Go(func() { k.Run(ctx) })
	return &kept{how: w.How, keeper: k, stop: func() {
		cancel()
		wg.Wait()
		if err := p.Close(); err != nil {
			v.o.Logger.Warn("a site's platform was not let go of", "site", w.Site, "err", err)
		}
	}}
}

// Vacate is Keeper.Vacate at a site. Kinds besides: Unavailable (the site's platform is
// not known).
func (v *Overseer) Vacate(ctx context.Context, at site.Name, vm dr.VMID) error {
	v.mu.Lock()
	k := v.keepers[at]
	v.mu.Unlock()
	if k == nil || k.keeper == nil {
		return errs.New("inventory.Vacate", errs.Unavailable, string(at), "the site's platform is not known").WithRemedy("configure the site's platform and endpoints")
	}
	return k.keeper.Vacate(ctx, vm)
}
