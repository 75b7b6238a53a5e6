package copies

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// copyOf opens the copy as somebody else does.
func (w *world) copyOf() *journal.Container {
	w.t.Helper()
	c, err := journal.Open(w.t.Context(), w.dst, w.key.Identity())
	must(w.t, err)
	return c
}

// oldest is the oldest checkpoint that a container offers, and its history.
func oldest(t *testing.T, c *journal.Container) (journal.CheckpointInfo, *journal.History) {
	t.Helper()
	h, err := c.History(t.Context(), journal.HistoryOptions{})
	must(t, err)
	return h.Checkpoints()[0], h
}

// TestReaders: who began to read a checkpoint of the copy finds all of it for the grace,
// while the source's upkeep frees it, and for as long as a pin holds it.
func TestReaders(t *testing.T) {
	play := func(broken variant, pinned bool, d time.Duration) error {
		w := newWorld(t, seed(t))
		w.live(30, 30*time.Minute)
		w.pass()
		m := w.copier(w.src, w.dst, broken)
		w.catchUp(m)
		c := w.copyOf()
		cp, h := oldest(t, c)
		if pinned {
			_, err := c.Pin(t.Context(), journal.PinOptions{Kind: journal.PinHold, Checkpoint: cp.ID, By: "reader"})
			must(t, err)
		}
		for range 5 {
			w.live(8, d)
			w.pass()
			w.catchUp(m)
		}
		if pinned { // by now by another manifest
			h, err := w.copyOf().History(t.Context(), journal.HistoryOptions{})
			must(t, err)
			cp, err = h.Find("#1")
			must(t, err)
			_, err = read(t.Context(), c, h, cp)
			return err
		}
		_, err := read(t.Context(), c, h, cp)
		return err
	}
	if err := play(variant{}, false, time.Minute); err != nil {
		t.Errorf("within the grace: %v", err)
	}
	if err := play(variant{}, true, 3*time.Hour); err != nil {
		t.Errorf("pinned in the copy: %v", err)
	}
	if err := play(variant{eager: true, blind: true}, false, 3*time.Hour); err == nil {
		t.Error("deleting early was not caught")
	}
	if err := play(variant{}, false, 3*time.Hour); err == nil {
		t.Error("nothing is ever deleted: this test proves nothing")
	}
}

// TestPinsGoBothWays: a pin of the copy's readers holds at the source, and its release
// ends it there; those of the source hold in the copy.
func TestPinsGoBothWays(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(10, 30*time.Minute)
	m := w.copier(w.src, w.dst, variant{})
	w.catchUp(m)
	c := w.copyOf()
	cp, _ := oldest(t, c)
	p, err := c.Pin(t.Context(), journal.PinOptions{Kind: journal.PinHold, Checkpoint: cp.ID, By: "reader"})
	must(t, err)
	q, err := w.c.Tag(t.Context(), w.line, cp.ID, "before", "admin", time.Time{})
	must(t, err)
	state := func(c *journal.Container) (n, released int) {
		pins, err := c.Pins(t.Context())
		must(t, err)
		for _, p := range pins {
			if n++; p.Released {
				released++
			}
		}
		return n, released
	}
	w.catchUp(m)
	for _, c := range []*journal.Container{w.c, c} {
		if n, released := state(c); n != 2 || released != 0 {
			t.Errorf("%d pins, %d of them released", n, released)
		}
	}
	must(t, c.Unpin(t.Context(), p.ID, "reader"))
	must(t, w.c.Unpin(t.Context(), q.ID, "admin"))
	w.catchUp(m)
	for _, c := range []*journal.Container{w.c, c} {
		if n, released := state(c); n != 2 || released != 2 {
			t.Errorf("%d pins, %d of them released", n, released)
		}
	}
}

