package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// Container is an open container: its store, what it says about itself and
// the data keys that open it. It is immutable and safe for concurrent use. It
// has nothing to close. A data key that is made later is seen by whoever opens
// the container after that.
type Container struct {
	st     store.Store
	domain Domain
	digest segment.Digest // of the domain object
	keys   *keyring
	recent *recentEnds
}

func newContainer(st store.Store, d Domain, digest segment.Digest, keys *keyring) *Container {
	return &Container{st: st, domain: d, digest: digest, keys: keys, recent: &recentEnds{}}
}

// Domain returns what the container says about itself.
func (c *Container) Domain() Domain { return c.domain }

// NewBuilder returns a builder of this container's journal objects, under its
// current data key.
func (c *Container) NewBuilder(opts segment.BuilderOptions) *segment.Builder {
	return segment.NewBuilder(c.current().key, c.domain.ID, opts)
}

// BlockHasher returns the hasher of the block hashes of frames sealed under
// the data key id, which the header of an object names (of a copied frame: the
// header of the object it was first in). Hashes under different data keys do
// not compare. It is safe for concurrent use. Kinds: Denied for a key that is
// none of the container's, Corrupt for one that does not open.
func (c *Container) BlockHasher(id dr.UUID) (*segment.BlockHasher, error) {
	g, err := c.generation(id)
	if err != nil {
		return nil, err
	}
	return g.hasher, nil
}

// RecipientInfo describes a wrapped data key.
type RecipientInfo struct {
	ID      dr.UUID       `json:"recipient"` // the same for every data key
	Kind    RecipientKind `json:"kind"`
	Hint    string        `json:"hint,omitempty"` // public part of a recovery key, or the user's words
	Key     string        `json:"key,omitempty"`  // of a key service: the address of its key
	Created time.Time     `json:"created,omitzero"`
	DataKey dr.UUID       `json:"data_key"`
	Object  string        `json:"object"`
	Damaged string        `json:"damaged,omitempty"` // why it cannot be used
}

func (r RecipientInfo) String() string {
	s := string(r.Kind)
	if r.Damaged != "" {
		s = "unusable (" + r.Damaged + ")"
	}
	if r.Key != "" {
		s += " " + r.Key
	}
	if r.Hint != "" {
		s += " " + r.Hint
	}
	return s
}

// ReadDomain reads what a container says about itself; no key is needed. Kind
// NotFound when there is no container, Invalid for something else or a newer
// format, Corrupt when it is damaged.
func ReadDomain(ctx context.Context, st store.Store) (Domain, error) {
	d, _, err := readDomain(ctx, st)
	return d, err
}

func readDomain(ctx context.Context, st store.Store) (Domain, segment.Digest, error) {
	const op = "journal.Open"
	body, err := readDocument(ctx, st, keyDomain)
	if errs.Is(err, errs.NotFound) {
		return Domain{}, segment.Digest{}, errs.New(op, errs.NotFound, keyDomain, "there is no container here").
			WithRemedy("check the store's address and prefix, or make a container first")
	} else if err != nil {
		return Domain{}, segment.Digest{}, errs.E(op, errs.Internal, keyDomain, err)
	}
	d, err := parseDomain(body)
	return d, documentDigest(body), err
}

// storedWrap is a wrapped key as found in the store.
type storedWrap struct {
	key       string
	recipient dr.UUID // from its name
	body      []byte
	wrap      *wrap
	err       error // why it is of no use
}

func (w *storedWrap) info(dek dr.UUID) RecipientInfo {
	r := RecipientInfo{ID: w.recipient, DataKey: dek, Object: w.key}
	if w.err != nil {
		r.Damaged = w.err.Error()
		return r
	}
	r.Kind, r.Hint, r.Created = w.wrap.Kind, w.wrap.Hint, w.wrap.Created
	if w.wrap.KMS != nil {
		r.Key = w.wrap.KMS.URI
	}
	return r
}

