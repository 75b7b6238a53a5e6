package stores

import (
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

// clock is a clock that tests set, of publisher, maintainer and store.
type clock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func (c *clock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Boot() time.Duration { return time.Duration(c.Wall().UnixNano()) }

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// TestLocksEnd: maintenance deletes nothing that is locked, and what is due
// once the lock has ended.
func TestLocksEnd(t *testing.T) {
	clk := &clock{now: time.Now()}
	st := mem.NewAt(clk.Wall)
	w := newWorld(t, st)
	c := w.open(st)
	p, err := c.OpenPublisher(t.Context(), journal.PublisherOptions{Clock: clk, Lock: journal.LockOptions{Mode: store.LockCompliance, For: 10 * 24 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	m, err := maintain.New(t.Context(), c, maintain.Options{Clock: clk, PackAge: time.Hour, Policy: &maintain.Policy{Grace: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	key := journal.JournalPrefix(p.Timeline())
	page, err := st.List(t.Context(), key, "", 1)
	if err != nil || len(page) != 1 {
		t.Fatal(page, err)
	}
	oldest := page[0].Key
	gone := func() bool {
		_, err := st.Stat(t.Context(), oldest)
		return errs.Is(err, errs.NotFound)
	}
	for day := range 14 {
		for range 4 {
			w.wait(w.publish(c, p))
			clk.add(6 * time.Hour)
			m.Compact()
			if _, err := m.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if day < 9 && gone() {
			t.Fatalf("deleted on day %d, under a lock of ten days", day+1)
		}
	}
	if !gone() {
		t.Error("the lock has ended, and what nothing needs is still there")
	}
}
