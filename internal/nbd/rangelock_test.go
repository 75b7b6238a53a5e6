package nbd

import (
	"math/rand/v2"
	"testing"
)

func lockOp() *Op { return NewOp(func(*Op, error) {}) }

func TestRangeLockOrder(t *testing.T) {
	var l rangeLock
	whole, other, part, after, far := lockOp(), lockOp(), lockOp(), lockOp(), lockOp()
	if !l.acquire(whole, 0, 4096, false) || !l.acquire(other, 0, 8192, false) {
		t.Fatal("whole-block writes must share")
	}
	if l.acquire(part, 0, 4096, true) {
		t.Fatal("a part of a block was let in beside whole ones")
	}
	if l.acquire(after, 0, 4096, false) {
		t.Fatal("a later write overtook a parked one")
	}
	if !l.acquire(far, 8192, 12288, true) {
		t.Fatal("a write elsewhere had to wait")
	}
	if free := l.release(whole); !free.empty() {
		t.Fatal("released too early")
	}
	free := l.release(other)
	if free.pop() != part || !free.empty() {
		t.Fatal("the parked write was not next")
	}
	free = l.release(part)
	if free.pop() != after || !free.empty() {
		t.Fatal("the last write was not next")
	}
	l.release(after)
	l.release(far)
	if l.holders != nil || !l.parked.empty() || l.alone != 0 {
		t.Error("the lock is not empty")
	}
}

// TestRangeLockRandom checks exclusion and that everybody gets his turn.
func TestRangeLockRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var l rangeLock
	held, parked := map[*Op]bool{}, 0
	check := func(op *Op) {
		for h := range held {
			if h != op && h.span.collides(&op.span) {
				t.Fatalf("[%d,%d) and [%d,%d) hold together", h.span.lo, h.span.hi, op.span.lo, op.span.hi)
			}
		}
	}
	for i := range 20000 {
		if i < 10000 && r.IntN(2) == 0 {
			op, lo := lockOp(), int64(r.IntN(20))
			if l.acquire(op, lo, lo+1+int64(r.IntN(5)), r.IntN(3) == 0) {
				held[op] = true
				check(op)
			} else {
				parked++
			}
			continue
		}
		for op := range held {
			delete(held, op)
			free := l.release(op)
			for p := free.pop(); p != nil; p = free.pop() {
				parked--
				held[p] = true
				check(p)
			}
			break
		}
	}
	if len(held) != 0 || parked != 0 {
		t.Errorf("%d held, %d parked at the end", len(held), parked)
	}
}
