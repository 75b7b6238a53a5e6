package model

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"holdfast/internal/dr"
)

// clockMargin is how far the wall clock may be set back between an
// acknowledgement and a cut: a daemon that keeps the time slews it by less.
const clockMargin = 2 * time.Millisecond

// point is a checkpoint as the checker sees it.
type point struct {
	name             string
	group            bool
	taken, published time.Time
	missing          [hosts]bool
}

// checker compares points, in the order of their places in the domain's order,
// with the truth.
type checker struct {
	truth   *truth
	reached []uint64  // by chain: the newest step an earlier group point holds
	replays []*replay // by region

	compared, torn int // regions that were compared, and those with a part of an operation
}

// replay is a region as its first k operations make it.
type replay struct {
	r   *region
	k   int
	buf []byte
}

func newChecker(t *truth) *checker {
	c := &checker{truth: t, reached: make([]uint64, len(t.chains))}
	for _, r := range t.regions {
		c.replays = append(c.replays, &replay{r: r, buf: r.initial()})
	}
	return c
}

// check returns what is wrong with the disks of a point.
func (c *checker) check(p *point, img *image) (wrong []string) {
	say := func(format string, a ...any) {
		wrong = append(wrong, fmt.Sprintf("%s: ", p.name)+fmt.Sprintf(format, a...))
	}
	for i, ch := range c.truth.chains {
		if p.group {
			c.checkGroup(i, p, img, say)
			continue
		}
		for host := range hosts {
			if !p.missing[host] {
				if _, err := ch.prefix(img, func(s place) bool { return hostOf(s.disk) == host }); err != nil {
					say("chain %d on host %d alone: %v", ch.id, host+1, err)
				}
			}
		}
	}
	for _, r := range c.replays {
		if p.missing[hostOf(r.r.disk)] {
			continue
		}
		if err := c.checkRegion(r, p, img); err != nil {
			say("region %d on disk %d: %v", r.r.id, r.r.disk, err)
		}
	}
	return wrong
}

// checkGroup checks chain i over all disks.
func (c *checker) checkGroup(i int, p *point, img *image, say func(string, ...any)) {
	ch := c.truth.chains[i]
	m, err := ch.prefix(img, func(place) bool { return true })
	if err != nil {
		say("chain %d: %v", ch.id, err)
		return
	}
	_, acked := ch.before(p.taken.Add(-clockMargin))
	issued, _ := ch.before(p.published.Add(clockMargin))
	switch {
	case m < uint64(acked):
		say("chain %d: holds %d steps, %d were acknowledged before it was cut", ch.id, m, acked)
	case m > uint64(issued):
		say("chain %d: holds %d steps, %d were issued before it was published", ch.id, m, issued)
	case m < c.reached[i]:
		say("chain %d: holds %d steps, an earlier checkpoint holds %d", ch.id, m, c.reached[i])
	}
	c.reached[i] = max(c.reached[i], m)
}

// prefix returns the m for which the slots that count hold exactly the steps 1
// to m, or why there is none.
func (c *chain) prefix(img *image, counts func(place) bool) (m uint64, err error) {
	values := make([]uint64, len(c.slots))
	for i, s := range c.slots {
		if !counts(s) {
			continue
		}
		if values[i], err = c.decode(s.cut(img), i); err != nil {
			return 0, fmt.Errorf("slot %d on disk %d: %w", i, s.disk, err)
		}
		m = max(m, values[i])
	}
	for i, s := range c.slots {
		if want := c.last(i, m); counts(s) && values[i] != want {
			return 0, fmt.Errorf("effect without its cause: step %d is there, and slot %d on disk %d holds step %d instead of %d", m, i, s.disk, values[i], want)
		}
	}
	return m, nil
}

// decode returns which step slot i holds; 0 when none was written yet.
func (c *chain) decode(p []byte, i int) (uint64, error) {
	want := make([]byte, len(p))
	prefill(want, c.slots[i].disk, c.slots[i].off)
	if bytes.Equal(p, want) {
		return 0, nil
	}
	n := binary.LittleEndian.Uint64(p[16:])
	if n == 0 {
		return 0, fmt.Errorf("neither a step nor what was there at first")
	}
	c.encode(want, n)
	if !bytes.Equal(p, want) || c.slotOf(n) != i {
		return 0, fmt.Errorf("not what step %d wrote", n)
	}
	return n, nil
}

// checkRegion finds how many operations the region holds, and whether they are
// as many as they must be.
func (c *checker) checkRegion(r *replay, p *point, img *image) error {
	issued, _ := r.r.before(p.published.Add(clockMargin))
	least := r.k
	if p.group {
		_, acked := r.r.before(p.taken.Add(-clockMargin))
		least = max(least, acked)
	}
	got := r.r.cut(img)
	c.compared++
	for k := least; k <= issued; k++ {
		r.forward(k)
		if bytes.Equal(got, r.buf) {
			return nil
		}
		if k < issued && r.tornNext(got) {
			c.torn++
			return nil
		}
	}
	// What is wrong is told once: the search begins anew for the next point.
	diff := r.firstDifference(got)
	*r = replay{r: r.r, buf: r.r.initial()}
	return fmt.Errorf("no %d to %d of its operations make it; the latter differs at %d", least, issued, diff)
}

func (r *replay) forward(k int) {
	for ; r.k < k; r.k++ {
		o := r.r.op(r.k)
		o.apply(r.buf)
	}
}

// tornNext reports whether got is the region after k operations and some blocks
// of the next one, but not all.
func (r *replay) tornNext(got []byte) bool {
	o := r.r.op(r.k)
	lo, hi := o.off, o.off+o.n
	if !bytes.Equal(got[:lo], r.buf[:lo]) || !bytes.Equal(got[hi:], r.buf[hi:]) {
		return false
	}
	next := bytes.Clone(r.buf[lo:hi])
	(&op{kind: o.kind, n: o.n, seed: o.seed}).apply(next)
	if bytes.Equal(got[lo:hi], next) {
		return false
	}
	for at := lo; at < hi; {
		end := min(hi, (r.r.off+at)/dr.BlockSize*dr.BlockSize+dr.BlockSize-r.r.off)
		if b := got[at:end]; !bytes.Equal(b, r.buf[at:end]) && !bytes.Equal(b, next[at-lo:end-lo]) {
			return false
		}
		at = end
	}
	return true
}

func (r *replay) firstDifference(got []byte) int {
	for i := range got {
		if got[i] != r.buf[i] {
			return i
		}
	}
	return -1
}
