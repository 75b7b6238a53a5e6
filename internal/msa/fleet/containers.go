package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	var names []site.Name
	if err := f.DB.View(ctx, func(tx *db.Tx) error {
		s, err := f.stand(ctx, tx)
		if err != nil {
			return err
		}
		for _, d := range s.domains {
			if s.places[d.Name] != nil {
				names = append(names, d.Name)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	var failed error
	for _, name := range names {
		failed = errors.Join(failed, f.container(ctx, name))
	}
	return failed
}

// container looks at one, if it is time and no other replica does.
func (f *Fleet) container(ctx context.Context, name site.Name) error {
	var l *look
	var why error
	if err := f.DB.View(ctx, func(tx *db.Tx) (err error) { l, why, err = f.due(ctx, tx, name); return err }); err != nil || l == nil {
		return err
	}
	mine := false
	if err := f.DB.Tx(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE fleet_domains SET due_at = $3 WHERE domain = $1 AND (due_at <= $2 OR checked <> $4 AND tries = 0)`,
			string(name), tx.Now(), tx.Now()+containerFor.Milliseconds(), l.digest())
		mine = n == 1
		return err
	}); err != nil || !mine {
		return err
	}
	var got found
	err := why
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

// due returns what is to be looked at; nil: nothing now. why is set when it is known
// before that it cannot be.
func (f *Fleet) due(ctx context.Context, tx *db.Tx, name site.Name) (l *look, why, err error) {
	s, err := f.stand(ctx, tx)
	if err != nil {
		return nil, nil, err
	}
	p := s.places[name]
	i := slices.IndexFunc(s.domains, func(d *site.ProtectedDomain) bool { return d.Name == name })
	if p == nil || i < 0 {
		return nil, nil, nil
	}
	d := s.domains[i]
	l = &look{domain: name, create: d.From == f.Site && s.ours(f.Site, d)}
	url, st, why := s.container(d)
	if why == nil {
		l.url, l.create = url, l.create && !st.ReadOnly
		l.access, why = f.credentials(ctx, tx, string(st.Credential))
	}
	if l.key, err = f.key(ctx, tx); err != nil {
		return nil, nil, err
	}
	if l.recipients, err = f.recipients(ctx, tx, d, l.key); err != nil {
		return nil, nil, err
	}
	if p.checked == l.digest() && p.due > s.now || p.tries > 0 && p.due > s.now {
		return nil, nil, nil
	}
	return l, why, nil
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
	} else if l.create {
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

// open opens a container by the site's key, or else by the one that was given.
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
	return nil, "", errs.E("fleet.container", errs.Denied, l.url, err).
		WithRemedy("have somebody who can open it add this site's key: holdfast key add " + l.url + " --recipient " + l.key.identity.Recipient())
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
	if err := f.Settle(ctx); err != nil { // its row
		return err
	}
	if err := f.container(ctx, d.Name); err != nil {
		return err
	}
	var l *look
	if err := f.DB.View(ctx, func(tx *db.Tx) error {
		s, err := f.stand(ctx, tx)
		if err != nil {
			return err
		}
		l, err = f.known(ctx, tx, s, d)
		return err
	}); err != nil {
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
func (f *Fleet) known(ctx context.Context, tx *db.Tx, s *standing, d *site.ProtectedDomain) (*look, error) {
	p := s.places[d.Name]
	if p == nil || p.id == "" {
		words, remedy := "its container is not there yet", ""
		if p != nil && p.words != "" {
			words, remedy = p.words, p.remedy
		}
		return nil, errs.New("fleet.container", errs.Unavailable, site.Label(d), words).WithRemedy(remedy)
	}
	_, st, err := s.container(d)
	if err != nil {
		return nil, err
	}
	l := &look{domain: d.Name, url: p.url}
	if l.access, err = f.credentials(ctx, tx, string(st.Credential)); err != nil {
		return nil, err
	}
	l.key, err = f.key(ctx, tx)
	return l, err
}
