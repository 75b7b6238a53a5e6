package dir

import (
	"context"
	"os"
	"path"
	"slices"
	"strings"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// List implements store.Store. It reads the directories the answer lies in
// and no others.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	const op = "dir.List"
	if err := store.CheckList(op, prefix, limit); err != nil {
		return nil, err
	}
	l := lister{s: s, ctx: ctx, prefix: prefix, after: after, limit: limit}
	start, _ := path.Split(prefix)
	if err := l.list(start); err != nil {
		if errs.Is(err, errs.Canceled) {
			return nil, err
		}
		return nil, s.explain(op, prefix, err)
	}
	if len(l.page) == 0 { // nothing there, or nothing mounted
		if err := s.gone(op, prefix, nil); errs.Is(err, errs.Unavailable) {
			return nil, err
		}
	}
	return l.page, nil
}

// lister is one List under way.
type lister struct {
	s             *Store
	ctx           context.Context // of this call only
	prefix, after string
	limit         int
	page          []store.Info
}

// list adds what lies below the directory of keys that begin with dir, "" or
// ending in a slash.
func (l *lister) list(dir string) error {
	if err := store.Canceled(l.ctx, "dir.List", dir); err != nil {
		return err
	}
	names, err := l.s.names(l.s.path(dir))
	if errs.Is(err, errs.NotFound) || notDir(err) {
		return nil // never made, or removed since we saw it
	}
	if err != nil {
		return err
	}
	// In a flat list of keys a directory stands where its name with a slash
	// does: "a.b" comes before "a/c".
	for i := range names {
		if names[i].dir {
			names[i].name += "/"
		}
	}
	slices.SortFunc(names, func(a, b name) int { return strings.Compare(a.name, b.name) })
	for _, n := range names {
		if len(l.page) == l.limit {
			return nil
		}
		key := dir + n.name
		if n.dir {
			err = l.enter(key)
		} else {
			err = l.add(key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// enter lists a directory unless nothing of it can be in the answer.
func (l *lister) enter(key string) error {
	if !strings.HasPrefix(key, l.prefix) && !strings.HasPrefix(l.prefix, key) {
		return nil
	}
	if l.after >= key && !strings.HasPrefix(l.after, key) {
		return nil // all of it sorts before after
	}
	if store.CheckKey("", strings.TrimSuffix(key, "/")) != nil {
		return nil // not ours: lost+found and the like
	}
	return l.list(key)
}

// add puts an object into the answer if it belongs there and still exists.
func (l *lister) add(key string) error {
	if key <= l.after || !strings.HasPrefix(key, l.prefix) || store.CheckKey("", key) != nil {
		return nil
	}
	e, err := l.s.fs.Stat(l.s.path(key))
	if errs.Is(err, errs.NotFound) || err == nil && e.Dir {
		return nil // removed since we saw its name, or a link to a directory
	}
	if err != nil {
		return err
	}
	l.page = append(l.page, store.Info{Key: key, Size: e.Size, Modified: e.ModTime.UTC()})
	return nil
}

// name is one entry of a directory.
type name struct {
	name string
	dir  bool
}

// osNames reads a real directory without asking for the size of each file:
// of the 17 000 objects of a day, a page shows a thousand.
func osNames(dir string) ([]name, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, durable.Wrap("dir.List", dir, err)
	}
	names := make([]name, len(list))
	for i, e := range list {
		names[i] = name{e.Name(), e.IsDir()}
	}
	return names, nil
}

// fsNames does the same over any other file system.
func fsNames(fs durable.FS) func(dir string) ([]name, error) {
	return func(dir string) ([]name, error) {
		list, err := fs.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		names := make([]name, len(list))
		for i, e := range list {
			names[i] = name{e.Name, e.Dir}
		}
		return names, nil
	}
}
