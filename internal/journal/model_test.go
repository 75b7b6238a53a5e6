package journal

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/segment"
)

// The model: publishers, zombies and a reader over a store that creates a
// name once, with every step of every party chosen by one generator. It
// drives chain, writer and taker, the very code the engine drives.

// variant is a way to break the rules; the zero value is the real rules.
type variant struct {
	name        string
	gap         dr.ObjectNumber // 0: Window
	skipOrphans bool            // the reader does not jump but skips what it cannot accept
	retry       bool            // a publisher that meets a foreign object takes the next number
	countWindow bool            // the window counts objects under way, not from the prefix

	// Of the model with maintenance.
	keep     dr.ObjectNumber // how many numbers are kept; 0: KeepNumbers
	ahead    bool            // the anchor is the newest object there is, accepted or not
	noLook   bool            // a taker does not look beyond its FENCE
	noEpochs bool            // a publisher does not look at the claims again
	noGrace  bool            // journal objects are deleted however young they are
}

// sim is one interleaving.
type sim struct {
	rng    *rand.Rand
	v      variant
	store  map[dr.ObjectNumber]link
	epochs dr.Epoch
	actors []*actor
	flying []*flight // requests that may land at any time, or never
	serial uint64
	read   []link                             // longest history any reader accepted
	publ   map[dr.ObjectNumber]segment.Digest // published, by whomever
	in     map[dr.ObjectNumber]segment.Digest // of read
	fresh  []dr.ObjectNumber                  // published since the last check
	buf    []link                             // of walk
	fault  string
	m      *upkeep // nil: nothing is ever deleted
}

// flight is one Create under way. Its answer may be lost; it may land after
// its sender is gone.
type flight struct {
	from *actor // nil once the sender is gone
	l    link
}

// actor is one publisher's life: walking, then publishing, then dead.
type actor struct {
	tk     *taker
	w      *writer
	flying int
	own    map[dr.ObjectNumber]segment.Digest
	asked  bool // the FENCE is under way
	dead   bool
	looked int // when it last looked at the claims
}

func (s *sim) digest() (d segment.Digest) {
	s.serial++
	for i := range 8 {
		d[i] = byte(s.serial >> (8 * i))
	}
	return d
}

func (s *sim) gap() dr.ObjectNumber {
	if s.v.gap != 0 {
		return s.v.gap
	}
	return Window
}

// walk reads the history from its beginning as a reader does.
func (s *sim) walk() (chain, []link) {
	c := newChain(s.gap())
	if s.v.skipOrphans {
		c.gap = 1
	}
	got := s.buf[:0]
	defer func() { s.buf = got }()
	for {
		l, ok := s.store[c.next]
		if !ok {
			return c, got
		}
		if why := c.step(l); why != "" {
			if s.v.skipOrphans && l.epoch < c.epoch {
				c.next++
				continue
			}
			s.fail("the history is stuck at %d: %s", c.next, why)
			return c, got
		}
		got = append(got, l)
	}
}

func (s *sim) fail(format string, args ...any) {
	if s.fault == "" {
		s.fault = fmt.Sprintf(format, args...)
	}
}

// check is the invariants: accepted objects stay, published ones are accepted.
func (s *sim) check() {
	if s.m != nil {
		s.m.check(s)
		return
	}
	_, got := s.walk()
	if len(got) < len(s.read) || !slices.Equal(got[:len(s.read)], s.read) {
		s.fail("of %d objects accepted once some are not any more", len(s.read))
		return
	}
	for _, l := range got[len(s.read):] {
		s.in[l.number] = l.digest
	}
	s.read = append(s.read, got[len(s.read):]...)
	for _, n := range s.fresh { // those looked at before are in, and what is in stays
		if s.in[n] != s.publ[n] {
			s.fail("object %d was published and is not in the history", n)
			return
		}
	}
	s.fresh = s.fresh[:0]
}

func (s *sim) publish(n dr.ObjectNumber, d segment.Digest) {
	s.publ[n] = d
	s.fresh = append(s.fresh, n)
}

// spawn starts a publisher: it claims the next epoch.
func (s *sim) spawn() {
	a := &actor{own: make(map[dr.ObjectNumber]segment.Digest)}
	if s.m != nil {
		a.looked = s.m.now // a publisher's first look is before its claim
	}
	s.epochs++
	a.tk = &taker{claimed: s.epochs}
	s.actors = append(s.actors, a)
}

func (s *sim) send(a *actor, l link) {
	s.flying = append(s.flying, &flight{a, l})
	a.flying++
}

// act lets one publisher do its next step.
func (s *sim) act(a *actor) {
	switch {
	case a.dead:
	case a.w == nil && !a.asked:
		if a.tk.next == 0 || s.rng.IntN(3) == 0 { // it may also act on an old walk
			c, ok := s.takerWalk()
			if !ok {
				a.dead = true // the history looks damaged: it refuses
				return
			}
			if c.gap = s.gap(); a.tk.walked(c) {
				a.dead = true
				return
			}
		}
		n, prev := a.tk.fenceAt()
		a.own[n] = s.digest()
		a.asked = true
		s.send(a, link{number: n, kind: segment.Fence, epoch: a.tk.claimed, prev: prev, digest: a.own[n]})
	case a.w != nil && s.room(a):
		n, prev := a.w.place()
		d := s.digest()
		a.own[n] = d
		a.w.seal(d, dr.UUID{})
		s.send(a, link{number: n, kind: segment.Journal, epoch: a.w.epoch, prev: prev, digest: d})
	}
}

