package fault

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New(mem.New()) })
}

func TestLocks(t *testing.T) {
	storetest.RunLocker(t, func(*testing.T) store.Store { return New(mem.New()) })
}

func TestLockCallsFollowTheScript(t *testing.T) {
	s := New(mem.New())
	lock := store.Lock{Mode: store.LockGovernance, Until: time.Now().Add(time.Hour)}
	s.Add(Rule{Op: Create, Do: LoseAnswer()}, Rule{Op: ExtendLock, Do: Fail(errs.Denied)}, Rule{Op: ReadLock, Do: LoseAnswer()})
	if err := s.CreateLocked(t.Context(), "k", nil, lock); !errs.Is(err, errs.Transient) || !exists(t, s, "k") {
		t.Fatalf("create: %v", err)
	}
	longer := store.Lock{Mode: store.LockGovernance, Until: lock.Until.Add(time.Hour)}
	if err := s.ExtendLock(t.Context(), "k", longer); !errs.Is(err, errs.Denied) {
		t.Fatalf("extend: %v", err)
	}
	if got, err := s.ReadLock(t.Context(), "k"); !errs.Is(err, errs.Transient) || !got.IsZero() {
		t.Fatalf("read: %+v, %v", got, err)
	}
	if got, err := s.ReadLock(t.Context(), "k"); err != nil || !got.Equal(lock) {
		t.Fatalf("read again: %+v, %v; want %+v", got, err, lock)
	}
}

func exists(t *testing.T, st store.Store, key string) bool {
	t.Helper()
	_, err := st.Stat(t.Context(), key)
	if err != nil && !errs.Is(err, errs.NotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestRulesMatchTheCallsTheyName(t *testing.T) {
	s := New(mem.New())
	s.Add(Rule{Op: Create, Prefix: "t/", Skip: 2, Times: 2, Do: Fail(errs.Full)})
	for i, c := range []struct {
		key  string
		kind errs.Kind // of the failure; 0: none
	}{
		{"t/1", 0}, {"x/1", 0}, {"t/2", 0}, {"t/3", errs.Full}, {"x/2", 0}, {"t/4", errs.Full}, {"t/5", 0},
	} {
		if i == 3 && len(s.Unused()) != 1 {
			t.Fatal("the rule counts as used before it was")
		}
		err := s.Create(t.Context(), c.key, nil)
		if c.kind == 0 && err != nil || c.kind != 0 && !errs.Is(err, c.kind) {
			t.Errorf("%s: %v", c.key, err)
		}
		if (err == nil) != exists(t, s, c.key) {
			t.Errorf("%s: error %v, but exists %v", c.key, err, exists(t, s, c.key))
		}
	}
	if len(s.Unused()) != 0 || s.Calls(Create) != 7 {
		t.Fatalf("left %v, %d creates", s.Unused(), s.Calls(Create))
	}
	s.Add(Rule{Times: -1, Do: Fail(errs.Denied)})
	s.Clear()
	if !exists(t, s, "t/1") {
		t.Fatal("a cleared rule still acts")
	}
}

func TestLostAnswer(t *testing.T) {
	s := New(mem.New())
	s.Add(Rule{Op: Create, Do: LoseAnswer()})
	err := s.Create(t.Context(), "k", nil)
	if !errs.Is(err, errs.Transient) || !errors.Is(err, ErrInjected) || !exists(t, s, "k") {
		t.Fatalf("got %v, exists %v", err, exists(t, s, "k"))
	}
}

func TestReadsGoWrong(t *testing.T) {
	s := New(mem.New())
	if err := s.Create(t.Context(), "k", []byte{0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	s.Add(Rule{Op: ReadRange, Do: FlipBit(9)}, Rule{Op: ReadRange, Do: Short(1)}, Rule{Op: ReadRange, Do: Fail(errs.Denied)})
	p := make([]byte, 3)
	if n, err := s.ReadRange(t.Context(), "k", p, 0); n != 3 || err != nil || p[1] != 2 {
		t.Fatalf("flip: %v, %d, %v", p, n, err)
	}
	if n, err := s.ReadRange(t.Context(), "k", p, 0); n != 1 || err != nil {
		t.Fatalf("short: %d, %v", n, err)
	}
	if n, err := s.ReadRange(t.Context(), "k", p, 0); n != 0 || !errs.Is(err, errs.Denied) {
		t.Fatalf("denied: %d, %v", n, err)
	}
	if n, err := s.ReadRange(t.Context(), "k", p, 0); n != 3 || err != nil || p[1] != 0 {
		t.Fatalf("after: %v, %d, %v", p, n, err)
	}
}

func TestDelayHoldAndLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(mem.New())
		s.Add(Rule{Op: Create, Prefix: "slow", Do: Delay(time.Hour)})
		began := time.Now()
		if err := s.Create(t.Context(), "slow", nil); err != nil || time.Since(began) != time.Hour {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		s.Add(Rule{Op: Create, Prefix: "cut", Do: Delay(time.Hour)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Create(ctx, "cut", nil); !errs.Is(err, errs.Canceled) || exists(t, s, "cut") {
			t.Fatalf("cut short: %v", err)
		}

		hold := make(chan struct{})
		s.Add(Rule{Op: Create, Prefix: "held", Do: Hold(hold)})
		done := make(chan error)
		go func() { done <- s.Create(t.Context(), "held", nil) }()
		synctest.Wait()
		if exists(t, s, "held") {
			t.Fatal("a held call went through")
		}
		close(hold)
		if err := <-done; err != nil || !exists(t, s, "held") {
			t.Fatalf("held: %v", err)
		}

		late := make(chan struct{})
		s.Add(Rule{Op: Create, Prefix: "late", Do: Late(late)})
		body := []byte("content")
		if err := s.Create(ctx, "late", body); !errs.Is(err, errs.Canceled) {
			t.Fatalf("ended context: %v", err)
		}
		s.Add(Rule{Op: Create, Prefix: "late", Do: Late(late)})
		if err := s.Create(t.Context(), "late", body); !errs.Is(err, errs.Transient) {
			t.Fatalf("late: %v", err)
		}
		copy(body, "garbage") // the caller owns it again
		synctest.Wait()
		if exists(t, s, "late") {
			t.Fatal("landed too early")
		}
		close(late)
		s.Wait()
		p := make([]byte, 10)
		if n, err := s.ReadRange(t.Context(), "late", p, 0); err != nil || string(p[:n]) != "content" {
			t.Fatalf("late content %q, %v", p[:n], err)
		}
	})
}
