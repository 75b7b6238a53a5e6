package store

import (
	"context"
	"slices"
)

// BatchDeleter is implemented by stores that take many deletions in one
// request; use it through [DeleteAll]. A wrapper that is none makes DeleteAll
// go key by key, through its Delete.
type BatchDeleter interface {
	// DeleteBatch is Delete of each of 1 to MaxBatch different keys, in no
	// order. The result has a place for each key, nil where the object is gone.
	// Where there is a failure, other keys may be gone all the same.
	DeleteBatch(ctx context.Context, keys []string) []error
}

// DeleteAll deletes keys, in no order, with as few requests as st takes. The
// result has a place for each key; see BatchDeleter. Retrying is store/retry's
// business here too.
func DeleteAll(ctx context.Context, st Store, keys []string) []error {
	b, ok := st.(BatchDeleter)
	if !ok {
		return DeleteEach(ctx, st, keys)
	}
	out := make([]error, 0, len(keys))
	for batch := range slices.Chunk(keys, MaxBatch) {
		out = append(out, b.DeleteBatch(ctx, batch)...)
	}
	return out
}

// DeleteEach is DeleteAll with a request for each key.
func DeleteEach(ctx context.Context, st Store, keys []string) []error {
	out := make([]error, len(keys))
	for i, key := range keys {
		out[i] = st.Delete(ctx, key)
	}
	return out
}