func (s *sim) room(a *actor) bool {
	if s.v.countWindow {
		return a.flying < Window
	}
	return a.w.room()
}

// land lets a request reach the store; its answer arrives with it, or is lost
// and the sender asks again, or the sender never hears.
func (s *sim) land(i int) {
	f := s.flying[i]
	s.flying[i] = s.flying[len(s.flying)-1]
	s.flying = s.flying[:len(s.flying)-1]
	there, taken := s.store[f.l.number]
	if !taken {
		s.store[f.l.number] = f.l
		there = f.l
		s.born(f.l.number)
	}
	a := f.from
	if a == nil || a.dead {
		return
	}
	a.flying--
	if s.rng.IntN(8) == 0 { // the answer is lost: the same again
		s.send(a, f.l)
		return
	}
	s.answer(a, f.l, there == f.l)
}

func (s *sim) answer(a *actor, l link, own bool) {
	switch {
	case a.w == nil && own && s.freed(l.number):
		a.asked = false
		a.tk.next = 0 // the name had been freed: walk again
	case a.w == nil && own:
		a.w = a.tk.won(l.digest, dr.UUID{}, Window)
		s.publish(l.number, l.digest)
	case a.w == nil:
		a.asked = false
		a.tk.next = 0 // walk on
	case own:
		a.w.land(l.number)
		if s.fenced(a) {
			a.w.stop()
			a.dead = true
			return
		}
		from := a.w.published
		for n := from + 1; n <= a.w.count(); n++ {
			s.publish(n, a.own[n])
		}
	case s.v.retry:
		// Broken: the object moves to the next free number.
		d := s.digest()
		n, prev := a.w.place()
		a.w.landed[l.number] = true
		a.w.count()
		a.own[n] = d
		a.w.seal(d, dr.UUID{})
		s.send(a, link{number: n, kind: segment.Journal, epoch: a.w.epoch, prev: prev, digest: d})
	default:
		a.w.stop()
		a.dead = true
	}
}

// crash ends a publisher; what it has under way flies on.
func (s *sim) crash(a *actor) {
	a.dead = true
	for _, f := range s.flying {
		if f.from == a {
			f.from = nil
		}
	}
}

// run plays one interleaving and returns what broke, or "".
func (s *sim) run(steps int) string {
	s.spawn()
	for range steps {
		switch x := s.rng.IntN(100); {
		case x < 3 && len(s.actors) < 6:
			s.spawn()
		case x < 5:
			s.crash(s.actors[s.rng.IntN(len(s.actors))])
			if len(s.actors) < 8 {
				s.spawn()
			}
		case x < 50 && len(s.flying) > 0:
			s.land(s.rng.IntN(len(s.flying)))
		case x < 53 && len(s.flying) > 0 && s.flying[0].from == nil:
			s.flying = s.flying[1:] // never lands
		case x < 60:
			s.check()
		default:
			s.act(s.actors[s.rng.IntN(len(s.actors))])
		}
		if s.fault != "" {
			return s.fault
		}
	}
	for len(s.flying) > 0 && s.fault == "" {
		s.land(s.rng.IntN(len(s.flying)))
	}
	s.check()
	return s.fault
}

func newSim(seed uint64, v variant) *sim {
	return &sim{rng: rand.New(rand.NewPCG(seed, 1)), v: v, store: make(map[dr.ObjectNumber]link), publ: make(map[dr.ObjectNumber]segment.Digest), in: make(map[dr.ObjectNumber]segment.Digest)}
}

const simSteps = 160

func TestFencingModel(t *testing.T) {
	n := envInt(t, "HOLDFAST_SIM_N", 20_000)
	base := uint64(envInt(t, "HOLDFAST_SEED", 1))
	published, fences := 0, 0
	for i := range n {
		s := newSim(base+uint64(i), variant{})
		if why := s.run(simSteps); why != "" {
			t.Fatalf("seed %d: %s", base+uint64(i), why)
		}
		published += len(s.publ)
		for _, l := range s.read {
			if l.kind == segment.Fence && l.epoch > 1 {
				fences++
			}
		}
	}
	t.Logf("%d interleavings, %d objects published, %d takeovers, no violation", n, published, fences)
	if published < 5*n || fences < n {
		t.Fatalf("the model did too little to prove anything: %d published, %d takeovers", published, fences)
	}
}

func TestModelCatchesBrokenRules(t *testing.T) {
	const n = 2000
	for _, v := range []variant{
		{name: "no gap after a fence", gap: 1},
		{name: "a gap one too small", gap: Window - 1},
		{name: "reader skips orphans instead of jumping", skipOrphans: true},
		{name: "no gap, reader and publisher shift around orphans", gap: 1, skipOrphans: true, retry: true},
		{name: "publisher goes on after a foreign object", retry: true},
		{name: "window counts objects under way", countWindow: true},
	} {
		caught := 0
		why := ""
		for i := range n {
			if f := newSim(uint64(i), v).run(simSteps); f != "" {
				caught++
				why = f
			}
		}
		t.Logf("%s: %d of %d interleavings break, as: %s", v.name, caught, n, why)
		if caught == 0 {
			t.Errorf("%s: not caught in %d interleavings", v.name, n)
		}
	}
}
