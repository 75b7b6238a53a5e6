package mem

import (
	"testing"

	"holdfast/internal/store"
	"holdfast/internal/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return New() })
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
