package index

import (
	"bytes"
	"encoding/binary"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

var rewrite = flag.Bool("rewrite", false, "write the golden part anew: only when the format version was raised")

// goldenEntries have everything a part can have.
func goldenEntries() []flat {
	journal := func(tl byte, n int) ObjectID {
		return ObjectID{Timeline: dr.TimelineID{UUID: dr.UUID{0x71, tl}}, Number: dr.ObjectNumber(n)}
	}
	f := func(d int, chunk uint32, mask uint16, seq dr.Seq, o ObjectID, frame, stored uint32) flat {
		return flat{diskID(d), chunk, 1, seq, mask, false, o, frame, stored}
	}
	z := func(d int, chunk, chunks uint32, mask uint16, seq dr.Seq) flat {
		return flat{diskID(d), chunk, chunks, seq, mask, true, ObjectID{}, 0, 0}
	}
	return []flat{
		z(1, 0, MaxChunks, fullMask, 1<<63),
		f(1, 0, 0xffff, 900, journal(1, 12), 3, 65552),
		f(1, 0, 0b11, 700, journal(2, 1<<40), 4, 17),
		z(1, 0, 1, 0b100, 650),
		f(1, 7, 1, 600, dataID(5), 0, 1000),
		f(1, 8, 1, 601, dataID(5), 1, 1001),
		f(1, MaxChunks-1, 1<<15, 5, journal(1, 3), MaxFrames-1, 4112),
		f(2, 9, 0b1010, 800, dataID(6), 77, 8000),
		z(3, 4, 6, fullMask, 801),
	}
}

func TestFormatDocument(t *testing.T) {
	b, err := os.ReadFile("../../docs/format/index.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	type field struct {
		name      string
		off, size int
	}
	want := []field{
		{"magic", offMagic, 8}, {"format", offFormat, 2}, {"needs", offNeeds, 2}, {"disks", offDisks, 2}, {"timelines", offTimelines, 2},
		{"low", offLow, 8}, {"high", offHigh, 8}, {"entries", offEntries, 4}, {"blocks", offBlocks, 4}, {"objects", offObjects, 4},
		{"tables", offTables, 4}, {"unused", offUnused, headerSize - offUnused},
	}
	var got []field
	end := 0
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| ([a-z ]+) \|`).FindAllStringSubmatch(doc, -1) {
		off, _ := strconv.Atoi(m[1])
		size, _ := strconv.Atoi(m[2])
		if off != end {
			t.Errorf("%q begins at %d, the field before ends at %d", m[3], off, end)
		}
		end = off + size
		got = append(got, field{m[3], off, size})
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("header:\n the document says %v\n the code says     %v", got, want)
	}
	for name, value := range map[string]int{
		"FormatVersion": FormatVersion, "MaxPart": MaxPart, "MaxPartEntries": MaxPartEntries, "MaxPartObjects": MaxPartObjects,
		"BlockEntries": BlockEntries, "MaxBlocks": MaxBlocks, "MaxDisks": MaxDisks, "MaxFrames": MaxFrames, "MaxChunks": MaxChunks,
	} {
		if row := "| " + name + " | " + strconv.Itoa(value) + " |"; !strings.Contains(doc, row) {
			t.Errorf("the document lacks the row %q", row)
		}
	}
	for _, row := range []string{
		"| " + strconv.Itoa(planeSame) + " | same |", "| " + strconv.Itoa(planeRaw) + " | raw |", "| " + strconv.Itoa(planeZstd) + " | zstd |",
	} {
		if !strings.Contains(doc, row) {
			t.Errorf("the document lacks the row %q", row)
		}
	}
	_, block, _ := strings.Cut(doc, "### Block")
	var columnsOf []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\w+) \| [^|]+ \| [^|]+ \|$`).FindAllStringSubmatch(block, columns+1) {
		columnsOf = append(columnsOf, m[1])
	}
	order := make([]string, columns)
	order[colChunk], order[colMask], order[colObject], order[colSeq], order[colFrame], order[colSaved] = "chunk", "mask", "object", "seq", "frame", "saved"
	if !reflect.DeepEqual(columnsOf[1:], order) {
		t.Errorf("columns: the document says %v, the code %v", columnsOf[1:], order)
	}
	hexMagic := ""
	for _, c := range []byte(Magic) {
		hexMagic += strconv.FormatUint(uint64(c)|0x100, 16)[1:] + " "
	}
	if !strings.Contains(doc, "`"+strings.TrimSpace(hexMagic)+"`") {
		t.Errorf("the document lacks the magic %s", hexMagic)
	}
}

