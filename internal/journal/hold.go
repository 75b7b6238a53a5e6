package journal

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// LockOptions say how what a publisher creates is held against deletion. The
// zero value holds nothing.
type LockOptions struct {
	Mode store.LockMode
	// For is how long each object is held from its creation on: LeastLock to
	// MostLock. It is the time there is to notice that somebody deletes, and
	// what a mistake costs: in compliance mode nobody can shorten it.
	For time.Duration
}

// IsZero reports whether o holds nothing.
func (o LockOptions) IsZero() bool { return o == LockOptions{} }

// Validate returns nil for locks that can be asked for, kind Invalid otherwise.
func (o LockOptions) Validate() error {
	const op = "journal.LockOptions"
	switch {
	case o.IsZero():
		return nil
	case o.Mode == "":
		return errs.New(op, errs.Invalid, "lock", "a time without a mode").WithRemedy("use governance or compliance, or leave the time out")
	case o.Mode != store.LockGovernance && o.Mode != store.LockCompliance:
		return errs.New(op, errs.Invalid, "lock", fmt.Sprintf("there is no lock mode %q", o.Mode)).WithRemedy("use governance or compliance")
	case o.For < LeastLock || o.For > MostLock:
		return errs.New(op, errs.Invalid, "lock", fmt.Sprintf("locks of %v are not offered", o.For)).
			WithRemedy(fmt.Sprintf("choose %v to %v", LeastLock, MostLock))
	}
	return nil
}

func (o LockOptions) at(now time.Time) store.Lock {
	return store.Lock{Mode: o.Mode, Until: now.Add(o.For).UTC().Round(0)}
}

// lockedStore locks whatever is created, by the request that creates it. What
// Create means stays the same, its doubts included.
type lockedStore struct {
	store.Store
	locker store.Locker
	opts   LockOptions
	clock  Clock
}

// Create implements store.Store. The lock counts from the request: one that is
// repeated for hours is not shorter for it.
func (s *lockedStore) Create(ctx context.Context, key string, body []byte) error {
	return s.locker.CreateLocked(ctx, key, body, s.opts.at(s.clock.Wall()))
}

// Unwrap returns the store whose objects are locked.
func (s *lockedStore) Unwrap() store.Store { return s.Store }

// locking is c with every object it creates locked; c itself without locks.
func (c *Container) locking(op string, opts LockOptions, clock Clock) (*Container, error) {
	if opts.IsZero() {
		return c, nil
	}
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	locker, err := c.locker(op)
	if err != nil {
		return nil, err
	}
	locked := *c
	locked.st = &lockedStore{Store: c.st, locker: locker, opts: opts, clock: clock}
	return &locked, nil
}

func (c *Container) locker(op string) (store.Locker, error) {
	if locker, ok := store.AsLocker(c.st); ok {
		return locker, nil
	}
	name := c.st.Capabilities().Name
	return nil, errs.New(op, errs.Invalid, "lock",
		fmt.Sprintf("objects are to be held against deletion, and this store (%s) cannot: its bucket has no Object Lock", name)).
		WithRemedy("make the container in a bucket with Object Lock enabled, or an Azure container with version-level immutability; or turn the lock off")
}

