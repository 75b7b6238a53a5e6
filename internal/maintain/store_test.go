package maintain

import (
	"context"
	"strings"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

// clock is a clock that tests set. Safe for concurrent use.
type clock struct {
	mu   sync.Mutex
	now  time.Time
	boot time.Duration
}

func (c *clock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Boot() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.boot = c.now.Add(d), c.boot+d
}

// frozen is a clock that stands still from now on.
func (c *clock) frozen() *clock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &clock{now: c.now, boot: c.boot}
}

// backing is what the tests keep a container in: mem, or dir.
type backing interface {
	store.Store
}

// hooked is a store with something before and after each call. One actor has
// one of its own.
type hooked struct {
	inner  backing
	before func(op, key string) error // an error is the answer
	after  func(op, key string) error // likewise, whatever came of the call
}

func (h *hooked) do(op, key string, call func() error) error {
	if h.before != nil {
		if err := h.before(op, key); err != nil {
			return err
		}
	}
	err := call()
	if h.after != nil {
		if lost := h.after(op, key); lost != nil {
			return lost
		}
	}
	return err
}

func (h *hooked) Create(ctx context.Context, key string, body []byte) error {
	return h.do("create", key, func() error { return h.inner.Create(ctx, key, body) })
}

func (h *hooked) ReadRange(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	err = h.do("read", key, func() error { n, err = h.inner.ReadRange(ctx, key, p, off); return err })
	if err != nil {
		return 0, err
	}
	return n, nil
}

func (h *hooked) Stat(ctx context.Context, key string) (in store.Info, err error) {
	err = h.do("stat", key, func() error { in, err = h.inner.Stat(ctx, key); return err })
	return in, err
}

func (h *hooked) List(ctx context.Context, prefix, after string, limit int) (page []store.Info, err error) {
	err = h.do("list", prefix, func() error { page, err = h.inner.List(ctx, prefix, after, limit); return err })
	return page, err
}

func (h *hooked) Delete(ctx context.Context, key string) error {
	return h.do("delete", key, func() error { return h.inner.Delete(ctx, key) })
}

// DeleteBatch implements store.BatchDeleter. Where a hook looks at each key, it
// is a call for each.
func (h *hooked) DeleteBatch(ctx context.Context, keys []string) []error {
	if h.before != nil || h.after != nil {
		return store.DeleteEach(ctx, h, keys)
	}
	return store.DeleteAll(ctx, h.inner, keys)
}

func (h *hooked) Capabilities() store.Capabilities { return h.inner.Capabilities() }

// killer makes a store stop answering at the k-th call from now on: before or
// after that call has had its effect. From then on nothing answers.
type killer struct {
	mu    sync.Mutex
	at    int  // calls to let pass; negative: all
	late  bool // the last call has its effect
	calls int
	dead  bool
	once  bool // only that one answer is lost; the actor lives on
}

var errKilled = errs.New("test.store", errs.Unavailable, "", "the store does not answer")

func (k *killer) before(op, _ string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead {
		return errKilled
	}
	k.calls++
	if k.at >= 0 && k.calls > k.at && !k.late {
		if k.dead = !k.once; k.once {
			k.at = -1
		}
		return errKilled
	}
	_ = op
	return nil
}

func (k *killer) after(_, _ string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead {
		return errKilled
	}
	if k.at >= 0 && k.calls > k.at && k.late {
		if k.dead = !k.once; k.once {
			k.at = -1
		}
		return errKilled
	}
	return nil
}

// keysUnder lists all keys below a prefix.
func keysUnder(ctx context.Context, st store.Store, prefix string) (out []store.Info, err error) {
	err = store.Walk(ctx, st, prefix, func(in store.Info) error {
		if strings.HasPrefix(in.Key, prefix) {
			out = append(out, in)
		}
		return nil
	})
	return out, err
}

var _ backing = (*mem.Store)(nil)

// dated is a store whose modification times are of the tests' clock.
type dated struct {
	store.Store
	clock *clock

	mu   sync.Mutex
	made map[string]time.Time
}

func (d *dated) Create(ctx context.Context, key string, body []byte) error {
	err := d.Store.Create(ctx, key, body)
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.made == nil {
			d.made = make(map[string]time.Time)
		}
		d.made[key] = d.clock.Wall()
	}
	return err
}

// DeleteBatch implements store.BatchDeleter.
func (d *dated) DeleteBatch(ctx context.Context, keys []string) []error {
	return store.DeleteAll(ctx, d.Store, keys)
}

func (d *dated) date(in *store.Info) {
	d.mu.Lock()
	defer d.mu.Unlock()
	in.Modified = d.made[in.Key]
}

func (d *dated) Stat(ctx context.Context, key string) (store.Info, error) {
	in, err := d.Store.Stat(ctx, key)
	d.date(&in)
	return in, err
}

func (d *dated) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	page, err := d.Store.List(ctx, prefix, after, limit)
	for i := range page {
		d.date(&page[i])
	}
	return page, err
}