// TestGoldenPartStaysReadable: what version 1 wrote is read for ever, and is
// still written so: nothing in it is large enough for zstd to be of use.
func TestGoldenPartStaysReadable(t *testing.T) {
	path := filepath.Join("testdata", "part-v1.index")
	now := fromFlat(t, goldenEntries(), 0)
	if *rewrite {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, now.parts[0], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := entriesOf(t, run{[][]byte{b}}); !reflect.DeepEqual(got, goldenEntries()) {
		t.Fatalf("the golden part reads\n%v, was written\n%v", got, goldenEntries())
	}
	if !bytes.Equal(b, now.parts[0]) {
		t.Error("parts are written otherwise")
	}
}

// TestPlanesOfEveryForm: columns of all widths and planes of all forms.
func TestPlanesOfEveryForm(t *testing.T) {
	r := seeded(t)
	for i := range 300 {
		vals := make([]uint64, 1+r.IntN(BlockEntries))
		bits := r.IntN(65)
		for j := range vals {
			switch i % 3 {
			case 0:
				vals[j] = r.Uint64() >> (64 - bits)
			case 1:
				vals[j] = uint64(j / 100)
			case 2:
				vals[j] = 1<<63 + uint64(r.IntN(3))
			}
		}
		e, d := encoders.Get(), decoders.Get()
		coded := columnOf(e, vals)
		got := make([]uint64, len(vals))
		left, err := columnInto(d, coded, got)
		encoders.Put(e)
		decoders.Put(d)
		if err != nil || left != 0 || !slices.Equal(got, vals) {
			t.Fatalf("%d numbers of %d bits: %v, %d bytes left", len(vals), bits, err, left)
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	good := fromFlat(t, goldenEntries(), 0).parts[0]
	readAll := func(b []byte) error {
		cat := &Catalog{}
		r, err := NewReader(cat, b)
		for err == nil {
			_, err = r.Next()
		}
		if err == io.EOF {
			return nil
		}
		return err
	}
	if err := readAll(good); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if err := readAll(good[:n]); !errs.Is(err, errs.Corrupt) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(good), err)
		}
	}
	if err := readAll(append(bytes.Clone(good), 0)); !errs.Is(err, errs.Corrupt) {
		t.Errorf("one byte more: %v", err)
	}
	if err := readAll(make([]byte, MaxPart+1)); !errs.Is(err, errs.Corrupt) {
		t.Errorf("too large: %v", err)
	}
	put := func(off int, v uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[off:], v)
		return b
	}
	for _, off := range []int{offEntries, offBlocks, offObjects, offTables} {
		for _, v := range []uint32{0, 1, 1 << 20, 1<<32 - 1} {
			if err := readAll(put(off, v)); !errs.Is(err, errs.Corrupt) {
				t.Errorf("%d at %d: %v", v, off, err)
			}
		}
	}
	newer := bytes.Clone(good)
	newer[offNeeds] = 2
	if err := readAll(newer); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Errorf("newer: %v", err)
	}
	newer = bytes.Clone(good)
	newer[offFormat], newer[offUnused] = 2, 1
	if err := readAll(newer); err != nil {
		t.Errorf("newer, but readable: %v", err)
	}
}

// TestFlippedBitsNeverSlipThroughAsDisorder flips every bit: the reader gives
// an error, or entries in order that are versions.
func TestFlippedBitsNeverSlipThroughAsDisorder(t *testing.T) {
	good := fromFlat(t, goldenEntries(), 0).parts[0]
	for i := range 8 * len(good) {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		checkDecoded(t, b)
	}
}

