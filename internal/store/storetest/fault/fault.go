// Package fault makes a store fail as written in a script: what networks and
// object stores do on bad days, on the call that a test names.
//
//	st := fault.New(mem.New())
//	st.Add(fault.Rule{Op: fault.Create, Prefix: "t/", Skip: 2, Do: fault.LoseAnswer()})
//
// makes the third Create below "t/" succeed and report a failure. Each call
// follows the first rule that matches it and is not used up.
package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Op names a call of store.Store. The empty Op matches all.
type Op string

// The calls that rules can match.
const (
	Create     Op = "create" // with and without a lock
	ReadRange  Op = "read"
	Stat       Op = "stat"
	List       Op = "list"
	Delete     Op = "delete"
	ExtendLock Op = "extend"
	ReadLock   Op = "readlock"
)

// ErrInjected is in the chain of every error made here.
var ErrInjected = errors.New("injected fault")

// Rule says which calls fail and how. The zero Rule matches the next call and
// does nothing to it.
type Rule struct {
	Op     Op
	Prefix string // of the key (or of List's prefix)
	Skip   int    // matching calls to let pass first
	Times  int    // matching calls to act on; 0 means 1, negative all
	Do     Action
}

// Action is what happens to a call. Its parts combine, in the order of the
// fields. The zero Action does nothing.
type Action struct {
	delay  time.Duration
	hold   <-chan struct{}
	late   <-chan struct{}
	before errs.Kind
	fails  bool // before is set
	after  errs.Kind
	lost   bool // after is set
	change func(p []byte) int
}

// Fail answers with kind and does not reach the store: Denied, Full,
// Transient…
func Fail(kind errs.Kind) Action { return Action{before: kind, fails: true} }

// LoseAnswer reaches the store, and then answers Transient whatever came of
// it.
func LoseAnswer() Action { return Action{after: errs.Transient, lost: true} }

// Delay waits first; less when the context ends.
func Delay(d time.Duration) Action { return Action{delay: d} }

// Hold waits first until ch is closed; less when the context ends.
func Hold(ch <-chan struct{}) Action { return Action{hold: ch} }

// Late answers Transient at once, and a Create, Delete or ExtendLock still lands, when ch
// is closed: a request that was stuck in the network. Wait joins it.
func Late(ch <-chan struct{}) Action { return Action{late: ch} }

// FlipBit lets a read succeed with one bit of what was read wrong.
func FlipBit(bit int) Action {
	return Action{change: func(p []byte) int {
		if len(p) > 0 {
			p[bit/8%len(p)] ^= 1 << (bit % 8)
		}
		return len(p)
	}}
}

// Short lets a read end after n bytes as if the object did.
func Short(n int) Action { return Action{change: func(p []byte) int { return min(n, len(p)) }} }

// Store is a store with scripted faults. Safe for concurrent use.
type Store struct {
	inner store.Store
	late  sync.WaitGroup

	mu    sync.Mutex
	rules []*Rule    // guarded by mu
	calls map[Op]int // guarded by mu
}

var (
	_ store.Store        = (*Store)(nil)
	_ store.Locker       = (*Store)(nil)
	_ store.BatchDeleter = (*Store)(nil)
)

// New returns inner with no faults yet.
func New(inner store.Store) *Store { return &Store{inner: inner, calls: map[Op]int{}} }

// Add appends rules to the script.
func (s *Store) Add(rules ...Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rules {
		if r.Times == 0 {
			r.Times = 1
		}
		s.rules = append(s.rules, &r)
	}
}

// Clear drops all rules.
func (s *Store) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = nil
}

// Unused returns the rules that still wait for a call, except endless ones:
// a test whose faults did not all happen proves less than it says.
func (s *Store) Unused() (left []Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		if r.Times > 0 {
			left = append(left, *r)
		}
	}
	return left
}

// Calls is the number of calls of op made so far, of all when op is empty.
func (s *Store) Calls(op Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op != "" {
		return s.calls[op]
	}
	n := 0
	for _, c := range s.calls {
		n += c
	}
	return n
}

// Wait returns when every Late request whose channel was closed has landed.
func (s *Store) Wait() { s.late.Wait() }

// next counts the call and finds what is to happen to it.
func (s *Store) next(op Op, key string) Action {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[op]++
	for _, r := range s.rules {
		if r.Times == 0 || r.Op != "" && r.Op != op || !strings.HasPrefix(key, r.Prefix) {
			continue
		}
		if r.Skip > 0 {
			r.Skip--
			return Action{}
		}
		if r.Times > 0 {
			r.Times--
		}
		return r.Do
	}
	return Action{}
}

