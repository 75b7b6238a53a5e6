package replica

import (
	"context"
	"fmt"
	"net/url"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/api"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/peer"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/scan"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/stats"
)

// watchers are what looks at sites and tells people: statistics, alarms, inventories,
// and what is kept in containers for a fresh manager.
func (r *Replica) watchers() []Part {
	lasting := func(f func(context.Context)) func(context.Context) error {
		return func(ctx context.Context) error { f(ctx); return nil }
	}
	sender := &alarm.Sender{DB: r.DB, Secret: r.Secret, Logger: r.Log}
	parts := []Part{
		{"statistics", lasting(func(ctx context.Context) { r.Stats.Run(ctx, r.DB, r.Log) })},
		{"alarms", lasting(func(ctx context.Context) { stats.NewJudge(r.Stats).Run(ctx, r.DB, r.Log) })},
		{"outlets", lasting(sender.Run)},
	}
	r.Sites = inventory.NewOverseer(inventory.OverseerOptions{Sources: r.wanted, DB: r.DB, Catalog: r.Catalog, Store: r.Store, Owner: r.id, Logger: r.Log})
	parts = append(parts, Part{"inventory", r.Sites.Run})
	parts = append(parts, Part{"fleet", lasting(r.Fleet.Run)})
	if r.opts.OpenStore != nil {
		p := &scan.Publisher{DB: r.DB, Store: r.Store, To: r.Fleet, Site: r.opts.Site, Release: r.opts.Release, Logger: r.Log}
		parts = append(parts, Part{"containers", lasting(p.Run)})
	}
	return parts
}

// Secret opens a credential that admins have stored. Kind NotFound.
func (r *Replica) Secret(ctx context.Context, name string) (word string, err error) {
	err = r.DB.View(ctx, func(tx *db.Tx) error {
		return r.Box.Use(ctx, tx, api.CredentialPrefix+name, func(secret []byte) error {
			word = string(secret)
			return nil
		})
	})
	return word, err
}

// wanted says which sites are looked at: our own, by its platform, and those of peers
// that we can call, by their managers.
func (r *Replica) wanted(ctx context.Context, tx *db.Tx) (list []inventory.Source, err error) {
	own, err := catalog.Find[*site.Site](ctx, tx, r.opts.Site)
	switch {
	case errs.Is(err, errs.NotFound):
	case err != nil:
		return nil, err
	case r.opts.Platform != nil:
		list = append(list, inventory.Source{
			Site: own.Name, How: fmt.Sprintf("%s %q", own.Platform, own.Endpoints), Open: func() (inventory.Provider, error) { return r.opts.Platform(own) },
		})
	}
	pairs, err := pair.List(ctx, tx)
	for _, p := range pairs {
		if p.Trust != site.Trusted || p.Address == "" || p.PeerSite == "" || p.PeerSite == r.opts.Site {
			continue
		}
		list = append(list, inventory.Source{Site: p.PeerSite, How: fmt.Sprintf("pair %s, %s, %s", p.Name, p.Address, p.Fingerprint), Open: func() (inventory.Provider, error) {
			return peer.New(p.PeerSite, paired{r.pairs, p.Name}, 0), nil
		}})
	}
	return list, err
}

// paired asks a pair's manager.
type paired struct {
	m    *pair.Monitor
	name site.Name
}

// Get asks for a path of its API.
func (p paired) Get(ctx context.Context, path string, query url.Values, out any) error {
	path = "/api/v1" + path
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return p.m.Get(ctx, p.name, path, out)
}
