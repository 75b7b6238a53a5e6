package replica

import (
	"context"

	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/api"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/scan"
	"holdfast/internal/msa/stats"
)

// watchers are what looks at sites and tells people: statistics, alarms, inventories,
// and what is kept in containers for a fresh manager.
func (r *Replica) watchers() []Part {
	lasting := func(f func(context.Context)) func(context.Context) error {
		return func(ctx context.Context) error { f(ctx); return nil }
	}
	sender := &alarm.Sender{DB: r.DB, Secret: r.secret, Logger: r.Log}
	parts := []Part{
		{"statistics", lasting(func(ctx context.Context) { r.Stats.Run(ctx, r.DB, r.Log) })},
		{"alarms", lasting(func(ctx context.Context) { stats.NewJudge(r.Stats).Run(ctx, r.DB, r.Log) })},
		{"outlets", lasting(sender.Run)},
	}
	if r.opts.Platform != nil {
		r.Site = inventory.NewOverseer(inventory.OverseerOptions{
			Site: r.opts.Site, Open: r.opts.Platform, DB: r.DB, Catalog: r.Catalog, Store: r.Store, Logger: r.Log,
		})
		parts = append(parts, Part{"inventory", r.Site.Run})
	}
	if r.opts.Containers != nil {
		p := &scan.Publisher{DB: r.DB, Store: r.Store, To: r.opts.Containers(r), Site: r.opts.Site, Release: r.opts.Release, Logger: r.Log}
		parts = append(parts, Part{"containers", lasting(p.Run)})
	}
	return parts
}

// secret opens a credential that admins have stored.
func (r *Replica) secret(ctx context.Context, name string) (word string, err error) {
	err = r.DB.View(ctx, func(tx *db.Tx) error {
		return r.Box.Use(ctx, tx, api.CredentialPrefix+name, func(secret []byte) error {
			word = string(secret)
			return nil
		})
	})
	return word, err
}
