// Package mem is a store in memory, for tests and demonstrations. It keeps
// the whole contract of package store except surviving the process, and is as
// strict as the strictest driver: it refuses a key that is a directory of
// another.
package mem

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Store is a store.Store in memory. Safe for concurrent use; it never blocks
// for long. Its size is bounded by what is put in.
type Store struct {
	now func() time.Time // immutable; the store's clock

	mu      sync.RWMutex
	objects map[string]object // guarded by mu
	keys    []string          // of objects, sorted; guarded by mu
}

type object struct {
	body     []byte // never changed
	modified time.Time
	lock     store.Lock
}

// New returns an empty store.
func New() *Store { return NewAt(time.Now) }

// NewAt returns an empty store whose clock, which decides when locks run out,
// is now. It is called from any goroutine.
func NewAt(now func() time.Time) *Store { return &Store{now: now, objects: map[string]object{}} }

var (
	_ store.Store        = (*Store)(nil)
	_ store.Locker       = (*Store)(nil)
	_ store.BatchDeleter = (*Store)(nil)
)

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	return s.create(ctx, "mem.Create", key, body, store.Lock{})
}

func (s *Store) create(ctx context.Context, op, key string, body []byte, lock store.Lock) error {
	if err := store.CheckCreate(op, key, body); err != nil {
		return err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return err
	}
	o := object{slices.Clone(body), s.now().UTC(), lock}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.objects[key]; taken {
		return errs.New(op, errs.Exists, key, "the name is taken")
	}
	at := sort.SearchStrings(s.keys, key)
	if s.nestedLocked(key) {
		return errs.New(op, errs.Invalid, key, "one key would be a directory of another")
	}
	s.keys = slices.Insert(s.keys, at, key)
	s.objects[key] = o
	return nil
}

// nestedLocked reports whether key is a directory of an existing key or has
// one for its directory.
func (s *Store) nestedLocked(key string) bool {
	at := sort.SearchStrings(s.keys, key+"/")
	if at < len(s.keys) && strings.HasPrefix(s.keys[at], key+"/") {
		return true
	}
	for i := range key {
		if key[i] == '/' {
			if _, taken := s.objects[key[:i]]; taken {
				return true
			}
		}
	}
	return false
}

func (s *Store) get(ctx context.Context, op, key string) (object, error) {
	if err := store.Canceled(ctx, op, key); err != nil {
		return object{}, err
	}
	s.mu.RLock()
	o, ok := s.objects[key]
	s.mu.RUnlock()
	if !ok {
		return object{}, errs.New(op, errs.NotFound, key, "no such object")
	}
	return o, nil
}

// ReadRange implements store.Store.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	const op = "mem.ReadRange"
	if err := store.CheckRead(op, key, off); err != nil {
		return 0, err
	}
	o, err := s.get(ctx, op, key)
	if err != nil || off >= int64(len(o.body)) {
		return 0, err
	}
	return copy(p, o.body[off:]), nil
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	const op = "mem.Stat"
	if err := store.CheckKey(op, key); err != nil {
		return store.Info{}, err
	}
	o, err := s.get(ctx, op, key)
	if err != nil {
		return store.Info{}, err
	}
	return store.Info{Key: key, Size: int64(len(o.body)), Modified: o.modified}, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	const op = "mem.List"
	if err := store.CheckList(op, prefix, limit); err != nil {
		return nil, err
	}
	if err := store.Canceled(ctx, op, prefix); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var page []store.Info
	for i := sort.SearchStrings(s.keys, max(prefix, after)); i < len(s.keys) && len(page) < limit; i++ {
		key := s.keys[i]
		if !strings.HasPrefix(key, prefix) {
			break
		}
		if key > after {
			o := s.objects[key]
			page = append(page, store.Info{Key: key, Size: int64(len(o.body)), Modified: o.modified})
		}
	}
	return page, nil
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	const op = "mem.Delete"
	if err := store.CheckKey(op, key); err != nil {
		return err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, ok := s.objects[key]; ok {
		if s.now().Before(o.lock.Until) {
			return errs.E(op, errs.Denied, key, fmt.Errorf("locked (%s) until %s", o.lock.Mode, o.lock.Until.Format(time.RFC3339)))
		}
		delete(s.objects, key)
		at := sort.SearchStrings(s.keys, key)
		s.keys = slices.Delete(s.keys, at, at+1)
	}
	return nil
}

// DeleteBatch implements store.BatchDeleter.
func (s *Store) DeleteBatch(ctx context.Context, keys []string) []error {
	return store.DeleteEach(ctx, s, keys)
}

// Damage replaces an object's content, as a failing store would. For tests of
// who reads it; false when there is no such object.
func (s *Store) Damage(key string, change func(body []byte) []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if ok {
		s.objects[key] = object{change(slices.Clone(o.body)), o.modified, o.lock}
	}
	return ok
}

// Capabilities implements store.Store.
func (s *Store) Capabilities() store.Capabilities {
	return store.Capabilities{Name: "mem", CreateOnce: true, Delete: true, Lock: true}
}