// TestBranches: the source's branches follow, with what they hold, and end in the copy
// too; a test's branch that was begun in the copy is published to there, is kept by the
// source, and disturbs nobody.
func TestBranches(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(30, 30*time.Minute)
	w.pass()
	m := w.copier(w.src, w.dst, variant{})
	w.catchUp(m)
	c := w.copyOf()
	cp, _ := oldest(t, c)
	test, err := c.Fork(t.Context(), journal.ForkOptions{Checkpoint: cp.ID, Label: "test", Test: true})
	must(t, err)
	p, err := c.OpenPublisher(t.Context(), journal.PublisherOptions{Timeline: test, Host: "other"})
	must(t, err)
	defer p.Close()
	for range 6 {
		w.live(8, 3*time.Hour)
		w.pass()
		w.catchUp(m)
	}
	if newest, bad := w.check(w.dst, 3); bad != "" || newest != w.cp {
		t.Fatalf("checkpoint #%d of %d: %s", newest, w.cp, bad)
	}
	h, err := w.copyOf().History(t.Context(), journal.HistoryOptions{Timeline: test})
	must(t, err)
	got, err := h.Find(fmt.Sprintf("#%d", cp.ID))
	must(t, err)
	if _, err := read(t.Context(), c, h, got); err != nil {
		t.Errorf("the test's branch: %v", err)
	}
	must(t, c.DropTimeline(t.Context(), test, "test"))
	w.catchUp(m)
	lines, err := w.c.Timelines(t.Context())
	must(t, err)
	if len(lines) != 2 || lines[1].Dropped == nil {
		t.Errorf("at the source: %+v", lines)
	}
	// The domain is recovered from the first store: it goes on with another timeline.
	next, err := w.c.Fork(t.Context(), journal.ForkOptions{Checkpoint: w.cp, Label: "recovery"})
	must(t, err)
	w.line = next
	w.takeOver()
	w.maintainer()
	w.head = maps.Clone(w.truths[len(w.truths)-1].image)
	for range 3 {
		w.live(8, time.Hour)
		w.pass()
		w.catchUp(m)
	}
	if newest, bad := w.check(w.dst, 0); bad != "" || newest != w.cp {
		t.Errorf("after a recovery: checkpoint #%d of %d: %s", newest, w.cp, bad)
	}
}

// TestRecoveredFromTheCopy: whoever takes the copy over, or begins a timeline there, has
// it for himself; the Copier says so, writes and deletes nothing any more, and so does one
// that begins anew. One that does not look mixes both histories up.
func TestRecoveredFromTheCopy(t *testing.T) {
	for name, recover := range map[string]func(w *world){
		"a takeover": func(w *world) {
			p, err := w.copyOf().OpenPublisher(t.Context(), journal.PublisherOptions{Host: "other"})
			must(t, err)
			must(t, p.Close())
		},
		"a fork": func(w *world) {
			_, err := w.copyOf().Fork(t.Context(), journal.ForkOptions{Checkpoint: w.cp, Label: "recovery"})
			must(t, err)
		},
		"both at once with a restart": func(w *world) {
			p, err := w.copyOf().OpenPublisher(t.Context(), journal.PublisherOptions{Host: "other"})
			must(t, err)
			must(t, p.Close())
			w.takeOver() // the same epoch, at the source
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, seed(t))
			w.live(20, 30*time.Minute)
			w.pass()
			m := w.copier(w.src, w.dst, variant{})
			w.catchUp(m)
			recover(w)
			w.live(20, 3*time.Hour)
			w.pass()
			before := list(t, w.dst)
			for _, m := range []*Copier{m, w.copier(w.src, w.dst, variant{}), m} {
				if err := m.CatchUp(t.Context()); !errs.Is(err, errs.Fenced) || errs.RemedyOf(err) == "" {
					t.Fatalf("it goes on: %v", err)
				}
				if s := m.Status(); s.State != Fenced || s.Cause == "" || s.Remedy == "" || s.Lag <= 0 && s.Lag != -1 {
					t.Errorf("%+v", s)
				}
				if err := m.Run(t.Context()); !errs.Is(err, errs.Fenced) {
					t.Errorf("Run: %v", err)
				}
			}
			if after := list(t, w.dst); after != before {
				t.Errorf("the copy was changed:\n%s\n%s", before, after)
			}
			if _, err := w.copyOf().OpenPublisher(t.Context(), journal.PublisherOptions{Host: "other"}); err != nil {
				t.Errorf("the copy's owner cannot go on: %v", err)
			}
		})
	}
	w := newWorld(t, seed(t))
	w.live(20, 30*time.Minute)
	w.pass()
	m := w.copier(w.src, w.dst, variant{blind: true})
	w.catchUp(m)
	if _, err := w.copyOf().Fork(t.Context(), journal.ForkOptions{Checkpoint: w.cp, Label: "recovery"}); err != nil {
		t.Fatal(err)
	}
	w.live(8, time.Minute)
	before := list(t, w.dst)
	_ = m.CatchUp(t.Context()) // whatever it says
	if list(t, w.dst) == before {
		t.Error("not looking was not caught")
	}
}

