package mem

import (
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New() })
}

func TestLocks(t *testing.T) {
	storetest.RunLocker(t, func(*testing.T) store.Store { return New() })
}

// TestTheClockDecides: with a clock of its own the store lets go at the
// lock's end, not a moment earlier.
func TestTheClockDecides(t *testing.T) {
	now := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	s := NewAt(func() time.Time { return now })
	lock := store.Lock{Mode: store.LockCompliance, Until: now.Add(30 * 24 * time.Hour)}
	if err := s.CreateLocked(t.Context(), "k", nil, lock); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Stat(t.Context(), "k"); err != nil || !info.Modified.Equal(now) {
		t.Fatalf("%+v, %v", info, err)
	}
	now = lock.Until.Add(-time.Nanosecond)
	if err := s.Delete(t.Context(), "k"); !errs.Is(err, errs.Denied) {
		t.Fatalf("a moment before the end: %v", err)
	}
	now = lock.Until
	if err := s.CreateLocked(t.Context(), "late", nil, lock); !errs.Is(err, errs.Invalid) {
		t.Fatalf("a lock that ends now: %v", err)
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatalf("at the end: %v", err)
	}
}

func TestDamage(t *testing.T) {
	s := New()
	if s.Damage("k", func(b []byte) []byte { return b }) {
		t.Fatal("damaged what is not there")
	}
	if err := s.Create(t.Context(), "k", []byte("abc")); err != nil {
		t.Fatal(err)
	}
	s.Damage("k", func(b []byte) []byte { b[0] = 'x'; return b[:2] })
	p := make([]byte, 9)
	if n, err := s.ReadRange(t.Context(), "k", p, 0); err != nil || string(p[:n]) != "xb" {
		t.Fatalf("read %q, %v", p[:n], err)
	}
}
