package index

import (
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// TestWholeDiskZeroesCostNoMoreThanTheirEntries: the largest disk, zeroed over
// and over, with frames here and there, is merged and resolved in work and
// memory that follow entries, not chunks.
func TestWholeDiskZeroesCostNoMoreThanTheirEntries(t *testing.T) {
	const frames, zeroes = 20_000, 40
	r := rand.New(rand.NewPCG(1, 1))
	cat := &Catalog{}
	d := must[uint16](t)(cat.Disk(diskID(1)))
	o := must[uint32](t)(cat.Object(journalID(1)))
	s := NewSorter(cat)
	var points []dr.Seq
	for i := range frames {
		if i%(frames/zeroes) == 0 {
			if err := s.AddZeros(d, 0, uint64(MaxChunks)*16, dr.Seq(10*i+1)); err != nil {
				t.Fatal(err)
			}
			points = append(points, dr.Seq(10*i+2), dr.Seq(10*i+6))
		}
		if err := s.AddFrame(d, r.Uint32N(MaxChunks), 0xff, dr.Seq(10*i+5), o, uint32(i), 1000); err != nil {
			t.Fatal(err)
		}
	}
	n := s.Len()
	for _, bottom := range []bool{false, true} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var merged run
		w := NewWriter(cat, func(p Part) error { merged.parts = append(merged.parts, p.Bytes); return nil }, WriterOptions{})
		m, err := Merge(w, []Source{s.Source()}, Rule{Retained: points, Bottom: bottom})
		if err == nil {
			err = w.Finish()
		}
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if m.In != uint64(n) || m.Out > 3*uint64(n) {
			t.Errorf("bottom %v: %d entries became %d", bottom, m.In, m.Out)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
			t.Errorf("bottom %v: merging %d entries allocated %d bytes", bottom, n, took)
		}
		res := must[*Resolver](t)(NewResolver(cat, head, []Disk{{diskID(1), dr.MaxDiskSize}}))
		if err := res.Add(merged.source(cat)); err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, taken := range res.Result() {
			got += len(taken.Frames)
		}
		if got > frames/zeroes || got < frames/zeroes-3 {
			t.Errorf("bottom %v: %d frames behind the last zeroes, want about %d", bottom, got, frames/zeroes)
		}
		if !bottom && res.Left() != 0 {
			t.Errorf("%d blocks of a disk that was zeroed are not answered for", res.Left())
		}
	}
}

// TestZeroesAreCutBehindManyEntries: with a range open over more entries than a
// merge keeps back, the range is cut, the result is in order, and merging again
// changes nothing.
func TestZeroesAreCutBehindManyEntries(t *testing.T) {
	var h []event
	const chunks = 3 * holdBack
	h = append(h, event{seq: 1, first: 0, count: chunks * 16})
	for i := range chunks {
		h = append(h, event{seq: dr.Seq(i + 2), object: journalID(1 + i/1000), frame: uint32(i % 1000), chunk: uint32(i), mask: 1})
	}
	in := toRun(t, h, 0)
	out, m, _ := merge(t, []run{in}, Rule{}, 0)
	if want := uint64(chunks + 3); m.Out != want {
		t.Errorf("%d entries, want %d: the frames and the zeroes in three pieces", m.Out, want)
	}
	if len(out.parts) != 1 {
		t.Fatal("more than one part")
	}
	again, m2, _ := merge(t, []run{out}, Rule{}, 0)
	if m2.Out != m.Out || !reflect.DeepEqual(entriesOf(t, out), entriesOf(t, again)) {
		t.Errorf("merged again: %d entries of %d", m2.Out, m.Out)
	}
	end := uint32(0)
	for _, e := range entriesOf(t, out) {
		if e.zero {
			if e.chunk != end {
				t.Errorf("a piece from chunk %d behind one to %d", e.chunk, end)
			}
			end = e.chunk + e.chunks
		}
	}
	if end != chunks {
		t.Errorf("pieces end at %d of %d", end, chunks)
	}
}

// TestCheckpointSeesItsOwnSeq pins the border: a checkpoint sees versions up to
// its seq, that one included.
func TestCheckpointSeesItsOwnSeq(t *testing.T) {
	h := []event{
		{seq: 10, object: journalID(1), frame: 1, mask: 1},
		{seq: 20, object: journalID(1), frame: 2, mask: 1},
		{seq: 30, object: journalID(1), frame: 3, mask: 1},
	}
	for _, c := range []struct {
		retained []dr.Seq
		want     []uint32
	}{
		{nil, []uint32{3}},
		{[]dr.Seq{9}, []uint32{3}},
		{[]dr.Seq{10}, []uint32{3, 1}},
		{[]dr.Seq{19}, []uint32{3, 1}},
		{[]dr.Seq{20}, []uint32{3, 2}},
		{[]dr.Seq{10, 20}, []uint32{3, 2, 1}},
		{[]dr.Seq{10, 10, 19, 29, 30}, []uint32{3, 2, 1}},
		{[]dr.Seq{30}, []uint32{3}},
		{[]dr.Seq{500}, []uint32{3}},
	} {
		out, _, _ := merge(t, []run{toRun(t, h, 0)}, Rule{Retained: c.retained, Bottom: true}, 0)
		var got []uint32
		for _, e := range entriesOf(t, out) {
			got = append(got, e.frame)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("retained %v: kept %v, want %v", c.retained, got, c.want)
		}
	}
}

