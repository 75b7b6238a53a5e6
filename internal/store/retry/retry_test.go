package retry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest"
	"holdfast/internal/store/storetest/fault"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New(mem.New(), Options{}) })
}

func TestLocks(t *testing.T) {
	storetest.RunLocker(t, func(*testing.T) store.Store { return New(mem.New(), Options{}) })
}

// all makes one call of each sort.
func all(ctx context.Context, st store.Store) map[fault.Op]error {
	out := map[fault.Op]error{fault.Create: st.Create(ctx, "new", []byte("x"))}
	_, out[fault.ReadRange] = st.ReadRange(ctx, "there", make([]byte, 1), 0)
	_, out[fault.Stat] = st.Stat(ctx, "there")
	_, out[fault.List] = st.List(ctx, "", "", 10)
	out[fault.Delete] = st.Delete(ctx, "gone")
	locks, ok := store.AsLocker(st)
	if !ok {
		panic("a store over mem that cannot lock")
	}
	lock := store.Lock{Mode: store.LockGovernance, Until: time.Now().Add(time.Hour)}
	out["locked create"] = locks.CreateLocked(ctx, "locked", nil, lock)
	out[fault.ExtendLock] = locks.ExtendLock(ctx, "there", lock)
	_, out[fault.ReadLock] = locks.ReadLock(ctx, "there")
	return out
}

func setup(t *testing.T, opts Options) (*fault.Store, *Store) {
	t.Helper()
	f := fault.New(mem.New())
	if err := f.Create(t.Context(), "there", []byte("y")); err != nil {
		t.Fatal(err)
	}
	return f, New(f, opts)
}

func TestPassingFailuresAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, st := setup(t, Options{})
		for _, op := range []fault.Op{fault.Create, fault.ReadRange, fault.Stat, fault.List, fault.Delete, fault.ExtendLock, fault.ReadLock} {
			f.Add(fault.Rule{Op: op, Times: 2, Do: fault.Fail(errs.Transient)},
				fault.Rule{Op: op, Times: 2, Do: fault.Fail(errs.Unavailable)})
		}
		for op, err := range all(t.Context(), st) {
			if err != nil {
				t.Errorf("%s: %v", op, err)
			}
		}
		if left := f.Unused(); len(left) != 0 {
			t.Errorf("faults that did not happen: %+v", left)
		}
	})
}

func TestOtherFailuresAreNot(t *testing.T) {
	for _, kind := range []errs.Kind{
		errs.Internal, errs.Invalid, errs.NotFound, errs.Exists, errs.Conflict, errs.Fenced, errs.Corrupt, errs.Denied, errs.Full, errs.Canceled,
	} {
		f, st := setup(t, Options{})
		f.Add(fault.Rule{Times: -1, Do: fault.Fail(kind)})
		before := f.Calls("")
		for op, err := range all(t.Context(), st) {
			if !errs.Is(err, kind) {
				t.Errorf("%s: got %v, want kind %v", op, err, kind)
			}
		}
		if n := f.Calls("") - before; n != 8 {
			t.Errorf("kind %v: %d calls for 8", kind, n)
		}
	}
}

func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, st := setup(t, Options{First: time.Second, Most: 8 * time.Second, Elapsed: time.Minute})
		f.Add(fault.Rule{Times: -1, Do: fault.Fail(errs.Unavailable)})
		began := time.Now()
		err := st.Create(t.Context(), "k", nil)
		if !errs.Is(err, errs.Unavailable) || !errors.Is(err, fault.ErrInjected) {
			t.Fatalf("got %v", err)
		}
		took, tries := time.Since(began), f.Calls(fault.Create)-1
		if took > time.Minute || took < 50*time.Second {
			t.Errorf("gave up after %v of a minute", took)
		}
		// 1 2 4 8 8 8 … seconds, each between half and all of it.
		if tries < 9 || tries > 18 {
			t.Errorf("%d tries", tries)
		}
	})
}

func TestContextEndsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, st := setup(t, Options{First: time.Hour, Most: time.Hour, Elapsed: 24 * time.Hour})
		f.Add(fault.Rule{Times: -1, Do: fault.Fail(errs.Unavailable)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := st.Delete(ctx, "k")
		if !errs.Is(err, errs.Canceled) || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, fault.ErrInjected) {
			t.Fatalf("got %v, want canceled with both causes", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Fatalf("took %v", took)
		}
	})
}