func recipientInfos(wraps []storedWrap, dek dr.UUID) []RecipientInfo {
	out := make([]RecipientInfo, 0, len(wraps))
	for i := range wraps {
		out = append(out, wraps[i].info(dek))
	}
	return out
}

// Recipients lists the wrapped keys of all data keys: who can open the
// container. No key is needed, and so nothing of it is proven.
func Recipients(ctx context.Context, st store.Store) ([]RecipientInfo, error) {
	d, err := ReadDomain(ctx, st)
	if err != nil {
		return nil, err
	}
	s, err := readKeys(ctx, st, d.ID)
	if err != nil {
		return nil, errs.E("journal.Recipients", errs.Internal, prefixKeys, err)
	}
	var out []RecipientInfo
	for _, id := range s.order {
		out = append(out, recipientInfos(s.wraps[id], id)...)
	}
	return out, nil
}

// Recovery path, step 2: open. The data keys are unwrapped with one secret,
// and nothing else is needed from anywhere.

// Open opens the container in st with an identity. Kinds: NotFound (no
// container), Invalid (something else, or a newer format), Denied (the
// identity opens none of its wrapped keys; the words list who can), Corrupt
// (damaged), or the store's.
func Open(ctx context.Context, st store.Store, id Identity) (*Container, error) {
	const op = "journal.Open"
	d, digest, err := readDomain(ctx, st)
	if err != nil {
		return nil, err
	}
	keys, err := openKeyring(ctx, st, &d, id)
	if err != nil {
		return nil, err
	}
	c := newContainer(st, d, digest, keys)
	h, err := c.readHead(ctx, d.Timeline)
	if err != nil {
		e := errs.E(op, errs.Internal, headKey(d.Timeline), err)
		if errs.Is(err, errs.Corrupt) || errs.Is(err, errs.NotFound) {
			e = e.WithRemedy("restore the object from another copy of the container, or from the store's own versions")
		}
		return nil, e
	}
	if h.Container != digestText(digest) {
		return nil, errs.New(op, errs.Corrupt, keyDomain, "the domain object is not the one this container was made with").
			WithRemedy("somebody has replaced it: restore the domain object from another copy of the container")
	}
	return c, nil
}

// unwrapFirst finds the first data key among its wraps.
func unwrapFirst(ctx context.Context, u *unwrapper, wraps []storedWrap, d *Domain) (segment.DataKey, error) {
	const op = "journal.Open"
	id := u.id
	if id.kind == "" {
		return segment.DataKey{}, errs.New(op, errs.Denied, d.Name, "no key was given").WithRemedy(remedyKey(wraps, d))
	}
	tried := 0
	var damaged error
	for i := range wraps {
		w := &wraps[i]
		if w.err != nil || w.wrap.Kind != id.kind {
			continue
		}
		tried++
		key, err := u.open(ctx, w)
		if err == nil {
			return key, nil
		} else if failing(err) {
			return segment.DataKey{}, errs.E(op, errs.Internal, w.key, err)
		} else if !errors.Is(err, errWrongKey) {
			damaged = errs.E(op, errs.Internal, w.key, err)
		}
	}
	what := "the recovery key opens no wrapped key of this container"
	switch id.kind {
	case Passphrase:
		what = "wrong passphrase"
	case KeyService:
		what = "the key service's key opens no wrapped key of this container"
	}
	if tried == 0 {
		what = fmt.Sprintf("the container has no usable wrapped key of kind %s", id.kind)
	}
	if damaged != nil {
		what += "; besides: " + damaged.Error()
	}
	return segment.DataKey{}, errs.New(op, errs.Denied, d.Name, what).WithRemedy(remedyKey(wraps, d))
}

func remedyKey(wraps []storedWrap, d *Domain) string {
	if len(wraps) == 0 {
		return "no wrapped key is left under " + keyPrefix(d.DataKey) + ": restore one from another copy of the container"
	}
	var who []string
	for _, r := range recipientInfos(wraps, d.DataKey) {
		who = append(who, r.String())
	}
	slices.Sort(who)
	return "this container can be opened with: " + strings.Join(who, "; ")
}
