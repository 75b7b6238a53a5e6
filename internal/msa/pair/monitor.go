package pair

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/errs"
	"holdfast/internal/msa/call"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/pki"
	"holdfast/internal/msa/site"
)

// repair is the remedy by which a status knows that trust is at stake, and not the way.
const repair = "a certificate has changed at one of the sites: pair them again, with a token of this pair"

// Beat is what a manager tells its peer.
type Beat struct {
	At      int64     `json:"at"` // UTC milliseconds by its database
	Site    site.Name `json:"site"`
	Release string    `json:"release,omitempty"`
}

// Note enters a beat of a peer that has proved itself, and answers with our own. Kind
// NotFound.
func Note(ctx context.Context, tx *db.Tx, k *pki.PKI, name site.Name, in Beat, release string) (Beat, error) {
	skew := max(min(in.At-tx.Now(), 1<<40), -1<<40)
	n, err := tx.Exec(ctx, `UPDATE peers SET in_at = $2, skew = $3, release = $4 WHERE name = $1 AND trust = $5`,
		name, tx.Now(), skew, db.Text(in.Release, maxRelease), site.Trusted)
	if err == nil && n == 0 {
		err = noPair("pair.Note", name)
	}
	return Beat{tx.Now(), site.Name(k.Site()), release}, err
}

// Left enters that a peer, which has proved itself, has un-paired: what it had is kept,
// so that an admin sees it, and trusted no more. Kind NotFound.
func Left(ctx context.Context, tx *db.Tx, name site.Name) error {
	n, err := tx.Exec(ctx, `UPDATE peers SET trust = $2, authority = '', fingerprint = '', changed_at = $3 WHERE name = $1`, name, site.Revoked, tx.Now())
	if err == nil && n == 0 {
		err = noPair("pair.Left", name)
	}
	return err
}

// Monitor keeps the status of all pairs.
type Monitor struct {
	DB      *db.DB
	PKI     *pki.PKI
	Release string
	Logger  *slog.Logger // nil: none

	every time.Duration // of tests
}

