package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

const (
	// farLock outlives any test; on a real store it outlives the test's
	// container too, which is left behind for that long.
	farLock = 2 * time.Hour
	// nearLock is long enough for a refusal to be seen before it runs out.
	nearLock = 2 * time.Second
	// patience bounds the wait for a lock to run out, by the store's clock.
	patience = 2 * time.Minute
)

// RunLocker checks the locks of a driver or wrapper. open returns a new, empty
// store for one subtest and arranges for its end with t.Cleanup; its clock
// agrees with the test's to within a second.
func RunLocker(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, lockStore)
	}{
		{"created locked is refused deletion", lockedDelete},
		{"a lock taken is never shortened or weakened", lockNeverLess},
		{"a lock is extended", lockExtended},
		{"an object without a lock gets one", lockAdded},
		{"a lock that ran out lets go", lockRunsOut},
		{"create once with a lock", lockedCreateOnce},
		{"locked create race has one winner", lockedRace},
		{"locks of missing objects", lockMissing},
		{"locks that cannot be", lockInvalid},
		{"ended context and locks", lockEndedContext},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := open(t)
			l, ok := store.AsLocker(st)
			if !ok {
				t.Fatal("the store cannot lock")
			}
			c.test(t, lockStore{st, l})
		})
	}
}

type lockStore struct {
	store.Store
	locker store.Locker
}

var modes = []store.LockMode{store.LockGovernance, store.LockCompliance}

func lockFor(mode store.LockMode, d time.Duration) store.Lock {
	return store.Lock{Mode: mode, Until: time.Now().Add(d)}
}

func (s lockStore) mustLock(t *testing.T, key string, lock store.Lock) {
	t.Helper()
	if err := s.locker.CreateLocked(t.Context(), key, []byte(key), lock); err != nil {
		t.Fatalf("create %s locked: %v", key, err)
	}
}

func (s lockStore) mustExtend(t *testing.T, key string, lock store.Lock) {
	t.Helper()
	if err := s.locker.ExtendLock(t.Context(), key, lock); err != nil {
		t.Fatalf("extend the lock of %s: %v", key, err)
	}
}

// wantLock checks that the object is locked as asked for, to the second, and
// that it cannot be deleted.
func (s lockStore) wantLock(t *testing.T, key string, lock store.Lock) {
	t.Helper()
	got, err := s.locker.ReadLock(t.Context(), key)
	if late := got.Until.Sub(lock.Until); err != nil || got.Mode != lock.Mode || late < 0 || late > time.Second {
		t.Fatalf("lock of %s is %+v, %v; want %+v, at most a second later", key, got, err, lock)
	}
	wantKind(t, "delete "+key, s.Delete(t.Context(), key), errs.Denied)
	if got := readAll(t, s, key); string(got) != key {
		t.Fatalf("after a refused deletion %s reads %q", key, got)
	}
	if got := list(t, s, key, "", 10); len(got) != 1 || got[0] != key {
		t.Fatalf("after a refused deletion %s lists as %q", key, got)
	}
}

func lockedDelete(t *testing.T, s lockStore) {
	for _, mode := range modes {
		lock := lockFor(mode, farLock)
		s.mustLock(t, "l/"+string(mode), lock)
		s.wantLock(t, "l/"+string(mode), lock)
	}
	mustCreate(t, s, "l/free", []byte("x"))
	if lock, err := s.locker.ReadLock(t.Context(), "l/free"); err != nil || !lock.IsZero() {
		t.Fatalf("lock of an object without one: %+v, %v", lock, err)
	}
	if err := s.Delete(t.Context(), "l/free"); err != nil {
		t.Fatalf("delete what is not locked: %v", err)
	}
}

func lockNeverLess(t *testing.T, s lockStore) {
	for _, mode := range modes {
		key, lock := "n/"+string(mode), lockFor(mode, farLock)
		s.mustLock(t, key, lock)
		s.mustExtend(t, key, lock)
		s.mustExtend(t, key, lockFor(mode, farLock/2))
		s.mustExtend(t, key, lockFor(store.LockGovernance, farLock/2))
		s.mustExtend(t, key, store.Lock{Mode: mode, Until: time.Unix(1, 0)})
		s.wantLock(t, key, lock)
	}
}

func lockExtended(t *testing.T, s lockStore) {
	for _, from := range modes {
		for _, to := range modes {
			key := fmt.Sprintf("e/%s/%s", from, to)
			first := lockFor(from, farLock)
			s.mustLock(t, key, first)
			asked := lockFor(to, 2*farLock)
			s.mustExtend(t, key, asked)
			s.wantLock(t, key, first.Extended(asked))
		}
	}
}

func lockAdded(t *testing.T, s lockStore) {
	for _, mode := range modes {
		key, lock := "a/"+string(mode), lockFor(mode, farLock)
		mustCreate(t, s, key, []byte(key))
		s.mustExtend(t, key, lock)
		s.wantLock(t, key, lock)
	}
}

