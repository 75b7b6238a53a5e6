package catalog

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// Turn has the changes of objects take turns, until the transaction ends. Put,
// Delete and Apply take it themselves; who decides by an object he read before that
// takes it first.
func Turn(ctx context.Context, tx *db.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE sequences SET value = value + 1 WHERE name = 'catalog'`)
	return err
}

// Put stores an object. Version 0 makes a new one; another is the version that was
// read. It sets id and version of o and returns what is wrong with it that does not
// keep it from being stored, and whether anything was changed: an object that is as
// it is to be stays as it is, whatever version was named. Kinds: Invalid (with the
// problems), Exists, NotFound, Conflict (ErrStale, or a guard), Full.
func (c *Catalog) Put(ctx context.Context, tx *db.Tx, o site.Object, by string) (found problem.List, changed bool, err error) {
	if err := Turn(ctx, tx); err != nil {
		return found, false, err
	}
	h := o.Head()
	ch := file.ObjectChange{Action: file.Create, Kind: o.Kind(), Name: h.Name, ID: h.ID, Version: h.Version, Object: o}
	if h.Version != 0 {
		ch.Action = file.Change
	}
	same, err := c.settle(ctx, tx, &ch)
	if err != nil || same {
		return found, false, err
	}
	found, err = c.apply(ctx, tx, []file.ObjectChange{ch}, by)
	return found, err == nil, err
}

// settle compares a change of one object with what is stored. It reports whether
// that is so already, and then completes the object.
func (c *Catalog) settle(ctx context.Context, tx *db.Tx, ch *file.ObjectChange) (same bool, err error) {
	const op = "catalog.Put"
	old, err := Get(ctx, tx, ch.Kind, ch.Name)
	switch {
	case errs.Is(err, errs.NotFound):
		if ch.Action == file.Change {
			return false, err
		}
		return false, nil
	case err != nil:
		return false, err
	}
	h := old.Object.Head()
	if ch.ID.IsZero() || ch.ID == h.ID {
		was, err := encode(old.Object)
		if err != nil {
			return false, err
		}
		is, err := encode(ch.Object)
		if err != nil {
			return false, err
		}
		if was == is {
			*ch.Object.Head() = *h
			return true, nil
		}
	}
	if ch.Action == file.Create {
		return false, errs.New(op, errs.Exists, site.Label(old.Object), "there is one of this name").
			WithRemedy("choose another name; or read it, and send its version with your change")
	}
	return false, checkVersion(op, old, ch.ID, ch.Version)
}

// checkVersion refuses who did not read what is stored now.
func checkVersion(op string, old Stored, id dr.UUID, v site.Version) error {
	h := old.Object.Head()
	if h.Version == v && (id.IsZero() || id == h.ID) {
		return nil
	}
	what := fmt.Sprintf("you read version %d, now it is %d, by %s", v, h.Version, old.By)
	if !id.IsZero() && id != h.ID {
		what = "it was deleted, and another one of its name made"
	}
	return errs.E(op, errs.Conflict, site.Label(old.Object), fmt.Errorf("%w: %s", ErrStale, what)).
		WithRemedy("read it again, and make your change there")
}

// Delete deletes an object; version 0: whatever version it has. It returns whether
// it was there: to delete what is gone is no error. Kinds: Conflict (ErrStale;
// others name it; a guard).
func (c *Catalog) Delete(ctx context.Context, tx *db.Tx, k site.Kind, n site.Name, id dr.UUID, v site.Version, by string) (bool, error) {
	if err := Turn(ctx, tx); err != nil {
		return false, err
	}
	old, err := Get(ctx, tx, k, n)
	if errs.Is(err, errs.NotFound) && file.New(k) != nil {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if v != 0 {
		if err := checkVersion("catalog.Delete", old, id, v); err != nil {
			return false, err
		}
	}
	h := old.Object.Head()
	_, err = c.apply(ctx, tx, []file.ObjectChange{{Action: file.Delete, Kind: k, Name: n, ID: h.ID, Version: h.Version}}, by)
	return err == nil, err
}

// Diff says what applying wanted objects would change, and what is wrong with the
// outcome. What keep does not keep is as if it were not there; nil keeps all. Kinds:
// Invalid, Conflict, as file.Diff.
func (c *Catalog) Diff(ctx context.Context, tx *db.Tx, wanted []site.Object, prune bool, keep func(site.Object) bool) (*file.Changes, problem.List, error) {
	current, err := All(ctx, tx)
	if err != nil {
		return nil, problem.List{}, err
	}
	var compared []site.Object
	for _, o := range current {
		if keep == nil || keep(o) {
			compared = append(compared, o)
		}
	}
	changes, err := file.Diff(compared, wanted, prune)
	if err != nil {
		return nil, problem.List{}, err
	}
	found, err := c.check(ctx, tx, current, changes.All)
	return changes, found, err
}

// Apply carries out what Diff says, all of it or nothing. Objects that were changed
// since then are a Conflict with ErrStale. It returns what is wrong with the outcome
// that does not keep it from being stored. Kinds as of Put and Delete.
func (c *Catalog) Apply(ctx context.Context, tx *db.Tx, changes *file.Changes, by string) (problem.List, error) {
	if len(changes.All) == 0 {
		return problem.List{}, nil
	}
	if err := Turn(ctx, tx); err != nil {
		return problem.List{}, err
	}
	for _, ch := range changes.All {
		old, err := Get(ctx, tx, ch.Kind, ch.Name)
		switch {
		case errs.Is(err, errs.NotFound) && ch.Action == file.Create:
		case errs.Is(err, errs.NotFound):
			return problem.List{}, errs.E("catalog.Apply", errs.Conflict, string(ch.Kind)+" "+string(ch.Name), fmt.Errorf("%w: it was deleted", ErrStale)).
				WithRemedy("compare again")
		case err != nil:
			return problem.List{}, err
		case ch.Action == file.Create:
			return problem.List{}, errs.E("catalog.Apply", errs.Conflict, string(ch.Kind)+" "+string(ch.Name), fmt.Errorf("%w: it was made", ErrStale)).
				WithRemedy("compare again")
		default:
			if err := checkVersion("catalog.Apply", old, ch.ID, ch.Version); err != nil {
				return problem.List{}, err
			}
		}
	}
	return c.apply(ctx, tx, changes.All, by)
}

// check returns what is wrong with the outcome of changes: all problems of the
// objects that change, and of others what blocks.
func (c *Catalog) check(ctx context.Context, tx *db.Tx, current []site.Object, changes []file.ObjectChange) (found problem.List, err error) {
	var views map[site.Name]*site.View
	if c.Views != nil {
		if views, err = c.Views(ctx, tx); err != nil {
			return found, err
		}
	}
	after := outcome(current, changes)
	var was, is problem.List
	site.CheckSet(&was, current, views)
	site.CheckSet(&is, after, views)
	touched := map[string]bool{}
	for _, ch := range changes {
		touched[string(ch.Kind)+" "+string(ch.Name)] = true
	}
	before := map[problem.Problem]bool{}
	for _, p := range was.All {
		before[p] = true
	}
	for _, p := range is.All {
		// What is wrong with others, and was before, is not this change's: a VM that
		// its platform has lost must not keep everything else from being changed.
		if touched[p.Object] || !before[p] && p.Severity == problem.Blocker {
			found.Add(p)
		}
	}
	found.More += is.More
	return found, nil
}

// outcome is what there is after changes. Nothing it is given is changed.
func outcome(current []site.Object, changes []file.ObjectChange) []site.Object {
	by := map[string]*file.ObjectChange{}
	for i := range changes {
		by[string(changes[i].Kind)+" "+string(changes[i].Name)] = &changes[i]
	}
	var after []site.Object
	for _, o := range current {
		if by[site.Label(o)] == nil {
			after = append(after, o)
		}
	}
	for i := range changes {
		if changes[i].Action != file.Delete {
			after = append(after, changes[i].Object)
		}
	}
	site.SortObjects(after)
	return after
}

// apply checks and stores changes whose versions are right. The caller has the turn.
func (c *Catalog) apply(ctx context.Context, tx *db.Tx, changes []file.ObjectChange, by string) (problem.List, error) {
	current, err := concerned(ctx, tx, changes)
	if err != nil {
		return problem.List{}, err
	}
	if err := room(ctx, tx, changes); err != nil {
		return problem.List{}, err
	}
	for _, ch := range changes {
		if ch.Action == file.Delete {
			if err := unreferenced(ctx, tx, changes, ch); err != nil {
				return problem.List{}, err
			}
		}
	}
	found, err := c.check(ctx, tx, current, changes)
	if err != nil {
		return found, err
	}
	if found.Blocked() {
		return found, found.Err("catalog.Put")
	}
	old := map[string]site.Object{}
	for _, o := range current {
		old[site.Label(o)] = o
	}
	for _, g := range c.Guards {
		for _, ch := range changes {
			if err := g(ctx, tx, old[string(ch.Kind)+" "+string(ch.Name)], ch.Object); err != nil {
				return found, err
			}
		}
	}
	return found, store(ctx, tx, changes, old, by)
}

// unreferenced refuses to delete what others name, and says who does.
func unreferenced(ctx context.Context, tx *db.Tx, changes []file.ObjectChange, gone file.ObjectChange) error {
	label := string(gone.Kind) + " " + string(gone.Name)
	named, err := Referrers(ctx, tx, gone.Kind, gone.Name, MaxObjects)
	if err != nil {
		return err
	}
	users := map[string]bool{}
	for _, l := range named {
		users[l] = true
	}
	for _, ch := range changes { // these name what they will
		self := string(ch.Kind) + " " + string(ch.Name)
		delete(users, self)
		if ch.Action == file.Delete {
			continue
		}
		for _, r := range site.References(ch.Object) {
			if r.Kind == gone.Kind && r.Name == gone.Name {
				users[self] = true
			}
		}
	}
	if len(users) == 0 {
		return nil
	}
	words := slices.Sorted(maps.Keys(users))
	if len(words) > 10 {
		words = append(words[:10], fmt.Sprintf("%d more", len(words)-10))
	}
	return errs.New("catalog.Delete", errs.Conflict, label, "it is used by "+strings.Join(words, ", ")).
		WithRemedy("change or delete those first")
}

// concerned returns the objects that say whether changes are right. Sites, stores,
// appliances and domains bear on each other; of the other kinds, which are the many,
// an object bears on nothing but itself.
func concerned(ctx context.Context, tx *db.Tx, changes []file.ObjectChange) ([]site.Object, error) {
	set := []site.Kind{site.KindSite, site.KindPair, site.KindStore, site.KindBox, site.KindDomain}
	all, err := All(ctx, tx, set...)
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, o := range all {
		have[site.Label(o)] = true
	}
	add := func(k site.Kind, n site.Name) error {
		if slices.Contains(set, k) || n == "" || have[string(k)+" "+string(n)] {
			return nil
		}
		s, err := Get(ctx, tx, k, n)
		if errs.Is(err, errs.NotFound) {
			return nil
		}
		if err == nil {
			have[site.Label(s.Object)] = true
			all = append(all, s.Object)
		}
		return err
	}
	for _, ch := range changes {
		if err := add(ch.Kind, ch.Name); err != nil {
			return nil, err
		}
		if ch.Action == file.Delete {
			continue
		}
		for _, r := range site.References(ch.Object) {
			if err := add(r.Kind, r.Name); err != nil {
				return nil, err
			}
		}
	}
	// What those name is theirs alone: it has been checked when they were stored.
	return all, nil
}

// room refuses more objects than can be.
func room(ctx context.Context, tx *db.Tx, changes []file.ObjectChange) error {
	var n int
	if _, err := tx.Row(ctx, `SELECT count(*) FROM objects`, nil, &n); err != nil {
		return err
	}
	for _, ch := range changes {
		switch ch.Action {
		case file.Create:
			n++
		case file.Delete:
			n--
		case file.Change:
		}
	}
	if n <= MaxObjects {
		return nil
	}
	return errs.New("catalog.Apply", errs.Full, "", fmt.Sprintf("there would be %d objects", n)).
		WithRemedy(fmt.Sprintf("at most %d can be stored", MaxObjects))
}

// store writes the rows. Names that lead from changed objects go first and come
// last, so that what is deleted is named by nothing, and what is named is there.
func store(ctx context.Context, tx *db.Tx, changes []file.ObjectChange, old map[string]site.Object, by string) error {
	var lines []Change
	for _, ch := range changes {
		if _, err := tx.Exec(ctx, `DELETE FROM object_refs WHERE kind = $1 AND name = $2`, string(ch.Kind), string(ch.Name)); err != nil {
			return err
		}
	}
	for _, ch := range changes {
		line := Change{Kind: string(ch.Kind), Name: string(ch.Name), Action: string(ch.Action), By: by}
		if was := old[string(ch.Kind)+" "+string(ch.Name)]; was != nil {
			line.Folder = was.Head().Folder
		}
		if ch.Action == file.Delete {
			if _, err := tx.Exec(ctx, `DELETE FROM objects WHERE kind = $1 AND name = $2`, string(ch.Kind), string(ch.Name)); err != nil {
				return err
			}
			lines = append(lines, line)
			continue
		}
		if err := write(ctx, tx, ch, by); err != nil {
			return err
		}
		if to := ch.Object.Head().Folder; to != line.Folder && ch.Action == file.Change {
			gone := line // who may see the old folder alone sees it go
			gone.Action = string(file.Delete)
			lines = append(lines, gone)
		}
		line.Folder = ch.Object.Head().Folder
		lines = append(lines, line)
	}
	for _, ch := range changes {
		if ch.Action == file.Delete {
			continue
		}
		for _, r := range site.References(ch.Object) {
			if r.Name == "" {
				continue
			}
			if _, err := tx.Exec(ctx, `INSERT INTO object_refs (kind, name, field, to_kind, to_name) VALUES ($1, $2, $3, $4, $5)`,
				string(ch.Kind), string(ch.Name), r.Field, string(r.Kind), string(r.Name)); err != nil {
				return err
			}
		}
	}
	return NoteAll(ctx, tx, lines)
}

// write stores one object and completes its head.
func write(ctx context.Context, tx *db.Tx, ch file.ObjectChange, by string) error {
	h := ch.Object.Head()
	body, err := encode(ch.Object)
	if err != nil {
		return err
	}
	by = db.Text(by, maxWord)
	if ch.Action == file.Create {
		id := dr.NewUUID()
		if _, err := tx.Exec(ctx, `INSERT INTO objects (kind, name, id, version, folder, body, changed_at, changed_by) VALUES ($1, $2, $3, 1, $4, $5, $6, $7)`,
			string(ch.Kind), string(ch.Name), id.String(), string(h.Folder), body, tx.Now(), by); err != nil {
			return err
		}
		h.ID, h.Version = id, 1
		return nil
	}
	var id string
	var version uint64
	found, err := tx.Row(ctx, `UPDATE objects SET version = version + 1, folder = $3, body = $4, changed_at = $5, changed_by = $6
		WHERE kind = $1 AND name = $2 RETURNING id, version`, []any{string(ch.Kind), string(ch.Name), string(h.Folder), body, tx.Now(), by}, &id, &version)
	if err == nil && !found {
		err = noObject("catalog.Put", ch.Kind, ch.Name)
	}
	if err != nil {
		return err
	}
	h.Version = site.Version(version)
	return h.ID.UnmarshalText([]byte(id))
}