// Run calls all pairs' managers every ten seconds until ctx ends, together with the
// other replicas: each beat is one replica's.
func (m *Monitor) Run(ctx context.Context) error {
	if m.Logger == nil {
		m.Logger = slog.New(slog.DiscardHandler)
	}
	if m.every == 0 {
		m.every = BeatEvery
	}
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for {
		if err := m.round(ctx); err != nil && ctx.Err() == nil {
			m.Logger.Warn("pairs could not be called", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// atOnce bounds the pairs that are called at once.
const atOnce = 8

// round calls the pairs whose turn it is.
func (m *Monitor) round(ctx context.Context) error {
	due, err := m.claim(ctx)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	failed := make([]error, len(due))
	for i, p := range due {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			failed[i] = m.call(ctx, p)
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

// claim takes the pairs that no replica has called for a while.
func (m *Monitor) claim(ctx context.Context) (due []Pair, err error) {
	err = m.DB.Tx(ctx, func(tx *db.Tx) error {
		due = nil
		// A little less than the interval: tickers are not exact.
		return tx.Rows(ctx, `UPDATE peers SET out_at = $1 WHERE trust = $2 AND address <> '' AND out_at <= $3 RETURNING `+columns,
			[]any{tx.Now(), site.Trusted, tx.Now() - (m.every * 9 / 10).Milliseconds()}, func(scan func(...any) error) error {
				p, err := read(scan, tx.Now())
				due = append(due, p)
				return err
			})
	})
	return due, err
}

// call beats once and enters how it went.
func (m *Monitor) call(ctx context.Context, p Pair) error {
	err := m.post(ctx, &p, BeatPath, Beat{time.Now().UnixMilli(), site.Name(m.PKI.Site()), m.Release}, &Beat{})
	if ctx.Err() != nil {
		return nil // nothing was learnt
	}
	words, remedy := "", ""
	if err != nil {
		words, remedy = db.Text(err.Error(), maxError), db.Text(errs.RemedyOf(err), maxError)
		if errs.Is(err, errs.Denied) {
			remedy = repair
		}
		if p.OutError == "" {
			m.Logger.Warn("a pair's manager does not answer", "pair", p.Name, "address", p.Address, "err", err, "remedy", remedy)
		}
	} else if p.OutError != "" {
		m.Logger.Info("a pair's manager answers again", "pair", p.Name)
	}
	return m.DB.Tx(ctx, func(tx *db.Tx) error {
		// Only of the trust that was used: a new one begins anew.
		_, err := tx.Exec(ctx, `UPDATE peers SET out_error = $3, out_remedy = $4, out_ok_at = CASE WHEN $3 = '' THEN $5 ELSE out_ok_at END WHERE name = $1 AND fingerprint = $2`,
			p.Name, p.Fingerprint, words, remedy, tx.Now())
		return err
	})
}

// Get asks a pair's manager for a path of its API, as we are to it, and reads the answer
// into out. Kinds: NotFound (no such pair), Conflict (it is not trusted, or only it
// calls us), what the manager says, Denied, Unavailable.
func (m *Monitor) Get(ctx context.Context, name site.Name, path string, out any) error {
	p, err := m.callable(ctx, name)
	if err != nil {
		return err
	}
	own, err := m.PKI.Own()
	if err != nil {
		return err
	}
	c := call.New(p.Address, control.PinnedTo(p.Fingerprint, control.RoleManager, string(p.PeerSite), own))
	defer c.Close()
	return c.Get(ctx, path, out)
}

// Of returns the pair whose manager is a site's, and can be called. Kind Unavailable.
func (m *Monitor) Of(ctx context.Context, at site.Name) (name site.Name, err error) {
	err = m.DB.View(ctx, func(tx *db.Tx) error {
		pairs, err := List(ctx, tx)
		for _, p := range pairs {
			if p.PeerSite == at && p.Trust == site.Trusted && p.Address != "" {
				name = p.Name
			}
		}
		return err
	})
	if err == nil && name == "" {
		err = errs.New("pair.Of", errs.Unavailable, "site "+string(at), "no trusted pair's manager can be called").WithRemedy("pair the sites, and see that the pair has an address")
	}
	return name, err
}

// Post calls a path of a pair's manager, as we are to it. Kinds as of Get.
func (m *Monitor) Post(ctx context.Context, name site.Name, path string, in, out any) error {
	p, err := m.callable(ctx, name)
	if err != nil {
		return err
	}
	return m.post(ctx, p, path, in, out)
}

// callable returns a pair whose manager can be called. Kinds: NotFound, Conflict.
func (m *Monitor) callable(ctx context.Context, name site.Name) (*Pair, error) {
	var p Pair
	if err := m.DB.View(ctx, func(tx *db.Tx) (err error) { p, err = Get(ctx, tx, name); return err }); err != nil {
		return nil, err
	}
	if p.Trust != site.Trusted || p.Address == "" {
		return nil, errs.New("pair.Get", errs.Conflict, string(name), "the pair is not trusted, or its manager cannot be called").WithRemedy("confirm the pair, and see that it has an address")
	}
	return &p, nil
}

func (m *Monitor) post(ctx context.Context, p *Pair, path string, in, out any) error {
	own, err := m.PKI.Own()
	if err != nil {
		return err
	}
	c := call.New(p.Address, control.PinnedTo(p.Fingerprint, control.RoleManager, string(p.PeerSite), own))
	defer c.Close()
	return c.Post(ctx, path, in, out)
}

// Leave tells a pair's manager that we un-pair. It is a courtesy: that it cannot be
// told keeps nobody from Remove.
func (m *Monitor) Leave(ctx context.Context, name site.Name) error {
	var p Pair
	if err := m.DB.View(ctx, func(tx *db.Tx) (err error) { p, err = Get(ctx, tx, name); return err }); err != nil {
		return err
	}
	if p.Trust != site.Trusted || p.Address == "" {
		return nil
	}
	return m.post(ctx, &p, LeavePath, struct{}{}, nil)
}