func lockRunsOut(t *testing.T, s lockStore) {
	lock := lockFor(store.LockCompliance, nearLock)
	s.mustLock(t, "out", lock)
	err := s.Delete(t.Context(), "out")
	if time.Now().Before(lock.Until) {
		wantKind(t, "delete while locked", err, errs.Denied)
	}
	began := time.Now()
	for ; err != nil; err = s.Delete(t.Context(), "out") {
		wantKind(t, "delete while locked", err, errs.Denied)
		if time.Since(began) > patience {
			t.Fatalf("still locked %v after the lock's end", time.Since(lock.Until))
		}
		select {
		case <-time.After(nearLock / 20):
		case <-t.Context().Done():
		}
	}
	if time.Now().Before(lock.Until) {
		t.Fatalf("deleted %v before the lock's end", time.Until(lock.Until))
	}
	_, err = s.Stat(t.Context(), "out")
	wantKind(t, "deleted", err, errs.NotFound)
	mustCreate(t, s, "out", []byte("again"))
	if lock, err := s.locker.ReadLock(t.Context(), "out"); err != nil || !lock.IsZero() {
		t.Fatalf("the next object of that name has lock %+v, %v", lock, err)
	}
}

func lockedCreateOnce(t *testing.T, s lockStore) {
	mustCreate(t, s, "o/free", []byte("first"))
	lock := lockFor(store.LockGovernance, farLock)
	wantKind(t, "locked over free", s.locker.CreateLocked(t.Context(), "o/free", []byte("second"), lock), errs.Exists)
	if got, err := s.locker.ReadLock(t.Context(), "o/free"); err != nil || !got.IsZero() {
		t.Fatalf("a refused create left lock %+v, %v", got, err)
	}
	if got := readAll(t, s, "o/free"); string(got) != "first" {
		t.Fatalf("read %q", got)
	}
	s.mustLock(t, "o/locked", lock)
	wantKind(t, "free over locked", s.Create(t.Context(), "o/locked", []byte("second")), errs.Exists)
	wantKind(t, "locked over locked", s.locker.CreateLocked(t.Context(), "o/locked", nil, lockFor(store.LockCompliance, 2*farLock)), errs.Exists)
	s.wantLock(t, "o/locked", lock)
}

func lockedRace(t *testing.T, s lockStore) {
	const racers = 20
	results := make([]error, racers)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range racers {
		wg.Go(func() {
			<-start
			lock := lockFor(modes[i%2], farLock)
			results[i] = s.locker.CreateLocked(t.Context(), "race", racerBody(i), lock)
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	for i, err := range results {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("%d and %d both won", winner, i)
		case err == nil:
			winner = i
		default:
			wantKind(t, "loser", err, errs.Exists)
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	lock, err := s.locker.ReadLock(t.Context(), "race")
	if err != nil || lock.Mode != modes[winner%2] || len(readAll(t, s, "race")) != len(racerBody(winner)) {
		t.Fatalf("lock %+v, %v, or content, is not the winner's", lock, err)
	}
}

func lockMissing(t *testing.T, s lockStore) {
	_, err := s.locker.ReadLock(t.Context(), "none")
	wantKind(t, "read", err, errs.NotFound)
	wantKind(t, "extend", s.locker.ExtendLock(t.Context(), "none", lockFor(store.LockGovernance, farLock)), errs.NotFound)
}

func lockInvalid(t *testing.T, s lockStore) {
	mustCreate(t, s, "there", nil)
	good := lockFor(store.LockGovernance, farLock)
	for what, lock := range map[string]store.Lock{
		"no lock":   {},
		"no end":    {Mode: store.LockCompliance},
		"no mode":   {Until: good.Until},
		"bad mode":  {Mode: "COMPLIANCE", Until: good.Until},
		"far end":   {Mode: store.LockGovernance, Until: time.Date(store.MaxLockYear+1, 1, 1, 0, 0, 0, 0, time.UTC)},
		"past end":  {Mode: store.LockGovernance, Until: time.Now().Add(-farLock)},
		"1970 past": {Mode: store.LockCompliance, Until: time.Unix(1, 0)},
	} {
		wantKind(t, "create with "+what, s.locker.CreateLocked(t.Context(), "new", nil, lock), errs.Invalid)
		wantKind(t, "extend with "+what, s.locker.ExtendLock(t.Context(), "there", lock), errs.Invalid)
	}
	for _, key := range []string{"", "../a", "A"} {
		wantKind(t, "create "+key, s.locker.CreateLocked(t.Context(), key, nil, good), errs.Invalid)
		wantKind(t, "extend "+key, s.locker.ExtendLock(t.Context(), key, good), errs.Invalid)
		_, err := s.locker.ReadLock(t.Context(), key)
		wantKind(t, "read "+key, err, errs.Invalid)
	}
	wantKind(t, "too large", s.locker.CreateLocked(t.Context(), "new", make([]byte, store.MaxObject+1), good), errs.Invalid)
	_, err := s.Stat(t.Context(), "new")
	wantKind(t, "stat", err, errs.NotFound)
}

func lockEndedContext(t *testing.T, s lockStore) {
	mustCreate(t, s, "there", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lock := lockFor(store.LockGovernance, farLock)
	wantKind(t, "create", s.locker.CreateLocked(ctx, "new", nil, lock), errs.Canceled)
	wantKind(t, "extend", s.locker.ExtendLock(ctx, "there", lock), errs.Canceled)
	_, err := s.locker.ReadLock(ctx, "there")
	wantKind(t, "read", err, errs.Canceled)
}
