package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// errNoVersion is in the chain of errors of changes that do not say what they are
// based on.
var errNoVersion = errors.New("the change does not say which version it is of")

func (s *server) registerObjects() {
	registerKind[site.Site](s, "sites", "site")
	registerKind[site.SitePair](s, "site-pairs", "site pair")
	registerKind[site.Store](s, "stores", "store")
	registerKind[site.Appliance](s, "appliances", "appliance")
	registerKind[site.ProtectedDomain](s, "domains", "protected domain")
	registerKind[v1.Mappings](s, "mappings", "set of mappings")
	registerKind[site.RecoverySettings](s, "recovery-settings", "set of recovery settings")
	registerKind[v1.Plan](s, "plans", "recovery plan")
}

// object is a pointer to one of the types above.
type object[T any] interface {
	*T
	site.Object
}

// registerKind adds list, get, put and delete of one kind of objects.
func registerKind[T any, O object[T]](s *server, path, words string) {
	k := O(new(T)).Kind()
	h := &kindOps[T, O]{s, k}
	op := operation{Tag: path, Scoped: true, May: auth.Reading(k)}
	list, get, put, remove := op, op, op, op
	list.ID, list.Method, list.Path, list.Summary = "list-"+path, http.MethodGet, "/"+path, "List every "+words+", by name"
	list.Detail = "Those you may not read are left out."
	add(s, list, h.list)
	get.ID, get.Method, get.Path, get.Summary = "get-"+string(k), http.MethodGet, "/"+path+"/{name}", "Read a "+words
	add(s, get, h.get)
	put.ID, put.Method, put.Path, put.Summary = "put-"+string(k), http.MethodPut, "/"+path+"/{name}", "Make or change a "+words
	put.Detail = "A new one needs no version. To change one, send If-Match, or its version in the body. What is as it is to be stays as it is."
	put.May, put.Change = auth.Writing(k), true
	add(s, put, h.put)
	remove.ID, remove.Method, remove.Path, remove.Summary = "delete-"+string(k), http.MethodDelete, "/"+path+"/{name}", "Delete a "+words
	remove.Detail = "409, while others name it. If-Match: * deletes it whatever its version. What is gone already is no error."
	remove.May, remove.Change, remove.Status = auth.Writing(k), true, http.StatusNoContent
	add(s, remove, h.remove)
}

// kindOps is the operations of one kind.
type kindOps[T any, O object[T]] struct {
	s    *server
	kind site.Kind
}

// Paging is what lists take: part of their input. (The library fills exported parts
// alone.)
type Paging struct {
	Cursor string `query:"cursor" maxLength:"512" doc:"next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
}

// after is the place a cursor means: what cursor made it of.
func (p *Paging) after() (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err != nil || string(b) != db.Text(string(b), 512) {
		return "", errs.New("api", errs.Invalid, "cursor", "it is none of this list").WithRemedy("send next of the page before, as it is")
	}
	return string(b), nil
}

// cursor is a place in a list, for Paging.
func cursor(place string) string { return base64.RawURLEncoding.EncodeToString([]byte(place)) }

type listIn struct {
	Paging
	Folder string `query:"folder" maxLength:"255" doc:"Only what is in this folder and below"`
}

type listOut[T any] struct{ Body v1.Page[T] }

func (k *kindOps[T, O]) list(ctx context.Context, in *listIn) (*listOut[O], error) {
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	out := &listOut[O]{v1.Page[O]{Items: []O{}}}
	may := auth.Reading(k.kind)
	return out, k.s.view(ctx, func(tx *db.Tx) error {
		page, next, err := catalog.List(ctx, tx, catalog.Query{
			Kind: k.kind, Folder: site.Ref(in.Folder), After: site.Name(after), Limit: in.Limit,
			Keep: func(o site.Object) bool { return seen(ctx, may, o.Head().Folder) },
		})
		for _, o := range page {
			out.Body.Items = append(out.Body.Items, o.Object.(O))
		}
		if next != "" {
			out.Body.Next = cursor(string(next))
		}
		return err
	})
}

// NameIn is what operations on one object take.
type NameIn struct {
	Name string `path:"name" maxLength:"63" doc:"Its name"`
}

type objectOut[O any] struct {
	Status int
	ETag   string `header:"ETag" doc:"Its version, for If-Match"`
	Body   O
}

// etag is the version of an object as HTTP has it. Part of its id is in it, since
// another one of the same name has the same versions.
func etag(m *site.Meta) string { return fmt.Sprintf(`"%d.%s"`, m.Version, m.ID.String()[:8]) }

// ifMatch reads what etag wrote; "" is 0, "*" is any.
func ifMatch(text string) (v site.Version, id string, whatever bool, err error) {
	text = strings.TrimSpace(text)
	if text == "" || text == "*" {
		return 0, "", text == "*", nil
	}
	inner, opened := strings.CutPrefix(text, `"`)
	inner, closed := strings.CutSuffix(inner, `"`)
	number, id, _ := strings.Cut(inner, ".")
	n, perr := strconv.ParseUint(number, 10, 62)
	if !opened || !closed || perr != nil || n == 0 {
		return 0, "", false, errs.New("api", errs.Invalid, "If-Match", "it is no ETag of this object").WithRemedy("send the ETag that came with the object, as it is")
	}
	return site.Version(n), id, false, nil
}

func (k *kindOps[T, O]) get(ctx context.Context, in *NameIn) (*objectOut[O], error) {
	var out *objectOut[O]
	err := k.s.view(ctx, func(tx *db.Tx) error {
		o, err := k.visible(ctx, tx, in.Name, auth.Reading(k.kind))
		if err == nil {
			out = &objectOut[O]{http.StatusOK, etag(o.Head()), o}
		}
		return err
	})
	return out, err
}