// TestFenceAtTheVeryMoment: somebody takes the copy over between any two calls of a
// Copier. Whatever landed, the one history there is his.
func TestFenceAtTheVeryMoment(t *testing.T) {
	base := seed(t)
	for k := 0; ; k++ {
		w := newWorld(t, base)
		w.live(4, time.Minute)
		h := &fault.Hooked{Store: w.dst}
		m := w.copier(w.src, h, variant{})
		w.catchUp(m)
		w.live(20, time.Minute)
		var turn sync.Mutex
		n, taken := 0, false
		var p *journal.Publisher
		h.Before = func(op fault.Op, key string) error {
			turn.Lock()
			defer turn.Unlock()
			if n++; n == k+1 && !taken {
				taken = true
				var err error
				p, err = w.copyOf().OpenPublisher(context.WithoutCancel(t.Context()), journal.PublisherOptions{Host: "other"})
				must(t, err)
			}
			return nil
		}
		err := m.CatchUp(t.Context())
		if !taken {
			t.Logf("%d moments", k)
			break
		}
		if !errs.Is(err, errs.Fenced) {
			if err = m.CatchUp(t.Context()); !errs.Is(err, errs.Fenced) { // it was over
				t.Fatalf("HOLDFAST_SEED=%d, call %d: %v", base, k, err)
			}
		}
		b := w.copyOf().NewBuilder(segment.BuilderOptions{})
		for range 3 { // he goes on over whatever landed late
			w.seq++
			w.next++
			b.Reset()
			must(t, b.AddFrame(w.disk.ID, 1, 1, w.seq, blockOf(w.next)))
			b.SetSeqs(w.seq, w.seq)
			q, err := p.Publish(t.Context(), b)
			must(t, err)
			must(t, q.Wait(t.Context()))
		}
		must(t, p.Close())
		hist, err := w.copyOf().History(t.Context(), journal.HistoryOptions{})
		must(t, err)
		if len(hist.Problems()) > 0 || hist.LastSeq() != w.seq {
			t.Fatalf("HOLDFAST_SEED=%d, call %d: the history ends at %d of %d: %+v", base, k, hist.LastSeq(), w.seq, hist.Problems())
		}
	}
}

// list is all that lies in a store, in words.
func list(t *testing.T, st store.Store) string {
	t.Helper()
	var b strings.Builder
	must(t, store.Walk(t.Context(), st, "", func(in store.Info) error { b.WriteString(in.Key + " "); return nil }))
	return b.String()
}

