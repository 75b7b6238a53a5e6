package index

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"holdfast/internal/dr"
)

// seeded returns a source of chance, and prints how to get the same again.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("HOLDFAST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// times is how often a test of chance tries, unless HOLDFAST_HISTORIES says otherwise.
func times(t testing.TB, n int) int { t.Helper(); return knob(t, "HOLDFAST_HISTORIES", n) }

// knob is a number that the environment may set.
func knob(t testing.TB, name string, n int) int {
	t.Helper()
	if s := os.Getenv(name); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return n
}

const (
	testChunks = 9 // of each disk
	testDisks  = 3
)

func diskID(n int) dr.DiskID { return dr.DiskID{UUID: dr.UUID{0xdd, byte(n)}} }

func journalID(n int) ObjectID {
	return ObjectID{Timeline: dr.TimelineID{UUID: dr.UUID{0x71}}, Number: dr.ObjectNumber(n)}
}

func dataID(n int) ObjectID {
	return ObjectID{Data: dr.UUID{0xda, byte(n), byte(n >> 8), byte(n >> 16)}}
}

// event is one record of a full history: a frame, or a run of zeroed blocks.
type event struct {
	seq          dr.Seq
	disk         int
	object       ObjectID
	frame        uint32
	chunk        uint32
	mask         uint16
	first, count uint64 // zeroed blocks, when the mask is 0
}

// place names a block, content what is in it; nothing stands for zeroes.
type place struct {
	disk  int
	block uint64
}
type content struct {
	object ObjectID
	frame  uint32
}
type image map[place]content

// at is what the history says of a point: block by block, nothing else.
func at(h []event, seq dr.Seq, below image) image {
	m := maps.Clone(below)
	if m == nil {
		m = image{}
	}
	for _, e := range h {
		if e.seq > seq {
			continue
		}
		for b := e.first; b < e.first+e.count; b++ {
			delete(m, place{e.disk, b})
		}
		for b := range uint64(dr.BlocksPerChunk) {
			if e.mask>>b&1 != 0 {
				m[place{e.disk, uint64(e.chunk)*dr.BlocksPerChunk + b}] = content{e.object, e.frame}
			}
		}
	}
	return m
}

// randomHistory makes n records with gaps between their seqs.
func randomHistory(r *rand.Rand, n int) []event {
	var h []event
	seq := dr.Seq(r.IntN(5))
	zeroes := r.IntN(4) // of 10: some histories have none
	for i := range n {
		seq += dr.Seq(1 + r.IntN(3))
		e := event{seq: seq, disk: r.IntN(testDisks)}
		if r.IntN(10) < zeroes {
			e.first = uint64(r.IntN(testChunks * dr.BlocksPerChunk))
			e.count = 1 + uint64(r.IntN(testChunks*dr.BlocksPerChunk-int(e.first)))
			if r.IntN(2) == 0 { // whole chunks
				e.first &^= dr.BlocksPerChunk - 1
				e.count = min((e.count+dr.BlocksPerChunk)&^(dr.BlocksPerChunk-1), testChunks*dr.BlocksPerChunk-e.first)
			}
		} else {
			e.chunk, e.frame = uint32(r.IntN(testChunks)), uint32(i)
			e.mask = uint16(1 + r.IntN(fullMask))
			if r.IntN(3) == 0 {
				e.mask = fullMask
			}
			e.object = journalID(1 + i/4)
			if i/4%3 == 0 {
				e.object = dataID(1 + i/4)
			}
		}
		h = append(h, e)
	}
	return h
}

// run is a run as a test keeps it.
type run struct {
	parts [][]byte
}

func (r run) source(cat *Catalog) Source {
	return NewRun(cat, len(r.parts), func(i int) ([]byte, error) { return r.parts[i], nil })
}

// writeRun collects a Writer's parts.
func writeRun(t testing.TB, cat *Catalog, entries int, fill func(w *Writer)) run {
	t.Helper()
	var r run
	w := NewWriter(cat, func(p Part) error { r.parts = append(r.parts, p.Bytes); return nil }, WriterOptions{Entries: entries})
	fill(w)
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	return r
}

