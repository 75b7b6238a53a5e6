package copies

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
	"holdfast/internal/store/dir"
	"holdfast/internal/store/mem"
	"holdfast/internal/store/storetest/fault"
)

// script is a history with an upkeep that frees things, copied from the middle of it
// on. tell is called after each object the copy gets; it ends the script with a fault.
func script(t *testing.T, base uint64, broken variant, dst func(*world) store.Store) (broke string) {
	w := newWorld(t, base)
	st := dst(w)
	w.live(30, 10*time.Minute)
	w.pass()
	var at atomic.Pointer[string]
	last := w.cp
	h := &fault.Hooked{Store: st}
	watch := func(op fault.Op, key string) error {
		if op != "create" || at.Load() != nil {
			return nil
		}
		if newest, bad := w.check(st, 7); bad != "" {
			s := fmt.Sprintf("after %s: %s", key, bad)
			at.CompareAndSwap(nil, &s)
		} else if newest > last {
			s := fmt.Sprintf("after %s: checkpoint #%d of %d", key, newest, last)
			at.CompareAndSwap(nil, &s)
		}
		return nil
	}
	h.After = watch
	m := w.copier(w.src, h, broken)
	for range 6 {
		last = w.cp
		if err := m.CatchUp(t.Context()); err != nil {
			return err.Error()
		}
		if s := at.Load(); s != nil {
			return *s
		}
		if newest, bad := w.check(st, 0); bad != "" || newest != w.cp {
			return fmt.Sprintf("caught up: checkpoint #%d of %d; %s", newest, w.cp, bad)
		}
		w.live(12, 40*time.Minute)
		w.pass()
		w.takeOver()
	}
	if bad := w.equal(); bad != "" {
		return bad
	}
	return ""
}

func inMemory(w *world) store.Store { return w.dst }

// TestEveryPrefix: after every single object that the copy gets, it is a container
// whose every checkpoint holds what it held, or none yet.
func TestEveryPrefix(t *testing.T) {
	base := seed(t)
	for i := range uint64(3) {
		if broke := script(t, base+i, variant{}, inMemory); broke != "" {
			t.Fatalf("HOLDFAST_SEED=%d: %s", base+i, broke)
		}
	}
	if broke := script(t, base, variant{}, func(w *world) store.Store {
		st, err := dir.Open(t.TempDir())
		must(t, err)
		return st
	}); broke != "" {
		t.Fatalf("in a directory: %s", broke)
	}
}

// TestUpkeepMeanwhile is TestEveryPrefix while the source is published to, thinned,
// packed and freed between any two calls of the Copier.
func TestUpkeepMeanwhile(t *testing.T) {
	base := seed(t)
	w := newWorld(t, base)
	w.live(40, 20*time.Minute)
	w.pass()
	var turn sync.Mutex // the world is one goroutine's
	calls, deleted, broke := 0, 0, ""
	src := &fault.Hooked{Store: w.src, Before: func(fault.Op, string) error {
		turn.Lock()
		defer turn.Unlock()
		if calls++; calls > 1500 {
			return nil // it comes to an end
		}
		switch {
		case calls%97 == 0:
			deleted += w.pass().Deleted
		case calls%301 == 0:
			w.takeOver()
		case calls%11 == 0:
			w.live(1, 25*time.Minute)
		}
		return nil
	}}
	dst := &fault.Hooked{Store: w.dst, After: func(op fault.Op, key string) error {
		turn.Lock()
		defer turn.Unlock()
		if op != "create" || broke != "" {
			return nil
		}
		if _, bad := w.check(w.dst, 15); bad != "" {
			broke = fmt.Sprintf("after %s: %s", key, bad)
		}
		return nil
	}}
	m := w.copier(src, dst, variant{})
	for done := false; !done; {
		w.catchUp(m)
		turn.Lock()
		done = calls > 1500
		turn.Unlock()
	}
	w.catchUp(m)
	if broke != "" {
		t.Fatalf("HOLDFAST_SEED=%d: %s", base, broke)
	}
	if newest, bad := w.check(w.dst, 0); bad != "" || newest != w.cp {
		t.Fatalf("HOLDFAST_SEED=%d: checkpoint #%d of %d: %s", base, newest, w.cp, bad)
	}
	if deleted == 0 {
		t.Error("the upkeep has freed nothing: too little happened")
	}
	t.Logf("%d checkpoints, %d objects freed at the source, %d in the copy", w.cp, deleted, m.Status().Deleted)
}

