package fleet

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/seal"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/msa/stats"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
)

// CredentialPrefix is what the sealed secret's name of a site.Store's Credential begins
// with: seal.Box.Use(ctx, tx, CredentialPrefix+name, …).
const CredentialPrefix = "credential/"

// Options make a Fleet. DB, Box, Site and Inventory are needed.
type Options struct {
	DB        *db.DB
	Box       *seal.Box
	Site      site.Name // the manager's own
	Inventory *inventory.Store
	Stats     *stats.Recorder // takes what boxes measure; nil: nobody does
	Release   string          // the manager's
	// OpenStore opens the store at an address with credentials of its own, making the
	// place where the store has places to make. Nil: containers are neither made nor
	// looked at, and no DRVA is given a domain.
	OpenStore func(ctx context.Context, url string, a access.Access, create bool) (store.Store, error)
	// Given is the text of a further key that opens containers, as of a recovery key's
	// file; "": there is none.
	Given string
	// Openers open containers that neither the site's key nor Given does, by a passphrase
	// or a key service, say. They never leave the manager: it adds the site's key to what
	// they open.
	Openers []journal.Identity
	// Ask asks the manager of a paired site for a path of its API. Nil: peers are not
	// asked.
	Ask func(ctx context.Context, pair site.Name, path string, out any) error
	// Tell tells a plan what was seen of the peer; nil: nobody does.
	Tell func(ctx context.Context, tx *db.Tx, plan site.Name, e plan.Event, by string) error
	// Vacate takes a placeholder of this site away, for good until it is restored; nil:
	// there are none.
	Vacate func(ctx context.Context, at site.Name, vm dr.VMID) error
	Logger *slog.Logger // nil: none
}

// Fleet is what the manager makes of its appliances. Make it with New.
type Fleet struct {
	Options
	given journal.Identity // of Given; zero: none
	wake  chan struct{}    // one place: something has changed

	mu  sync.Mutex
	log map[string]string // guarded by mu: what was logged last, by object
	// vacantSince is since when a placeholder's place was seen to be nobody's, by VM.
	vacantSince map[site.Ref]time.Time // guarded by mu
}

var _ setup.Fleet = (*Fleet)(nil)

// New returns a fleet. Kind Invalid: the given key.
func New(o Options) (*Fleet, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Fleet{Options: o, wake: make(chan struct{}, 1), log: map[string]string{}}
	if o.Given != "" {
		var err error
		if f.given, err = journal.ParseIdentity(o.Given); err != nil {
			return nil, errs.E("fleet.New", errs.Invalid, "container key", err)
		}
	}
	return f, nil
}

// Wake has what is to be decided decided soon.
func (f *Fleet) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
