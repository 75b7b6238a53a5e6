package verify

import (
	"context"
	"fmt"
	"sync"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// tally counts what all connections ask for, and ends what goes beyond the
// budget.
type tally struct {
	allowed Budget
	tell    func(Progress)

	mu       sync.Mutex
	used     Budget // guarded by mu
	property string // being tried; guarded by mu
}

// take books one request with its bytes.
func (t *tally) take(op, key string, up, down int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.used.plus(Budget{1, int64(up), int64(down)})
	if next.Requests > t.allowed.Requests || next.Up > t.allowed.Up || next.Down > t.allowed.Down {
		return errs.E(op, errs.Internal, key, fmt.Errorf("the trial's budget is used up: %+v of %+v", t.used, t.allowed))
	}
	t.used = next
	if t.tell != nil {
		t.tell(Progress{Property: t.property, Requests: next.Requests, Allowed: t.allowed.Requests})
	}
	return nil
}

func (t *tally) trying(property string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.property = property
}

func (t *tally) total() Budget {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used
}

// conn is one connection to the store, with its requests counted.
type conn struct {
	inner store.Store
	tally *tally
}

func (c *conn) create(ctx context.Context, key string, body []byte) error {
	if err := c.tally.take("verify.create", key, len(body), 0); err != nil {
		return err
	}
	return c.inner.Create(ctx, key, body)
}

func (c *conn) readRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	if err := c.tally.take("verify.read", key, 0, len(p)); err != nil {
		return 0, err
	}
	n, err := c.inner.ReadRange(ctx, key, p, off)
	if err == nil && (n < 0 || n > len(p)) {
		return 0, errs.E("verify.read", errs.Invalid, key, fmt.Errorf("%d bytes in answer to %d", n, len(p)))
	}
	return n, err
}

func (c *conn) stat(ctx context.Context, key string) (store.Info, error) {
	if err := c.tally.take("verify.stat", key, 0, 0); err != nil {
		return store.Info{}, err
	}
	return c.inner.Stat(ctx, key)
}

func (c *conn) list(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	if err := c.tally.take("verify.list", prefix, 0, 0); err != nil {
		return nil, err
	}
	return c.inner.List(ctx, prefix, after, limit)
}

func (c *conn) remove(ctx context.Context, key string) error {
	if err := c.tally.take("verify.delete", key, 0, 0); err != nil {
		return err
	}
	return c.inner.Delete(ctx, key)
}
