package journal

import (
	"context"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// readDocument reads a whole small object. Kind Corrupt when it is larger than
// any document may be; otherwise the store's kinds.
func readDocument(ctx context.Context, st store.Store, key string) ([]byte, error) {
	const first = 16 << 10
	b := make([]byte, first)
	n, err := st.ReadRange(ctx, key, b, 0)
	if err != nil {
		return nil, err
	}
	if n < first {
		return b[:n], nil
	}
	b = make([]byte, maxDocument+1)
	if n, err = st.ReadRange(ctx, key, b, 0); err != nil {
		return nil, err
	}
	if n > maxDocument {
		return nil, errs.New("journal.readDocument", errs.Corrupt, key, "larger than 1 MiB")
	}
	return b[:n], nil
}

// readExact fills p from off. Kind Corrupt when the object ends before that.
func readExact(ctx context.Context, st store.Store, key string, p []byte, off int64) error {
	n, err := st.ReadRange(ctx, key, p, off)
	if err != nil {
		return err
	}
	if n != len(p) {
		return errs.New("journal.readExact", errs.Corrupt, key, "the object ends too early")
	}
	return nil
}

// listAll calls f for every object under prefix whose key is greater than
// after, in ascending order, until f returns false.
func listAll(ctx context.Context, st store.Store, prefix, after string, f func(store.Info) bool) error {
	for {
		page, err := st.List(ctx, prefix, after, listPage)
		if err != nil {
			return err
		}
		for _, in := range page {
			if in.Key <= after {
				return errs.New("journal.listAll", errs.Corrupt, in.Key, "the store lists keys out of order")
			}
			after = in.Key
			if !f(in) {
				return nil
			}
		}
		if len(page) < listPage {
			return nil
		}
	}
}
