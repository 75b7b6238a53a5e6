package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/site"
)

// ErrStale is in the chain of errors of kind Conflict that mean: somebody else has
// changed the object, or the draft, since it was read.
var ErrStale = errors.New("it was changed by somebody else meanwhile")

// Catalog is what is configured. The zero value is ready for use and knows no
// inventory. It holds no state; fields are set before it is used.
type Catalog struct {
	// Views returns what the sites' platforms have, as far as it is known, so that
	// VMs are known by id and not by name alone. Nil: nothing is known.
	Views func(context.Context, *db.Tx) (map[site.Name]*site.View, error)
	// Guards are asked, in the transaction, before each change of an object is
	// stored. One that returns an error refuses it.
	Guards []Guard
}

// Guard refuses changes that what goes on does not allow, as of a plan that is
// being carried out. old is nil of a new object, now of one that is deleted.
type Guard func(ctx context.Context, tx *db.Tx, old, now site.Object) error

// Stored is an object with when and by whom it was changed last.
type Stored struct {
	Object  site.Object
	Changed time.Time
	By      string
}

const objectColumns = `kind, name, id, version, folder, body, changed_at, changed_by`

// scanStored reads a row. What is in columns is not in the body.
func scanStored(scan func(...any) error) (Stored, error) {
	var s Stored
	var kind, name, id, folder, body string
	var version uint64
	var at int64
	if err := scan(&kind, &name, &id, &version, &folder, &body, &at, &s.By); err != nil {
		return s, err
	}
	o, err := Decode(site.Kind(kind), []byte(body))
	if err != nil {
		return s, errs.E("catalog.Get", errs.Corrupt, kind+" "+name, err).WithRemedy("restore the database from its newest backup")
	}
	h := o.Head()
	if err := h.ID.UnmarshalText([]byte(id)); err != nil {
		return s, errs.E("catalog.Get", errs.Corrupt, kind+" "+name, err)
	}
	h.Name, h.Version, h.Folder = site.Name(name), site.Version(version), site.Ref(folder)
	s.Object, s.Changed = o, db.Time(at)
	return s, nil
}

// Decode reads the JSON of an object. Kind Invalid.
func Decode(k site.Kind, body []byte) (site.Object, error) {
	o := file.New(k)
	if o == nil {
		return nil, noKind(k)
	}
	if err := json.Unmarshal(body, o); err != nil {
		return nil, errs.E("catalog.Decode", errs.Invalid, string(k), err)
	}
	return o, nil
}

// encode writes the JSON of an object, without what is in columns of their own.
func encode(o site.Object) (string, error) {
	h := o.Head()
	head := *h
	h.ID, h.Version = site.Meta{}.ID, 0
	b, err := json.Marshal(o)
	*h = head
	switch {
	case err != nil:
		return "", errs.E("catalog.Put", errs.Invalid, site.Label(o), err)
	case len(b) > maxBody:
		return "", errs.New("catalog.Put", errs.Full, site.Label(o), fmt.Sprintf("the object has %d bytes", len(b))).
			WithRemedy(fmt.Sprintf("at most %d can be stored: split it", maxBody))
	}
	return string(b), nil
}

func noKind(k site.Kind) *errs.Error {
	words := make([]string, 0, len(site.Kinds()))
	for _, k := range site.Kinds() {
		words = append(words, string(k))
	}
	return errs.New("catalog.Get", errs.NotFound, db.Text(string(k), maxWord), "there are no objects of this kind").
		WithRemedy("choose one of " + strings.Join(words, ", "))
}

func noObject(op string, k site.Kind, n site.Name) *errs.Error {
	return errs.New(op, errs.NotFound, string(k)+" "+string(n), "there is no such object").
		WithRemedy("list those there are: holdfast get " + string(k))
}

