package inventory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Keeper brings what a provider tells of a site into SQL, has VMs adopted by rule,
// and keeps the placeholders. Every replica has one for each site; one of them
// works. It does not own the provider.
type Keeper struct{ Options }

// Options are what a Keeper is made from.
type Options struct {
	Site     site.Name
	Provider Provider
	DB       *db.DB
	Catalog  *catalog.Catalog
	Store    *Store
	// Owner is who keeps, as no other replica is called: one that begins again under its
	// name has at once what it had. "": a name of this Keeper alone.
	Owner  string
	Poll   time.Duration // how often a site that another replica keeps is asked for; 0: 5 s
	Logger *slog.Logger  // nil: nothing is logged
}

// NewKeeper returns a keeper that does nothing before Run.
func NewKeeper(o Options) *Keeper {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Poll <= 0 {
		o.Poll = pollEvery
	}
	if o.Owner == "" {
		o.Owner = dr.NewUUID().String()
	}
	o.Logger = o.Logger.With("site", o.Site)
	return &Keeper{Options: o}
}

// Run works whenever the site's lease can be had, until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		var h hold
		ok := false
		err := k.DB.Tx(ctx, func(tx *db.Tx) (err error) {
			h, ok, err = claim(ctx, tx, k.Site, k.Owner)
			return err
		})
		if err == nil && ok {
			err = k.reign(ctx, h)
		}
		if err != nil && ctx.Err() == nil {
			k.Logger.Warn("the inventory is not kept", "err", err)
		}
		if !wait(ctx, k.Poll) {
			return
		}
	}
}

// reign keeps the site as long as its lease can be renewed.
func (k *Keeper) reign(ctx context.Context, h hold) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		k.renew(ctx, h, stop)
	}()
	err := k.follow(ctx, h)
	stop(err)
	<-renewed
	if errs.Is(context.Cause(ctx), errs.Fenced) {
		return context.Cause(ctx)
	}
	giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), pollEvery)
	defer cancel()
	return errors.Join(err, k.DB.Tx(giving, func(tx *db.Tx) error { return h.release(giving, tx) }))
}

// renew extends the lease until ctx ends, and ends the reign when another one has
// the site, or nobody knows who has.
func (k *Keeper) renew(ctx context.Context, h hold, stop context.CancelCauseFunc) {
	last := time.Now()
	for wait(ctx, renewEvery) {
		began := time.Now()
		err := k.DB.Tx(ctx, func(tx *db.Tx) error { _, err := h.guard(ctx, tx); return err })
		switch {
		case err == nil:
			last = began
		case errs.Is(err, errs.Fenced), time.Since(last) > LeaseFor/5*4:
			stop(errs.E("inventory.Keeper", errs.Fenced, string(k.Site), err))
			return
		}
	}
}

// answer is what a watcher said.
type answer struct {
	u   Update
	err error
}

// asking calls Next in a goroutine of its own, once for each token in the first
// channel, so that a look at a slow platform is never cut short. end ends it.
func asking(ctx context.Context, w Watcher) (ask chan<- struct{}, told <-chan answer, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	asked, answers := make(chan struct{}, 1), make(chan answer, 1)
	go func() {
		defer close(answers)
		for range asked {
			u, err := w.Next(ctx)
			answers <- answer{u, err}
		}
	}()
	return asked, answers, func() {
		cancel()
		close(asked)
		for range answers { // until the goroutine has ended
		}
	}
}

// follow brings update after update in, until ctx ends or the database fails. Rules
// and placeholders are looked at a moment after something has changed, and now and
// then besides: what they depend on is read anew for that.
func (k *Keeper) follow(ctx context.Context, h hold) error {
	w, err := k.Provider.Watch(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	var led *ledger
	if err := k.DB.View(ctx, func(tx *db.Tx) (err error) { led, err = readLedger(ctx, tx, k.Site); return err }); err != nil {
		return err
	}
	ask, told, end := asking(ctx, w)
	defer end()
	ask <- struct{}{}
	pause, due := reopenFirst, time.Now()
	tend := time.NewTimer(0)
	defer tend.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tend.C:
			more, err := k.tend(ctx, h)
			if err != nil {
				return err
			}
			due = time.Now().Add(adoptEvery)
			if more {
				due = time.Now()
			}
		case a := <-told:
			if pause, err = k.heard(ctx, h, led, a, pause); err != nil || ctx.Err() != nil {
				return err
			}
			ask <- struct{}{}
			if soon := time.Now().Add(settleFor); a.err == nil && soon.Before(due) {
				due = soon
			}
		}
		tend.Reset(time.Until(due))
	}
}

// heard brings an answer in, or notes that there was none, and then waits before the
// platform is asked again; it returns the next such pause.
func (k *Keeper) heard(ctx context.Context, h hold, led *ledger, a answer, pause time.Duration) (time.Duration, error) {
	if a.err == nil {
		return reopenFirst, k.apply(ctx, h, led, a.u)
	}
	if ctx.Err() != nil {
		return pause, nil
	}
	if err := k.noteAway(ctx, h, a.err); err != nil {
		return pause, err
	}
	wait(ctx, pause)
	return min(2*pause, reopenMost), nil
}

// tend has VMs adopted and placeholders made; more says that there is more to do.
func (k *Keeper) tend(ctx context.Context, h hold) (more bool, err error) {
	if err := k.adopt(ctx, h); err != nil {
		return false, err
	}
	return k.attend(ctx, h)
}

