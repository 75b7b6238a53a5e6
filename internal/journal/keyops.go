package journal

import (
	"context"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// GenerationInfo describes one of a container's data keys.
type GenerationInfo struct {
	DataKey    dr.UUID         `json:"data_key"`
	Number     uint32          `json:"generation"` // 0: a rotation that broke off, or what an interrupted Create left
	Created    time.Time       `json:"created,omitzero"`
	Current    bool            `json:"current"`  // seals what is written
	Open       bool            `json:"open"`     // with the identity the container was opened with
	Complete   bool            `json:"complete"` // its rotation was finished
	Why        string          `json:"why,omitempty"`
	Recipients []RecipientInfo `json:"recipients"`
}

// Generations lists the container's data keys as they were when it was
// opened, in ascending order.
func (c *Container) Generations() []GenerationInfo {
	out := make([]GenerationInfo, 0, len(c.keys.all))
	for _, g := range c.keys.all {
		out = append(out, GenerationInfo{DataKey: g.id, Number: g.number, Created: g.created, Current: g == c.keys.current,
			Open: g.open, Complete: g.complete, Why: g.why, Recipients: recipientInfos(g.wraps, g.id)})
	}
	return out
}

// reload reads the wraps below keys/ again; the data keys that are open stay.
func (c *Container) reload(ctx context.Context) (*storedKeys, error) {
	s, err := readKeys(ctx, c.st, c.domain.ID)
	if err != nil {
		return nil, errs.E("journal.readKeys", errs.Internal, prefixKeys, err)
	}
	return s, nil
}

// usable lists the generations that a recipient must be able to open: those
// open here.
func (c *Container) usable() []*generation {
	return slices.DeleteFunc(slices.Clone(c.keys.all), func(g *generation) bool { return !g.open })
}

// stale refuses to change keys when a rotation was finished since the
// container was opened: its new data key is not open here.
func (c *Container) stale(op string, s *storedKeys) error {
	for id := range s.ready {
		if g := c.keys.find(id); g == nil || g.open && !g.complete && len(s.ready[id]) > 0 && g.statement == nil && g.why == whyUnfinished {
			return errs.New(op, errs.Conflict, completeKey(id), "the data key was rotated since the container was opened").
				WithRemedy("run the command again")
		}
	}
	return nil
}

// RotatedSince reports whether the store shows a data key whose rotation was
// finished after this container was opened, and which one: what is written
// here goes on under an older one. It is one list, and nothing proves the
// answer until the container is opened again. Kinds: Full, the store's.
func (c *Container) RotatedSince(ctx context.Context) (id dr.UUID, newer bool, err error) {
	objects, err := listKeys(ctx, c.st)
	if err != nil {
		return id, false, errs.E("journal.RotatedSince", errs.Internal, prefixKeys, err)
	}
	for _, o := range objects {
		if g := c.keys.find(o.dek); o.name == completeName && (g == nil || !g.complete) {
			return o.dek, true, nil
		}
	}
	return id, false, nil
}

// AddRecipient lets r open the container: it wraps every data key that is open
// for it, oldest first, and returns the recipient's id. Durable on return; when
// it fails midway the recipient may open nothing yet, and may be removed and
// added again.
//
// Kinds: Exists when this recovery key or key service's key is a recipient
// already, Conflict when a rotation ran at the same time, Full when there are
// too many, the key service's, the store's.
func (c *Container) AddRecipient(ctx context.Context, r Recipient) (dr.UUID, error) {
	const op = "journal.AddRecipient"
	s, err := c.reload(ctx)
	if err != nil {
		return dr.UUID{}, err
	}
	if err := c.stale(op, s); err != nil {
		return dr.UUID{}, err
	}
	if err := c.roomFor(op, r, s); err != nil {
		return dr.UUID{}, err
	}
	id, now := dr.NewUUID(), time.Now()
	for _, g := range c.usable() {
		if err := c.writeWrap(ctx, g, r, id, now); err != nil {
			return id, errs.E(op, errs.Internal, c.domain.Name, err)
		}
	}
	// A rotation that was finished meanwhile did not know of it.
	if s, err = c.reload(ctx); err == nil {
		err = c.stale(op, s)
	}
	if errs.Is(err, errs.Conflict) {
		return id, errs.New(op, errs.Conflict, id.String(), "the data key was rotated at the same time: the recipient opens only what was written before").
			WithRemedy("remove recipient " + id.String() + " and add it again")
	}
	return id, err
}

func (c *Container) roomFor(op string, r Recipient, s *storedKeys) error {
	if r.kind == "" {
		return errs.New(op, errs.Invalid, "", "a recipient is empty")
	}
	wraps := s.wraps[c.current().id]
	phrases := 0
	for i := range wraps {
		w := wraps[i].wrap
		switch {
		case wraps[i].err != nil:
		case w.Kind == Passphrase:
			phrases++
		case w.Kind == r.kind && (r.kind == RecoveryKey && w.Hint == r.hint || r.kind == KeyService && w.KMS.URI == r.kms.URI()):
			return errs.New(op, errs.Exists, wraps[i].recipient.String(), r.String()+" can open the container already").
				WithRemedy("to wrap the data keys for it anew, rotate its wrapped keys")
		}
	}
	if len(wraps) >= maxWraps || r.kind == Passphrase && phrases >= maxPassphraseWraps {
		return errs.New(op, errs.Full, c.domain.Name, fmt.Sprintf("a container has at most %d recipients, %d of them passphrases", maxWraps, maxPassphraseWraps)).
			WithRemedy("remove one that is no longer needed")
	}
	return nil
}

// RemoveRecipient deletes a recipient's wrapped keys of every data key, the
// current one first. It needs the right to delete. It takes nothing back:
// whoever has a copy of the wrapped keys or of a data key can go on opening
// what was sealed until then, and so a rotation of the data key should follow.
//
// Kinds: NotFound for an unknown recipient, Invalid when nobody else that is
// known to be genuine could open the container after that, Denied when the
// store does not let us delete, the store's. It may be called again after any
// error.
func (c *Container) RemoveRecipient(ctx context.Context, id dr.UUID) error {
	const op = "journal.RemoveRecipient"
	s, err := c.reload(ctx)
	if err != nil {
		return err
	}
	var doomed []string
	for i := range s.order {
		for _, w := range s.wraps[s.order[len(s.order)-1-i]] {
			if w.recipient == id {
				doomed = append(doomed, w.key)
			}
		}
	}
	if len(doomed) == 0 {
		return errs.New(op, errs.NotFound, id.String(), "the container has no such recipient").
			WithRemedy("list the recipients with key list")
	}
	if !c.othersOpen(s, id) {
		return errs.New(op, errs.Invalid, id.String(), "nobody else could open the container").
			WithRemedy("add another recipient first; to destroy the keys on purpose, use key erase")
	}
	current := keyPrefix(c.current().id)
	slices.SortStableFunc(doomed, func(a, b string) int { return rank(a, current) - rank(b, current) })
	for _, key := range doomed {
		if err := c.st.Delete(ctx, key); err != nil && !errs.Is(err, errs.NotFound) {
			e := errs.E(op, errs.Internal, key, err)
			if errs.Is(err, errs.Denied) {
				e = e.WithRemedy("use credentials that may delete below keys/, or wait until the object's lock ends")
			}
			return e
		}
	}
	return nil
}

func rank(key, prefix string) int {
	if len(key) > len(prefix) && key[:len(prefix)] == prefix {
		return 0
	}
	return 1
}

// othersOpen reports whether a recipient besides id has a genuine wrap of
// every data key.
func (c *Container) othersOpen(s *storedKeys, id dr.UUID) bool {
	left := make(map[dr.UUID]int)
	gens := c.usable()
	for _, g := range gens {
		for i := range s.wraps[g.id] {
			w := &s.wraps[g.id][i]
			if w.recipient != id && (w.genuine(g.key) || w.err == nil && len(w.wrap.MAC) == 0) {
				left[w.recipient]++
			}
		}
	}
	for _, n := range left {
		if n == len(gens) {
			return true
		}
	}
	return false
}

// RotateRecipient replaces a recipient's wrapped keys by ones for r: another
// passphrase, another recovery key, another or newer key of a service. Both
// open the container until the old ones are deleted; a crash in between leaves
// both. It returns the new recipient's id. What RemoveRecipient says holds.
func (c *Container) RotateRecipient(ctx context.Context, old dr.UUID, r Recipient) (dr.UUID, error) {
	const op = "journal.RotateRecipient"
	s, err := c.reload(ctx)
	if err != nil {
		return dr.UUID{}, err
	}
	if err := c.stale(op, s); err != nil {
		return dr.UUID{}, err
	}
	if !slices.ContainsFunc(s.wraps[c.current().id], func(w storedWrap) bool { return w.recipient == old }) {
		return dr.UUID{}, errs.New(op, errs.NotFound, old.String(), "the container has no such recipient").
			WithRemedy("list the recipients with key list")
	}
	if r.kind == "" {
		return dr.UUID{}, errs.New(op, errs.Invalid, "", "a recipient is empty")
	}
	id, now := dr.NewUUID(), time.Now()
	for _, g := range c.usable() {
		if err := c.writeWrap(ctx, g, r, id, now); err != nil {
			return id, errs.E(op, errs.Internal, c.domain.Name, err)
		}
	}
	return id, c.RemoveRecipient(ctx, old)
}

// newKey makes the data key of the next generation.
func (c *Container) newKey() *generation {
	g := newGeneration(dr.NewUUID(), c.current().number+1, segment.NewDataKey())
	g.previous = c.current()
	return g
}