func injected(op Op, kind errs.Kind, key, words string) error {
	return errs.E("fault."+string(op), kind, key, fmt.Errorf("%w: %s", ErrInjected, words))
}

// do makes a call follow the script. call is given a context that outlives
// the caller's when the request is late.
func (s *Store) do(ctx context.Context, op Op, key string, call func(context.Context) error) (Action, error) {
	a := s.next(op, key)
	if err := a.wait(ctx, op, key); err != nil {
		return a, err
	}
	if a.late != nil {
		if op == Create || op == Delete || op == ExtendLock {
			s.late.Go(func() {
				<-a.late
				_ = call(context.WithoutCancel(ctx)) // nobody is left to be told
			})
		}
		return a, injected(op, errs.Transient, key, "request is stuck")
	}
	if a.fails {
		return a, injected(op, a.before, key, "request refused")
	}
	err := call(ctx)
	if a.lost {
		return a, injected(op, a.after, key, "answer lost")
	}
	return a, err
}

func (a *Action) wait(ctx context.Context, op Op, key string) error {
	if a.delay > 0 {
		timer := time.NewTimer(a.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if a.hold != nil {
		select {
		case <-a.hold:
		case <-ctx.Done():
		}
	}
	return store.Canceled(ctx, "fault."+string(op), key)
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	body = append([]byte(nil), body...) // a late Create outlives the caller's buffer
	_, err := s.do(ctx, Create, key, func(ctx context.Context) error { return s.inner.Create(ctx, key, body) })
	return err
}

// ReadRange implements store.Store.
func (s *Store) ReadRange(ctx context.Context, key string, p []byte, off int64) (n int, err error) {
	a, err := s.do(ctx, ReadRange, key, func(ctx context.Context) error {
		n, err = s.inner.ReadRange(ctx, key, p, off)
		return err
	})
	if err != nil {
		return 0, err
	}
	if a.change != nil {
		n = a.change(p[:n])
	}
	return n, nil
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (info store.Info, err error) {
	_, err = s.do(ctx, Stat, key, func(ctx context.Context) error {
		info, err = s.inner.Stat(ctx, key)
		return err
	})
	if err != nil {
		return store.Info{}, err // an answer that is lost is lost whole
	}
	return info, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) (page []store.Info, err error) {
	_, err = s.do(ctx, List, prefix, func(ctx context.Context) error {
		page, err = s.inner.List(ctx, prefix, after, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	_, err := s.do(ctx, Delete, key, func(ctx context.Context) error { return s.inner.Delete(ctx, key) })
	return err
}

// DeleteBatch implements store.BatchDeleter. To the script it is a Delete of
// each key: a batch of which a part fails is the rule.
func (s *Store) DeleteBatch(ctx context.Context, keys []string) []error {
	return store.DeleteEach(ctx, s, keys)
}

// CreateLocked implements store.Locker. To the script it is a Create.
func (s *Store) CreateLocked(ctx context.Context, key string, body []byte, lock store.Lock) error {
	l, err := store.LockerOf("fault.CreateLocked", key, s.inner)
	if err != nil {
		return err
	}
	body = append([]byte(nil), body...)
	_, err = s.do(ctx, Create, key, func(ctx context.Context) error { return l.CreateLocked(ctx, key, body, lock) })
	return err
}

// ExtendLock implements store.Locker.
func (s *Store) ExtendLock(ctx context.Context, key string, lock store.Lock) error {
	l, err := store.LockerOf("fault.ExtendLock", key, s.inner)
	if err != nil {
		return err
	}
	_, err = s.do(ctx, ExtendLock, key, func(ctx context.Context) error { return l.ExtendLock(ctx, key, lock) })
	return err
}

// ReadLock implements store.Locker.
func (s *Store) ReadLock(ctx context.Context, key string) (lock store.Lock, err error) {
	l, err := store.LockerOf("fault.ReadLock", key, s.inner)
	if err != nil {
		return store.Lock{}, err
	}
	_, err = s.do(ctx, ReadLock, key, func(ctx context.Context) error {
		lock, err = l.ReadLock(ctx, key)
		return err
	})
	if err != nil {
		return store.Lock{}, err
	}
	return lock, nil
}

// Unwrap returns the store whose calls are made to fail.
func (s *Store) Unwrap() store.Store { return s.inner }

// Capabilities implements store.Store.
func (s *Store) Capabilities() store.Capabilities { return s.inner.Capabilities() }
