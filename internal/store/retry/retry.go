// Package retry repeats calls to a store that failed for a passing reason. It
// is the one place that does: nothing above or below it retries.
//
// Only failures of kind Transient and Unavailable are repeated, after pauses
// that double up to a limit and vary at random, so that many appliances do
// not come back at the same moment. A call gives up when the caller's context
// ends or Options.Elapsed has passed, and then returns the last failure.
//
// # Create
//
// A Create that failed that way is ambiguous: the object may exist, or may
// appear later. When a later try then finds the name taken, the taker may be
// our own earlier try or somebody else, and this package cannot know: it
// returns kind Exists and never success. It does not compare content either,
// because what equal content means (a repeat, or two writers who agree) is
// the caller's to judge: read the object, and take it for one's own when it
// is. A failure that is returned after all tries leaves the same doubt.
package retry

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Options tune the pauses. Zero values mean the defaults.
type Options struct {
	First   time.Duration // pause after the first failure; 100 ms
	Most    time.Duration // longest pause; 10 s
	Elapsed time.Duration // no new try begins later than this after the call began; 2 min
	Logger  *slog.Logger  // told once when calls begin to fail and once when they succeed again; nil: nobody
}

const (
	defaultFirst   = 100 * time.Millisecond // a busy store's answer to "slow down"
	defaultMost    = 10 * time.Second       // an outage is noticed to be over this soon
	defaultElapsed = 2 * time.Minute        // longer ones are the caller's to live through: it keeps what it has
)

// Store repeats calls to another store. Safe for concurrent use.
type Store struct {
	inner  store.Store
	opts   Options
	ailing atomic.Bool
}

var (
	_ store.Store        = (*Store)(nil)
	_ store.Locker       = (*Store)(nil)
	_ store.BatchDeleter = (*Store)(nil)
)

// New returns inner with its passing failures repeated.
func New(inner store.Store, opts Options) *Store {
	if opts.First <= 0 {
		opts.First = defaultFirst
	}
	if opts.Most <= 0 {
		opts.Most = defaultMost
	}
	if opts.Elapsed <= 0 {
		opts.Elapsed = defaultElapsed
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Store{inner: inner, opts: opts}
}

// passing reports whether the same call may succeed when repeated.
func passing(err error) bool { return errs.Is(err, errs.Transient) || errs.Is(err, errs.Unavailable) }

// do calls try until it does not fail for a passing reason.
func (s *Store) do(ctx context.Context, op, key string, try func() error) error {
	began := time.Now()
	for tries := 1; ; tries++ {
		err := try()
		if !passing(err) {
			if !errs.Is(err, errs.Canceled) && s.ailing.CompareAndSwap(true, false) {
				s.opts.Logger.Info("store answers again")
			}
			return err
		}
		if s.ailing.CompareAndSwap(false, true) {
			s.opts.Logger.Warn("store call failed, will be repeated", "op", op, "object", key, "err", err)
		}
		pause := s.pause(tries)
		if time.Since(began)+pause > s.opts.Elapsed {
			return errs.E(op, errs.Internal, key, fmt.Errorf("gave up after %d tries: %w", tries, err))
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errs.E(op, errs.Canceled, key, fmt.Errorf("%w after %d tries; the last: %w", context.Cause(ctx), tries, err))
		}
	}
}

// pause is the wait after a number of tries: between half and all of First
// doubled for each but one.
func (s *Store) pause(tries int) time.Duration {
	full := s.opts.First
	for range tries - 1 {
		if full >= s.opts.Most/2 {
			full = s.opts.Most
			break
		}
		full *= 2
	}
	full = min(full, s.opts.Most)
	return full - rand.N(full/2+1)
}

// Create implements store.Store; see the package comment for what Exists
// means here.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	return s.do(ctx, "retry.Create", key, func() error { return s.inner.Create(ctx, key, body) })
}

// ReadRange implements store.Store.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	err = s.do(ctx, "retry.ReadRange", key, func() error {
		n, err = s.inner.ReadRange(ctx, key, p, off)
		return err
	})
	return n, err
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (info store.Info, err error) {
	err = s.do(ctx, "retry.Stat", key, func() error {
		info, err = s.inner.Stat(ctx, key)
		return err
	})
	return info, err
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) (page []store.Info, err error) {
	err = s.do(ctx, "retry.List", prefix, func() error {
		page, err = s.inner.List(ctx, prefix, after, limit)
		return err
	})
	return page, err
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	return s.do(ctx, "retry.Delete", key, func() error { return s.inner.Delete(ctx, key) })
}

// DeleteBatch implements store.BatchDeleter. Only the keys that failed for a
// passing reason are tried again.
func (s *Store) DeleteBatch(ctx context.Context, keys []string) []error {
	out := make([]error, len(keys))
	left := make([]int, len(keys)) // places in keys
	for i := range left {
		left[i] = i
	}
	err := s.do(ctx, "retry.DeleteBatch", keys[0], func() (failed error) {
		batch := make([]string, len(left))
		for i, at := range left {
			batch[i] = keys[at]
		}
		var again []int
		for i, err := range store.DeleteAll(ctx, s.inner, batch) {
			at := left[i]
			if out[at] = err; passing(err) {
				again, failed = append(again, at), err
			}
		}
		left = again
		return failed
	})
	for _, at := range left {
		out[at] = err
	}
	return out
}

// CreateLocked implements store.Locker; what the package comment says of
// Create holds for it too.
func (s *Store) CreateLocked(ctx context.Context, key string, body []byte, lock store.Lock) error {
	const op = "retry.CreateLocked"
	l, err := store.LockerOf(op, key, s.inner)
	if err != nil {
		return err
	}
	return s.do(ctx, op, key, func() error { return l.CreateLocked(ctx, key, body, lock) })
}

// ExtendLock implements store.Locker.
func (s *Store) ExtendLock(ctx context.Context, key string, lock store.Lock) error {
	const op = "retry.ExtendLock"
	l, err := store.LockerOf(op, key, s.inner)
	if err != nil {
		return err
	}
	return s.do(ctx, op, key, func() error { return l.ExtendLock(ctx, key, lock) })
}

// ReadLock implements store.Locker.
func (s *Store) ReadLock(ctx context.Context, key string) (lock store.Lock, err error) {
	const op = "retry.ReadLock"
	l, err := store.LockerOf(op, key, s.inner)
	if err != nil {
		return store.Lock{}, err
	}
	err = s.do(ctx, op, key, func() error {
		lock, err = l.ReadLock(ctx, key)
		return err
	})
	return lock, err
}

// Unwrap returns the store whose calls are repeated.
func (s *Store) Unwrap() store.Store { return s.inner }

// Capabilities implements store.Store.
func (s *Store) Capabilities() store.Capabilities { return s.inner.Capabilities() }
