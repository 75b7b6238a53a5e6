package limit

import (
	"context"
	"sync/atomic"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/fair"
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
	inner    store.Store
	limiter  *Limiter
	up, down *party
	requests *fair.Member // slots for Creates; nil: no bound
}

var (
	_ store.Store        = (*Store)(nil)
	_ store.Locker       = (*Store)(nil)
	_ store.BatchDeleter = (*Store)(nil)
)

// New returns inner with its traffic limited by l.
func New(inner store.Store, l *Limiter) *Store { return NewShare(inner, l, 1, nil) }

// NewShare is New for one of several stores that share l: what is allowed goes
// to those that want it, by their weights where it does not suffice for all. A
// weight below 1 means 1. With requests, each Create under way has one of its
// slots, at the cost of its bytes.
func NewShare(inner store.Store, l *Limiter, weight int, requests *fair.Member) *Store {
	w := float64(max(weight, 1))
	return &Store{inner: inner, limiter: l, up: &party{weight: w}, down: &party{weight: w}, requests: requests}
}

// Unwrap returns the store beneath.
func (s *Store) Unwrap() store.Store { return s.inner }

// upload has create carried out once a body of n bytes may go.
func (s *Store) upload(ctx context.Context, op, key string, n int, create func() error) error {
	if err := s.limiter.up.take(ctx, s.up, n); err != nil {
		return errs.E(op, errs.Canceled, key, err)
	}
	if s.requests == nil {
		return create()
	}
	if err := s.requests.Take(ctx); err != nil {
		return errs.E(op, errs.Canceled, key, err)
	}
	defer s.requests.Give(float64(n))
	return create()
}

// Create implements store.Store. With kind Canceled from the wait, the store
// was not asked.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	return s.upload(ctx, "limit.Create", key, len(body), func() error { return s.inner.Create(ctx, key, body) })
}

// ReadRange implements store.Store. What it asked for and did not get is not
// counted.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if err := s.limiter.down.take(ctx, s.down, len(p)); err != nil {
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
	return s.upload(ctx, op, key, len(body), func() error { return l.CreateLocked(ctx, key, body, lock) })
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
