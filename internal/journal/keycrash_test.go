package journal

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// maxStoreCalls is more than any operation on keys needs of the store here.
const maxStoreCalls = 400

// cutOff is st failing from its k-th operation on; of every other k, the
// operation before took place and its answer was lost.
func cutOff(st store.Store, k int) store.Store {
	f := fault.New(st)
	if k%2 == 1 {
		f.Add(fault.Rule{Skip: k, Do: fault.LoseAnswer()})
	}
	f.Add(fault.Rule{Skip: k, Times: -1, Do: fault.Fail(errs.Unavailable)})
	return f
}

// reads opens the container as p and compares every checkpoint.
func reads(t *testing.T, st store.Store, o *oracle, p party) bool {
	t.Helper()
	c, err := Open(t.Context(), st, p.id)
	if errs.Is(err, errs.Denied) {
		return false
	}
	check(t, err)
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	for _, cp := range h.Checkpoints() {
		if !cp.Recoverable || o.compare(t.Context(), c, h, cp) != nil {
			return false
		}
	}
	return len(h.Checkpoints()) == len(o.at)
}

// twoKeys is a container with an object under each of two data keys and two
// recipients; first is a's.
func twoKeys(t *testing.T, rng *rand.Rand) (st *mem.Store, o *oracle, a, s party, first dr.UUID) {
	st, a, s = mem.New(), recoveryParty(t), serviceParty(t, "s")
	c := must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "k", Recipients: []Recipient{s.r}}))
	first = must[dr.UUID](t)(c.AddRecipient(t.Context(), a.r))
	o = newOracle(rng, 2*dr.ChunkSize)
	publishCells(t, c, o, 1, 5)
	c = must[*Container](t)(c.RotateDataKey(t.Context(), rotateWith(s)))
	publishCells(t, c, o, 1, 5)
	return st, o, a, s, first
}

// TestReplacingSurvivesCrashes: cut off anywhere, somebody of the one replaced
// and the one in its place reads everything, and the rest can be done later.
func TestReplacingSurvivesCrashes(t *testing.T) {
	rng := seeded(t)
	for k := range maxStoreCalls {
		st, o, a, s, first := twoKeys(t, rng)
		b := recoveryParty(t)
		c := must[*Container](t)(Open(t.Context(), st, s.id))
		c.st = cutOff(st, k)
		_, err := c.RotateRecipient(t.Context(), first, b.r)
		if !reads(t, st, o, s) {
			t.Fatalf("cut off at %d: the recipient beside does not read", k)
		}
		if !reads(t, st, o, a) && !reads(t, st, o, b) {
			t.Fatalf("cut off at %d: neither reads everything (%v)", k, err)
		}
		if err == nil {
			if k < 10 || reads(t, st, o, a) || !reads(t, st, o, b) {
				t.Fatalf("replaced after %d operations", k)
			}
			return
		}
		c = must[*Container](t)(Open(t.Context(), st, s.id))
		d := recoveryParty(t)
		if _, err := c.RotateRecipient(t.Context(), first, d.r); errs.Is(err, errs.NotFound) {
			d = b // it was in place already
			if err := c.RemoveRecipient(t.Context(), first); err != nil && !errs.Is(err, errs.NotFound) {
				t.Fatal(err)
			}
		} else {
			check(t, err)
		}
		if reads(t, st, o, a) || !reads(t, st, o, d) || !reads(t, st, o, s) {
			t.Fatalf("cut off at %d and done again: a %v, d %v", k, reads(t, st, o, a), reads(t, st, o, d))
		}
		if r := must[*Report](t)(c.Fsck(t.Context(), FsckOptions{})); !r.Clean {
			t.Fatalf("cut off at %d and done again: %+v", k, r.Problems)
		}
	}
	t.Fatal("it never ends")
}

// TestErasingSurvivesCrashes: cut off anywhere, it goes on when run again, and
// then nobody opens anything.
func TestErasingSurvivesCrashes(t *testing.T) {
	rng := seeded(t)
	for k := range maxStoreCalls {
		st, o, a, s, _ := twoKeys(t, rng)
		before := 0
		for _, in := range keysOf(t, st) {
			if _, ok := parseKeyObject(in.Key); ok {
				before++
			}
		}
		_, err := Erase(t.Context(), cutOff(st, k), "k")
		if err != nil {
			for _, p := range []party{a, s} { // all, some or nothing, never a fault
				reads(t, st, o, p)
			}
		}
		if left := must[*storedKeys](t)(readKeys(t.Context(), st, dr.DomainID{})); err == nil && len(left.order) != 0 {
			t.Fatalf("erased, and %d data keys have wrapped keys", len(left.order))
		}
		must[*EraseReport](t)(Erase(t.Context(), st, "k"))
		for _, p := range []party{a, s} {
			if _, err := Open(t.Context(), st, p.id); !errs.Is(err, errs.Denied) {
				t.Fatalf("cut off at %d and done again: %v", k, err)
			}
		}
		if err == nil {
			if k < before {
				t.Fatalf("%d objects erased with %d operations", before, k)
			}
			return
		}
	}
	t.Fatal("it never ends")
}

// interleaved does something else before its n-th operation. Operations come
// from several goroutines at once.
type interleaved struct {
	store.Store
	n  atomic.Int64
	do func()
}

func (s *interleaved) step() {
	if s.n.Add(-1) == 0 {
		s.do()
	}
}

func (s *interleaved) Create(ctx context.Context, key string, body []byte) error {
	s.step()
	return s.Store.Create(ctx, key, body)
}

func (s *interleaved) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	s.step()
	return s.Store.List(ctx, prefix, after, limit)
}

func (s *interleaved) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	s.step()
	return s.Store.ReadRange(ctx, key, p, off)
}

// TestPublishingDuringARotation: an appliance that is opened, or takes over,
// at any step of a rotation publishes, and everybody reads it; once somebody
// published under the new data key, nobody takes over under the old.
func TestPublishingDuringARotation(t *testing.T) {
	rng := seeded(t)
	for n := 1; n < maxStoreCalls; n++ {
		st, o, a, s, _ := twoKeys(t, rng)
		running := must[*Container](t)(Open(t.Context(), st, a.id))
		happened := false
		c := must[*Container](t)(Open(t.Context(), st, s.id))
		between := &interleaved{Store: st, do: func() {
			happened = true
			publishCells(t, running, o, 1, 5)
			publishCells(t, must[*Container](t)(Open(t.Context(), st, a.id)), o, 1, 5)
		}}
		between.n.Store(int64(n))
		c.st = between
		_, err := c.RotateDataKey(t.Context(), rotateWith(s))
		check(t, err)
		if n == 1 && !happened {
			t.Fatal("nothing was published during the rotation")
		}
		if !reads(t, st, o, a) || !reads(t, st, o, s) {
			t.Fatalf("publishing before operation %d: not everybody reads everything", n)
		}
		// The one that was running goes on until somebody has the new key.
		if cur := must[*Container](t)(Open(t.Context(), st, s.id)); cur.current().number != 3 {
			t.Fatalf("generation %d", cur.current().number)
		} else {
			publishCells(t, cur, o, 1, 5)
		}
		if _, err := running.OpenPublisher(t.Context(), PublisherOptions{}); !errs.Is(err, errs.Corrupt) {
			t.Fatalf("a take-over under the old data key: %v", err)
		}
		if !reads(t, st, o, a) {
			t.Fatal("not everything is read")
		}
		if !happened {
			if n < 10 {
				t.Fatalf("a rotation took %d operations", n)
			}
			return
		}
	}
	t.Fatal("it never ends")
}