// TestSeveralCopiers of one copy are as good as one.
func TestSeveralCopiers(t *testing.T) {
	w := newWorld(t, seed(t))
	a, b := w.copier(w.src, w.dst, variant{}), w.copier(w.src, w.dst, variant{})
	for range 6 {
		w.live(10, 2*time.Hour)
		w.pass()
		done := make(chan error, 2)
		for _, m := range []*Copier{a, b} {
			go func() { done <- m.CatchUp(context.WithoutCancel(t.Context())) }()
		}
		must(t, <-done)
		must(t, <-done)
		if newest, bad := w.check(w.dst, 3); bad != "" || newest != w.cp {
			t.Fatalf("checkpoint #%d of %d: %s", newest, w.cp, bad)
		}
	}
}

// TestKeys: a rotated data key goes before what it seals; a recipient that is removed at
// the source stays in the copy.
func TestKeys(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(5, time.Minute)
	m := w.copier(w.src, w.dst, variant{})
	w.catchUp(m)
	other, err := journal.NewRecoveryKey()
	must(t, err)
	id, err := w.c.AddRecipient(t.Context(), other.Recipient())
	must(t, err)
	w.catchUp(m)
	rotated, err := w.c.RotateDataKey(t.Context(), journal.RotateOptions{})
	must(t, err)
	must(t, rotated.RemoveRecipient(t.Context(), id))
	w.c = rotated
	w.takeOver()
	w.maintainer()
	w.live(30, 30*time.Minute)
	w.pass()
	h := &fault.Hooked{Store: w.dst, After: func(op fault.Op, key string) error {
		if _, bad := w.check(w.dst, 5); op == "create" && bad != "" {
			t.Errorf("after %s: %s", key, bad)
		}
		return nil
	}}
	w.catchUp(w.copier(w.src, h, variant{}))
	if _, err := journal.Open(t.Context(), w.dst, other.Identity()); err != nil {
		t.Errorf("the removed recipient: %v", err)
	}
}

// TestPlaces: a copy goes only where nothing else lies.
func TestPlaces(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(3, time.Minute)
	other := mem.New()
	if _, err := journal.Create(t.Context(), other, journal.CreateOptions{Name: "other", Recipients: []journal.Recipient{w.key.Recipient()}}); err != nil {
		t.Fatal(err)
	}
	foreign := mem.New()
	must(t, foreign.Create(t.Context(), "photos/holiday.jpg", []byte("x")))
	for name, st := range map[string]store.Store{"another container": other, "something else": foreign} {
		before := list(t, st)
		m := w.copier(w.src, st, variant{})
		if err := m.CatchUp(t.Context()); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		if m.Status().State != Failing || list(t, st) != before {
			t.Errorf("%s: %+v", name, m.Status())
		}
	}
}

// twice is a store that takes a name again.
type twice struct{ store.Store }

func (s twice) Create(ctx context.Context, key string, body []byte) error {
	if err := s.Delete(ctx, key); err != nil {
		return err
	}
	return s.Store.Create(ctx, key, body)
}

// TestStoresAreTried: a store that would keep no fence gets no copy.
func TestStoresAreTried(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(3, time.Minute)
	m := w.copier(w.src, twice{w.dst}, variant{})
	if err := m.CatchUp(t.Context()); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "create-once") {
		t.Errorf("%v", err)
	}
	if s := m.Status(); s.State != Failing || strings.Contains(list(t, w.dst), "keys/") {
		t.Errorf("%+v: %s", s, list(t, w.dst))
	}
}

// TestSourceLost: a source that has lost everything, or something, takes nothing of the
// copy along.
func TestSourceLost(t *testing.T) {
	for _, prefix := range []string{"", "d/", "x/", "keys/", "t/"} {
		w := newWorld(t, seed(t))
		w.live(30, 30*time.Minute)
		w.pass()
		m := w.copier(w.src, w.dst, variant{})
		w.catchUp(m)
		w.clock.Advance(100 * time.Hour)
		must(t, w.dst.Create(t.Context(), "meta/settings/0000000000000001", []byte("x"))) // the copy's clock shows
		must(t, store.Walk(t.Context(), w.src, prefix, func(in store.Info) error { return w.src.Delete(t.Context(), in.Key) }))
		for range 3 {
			_ = m.CatchUp(t.Context()) // whatever it says
		}
		if newest, bad := w.check(w.dst, 0); bad != "" || newest != w.cp {
			t.Errorf("all of %q gone: checkpoint #%d of %d: %s", prefix, newest, w.cp, bad)
		}
	}
}