// visible returns an object who asks may read, and may do something to. What may not
// be read is not there, as far as they are told.
func (k *kindOps[T, O]) visible(ctx context.Context, tx *db.Tx, name string, may auth.Permission) (O, error) {
	stored, err := catalog.Get(ctx, tx, k.kind, site.Name(name))
	if err != nil {
		return nil, err
	}
	o := stored.Object.(O)
	if !seen(ctx, auth.Reading(k.kind), o.Head().Folder) {
		return nil, unseen(k.kind, name)
	}
	return o, k.s.allow(ctx, may, o.Head().Folder)
}

type putIn[T any] struct {
	NameIn
	IfMatch     string `header:"If-Match" maxLength:"128" doc:"The ETag of what the change is based on"`
	IfNoneMatch string `header:"If-None-Match" maxLength:"8" enum:"*" doc:"*: only if there is none of this name"`
	Body        T
}

func (k *kindOps[T, O]) put(ctx context.Context, in *putIn[T]) (*objectOut[O], error) {
	h := O(&in.Body).Head()
	if string(h.Name) != in.Name {
		return nil, errs.New("api", errs.Invalid, string(k.kind)+" "+in.Name, fmt.Sprintf("the body is of %q", db.Text(string(h.Name), 100))).
			WithRemedy("a name never changes: send the same one in path and body")
	}
	v, id, _, err := ifMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	if v != 0 && h.Version != 0 && v != h.Version {
		return nil, errs.New("api", errs.Invalid, site.Label(O(&in.Body)), "If-Match and the version in the body are different").WithRemedy("send one of them")
	}
	base := max(v, h.Version)
	return change(ctx, k.s, site.Label(O(&in.Body)), func(tx *db.Tx) (*objectOut[O], error) {
		body := in.Body // again from the beginning, if the transaction is repeated
		o := O(&body)
		o.Head().Version = base
		if err := k.s.allow(ctx, auth.Writing(k.kind), o.Head().Folder); err != nil {
			return nil, err
		}
		was, err := k.writable(ctx, tx, in.Name, base)
		if err != nil {
			return nil, err
		}
		if in.IfNoneMatch == "*" || was != nil && !strings.HasPrefix(was.Head().ID.String(), id) {
			o.Head().Version = 0 // there is to be none; or it was of another object, which had this name
		}
		found, changed, err := k.s.Catalog.Put(ctx, tx, o, by(ctx))
		if errs.Is(err, errs.Exists) && in.IfNoneMatch == "" {
			err = stale(o, base)
		}
		if err != nil {
			return nil, explain(err, found)
		}
		status := http.StatusOK
		if was == nil && changed {
			status = http.StatusCreated
		}
		return &objectOut[O]{status, etag(o.Head()), o}, nil
	})
}

// writable returns the object a change is of, which who asks may write; nil: there
// is none. It has the catalog's turn, so that this stays true.
func (k *kindOps[T, O]) writable(ctx context.Context, tx *db.Tx, name string, base site.Version) (O, error) {
	if err := catalog.Turn(ctx, tx); err != nil {
		return nil, err
	}
	stored, err := catalog.Get(ctx, tx, k.kind, site.Name(name))
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	o := stored.Object.(O)
	if seen(ctx, auth.Reading(k.kind), o.Head().Folder) {
		return o, k.s.allow(ctx, auth.Writing(k.kind), o.Head().Folder)
	}
	if base != 0 {
		return nil, unseen(k.kind, name)
	}
	return nil, errs.New("api", errs.Exists, string(k.kind)+" "+name, "the name is taken, where you may not look").WithRemedy("choose another name")
}

// unseen is the error of an object that who asks may not see: it is not there.
func unseen(kind site.Kind, name string) error {
	return errs.New("api", errs.NotFound, string(kind)+" "+name, "there is no such object").WithRemedy("list those you may see")
}

// stale is the error of a change of an object that is there: it says no version, or
// that of another one.
func stale(o site.Object, base site.Version) error {
	if base == 0 {
		return errs.E("api", errs.Conflict, site.Label(o), errNoVersion).WithRemedy("read the object, and send its ETag as If-Match, or its version in the body")
	}
	return errs.E("api", errs.Conflict, site.Label(o), fmt.Errorf("%w: it was deleted, and another one of its name made", catalog.ErrStale)).
		WithRemedy("read it again, and make your change there")
}

type deleteIn struct {
	NameIn
	IfMatch string `header:"If-Match" maxLength:"128" doc:"The ETag of what is to be deleted, or *"`
}

type nothingOut struct{}

func (k *kindOps[T, O]) remove(ctx context.Context, in *deleteIn) (*nothingOut, error) {
	v, id, whatever, err := ifMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	return change(ctx, k.s, string(k.kind)+" "+in.Name, func(tx *db.Tx) (*nothingOut, error) {
		if err := catalog.Turn(ctx, tx); err != nil {
			return nil, err
		}
		o, err := k.visible(ctx, tx, in.Name, auth.Writing(k.kind))
		if errs.Is(err, errs.NotFound) {
			callOf(ctx).allowed = true // to find nothing
			return &nothingOut{}, nil
		}
		if err != nil {
			return nil, err
		}
		if v == 0 && !whatever {
			return nil, stale(o, 0)
		}
		if id != "" && !strings.HasPrefix(o.Head().ID.String(), id) {
			return nil, stale(o, v)
		}
		_, err = k.s.Catalog.Delete(ctx, tx, k.kind, site.Name(in.Name), o.Head().ID, v, by(ctx))
		return &nothingOut{}, err
	})
}
