package maintain

import (
	"context"
	"strings"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/journal/journaltest"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// backing is what the tests keep a container in: mem, or dir.
type backing interface {
	store.Store
}

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

func (k *killer) before(op fault.Op, _ string) error {
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

func (k *killer) after(fault.Op, string) error {
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
	clock *journaltest.Clock

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
