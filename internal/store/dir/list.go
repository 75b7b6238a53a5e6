package dir

import (
	"context"
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
	entries, err := durable.ReadDir(l.s.fs, l.s.path(dir))
	if errs.Is(err, errs.NotFound) || notDir(err) {
		return nil // never made, or removed since we saw it
	}
	if err != nil {
		return err
	}
	// In a flat list of keys a directory stands where its name with a slash
	// does: "a.b" comes before "a/c".
	for i := range entries {
		if entries[i].Dir {
			entries[i].Name += "/"
		}
	}
	slices.SortFunc(entries, func(a, b durable.Entry) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range entries {
		if len(l.page) == l.limit {
			return nil
		}
		key := dir + e.Name
		if e.Dir {
			err = l.enter(key)
		} else {
			l.add(key, e)
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

func (l *lister) add(key string, e durable.Entry) {
	if key > l.after && strings.HasPrefix(key, l.prefix) && store.CheckKey("", key) == nil {
		l.page = append(l.page, store.Info{Key: key, Size: e.Size, Modified: e.ModTime.UTC()})
	}
}
