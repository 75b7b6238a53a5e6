package journal

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/segment"
)

// The model with maintenance: a maintainer writes manifests and deletes journal
// objects below the anchor, readers and takers begin at the newest manifest or,
// as when that one is damaged, at an older one. Time passes in steps, and now
// and then a whole grace at once, so that every party may have slept through
// anything.

// pace is how fast things happen, in steps.
type pace struct {
	fresh int // EpochCheckAge
	grace int // how old what is deleted is
	steps int // of an interleaving
	calm  int // publishers come and go this many times more seldom
}

var (
	hectic = pace{fresh: 15, grace: 60, steps: 400, calm: 1}
	steady = pace{fresh: 90, grace: 120, steps: 500, calm: 8} // much is published between two looks at the claims
)

// upkeep is the maintained side of a sim.
type upkeep struct {
	pace
	now       int
	births    map[dr.ObjectNumber]int // by object: when it was created
	manifests []modelManifest         // by generation; older ones are never deleted here
	tip       chain                   // what a reader that saw everything accepted: of s.read
	deleted   int
	damaged   int // walks that found the history damaged
	older     int // walks from an older manifest that got to the end
}

// modelManifest is an anchor, and when it was written.
type modelManifest struct {
	at     chain
	number dr.ObjectNumber
	index  int // of what lies behind the anchor, in s.read
	born   int
}

func (s *sim) born(n dr.ObjectNumber) {
	if s.m == nil {
		return
	}
	s.m.births[n] = s.m.now
	for { // the reader that sees everything
		l, ok := s.store[s.m.tip.next]
		if !ok || s.m.tip.step(l) != "" {
			return
		}
		s.read = append(s.read, l)
		s.in[l.number] = l.digest
	}
}

func (s *sim) highest() (n dr.ObjectNumber) {
	for k := range s.store {
		n = max(n, k)
	}
	return n
}

// freed is what a taker finds when it looks beyond its FENCE.
func (s *sim) freed(n dr.ObjectNumber) bool {
	return s.m != nil && !s.v.noLook && sleptOn(n, s.highest())
}

// fenced is the look at the claims that counting needs when the last one is
// old.
func (s *sim) fenced(a *actor) bool {
	if s.m == nil || s.v.noEpochs || s.m.now-a.looked < s.m.fresh {
		return false
	}
	a.looked = s.m.now
	return s.epochs > a.w.epoch
}

// walkFrom walks as History does from a manifest: damaged when a number is
// missing and others lie W beyond it, or when something does not fit.
func (s *sim) walkFrom(c chain) (end chain, got []link, damaged bool) {
	for {
		l, ok := s.store[c.next]
		if !ok {
			return c, got, s.highest() >= c.next+Window
		}
		if c.step(l) != "" {
			return c, got, true
		}
		got = append(got, l)
	}
}

// pick chooses where a walk begins.
func (m *upkeep) pick(rng *rand.Rand) modelManifest {
	i := len(m.manifests) - 1
	if i < 0 {
		return modelManifest{at: newChain(Window)}
	}
	if rng.IntN(3) == 0 { // newer ones are damaged
		i = rng.IntN(len(m.manifests))
	}
	return m.manifests[i]
}

func (s *sim) takerWalk() (chain, bool) {
	if s.m == nil {
		c, _ := s.walk()
		return c, true
	}
	c, _, damaged := s.walkFrom(s.m.pick(s.rng).at)
	return c, !damaged
}

// check is the invariants: a reader that begins anywhere and finds no damage
// has the whole history, one that begins at the newest manifest finds none,
// and what was published is in it.
func (m *upkeep) check(s *sim) {
	begin := m.pick(s.rng)
	_, got, damaged := s.walkFrom(begin.at)
	newest := len(m.manifests) == 0 || begin == m.manifests[len(m.manifests)-1]
	switch {
	case damaged && newest:
		s.fail("a reader from the newest manifest, anchored at %d, finds damage", begin.number)
	case damaged:
		m.damaged++ // it offers nothing
	case !slices.Equal(got, s.read[begin.index:]):
		s.fail("a reader from the manifest anchored at %d has %d objects of %d", begin.number, len(got), len(s.read)-begin.index)
	case !newest:
		m.older++
	}
	for _, n := range s.fresh {
		if s.in[n] != s.publ[n] {
			s.fail("object %d was published and is not in the history", n)
			return
		}
	}
	s.fresh = s.fresh[:0]
}

// write makes a manifest of a prefix of what is accepted.
func (m *upkeep) write(s *sim) {
	if len(s.read) == 0 {
		return
	}
	from := modelManifest{at: newChain(Window)}
	if len(m.manifests) > 0 {
		from = m.manifests[len(m.manifests)-1]
	}
	next := from
	next.born = m.now
	if s.v.ahead { // broken
		l := s.store[s.highest()]
		next.number, next.at.next, next.at.epoch, next.at.prev = l.number, l.number, l.epoch, l.prev
		next.at.accept(l)
		next.index = len(s.read)
		m.manifests = append(m.manifests, next)
		return
	}
	_, got, damaged := s.walkFrom(from.at)
	if damaged || len(got) == 0 {
		return
	}
	for _, l := range got[:1+s.rng.IntN(len(got))] {
		next.at.accept(l)
		next.number = l.number
		next.index++
	}
	m.manifests = append(m.manifests, next)
}

