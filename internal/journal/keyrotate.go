package journal

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/kms"
	"holdfast/internal/segment"
)

// RotateOptions are what a rotation of the data key needs to wrap the new one
// for everybody.
type RotateOptions struct {
	// Passphrases are needed of all recipients that have one: a new data key
	// cannot be wrapped for a passphrase that is not known. Which is whose is
	// found out.
	Passphrases []Identity
	// KeyService returns a client of the key at an address. nil: rotation fails
	// when a recipient is a key service.
	KeyService func(uri string) (kms.Client, error)
	// Confirmed are recipients given anew by the caller. They are needed for recovery keys and key
	// services whose wrapped keys do not prove whom they are for, as those of
	// the oldest containers.
	Confirmed []Recipient
}

// RotateDataKey makes a new data key, wraps it for every recipient, and makes
// it current. It returns the container with the new key; this one, and every
// other that is open, goes on sealing under the old one, and appliances pick the new one up when
// they next start. What was sealed before stays under the old keys.
//
// Nothing changes before the last step; a crash or an error leaves wrapped keys
// of a data key that nobody uses. Kinds: Denied when a passphrase is missing,
// Invalid when a recipient cannot be proven and is not confirmed, Conflict when
// recipients or data keys changed at the same time, Full, the key service's,
// the store's.
func (c *Container) RotateDataKey(ctx context.Context, opts RotateOptions) (*Container, error) {
	const op = "journal.RotateDataKey"
	s, err := c.reload(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.stale(op, s); err != nil {
		return nil, err
	}
	if len(s.ready)+1 >= maxGenerations {
		return nil, errs.New(op, errs.Full, c.domain.Name, fmt.Sprintf("a container has at most %d data keys", maxGenerations)).
			WithRemedy("protect the domain into a new container")
	}
	before := s.wraps[c.current().id]
	to, err := c.rewrappers(ctx, before, &opts)
	if err != nil {
		return nil, err
	}
	g, now := c.newKey(), time.Now()
	for i, r := range to {
		if err := c.writeWrap(ctx, g, r, before[i].recipient, now); err != nil {
			return nil, errs.E(op, errs.Internal, c.domain.Name, err)
		}
	}
	if err := c.finishRotation(ctx, g, before, now); err != nil {
		return nil, err
	}
	next := *c
	next.keys = c.keys.with(g)
	return &next, nil
}

// finishRotation writes the completion of g, for which everybody in before has a wrap.
func (c *Container) finishRotation(ctx context.Context, g *generation, before []storedWrap, now time.Time) error {
	const op = "journal.RotateDataKey"
	s, err := c.reload(ctx)
	if err != nil {
		return err
	}
	if err := c.unchanged(op, s, before); err != nil {
		return err
	}
	g.wraps = s.wraps[g.id]
	if len(g.wraps) != len(before) {
		return errs.New(op, errs.Corrupt, keyPrefix(g.id), "the store does not show the wrapped keys that were written: the rotation is not finished")
	}
	st := c.state(g, now)
	plain, err := json.Marshal(st)
	if err != nil {
		return errs.E(op, errs.Internal, "", err)
	}
	body, _, err := segment.SealBlob(g.key, segment.Header{Domain: c.domain.ID, Key: g.id, Window: Window, Created: now}, plain)
	if err != nil {
		return errs.E(op, errs.Internal, completeKey(g.id), err)
	}
	if err := createOnce(ctx, c.st, completeKey(g.id), body); err != nil {
		return errs.E(op, errs.Internal, completeKey(g.id), err).
			WithRemedy("list the data keys: the rotation may have been finished or not; if not, run it again")
	}
	g.statement, g.created, g.complete = st, st.Created, true
	// A recipient added meanwhile saw no rotation, and the rotation did not see it.
	if s, err = c.reload(ctx); err == nil {
		err = c.unchanged(op, s, before)
	}
	if errs.Is(err, errs.Conflict) {
		return errs.E(op, errs.Conflict, c.domain.Name, err).
			WithRemedy("the data key is rotated all the same; remove the recipient that changed and add it again")
	}
	return err
}

func (c *Container) state(g *generation, now time.Time) *statement {
	by, err := os.Hostname()
	if err != nil {
		by = "unknown" // shown to people only
	}
	st := &statement{Domain: c.domain.ID, DataKey: g.id, Generation: g.number, Previous: g.previous.id, Created: now.UTC(), By: by,
		Wraps: []statedWrap{}, Earlier: []earlierKey{}}
	for i := range g.wraps {
		w := &g.wraps[i]
		if w.err == nil {
			st.Wraps = append(st.Wraps, statedWrap{Recipient: w.recipient, Kind: w.wrap.Kind, Hint: w.wrap.Hint, Digest: digestText(sha256.Sum256(w.body))})
		}
	}
	for _, e := range c.keys.all {
		if e.open && e.complete {
			st.Earlier = append(st.Earlier, earlierKey{DataKey: e.id, Generation: e.number, Created: e.created})
		}
	}
	return st
}

// unchanged compares the recipients of the current data key with what they
// were.
func (c *Container) unchanged(op string, s *storedKeys, before []storedWrap) error {
	same := func(a, b storedWrap) bool { return a.recipient == b.recipient }
	if !slices.EqualFunc(s.wraps[c.current().id], before, same) {
		return errs.New(op, errs.Conflict, c.domain.Name, "recipients changed while the data key was rotated").
			WithRemedy("run the rotation again")
	}
	return nil
}

// rewrappers returns a recipient for each wrap, all of them or an error that
// names everything that is missing.
func (c *Container) rewrappers(ctx context.Context, wraps []storedWrap, opts *RotateOptions) ([]Recipient, error) {
	const op = "journal.RotateDataKey"
	var out []Recipient
	var lacks []string
	kind := errs.Invalid
	phrases := make([]*unwrapper, 0, len(opts.Passphrases))
	for _, id := range opts.Passphrases {
		phrases = append(phrases, &unwrapper{id: id})
	}
	for i := range wraps {
		w := &wraps[i]
		r, err := c.rewrapper(ctx, w, phrases, opts)
		if err != nil && failing(err) {
			return nil, errs.E(op, errs.Internal, w.key, err)
		} else if err != nil {
			if errs.Is(err, errs.Denied) {
				kind = errs.Denied
			}
			info := w.info(w.dataKey())
			lacks = append(lacks, fmt.Sprintf("recipient %s (%s): %s", w.recipient, info.String(), err))
			continue
		}
		out = append(out, r)
	}
	if len(lacks) > 0 {
		return nil, errs.New(op, kind, c.domain.Name, "the new data key cannot be wrapped for everybody: "+strings.Join(lacks, "; ")).
			WithRemedy("give what is missing, or remove the recipient first")
	}
	if len(out) == 0 {
		return nil, errs.New(op, errs.Invalid, c.domain.Name, "nobody could open the new data key: the current one has no recipient")
	}
	return out, nil
}

// rewrapper makes a recipient of what a wrap says, without its secret where
// that is possible. What the wrap says counts only with its MAC, which the
// store cannot make, or when the caller said the same.
func (c *Container) rewrapper(ctx context.Context, w *storedWrap, phrases []*unwrapper, opts *RotateOptions) (Recipient, error) {
	g := c.current()
	if w.err != nil {
		return Recipient{}, w.err
	}
	if w.wrap.Kind == Passphrase {
		return rewrapPassphrase(ctx, w, phrases, g.key)
	}
	if !w.genuine(g.key) {
		for _, r := range opts.Confirmed {
			if r.kind == w.wrap.Kind && (r.kind == RecoveryKey && r.hint == w.wrap.Hint || r.kind == KeyService && r.kms.URI() == w.wrap.KMS.URI) {
				return r, nil
			}
		}
		return Recipient{}, errors.New("nothing proves that it was made by who has the data key; confirm it with --recipient or --recipient-kms")
	}
	if w.wrap.Kind == RecoveryKey {
		x, err := age.ParseX25519Recipient(w.wrap.Hint)
		if err != nil {
			return Recipient{}, errors.New("its public part is not in it")
		}
		return Recipient{kind: RecoveryKey, x25519: x, hint: w.wrap.Hint}, nil
	}
	if opts.KeyService == nil {
		return Recipient{}, errors.New("no way to its key service is given")
	}
	client, err := opts.KeyService(w.wrap.KMS.URI)
	if err != nil {
		return Recipient{}, err
	}
	return Recipient{kind: KeyService, kms: client, hint: w.wrap.Hint}, nil
}

// rewrapPassphrase finds whose passphrase is which: the one that opens the
// wrap and finds the data key in it.
func rewrapPassphrase(ctx context.Context, w *storedWrap, phrases []*unwrapper, key segment.DataKey) (Recipient, error) {
	for _, u := range phrases {
		got, err := u.open(ctx, w)
		if err != nil || got != key {
			continue
		}
		r := Recipient{kind: Passphrase, passphrase: u.id.passphrase, hint: w.wrap.Hint}
		copy(r.salt[:], w.wrap.Argon.Salt)
		return r, nil
	}
	return Recipient{}, errs.New("journal.RotateDataKey", errs.Denied, "", "its passphrase is needed and was not given")
}

func (w *storedWrap) dataKey() dr.UUID {
	o, _ := parseKeyObject(w.key)
	return o.dek
}
