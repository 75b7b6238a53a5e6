package verify

import (
	"context"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

func costLock(*scale, uint64) Budget { return Budget{9, 2 * smallBody, smallBody + 1} }

// tryLock creates an object that is held for a while, and tries to delete it.
func tryLock(ctx context.Context, p *probe) finding {
	const remedy = "repair the bucket's Object Lock or the container's immutability, or do not rely on locks"
	c := p.conns[0]
	l, ok := store.AsLocker(c.inner)
	if !ok {
		return finding{Unknown, "the store cannot hold objects against deletion", "nothing, unless you want objects that nobody can delete for a time"}
	}
	key := p.prefix + "locked"
	m := made{p.fresh(), smallBody}
	lock := store.Lock{Mode: store.LockGovernance, Until: p.opts.Clock().Add(p.ahead + lockFor)} // the store's clock decides
	p.sent(key)
	if err := p.locked(ctx, l, key, body(m), lock); err != nil {
		return *trouble("creating a locked object", err)
	}
	p.locks[key] = lock.Until
	if err := p.locked(ctx, l, key, body(m), lock); !errs.Is(err, errs.Exists) {
		if err != nil {
			return *trouble("creating a locked object again", err)
		}
		return *fail(remedyOnce, "a locked object was created again")
	}
	longer := store.Lock{Mode: lock.Mode, Until: lock.Until.Add(2 * time.Second)}
	if f := p.extend(ctx, l, key, longer); f != nil {
		return *f
	}
	err := c.remove(ctx, key)
	switch {
	case err == nil:
		return *fail(remedy, "an object locked until %s was deleted at once", lock.Until.UTC().Format(time.RFC3339))
	case !errs.Is(err, errs.Denied):
		return *trouble("deleting a locked object", err)
	}
	if f := p.holds(ctx, c, key, m); f != nil {
		f.remedy = remedy
		return *f
	}
	if !p.mayDelete {
		return pass("objects can be locked and locks extended; whether a lock holds back those who may delete, these credentials cannot tell")
	}
	return pass("a locked object cannot be deleted, and its lock can be extended")
}

func (p *probe) locked(ctx context.Context, l store.Locker, key string, body []byte, lock store.Lock) error {
	if err := p.tally.take("verify.lock", key, len(body), 0); err != nil {
		return err
	}
	return l.CreateLocked(ctx, key, body, lock)
}

// extend makes a lock longer and reads it back.
func (p *probe) extend(ctx context.Context, l store.Locker, key string, lock store.Lock) *finding {
	if err := p.tally.take("verify.lock", key, 0, 0); err != nil {
		return trouble("extending a lock", err)
	}
	if err := l.ExtendLock(ctx, key, lock); err != nil {
		return trouble("extending a lock", err)
	}
	if err := p.tally.take("verify.lock", key, 0, 0); err != nil {
		return trouble("reading a lock", err)
	}
	got, err := l.ReadLock(ctx, key)
	if err != nil {
		return trouble("reading a lock", err)
	}
	// Stores keep whole seconds.
	if got.Mode != lock.Mode || got.Until.Before(lock.Until.Truncate(time.Second)) {
		return fail("do not rely on this store's locks", "a lock %s until %v was asked for, and %s until %v came of it",
			lock.Mode, lock.Until.UTC(), got.Mode, got.Until.UTC())
	}
	return nil
}