// TestAmbiguousCreate: after a lost answer our own object answers Exists, and
// so does a foreign one. Neither becomes success, and neither is repeated.
func TestAmbiguousCreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, st := setup(t, Options{})
		f.Add(fault.Rule{Op: fault.Create, Prefix: "own", Do: fault.LoseAnswer()})
		if err := st.Create(t.Context(), "own", []byte("mine")); !errs.Is(err, errs.Exists) {
			t.Fatalf("own object: got %v, want exists", err)
		}
		p := make([]byte, 10)
		if n, err := st.ReadRange(t.Context(), "own", p, 0); err != nil || string(p[:n]) != "mine" {
			t.Fatalf("own object: %q, %v", p[:n], err)
		}

		// The request is stuck; meanwhile somebody else takes the name.
		release := make(chan struct{})
		f.Add(fault.Rule{Op: fault.Create, Prefix: "foreign", Do: fault.Late(release)})
		took := make(chan error)
		go func() {
			time.Sleep(10 * time.Millisecond) // virtual: inside the first pause
			took <- f.Create(t.Context(), "foreign", []byte("theirs"))
		}()
		if err := st.Create(t.Context(), "foreign", []byte("mine")); !errs.Is(err, errs.Exists) {
			t.Fatalf("foreign object: got %v, want exists", err)
		}
		if err := <-took; err != nil {
			t.Fatal(err)
		}
		close(release)
		f.Wait()
		if n, err := st.ReadRange(t.Context(), "foreign", p, 0); err != nil || string(p[:n]) != "theirs" {
			t.Fatalf("foreign object: %q, %v", p[:n], err)
		}
	})
}

// TestFailureBeforeIsPlainSuccess: a Create that did not reach the store and then
// does is plain success.
func TestFailureBeforeIsPlainSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, st := setup(t, Options{})
		f.Add(fault.Rule{Op: fault.Create, Times: 3, Do: fault.Fail(errs.Transient)})
		if err := st.Create(t.Context(), "k", nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOutageIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		f, st := setup(t, Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		for range 3 {
			f.Add(fault.Rule{Op: fault.Stat, Times: 5, Do: fault.Fail(errs.Unavailable)})
			if _, err := st.Stat(t.Context(), "there"); err != nil {
				t.Fatal(err)
			}
			if _, err := st.Stat(t.Context(), "there"); err != nil {
				t.Fatal(err)
			}
		}
		if w, i := strings.Count(out.String(), "level=WARN"), strings.Count(out.String(), "level=INFO"); w != 3 || i != 3 {
			t.Fatalf("%d warnings and %d all-clears for 3 outages:\n%s", w, i, out.String())
		}
	})
}

func TestPauseGrowsAndIsBounded(t *testing.T) {
	st := New(mem.New(), Options{First: 100 * time.Millisecond, Most: time.Second})
	for tries, full := range map[int]time.Duration{1: 100e6, 2: 200e6, 3: 400e6, 4: 800e6, 5: 1e9, 6: 1e9, 1000: 1e9} {
		for range 200 {
			if p := st.pause(tries); p < full/2-1 || p > full {
				t.Fatalf("after %d tries: %v, want %v to %v", tries, p, full/2, full)
			}
		}
	}
}

// TestBatchRepeatsWhatFailed: of a batch only the keys that failed for a
// passing reason are tried again, and every other failure is reported as it is.
func TestBatchRepeatsWhatFailed(t *testing.T) {
	f := fault.New(mem.New())
	s := New(f, Options{First: time.Microsecond, Most: time.Microsecond})
	keys := []string{"a", "b", "c", "d"}
	for _, key := range keys {
		if err := s.Create(t.Context(), key, nil); err != nil {
			t.Fatal(err)
		}
	}
	f.Add(fault.Rule{Op: fault.Delete, Prefix: "b", Do: fault.LoseAnswer()}, fault.Rule{Op: fault.Delete, Prefix: "c", Times: 2, Do: fault.Fail(errs.Unavailable)},
		fault.Rule{Op: fault.Delete, Prefix: "d", Do: fault.Fail(errs.Denied)})
	out := s.DeleteBatch(t.Context(), keys)
	if out[0] != nil || out[1] != nil || out[2] != nil || !errs.Is(out[3], errs.Denied) {
		t.Fatalf("%v", out)
	}
	if n := f.Calls(fault.Delete); n != 4+2+1 {
		t.Errorf("%d deletions for four keys, of which one fails once and one twice", n)
	}
	f.Add(fault.Rule{Op: fault.Delete, Times: -1, Do: fault.Fail(errs.Transient)})
	s = New(f, Options{First: time.Microsecond, Most: time.Microsecond, Elapsed: time.Millisecond})
	for _, err := range s.DeleteBatch(t.Context(), keys[:2]) {
		if !errs.Is(err, errs.Transient) {
			t.Errorf("after all tries: %v", err)
		}
	}
}
