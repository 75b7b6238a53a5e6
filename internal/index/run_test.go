package index

import (
	"errors"
	"math/bits"
	"reflect"
	"slices"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// TestWriterRollsParts: parts end where asked, each is readable alone, and
// together they are the run.
func TestWriterRollsParts(t *testing.T) {
	h := randomHistory(seeded(t), 200)
	all := entriesOf(t, toRun(t, h, 0))
	cat := &Catalog{}
	s := NewSorter(cat)
	for _, f := range all {
		e := Entry{Seq: f.seq, Chunk: f.chunk, Chunks: f.chunks, Mask: f.mask, Zero: f.zero, Frame: f.frame, Stored: f.stored}
		e.Disk = must[uint16](t)(cat.Disk(f.disk))
		if !f.zero {
			e.Object = must[uint32](t)(cat.Object(f.object))
		}
		if err := s.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	var got []flat
	w := NewWriter(cat, func(p Part) error {
		one := entriesOf(t, run{[][]byte{p.Bytes}})
		reach := uint32(0)
		for _, f := range one {
			if f.disk == p.Last.Disk {
				reach = max(reach, f.chunk+f.chunks-1)
			}
			if f.seq < p.Low || f.seq > p.High {
				t.Errorf("seq %d outside %d..%d", f.seq, p.Low, p.High)
			}
		}
		if len(one) != p.Entries || p.Entries > 10 || p.First != (Key{one[0].disk, one[0].chunk}) ||
			p.Last.Disk != one[len(one)-1].disk || p.Last.Chunk != reach {
			t.Errorf("part says %d entries from %v to %v; has %d", p.Entries, p.First, p.Last, len(one))
		}
		got = append(got, one...)
		return nil
	}, WriterOptions{Entries: 10})
	copyAll(t, w, s.Source())
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, all) || w.Entries() != uint64(len(all)) {
		t.Fatalf("%d entries came back of %d", len(got), len(all))
	}
}

func TestWriterRefuses(t *testing.T) {
	frame := Entry{Seq: 9, Chunk: 5, Chunks: 1, Mask: 1, Stored: 100, Disk: 1}
	change := func(f func(e *Entry)) Entry { e := frame; f(&e); return e }
	for what, e := range map[string]Entry{
		"no block":        change(func(e *Entry) { e.Mask = 0 }),
		"no chunk":        change(func(e *Entry) { e.Chunks = 0 }),
		"two chunks":      change(func(e *Entry) { e.Chunks = 2 }),
		"partial zeroes":  change(func(e *Entry) { e.Zero, e.Chunks, e.Mask = true, 2, 3 }),
		"too high":        change(func(e *Entry) { e.Chunk = MaxChunks }),
		"too long":        change(func(e *Entry) { e.Zero, e.Mask, e.Chunks = true, fullMask, MaxChunks }),
		"nothing stored":  change(func(e *Entry) { e.Stored = 16 }),
		"stored too much": change(func(e *Entry) { e.Stored = 4096 + 17 }),
		"frame":           change(func(e *Entry) { e.Frame = MaxFrames }),
		"disk":            change(func(e *Entry) { e.Disk = 2 }),
		"object":          change(func(e *Entry) { e.Object = 1 }),
		"chunk before":    change(func(e *Entry) { e.Chunk = 4 }),
		"newer behind":    change(func(e *Entry) { e.Seq = 10 }),
		"disk before":     change(func(e *Entry) { e.Disk = 0 }),
	} {
		for _, most := range []int{0, 1} { // within a part, and over the end of one
			cat := &Catalog{}
			must[uint16](t)(cat.Disk(diskID(1)))
			must[uint16](t)(cat.Disk(diskID(2)))
			must[uint32](t)(cat.Object(journalID(1)))
			w := NewWriter(cat, func(Part) error { return nil }, WriterOptions{Entries: most})
			for _, e := range []Entry{change(func(e *Entry) { e.Chunk = 3 }), frame} {
				if err := w.Add(&e); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Add(&e); !errs.Is(err, errs.Invalid) {
				t.Errorf("%s: %v", what, err)
			}
			if err := w.Finish(); !errs.Is(err, errs.Invalid) {
				t.Errorf("%s: finished with %v", what, err)
			}
		}
	}
	boom := errors.New("boom")
	cat := &Catalog{}
	must[uint16](t)(cat.Disk(diskID(1)))
	w := NewWriter(cat, func(Part) error { return boom }, WriterOptions{})
	if err := w.Add(&Entry{Chunks: 1, Mask: 1, Zero: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(); !errors.Is(err, boom) {
		t.Error(err)
	}
}

func TestCatalogBounds(t *testing.T) {
	c := &Catalog{}
	for i := range MaxDisks {
		must[uint16](t)(c.Disk(dr.DiskID{UUID: dr.UUID{1, byte(i), byte(i >> 8)}}))
	}
	if _, err := c.Disk(dr.DiskID{}); !errs.Is(err, errs.Full) {
		t.Error(err)
	}
	for _, id := range []ObjectID{{}, {Number: 1}, {Timeline: journalID(1).Timeline}, {Timeline: journalID(1).Timeline, Number: 1, Data: dr.UUID{1}}} {
		if _, err := c.Object(id); !errs.Is(err, errs.Invalid) {
			t.Errorf("%v: %v", id, err)
		}
	}
	if a, b := must[uint32](t)(c.Object(dataID(1))), must[uint32](t)(c.Object(dataID(1))); a != b {
		t.Error("one object has two numbers")
	}
}

// TestAddZerosCutsAtChunks: whatever run of blocks is zeroed, the entries cover
// just it and are at most three.
func TestAddZerosCutsAtChunks(t *testing.T) {
	r := seeded(t)
	for range 2000 {
		first, count := r.Uint64N(100), 1+r.Uint64N(100)
		cat := &Catalog{}
		d := must[uint16](t)(cat.Disk(diskID(1)))
		s := NewSorter(cat)
		if err := s.AddZeros(d, first, count, 7); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range s.entries {
			n += bits.OnesCount16(e.Mask) * int(e.Chunks)
			lo := uint64(e.Chunk)*16 + uint64(bits.TrailingZeros16(e.Mask))
			hi := uint64(e.end())*16 - uint64(bits.LeadingZeros16(e.Mask))
			if lo < first || hi > first+count || e.check() != nil {
				t.Fatalf("%d blocks from %d: %+v", count, first, e)
			}
		}
		if n != int(count) || s.Len() > 3 {
			t.Fatalf("%d blocks from %d: %+v", count, first, s.entries)
		}
	}
	cat := &Catalog{}
	d := must[uint16](t)(cat.Disk(diskID(1)))
	s := NewSorter(cat)
	const most = uint64(MaxChunks) * 16
	if err := s.AddZeros(d, 0, most, 7); err != nil || s.Len() != 1 {
		t.Errorf("a whole disk: %d entries, %v", s.Len(), err)
	}
	for _, c := range [][2]uint64{{0, 0}, {most, 1}, {1, most}, {5, 1<<64 - 1}} {
		if err := s.AddZeros(d, c[0], c[1], 7); !errs.Is(err, errs.Invalid) {
			t.Errorf("%d blocks from %d: %v", c[1], c[0], err)
		}
	}
}

// TestSeek: from any place on, a reader gives just the entries that touch it
// or lie behind, ranges that began before among them, and decodes few blocks.
func TestSeek(t *testing.T) {
	r := seeded(t)
	for range 40 {
		run := toRun(t, randomHistory(r, 120), 0)
		all := entriesOf(t, run)
		for d := range testDisks + 1 {
			for c := range uint32(testChunks + 1) {
				var want []flat
				for _, f := range all {
					if cmp := compareDisks(f.disk, diskID(d)); cmp > 0 || cmp == 0 && f.chunk+f.chunks > c {
						want = append(want, f)
					}
				}
				cat := &Catalog{}
				src := NewRun(cat, 1, func(int) ([]byte, error) { return run.parts[0], nil })
				src.Seek(diskID(d), c)
				if got := flatten(t, cat, src); !reflect.DeepEqual(got, want) {
					t.Fatalf("disk %d, chunk %d: %d entries, want %d", d, c, len(got), len(want))
				}
			}
		}
	}
}

// TestSeekDecodesOneBlock: reading one chunk of a large part costs one block.
func TestSeekDecodesOneBlock(t *testing.T) {
	var fs []flat
	for i := range 20 * BlockEntries {
		fs = append(fs, flat{diskID(1), uint32(i), 1, dr.Seq(i), 1, false, journalID(1 + i/1000), uint32(i % 1000), 100})
	}
	part := fromFlat(t, fs, 0).parts[0]
	cat := &Catalog{}
	r := must[*Reader](t)(NewReader(cat, part))
	const chunk = 13*BlockEntries + 77
	for i := range r.body[:r.fences[0].size] {
		r.body[i] = 0xff // nobody looks at the first block
	}
	r.Seek(cat, diskID(1), chunk)
	es, err := r.Next()
	if err != nil || es[0].Chunk != chunk {
		t.Fatalf("%+v, %v", es[:min(1, len(es))], err)
	}
}

func TestRunErrors(t *testing.T) {
	good := toRun(t, randomHistory(seeded(t), 30), 5)
	if len(good.parts) < 2 {
		t.Fatal("too few parts to swap")
	}
	swapped := run{slices.Clone(good.parts)}
	slices.Reverse(swapped.parts)
	boom := errs.New("x", errs.Unavailable, "", "boom")
	for what, c := range map[string]struct {
		src  func(cat *Catalog) Source
		kind errs.Kind
	}{
		"parts out of order": {swapped.source, errs.Corrupt},
		"damaged part":       {run{[][]byte{good.parts[0], {1, 2}}}.source, errs.Corrupt},
		"part not there":     {func(cat *Catalog) Source { return NewRun(cat, 1, func(int) ([]byte, error) { return nil, boom }) }, errs.Unavailable},
		"empty answer":       {func(*Catalog) Source { return silent{} }, errs.Internal},
	} {
		cat := &Catalog{}
		w := NewWriter(cat, func(Part) error { return nil }, WriterOptions{})
		if _, err := Merge(w, []Source{c.src(cat)}, Rule{}); !errs.Is(err, c.kind) {
			t.Errorf("merge, %s: %v", what, err)
		}
		cat = &Catalog{}
		var disks []Disk
		for d := range testDisks {
			disks = append(disks, Disk{diskID(d), 1 << 40}) // never all covered
		}
		r := must[*Resolver](t)(NewResolver(cat, head, disks))
		if err := r.Add(c.src(cat)); !errs.Is(err, c.kind) && what != "parts out of order" {
			t.Errorf("resolve, %s: %v", what, err)
		}
	}
	w := NewWriter(&Catalog{}, func(Part) error { return nil }, WriterOptions{})
	if _, err := Merge(w, nil, Rule{Retained: []dr.Seq{2, 1}}); !errs.Is(err, errs.Invalid) {
		t.Errorf("rule out of order: %v", err)
	}
}

// silent is a Source that gives nothing and no end.
type silent struct{}

func (silent) Next() ([]Entry, error) { return nil, nil }