// apply stores what an update changes.
func (k *Keeper) apply(ctx context.Context, h hold, led *ledger, u Update) error {
	d, err := led.compare(u)
	if err != nil {
		return err
	}
	words := d.words
	if u.Missing != nil {
		words = db.Text(fmt.Sprintf("a part is not reached: %v; %s", u.Missing, words), maxWords)
	}
	err = k.DB.Tx(ctx, func(tx *db.Tx) error {
		if _, err := h.guard(ctx, tx); err != nil {
			return err
		}
		if err := h.seen(ctx, tx, words, !d.empty()); err != nil {
			return err
		}
		if err := alarm.Set(ctx, tx, alarm.PlatformAway, string(k.Site), false, ""); err != nil {
			return err
		}
		if err := alarm.Set(ctx, tx, alarm.InventoryPartial, string(k.Site), words != "", words); err != nil {
			return err
		}
		if d.empty() {
			return nil
		}
		if err := led.write(ctx, tx, d); err != nil {
			return err
		}
		return catalog.NoteAll(ctx, tx, led.lines(d))
	})
	if err != nil {
		return err // the reign ends, and the ledger with it: what is stored is read anew
	}
	led.commit(d)
	return nil
}

// noteAway notes that the platform does not answer.
func (k *Keeper) noteAway(ctx context.Context, h hold, why error) error {
	k.Logger.Warn("the platform does not answer", "err", why)
	return k.DB.Tx(ctx, func(tx *db.Tx) error {
		if _, err := h.guard(ctx, tx); err != nil {
			return err
		}
		fresh, err := h.away(ctx, tx, why.Error())
		if err != nil {
			return err
		}
		if err := alarm.Set(ctx, tx, alarm.PlatformAway, string(k.Site), true, why.Error()); err != nil || !fresh {
			return err
		}
		return catalog.Note(ctx, tx, "inventory", string(k.Site), "away", "")
	})
}

// adopter is who adoptions are made by.
const adopter = "auto-adopt"

// adopt has VMs join domains by their rules.
func (k *Keeper) adopt(ctx context.Context, h hold) error {
	var list []Adoption
	var refused []Refusal
	decide := func(tx *db.Tx) error {
		domains, err := domainsOf(ctx, tx)
		if err != nil {
			return err
		}
		views, err := k.Store.Views(ctx, tx)
		if err != nil {
			return err
		}
		list, refused = Adoptions(k.Site, views, domains)
		return nil
	}
	if err := k.DB.View(ctx, decide); err != nil {
		return err
	}
	for _, a := range list {
		err := k.DB.Tx(ctx, func(tx *db.Tx) error { return k.join(ctx, tx, h, a.Domain, decide, &list) })
		if errs.Is(err, errs.Invalid) || errs.Is(err, errs.Conflict) {
			refused = append(refused, Refusal{VM: a.VMs[0], Domains: []site.Name{a.Domain}, Why: err.Error()})
			continue
		}
		if err != nil {
			return err
		}
	}
	return k.noteRefused(ctx, h, refused)
}

// join adds VMs to a domain. What is decided by is read again when the catalog's turn
// is had: meanwhile a VM may have come into another domain.
func (k *Keeper) join(ctx context.Context, tx *db.Tx, h hold, name site.Name, decide func(*db.Tx) error, list *[]Adoption) error {
	if _, err := h.guard(ctx, tx); err != nil {
		return err
	}
	if err := catalog.Turn(ctx, tx); err != nil {
		return err
	}
	if err := decide(tx); err != nil {
		return err
	}
	for _, a := range *list {
		if a.Domain != name {
			continue
		}
		d, err := catalog.Find[*site.ProtectedDomain](ctx, tx, name)
		if err != nil {
			return err
		}
		for _, vm := range a.VMs {
			d.VMs = append(d.VMs, site.Ref(vm.ID.String()))
		}
		if _, _, err := k.Catalog.Put(ctx, tx, d, adopter); err != nil {
			return err
		}
		return alarm.Tell(ctx, tx, alarm.Adopted, "domain "+string(name), fmt.Sprintf("%d VMs, %s among them", len(a.VMs), a.VMs[0].Ref))
	}
	return nil
}

// noteRefused raises one alarm for all VMs that nobody adopts.
func (k *Keeper) noteRefused(ctx context.Context, h hold, refused []Refusal) error {
	words := ""
	for i, r := range refused {
		if i == 10 {
			words += fmt.Sprintf("; and %d more", len(refused)-i)
			break
		}
		words += fmt.Sprintf("%sVM %s (%v): %s", map[bool]string{true: "; "}[i > 0], r.VM.Ref, r.Domains, r.Why)
	}
	return k.DB.Tx(ctx, func(tx *db.Tx) error {
		if _, err := h.guard(ctx, tx); err != nil {
			return err
		}
		return alarm.Set(ctx, tx, alarm.AdoptRefused, string(k.Site), words != "", db.Text(words, maxWords))
	})
}

// domainsOf returns all protected domains.
func domainsOf(ctx context.Context, tx *db.Tx) (list []*site.ProtectedDomain, err error) {
	all, err := catalog.All(ctx, tx, site.KindDomain)
	for _, o := range all {
		list = append(list, o.(*site.ProtectedDomain))
	}
	return list, err
}
