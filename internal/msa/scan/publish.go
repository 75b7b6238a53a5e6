package scan

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/site"
)

// Containers stores documents in the containers of domains.
type Containers interface {
	// Put stores a document in the container of a domain at each of its stores. Durable
	// on return. Kinds: Unavailable, Denied, Canceled.
	Put(ctx context.Context, d *site.ProtectedDomain, document []byte) error
}

// Publisher sees to it that each domain's container has what the manager knows of it.
// Every replica has one; a document is stored by one of them.
type Publisher struct {
	DB      *db.DB
	Store   *inventory.Store
	To      Containers
	Site    site.Name // the manager's: it speaks for the domains that this site protects
	Release string
	Logger  *slog.Logger // nil: nothing is logged
}

// Run publishes what changed until ctx ends.
func (p *Publisher) Run(ctx context.Context) {
	log := p.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	tick := time.NewTicker(publishEvery)
	defer tick.Stop()
	for {
		if err := p.Once(ctx); err != nil && ctx.Err() == nil {
			log.Warn("what is known of domains is not in their containers", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Once publishes what changed since it was published last.
func (p *Publisher) Once(ctx context.Context) error {
	var names []site.Name
	if err := p.DB.View(ctx, func(tx *db.Tx) error {
		all, err := catalog.All(ctx, tx, site.KindDomain)
		for _, o := range all {
			if o.(*site.ProtectedDomain).From == p.Site {
				names = append(names, o.Head().Name)
			}
		}
		return err
	}); err != nil {
		return err
	}
	var failed error
	for _, n := range names {
		failed = errors.Join(failed, p.publish(ctx, n))
	}
	return failed
}

// publish stores one domain's document, if it is another than before and nobody else
// is about to.
func (p *Publisher) publish(ctx context.Context, name site.Name) error {
	var doc *Document
	var digest string
	var d *site.ProtectedDomain
	err := p.DB.View(ctx, func(tx *db.Tx) error {
		views, err := p.Store.Views(ctx, tx)
		if err != nil {
			return err
		}
		if doc, err = Assemble(ctx, tx, name, p.Site, views); err != nil || doc == nil {
			return err
		}
		doc.Release = p.Release
		if digest, err = doc.digest(); err != nil {
			return err
		}
		var was string
		if _, err := tx.Row(ctx, `SELECT digest FROM published WHERE domain = $1`, []any{string(name)}, &was); err != nil {
			return err
		}
		if was == digest {
			doc = nil
			return nil
		}
		d, err = catalog.Find[*site.ProtectedDomain](ctx, tx, name)
		return err
	})
	if err != nil || doc == nil {
		return err
	}
	mine := false
	err = p.DB.Tx(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO published (domain, digest, at, due_at, tries) VALUES ($1, '', 0, 0, 0) ON CONFLICT (domain) DO NOTHING`, string(name)); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `UPDATE published SET due_at = $4 WHERE domain = $1 AND digest <> $2 AND due_at <= $3`,
			string(name), digest, tx.Now(), tx.Now()+publishFor.Milliseconds())
		mine = n == 1
		return err
	})
	if err != nil || !mine {
		return err
	}
	b, err := doc.Encode()
	if err == nil {
		storing, cancel := context.WithTimeout(ctx, publishFor)
		err = p.To.Put(storing, d, b)
		cancel()
	}
	return errors.Join(err, p.note(context.WithoutCancel(ctx), name, digest, err))
}

// note notes how storing a document went.
func (p *Publisher) note(ctx context.Context, name site.Name, digest string, failed error) error {
	return p.DB.Tx(ctx, func(tx *db.Tx) error {
		if failed == nil {
			if _, err := tx.Exec(ctx, `UPDATE published SET digest = $2, at = $3, due_at = 0, tries = 0 WHERE domain = $1`, string(name), digest, tx.Now()); err != nil {
				return err
			}
			return alarm.Set(ctx, tx, alarm.SettingsStale, "domain "+string(name), false, "")
		}
		var tries int64
		if _, err := tx.Row(ctx, `UPDATE published SET tries = tries + 1 WHERE domain = $1 RETURNING tries`, []any{string(name)}, &tries); err != nil {
			return err
		}
		pause := min(lastRetry, publishEvery<<min(tries-1, 8))
		if _, err := tx.Exec(ctx, `UPDATE published SET due_at = $2 WHERE domain = $1`, string(name), tx.Now()+pause.Milliseconds()); err != nil {
			return err
		}
		return alarm.Set(ctx, tx, alarm.SettingsStale, "domain "+string(name), true, failed.Error())
	})
}

// Journals is the Containers of package journal: how they are opened is the door's to
// say.
type Journals struct {
	Open func(ctx context.Context, d *site.ProtectedDomain, store site.Name) (*journal.Container, error)
}

// Put stores a document in the container of the domain, which is in its first store: its
// copies get it from there.
func (j Journals) Put(ctx context.Context, d *site.ProtectedDomain, document []byte) error {
	if len(d.Stores) == 0 {
		return nil // its check refuses it
	}
	c, err := j.Open(ctx, d, d.Stores[0])
	if err == nil {
		_, err = c.PutSettings(ctx, document, time.Now())
	}
	if err != nil {
		return errs.E("scan.Put", errs.Internal, string(d.Name)+" at "+string(d.Stores[0]), err)
	}
	return nil
}

// Read returns the document in a container. Kinds: NotFound (no manager has stored
// one: its disks can be recovered all the same), Corrupt, Invalid, those of the store.
func Read(ctx context.Context, c *journal.Container) (*Document, error) {
	b, at, err := c.Settings(ctx)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, errs.New("scan.Read", errs.NotFound, c.Domain().Name, "no manager has stored what it knows in this container").
			WithRemedy("write the domain, its mappings and plans by hand; or recover with `holdfast recover`, which needs none")
	}
	d, err := Decode(b)
	if err != nil {
		return nil, err
	}
	d.At = at
	return d, nil
}
