package index

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"holdfast/internal/dr"
)

const head = dr.Seq(1 << 40)

// cutRuns cuts a history into runs of adjacent seqs, newest first.
func cutRuns(t testing.TB, r *rand.Rand, h []event) []run {
	t.Helper()
	var runs []run
	for len(h) > 0 {
		n := 1 + r.IntN(len(h))
		if r.IntN(2) == 0 {
			n = min(n, 6)
		}
		runs = append(runs, toRun(t, h[:n], 1+r.IntN(9)))
		h = h[n:]
	}
	slices.Reverse(runs)
	return runs
}

// belowRun gives every block content that is older than the history: a parent
// timeline.
func belowRun(t testing.TB) (run, image) {
	t.Helper()
	var h []event
	for d := range testDisks {
		for c := range uint32(testChunks) {
			h = append(h, event{seq: 0, disk: d, object: dataID(1 << 20), frame: uint32(d)*testChunks + c, chunk: c, mask: fullMask})
		}
	}
	return toRun(t, h, 0), at(h, 0, nil)
}

// TestMergesKeepEveryRetainedPoint: whatever is merged in whatever order, all
// retained checkpoints and the head read as the full history says; and what is
// left at the end is needed, entry by entry.
func TestMergesKeepEveryRetainedPoint(t *testing.T) {
	r := seeded(t)
	for i := range times(t, 1000) {
		h := randomHistory(r, 1+r.IntN(40))
		points := randomPoints(r, h)
		runs := cutRuns(t, r, h)
		var below []run
		var base image
		bottom := r.IntN(2) == 0
		if !bottom {
			b, m := belowRun(t)
			below, base = []run{b}, m
		}
		verify := func(when string) {
			for _, seq := range append(slices.Clone(points), head) {
				if d := diff(at(h, seq, base), resolve(t, append(slices.Clone(runs), below...), seq)); d != "" {
					t.Fatalf("history %d, %s, point %d of %v, bottom %v: %s", i, when, seq, points, bottom, d)
				}
			}
		}
		verify("before merging")
		for len(runs) > 1 && r.IntN(4) > 0 { // tiers
			from := r.IntN(len(runs) - 1)
			n := 2 + r.IntN(len(runs)-from-1)
			rule := Rule{Retained: points, Bottom: bottom && from+n == len(runs) && r.IntN(2) == 0}
			group := slices.Clone(runs[from : from+n])
			r.Shuffle(n, func(a, b int) { group[a], group[b] = group[b], group[a] })
			merged, _, _ := merge(t, group, rule, 1+r.IntN(9))
			runs = slices.Replace(runs, from, from+n, merged)
			verify("after a tier")
			points = slices.DeleteFunc(points, func(dr.Seq) bool { return r.IntN(8) == 0 }) // thinning goes on
		}
		rule := Rule{Retained: points, Bottom: bottom}
		full, _, _ := merge(t, runs, rule, 1+r.IntN(9))
		runs = []run{full}
		verify("after the full merge")
		again, _, _ := merge(t, runs, rule, 7)
		if a, b := entriesOf(t, full), entriesOf(t, again); !reflect.DeepEqual(a, b) {
			t.Fatalf("history %d: merging again makes %v of %v", i, b, a)
		}
		if i%5 == 0 {
			checkMinimal(t, full, below, points)
		}
	}
}

// checkMinimal takes each entry away in turn: some point must read otherwise.
func checkMinimal(t *testing.T, full run, below []run, points []dr.Seq) {
	t.Helper()
	es := entriesOf(t, full)
	points = append(slices.Clone(points), head)
	var want []image
	for _, seq := range points {
		want = append(want, resolve(t, append([]run{full}, below...), seq))
	}
	for i := range es {
		less := fromFlat(t, slices.Delete(slices.Clone(es), i, i+1), 0)
		needed := false
		for j, seq := range points {
			// frames' chunks are looked up in the whole run
			if diff(want[j], resolve(t, append([]run{less}, below...), seq)) != "" {
				needed = true
				break
			}
		}
		if !needed {
			t.Fatalf("entry %+v is kept and no point of %v needs it", es[i], points)
		}
	}
}
