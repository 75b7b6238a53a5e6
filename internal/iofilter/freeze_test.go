package iofilter

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/wire"
)

// guestAgent is a scripted Freezer.
type guestAgent struct {
	mu             sync.Mutex
	takes          time.Duration // to freeze
	fail           error
	thawFails      int // times
	thawedEarly    bool
	frozen         bool
	began          time.Time
	stood          time.Duration // how long the last freeze lasted
	freezes, thaws int
}

func (g *guestAgent) Freeze(ctx context.Context, _ dr.VMID, _ time.Duration) error {
	g.mu.Lock()
	takes, fail := g.takes, g.fail
	g.freezes++
	g.began = time.Now()
	g.mu.Unlock()
	t := time.NewTimer(takes)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return errs.E("agent", errs.Canceled, "guest", ctx.Err())
	case <-t.C:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.frozen = fail == nil
	return fail
}

func (g *guestAgent) Thaw(context.Context, dr.VMID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.thaws++
	if g.thawFails > 0 {
		g.thawFails--
		return errs.New("agent", errs.Transient, "guest", "does not answer")
	}
	was := g.frozen && !g.thawedEarly
	if g.frozen {
		g.stood = time.Since(g.began)
	}
	g.frozen = false
	if !was {
		return errs.New("agent", errs.Conflict, "guest", "it had thawed by itself")
	}
	return nil
}

func (g *guestAgent) is() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.frozen
}

// freezeRig is a rig whose guest has an agent.
func freezeRig(t *testing.T, f Freezer) *rig {
	r := newRig(t, dr.Async, 1<<20)
	r.o.freeze = newQuiescer(r.o, f)
	r.synced()
	stop := r.stop
	r.stop = func() { stop(); r.o.freeze.close() }
	return r
}

// expect is the next report of the host.
func (r *rig) expect(typ wire.Type, state wire.FreezeState) wire.FreezeVM {
	r.t.Helper()
	m := <-r.drva.reports
	if m.t != typ || len(m.VMs) != 1 || m.VMs[0].State != state || (state == wire.FreezeHeld) != (m.VMs[0].Reason == "") {
		r.t.Fatalf("frame %d: %+v", m.t, m.VMs)
	}
	return m.VMs[0]
}

func freezeFrame(round wire.Round) []byte {
	return wire.Freeze{Round: round, Limit: 10 * time.Second}.Append(nil)
}

func thawFrame(round wire.Round) []byte {
	var b [wire.RoundSize]byte
	round.Put(b[:])
	return wire.Encode(wire.TypeThaw, b[:])
}

func TestFreezeAndThaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guestAgent{takes: time.Second}
		r := freezeRig(t, g)
		defer r.end()
		for round := wire.Round(1); round <= 3; round++ {
			r.drva.tell(freezeFrame(round))
			r.expect(wire.TypeFrozen, wire.FreezeHeld)
			r.drva.tell(thawFrame(round + 7)) // another's
			synctest.Wait()
			if !g.is() {
				t.Fatal("thawed by another round")
			}
			r.drva.tell(thawFrame(round))
			r.expect(wire.TypeThawed, wire.FreezeHeld)
			if g.is() || g.stood > 2*time.Second {
				t.Fatalf("stood still for %v", g.stood)
			}
		}
	})
}

// TestGuestsThawWhateverHappens: no guest is frozen for longer than the limit,
// and the DRVA, if it is there, hears the truth.
func TestGuestsThawWhateverHappens(t *testing.T) {
	for name, c := range map[string]struct {
		most time.Duration
		do   func(r *rig)
	}{
		"the DRVA says nothing": {10 * time.Second, func(r *rig) {
			r.expect(wire.TypeThawed, wire.FreezeFailed)
		}},
		"the DRVA dies":             {0, func(r *rig) { r.drva.with(func() { r.drva.down = true }); r.drva.crash() }},
		"the link is cut":           {0, func(r *rig) { r.drva.cutLink() }},
		"another round begins":      {0, func(r *rig) { r.drva.tell(freezeFrame(9)) }},
		"the host component stops":  {0, func(r *rig) { r.stop() }},
		"the thaw fails five times": {15 * time.Second, func(r *rig) { r.expect(wire.TypeThawed, wire.FreezeFailed) }},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := &guestAgent{}
			r := freezeRig(t, g)
			if name == "the thaw fails five times" {
				g.thawFails = 5
			}
			r.drva.tell(freezeFrame(1))
			r.expect(wire.TypeFrozen, wire.FreezeHeld)
			began := time.Now()
			c.do(r)
			for {
				synctest.Wait()
				g.mu.Lock()
				thawed := g.thaws > 0 && g.thawFails == 0 && (!g.frozen || g.freezes > 1)
				g.mu.Unlock()
				if thawed {
					break
				}
				if time.Since(began) > 2*time.Minute {
					t.Fatalf("%s: still frozen after %v", name, time.Since(began))
				}
				time.Sleep(100 * time.Millisecond)
			}
			if d := time.Since(began); d > c.most+200*time.Millisecond {
				t.Errorf("%s: thawed after %v, at most %v", name, d, c.most)
			}
			if name != "the host component stops" {
				r.end()
			}
		})
	}
}

func TestFailedFreezesAreReported(t *testing.T) {
	for name, c := range map[string]struct {
		f      Freezer
		frozen wire.FreezeState
		thawed wire.FreezeState
	}{
		"no way to":       {nil, wire.FreezeFailed, wire.FreezeFailed},
		"agent fails":     {&guestAgent{fail: errs.New("agent", errs.Unavailable, "guest", "no agent")}, wire.FreezeFailed, wire.FreezeFailed},
		"exempt":          {&guestAgent{fail: fmt.Errorf("powered off: %w", ErrExempt)}, wire.FreezeExempt, wire.FreezeExempt},
		"thawed by guest": {&guestAgent{thawedEarly: true}, wire.FreezeHeld, wire.FreezeFailed},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := freezeRig(t, c.f)
			defer r.end()
			r.drva.tell(freezeFrame(1))
			m := <-r.drva.reports
			if m.t != wire.TypeFrozen || m.VMs[0].State != c.frozen {
				t.Errorf("%s: %+v", name, m)
			}
			r.drva.tell(thawFrame(1))
			m = <-r.drva.reports
			if m.t != wire.TypeThawed || m.VMs[0].State != c.thawed || m.VMs[0].Reason == "" && c.f != nil {
				t.Errorf("%s: %+v", name, m)
			}
			g, _ := c.f.(*guestAgent)
			if g != nil && (g.is() || c.frozen == wire.FreezeExempt && g.thaws > 0 || c.frozen == wire.FreezeFailed && g.thaws == 0) {
				t.Errorf("%s: %+v", name, g)
			}
		})
	}
}

// TestSlowFreezeIsGivenUp: one that has not succeeded when the thaw comes comes
// too late, and is undone.
func TestSlowFreezeIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &guestAgent{takes: time.Hour}
		r := freezeRig(t, g)
		defer r.end()
		r.drva.tell(freezeFrame(1))
		time.Sleep(5 * time.Second)
		r.drva.tell(thawFrame(1))
		r.expect(wire.TypeFrozen, wire.FreezeFailed)
		r.expect(wire.TypeThawed, wire.FreezeFailed)
		if g.thaws != 1 {
			t.Errorf("thawed %d times", g.thaws)
		}
	})
}
