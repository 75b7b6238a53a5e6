package journal

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// generation is one of a container's data keys. The first came with the
// container; each later one was made by a rotation and is endorsed by the one
// before it, so that whoever has only the store cannot slip a key of his own
// in. It is immutable once the keyring is open.
type generation struct {
	id       dr.UUID
	number   uint32 // 1 is the first; 0 while unknown
	previous *generation
	key      segment.DataKey
	hasher   *segment.BlockHasher
	open     bool   // key is known and endorsed: what it sealed may be read
	complete bool   // every recipient had it when it came into use: new objects may be sealed under it
	why      string // why it is not open, or not complete

	created   time.Time // of the completion; of the first, the container's
	statement *statement
	wraps     []storedWrap
}

// whyUnfinished is why a generation without completion is not complete.
const whyUnfinished = "its rotation was not finished"

// keyring is every generation of a container, in ascending order. It is
// immutable and safe for concurrent use.
type keyring struct {
	all     []*generation
	current *generation // seals what is written
}

func newGeneration(id dr.UUID, number uint32, key segment.DataKey) *generation {
	return &generation{id: id, number: number, key: key, open: true, hasher: segment.NewBlockHasher(key)}
}

// firstKeyring is the keyring of a container that is being made.
func firstKeyring(d *Domain, key segment.DataKey) *keyring {
	g := newGeneration(d.DataKey, firstGeneration, key)
	g.complete, g.created = true, d.Created
	return &keyring{all: []*generation{g}, current: g}
}

// find returns a generation, nil when the container has none of that id.
func (k *keyring) find(id dr.UUID) *generation {
	for _, g := range k.all {
		if g.id == id {
			return g
		}
	}
	return nil
}

// foreign reports whether id is a data key that no rotation of this container
// made: what an interrupted Create left.
func (k *keyring) foreign(id dr.UUID) bool {
	g := k.find(id)
	return g == nil || !g.open && g.number == 0
}

// with returns a keyring that has g besides, as the current one.
func (k *keyring) with(g *generation) *keyring {
	return &keyring{all: append(slices.Clone(k.all), g), current: g}
}

// dataKey returns the data key of a generation, for everything that was sealed
// under it. Kind Denied for a key the container knows nothing of, as what an
// interrupted Create left has; Corrupt for one whose generation exists and
// does not open.
func (c *Container) dataKey(id dr.UUID) (segment.DataKey, error) {
	g, err := c.generation(id)
	if err != nil {
		return segment.DataKey{}, err
	}
	return g.key, nil
}

func (c *Container) generation(id dr.UUID) (*generation, error) {
	const op = "journal.dataKey"
	g := c.keys.find(id)
	switch {
	case c.keys.foreign(id):
		return nil, errs.New(op, errs.Denied, id.String(), "sealed under a data key that is none of this container's").
			WithRemedy("restore the wrapped keys under " + keyPrefix(id) + " from another copy of the container")
	case !g.open:
		return nil, errs.New(op, errs.Corrupt, id.String(), fmt.Sprintf("sealed under data key generation %d, which does not open: %s", g.number, g.why)).
			WithRemedy("restore the wrapped keys under " + keyPrefix(id) + " from another copy of the container, or open it as another recipient")
	}
	return g, nil
}

// current returns the generation that seals what is written: its id goes into
// the header of whatever its key seals.
func (c *Container) current() *generation { return c.keys.current }

// keyObject is an object below keys/.
type keyObject struct {
	key  string
	dek  dr.UUID
	name string // the recipient's id, or completeName

	recipient dr.UUID // zero: completeName
}

// listKeys lists the objects below keys/, at most maxKeyObjects. Names of
// another form are left out: fsck reports them.
func listKeys(ctx context.Context, st store.Store) ([]keyObject, error) {
	var out []keyObject
	seen := 0
	err := listAll(ctx, st, prefixKeys, "", func(in store.Info) bool {
		seen++
		if o, ok := parseKeyObject(in.Key); ok {
			out = append(out, o)
		}
		return seen <= maxKeyObjects
	})
	if err == nil && seen > maxKeyObjects {
		err = errs.New("journal.listKeys", errs.Full, prefixKeys, fmt.Sprintf("more than %d objects lie there", maxKeyObjects))
	}
	return out, err
}

func parseKeyObject(key string) (keyObject, bool) {
	rest, ok := strings.CutPrefix(key, prefixKeys)
	dir, name, cut := strings.Cut(rest, "/")
	id, err := dr.ParseUUID(dir)
	if !ok || !cut || err != nil {
		return keyObject{}, false
	}
	recipient, err := dr.ParseUUID(name)
	if err != nil && name != completeName {
		return keyObject{}, false
	}
	// In other letters it would be a second object of the same meaning.
	return keyObject{key: key, dek: id, name: name, recipient: recipient}, strings.ToLower(key) == key
}

// storedKeys is everything below keys/ that belongs to one domain, read.
type storedKeys struct {
	order []dr.UUID // data keys, in the order of their names
	wraps map[dr.UUID][]storedWrap
	ready map[dr.UUID][]byte // completion documents
}

