package fleet

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"holdfast/internal/msa/site"
)

func TestDecide(t *testing.T) {
	up := func(n site.Name) box { return box{name: n, alive: true} }
	erp := wish{domain: "erp", serve: true, weight: 3}
	for name, c := range map[string]struct {
		wishes []wish
		boxes  []box
		now    map[site.Name]spot
		want   map[site.Name]spot
	}{
		"the first box": {[]wish{erp}, []box{up("a"), up("b")}, nil, map[site.Name]spot{"erp": {drva: "a"}}},
		"by load": {[]wish{erp, {domain: "web", serve: true, weight: 1}, {domain: "crm", serve: true, weight: 1}}, []box{up("a"), up("b")}, nil,
			map[site.Name]spot{"erp": {drva: "a"}, "crm": {drva: "b"}, "web": {drva: "b"}}},
		"where it is, it stays":    {[]wish{erp}, []box{up("a"), up("b")}, map[site.Name]spot{"erp": {drva: "b"}}, map[site.Name]spot{"erp": {drva: "b"}}},
		"a silent box takes none":  {[]wish{erp}, []box{{name: "a"}, up("b")}, nil, map[site.Name]spot{"erp": {drva: "b"}}},
		"a silent box keeps it":    {[]wish{erp}, []box{{name: "a"}, up("b")}, map[site.Name]spot{"erp": {drva: "a"}}, map[site.Name]spot{"erp": {drva: "a"}}},
		"a lost one does not":      {[]wish{erp}, []box{{name: "a", gone: true}, up("b")}, map[site.Name]spot{"erp": {drva: "a"}}, map[site.Name]spot{"erp": {drva: "b"}}},
		"unless there is no other": {[]wish{erp}, []box{{name: "a", gone: true}}, map[site.Name]spot{"erp": {drva: "a"}}, map[site.Name]spot{"erp": {drva: "a"}}},
		"one that was removed":     {[]wish{erp}, nil, map[site.Name]spot{"erp": {drva: "a"}}, map[site.Name]spot{"erp": {}}},
		"draining": {[]wish{erp}, []box{{name: "a", alive: true, draining: true}, up("b")}, map[site.Name]spot{"erp": {drva: "a"}},
			map[site.Name]spot{"erp": {drva: "a", leaving: true}}},
		"draining with no other": {[]wish{erp}, []box{{name: "a", alive: true, draining: true}}, map[site.Name]spot{"erp": {drva: "a"}},
			map[site.Name]spot{"erp": {drva: "a"}}},
		"no draining any more": {[]wish{erp}, []box{up("a"), up("b")}, map[site.Name]spot{"erp": {drva: "a", leaving: true}},
			map[site.Name]spot{"erp": {drva: "a"}}},
		"pinned": {[]wish{{domain: "erp", serve: true, pinned: "b"}}, []box{up("a"), up("b")}, map[site.Name]spot{"erp": {drva: "a"}},
			map[site.Name]spot{"erp": {drva: "a", leaving: true}}},
		"pinned to what is silent": {[]wish{{domain: "erp", serve: true, pinned: "b"}}, []box{up("a"), {name: "b"}}, map[site.Name]spot{"erp": {drva: "a"}},
			map[site.Name]spot{"erp": {drva: "a"}}},
		"recovered elsewhere": {[]wish{{domain: "erp"}}, []box{up("a")}, map[site.Name]spot{"erp": {drva: "a"}}, map[site.Name]spot{"erp": {drva: "a", leaving: true}}},
		"deleted":             {nil, []box{up("a")}, map[site.Name]spot{"erp": {drva: "a"}}, map[site.Name]spot{"erp": {drva: "a", leaving: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := decide(c.wishes, c.boxes, c.now); !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// world is boxes with what they really run, and a manager that decides.
type world struct {
	rng     *rand.Rand
	wishes  []wish
	boxes   []box
	spots   map[site.Name]spot
	running map[site.Name]map[site.Name]bool // by box: what it publishes
	// excused are, by box, domains that were given to others because it was lost.
	excused map[site.Name]map[site.Name]bool
	bad     string // what happened that must not
	// gives says whether a box is told of a domain; the broken variants change it.
	gives func(s spot) bool
	// waits says whether a leaving domain waits for its box.
	waits bool
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 7)), spots: map[site.Name]spot{}, running: map[site.Name]map[site.Name]bool{}, excused: map[site.Name]map[site.Name]bool{},
		gives: func(s spot) bool { return !s.leaving }, waits: true}
	for i := range 2 + w.rng.IntN(4) {
		w.boxes = append(w.boxes, box{name: site.Name(fmt.Sprintf("box%d", i)), alive: true})
	}
	for i := range 1 + w.rng.IntN(130) {
		w.wishes = append(w.wishes, wish{domain: site.Name(fmt.Sprintf("d%d", i)), serve: true, weight: 1 + w.rng.IntN(9)})
	}
	return w
}

// happen does something at random to the world.
func (w *world) happen() {
	b := &w.boxes[w.rng.IntN(len(w.boxes))]
	d := &w.wishes[w.rng.IntN(len(w.wishes))]
	switch w.rng.IntN(7) {
	case 0:
		b.draining = !b.draining
	case 1:
		b.alive = false
	case 2:
		b.gone = !b.alive
	case 3:
		b.alive, b.gone = true, false
	case 4:
		d.serve = !d.serve
	case 5:
		d.pinned = w.boxes[w.rng.IntN(len(w.boxes))].name
	case 6:
		d.pinned = ""
	}
}

// exchange has a box that lives take its setup, and tell that.
func (w *world) exchange(b box) {
	if !b.alive {
		return
	}
	now := map[site.Name]bool{}
	for d, s := range w.spots {
		if s.drva == b.name && w.gives(s) {
			now[d] = true
			for other := range w.running { // it opens the container, and fences whoever has it
				if other != b.name && w.running[other][d] && !w.excused[other][d] {
					w.bad = fmt.Sprintf("%s opens %s, which %s has", b.name, d, other)
				}
			}
		}
	}
	delete(w.excused, b.name)
	w.running[b.name] = now
	for d, s := range w.spots { // it tells that it is so
		if s.drva == b.name && s.leaving {
			w.spots[d] = spot{}
		}
	}
}

func (w *world) settle() {
	before := maps.Clone(w.spots)
	w.spots = decide(w.wishes, w.boxes, w.spots)
	for d, s := range before {
		i := slices.IndexFunc(w.boxes, func(b box) bool { return b.name == s.drva })
		if i < 0 || !w.boxes[i].gone || w.spots[d].drva == s.drva {
			continue
		}
		if w.excused[s.drva] == nil {
			w.excused[s.drva] = map[site.Name]bool{}
		}
		w.excused[s.drva][d] = true
	}
	if w.waits {
		return
	}
	for d, s := range w.spots {
		if s.leaving {
			w.spots[d] = spot{}
		}
	}
}

// check returns what must not be.
func (w *world) check() string {
	if w.bad != "" {
		return w.bad
	}
	count := map[site.Name]int{}
	moving := 0 // each has room kept for it somewhere
	for _, s := range w.spots {
		count[s.drva]++
		if s.leaving {
			moving++
		}
	}
	for _, d := range w.wishes {
		if !d.serve || w.spots[d.domain].drva != "" {
			continue
		}
		for _, b := range w.boxes {
			if b.alive && !b.gone && !b.draining && count[b.name]+moving < mostDomains && (d.pinned == "" || d.pinned == b.name) {
				return fmt.Sprintf("%s is nowhere, and %s has room", d.domain, b.name)
			}
		}
	}
	for _, b := range w.boxes {
		if count[b.name] > mostDomains {
			return fmt.Sprintf("%s has %d domains", b.name, count[b.name])
		}
	}
	return ""
}

// play plays a game and returns what went wrong.
func (w *world) play(steps int) string {
	for range steps {
		switch w.rng.IntN(3) {
		case 0:
			w.happen()
		case 1:
			w.exchange(w.boxes[w.rng.IntN(len(w.boxes))])
		}
		w.settle()
		if bad := w.check(); bad != "" {
			return bad
		}
	}
	return ""
}

// TestNeverTwice plays games of boxes that come, go, are drained and lost: no domain is
// published by two, unless one of them is fenced, and none is nowhere while there is room.
func TestNeverTwice(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for i := range uint64(40) {
		if bad := newWorld(seed + i).play(150); bad != "" {
			t.Fatalf("seed %d: %s", seed+i, bad)
		}
	}
	for name, breakIt := range map[string]func(*world){
		"a box is not waited for": func(w *world) { w.waits = false },
		"a box keeps what leaves": func(w *world) { w.gives = func(spot) bool { return true } },
	} {
		caught := false
		for i := range uint64(40) {
			w := newWorld(seed + i)
			breakIt(w)
			caught = caught || w.play(150) != ""
		}
		if !caught {
			t.Errorf("seed %d: %s, and nobody noticed", seed, name)
		}
	}
}
