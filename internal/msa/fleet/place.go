package fleet

import (
	"cmp"
	"slices"

	"holdfast/internal/msa/site"
)

// wish is what is wanted for one domain.
type wish struct {
	domain site.Name
	serve  bool      // some DRVA of this site is to have it
	pinned site.Name // the one that must; "": any
	weight int       // how much of a DRVA it takes
}

// box is a DRVA, as far as it matters for which domains it gets.
type box struct {
	name     site.Name
	alive    bool // it was heard of, and not long ago
	draining bool
	gone     bool // it is no DRVA of this site any more, or was not heard of for LostAfter
}

// spot is where a domain is.
type spot struct {
	drva    site.Name // "": nowhere
	leaving bool      // it is in no setup, and the box has not said that it let go
}

// decide returns where each domain is to be from now on, given where it is. It is pure;
// the same arguments give the same result. What is not wished for leaves.
func decide(wishes []wish, boxes []box, now map[site.Name]spot) map[site.Name]spot {
	d := &decision{boxes: map[site.Name]box{}, load: map[site.Name]int{}, count: map[site.Name]int{}, wishes: map[site.Name]wish{}}
	for _, b := range boxes {
		d.boxes[b.name] = b
	}
	for _, w := range wishes {
		d.wishes[w.domain] = w
	}
	next := map[site.Name]spot{}
	for name, s := range now {
		next[name] = s
		d.add(name, s.drva)
	}
	order := make([]site.Name, 0, len(next)+len(wishes))
	for name := range next {
		order = append(order, name)
	}
	for _, w := range wishes {
		if _, known := next[w.domain]; !known {
			order = append(order, w.domain)
		}
	}
	// The heavy first: what is light fits in later.
	slices.SortFunc(order, func(a, b site.Name) int {
		return cmp.Or(cmp.Compare(d.wishes[b].weight, d.wishes[a].weight), cmp.Compare(a, b))
	})
	each := func(which func(wish, spot) bool, do func(site.Name, spot) spot) {
		for _, name := range order {
			if which(d.wishes[name], next[name]) {
				next[name] = do(name, next[name])
			}
		}
	}
	// What is on its way has its room first, then what is nowhere; then others may move.
	each(func(_ wish, s spot) bool { return s.drva != "" && d.lost(s.drva) }, d.keep)
	each(func(_ wish, s spot) bool { return s.leaving }, d.keep)
	each(func(w wish, s spot) bool { return w.serve && s.drva == "" }, d.put)
	each(func(_ wish, s spot) bool { return s.drva != "" && !s.leaving && !d.lost(s.drva) }, d.keep)
	return next
}

// decision is what decide knows while it decides.
type decision struct {
	boxes  map[site.Name]box
	wishes map[site.Name]wish
	load   map[site.Name]int // by DRVA: weights
	count  map[site.Name]int // by DRVA: domains
}

func (d *decision) add(name, drva site.Name) {
	if drva != "" {
		d.load[drva] += d.wishes[name].weight
		d.count[drva]++
	}
}

func (d *decision) remove(name, drva site.Name) {
	d.load[drva] -= d.wishes[name].weight
	d.count[drva]--
}

// lost reports whether nobody at a box can let go of anything.
func (d *decision) lost(drva site.Name) bool { return d.boxes[drva].name == "" || d.boxes[drva].gone }

// put gives a domain that is nowhere to a box, if one has room.
func (d *decision) put(name site.Name, _ spot) spot {
	to := d.choose(d.wishes[name], "")
	d.add(name, to)
	return spot{drva: to}
}

// keep says whether a domain stays where it is, has to leave, or is free again.
func (d *decision) keep(name site.Name, s spot) spot {
	w, b := d.wishes[name], d.boxes[s.drva]
	free := func() spot { d.remove(name, s.drva); return spot{} }
	if d.lost(s.drva) {
		// Nobody is there to let go of it; who takes it over fences what may be left.
		if !w.serve || b.name == "" || d.choose(w, s.drva) != "" {
			return free()
		}
		return spot{drva: s.drva}
	}
	to := site.Name("")
	if w.serve && (w.pinned != "" && w.pinned != s.drva || w.pinned == "" && b.draining) {
		to = d.choose(w, s.drva)
	}
	if to != "" {
		d.add(name, to) // room is kept for it until it has left
	}
	return spot{drva: s.drva, leaving: !w.serve || to != ""}
}

// choose returns the DRVA with the least to do that can take a domain besides the one it
// must not be; "": none can.
func (d *decision) choose(w wish, not site.Name) (best site.Name) {
	for name, b := range d.boxes {
		switch {
		case name == not || !b.alive || b.gone || d.count[name] >= mostDomains:
		case w.pinned != "" && w.pinned != name:
		case b.draining && w.pinned != name:
		case best == "" || d.load[name] < d.load[best] || d.load[name] == d.load[best] && name < best:
			best = name
		}
	}
	return best
}