// readKeys reads everything below keys/. Objects that vanish meanwhile are
// left out; damaged ones are in the result with what is wrong with them.
func readKeys(ctx context.Context, st store.Store, domain dr.DomainID) (*storedKeys, error) {
	objects, err := listKeys(ctx, st)
	if err != nil {
		return nil, err
	}
	bodies := make([][]byte, len(objects))
	bad := make([]error, len(objects))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readParallel)
	for i, o := range objects {
		g.Go(func() error {
			body, err := readDocument(gctx, st, o.key)
			switch errs.KindOf(err) {
			case errs.Corrupt, errs.NotFound:
				bad[i] = err
				return nil
			}
			bodies[i] = body
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	s := &storedKeys{wraps: make(map[dr.UUID][]storedWrap), ready: make(map[dr.UUID][]byte)}
	for i, o := range objects {
		s.add(domain, o, bodies[i], bad[i])
	}
	return s, nil
}

func (s *storedKeys) add(domain dr.DomainID, o keyObject, body []byte, err error) {
	if errs.Is(err, errs.NotFound) {
		return
	}
	if n := len(s.order); n == 0 || s.order[n-1] != o.dek {
		s.order = append(s.order, o.dek)
	}
	if o.name == completeName {
		s.ready[o.dek] = body // nil when damaged: opening it says so
		return
	}
	if len(s.wraps[o.dek]) >= maxWraps {
		return
	}
	w := storedWrap{key: o.key, recipient: o.recipient, body: body, err: err}
	if err == nil {
		w.wrap, w.err = parseWrap(body)
	}
	if w.err == nil && (w.wrap.Domain != domain || w.wrap.DataKey != o.dek) {
		w.err = errs.New("journal.Open", errs.Corrupt, o.key, "the wrapped key belongs to another container")
	}
	s.wraps[o.dek] = append(s.wraps[o.dek], w)
}

// openKeyring opens every generation that id opens. The first must open; of
// others that do not the keyring notes why.
func openKeyring(ctx context.Context, st store.Store, d *Domain, id Identity) (*keyring, error) {
	s, err := readKeys(ctx, st, d.ID)
	if err != nil {
		return nil, errs.E("journal.Open", errs.Internal, prefixKeys, err)
	}
	u := &unwrapper{id: id}
	key, err := unwrapFirst(ctx, u, s.wraps[d.DataKey], d)
	if err != nil {
		return nil, err
	}
	k := firstKeyring(d, key)
	k.all[0].wraps = s.wraps[d.DataKey]
	if err := k.openLater(ctx, u, s, d); err != nil {
		return nil, err
	}
	return k, nil
}

// openLater opens the generations after the first: each as soon as the one
// before it, which endorses it, is open.
func (k *keyring) openLater(ctx context.Context, u *unwrapper, s *storedKeys, d *Domain) error {
	var waiting []*generation
	for _, id := range s.order {
		if id != d.DataKey {
			waiting = append(waiting, &generation{id: id, wraps: s.wraps[id], why: whyUnfinished})
		}
	}
	for progress := true; progress; {
		progress = false
		for i, g := range waiting {
			if g == nil {
				continue
			}
			ok, err := k.unlock(ctx, u, g, d.ID)
			if err != nil {
				return err
			}
			if ok {
				g.finish(s.ready[g.id], d.ID)
				k.all, waiting[i], progress = append(k.all, g), nil, true
			}
		}
	}
	for _, g := range waiting {
		if g != nil {
			k.all = append(k.all, g)
		}
	}
	k.believeStatements()
	slices.SortStableFunc(k.all, (*generation).compare)
	for _, g := range k.all {
		if g.open && g.complete {
			k.current = g
		}
	}
	return nil
}

// compare orders generations: by number, and of two rotations that ran at the
// same time by when they were finished.
func (g *generation) compare(o *generation) int {
	return cmp.Or(cmp.Compare(g.number, o.number), g.created.Compare(o.created), bytes.Compare(g.id[:], o.id[:]))
}

// unlock opens g with one of its wraps that an open generation endorses.
func (k *keyring) unlock(ctx context.Context, u *unwrapper, g *generation, domain dr.DomainID) (bool, error) {
	for i := range g.wraps {
		w := &g.wraps[i]
		if w.err != nil || w.wrap.Kind != u.id.kind || w.wrap.Endorsed == nil {
			continue
		}
		before := k.find(w.wrap.Endorsed.By)
		if before == nil || !before.open || before.number+1 != w.wrap.Endorsed.Generation {
			continue
		}
		key, err := u.open(ctx, w)
		if errors.Is(err, errWrongKey) {
			continue
		} else if err != nil {
			if failing(err) {
				return false, err
			}
			g.why = err.Error()
			continue
		}
		e := w.wrap.Endorsed
		if !bytes.Equal(e.MAC, endorse(before.key, domain, before.id, g.id, e.Generation, key)) {
			g.why = "the wrapped key " + w.key + " is not endorsed by the generation before: somebody else has put it there"
			continue
		}
		g.number, g.previous, g.key, g.open = e.Generation, before, key, true
		g.hasher, g.why = segment.NewBlockHasher(key), whyUnfinished
		return true, nil
	}
	return false, nil
}

// failing tells what is the store's or key service's failure, after which
// nobody knows anything, from a key that is of no use.
func failing(err error) bool {
	switch errs.KindOf(err) {
	case errs.Transient, errs.Unavailable, errs.Canceled:
		return true
	}
	return false
}

// believeStatements takes generations that an open one speaks of, and that do
// not open themselves, for existing.
func (k *keyring) believeStatements() {
	for _, g := range slices.Clone(k.all) {
		if g.statement == nil {
			continue
		}
		for _, e := range g.statement.Earlier {
			o := k.find(e.DataKey)
			if o == nil {
				o = &generation{id: e.DataKey}
				k.all = append(k.all, o)
			}
			if !o.open {
				o.number, o.created, o.why = e.Generation, e.Created, "none of its wrapped keys opens with this identity"
				if len(o.wraps) == 0 {
					o.why = "its wrapped keys are gone"
				}
			} else if !o.complete {
				o.complete, o.created, o.why = true, e.Created, ""
			}
		}
	}
}
