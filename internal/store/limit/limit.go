package limit

import (
	"context"
	"sync/atomic"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Limiter enforces a schedule on all stores made with it. Safe for concurrent
// use.
type Limiter struct {
	schedule atomic.Pointer[Schedule]
	up, down *bucket
}

// NewLimiter returns a limiter with a schedule.
func NewLimiter(s Schedule) *Limiter {
	l := &Limiter{}
	l.schedule.Store(&s)
	l.up = newBucket(func(now time.Time) (Rate, time.Time) {
		up, _, until := l.schedule.Load().At(now)
		return up, until
	})
	l.down = newBucket(func(now time.Time) (Rate, time.Time) {
		_, down, until := l.schedule.Load().At(now)
		return down, until
	})
	return l
}

// Set replaces the schedule, at once, also for calls that wait.
func (l *Limiter) Set(s Schedule) {
	l.schedule.Store(&s)
	l.up.wake()
	l.down.wake()
}

// Schedule returns the schedule in force.
func (l *Limiter) Schedule() Schedule { return *l.schedule.Load() }

// Rates returns what is allowed now.
func (l *Limiter) Rates() (up, down Rate) {
	up, down, _ = l.Schedule().At(time.Now())
	return up, down
}

// Store is a store whose traffic waits for a limiter. Safe for concurrent use.
type Store struct {
	inner   store.Store
	limiter *Limiter
}

var (
	_ store.Store        = (*Store)(nil)
	_ store.Locker       = (*Store)(nil)
	_ store.BatchDeleter = (*Store)(nil)
)

// New returns inner with its traffic limited by l.
func New(inner store.Store, l *Limiter) *Store { return &Store{inner: inner, limiter: l} }

// Unwrap returns the store beneath.
func (s *Store) Unwrap() store.Store { return s.inner }

// upload waits until a body of n bytes may go.
func (s *Store) upload(ctx context.Context, op, key string, n int) error {
	if err := s.limiter.up.take(ctx, n); err != nil {
		return errs.E(op, errs.Canceled, key, err)
	}
	return nil
}

// Create implements store.Store. With kind Canceled from the wait, the store
// was not asked.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	if err := s.upload(ctx, "limit.Create", key, len(body)); err != nil {
		return err
	}
	return s.inner.Create(ctx, key, body)
}

// ReadRange implements store.Store. What it asked for and did not get is not
// counted.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if err := s.limiter.down.take(ctx, len(p)); err != nil {
		return 0, errs.E("limit.ReadRange", errs.Canceled, key, err)
	}
	n, err := s.inner.ReadRange(ctx, key, p, off)
	s.limiter.down.refund(len(p) - max(n, 0))
	return n, err
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	return s.inner.Stat(ctx, key)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	return s.inner.List(ctx, prefix, after, limit)
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string) error { return s.inner.Delete(ctx, key) }

// DeleteBatch implements store.BatchDeleter.
func (s *Store) DeleteBatch(ctx context.Context, keys []string) []error {
	return store.DeleteAll(ctx, s.inner, keys)
}

// Capabilities implements store.Store.
func (s *Store) Capabilities() store.Capabilities { return s.inner.Capabilities() }

// CreateLocked implements store.Locker, limited as Create is.
func (s *Store) CreateLocked(ctx context.Context, key string, body []byte, lock store.Lock) error {
	const op = "limit.CreateLocked"
	l, err := store.LockerOf(op, key, s.inner)
	if err != nil {
		return err
	}
	if err := s.upload(ctx, op, key, len(body)); err != nil {
		return err
	}
	return l.CreateLocked(ctx, key, body, lock)
}

// ExtendLock implements store.Locker.
func (s *Store) ExtendLock(ctx context.Context, key string, lock store.Lock) error {
	l, err := store.LockerOf("limit.ExtendLock", key, s.inner)
	if err != nil {
		return err
	}
	return l.ExtendLock(ctx, key, lock)
}

// ReadLock implements store.Locker.
func (s *Store) ReadLock(ctx context.Context, key string) (store.Lock, error) {
	l, err := store.LockerOf("limit.ReadLock", key, s.inner)
	if err != nil {
		return store.Lock{}, err
	}
	return l.ReadLock(ctx, key)
}
