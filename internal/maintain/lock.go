package maintain

import (
	"context"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// extend holds what the history needs for another lock window: live objects
// whose lock has less than half of it left, and every few hours what a recovery
// needs besides data. At most maxExtensions locks of data a pass. What the store refuses is an alarm, not a failure.
func (p *pass) extend(ctx context.Context) error {
	if p.policy.Lock.Mode == "" {
		return nil
	}
	locker, ok := store.AsLocker(p.c.Store())
	if !ok {
		p.report.alarm("the policy asks for locks (%s), and the store cannot hold objects against deletion: set it to none, or use a store that can", p.policy.Lock.Mode)
		return nil
	}
	half := p.began.wall.Add(p.policy.Lock.Window / 2)
	for i := range p.next.Objects {
		o := &p.next.Objects[i]
		if o.Live == 0 || o.Retain.After(half) || p.report.Extended == maxExtensions {
			continue
		}
		p.tell("locking", int64(p.report.Extended), 0, false)
		held, err := p.lock(ctx, locker, journal.ObjectName(o.ID))
		if err != nil {
			return err
		}
		if held {
			o.Retain, p.worked = p.sealed.Until, true
		}
	}
	return p.extendIndex(ctx)
}

// extendIndex holds what a recovery needs besides data: keys, heads,
// configurations, the newest manifest and all of the index it refers to. What
// was published behind that manifest is held by its publisher.
func (p *pass) extendIndex(ctx context.Context) error {
	if p.mem.locked.Add(min(p.policy.Lock.Window/4, holdEvery)).After(p.began.wall) && !p.began.wall.Before(p.mem.locked) {
		return nil
	}
	n, err := p.c.Hold(ctx, p.timeline, p.sealed)
	p.report.Extended += n
	switch {
	case errs.Is(err, errs.Denied) || errs.Is(err, errs.Invalid) || errs.Is(err, errs.Full):
		p.report.alarm("not all of what a recovery needs is held against deletion: %v", err)
	case err != nil:
		return err
	}
	p.mem.locked = p.began.wall
	return nil
}

// lock extends one lock; false when the store would not.
func (p *pass) lock(ctx context.Context, locker store.Locker, key string) (bool, error) {
	err := locker.ExtendLock(ctx, key, p.sealed)
	switch {
	case err == nil:
		p.report.Extended++
		return true, nil
	case errs.Is(err, errs.NotFound):
		p.report.alarm("%s is needed and is not there: run fsck", key)
		return false, nil
	case errs.Is(err, errs.Denied) || errs.Is(err, errs.Invalid):
		p.report.alarm("%s cannot be held against deletion: %v", key, err)
		return false, nil
	}
	return false, err
}

// lockable refuses a policy with locks on a store without.
func lockable(c *journal.Container, policy *Policy) error {
	if policy == nil || policy.Lock.Mode == "" {
		return nil
	}
	if _, ok := store.AsLocker(c.Store()); ok {
		return nil
	}
	return errs.New("maintain.New", errs.Invalid, "", "the policy asks for locks, and the store cannot hold objects against deletion").
		WithRemedy("use a store with object locks, or a policy without")
}