// Hold extends the locks of everything but data that a recovery of timeline t
// needs, and returns how many objects it holds now. Data objects are for who
// maintains the timeline, which alone knows which of them are live.
//
//	domain, keys/…      without them nothing opens
//	t/…/head            of t and of what it branched off
//	t/…/epoch/…         the newest claim: who comes next begins above it
//	t/…/m/…, x/…        the newest readable manifest and the index it refers to,
//	                    of t and of what it branched off
//	meta/…              configurations of VMs, and what is not superseded
//	pin/…               holds and tags in force
//
// Nothing is held of readers' pins, releases of pins, ends of timelines and
// trials: without them more is kept, not less.
//
// Kinds: Invalid when the store cannot lock, Denied when it refuses (all other
// objects are held nevertheless), Corrupt when the history is damaged, or the
// store's.
func (c *Container) Hold(ctx context.Context, t dr.TimelineID, lock store.Lock) (int, error) {
	const op = "journal.Hold"
	locker, err := c.locker(op)
	if err != nil {
		return 0, err
	}
	keys, err := c.holdable(ctx, t)
	if err != nil {
		return 0, errs.E(op, errs.Internal, t.String(), err)
	}
	var (
		mu      sync.Mutex
		held    int
		refused error
	)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readParallel)
	for _, key := range keys {
		g.Go(func() error {
			err := locker.ExtendLock(gctx, key, lock)
			if err != nil && !ownFault(err) {
				return errs.E(op, errs.Internal, key, err)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				held++
			case !errs.Is(err, errs.NotFound) && refused == nil: // a manifest may have been deleted meanwhile
				refused = errs.E(op, errs.Internal, key, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return held, err
	}
	return held, refused
}

// holdable lists what Hold holds.
func (c *Container) holdable(ctx context.Context, t dr.TimelineID) ([]string, error) {
	keys := []string{keyDomain}
	var err error
	for _, prefix := range []string{prefixKeys, prefixMeta} {
		lerr := listAll(ctx, c.st, prefix, "", func(in store.Info) bool {
			keys = append(keys, in.Key)
			return len(keys) <= maxHold
		})
		if lerr != nil {
			return nil, lerr
		}
	}
	gone, err := c.Superseded(ctx)
	if err != nil {
		return nil, err
	}
	unread := map[string]bool{}
	for _, in := range gone {
		unread[in.Key] = true
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return unread[key] })
	if keys, err = c.holdableLine(ctx, t, keys); err != nil {
		return nil, err
	}
	pins, err := c.Pins(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for i := range pins {
		if pins[i].Kind != PinRead && pins[i].Active(now) {
			keys = append(keys, pinKey(pins[i].ID))
		}
	}
	if len(keys) > maxHold {
		return nil, errs.New("journal.Hold", errs.Full, t.String(), fmt.Sprintf("more than %d objects besides data need a lock", maxHold))
	}
	return keys, nil
}

// holdableLine adds what is of t and of the timelines it branched off.
func (c *Container) holdableLine(ctx context.Context, t dr.TimelineID, keys []string) ([]string, error) {
	highest, err := c.highestEpoch(ctx, t)
	if err != nil {
		return nil, err
	}
	if highest > 0 {
		keys = append(keys, epochKey(t, highest))
	}
	for range maxDepth + 1 {
		head, err := c.readHead(ctx, t)
		if err != nil {
			return nil, err
		}
		keys = append(keys, headKey(t))
		m, _, err := c.newestManifest(ctx, t)
		if err != nil {
			return nil, err
		}
		if m != nil {
			keys = append(keys, manifestKey(t, m.Generation))
			for i := range m.Runs {
				for _, part := range m.Runs[i].Parts {
					keys = append(keys, PartName(part.ID))
				}
			}
		}
		if head.Parent.IsZero() {
			break
		}
		t = head.Parent
	}
	return keys, nil
}

// holdOn keeps what Hold holds under a lock of at least three quarters of the
// publisher's time, until the publisher stops. Failures do not stop it.
func (p *Publisher) holdOn(c *Container, opts LockOptions) {
	for {
		now := p.clock.Wall()
		n, err := c.Hold(p.ctx, p.timeline, opts.at(now))
		for try := 0; failing(err); try++ {
			if sleep(p.ctx, p.backoff(try)) != nil {
				return
			}
			now = p.clock.Wall()
			n, err = c.Hold(p.ctx, p.timeline, opts.at(now))
		}
		p.mu.Lock()
		p.holdErr = err
		if err == nil {
			p.heldUntil = opts.at(now).Until
		}
		p.mu.Unlock()
		if err != nil {
			p.log.Error("what a recovery needs cannot be held against deletion", "err", err, "remedy", errs.RemedyOf(err))
		} else {
			p.log.Info("held against deletion", "objects", n, "mode", opts.Mode, "until", opts.at(now).Until)
		}
		if sleep(p.ctx, opts.For/4) != nil {
			return
		}
	}
}
