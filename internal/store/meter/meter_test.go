package meter

import (
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest"
	"holdfast/internal/store/storetest/fault"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New(mem.New()) })
}

func TestLocks(t *testing.T) {
	storetest.RunLocker(t, func(*testing.T) store.Store { return New(mem.New()) })
}

func TestCounts(t *testing.T) {
	f := fault.New(mem.New())
	s := New(f)
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(s.Create(ctx, "a", make([]byte, 100)))
	ok(s.Create(ctx, "b", make([]byte, 11)))
	if err := s.Create(ctx, "a", make([]byte, 100)); !errs.Is(err, errs.Exists) {
		t.Fatal(err)
	}
	n, err := s.ReadRange(ctx, "a", make([]byte, 1000), 40)
	if ok(err); n != 60 {
		t.Fatalf("read %d", n)
	}
	if _, err := s.Stat(ctx, "none"); !errs.Is(err, errs.NotFound) {
		t.Fatal(err)
	}
	_, err = s.List(ctx, "", "", 10)
	ok(err)
	ok(s.Delete(ctx, "b"))
	for _, err := range s.DeleteBatch(ctx, []string{"x", "y", "z"}) { // one request
		ok(err)
	}
	lock := store.Lock{Mode: store.LockGovernance, Until: time.Now().Add(time.Hour)}
	locks, found := store.AsLocker(s)
	if !found {
		t.Fatal("no locks")
	}
	ok(locks.CreateLocked(ctx, "l", make([]byte, 1000), lock))
	ok(locks.ExtendLock(ctx, "l", lock))
	_, err = locks.ReadLock(ctx, "l")
	ok(err)
	f.Add(fault.Rule{Do: fault.Fail(errs.Denied)}, fault.Rule{Op: fault.ReadRange, Do: fault.Fail(errs.Transient)})
	if err := s.Create(ctx, "c", make([]byte, 7)); !errs.Is(err, errs.Denied) {
		t.Fatal(err)
	}
	if _, err := s.ReadRange(ctx, "a", make([]byte, 5), 0); !errs.Is(err, errs.Transient) {
		t.Fatal(err)
	}
	want := Counts{Creates: 5, Reads: 2, Stats: 1, Lists: 1, Deletes: 2, Locks: 2, Listed: 2, Failed: 2, BytesIn: 1111, BytesOut: 60}
	if got := s.Counts(); got != want || got.Requests() != 13 {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}
