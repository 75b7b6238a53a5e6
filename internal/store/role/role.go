package role

import (
	"context"
	"maps"
	"sync"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Role names a set of rights. The zero Role has none.
type Role string

// The roles.
const (
	Publisher  Role = "publisher"  // create, lock while creating, read, list
	Maintainer Role = "maintainer" // and delete, and extend locks
	Recovery   Role = "recovery"   // read, list
)

// Op names an operation of store.Store or store.Locker.
type Op string

// The operations. Stat and ReadLock count as reads of their own.
const (
	Create       Op = "create"
	Read         Op = "read"
	Stat         Op = "stat"
	List         Op = "list"
	Delete       Op = "delete"
	CreateLocked Op = "create locked"
	ExtendLock   Op = "extend lock"
	ReadLock     Op = "read lock"
)

// rights are the operations of each role.
var rights = map[Role]map[Op]bool{
	Publisher:  {Create: true, CreateLocked: true, Read: true, Stat: true, List: true, ReadLock: true},
	Maintainer: {Create: true, CreateLocked: true, Read: true, Stat: true, List: true, ReadLock: true, Delete: true, ExtendLock: true},
	Recovery:   {Read: true, Stat: true, List: true, ReadLock: true},
}

// Store is a store with the rights of a role. Safe for concurrent use.
type Store struct {
	inner store.Store
	role  Role

	mu      sync.Mutex
	refused map[Op]int // guarded by mu
}

var (
	_ store.Store        = (*Store)(nil)
	_ store.Locker       = (*Store)(nil)
	_ store.BatchDeleter = (*Store)(nil)
)

// New returns inner with the rights of role.
func New(inner store.Store, role Role) *Store {
	return &Store{inner: inner, role: role, refused: map[Op]int{}}
}

// Unwrap returns the store beneath, with all its rights.
func (s *Store) Unwrap() store.Store { return s.inner }

// Refused returns how often each operation was refused; operations that never
// were are absent.
func (s *Store) Refused() map[Op]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.refused)
}

// allow refuses op on key unless the role may.
func (s *Store) allow(op Op, key string) error {
	if rights[s.role][op] {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[op]++
	return errs.New("role."+string(op), errs.Denied, key, "the role "+string(s.role)+" may not "+string(op))
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	if err := s.allow(Create, key); err != nil {
		return err
	}
	return s.inner.Create(ctx, key, body)
}

// ReadRange implements store.Store.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if err := s.allow(Read, key); err != nil {
		return 0, err
	}
	return s.inner.ReadRange(ctx, key, p, off)
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	if err := s.allow(Stat, key); err != nil {
		return store.Info{}, err
	}
	return s.inner.Stat(ctx, key)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	if err := s.allow(List, prefix); err != nil {
		return nil, err
	}
	return s.inner.List(ctx, prefix, after, limit)
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.allow(Delete, key); err != nil {
		return err
	}
	return s.inner.Delete(ctx, key)
}

// DeleteBatch implements store.BatchDeleter.
func (s *Store) DeleteBatch(ctx context.Context, keys []string) []error {
	if !rights[s.role][Delete] {
		return store.DeleteEach(ctx, s, keys) // each is refused, and counted
	}
	return store.DeleteAll(ctx, s.inner, keys)
}

// Capabilities implements store.Store. A driver does not know what its
// credentials may do before it tries, so what the store can do is left as it
// is.
func (s *Store) Capabilities() store.Capabilities { return s.inner.Capabilities() }

// CreateLocked implements store.Locker.
func (s *Store) CreateLocked(ctx context.Context, key string, body []byte, lock store.Lock) error {
	if err := s.allow(CreateLocked, key); err != nil {
		return err
	}
	l, err := store.LockerOf("role.CreateLocked", key, s.inner)
	if err != nil {
		return err
	}
	return l.CreateLocked(ctx, key, body, lock)
}

// ExtendLock implements store.Locker.
func (s *Store) ExtendLock(ctx context.Context, key string, lock store.Lock) error {
	if err := s.allow(ExtendLock, key); err != nil {
		return err
	}
	l, err := store.LockerOf("role.ExtendLock", key, s.inner)
	if err != nil {
		return err
	}
	return l.ExtendLock(ctx, key, lock)
}

// ReadLock implements store.Locker.
func (s *Store) ReadLock(ctx context.Context, key string) (store.Lock, error) {
	if err := s.allow(ReadLock, key); err != nil {
		return store.Lock{}, err
	}
	l, err := store.LockerOf("role.ReadLock", key, s.inner)
	if err != nil {
		return store.Lock{}, err
	}
	return l.ReadLock(ctx, key)
}
