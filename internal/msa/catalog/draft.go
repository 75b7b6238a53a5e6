package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// Draft is an object that is being worked on and that nothing acts on yet.
type Draft struct {
	ID      dr.UUID
	Version site.Version // of the draft: who saves it says which one they read
	Object  site.Object  // as it is to be; it may be wrong
	Base    site.Version // of the object the draft began from; 0: it is to be a new one
	By      string       // who made the draft
	Changed time.Time
	Editor  string // who changed it last
}

const draftColumns = `id, version, kind, name, base, folder, body, made_by, changed_by, changed_at`

func scanDraft(scan func(...any) error) (Draft, error) {
	var d Draft
	var id, kind, name, folder, body string
	var version, base uint64
	var at int64
	if err := scan(&id, &version, &kind, &name, &base, &folder, &body, &d.By, &d.Editor, &at); err != nil {
		return d, err
	}
	o, err := Decode(site.Kind(kind), []byte(body))
	if err != nil {
		return d, errs.E("catalog.GetDraft", errs.Corrupt, "draft "+id, err).WithRemedy("discard the draft")
	}
	if err := d.ID.UnmarshalText([]byte(id)); err != nil {
		return d, errs.E("catalog.GetDraft", errs.Corrupt, "draft "+id, err)
	}
	o.Head().Name, o.Head().Folder = site.Name(name), site.Ref(folder)
	d.Version, d.Base, d.Object, d.Changed = site.Version(version), site.Version(base), o, db.Time(at)
	return d, nil
}

// NewDraft stores a draft of an object; base is the version it began from, 0 of a
// new one. Kinds: Invalid (its name, folder or size), Full.
func NewDraft(ctx context.Context, tx *db.Tx, o site.Object, base site.Version, by string) (Draft, error) {
	body, err := draftBody(o)
	if err != nil {
		return Draft{}, err
	}
	if err := Turn(ctx, tx); err != nil { // so that the bound holds
		return Draft{}, err
	}
	var n int
	if _, err := tx.Row(ctx, `SELECT count(*) FROM drafts`, nil, &n); err != nil {
		return Draft{}, err
	}
	if n >= MaxDrafts {
		return Draft{}, errs.New("catalog.NewDraft", errs.Full, "drafts", fmt.Sprintf("there are %d", n)).WithRemedy("commit or discard some")
	}
	by = db.Text(by, maxWord)
	d := Draft{ID: dr.NewUUID(), Version: 1, Object: o, Base: base, By: by, Editor: by, Changed: db.Time(tx.Now())}
	h := o.Head()
	_, err = tx.Exec(ctx, `INSERT INTO drafts (id, version, kind, name, base, folder, body, made_by, changed_by, made_at, changed_at)
		VALUES ($1, 1, $2, $3, $4, $5, $6, $7, $7, $8, $8)`, d.ID.String(), string(o.Kind()), string(h.Name), uint64(base), string(h.Folder), body, by, tx.Now())
	if err != nil {
		return Draft{}, err
	}
	return d, noteDraft(ctx, tx, d, "create", by)
}

func noteDraft(ctx context.Context, tx *db.Tx, d Draft, action, by string) error {
	return NoteAll(ctx, tx, []Change{{Kind: "draft", Name: d.ID.String(), Folder: d.Object.Head().Folder, Action: action, By: by}})
}

// draftBody is the JSON of a draft's object. Only what the draft is found by must be
// right.
func draftBody(o site.Object) (string, error) {
	var l problem.List
	site.CheckHead(&l, o)
	if err := l.Err("catalog.Draft"); err != nil {
		return "", err
	}
	return encode(o)
}

// GetDraft returns a draft. Kind NotFound.
func GetDraft(ctx context.Context, tx *db.Tx, id string) (Draft, error) {
	var found []Draft
	if err := tx.Rows(ctx, `SELECT `+draftColumns+` FROM drafts WHERE id = $1`, []any{db.Text(id, maxWord)}, collect(&found, scanDraft)); err != nil {
		return Draft{}, err
	}
	if len(found) == 0 {
		return Draft{}, errs.New("catalog.GetDraft", errs.NotFound, "draft "+db.Text(id, maxWord), "there is no such draft").
			WithRemedy("it was committed or discarded: list the drafts there are")
	}
	return found[0], nil
}

// Drafts returns every draft, the one changed last first.
func Drafts(ctx context.Context, tx *db.Tx) (list []Draft, err error) {
	err = tx.Rows(ctx, `SELECT `+draftColumns+` FROM drafts ORDER BY changed_at DESC, id LIMIT $1`, []any{MaxDrafts}, collect(&list, scanDraft))
	return list, err
}

