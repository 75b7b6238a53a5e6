package s3

import (
	"context"
	"encoding/xml"
	"errors"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// modeOf is a mode as the store spells it, in our words.
func modeOf(mode minio.RetentionMode) store.LockMode {
	return store.LockMode(strings.ToLower(string(mode)))
}

func retentionMode(mode store.LockMode) minio.RetentionMode {
	return minio.RetentionMode(strings.ToUpper(string(mode)))
}

// wholeSecond is the lock as the store keeps it: not a moment shorter.
func wholeSecond(lock store.Lock) store.Lock {
	whole := lock.Until.UTC().Truncate(time.Second)
	if whole.Before(lock.Until) {
		whole = whole.Add(time.Second)
	}
	return store.Lock{Mode: lock.Mode, Until: whole}
}

func (s *Store) checkLocks(op, key string) error {
	if s.locks.Load() {
		return nil
	}
	return errs.New(op, errs.Invalid, key, "the bucket has no Object Lock").WithRemedy(lockRemedy)
}

// CreateLocked implements store.Locker with one request.
func (s *Store) CreateLocked(ctx context.Context, key string, body []byte, lock store.Lock) error {
	const op = "s3.CreateLocked"
	if err := store.CheckCreate(op, key, body); err != nil {
		return err
	}
	if err := store.CheckLock(op, key, lock); err != nil {
		return err
	}
	if err := s.checkLocks(op, key); err != nil {
		return err
	}
	lock = wholeSecond(lock)
	return s.put(ctx, op, key, body, md5Of(body), minio.PutObjectOptions{Mode: retentionMode(lock.Mode), RetainUntilDate: lock.Until})
}

// ExtendLock implements store.Locker with two requests: a look at what there
// is, and, when that is less, the new lock. The store itself refuses to
// shorten, so two that extend at the same time cannot undo each other.
func (s *Store) ExtendLock(ctx context.Context, key string, lock store.Lock) error {
	const op = "s3.ExtendLock"
	if err := store.CheckKey(op, key); err != nil {
		return err
	}
	if err := store.CheckLock(op, key, lock); err != nil {
		return err
	}
	lock = wholeSecond(lock)
	now, err := s.readLock(ctx, op, key)
	if err != nil {
		return err
	}
	longer := now.Extended(lock)
	if longer.Equal(now) {
		return nil
	}
	c, done, err := s.begin(ctx, op, key, 0)
	if err != nil {
		return err
	}
	defer done()
	mode := retentionMode(longer.Mode)
	err = s.fail(ctx, op, key, s.core.PutObjectRetention(c, s.bucket, s.prefix+key,
		minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &longer.Until}))
	if errs.Is(err, errs.Denied) {
		// Somebody may have gone further in between.
		if now, rerr := s.readLock(ctx, op, key); rerr == nil && now.Extended(lock).Equal(now) {
			return nil
		}
	}
	return err
}

// ReadLock implements store.Locker.
func (s *Store) ReadLock(ctx context.Context, key string) (store.Lock, error) {
	const op = "s3.ReadLock"
	if err := store.CheckKey(op, key); err != nil {
		return store.Lock{}, err
	}
	return s.readLock(ctx, op, key)
}

func (s *Store) readLock(ctx context.Context, op, key string) (store.Lock, error) {
	if err := s.checkLocks(op, key); err != nil {
		return store.Lock{}, err
	}
	c, done, err := s.begin(ctx, op, key, 0)
	if err != nil {
		return store.Lock{}, err
	}
	defer done()
	lock, err := s.retention(c, key, "")
	if err != nil {
		return store.Lock{}, s.fail(ctx, op, key, err)
	}
	switch lock.Mode {
	case "", store.LockGovernance, store.LockCompliance:
		return lock, nil
	}
	return store.Lock{}, errs.New(op, errs.Corrupt, key, "the store answered with a lock of no known mode")
}

// retention asks for the lock of an object's version; empty: of the newest.
// Errors are the SDK's.
func (s *Store) retention(c context.Context, key, version string) (store.Lock, error) {
	mode, until, err := s.core.GetObjectRetention(c, s.bucket, s.prefix+key, version)
	var decoding xml.UnmarshalError
	switch {
	case errors.As(err, &decoding):
		// The store answers in words that the SDK does not take. That it does
		// answer means that its header may be believed, which leaves a lock
		// out when the right to see it is missing.
		return s.retentionInHeader(c, key, version)
	case noLock(err):
		return store.Lock{}, nil
	case err != nil:
		return store.Lock{}, err
	case mode == nil || *mode == "" || until == nil:
		return store.Lock{}, nil
	}
	return store.Lock{Mode: modeOf(*mode), Until: until.UTC()}, nil
}

func (s *Store) retentionInHeader(c context.Context, key, version string) (store.Lock, error) {
	info, err := s.core.StatObject(c, s.bucket, s.prefix+key, minio.StatObjectOptions{VersionID: version})
	if err != nil {
		return store.Lock{}, err
	}
	mode, until := info.Metadata.Get("X-Amz-Object-Lock-Mode"), info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")
	if mode == "" && until == "" {
		return store.Lock{}, nil
	}
	end, err := time.Parse(time.RFC3339, until)
	if err != nil {
		return store.Lock{}, err
	}
	return store.Lock{Mode: modeOf(minio.RetentionMode(mode)), Until: end.UTC()}, nil
}
