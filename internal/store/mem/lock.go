package mem

import (
	"context"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// CreateLocked implements store.Locker.
func (s *Store) CreateLocked(ctx context.Context, key string, body []byte, lock store.Lock) error {
	const op = "mem.CreateLocked"
	if err := s.checkLock(op, key, lock); err != nil {
		return err
	}
	return s.create(ctx, op, key, body, lock)
}

// checkLock checks a lock and that it ends in the future, as S3 does.
func (s *Store) checkLock(op, key string, lock store.Lock) error {
	if err := store.CheckLock(op, key, lock); err != nil {
		return err
	}
	if !lock.Until.After(s.now()) {
		return errs.New(op, errs.Invalid, key, "the lock ends in the past")
	}
	return nil
}

// ExtendLock implements store.Locker.
func (s *Store) ExtendLock(ctx context.Context, key string, lock store.Lock) error {
	const op = "mem.ExtendLock"
	if err := store.CheckKey(op, key); err != nil {
		return err
	}
	if err := store.CheckLock(op, key, lock); err != nil {
		return err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if !ok {
		return errs.New(op, errs.NotFound, key, "no such object")
	}
	longer := o.lock.Extended(lock)
	if longer.Equal(o.lock) {
		return nil
	}
	if err := s.checkLock(op, key, longer); err != nil {
		return err
	}
	o.lock = longer
	s.objects[key] = o
	return nil
}

// ReadLock implements store.Locker.
func (s *Store) ReadLock(ctx context.Context, key string) (store.Lock, error) {
	const op = "mem.ReadLock"
	if err := store.CheckKey(op, key); err != nil {
		return store.Lock{}, err
	}
	o, err := s.get(ctx, op, key)
	return o.lock, err
}
