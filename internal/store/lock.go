package store

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/errs"
)

// LockMode says who may still delete a locked object.
type LockMode string

// The modes, weaker first.
const (
	LockGovernance LockMode = "governance" // credentials with a special right; Holdfast never uses it
	LockCompliance LockMode = "compliance" // nobody, the store's owner included
)

// Lock holds an object against deletion until a moment, by the store's clock.
// The zero Lock holds nothing.
type Lock struct {
	Mode  LockMode
	Until time.Time
}

// IsZero reports whether l holds nothing.
func (l Lock) IsZero() bool { return l == Lock{} }

// Extended is what ExtendLock makes of l when by is asked for: the later of
// both ends, in l's own mode if it has one.
func (l Lock) Extended(by Lock) Lock {
	if l.Mode == "" {
		l.Mode = by.Mode
	}
	if by.Until.After(l.Until) {
		l.Until = by.Until
	}
	return l
}

// Equal reports whether both hold in the same mode until the same moment,
// whatever the time zone it is written in.
func (l Lock) Equal(other Lock) bool { return l.Mode == other.Mode && l.Until.Equal(other.Until) }

// Locker is implemented by stores that can hold objects against deletion; ask
// with [AsLocker]. While an object's lock holds, Delete of it is Denied in
// both modes. Stores keep whole seconds, so Until may come back up to a second
// later than it was asked for, never earlier. The store's clock decides, not
// ours.
type Locker interface {
	// CreateLocked is Create with the object locked by the same request: there
	// is no moment at which it exists unlocked. Errors as of Create; a lock
	// that does not end in the future is Invalid.
	CreateLocked(ctx context.Context, key string, body []byte, lock Lock) error

	// ExtendLock makes the object's lock end as late as lock does. It is never
	// shortened: asking for less, or for what there is, succeeds without
	// effect. Its mode stays: stores refuse to change it without a right that
	// could also take the lock away. An object that is not locked becomes so,
	// in lock's mode. A lock that would change but not end in the future is
	// Invalid. Kind NotFound when there is no such key.
	ExtendLock(ctx context.Context, key string, lock Lock) error

	// ReadLock returns the object's lock, also one that has run out; the zero
	// Lock when it never had one. Kind NotFound when there is no such key.
	ReadLock(ctx context.Context, key string) (Lock, error)
}

// unwrapper is what wrappers have besides the methods of Store.
type unwrapper interface{ Unwrap() Store }

// AsLocker returns st's ability to lock; false when the store it is, or the
// one at the bottom of its wrappers, has none. What is returned keeps the
// behaviour of every wrapper (repeats, counts, refusals): a wrapper is a
// Locker itself, and one that is not hides the ability, because going around
// the wrapper would go around what it is there for.
func AsLocker(st Store) (Locker, bool) {
	outer, ok := st.(Locker)
	for ok {
		w, wraps := st.(unwrapper)
		if !wraps {
			return outer, st.Capabilities().Lock
		}
		st = w.Unwrap()
		_, ok = st.(Locker)
	}
	return nil, false
}

// LockerOf is AsLocker for wrappers: kind Invalid when st cannot lock. op is
// the caller's "package.Func".
func LockerOf(op, key string, st Store) (Locker, error) {
	if l, ok := AsLocker(st); ok {
		return l, nil
	}
	return nil, errs.New(op, errs.Invalid, key, "the store cannot hold objects against deletion").
		WithRemedy("use a bucket with Object Lock enabled, or a policy without locks")
}

// CheckLock returns nil for a lock that can be asked for, kind Invalid
// otherwise.
func CheckLock(op, key string, lock Lock) error {
	switch {
	case lock.Mode != LockGovernance && lock.Mode != LockCompliance:
		return errs.E(op, errs.Invalid, key, fmt.Errorf("lock mode %q is neither %q nor %q", lock.Mode, LockGovernance, LockCompliance))
	case lock.Until.IsZero():
		return errs.New(op, errs.Invalid, key, "the lock has no end")
	case lock.Until.Year() > MaxLockYear:
		return errs.E(op, errs.Invalid, key, fmt.Errorf("the lock ends in the year %d, later than %d", lock.Until.Year(), MaxLockYear))
	}
	return nil
}

// Revealer is implemented by stores that keep what was deleted or overwritten
// behind what hides it. A locked object cannot be removed, but anybody who may
// delete can hide it, and anybody who may write can write over its name.
// Wrappers do not pass it on: it is an operator's tool, used on the driver.
type Revealer interface {
	// Reveal brings back what is hidden under keys that begin with prefix; an
	// empty one is the whole container. What it did before an error stays done,
	// and calling it again goes on. Kind Invalid when the store keeps nothing
	// behind anything.
	Reveal(ctx context.Context, prefix string, opts RevealOptions) (RevealReport, error)
}

// RevealOptions say how far Reveal goes. The zero value removes markers of
// deletion alone.
type RevealOptions struct {
	// Overwritten also removes what was written over a name. A name is created
	// once, so the oldest version of a key is the one that counts; what lies on
	// it is somebody's doing.
	Overwritten bool
	// DryRun changes nothing: the report tells what would be done.
	DryRun bool
	// Found, if not nil, is told of each key that is hidden or covered.
	Found func(Hidden)
}

// Hidden is a key that readers do not see as it was created.
type Hidden struct {
	Key     string `json:"key"`
	Markers int    `json:"markers"` // of deletion
	Covers  int    `json:"covers"`  // versions written over the first
	// Left says why the first version is still not what readers see; empty: it
	// is now (or would be, in a dry run).
	Left string `json:"left,omitempty"`
}

// RevealReport is what Reveal found and did.
type RevealReport struct {
	Keys     int `json:"keys"`     // names that have a version
	Gone     int `json:"gone"`     // names that have nothing but markers
	Hidden   int `json:"hidden"`   // names that were deleted and came back
	Covered  int `json:"covered"`  // names that were written over
	Markers  int `json:"markers"`  // removed
	Versions int `json:"versions"` // removed, of those written over
	Left     int `json:"left"`     // names that are still not as they were created
}