// TestEveryPrefixCatches: the same test of ways to copy that break a rule.
func TestEveryPrefixCatches(t *testing.T) {
	base := seed(t)
	for name, broken := range map[string]variant{
		"manifest first": {manifestFirst: true}, "backwards": {backwards: true}, "container first": {domainFirst: true},
	} {
		broke := ""
		for i := uint64(0); i < 5 && broke == ""; i++ {
			broke = script(t, base+i, broken, inMemory)
		}
		if broke == "" {
			t.Errorf("%s: not caught", name)
		}
		t.Logf("%s: %s", name, broke)
	}
}

// TestCrashAtEveryCall stops the copy's store at each call in turn, before it has its
// effect or after, once for a Copier that lives on and once for one that begins anew.
func TestCrashAtEveryCall(t *testing.T) {
	base := seed(t)
	w := newWorld(t, base)
	w.live(20, 30*time.Minute)
	w.pass()
	w.live(20, 5*time.Minute)
	run := func(k int, late, once bool) (calls int) {
		st := mem.NewAt(w.clock.Wall)
		var n atomic.Int64
		kill := func(when bool) func(op fault.Op, key string) error {
			return func(fault.Op, string) error {
				if late != when {
					return nil
				}
				if i := n.Add(1); k >= 0 && (i == int64(k)+1 || !once && i > int64(k)) {
					return errDead
				}
				return nil
			}
		}
		h := &fault.Hooked{Store: st, Before: kill(false), After: kill(true)}
		m := w.copier(w.src, h, variant{})
		err := m.CatchUp(t.Context())
		if k < 0 && err != nil || k >= 0 && err == nil && !once { // the trial bears one that is not deleted
			t.Fatalf("HOLDFAST_SEED=%d: stopped at call %d: %v", base, k, err)
		}
		calls = int(n.Load())
		if newest, bad := w.check(st, 9); bad != "" {
			t.Fatalf("HOLDFAST_SEED=%d: stopped at call %d, late %v: checkpoint #%d: %s", base, k, late, newest, bad)
		}
		if !once {
			h.Before, h.After = nil, nil
			m = w.copier(w.src, st, variant{})
		}
		w.catchUp(m)
		if newest, bad := w.check(st, 9); bad != "" || newest != w.cp {
			t.Fatalf("HOLDFAST_SEED=%d: stopped at call %d, late %v, and caught up: checkpoint #%d of %d: %s", base, k, late, newest, w.cp, bad)
		}
		return calls
	}
	calls := run(-1, false, false)
	for k := range calls {
		run(k, k%2 == 0, k/2%2 == 0)
	}
	t.Logf("%d calls", calls)
}

// TestResumes: a Copier that begins anew lists the copy once and copies nothing twice.
func TestResumes(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(20, 30*time.Minute)
	w.pass()
	w.catchUp(w.copier(w.src, w.dst, variant{}))
	w.live(5, time.Minute)
	creates := 0
	h := &fault.Hooked{Store: w.dst, Before: func(op fault.Op, key string) error {
		if op == "create" {
			creates++
		}
		return nil
	}}
	m := w.copier(w.src, h, variant{})
	w.catchUp(m)
	metas := creates - 5
	if metas < 0 || metas > 5 {
		t.Errorf("%d objects were created for 5 checkpoints", creates)
	}
	s := m.Status()
	if s.State != Current || s.Lag != 0 || s.Behind != (Behind{}) || s.Newest.IsZero() {
		t.Errorf("%+v", s)
	}
	creates = 0
	w.catchUp(m)
	if creates != 0 {
		t.Errorf("%d objects were created for nothing", creates)
	}
}