// Get returns an object. Kind NotFound.
func Get(ctx context.Context, tx *db.Tx, k site.Kind, n site.Name) (Stored, error) {
	if file.New(k) == nil {
		return Stored{}, noKind(k)
	}
	var found []Stored
	if n.Valid() { // what is no name is nothing's, and no text for the database either
		err := tx.Rows(ctx, `SELECT `+objectColumns+` FROM objects WHERE kind = $1 AND name = $2`, []any{string(k), string(n)}, collect(&found, scanStored))
		if err != nil {
			return Stored{}, err
		}
	}
	if len(found) == 0 {
		return Stored{}, noObject("catalog.Get", k, site.Name(db.Text(string(n), maxWord)))
	}
	return found[0], nil
}

// Find is Get of the object as what it is. Kind NotFound.
func Find[T site.Object](ctx context.Context, tx *db.Tx, n site.Name) (T, error) {
	var none T
	s, err := Get(ctx, tx, none.Kind(), n)
	if err != nil {
		return none, err
	}
	return s.Object.(T), nil
}

// Query says which objects a list has.
type Query struct {
	Kind   site.Kind
	Folder site.Ref               // this one and those below; empty: all
	Keep   func(site.Object) bool // nil: all
	After  site.Name              // the last name of the page before; empty: from the beginning
	Limit  int                    // at most MaxPage; 0: MaxPage
}

// List returns a page of objects by name, and the name to go on after: empty, if
// that was all. Kind NotFound: there is no such kind.
func List(ctx context.Context, tx *db.Tx, q Query) (page []Stored, next site.Name, err error) {
	if file.New(q.Kind) == nil {
		return nil, "", noKind(q.Kind)
	}
	limit := q.Limit
	if limit <= 0 || limit > MaxPage {
		limit = MaxPage
	}
	after := q.After
	for {
		var rows []Stored
		// One more than asked for says whether there is more.
		err := tx.Rows(ctx, `SELECT `+objectColumns+` FROM objects WHERE kind = $1 AND name > $2
			AND ($3 = '' OR folder = $3 OR substr(folder, 1, length($3) + 1) = $3 || '/') ORDER BY name LIMIT $4`,
			[]any{string(q.Kind), db.Text(string(after), maxWord), db.Text(string(q.Folder), site.MaxRef), limit + 1}, collect(&rows, scanStored))
		if err != nil {
			return nil, "", err
		}
		for _, s := range rows {
			if q.Keep != nil && !q.Keep(s.Object) {
				continue
			}
			if len(page) == limit {
				return page, page[limit-1].Object.Head().Name, nil
			}
			page = append(page, s)
		}
		if len(rows) <= limit {
			return page, "", nil
		}
		after = rows[len(rows)-1].Object.Head().Name
	}
}

// All returns every object of some kinds, or of all kinds, in the order in which
// they are applied.
func All(ctx context.Context, tx *db.Tx, kinds ...site.Kind) ([]site.Object, error) {
	if len(kinds) == 0 {
		kinds = site.Kinds()
	}
	var all []site.Object
	for _, k := range kinds {
		var rows []Stored
		if err := tx.Rows(ctx, `SELECT `+objectColumns+` FROM objects WHERE kind = $1 ORDER BY name LIMIT $2`, []any{string(k), MaxObjects}, collect(&rows, scanStored)); err != nil {
			return nil, err
		}
		for _, s := range rows {
			all = append(all, s.Object)
		}
	}
	site.SortObjects(all)
	return all, nil
}

// Referrers returns which objects name another one, by kind and name; at most
// limit.
func Referrers(ctx context.Context, tx *db.Tx, k site.Kind, n site.Name, limit int) (labels []string, err error) {
	err = tx.Rows(ctx, `SELECT DISTINCT kind, name FROM object_refs WHERE to_kind = $1 AND to_name = $2 AND NOT (kind = $1 AND name = $2) ORDER BY kind, name LIMIT $3`,
		[]any{string(k), string(n), limit}, collect(&labels, func(scan func(...any) error) (string, error) {
			var kind, name string
			err := scan(&kind, &name)
			return kind + " " + name, err
		}))
	return labels, err
}

func collect[T any](out *[]T, one func(func(...any) error) (T, error)) func(func(...any) error) error {
	return func(scan func(...any) error) error {
		v, err := one(scan)
		*out = append(*out, v)
		return err
	}
}
