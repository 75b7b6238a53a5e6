package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
	"holdfast/internal/store"
	"holdfast/internal/store/access"
)

// look is one look at a domain's container.
type look struct {
	domain     site.Name
	url        string
	access     access.Access
	create     bool // this site protects the domain: it makes the container
	key        siteKey
	recipients []string // who shall be able to open it, in order
	why        error    // it cannot be looked at
}

// digest names what a container was checked for.
func (l *look) digest() string {
	sum := sha256.Sum256([]byte(l.url + "\n" + strings.Join(l.recipients, "\n")))
	return hex.EncodeToString(sum[:16])
}

// found is what the look came to.
type found struct {
	id    string
	opens string
}

// Containers looks at the containers whose turn it is: makes what is missing, learns
// their ids, and adds recipients. What fails is told, and tried again later.
func (f *Fleet) Containers(ctx context.Context) error {
	if f.OpenStore == nil {
		return nil
	}
	var due []*look
	if err := f.DB.View(ctx, func(tx *db.Tx) error {
		due = nil
		s, err := f.stand(ctx, tx)
		if err != nil {
			return err
		}
		k, err := f.key(ctx, tx)
		if err != nil {
			return err
		}
		for _, d := range s.domains {
			l, err := f.due(ctx, tx, s, d, k)
			if err != nil {
				return err
			}
			if l != nil {
				due = append(due, l)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	failed := make([]error, len(due))
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, l := range due {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			failed[i] = f.container(ctx, l)
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

// container looks at one, if no other replica does.
func (f *Fleet) container(ctx context.Context, l *look) error {
	mine := false
	if err := f.DB.Tx(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE fleet_domains SET due_at = $3 WHERE domain = $1 AND (due_at <= $2 OR checked <> $4 AND tries = 0)`,
			string(l.domain), tx.Now(), tx.Now()+containerFor.Milliseconds(), l.digest())
		mine = n == 1
		return err
	}); err != nil || !mine {
		return err
	}
	var got found
	err := l.why
	if err == nil {
		looking, cancel := context.WithTimeout(ctx, containerFor)
		got, err = f.see(looking, l)
		cancel()
	}
	if ctx.Err() != nil {
		return nil // nothing was learnt; the next replica's turn comes
	}
	return f.note(ctx, l, got, err)
}

// due returns how a container is to be looked at; nil: not now.
func (f *Fleet) due(ctx context.Context, tx *db.Tx, s *standing, d *site.ProtectedDomain, k siteKey) (l *look, err error) {
	p := s.places[d.Name]
	if p == nil {
		return nil, nil
	}
	l = &look{domain: d.Name, key: k, create: d.From == f.Site && s.ours(f.Site, d)}
	url, st, why := s.container(d)
	l.why = why
	if why == nil {
		l.url, l.create = url, l.create && !st.ReadOnly
	}
	if l.recipients, err = f.recipients(ctx, tx, d, k); err != nil {
		return nil, err
	}
	if p.due > s.now && (p.checked == l.digest() || p.tries > 0) {
		return nil, nil
	}
	if why == nil {
		l.access, l.why = f.credentials(ctx, tx, string(st.Credential))
	}
	return l, nil
}

// recipients are who shall be able to open a domain's container: this site, the other
// one, and whoever the domain names.
func (f *Fleet) recipients(ctx context.Context, tx *db.Tx, d *site.ProtectedDomain, k siteKey) ([]string, error) {
	list := []string{k.identity.Recipient()}
	if f.given.Recipient() != "" {
		list = append(list, f.given.Recipient())
	}
	other := d.To
	if d.To == f.Site {
		other = d.From
	}
	var peer string
	if _, err := tx.Row(ctx, `SELECT recipient FROM fleet_peers WHERE site = $1`, []any{string(other)}, &peer); err != nil {
		return nil, err
	}
	for _, r := range append([]string{peer}, d.Recipients...) {
		if r = strings.TrimSpace(r); r != "" && !slices.Contains(list, r) {
			list = append(list, r)
		}
	}
	return list, nil
}

// see opens the container, making it if it is ours to make, and adds who is missing.
func (f *Fleet) see(ctx context.Context, l *look) (got found, err error) {
	st, err := f.OpenStore(ctx, l.url, l.access, l.create)
	if err != nil {
		return got, err
	}
	var wanted []journal.Recipient
	for _, text := range l.recipients {
		r, err := journal.ParseRecipient(text)
		if err != nil {
			return got, errs.E("fleet.container", errs.Invalid, "domain "+string(l.domain), err).
				WithRemedy("name recipients of the domain as age1…; others add with `holdfast key add`")
		}
		wanted = append(wanted, r)
	}
	if _, err := journal.ReadDomain(ctx, st); errs.Is(err, errs.NotFound) && l.create {
		if _, err := journal.Create(ctx, st, journal.CreateOptions{Name: string(l.domain), Recipients: wanted}); err != nil && !errs.Is(err, errs.Exists) {
			return got, err
		}
	} else if err != nil {
		return got, err
	}
	c, opens, err := f.open(ctx, st, l)
	if err != nil {
		return got, err
	}
	if n := c.Domain().Name; n != string(l.domain) {
		return got, errs.New("fleet.container", errs.Conflict, l.url, fmt.Sprintf("there is the container of domain %q", n)).
			WithRemedy("give the store another address, or the domain another name")
	}
	if err := l.add(ctx, c, wanted); err == nil {
		opens = openSite // our own key is among them
	} else if l.create || opens == openLent {
		return got, err
	}
	return found{c.Domain().ID.String(), opens}, nil
}

// add adds the recipients that a container lacks.
func (l *look) add(ctx context.Context, c *journal.Container, wanted []journal.Recipient) error {
	for _, r := range wanted {
		if _, err := c.AddRecipient(ctx, r); err != nil && !errs.Is(err, errs.Exists) {
			return err
		}
	}
	return nil
}

// open opens a container by the site's key, or else by what was given.
func (f *Fleet) open(ctx context.Context, st store.Store, l *look) (*journal.Container, string, error) {
	c, err := journal.Open(ctx, st, l.key.identity)
	if err == nil || !errs.Is(err, errs.Denied) {
		return c, openSite, err
	}
	if f.Given != "" {
		if c, err := journal.Open(ctx, st, f.given); err == nil || !errs.Is(err, errs.Denied) {
			return c, openGiven, err
		}
	}
	for _, id := range f.Openers {
		if c, err := journal.Open(ctx, st, id); err == nil || !errs.Is(err, errs.Denied) {
			return c, openLent, err
		}
	}
	return nil, "", errs.E("fleet.container", errs.Denied, l.url, err).
		WithRemedy("have somebody who can open it add this site's key: holdfast key add " + l.url + " --recipient " + l.key.identity.Recipient() + "; or start the manager with what opens it: --container-key, --container-passphrase-file, --container-kms")
}

// note keeps what a look came to.
func (f *Fleet) note(ctx context.Context, l *look, got found, failed error) error {
	return f.DB.Tx(ctx, func(tx *db.Tx) error {
		if failed == nil {
			_, err := tx.Exec(ctx, `UPDATE fleet_domains SET id = $2, url = $3, opens = $4, checked = $5, due_at = $6, tries = 0, error = '', remedy = '', kind = '' WHERE domain = $1`,
				string(l.domain), got.id, l.url, got.opens, l.digest(), tx.Now()+recheckAfter.Milliseconds())
			f.Wake()
			return err
		}
		var tries int64
		if _, err := tx.Row(ctx, `UPDATE fleet_domains SET tries = tries + 1, error = $2, remedy = $3, kind = $4 WHERE domain = $1 RETURNING tries`,
			[]any{string(l.domain), db.Text(failed.Error(), maxWords), db.Text(errs.RemedyOf(failed), maxWords), errs.KindOf(failed).String()}, &tries); err != nil {
			return err
		}
		longest := lastRetry
		if !l.create {
			longest = otherRetry
		}
		pause := min(longest, firstRetry<<min(max(tries-1, 0), 8))
		_, err := tx.Exec(ctx, `UPDATE fleet_domains SET due_at = $2 WHERE domain = $1`, string(l.domain), tx.Now()+pause.Milliseconds())
		return err
	})
}

// Put stores a document in a domain's container, making that if need be. Durable on
// return. It is scan.Containers. Kinds: Unavailable, Denied, Canceled.
func (f *Fleet) Put(ctx context.Context, d *site.ProtectedDomain, document []byte) error {
	if f.OpenStore == nil {
		return errs.New("fleet.Put", errs.Unavailable, site.Label(d), "this manager opens no stores")
	}
	l, err := f.known(ctx, d)
	if errs.Is(err, errs.Unavailable) { // it may be new: it need not wait for the next round
		if err := f.Settle(ctx); err != nil {
			return err
		}
		if err := f.Containers(ctx); err != nil {
			return err
		}
		l, err = f.known(ctx, d)
	}
	if err != nil {
		return err
	}
	st, err := f.OpenStore(ctx, l.url, l.access, false)
	if err != nil {
		return err
	}
	c, _, err := f.open(ctx, st, l)
	if err != nil {
		return err
	}
	_, err = c.PutSettings(ctx, document, time.Now())
	return err
}

// known is how a container that was found is opened. Kind Unavailable: none was yet.
func (f *Fleet) known(ctx context.Context, d *site.ProtectedDomain) (l *look, err error) {
	err = f.DB.View(ctx, func(tx *db.Tx) error {
		s, err := f.stand(ctx, tx)
		if err != nil {
			return err
		}
		p := s.places[d.Name]
		if p == nil || p.id == "" {
			words, remedy := "its container is not there yet", ""
			if p != nil && p.words != "" {
				words, remedy = p.words, p.remedy
			}
			return errs.New("fleet.container", errs.Unavailable, site.Label(d), words).WithRemedy(remedy)
		}
		_, st, err := s.container(d)
		if err != nil {
			return err
		}
		l = &look{domain: d.Name, url: p.url}
		if l.key, err = f.key(ctx, tx); err != nil {
			return err
		}
		l.access, err = f.credentials(ctx, tx, string(st.Credential))
		return err
	})
	return l, err
}