// collect deletes some of what may be deleted.
func (m *upkeep) collect(s *sim) {
	if len(m.manifests) == 0 {
		return
	}
	last := len(m.manifests) - 1
	floor := m.manifests[last].number
	for _, k := range m.manifests[:last] {
		if m.now-k.born < m.grace {
			floor = min(floor, k.number)
		}
	}
	_, got, damaged := s.walkFrom(m.manifests[last].at)
	if damaged {
		return
	}
	newest := m.manifests[last].number
	if len(got) > 0 {
		newest = got[len(got)-1].number
	}
	may := newest - min(newest, KeepNumbers)
	if s.v.keep != 0 {
		may = newest - min(newest, s.v.keep)
	}
	part := s.rng.IntN(2) == 0 // a run that breaks off, or is refused a few
	for _, n := range slices.Sorted(maps.Keys(s.store)) {
		if n > min(floor, may) {
			return
		}
		if m.now-m.births[n] < m.grace && !s.v.noGrace || part && s.rng.IntN(4) == 0 {
			continue
		}
		delete(s.store, n)
		m.deleted++
	}
}

// runMaintained plays one interleaving with maintenance.
func (s *sim) runMaintained() string {
	s.spawn()
	for range s.m.steps {
		s.m.now++
		switch x := s.rng.IntN(200); {
		case x < 2:
			s.m.now += s.m.grace // all sleep
		case x < 7:
			s.m.write(s)
		case x < 12:
			s.m.collect(s)
		case x < 18 && s.rng.IntN(s.m.calm) > 0:
		case x < 16 && len(s.actors) < 8:
			s.spawn()
		case x < 18:
			s.crash(s.actors[s.rng.IntN(len(s.actors))])
			s.spawn()
		case x < 90 && len(s.flying) > 0:
			i := s.rng.IntN(len(s.flying))
			if s.rng.IntN(8) != 0 { // mostly the young ones: the others are very late
				i = max(0, len(s.flying)-1-s.rng.IntN(4))
			}
			s.land(i)
		case x < 104:
			s.check()
		default:
			i := s.rng.IntN(len(s.actors))
			if s.rng.IntN(4) != 0 {
				i = max(0, len(s.actors)-1-s.rng.IntN(2)) // the newest two, mostly
			}
			s.act(s.actors[i])
		}
		if s.fault != "" {
			return s.fault
		}
	}
	for len(s.flying) > 0 && s.fault == "" {
		s.m.now += s.rng.IntN(s.m.grace)
		s.land(s.rng.IntN(len(s.flying)))
	}
	s.check()
	return s.fault
}

func newMaintainedSim(seed uint64, v variant) *sim {
	s := newSim(seed, v)
	p := hectic
	if seed%2 == 1 {
		p = steady
	}
	s.m = &upkeep{pace: p, births: make(map[dr.ObjectNumber]int), tip: newChain(Window)}
	return s
}

func TestFencingModelWithMaintenance(t *testing.T) {
	n := envInt(t, "HOLDFAST_SIM_N", 3_000)
	base := uint64(envInt(t, "HOLDFAST_SEED", 1))
	published, fences, deleted, damaged, older := 0, 0, 0, 0, 0
	for i := range n {
		s := newMaintainedSim(base+uint64(i), variant{})
		if why := s.runMaintained(); why != "" {
			t.Fatalf("seed %d: %s", base+uint64(i), why)
		}
		published += len(s.publ)
		deleted += s.m.deleted
		damaged += s.m.damaged
		older += s.m.older
		for _, l := range s.read {
			if l.kind == segment.Fence && l.epoch > 1 {
				fences++
			}
		}
	}
	t.Logf("%d interleavings, %d objects published, %d takeovers, %d objects deleted, %d readers from older manifests, %d of them found out that objects are gone; no violation",
		n, published, fences, deleted, older+damaged, damaged)
	if published < 10*n || fences < n || deleted < 5*n || damaged < n/10 || older < n/10 {
		t.Fatal("the model did too little to prove anything")
	}
}

func TestModelWithMaintenanceCatchesBrokenRules(t *testing.T) {
	const n = 4000                                                          // at most: the first few that break are enough
	first := map[string]int{"a taker does not look beyond its fence": 1050} // 2 of the seeds 0..3999 break: where to begin
	for _, v := range []variant{
		{name: "fewer numbers kept than W", keep: Window - 1},
		{name: "the anchor is ahead of what is accepted", ahead: true},
		{name: "a taker does not look beyond its fence", noLook: true},
		{name: "a publisher never looks at the claims again", noEpochs: true, noLook: true},
		{name: "objects are deleted young, and claims are not looked at again", noGrace: true, noEpochs: true, keep: 1},
	} {
		caught, tried, enough := 0, 0, 3
		if first[v.name] > 0 {
			enough = 1
		}
		why := ""
		for tried = 0; tried < n && caught < enough; tried++ {
			if f := newMaintainedSim(uint64(first[v.name]+tried), v).runMaintained(); f != "" {
				caught++
				why = f
			}
		}
		t.Logf("%s: %d of %d interleavings break, as: %s", v.name, caught, tried, why)
		if caught == 0 {
			t.Errorf("%s: not caught in %d interleavings", v.name, tried)
		}
	}
}
