package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Delete implements store.Store; see the package comment for buckets that
// keep versions.
func (s *Store) Delete(ctx context.Context, key string) error {
	const op = "s3.Delete"
	if err := store.CheckKey(op, key); err != nil {
		return err
	}
	c, done, err := s.begin(ctx, op, key, 0)
	if err != nil {
		return err
	}
	defer done()
	if s.versions.Load() {
		return s.deleteVersions(ctx, c, op, key)
	}
	return s.deleted(ctx, op, key, s.core.RemoveObject(c, s.bucket, s.prefix+key, minio.RemoveObjectOptions{}))
}

// DeleteBatch implements store.BatchDeleter. Buckets that keep versions, and
// stores that do not know the request, go key by key.
func (s *Store) DeleteBatch(ctx context.Context, keys []string) []error {
	const op = "s3.DeleteBatch"
	if s.versions.Load() {
		return store.DeleteEach(ctx, s, keys)
	}
	out := make([]error, len(keys))
	place := make(map[string]int, len(keys)) // of what the store is asked to delete
	var ask []minio.ObjectInfo
	for i, key := range keys {
		if out[i] = store.CheckKey(op, key); out[i] == nil {
			place[s.prefix+key] = i
			ask = append(ask, minio.ObjectInfo{Key: s.prefix + key})
		}
	}
	if len(ask) == 0 {
		return out
	}
	if err := s.deleteMany(ctx, op, ask, place, out); errs.Is(err, errs.Invalid) || errs.Is(err, errs.Denied) {
		return store.DeleteEach(ctx, s, keys)
	} else if err != nil {
		for _, i := range place {
			out[i] = err
		}
	}
	return out
}

// deleteMany asks for many deletions at once and notes in out what came of
// each. The failure is of the request as a whole.
func (s *Store) deleteMany(ctx context.Context, op string, ask []minio.ObjectInfo, place map[string]int, out []error) error {
	c, done, err := s.begin(ctx, op, ask[0].Key, 0)
	if err != nil {
		return err
	}
	defer done()
	answers, err := s.core.RemoveObjectsWithIter(c, s.bucket, slices.Values(ask), minio.RemoveObjectsOptions{})
	if err != nil {
		return s.fail(ctx, op, ask[0].Key, err)
	}
	for a := range answers {
		i, asked := place[a.ObjectName]
		var answer minio.ErrorResponse
		if !asked || a.Err != nil && (!errors.As(a.Err, &answer) || answer.StatusCode != 0) {
			return s.fail(ctx, op, ask[0].Key, cmp.Or(a.Err, errUnasked)) // of no single key
		}
		out[i] = s.deleted(ctx, op, a.ObjectName, a.Err)
		delete(place, a.ObjectName)
	}
	if len(place) > 0 {
		return errs.E(op, errs.Transient, ask[0].Key, fmt.Errorf("the store says nothing of %d of %d keys", len(place), len(ask)))
	}
	return nil
}

var errUnasked = errors.New("the store answers for a key that nobody asked it to delete")

// deleted is the failure of a deletion; what is gone already is none.
func (s *Store) deleted(ctx context.Context, op, key string, err error) error {
	err = s.fail(ctx, op, key, err)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// deleteVersions removes all there is under key, the oldest first: whatever
// happens on the way, what readers see is the newest or nothing.
func (s *Store) deleteVersions(ctx, c context.Context, op, key string) error {
	ids, err := s.versionsOf(ctx, c, op, key)
	if err != nil {
		return err
	}
	for _, id := range slices.Backward(ids) {
		err := s.deleted(ctx, op, key, s.core.RemoveObject(c, s.bucket, s.prefix+key, minio.RemoveObjectOptions{VersionID: id}))
		if err != nil {
			return s.explainLocked(c, op, key, id, err)
		}
	}
	return nil
}

// versionsOf returns the versions and markers of a key, the newest first.
func (s *Store) versionsOf(ctx, c context.Context, op, key string) (ids []string, err error) {
	opts := minio.ListObjectsOptions{WithVersions: true, Recursive: true, Prefix: s.prefix + key, MaxKeys: versionPage}
	for o := range s.core.ListObjectsIter(c, s.bucket, opts) {
		if o.Err != nil {
			return nil, s.fail(ctx, op, key, o.Err)
		}
		if o.Key != s.prefix+key { // longer, and so behind
			break
		}
		if len(ids) == maxVersions {
			return nil, errs.E(op, errs.Invalid, key, fmt.Errorf("more than %d versions", maxVersions)).
				WithRemedy("find out who writes into the bucket; remove old versions with the store's own tools")
		}
		ids = append(ids, o.VersionID)
	}
	if c.Err() != nil { // the iteration ends without a word
		return nil, s.fail(ctx, op, key, context.Cause(c))
	}
	return ids, nil
}

// explainLocked tells a refusal that is a lock's from one of the credentials.
func (s *Store) explainLocked(c context.Context, op, key, id string, refused error) error {
	if !errs.Is(refused, errs.Denied) || !s.locks.Load() {
		return refused
	}
	lock, err := s.retention(c, key, id)
	if err != nil || lock.IsZero() { // of older versions some stores do not tell
		return errs.E(op, errs.Denied, key, refused).WithRemedy("wait for the lock's end if there is one; " + rightsRemedy)
	}
	return errs.E(op, errs.Denied, key, fmt.Errorf("locked (%s) until %s", lock.Mode, lock.Until.Format(time.RFC3339))).
		WithRemedy("wait for the lock's end")
}