// TestTalliesAreExact: what a merge counts of each object is what lies in its
// result, and what it calls dropped is the rest.
func TestTalliesAreExact(t *testing.T) {
	r := seeded(t)
	for range times(t, 200) {
		h := randomHistory(r, 60)
		in := toRun(t, h, 0)
		type count struct{ n, bytes uint64 }
		kept, dropped, called := map[ObjectID]count{}, map[ObjectID]count{}, map[ObjectID]count{}
		add := func(m map[ObjectID]count, o ObjectID, stored uint32) {
			m[o] = count{m[o].n + 1, m[o].bytes + uint64(stored)}
		}
		rule := Rule{Retained: randomPoints(r, h), Bottom: r.IntN(2) == 0}
		if r.IntN(3) == 0 {
			rule.Disks = map[dr.DiskID]bool{diskID(1): true}
		}
		cat := &Catalog{}
		rule.Dropped = func(e *Entry) { add(called, cat.Objects()[e.Object], e.Stored) }
		var m *Merged
		out := writeRun(t, cat, 7, func(w *Writer) { m = must[*Merged](t)(Merge(w, []Source{in.source(cat)}, rule)) })
		after := entriesOf(t, out)
		for _, e := range after {
			if rule.Disks != nil && !rule.Disks[e.disk] {
				t.Fatalf("disk %v is left", e.disk)
			}
			if !e.zero {
				add(kept, e.object, e.stored)
			}
		}
		for _, e := range entriesOf(t, in) {
			if !e.zero && !slices.Contains(after, e) {
				add(dropped, e.object, e.stored)
			}
		}
		gotKept, gotDropped := map[ObjectID]count{}, map[ObjectID]count{}
		for i, tally := range m.Objects {
			if tally.Kept > 0 {
				gotKept[cat.Objects()[i]] = count{tally.Kept, tally.KeptBytes}
			}
			if tally.Dropped > 0 {
				gotDropped[cat.Objects()[i]] = count{tally.Dropped, tally.DroppedBytes}
			}
		}
		if !maps.Equal(gotKept, kept) || !maps.Equal(gotDropped, dropped) || !maps.Equal(called, dropped) {
			t.Fatalf("kept %v, want %v; dropped %v and called %v, want %v", gotKept, kept, gotDropped, called, dropped)
		}
		if len(m.Objects) != len(cat.Objects()) || m.In != uint64(len(entriesOf(t, in))) || m.Out != uint64(len(after)) {
			t.Fatalf("%d in, %d out, %d objects", m.In, m.Out, len(m.Objects))
		}
	}
}