// TestAway: while the copy's store is away its state, its lag and what it lacks are
// told; when it is back, it catches up, also over numbers that the source has freed.
func TestAway(t *testing.T) {
	for name, broken := range map[string]variant{"": {}, "no plug": {noPlug: true}} {
		base := seed(t)
		w := newWorld(t, base)
		w.live(20, 30*time.Minute)
		w.pass()
		dead := false
		h := &fault.Hooked{Store: w.dst, Before: func(fault.Op, string) error {
			if dead {
				return errDead
			}
			return nil
		}}
		m := w.copier(w.src, h, broken)
		w.catchUp(m)
		dead = true
		w.live(3, time.Minute)
		if _, err := m.Pass(t.Context()); !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
		if s := m.Status(); s.State != Away || s.Behind.Objects != 3 || s.Lag < 24*time.Hour || s.Cause == "" {
			t.Errorf("%+v", s)
		}
		at := m.work.lines[w.line].at.Next
		for range 12 { // the source frees what the copy never got
			w.live(10, time.Hour)
			w.pass()
		}
		if w.bytes(w.src, journal.ObjectName(objectID(m.work.lines[w.line], &journal.TailObject{Number: at}))) != nil {
			t.Fatal("the source has freed nothing")
		}
		dead = false
		// Somebody takes the copy over from where it stands, at the last moment.
		taken := false
		h.Before = func(op fault.Op, key string) error {
			if op == "create" && strings.HasPrefix(key, "t/"+w.line.String()+"/m/") && !taken {
				taken = true
				c, err := journal.Open(t.Context(), w.dst, w.key.Identity())
				must(t, err)
				if p, err := c.OpenPublisher(t.Context(), journal.PublisherOptions{Host: "other"}); err == nil {
					p.Close()
					if name == "" {
						t.Error("it could be taken over while its chain was stepped over")
					}
				} else if name != "" {
					t.Errorf("%s: %v", name, err)
				}
			}
			return nil
		}
		_ = m.CatchUp(t.Context()) // fenced, by the claim
		if !taken {
			t.Fatal("no manifest was copied")
		}
		if name != "" {
			continue
		}
		if s := m.Status(); s.State != Fenced {
			t.Errorf("after somebody claimed the copy: %+v", s)
		}
	}
}

// TestFirstStoreAway: that the first store is away is not said of the copy's.
func TestFirstStoreAway(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(3, time.Minute)
	dead := false
	src := &fault.Hooked{Store: w.src, Before: func(fault.Op, string) error {
		if dead {
			return errDead
		}
		return nil
	}}
	m := w.copier(src, w.dst, variant{})
	w.catchUp(m)
	dead = true
	if _, err := m.Pass(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Fatal(err)
	}
	if s := m.Status(); s.State != Lagging || s.Cause == "" || s.Lag != 0 {
		t.Errorf("%+v", s)
	}
	dead = false
	w.catchUp(m)
	if s := m.Status(); s.State != Current || s.Cause != "" {
		t.Errorf("%+v", s)
	}
}

// TestComesBack is TestAway with nobody else in the copy.
func TestComesBack(t *testing.T) {
	w := newWorld(t, seed(t))
	w.live(20, 30*time.Minute)
	w.pass()
	m := w.copier(w.src, w.dst, variant{})
	w.catchUp(m)
	for range 12 {
		w.live(10, time.Hour)
		w.pass()
	}
	w.catchUp(m)
	if newest, bad := w.check(w.dst, 0); bad != "" || newest != w.cp {
		t.Fatalf("checkpoint #%d of %d: %s", newest, w.cp, bad)
	}
	for range 6 { // and what is not needed goes, the plug too
		w.live(10, time.Hour)
		w.pass()
		w.catchUp(m)
	}
	if newest, bad := w.check(w.dst, 0); bad != "" || newest != w.cp {
		t.Fatalf("checkpoint #%d of %d: %s", newest, w.cp, bad)
	}
	var src, dst int
	must(t, store.Walk(t.Context(), w.src, "", func(store.Info) error { src++; return nil }))
	must(t, store.Walk(t.Context(), w.dst, "", func(in store.Info) error { dst++; return nil }))
	if m.Status().Deleted == 0 || dst > src+60 {
		t.Errorf("%d objects in the source, %d in the copy, %d deleted", src, dst, m.Status().Deleted)
	}
}
