package model

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
)

// TestPattern holds the two ways of filling to each other.
func TestPattern(t *testing.T) {
	whole := make([]byte, 100)
	pattern(whole, 7)
	for from := range 30 {
		for n := range 40 {
			part := make([]byte, n)
			patternFrom(part, 7, int64(from))
			if !bytes.Equal(part, whole[from:from+n]) {
				t.Fatalf("from %d, %d bytes: %x instead of %x", from, n, part, whole[from:from+n])
			}
		}
	}
}

// script is a run without a pipeline: steps of chains and regions one after
// the other, a millisecond apart, each acknowledged before the next is issued.
type script struct {
	truth truth
	start time.Time
	done  []func(img *image) // by step
}

// scriptSize is the size of a script's disks.
const scriptSize = 256 << 10

func newScript(rng *rand.Rand, steps int) *script {
	s := &script{start: time.Unix(1_700_000_000, 0)}
	for id := range 2 {
		s.truth.chains = append(s.truth.chains, newChain(rng, id))
	}
	for id := range disks {
		s.truth.regions = append(s.truth.regions, &region{id: id, place: place{id, 64<<10 + 333, 150_001}})
	}
	next := make([]uint64, len(s.truth.chains))
	for i := range steps {
		at := s.start.Add(time.Duration(i) * time.Millisecond)
		var t *times
		if i%2 == 0 {
			ch := s.truth.chains[i/2%len(next)]
			t = &ch.times
			next[i/2%len(next)]++
			n := next[i/2%len(next)]
			s.done = append(s.done, func(img *image) { ch.encode(ch.slots[ch.slotOf(n)].cut(img), n) })
		} else {
			r := s.truth.regions[rng.IntN(disks)]
			t = &r.times
			o := randomOp(rng, r.n)
			r.ops = append(r.ops, o)
			s.done = append(s.done, func(img *image) { o.apply(r.cut(img)) })
		}
		t.issued, t.acked = append(t.issued, at), append(t.acked, at.Add(time.Millisecond/2))
	}
	return s
}

// image returns the disks after the steps that pick names, of the first k.
func (s *script) image(k int, pick func(i int) bool) *image {
	var img image
	for d := range img {
		img[d] = make([]byte, scriptSize)
		prefill(img[d], d, 0)
	}
	for i := range k {
		if pick == nil || pick(i) {
			s.done[i](&img)
		}
	}
	return &img
}

// point is a checkpoint taken after k steps and published right away.
func (s *script) point(k int, group bool) *point {
	at := s.start.Add(time.Duration(k)*time.Millisecond + clockMargin)
	return &point{name: fmt.Sprint("after ", k), group: group, taken: at, published: at}
}

// TestCheckerAccepts: prefixes of the order are fine, and so is a part of an
// operation nobody was told of.
func TestCheckerAccepts(t *testing.T) {
	for seed := range uint64(6) {
		s := newScript(rand.New(rand.NewPCG(seed, 1)), 400)
		c := newChecker(&s.truth)
		for k := 0; k <= 400; k += 1 + 3*int(seed) {
			if wrong := c.check(s.point(k, k%3 > 0), s.image(k, nil)); len(wrong) > 0 {
				t.Fatalf("seed %d: %s", seed, strings.Join(wrong, "\n"))
			}
		}
	}
	s := newScript(rand.New(rand.NewPCG(5, 5)), 400)
	k, o, r := s.lastOf(399, func(o *op, r *region) bool { return o.kind == opWrite && o.n > 3*dr.BlockSize })
	old, img := s.image(k, nil), s.image(k, nil)
	s.done[k](img)
	first := (r.off+o.off)/dr.BlockSize*dr.BlockSize + dr.BlockSize
	copy(img[r.disk][first:first+dr.BlockSize], old[r.disk][first:])
	c := newChecker(&s.truth)
	p := s.point(k, true)
	p.published = p.published.Add(time.Second)
	if wrong := c.check(p, img); len(wrong) > 0 || c.torn != 1 {
		t.Errorf("an operation under way: %d torn, %q", c.torn, wrong)
	}
	img[r.disk][first+100] ^= 1
	if wrong := newChecker(&s.truth).check(p, img); len(wrong) == 0 {
		t.Error("a block that neither the operation nor its predecessor made was accepted")
	}
}

// lastOf returns the last step at or before i that is a region's operation
// like fits.
func (s *script) lastOf(i int, fits func(*op, *region) bool) (int, *op, *region) {
	for ; ; i-- {
		for _, r := range s.truth.regions {
			for j := range r.ops {
				if r.issued[j].Equal(s.start.Add(time.Duration(i)*time.Millisecond)) && fits(&r.ops[j], r) {
					return i, &r.ops[j], r
				}
			}
		}
	}
}

