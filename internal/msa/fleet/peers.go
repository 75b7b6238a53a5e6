package fleet

import (
	"context"
	"errors"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// AskPeers asks the managers of paired sites for their key and for how domains stand.
func (f *Fleet) AskPeers(ctx context.Context) error {
	if f.Ask == nil {
		return nil
	}
	var pairs []pair.Pair
	if err := f.DB.View(ctx, func(tx *db.Tx) (err error) { pairs, err = pair.List(ctx, tx); return err }); err != nil {
		return err
	}
	var failed error
	for i := range pairs {
		p := &pairs[i]
		if p.Trust != site.Trusted || p.Address == "" || p.PeerSite == "" || p.PeerSite == f.Site || p.OutError != "" {
			continue // that it does not answer is the pair's to tell
		}
		failed = errors.Join(failed, f.askPeer(ctx, p))
	}
	return failed
}

// maxPeerDomains bounds what is taken of a peer's list.
const maxPeerDomains = 2000

func (f *Fleet) askPeer(ctx context.Context, p *pair.Pair) error {
	ctx, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	var key v1.SiteKey
	if err := f.Ask(ctx, p.Name, "/api/v1/site-key", &key); err != nil {
		return err
	}
	if _, err := journal.ParseRecipient(key.Recipient); err != nil || key.Site != p.PeerSite {
		return errs.New("fleet.askPeer", errs.Corrupt, "pair "+string(p.Name), "its site key is none").WithRemedy("use managers of one release")
	}
	var list struct {
		Items []v1.DomainStatus `json:"items"`
	}
	if err := f.Ask(ctx, p.Name, "/api/v1/domain-statuses", &list); err != nil {
		return err
	}
	return f.DB.Tx(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO fleet_peers (site, recipient, heard_at) VALUES ($1, $2, $3)
			ON CONFLICT (site) DO UPDATE SET recipient = excluded.recipient, heard_at = excluded.heard_at`, string(p.PeerSite), key.Recipient, tx.Now()); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM fleet_peer_domains WHERE site = $1`, string(p.PeerSite)); err != nil {
			return err
		}
		for i, d := range list.Items {
			if i >= maxPeerDomains || !d.Domain.Valid() {
				continue
			}
			var newest int64
			if d.Newest != nil {
				newest = d.Newest.UnixMilli()
			}
			reversed := 0
			if d.Reversed {
				reversed = 1
			}
			if _, err := tx.Exec(ctx, `INSERT INTO fleet_peer_domains (site, domain, at, state, newest, failover, reversed, heard_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
				ON CONFLICT (site, domain) DO NOTHING`, string(p.PeerSite), string(d.Domain), db.Text(string(d.At), site.MaxName), db.Text(d.State, site.MaxName), newest,
				db.Text(d.Failover, site.MaxName), reversed, tx.Now()); err != nil {
				return err
			}
		}
		return nil
	})
}

// theirs is the status of a domain that the other site protects, as its manager told.
func (f *Fleet) theirs(ctx context.Context, tx *db.Tx, d *site.ProtectedDomain, x v1.DomainStatus) (v1.DomainStatus, error) {
	var state string
	var newest int64
	found, err := tx.Row(ctx, `SELECT state, newest FROM fleet_peer_domains WHERE site = $1 AND domain = $2`, []any{string(d.From), string(d.Name)}, &state, &newest)
	if err == nil && found {
		x.State = state
		if newest > 0 {
			at := db.Time(newest)
			x.Newest = &at
		}
	}
	return x, err
}

// peerUp reports whether the manager of a plan's other site answers.
func (f *Fleet) peerUp(ctx context.Context, tx *db.Tx, p *plan.Plan) (bool, error) {
	pairs, err := pair.List(ctx, tx)
	if err != nil {
		return false, err
	}
	if p.From == f.Site && p.To == f.Site {
		return true, nil
	}
	for i := range pairs {
		if x := &pairs[i]; (x.PeerSite == p.From || x.PeerSite == p.To) && x.PeerSite != f.Site && x.Status == pair.StatusOK {
			return true, nil
		}
	}
	return false, nil
}