// TestReaderChecksOrderAndReach gives a reader blocks that only a faulty
// writer makes.
func TestReaderChecksOrderAndReach(t *testing.T) {
	cat := &Catalog{}
	must[uint16](t)(cat.Disk(diskID(1)))
	must[uint32](t)(cat.Object(journalID(1)))
	e := Entry{Seq: 9, Chunk: 5, Chunks: 1, Mask: 1, Stored: 100}
	newer := e
	newer.Seq = 10
	for what, c := range map[string]struct {
		es     []Entry
		change func(r *Reader)
		ok     bool
	}{
		"as written":     {[]Entry{newer, e}, func(*Reader) {}, true},
		"oldest first":   {[]Entry{e, newer}, func(*Reader) {}, false},
		"beyond reach":   {[]Entry{newer, e}, func(r *Reader) { r.fences[0].reach-- }, false},
		"below the low":  {[]Entry{newer, e}, func(r *Reader) { r.info.Low, r.objects[0].base = 10, 9 }, false},
		"above the high": {[]Entry{newer, e}, func(r *Reader) { r.info.High = 9 }, false},
	} {
		w := NewWriter(cat, nil, WriterOptions{})
		w.pack.enc = encoders.Get().(*zstd.Encoder)
		for i := range c.es {
			w.refer(&c.es[i])
		}
		w.entries = c.es
		r := must[*Reader](t)(NewReader(cat, w.part().Bytes))
		c.change(r)
		if _, err := r.Next(); c.ok != (err == nil) || err != nil && !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// checkDecoded reads whatever b is and checks what comes out.
func checkDecoded(t *testing.T, b []byte) {
	t.Helper()
	cat := &Catalog{}
	r, err := NewReader(cat, b)
	if err != nil {
		return
	}
	n := 0
	var last Entry
	for {
		es, err := r.Next()
		if err != nil {
			return
		}
		for i := range es {
			e := &es[i]
			if err := e.check(); err != nil || int(e.Disk) >= len(cat.disks) || !e.Zero && int(e.Object) >= len(cat.objects) {
				t.Fatalf("%+v: %v", e, err)
			}
			if n > 0 && last.Disk == e.Disk && e.Chunk < last.Chunk {
				t.Fatalf("%+v behind %+v", e, last)
			}
			last = *e
			n++
		}
		if n > r.Info().Entries {
			t.Fatalf("%d entries of %d", n, r.Info().Entries)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(fromFlat(f, goldenEntries(), 0).parts[0])
	f.Add(fromFlat(f, goldenEntries()[1:3], 0).parts[0])
	r := toRun(f, randomHistory(seeded(f), 30), 0)
	f.Add(r.parts[0])
	f.Fuzz(func(t *testing.T, b []byte) { checkDecoded(t, b) })
}

// FuzzBlock is a block behind valid tables.
func FuzzBlock(f *testing.F) {
	part := fromFlat(f, goldenEntries(), 0).parts[0]
	cat := &Catalog{}
	r, err := NewReader(cat, part)
	if err != nil {
		f.Fatal(err)
	}
	at := 0
	for _, fence := range r.fences {
		f.Add(r.body[at:][:fence.size], uint16(fence.entries), fence.first, fence.reach)
		at += fence.size
	}
	f.Fuzz(func(t *testing.T, coded []byte, entries uint16, first, reach uint32) {
		n := int(entries)%BlockEntries + 1
		r.fences = []fence{{first: first % MaxChunks, reach: min(reach, MaxChunks), entries: n, size: len(coded)}}
		r.body, r.block, r.at, r.chunk, r.disk, r.begun = coded, 0, 0, 0, 0, false
		es, err := r.Next()
		if err != nil {
			return
		}
		for i := range es {
			if es[i].check() != nil || i > 0 && es[i].before(&es[i-1]) || es[i].end() > r.fences[0].reach {
				t.Fatalf("entry %d of %+v", i, es)
			}
		}
	})
}