func must[T any](t testing.TB) func(v T, err error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// toRun brings events into a run, as a journal does with footers.
func toRun(t testing.TB, h []event, entries int) run {
	t.Helper()
	cat := &Catalog{}
	s := NewSorter(cat)
	for _, e := range h {
		d := must[uint16](t)(cat.Disk(diskID(e.disk)))
		if e.mask == 0 {
			if err := s.AddZeros(d, e.first, e.count, e.seq); err != nil {
				t.Fatal(err)
			}
			continue
		}
		o := must[uint32](t)(cat.Object(e.object))
		if err := s.AddFrame(d, e.chunk, e.mask, e.seq, o, e.frame, stored(e)); err != nil {
			t.Fatal(err)
		}
	}
	return writeRun(t, cat, entries, func(w *Writer) { copyAll(t, w, s.Source()) })
}

func stored(e event) uint32 { return frameSize(e.mask) - e.frame%1000 }

func copyAll(t testing.TB, w *Writer, src Source) {
	t.Helper()
	for {
		es, err := src.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range es {
			if err := w.Add(&es[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// resolve is the image of a point as this package finds it, newest run first.
func resolve(t testing.TB, runs []run, seq dr.Seq) image {
	t.Helper()
	cat := &Catalog{}
	var disks []Disk
	for d := range testDisks {
		disks = append(disks, Disk{diskID(d), testChunks * dr.ChunkSize})
	}
	r := must[*Resolver](t)(NewResolver(cat, seq, disks))
	for _, run := range runs {
		if err := r.Add(run.source(cat)); err != nil {
			t.Fatal(err)
		}
	}
	return imageOf(t, r, runs)
}

func imageOf(t testing.TB, r *Resolver, runs []run) image {
	t.Helper()
	type frame struct {
		id    ObjectID
		frame uint32
	}
	chunks := map[frame]uint32{}
	for _, run := range runs {
		for _, e := range entriesOf(t, run) {
			if !e.zero {
				chunks[frame{e.object, e.frame}] = e.chunk
			}
		}
	}
	m := image{}
	for _, taken := range r.Result() {
		for _, f := range taken.Frames {
			chunk := chunks[frame{taken.Object, f.Frame}]
			for b := range uint64(dr.BlocksPerChunk) {
				if f.Take>>b&1 == 0 {
					continue
				}
				p := place{int(f.Disk), uint64(chunk)*dr.BlocksPerChunk + b}
				if _, twice := m[p]; twice {
					t.Fatalf("block %v is taken twice", p)
				}
				m[p] = content{taken.Object, f.Frame}
			}
		}
	}
	return m
}

// flat is an entry by itself, without a catalog.
type flat struct {
	disk   dr.DiskID
	chunk  uint32
	chunks uint32
	seq    dr.Seq
	mask   uint16
	zero   bool
	object ObjectID
	frame  uint32
	stored uint32
}

func entriesOf(t testing.TB, r run) []flat {
	t.Helper()
	cat := &Catalog{}
	return flatten(t, cat, r.source(cat))
}

func flatten(t testing.TB, cat *Catalog, src Source) []flat {
	t.Helper()
	var out []flat
	for {
		es, err := src.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			f := flat{cat.Disks()[e.Disk], e.Chunk, e.Chunks, e.Seq, e.Mask, e.Zero, ObjectID{}, e.Frame, e.Stored}
			if !e.Zero {
				f.object = cat.Objects()[e.Object]
			}
			out = append(out, f)
		}
	}
}

// fromFlat writes entries as they are.
func fromFlat(t testing.TB, fs []flat, entries int) run {
	t.Helper()
	cat := &Catalog{}
	return writeRun(t, cat, entries, func(w *Writer) {
		for _, f := range fs {
			e := Entry{Seq: f.seq, Chunk: f.chunk, Chunks: f.chunks, Mask: f.mask, Zero: f.zero, Frame: f.frame, Stored: f.stored}
			e.Disk = must[uint16](t)(cat.Disk(f.disk))
			if !f.zero {
				e.Object = must[uint32](t)(cat.Object(f.object))
			}
			if err := w.Add(&e); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// merge merges runs, newest first.
func merge(t testing.TB, runs []run, rule Rule, entries int) (run, *Merged, *Catalog) {
	t.Helper()
	cat := &Catalog{}
	var result *Merged
	out := writeRun(t, cat, entries, func(w *Writer) {
		var sources []Source
		for _, r := range runs {
			sources = append(sources, r.source(cat))
		}
		var err error
		if result, err = Merge(w, sources, rule); err != nil {
			t.Fatal(err)
		}
	})
	return out, result, cat
}

// randomPoints picks retained checkpoints up to the history's end.
func randomPoints(r *rand.Rand, h []event) []dr.Seq {
	var c []dr.Seq
	last := h[len(h)-1].seq
	for range r.IntN(8) {
		c = append(c, dr.Seq(r.Uint64N(uint64(last)+1)))
	}
	slices.Sort(c)
	return slices.Compact(c)
}

func diff(want, got image) string {
	for p, w := range want {
		if g := got[p]; g != w {
			return fmt.Sprintf("block %d of disk %d: got %v frame %d, want %v frame %d", p.block, p.disk, g.object, g.frame, w.object, w.frame)
		}
	}
	for p, g := range got {
		if _, ok := want[p]; !ok {
			return fmt.Sprintf("block %d of disk %d: got %v frame %d, want zeroes", p.block, p.disk, g.object, g.frame)
		}
	}
	return ""
}