// SaveDraft stores another state of a draft: of the same kind and name. Kinds:
// NotFound, Conflict (ErrStale), Invalid, Full.
func SaveDraft(ctx context.Context, tx *db.Tx, id string, v site.Version, o site.Object, by string) (Draft, error) {
	const op = "catalog.SaveDraft"
	d, err := lockDraft(ctx, tx, op, id, v)
	if err != nil {
		return d, err
	}
	if o.Kind() != d.Object.Kind() || o.Head().Name != d.Object.Head().Name {
		return d, errs.New(op, errs.Invalid, "draft "+id, fmt.Sprintf("it is of %s, not of %s", site.Label(d.Object), site.Label(o))).
			WithRemedy("make another draft")
	}
	body, err := draftBody(o)
	if err != nil {
		return d, err
	}
	by = db.Text(by, maxWord)
	if _, err := tx.Exec(ctx, `UPDATE drafts SET version = version + 1, folder = $2, body = $3, changed_by = $4, changed_at = $5 WHERE id = $1`,
		id, string(o.Head().Folder), body, by, tx.Now()); err != nil {
		return d, err
	}
	d.Version, d.Object, d.Editor, d.Changed = d.Version+1, o, by, db.Time(tx.Now())
	return d, noteDraft(ctx, tx, d, "change", by)
}

// lockDraft returns a draft that nobody else changes before the transaction ends;
// version 0: whichever it has.
func lockDraft(ctx context.Context, tx *db.Tx, op, id string, v site.Version) (Draft, error) {
	if _, err := tx.Exec(ctx, `UPDATE drafts SET version = version WHERE id = $1`, db.Text(id, maxWord)); err != nil {
		return Draft{}, err
	}
	d, err := GetDraft(ctx, tx, id)
	if err == nil && v != 0 && v != d.Version {
		err = errs.E(op, errs.Conflict, "draft "+id, fmt.Errorf("%w: you read version %d, now it is %d, by %s", ErrStale, v, d.Version, d.Editor)).
			WithRemedy("read the draft again, and make your change there")
	}
	return d, err
}

// CheckDraft returns everything that would be wrong if the draft were committed now.
// Kind NotFound.
func (c *Catalog) CheckDraft(ctx context.Context, tx *db.Tx, id string) (problem.List, error) {
	d, err := GetDraft(ctx, tx, id)
	if err != nil {
		return problem.List{}, err
	}
	changes := []file.ObjectChange{d.change()}
	current, err := concerned(ctx, tx, changes)
	if err != nil {
		return problem.List{}, err
	}
	found, err := c.check(ctx, tx, current, changes)
	if err != nil {
		return found, err
	}
	old, err := Get(ctx, tx, d.Object.Kind(), d.Object.Head().Name)
	at := problem.For(&found, site.Label(d.Object))
	switch {
	case errs.Is(err, errs.NotFound):
		if d.Base != 0 {
			at.Block(problem.Unknown, "it was deleted since the draft was begun", "discard the draft, or copy it to a new one")
		}
	case err != nil:
		return found, err
	case d.Base == 0:
		at.At("name").Block(problem.Duplicate, "there is one of this name", "choose another name")
	case old.Object.Head().Version != d.Base:
		at.Block(problem.Contrary, fmt.Sprintf("it was changed by %s since the draft was begun", old.By), "begin a new draft, and make your change there")
	}
	return found, nil
}

// change is what committing the draft does.
func (d *Draft) change() file.ObjectChange {
	h := d.Object.Head()
	ch := file.ObjectChange{Action: file.Create, Kind: d.Object.Kind(), Name: h.Name, Version: d.Base, Object: d.Object}
	if d.Base != 0 {
		ch.Action = file.Change
	}
	return ch
}

// CommitDraft makes the draft what is configured, and ends it. Kinds as of Put, and
// Conflict (ErrStale) if the draft or what it began from was changed.
func (c *Catalog) CommitDraft(ctx context.Context, tx *db.Tx, id string, v site.Version, by string) (site.Object, problem.List, error) {
	// First the turn, then the draft, as everywhere.
	if err := Turn(ctx, tx); err != nil {
		return nil, problem.List{}, err
	}
	d, err := lockDraft(ctx, tx, "catalog.CommitDraft", id, v)
	if err != nil {
		return nil, problem.List{}, err
	}
	d.Object.Head().Version = d.Base
	found, _, err := c.Put(ctx, tx, d.Object, by)
	if err != nil {
		return nil, found, err
	}
	return d.Object, found, endDraft(ctx, tx, d, "commit", by)
}

// DiscardDraft ends a draft; version 0: whichever it has. Kinds: NotFound, Conflict
// (ErrStale).
func DiscardDraft(ctx context.Context, tx *db.Tx, id string, v site.Version, by string) error {
	d, err := lockDraft(ctx, tx, "catalog.DiscardDraft", id, v)
	if err != nil {
		return err
	}
	return endDraft(ctx, tx, d, "delete", by)
}

func endDraft(ctx context.Context, tx *db.Tx, d Draft, action, by string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM drafts WHERE id = $1`, d.ID.String()); err != nil {
		return err
	}
	return noteDraft(ctx, tx, d, action, by)
}

// PruneDrafts deletes drafts nobody has touched for DraftsFor; it returns how many.
func PruneDrafts(ctx context.Context, tx *db.Tx) (int64, error) {
	return tx.Exec(ctx, `DELETE FROM drafts WHERE changed_at < $1`, tx.Now()-DraftsFor.Milliseconds())
}

// Copy returns a new object like o under another name.
func Copy(o site.Object, name site.Name) (site.Object, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, errs.E("catalog.Copy", errs.Invalid, site.Label(o), err)
	}
	c, err := Decode(o.Kind(), b)
	if err != nil {
		return nil, err
	}
	h := c.Head()
	h.Name, h.ID, h.Version = name, dr.UUID{}, 0
	return c, nil
}