// TestLocked: what a lock holds in the copy stays, and is counted; the rest goes on.
func TestLocked(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(30, 30*time.Minute)
	w.pass()
	m := w.copier(w.src, w.dst, variant{})
	w.catchUp(m)
	must(t, store.Walk(t.Context(), w.dst, "", func(in store.Info) error {
		return w.dst.ExtendLock(t.Context(), in.Key, store.Lock{Mode: store.LockCompliance, Until: w.clock.Wall().Add(1000 * time.Hour)})
	}))
	locked := list(t, w.dst)
	for range 6 {
		w.live(8, 4*time.Hour)
		w.pass()
		w.catchUp(m)
	}
	after := list(t, w.dst)
	for _, key := range strings.Fields(locked) {
		if !strings.Contains(after, key+" ") {
			t.Errorf("%s is gone", key)
		}
	}
	if s := m.Status(); s.Held == 0 || s.State != Current {
		t.Errorf("%+v", s)
	}
	if newest, bad := w.check(w.dst, 0); bad != "" || newest != w.cp {
		t.Errorf("checkpoint #%d of %d: %s", newest, w.cp, bad)
	}
}

// TestDamage: what is damaged at the source is not copied, what is damaged in the copy
// is named; neither is taken for somebody else's.
func TestDamage(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(5, time.Minute)
	m := w.copier(w.src, w.dst, variant{})
	w.catchUp(m)
	at := m.work.lines[w.line].at.Next
	w.live(1, time.Minute)
	key := journal.ObjectName(objectID(m.work.lines[w.line], &journal.TailObject{Number: at}))
	flip := func(body []byte) []byte { body[len(body)/2] ^= 1; return body }
	good := w.bytes(w.src, key)
	w.src.Damage(key, flip)
	if err := m.CatchUp(t.Context()); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), key) {
		t.Errorf("damaged at the source: %v", err)
	}
	w.src.Damage(key, func([]byte) []byte { return good })
	must(t, w.dst.Create(t.Context(), key, good[:len(good)/2]))
	if err := m.CatchUp(t.Context()); !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), key) {
		t.Errorf("damaged in the copy: %v", err)
	}
	must(t, w.dst.Delete(t.Context(), key))
	w.catchUp(m)
	if newest, bad := w.check(w.dst, 0); bad != "" || newest != w.cp {
		t.Errorf("checkpoint #%d of %d: %s", newest, w.cp, bad)
	}
}

// TestRun: it follows, bears failures, and ends when it is told to.
func TestRun(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(3, time.Minute)
	fails := make(chan struct{}, 100)
	h := &fault.Hooked{Store: w.dst, Before: func(op fault.Op, key string) error {
		select {
		case fails <- struct{}{}:
			return errDead
		default:
			return nil
		}
	}}
	for range cap(fails) - 1 { // the first call alone fails
		fails <- struct{}{}
	}
	m, err := New(w.c, h, Options{Interval: time.Second})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	for {
		if s := m.Status(); s.State == Current {
			break
		}
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; !errs.Is(err, errs.Canceled) {
		t.Error(err)
	}
	if newest, bad := w.check(w.dst, 0); bad != "" || newest != w.cp {
		t.Errorf("checkpoint #%d of %d: %s", newest, w.cp, bad)
	}
	if _, err := New(w.c, h, Options{Interval: time.Millisecond}); !errs.Is(err, errs.Invalid) {
		t.Error(err)
	}
}
