package journal

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// CreateOptions say what container to make.
type CreateOptions struct {
	Domain     dr.DomainID // zero: a random one
	Name       string      // the domain's name, shown to people; not empty, at most 255 bytes
	Recipients []Recipient // who can open it; at least one
}

// Create makes a container in st and opens it. The store is tried first: that
// it creates a name once, lists what it created and returns exact ranges; a
// store that does not is refused with the name of the property it lacks.
//
// The wrapped keys and the first timeline are written first and the domain object last,
// so that there is either a whole container or none: after a crash Create may
// be called again. Kind Exists when there is a container already, Invalid for
// bad options or a place that holds something else.
func Create(ctx context.Context, st store.Store, opts CreateOptions) (*Container, error) {
	const op = "journal.Create"
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if err := checkEmpty(ctx, st); err != nil {
		return nil, err
	}
	if err := probe(ctx, st); err != nil {
		return nil, err
	}
	if opts.Domain.IsZero() {
		opts.Domain.UUID = dr.NewUUID()
	}
	now := time.Now()
	d := newDomain(opts.Domain, opts.Name, now)
	body, err := putDocument(magicDomain, &d)
	if err != nil {
		return nil, err
	}
	c := newContainer(st, d, documentDigest(body), firstKeyring(&d, segment.NewDataKey()))
	if err := c.writeKeys(ctx, opts.Recipients, now); err != nil {
		return nil, err
	}
	if err := c.writeHead(ctx, now); err != nil {
		return nil, err
	}
	if err := createOnce(ctx, st, keyDomain, body); err != nil {
		if errs.Is(err, errs.Exists) {
			return nil, containerExists(op)
		}
		return nil, errs.E(op, errs.Internal, keyDomain, err)
	}
	return c, nil
}

func (o *CreateOptions) validate() error {
	const op = "journal.Create"
	switch {
	case o.Name == "" || len(o.Name) > maxName || !utf8.ValidString(o.Name):
		return errs.New(op, errs.Invalid, "", "the domain's name is empty, longer than 255 bytes or not UTF-8")
	case slices.ContainsFunc([]rune(o.Name), unicode.IsControl):
		return errs.New(op, errs.Invalid, "", "the domain's name holds control characters")
	case len(o.Recipients) == 0:
		return errs.New(op, errs.Invalid, o.Name, "nobody could open the container: there is no recipient").
			WithRemedy("give a recovery key's public part or a passphrase")
	case len(o.Recipients) > maxWraps:
		return errs.New(op, errs.Invalid, o.Name, fmt.Sprintf("more than %d recipients", maxWraps))
	}
	phrases := 0
	for _, r := range o.Recipients {
		switch r.kind {
		case Passphrase:
			phrases++
		case "":
			return errs.New(op, errs.Invalid, o.Name, "a recipient is empty")
		}
	}
	if phrases > maxPassphraseWraps {
		return errs.New(op, errs.Invalid, o.Name, fmt.Sprintf("more than %d passphrases", maxPassphraseWraps))
	}
	return nil
}

func containerExists(op string) error {
	return errs.New(op, errs.Exists, keyDomain, "there is a container here already").
		WithRemedy("open it, or choose another prefix of the store")
}

// checkEmpty refuses a place that holds a container or something foreign.
// What an interrupted Create left is neither.
func checkEmpty(ctx context.Context, st store.Store) error {
	const op = "journal.Create"
	if _, err := st.Stat(ctx, keyDomain); err == nil {
		return containerExists(op)
	} else if !errs.Is(err, errs.NotFound) {
		return errs.E(op, errs.Internal, keyDomain, err)
	}
	page, err := st.List(ctx, "", "", listPage)
	if err != nil {
		return errs.E(op, errs.Internal, "", err)
	}
	for _, in := range page {
		if !knownKey(in.Key) {
			return errs.New(op, errs.Invalid, in.Key, "the place is not empty, and what it holds is not Holdfast's").
				WithRemedy("choose an empty prefix of the store")
		}
	}
	return nil
}

func (c *Container) writeKeys(ctx context.Context, rs []Recipient, now time.Time) error {
	for _, r := range rs {
		if err := c.writeWrap(ctx, c.current(), r, dr.NewUUID(), now); err != nil {
			return err
		}
	}
	return nil
}

// writeWrap wraps the data key of g for r under the name of recipient id.
func (c *Container) writeWrap(ctx context.Context, g *generation, r Recipient, id dr.UUID, now time.Time) error {
	body, err := sealWrap(ctx, r, c.domain.ID, g, id, now)
	if err != nil {
		return err
	}
	key := wrapKey(g.id, id)
	if err := createOnce(ctx, c.st, key, body); err != nil {
		return errs.E("journal.writeWrap", errs.Internal, key, err)
	}
	return nil
}

func (c *Container) writeHead(ctx context.Context, now time.Time) error {
	by, err := os.Hostname()
	if err != nil {
		by = "unknown" // shown to people only
	}
	t := c.domain.Timeline
	body, err := c.sealJSON(segment.Header{Timeline: t, Created: now}, &head{
		Timeline:  t,
		Created:   now.UTC(),
		By:        by,
		Container: digestText(c.digest),
	})
	if err != nil {
		return err
	}
	if err := createOnce(ctx, c.st, headKey(t), body); err != nil {
		return errs.E("journal.Create", errs.Internal, headKey(t), err)
	}
	return nil
}

// createOnce creates key and takes its own body found there for success: an
// earlier try whose answer was lost.
func createOnce(ctx context.Context, st store.Store, key string, body []byte) error {
	err := st.Create(ctx, key, body)
	if !errs.Is(err, errs.Exists) {
		return err
	}
	there, rerr := readDocument(ctx, st, key)
	if rerr != nil {
		return rerr
	}
	if string(there) == string(body) {
		return nil
	}
	return err
}
