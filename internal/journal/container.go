package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// Container is an open container: its store, what it says about itself and
// the data key that opens it. It is immutable and safe for concurrent use. It
// has nothing to close.
type Container struct {
	st     store.Store
	domain Domain
	digest segment.Digest  // of the domain object
	key    segment.DataKey // opens everything under domain.DataKey
	hasher *segment.BlockHasher
}

func newContainer(st store.Store, d Domain, digest segment.Digest, key segment.DataKey) *Container {
	return &Container{st: st, domain: d, digest: digest, key: key, hasher: segment.NewBlockHasher(key)}
}

// Domain returns what the container says about itself.
func (c *Container) Domain() Domain { return c.domain }

// NewBuilder returns a builder of this container's journal objects, under its
// data key.
func (c *Container) NewBuilder(opts segment.BuilderOptions) *segment.Builder {
	return segment.NewBuilder(c.key, c.domain.ID, opts)
}

// BlockHasher returns the hasher of the container's block hashes. It is safe
// for concurrent use.
func (c *Container) BlockHasher() *segment.BlockHasher { return c.hasher }

// RecipientInfo describes a wrapped data key.
type RecipientInfo struct {
	Kind    RecipientKind `json:"kind"`
	Hint    string        `json:"hint,omitempty"` // public part of a recovery key, or the user's words
	DataKey dr.UUID       `json:"data_key"`
	Object  string        `json:"object"`
	Damaged string        `json:"damaged,omitempty"` // why it cannot be used
}

func (r RecipientInfo) String() string {
	s := string(r.Kind)
	if r.Damaged != "" {
		s = "unusable (" + r.Damaged + ")"
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
	key  string
	wrap *wrap
	err  error // why it is of no use
}

// readWraps reads the wrapped keys of data key dek, at most maxWraps.
func readWraps(ctx context.Context, st store.Store, domain dr.DomainID, dek dr.UUID) ([]storedWrap, error) {
	var all []storedWrap
	prefix := prefixKeys + dek.String() + "/"
	page, err := st.List(ctx, prefix, "", maxWraps)
	if err != nil {
		return nil, err
	}
	for _, in := range page {
		s := storedWrap{key: in.Key}
		body, err := readDocument(ctx, st, in.Key)
		if err != nil && !errs.Is(err, errs.Corrupt) {
			return nil, err
		}
		if err == nil {
			s.wrap, err = parseWrap(body)
		}
		if err == nil && (s.wrap.Domain != domain || s.wrap.DataKey != dek) {
			err = errs.New("journal.Open", errs.Corrupt, in.Key, "the wrapped key belongs to another container")
		}
		s.err = err
		all = append(all, s)
	}
	return all, nil
}

func recipientInfos(wraps []storedWrap, dek dr.UUID) []RecipientInfo {
	var out []RecipientInfo
	for _, w := range wraps {
		r := RecipientInfo{DataKey: dek, Object: w.key}
		if w.err != nil {
			r.Damaged = w.err.Error()
		} else {
			r.Kind, r.Hint = w.wrap.Kind, w.wrap.Hint
		}
		out = append(out, r)
	}
	return out
}

// Recipients lists who can open the container; no key is needed.
func Recipients(ctx context.Context, st store.Store) ([]RecipientInfo, error) {
	d, err := ReadDomain(ctx, st)
	if err != nil {
		return nil, err
	}
	wraps, err := readWraps(ctx, st, d.ID, d.DataKey)
	if err != nil {
		return nil, errs.E("journal.Recipients", errs.Internal, prefixKeys, err)
	}
	return recipientInfos(wraps, d.DataKey), nil
}

// Recovery path, step 2: open. The data key is unwrapped with one secret, and
// nothing else is needed from anywhere.

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
	wraps, err := readWraps(ctx, st, d.ID, d.DataKey)
	if err != nil {
		return nil, errs.E(op, errs.Internal, prefixKeys, err)
	}
	key, err := unwrap(wraps, &d, id)
	if err != nil {
		return nil, err
	}
	c := newContainer(st, d, digest, key)
	h, err := c.readHead(ctx, d.Timeline)
	if err != nil {
		return nil, errs.E(op, errs.Internal, headKey(d.Timeline), err).
			WithRemedy("restore the object from another copy of the container, or from the store's own versions")
	}
	if h.Container != digestText(digest) {
		return nil, errs.New(op, errs.Corrupt, keyDomain, "the domain object is not the one this container was made with").
			WithRemedy("somebody has replaced it: restore the domain object from another copy of the container")
	}
	return c, nil
}

// unwrap finds the data key among the wraps.
func unwrap(wraps []storedWrap, d *Domain, id Identity) (segment.DataKey, error) {
	const op = "journal.Open"
	if id.kind == "" {
		return segment.DataKey{}, errs.New(op, errs.Denied, d.Name, "no key was given").WithRemedy(remedyKey(wraps, d))
	}
	tried := 0
	var damaged error
	for _, w := range wraps {
		if w.err != nil || w.wrap.Kind != id.kind {
			continue
		}
		if tried++; id.kind == Passphrase && tried > maxPassphraseWraps {
			break
		}
		key, err := w.wrap.open(id)
		if err == nil {
			return key, nil
		} else if !errors.Is(err, errWrongKey) {
			damaged = errs.E(op, errs.Internal, w.key, err)
		}
	}
	what := "the recovery key opens no wrapped key of this container"
	if id.kind == Passphrase {
		what = "wrong passphrase"
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
		return "no wrapped key is left under " + prefixKeys + d.DataKey.String() + "/: restore one from another copy of the container"
	}
	var who []string
	for _, r := range recipientInfos(wraps, d.DataKey) {
		who = append(who, r.String())
	}
	slices.Sort(who)
	return "this container can be opened with: " + strings.Join(who, "; ")
}
