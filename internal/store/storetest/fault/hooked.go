package fault

import (
	"context"

	"holdfast/internal/store"
)

// Hooked is a store with something before and after each call, for what no script of rules
// can say. One actor has one of its own; the hooks are set while nobody calls. It is no
// store.Locker.
type Hooked struct {
	store.Store
	// Before is called first; an error is the answer, and the store is not reached. Nil:
	// nothing.
	Before func(op Op, key string) error
	// After is called last; an error is the answer, whatever came of the call. Nil: nothing.
	After func(op Op, key string) error
}

var (
	_ store.Store        = (*Hooked)(nil)
	_ store.BatchDeleter = (*Hooked)(nil)
)

func (h *Hooked) do(op Op, key string, call func() error) error {
	if h.Before != nil {
		if err := h.Before(op, key); err != nil {
			return err
		}
	}
	err := call()
	if h.After != nil {
		if lost := h.After(op, key); lost != nil {
			return lost
		}
	}
	return err
}

// Create implements store.Store, as those below.
func (h *Hooked) Create(ctx context.Context, key string, body []byte) error {
	return h.do(Create, key, func() error { return h.Store.Create(ctx, key, body) })
}

// ReadRange implements store.Store.
func (h *Hooked) ReadRange(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	if err := h.do(ReadRange, key, func() error { n, err = h.Store.ReadRange(ctx, key, p, off); return err }); err != nil {
		return 0, err
	}
	return n, nil
}

// Stat implements store.Store.
func (h *Hooked) Stat(ctx context.Context, key string) (in store.Info, err error) {
	err = h.do(Stat, key, func() error { in, err = h.Store.Stat(ctx, key); return err })
	return in, err
}

// List implements store.Store; its hooks get the prefix.
func (h *Hooked) List(ctx context.Context, prefix, after string, limit int) (page []store.Info, err error) {
	err = h.do(List, prefix, func() error { page, err = h.Store.List(ctx, prefix, after, limit); return err })
	return page, err
}

// Delete implements store.Store.
func (h *Hooked) Delete(ctx context.Context, key string) error {
	return h.do(Delete, key, func() error { return h.Store.Delete(ctx, key) })
}

// DeleteBatch implements store.BatchDeleter. Where a hook looks at each key, it is a call
// for each.
func (h *Hooked) DeleteBatch(ctx context.Context, keys []string) []error {
	if h.Before != nil || h.After != nil {
		return store.DeleteEach(ctx, h, keys)
	}
	return store.DeleteAll(ctx, h.Store, keys)
}