// TestCheckerRefuses breaks a point in every way a pipeline might, and demands
// that the checker sees it. The sound point is accepted first.
func TestCheckerRefuses(t *testing.T) {
	const k = 400
	cases := []struct {
		name   string
		words  string // of the checker
		break_ func(s *script, p *point, img *image)
	}{
		{"a slot rolled back by one lap", "effect without its cause", func(s *script, _ *point, img *image) {
			ch := s.truth.chains[0]
			n := ch.last(1, 100)
			ch.encode(ch.slots[1].cut(img), n-uint64(len(ch.slots)))
		}},
		{"an effect without its cause", "effect without its cause", func(s *script, _ *point, img *image) {
			ch := s.truth.chains[0]
			ch.encode(ch.slots[ch.slotOf(102)].cut(img), 102)
		}},
		{"an acknowledged step missing", "were acknowledged before", func(s *script, p *point, img *image) {
			*img = *s.image(k-8, func(i int) bool { return true })
		}},
		{"a step from the future", "were issued before", func(s *script, p *point, _ *image) {
			p.taken, p.published = s.start, s.start
		}},
		{"half a slot", "not what step", func(s *script, _ *point, img *image) {
			sl := s.truth.chains[1].slots[2]
			clear(sl.cut(img)[sl.n/2:])
		}},
		{"a slot of the other chain", "not what step", func(s *script, _ *point, img *image) {
			copy(s.truth.chains[0].slots[0].cut(img), s.truth.chains[1].slots[0].cut(img))
		}},
		{"one disk of an older point", "", func(s *script, _ *point, img *image) {
			img[2] = s.image(k/2, nil)[2]
		}},
		{"one host of an older point", "", func(s *script, _ *point, img *image) {
			old := s.image(k-20, nil)
			img[0], img[1] = old[0], old[1]
		}},
		{"an operation left out", "of its operations make it", func(s *script, _ *point, img *image) {
			skip, _, _ := s.lastOf(k-20, func(*op, *region) bool { return true })
			*img = *s.image(k, func(i int) bool { return i != skip })
		}},
		{"one byte", "of its operations make it", func(s *script, _ *point, img *image) {
			r := s.truth.regions[3]
			img[r.disk][r.end()-1] ^= 0x80
		}},
		{"a zeroed block", "of its operations make it", func(s *script, _ *point, img *image) {
			_, o, r := s.lastOf(k, func(o *op, _ *region) bool { return o.kind == opWrite && o.n > 2*dr.BlockSize })
			clear(img[r.disk][r.off+o.off+100 : r.off+o.off+100+dr.BlockSize])
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newScript(rand.New(rand.NewPCG(3, 9)), k+100)
			sound, img := s.point(k, true), s.image(k, nil)
			if wrong := newChecker(&s.truth).check(sound, img); len(wrong) > 0 {
				t.Fatalf("the sound point: %q", wrong)
			}
			c.break_(s, sound, img)
			wrong := strings.Join(newChecker(&s.truth).check(sound, img), "\n")
			if wrong == "" || !strings.Contains(wrong, c.words) {
				t.Errorf("the checker says %q, which should be of %q", wrong, c.words)
			}
		})
	}
	t.Run("history going back", func(t *testing.T) {
		s := newScript(rand.New(rand.NewPCG(3, 9)), k)
		c := newChecker(&s.truth)
		c.check(s.point(k, true), s.image(k, nil))
		p := s.point(k-100, true)
		p.published = p.published.Add(time.Second)
		wrong := strings.Join(c.check(p, s.image(k-100, nil)), "\n")
		if !strings.Contains(wrong, "an earlier checkpoint holds") || !strings.Contains(wrong, "of its operations make it") {
			t.Errorf("the checker says %q", wrong)
		}
	})
	t.Run("a VM of a partial point", func(t *testing.T) {
		s := newScript(rand.New(rand.NewPCG(3, 9)), k)
		img := s.image(k, nil)
		img[1] = s.image(k-60, nil)[1]
		p := s.point(k, false)
		if wrong := newChecker(&s.truth).check(p, img); len(wrong) == 0 {
			t.Error("a torn VM was accepted")
		}
		p.missing[0] = true
		if wrong := newChecker(&s.truth).check(p, img); len(wrong) > 0 {
			t.Errorf("the missing VM was looked at: %q", wrong)
		}
	})
}
