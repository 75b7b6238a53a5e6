// Package meter counts what is asked of a store and what goes in and out:
// the numbers behind a store's bill, a link's load and most questions of
// "what is it doing". Wrap the driver itself, below package retry, so that
// repeated calls are counted as often as they cost.
package meter

import (
	"cmp"
	"context"
	"sync/atomic"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Counts are totals since the Store was made.
type Counts struct {
	Creates, Reads, Stats, Lists, Deletes uint64 // requests made; Creates with and without a lock, a batch of Deletes is one
	Locks                                 uint64 // locks read or extended
	Listed                                uint64 // objects listed
	Failed                                uint64 // requests that failed; Exists and NotFound are answers, not failures
	BytesIn                               uint64 // written by successful Creates
	BytesOut                              uint64 // read
}

// Requests is the number of requests of all sorts.
func (c Counts) Requests() uint64 {
	return c.Creates + c.Reads + c.Stats + c.Lists + c.Deletes + c.Locks
}

// Store counts the calls to another store. Safe for concurrent use.
type Store struct {
	inner                                        store.Store
	creates, reads, stats, lists, deletes, locks atomic.Uint64
	listed, failed, bytesIn, bytesOut            atomic.Uint64
}

var (
	_ store.Store        = (*Store)(nil)
	_ store.Locker       = (*Store)(nil)
	_ store.BatchDeleter = (*Store)(nil)
)

// New returns inner with its calls counted.
func New(inner store.Store) *Store { return &Store{inner: inner} }

// Counts returns the totals so far. While calls are under way the numbers may
// be of slightly different moments.
func (s *Store) Counts() Counts {
	return Counts{
		Creates: s.creates.Load(), Reads: s.reads.Load(), Stats: s.stats.Load(), Lists: s.lists.Load(), Deletes: s.deletes.Load(),
		Locks: s.locks.Load(), Listed: s.listed.Load(), Failed: s.failed.Load(), BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(),
	}
}

func (s *Store) note(requests *atomic.Uint64, err error) {
	requests.Add(1)
	if err != nil && !errs.Is(err, errs.Exists) && !errs.Is(err, errs.NotFound) {
		s.failed.Add(1)
	}
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	return s.created(body, s.inner.Create(ctx, key, body))
}

func (s *Store) created(body []byte, err error) error {
	s.note(&s.creates, err)
	if err == nil {
		s.bytesIn.Add(uint64(len(body)))
	}
	return err
}

// ReadRange implements store.Store.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	n, err := s.inner.ReadRange(ctx, key, p, off)
	s.note(&s.reads, err)
	s.bytesOut.Add(uint64(max(n, 0)))
	return n, err
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	info, err := s.inner.Stat(ctx, key)
	s.note(&s.stats, err)
	return info, err
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	page, err := s.inner.List(ctx, prefix, after, limit)
	s.note(&s.lists, err)
	s.listed.Add(uint64(len(page)))
	return page, err
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	err := s.inner.Delete(ctx, key)
	s.note(&s.deletes, err)
	return err
}

// DeleteBatch implements store.BatchDeleter. It counts as one request where
// the store beneath takes it as one.
func (s *Store) DeleteBatch(ctx context.Context, keys []string) []error {
	b, ok := s.inner.(store.BatchDeleter)
	if !ok {
		return store.DeleteEach(ctx, s, keys)
	}
	out := b.DeleteBatch(ctx, keys)
	s.note(&s.deletes, cmp.Or(out...))
	return out
}

// CreateLocked implements store.Locker.
func (s *Store) CreateLocked(ctx context.Context, key string, body []byte, lock store.Lock) error {
	l, err := store.LockerOf("meter.CreateLocked", key, s.inner)
	if err != nil {
		return err
	}
	return s.created(body, l.CreateLocked(ctx, key, body, lock))
}

// ExtendLock implements store.Locker.
func (s *Store) ExtendLock(ctx context.Context, key string, lock store.Lock) error {
	l, err := store.LockerOf("meter.ExtendLock", key, s.inner)
	if err != nil {
		return err
	}
	err = l.ExtendLock(ctx, key, lock)
	s.note(&s.locks, err)
	return err
}

// ReadLock implements store.Locker.
func (s *Store) ReadLock(ctx context.Context, key string) (store.Lock, error) {
	l, err := store.LockerOf("meter.ReadLock", key, s.inner)
	if err != nil {
		return store.Lock{}, err
	}
	lock, err := l.ReadLock(ctx, key)
	s.note(&s.locks, err)
	return lock, err
}

// Unwrap returns the store whose calls are counted.
func (s *Store) Unwrap() store.Store { return s.inner }

// Capabilities implements store.Store.
func (s *Store) Capabilities() store.Capabilities { return s.inner.Capabilities() }
