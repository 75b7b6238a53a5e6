package copies

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// errGone is that the source has an object no more.
var errGone = errors.New("the source has it no more")

// errForeign is that another object lies under a name in the copy.
var errForeign = errors.New("another object lies there")

// maxWhole bounds an object of any sort, in bytes.
const maxWhole = segment.MaxObjectSize

// whole reads an object. errGone when it is not there.
func (m *Copier) whole(ctx context.Context, st store.Store, key string) ([]byte, error) {
	in, err := st.Stat(ctx, key)
	if errs.Is(err, errs.NotFound) {
		return nil, fmt.Errorf("%s: %w", key, errGone)
	} else if err != nil {
		return nil, err
	}
	return m.sized(ctx, st, key, in.Size)
}

// sized is whole of an object whose size is known, and checks it.
func (m *Copier) sized(ctx context.Context, st store.Store, key string, size int64) ([]byte, error) {
	const op = "copies.read"
	if size > maxWhole {
		return nil, errs.New(op, errs.Corrupt, key, "it is larger than any object")
	}
	body := make([]byte, size+1)
	n, err := st.ReadRange(ctx, key, body, 0)
	if errs.Is(err, errs.NotFound) {
		return nil, fmt.Errorf("%s: %w", key, errGone)
	} else if err != nil {
		return nil, err
	}
	body = body[:n]
	return body, m.src.CheckObject(key, body)
}

// copy copies one object. errGone when the source has it no more; kind Fenced when
// another one lies in the copy.
func (m *Copier) copy(ctx context.Context, key string) error {
	if m.work.have[key] {
		return nil
	}
	body, err := m.whole(ctx, m.from, key)
	if err == nil {
		err = m.put(ctx, key, body)
	}
	if err == nil {
		m.work.have[key] = true
	}
	return m.foreign(key, err)
}

// foreign makes a foreign object in the copy the end of copying.
func (m *Copier) foreign(key string, err error) error {
	if errors.Is(err, errForeign) {
		return m.stop(key, "the copy has another object under this name: somebody else writes the domain's history there")
	}
	return err
}

// put creates an object in the copy. The same one there is success; errForeign for
// another.
func (m *Copier) put(ctx context.Context, key string, body []byte) error {
	return create(ctx, m.dst, key, body)
}

// create creates an object in one of the stores. The same one there is success; for
// what only helps, any. errForeign for another, kind Corrupt for a damaged one.
func create(ctx context.Context, c *journal.Container, key string, body []byte) error {
	const op = "copies.create"
	st := c.Store()
	err := st.Create(ctx, key, body)
	if !errs.Is(err, errs.Exists) || journal.IsAdvice(key) {
		if errs.Is(err, errs.Exists) {
			err = nil
		}
		return err
	}
	there := make([]byte, len(body)+1)
	n, err := st.ReadRange(ctx, key, there, 0)
	if errs.Is(err, errs.NotFound) {
		return errs.New(op, errs.Transient, key, "the store says that the object exists and that it does not")
	} else if err != nil {
		return err
	}
	if bytes.Equal(there[:n], body) {
		return nil
	}
	if n > len(body) {
		return fmt.Errorf("%s: %w", key, errForeign)
	}
	if bad := c.CheckObject(key, there[:n]); bad != nil {
		return errs.E(op, errs.Corrupt, key, fmt.Errorf("it is damaged in the copy: %w", bad)).
			WithRemedy("delete this object from the copy's store: it is copied anew")
	}
	return fmt.Errorf("%s: %w", key, errForeign)
}

// copyAll copies objects in no order, several at once, until they are done, one fails
// or stop says so. done is false when some are left.
func (m *Copier) copyAll(ctx context.Context, keys []string, stop func() bool) (done bool, err error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	did := make([]bool, len(keys))
	begun := 0
	for ; begun < len(keys) && !stop() && gctx.Err() == nil; begun++ {
		i := begun
		g.Go(func() error {
			body, err := m.whole(gctx, m.from, keys[i])
			if err == nil {
				err = m.put(gctx, keys[i], body)
			}
			if err != nil {
				return err
			}
			did[i] = true
			m.copied(int64(len(body)))
			return nil
		})
	}
	err = g.Wait()
	for i, ok := range did {
		if ok {
			m.work.have[keys[i]] = true
		}
	}
	return begun == len(keys), m.foreign("", err)
}