// TestResolverKeepsToItsDisks: blocks behind a disk's end, and disks not asked
// for, are left out; bytes are counted; all covered ends the search.
func TestResolverKeepsToItsDisks(t *testing.T) {
	h := []event{
		{seq: 1, disk: 0, object: journalID(1), frame: 1, chunk: 0, mask: fullMask},
		{seq: 2, disk: 0, object: journalID(1), frame: 2, chunk: 1, mask: fullMask},
		{seq: 3, disk: 0, object: journalID(1), frame: 3, chunk: 2, mask: fullMask},
		{seq: 4, disk: 1, object: journalID(2), frame: 4, chunk: 0, mask: fullMask},
	}
	cat := &Catalog{}
	r := must[*Resolver](t)(NewResolver(cat, head, []Disk{{diskID(0), dr.ChunkSize + 3*dr.BlockSize - 1}}))
	if r.Left() != 19 {
		t.Errorf("%d blocks to find", r.Left())
	}
	if err := r.Add(toRun(t, h, 0).source(cat)); err != nil {
		t.Fatal(err)
	}
	if r.Left() != 0 || r.Bytes(0) != 19*dr.BlockSize {
		t.Errorf("%d blocks left, %d bytes", r.Left(), r.Bytes(0))
	}
	boom := errs.New("x", errs.Unavailable, "", "nothing more should be read")
	if err := r.Add(NewRun(cat, 1, func(int) ([]byte, error) { return nil, boom })); err != nil {
		t.Error(err)
	}
	got := r.Result()
	want := []Taken{{journalID(1), []Take{{1, 0, 0, fullMask}, {2, 1, 0, 0b111}}, uint64(stored(h[0]) + stored(h[1]))}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for what, disks := range map[string][]Disk{
		"twice": {{diskID(1), 1}, {diskID(1), 1}}, "too large": {{diskID(1), dr.MaxDiskSize + 1}}, "negative": {{diskID(1), -1}},
		"too many": make([]Disk, MaxDisks+1),
	} {
		if _, err := NewResolver(cat, 1, disks); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestCoverageAgainstModel: random covering of a disk, pages at a stroke among
// it, against one bit per block.
func TestCoverageAgainstModel(t *testing.T) {
	r := seeded(t)
	for range times(t, 30) {
		blocks := 1 + r.IntN(3*coverPage*16)
		c := newCoverage(int64(blocks) * dr.BlockSize)
		model := make([]bool, blocks)
		left := blocks
		set := func(b int) bool {
			if b >= blocks || model[b] {
				return false
			}
			model[b] = true
			left--
			return true
		}
		for range 60 {
			chunk := r.Uint32N(uint32(blocks/16 + 3))
			if r.IntN(4) == 0 {
				to := chunk + r.Uint32N(2*coverPage)
				c.addRange(chunk, to)
				for b := int(chunk) * 16; b < int(to)*16; b++ {
					set(b)
				}
			} else {
				mask := uint16(r.Uint32())
				want := uint16(0)
				for b := range 16 {
					if mask>>b&1 != 0 && set(int(chunk)*16+b) {
						want |= 1 << b
					}
				}
				if got := c.add(chunk, mask); got != want {
					t.Fatalf("chunk %d of %d blocks: got %016b, want %016b", chunk, blocks, got, want)
				}
			}
			if c.left != uint64(left) {
				t.Fatalf("%d blocks left, want %d", c.left, left)
			}
		}
	}
}

// TestZeroesAreKeptOnlyWhereTheyHide pins what random histories seldom meet.
func TestZeroesAreKeptOnlyWhereTheyHide(t *testing.T) {
	f := func(chunk uint32, mask uint16, seq dr.Seq) flat {
		return flat{diskID(1), chunk, 1, seq, mask, false, journalID(1), uint32(seq), 1000}
	}
	z := func(chunk, chunks uint32, mask uint16, seq dr.Seq) flat {
		return flat{diskID(1), chunk, chunks, seq, mask, true, ObjectID{}, 0, 0}
	}
	for what, c := range map[string]struct {
		in, want []flat
		rule     Rule
	}{
		"over data that newer data hides": {
			in:   []flat{f(0, 1, 30), z(0, 1, 3, 20), f(0, 1, 10)},
			want: []flat{f(0, 1, 30), f(0, 1, 10)},
			rule: Rule{Retained: []dr.Seq{15}, Bottom: true},
		},
		"over data that is seen": {
			in:   []flat{f(0, 1, 30), z(0, 1, 3, 20), f(0, 1, 10)},
			want: []flat{f(0, 1, 30), z(0, 1, 3, 20), f(0, 1, 10)},
			rule: Rule{Retained: []dr.Seq{15, 25}, Bottom: true},
		},
		"over zeroes": {
			in:   []flat{z(0, 1, 3, 30), z(0, 1, 3, 20), f(0, 3, 10)},
			want: []flat{z(0, 1, 3, 20), f(0, 3, 10)},
			rule: Rule{Retained: []dr.Seq{15, 25}, Bottom: true},
		},
		"over nothing": {
			in:   []flat{z(0, 1<<20, fullMask, 30), f(7, 3, 10)},
			want: []flat{z(7, 1, fullMask, 30), f(7, 3, 10)},
			rule: Rule{Retained: []dr.Seq{15}, Bottom: true},
		},
		"two that no checkpoint tells apart, in one piece": {
			in:   []flat{z(0, 100, fullMask, 21), z(0, 100, fullMask, 20), f(50, 1, 30)},
			want: []flat{z(0, 100, fullMask, 21), f(50, 1, 30)},
			rule: Rule{Retained: []dr.Seq{40}},
		},
		"pieces of one that touch become one": {
			in:   []flat{f(0, 1, 30), z(5, 10, fullMask, 20), z(15, 10, fullMask, 20), f(40, 1, 30)},
			want: []flat{f(0, 1, 30), z(5, 20, fullMask, 20), f(40, 1, 30)},
		},
		"pieces of one that do not touch stay": {
			in:   []flat{z(5, 10, fullMask, 20), z(16, 10, fullMask, 20)},
			want: []flat{z(5, 10, fullMask, 20), z(16, 10, fullMask, 20)},
		},
		"around a chunk that newer data hides": {
			in:   []flat{z(5, 10, fullMask, 20), f(8, fullMask, 30)},
			want: []flat{z(5, 3, fullMask, 20), f(8, fullMask, 30), z(9, 6, fullMask, 20)},
		},
	} {
		in := fromFlat(t, c.in, 0)
		out, _, _ := merge(t, []run{in}, c.rule, 0)
		if got := entriesOf(t, out); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", what, got, c.want)
		}
	}
}
