package s3

import (
	"context"
	"fmt"
	"strings"

	"github.com/minio/minio-go/v7"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// List implements store.Store. Objects in the bucket whose names are no keys
// are somebody else's and not listed.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	const op = "s3.List"
	if err := store.CheckList(op, prefix, limit); err != nil {
		return nil, err
	}
	c, done, err := s.begin(ctx, op, prefix, 0)
	if err != nil {
		return nil, err
	}
	defer done()
	start, none := startAfter(prefix, after)
	if none {
		return nil, nil
	}
	if start != "" {
		start = s.prefix + start
	}
	noOwner := false
	opts := minio.ListObjectsOptions{
		Prefix: s.prefix + prefix, StartAfter: start, Recursive: true, MaxKeys: limit, FetchOwner: &noOwner,
	}
	var page []store.Info
	last := after
	for o := range s.core.ListObjectsIter(c, s.bucket, opts) {
		if o.Err != nil {
			return nil, s.fail(ctx, op, prefix, o.Err)
		}
		key, ours := strings.CutPrefix(o.Key, s.prefix)
		if !ours || !strings.HasPrefix(key, prefix) || key <= last {
			return nil, errs.E(op, errs.Invalid, o.Key, fmt.Errorf("listed out of order, behind %q below %q", last, prefix)).
				WithRemedy("use a store that lists keys in the order of their bytes; probe this one")
		}
		last = key
		if store.CheckKey(op, key) != nil {
			continue
		}
		page = append(page, store.Info{Key: key, Size: o.Size, Modified: o.LastModified.UTC()})
		if len(page) == limit {
			break
		}
	}
	if c.Err() != nil { // the iteration ends without a word
		return nil, s.fail(ctx, op, prefix, context.Cause(c))
	}
	return page, nil
}

// startAfter returns the start-after to send for after: among keys it means
// the same, and it has only bytes and a length that every store takes. none
// is set when no key with the prefix is greater.
func startAfter(prefix, after string) (start string, none bool) {
	if after < prefix {
		return "", false // as do all stores begin at the prefix
	}
	if !strings.HasPrefix(after, prefix) {
		return "", true // greater than the prefix at a byte inside it
	}
	after = after[:min(len(after), store.MaxKey)] // no key is longer, so none lies between
	for i := range len(after) {
		switch c := after[i]; {
		case c < '-': // less than any byte of a key: greater are all that go on here
			return after[:i], false
		case c > 'z': // greater than any byte of a key
			return after[:i] + "~", false
		}
	}
	return after, false
}
