package nbd

import "testing"

func TestBufferClasses(t *testing.T) {
	for n, want := range map[int]int{
		1: 4096, 4096: 4096, 4097: 8192, 8192: 8192, 65536: 65536, 65536 + 4096: 81920,
		256<<10 + 4096: 320 << 10, 1 << 20: 1 << 20, 32<<20 + 4096: 40 << 20,
	} {
		if got := classOf(n); got != want {
			t.Errorf("class of %d is %d, want %d", n, got, want)
		}
	}
	for n := 1; n < 40<<20; n += 4093 {
		if c := classOf(n); c < n || c%pageAlign != 0 || classOf(c) != c || c > max(pageAlign, n)*5/4+pageAlign {
			t.Fatalf("class of %d is %d (of that %d)", n, c, classOf(c))
		}
	}
}

// TestBufferPool checks that buffers come back, that an account is settled,
// and that the pool keeps no more than its bound.
func TestBufferPool(t *testing.T) {
	p := newBufferPool()
	acct := &account{freed: make(chan struct{}, 1)}
	b := p.get(5000, acct)
	if !alignedTo(b.b, pageAlign) || len(b.b) != 8192 || acct.used.Load() != 8192 {
		t.Errorf("buffer of %d, account %d", len(b.b), acct.used.Load())
	}
	b.retain()
	b.release()
	if !b.alone() || acct.used.Load() != 8192 {
		t.Error("released too early")
	}
	b.release()
	if acct.used.Load() != 0 || len(acct.freed) != 1 {
		t.Error("account not settled")
	}
	if again := p.get(8000, nil); again != b {
		t.Error("buffer not reused")
	}
	var many []*buffer
	for range poolRetain/(32<<20) + 2 {
		many = append(many, p.get(32<<20, nil))
	}
	for _, b := range many {
		b.release()
	}
	if p.retained > poolRetain {
		t.Errorf("pool keeps %d", p.retained)
	}
}
