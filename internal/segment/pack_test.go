package segment

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

var (
	otherKey   = DataKey{9, 9, 9}
	testKeyID  = dr.UUID{0x4e, 1}
	otherKeyID = dr.UUID{0x4e, 2}
)

// testKeys knows both generations.
func testKeys(id dr.UUID) (DataKey, error) {
	switch id {
	case testKeyID:
		return testKey, nil
	case otherKeyID:
		return otherKey, nil
	}
	return DataKey{}, errs.New("test.keys", errs.Denied, id.String(), "no such key")
}

// cell is an object to copy from.
type cell struct {
	h    Header
	f    *Footer
	body []byte
}

func makeCell(t testing.TB, key DataKey, keyID, object dr.UUID, fill func(b *Builder) error) cell {
	t.Helper()
	b := NewBuilder(key, testDomain, BuilderOptions{Object: object})
	b.SetSeqs(1, 1000)
	if err := fill(b); err != nil {
		t.Fatal(err)
	}
	h := journalHeader()
	h.Key = keyID
	body, _, err := b.Finish(h)
	if err != nil {
		t.Fatal(err)
	}
	return openCell(t, key, body)
}

func openCell(t testing.TB, key DataKey, body []byte) cell {
	t.Helper()
	body = bytes.Clone(body)
	h, f, _, err := OpenObject(key, body)
	if err != nil {
		t.Fatal(err)
	}
	return cell{h, f, body}
}

// copies are all frames of some objects in the order a Packer wants.
func copies(cells ...cell) []Copied {
	var all []Copied
	for i := range cells {
		c := &cells[i]
		for j := range c.f.Entries {
			e := &c.f.Entries[j]
			all = append(all, CopyOf(&c.h, c.f, e, c.body[e.Offset:][:e.Stored]))
		}
	}
	slices.SortFunc(all, func(a, b Copied) int {
		if d := bytes.Compare(a.Disk.UUID[:], b.Disk.UUID[:]); d != 0 {
			return d
		}
		if a.Chunk != b.Chunk {
			return int(a.Chunk) - int(b.Chunk)
		}
		return int(b.Seq) - int(a.Seq)
	})
	return all
}

// smallCells are two objects of two generations of keys, with two versions of
// blocks between them.
func smallCells(t testing.TB) (a, b cell) {
	a = makeCell(t, testKey, testKeyID, dr.UUID{0xa0, 2}, func(b *Builder) error {
		for _, err := range []error{
			b.AddFrame(disk(2), 7, 0b10, 103, noise(1, 4096)),
			b.AddFrame(disk(1), 5, 0b1001, 101, text(2, 8192)),
			b.AddFrame(disk(1), 5, 0b0110, 104, text(4, 8192)),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	b = makeCell(t, otherKey, otherKeyID, dr.UUID{0xa0, 3}, func(b *Builder) error {
		if err := b.AddFrame(disk(1), 5, 0b1111, 203, text(7, 16384)); err != nil {
			return err
		}
		return b.AddFrame(disk(2), 7, 0b11, 201, noise(5, 8192))
	})
	return a, b
}

func packHeader() Header {
	return Header{Timeline: journalHeader().Timeline, Key: testKeyID, Created: testTime}
}

func pack(t testing.TB, cs []Copied) []byte {
	t.Helper()
	p := NewPacker(testKey, testKeys, testDomain, BuilderOptions{Object: testObject})
	for i := range cs {
		if err := p.Add(&cs[i]); err != nil {
			t.Fatal(err)
		}
	}
	body, _, err := p.Finish(packHeader())
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// contents opens all frames, checks their hashes, and returns them by disk,
// chunk, mask and seq.
func contents(keys Keys, c cell) (map[string]string, error) {
	o, err := NewPackedOpener(keys, c.h, c.f)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for i := range c.f.Entries {
		e := &c.f.Entries[i]
		b, err := o.Frame(nil, c.f.Disks[e.Disk], e, c.body[e.Offset:][:e.Stored])
		if err != nil {
			return nil, err
		}
		if err := o.CheckBlocks(c.f, e, b); err != nil {
			return nil, err
		}
		m[fmt.Sprintf("%v %d %b %d", c.f.Disks[e.Disk], e.Chunk, e.Mask, e.Seq)] = string(b)
	}
	return m, nil
}

// TestPackedFramesReadAsTheirOrigins: frames of objects of two generations of
// keys, several versions of one block among them, packed, and packed again,
// open to what they were, and seqs, hashes and origins are kept.
func TestPackedFramesReadAsTheirOrigins(t *testing.T) {
	a, b := smallCells(t)
	packed := openCell(t, testKey, pack(t, copies(a, b)))
	third := makeCell(t, testKey, testKeyID, dr.UUID{}, func(b *Builder) error { return b.AddFrame(disk(1), 5, 0b1, 303, text(11, 4096)) })
	again := openCell(t, testKey, pack(t, copies(packed, third)))
	want := map[string]string{}
	for _, c := range []cell{a, b, third} {
		m, err := contents(testKeys, c)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range m {
			want[k] = v
		}
	}
	got, err := contents(testKeys, again)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%d frames of %d read as they should (%v)", len(got), len(want), err)
	}
	if !again.h.Packed || again.h.Kind != Data || again.f.First != 101 || again.f.Last != 303 {
		t.Fatalf("%+v, records %d to %d", again.h, again.f.First, again.f.Last)
	}
	for _, o := range again.f.Origins {
		if o.Object == packed.h.Object {
			t.Fatal("a packed object became an origin")
		}
	}
	if len(again.f.Origins) != 3 {
		t.Fatalf("origins %v", again.f.Origins)
	}
}

// TestPackerRefusesDamage: what does not open as what it is said to be is not
// copied, and the error names the object it came from.
func TestPackerRefusesDamage(t *testing.T) {
	a, b := smallCells(t)
	good := copies(a, b)
	for what, change := range map[string]func(c *Copied){
		"bit":            func(c *Copied) { c.Sealed = bytes.Clone(c.Sealed); c.Sealed[len(c.Sealed)/2] ^= 4 },
		"chunk":          func(c *Copied) { c.Chunk++ },
		"mask":           func(c *Copied) { c.Mask <<= 1 },
		"seq":            func(c *Copied) { c.Seq++ },
		"disk":           func(c *Copied) { c.Disk = disk(9) },
		"counter":        func(c *Copied) { c.Counter++ },
		"origin":         func(c *Copied) { c.Origin.Object = b.h.Object },
		"key generation": func(c *Copied) { c.Origin.Key = otherKeyID },
	} {
		p := NewPacker(testKey, testKeys, testDomain, BuilderOptions{})
		c := good[slices.IndexFunc(good, func(c Copied) bool { return c.Origin.Object == a.h.Object && !c.Raw })]
		change(&c)
		err := p.Add(&c)
		if !errs.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), c.Origin.Object.String()) {
			t.Errorf("%s: %v", what, err)
		}
		if p.Frames() != 0 || len(p.b.footer.Origins) != 0 || len(p.b.footer.Disks) != 0 {
			t.Errorf("%s: a refused frame left something behind", what)
		}
	}
	p := NewPacker(testKey, testKeys, dr.DomainID{UUID: dr.UUID{1}}, BuilderOptions{})
	if err := p.Add(&good[0]); !errs.Is(err, errs.Corrupt) {
		t.Errorf("frame of another domain: %v", err)
	}
	c := good[0]
	c.Origin.Key = dr.UUID{77}
	if err := NewPacker(testKey, testKeys, testDomain, BuilderOptions{}).Add(&c); !errs.Is(err, errs.Denied) {
		t.Errorf("unknown key: %v", err)
	}
}

func TestPackerChecksArguments(t *testing.T) {
	a, b := smallCells(t)
	good := copies(a, b)
	for what, change := range map[string]func(c *Copied){
		"no blocks":     func(c *Copied) { c.Mask, c.Hashes = 0, nil },
		"few hashes":    func(c *Copied) { c.Hashes = c.Hashes[1:] },
		"chunk":         func(c *Copied) { c.Chunk = MaxChunks },
		"no object":     func(c *Copied) { c.Origin.Object = dr.UUID{} },
		"no key":        func(c *Copied) { c.Origin.Key = dr.UUID{} },
		"counter":       func(c *Copied) { c.Counter = MaxFrames },
		"raw size":      func(c *Copied) { c.Raw = !c.Raw },
		"no bytes":      func(c *Copied) { c.Sealed = c.Sealed[:Overhead]; c.Raw = false },
		"out of order":  func(c *Copied) { *c = good[0] },
		"disk again":    func(c *Copied) { *c = good[1] },
		"newer version": func(c *Copied) { c.Seq += 1000; c.Disk = disk(2); c.Chunk = 7 },
	} {
		p := NewPacker(testKey, testKeys, testDomain, BuilderOptions{})
		for i := range good[:len(good)-1] {
			if err := p.Add(&good[i]); err != nil {
				t.Fatal(err)
			}
		}
		c := good[len(good)-1]
		change(&c)
		if err := p.Add(&c); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	p := NewPacker(testKey, testKeys, testDomain, BuilderOptions{})
	if _, _, err := p.Finish(packHeader()); !errs.Is(err, errs.Invalid) {
		t.Errorf("no frames: %v", err)
	}
	for what, cs := range map[string][]Copied{"the same frame": {good[0], good[0]}} {
		p.Reset()
		for i := range cs {
			if err := p.Add(&cs[i]); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := p.Finish(packHeader()); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s twice: %v", what, err)
		}
	}
	if _, err := NewOpener(testKey, openCell(t, testKey, pack(t, good)).h); !errs.Is(err, errs.Invalid) {
		t.Errorf("plain opener of a packed object: %v", err)
	}
}

// TestPackedObjectsAreBoundToTheirFrames: a store, or whoever holds only the
// packing key, cannot make a frame pass for another.
func TestPackedObjectsAreBoundToTheirFrames(t *testing.T) {
	a, b := smallCells(t)
	c := openCell(t, testKey, pack(t, copies(a, b)))
	for what, change := range map[string]func(f *Footer){
		"origin":   func(f *Footer) { f.Copied[0].Origin ^= 1 },
		"counter":  func(f *Footer) { f.Copied[0].Counter++ },
		"swapped":  func(f *Footer) { f.Copied[0], f.Copied[1] = f.Copied[1], f.Copied[0] },
		"key":      func(f *Footer) { f.Origins[0].Key, f.Origins[1].Key = f.Origins[1].Key, f.Origins[0].Key },
		"object":   func(f *Footer) { f.Origins[0].Object, f.Origins[1].Object = f.Origins[1].Object, f.Origins[0].Object },
		"seq":      func(f *Footer) { f.Entries[0].Seq++ },
		"hash":     func(f *Footer) { f.Hashes[0]++ },
		"disk":     func(f *Footer) { f.Disks[0], f.Disks[1] = f.Disks[1], f.Disks[0] },
		"position": func(f *Footer) { f.Entries[0].Offset, f.Entries[1].Offset = f.Entries[1].Offset, f.Entries[0].Offset },
	} {
		f := *c.f
		f.Copied, f.Origins, f.Entries = slices.Clone(f.Copied), slices.Clone(f.Origins), slices.Clone(f.Entries)
		f.Hashes, f.Disks = slices.Clone(f.Hashes), slices.Clone(f.Disks)
		change(&f)
		if _, err := contents(testKeys, cell{c.h, &f, c.body}); !errs.Is(err, errs.Corrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	none := func(dr.UUID) (DataKey, error) { return testKey, nil }
	if _, err := contents(none, c); !errs.Is(err, errs.Corrupt) {
		t.Errorf("wrong key: %v", err)
	}
	deny := func(id dr.UUID) (DataKey, error) { return DataKey{}, errs.New("x", errs.Denied, "", "no") }
	if _, err := contents(deny, c); !errs.Is(err, errs.Denied) {
		t.Errorf("no key: %v", err)
	}
	if _, err := (&copier{f: c.f}).unlockAt(1 << 20); !errs.Is(err, errs.Corrupt) {
		t.Errorf("frame out of range: %v", err)
	}
}

// unlockAt asks for a frame by its counter.
func (c *copier) unlockAt(counter uint32) (*lock, error) {
	l, _, err := c.lockOf(&Entry{Counter: counter})
	return l, err
}

func TestPackedOpenerIsConcurrent(t *testing.T) {
	a, b := smallCells(t)
	c := openCell(t, testKey, pack(t, copies(a, b)))
	o, err := NewPackedOpener(testKeys, c.h, c.f)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range c.f.Entries {
				e := &c.f.Entries[i]
				if _, err := o.Frame(nil, c.f.Disks[e.Disk], e, c.body[e.Offset:][:e.Stored]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestPackerFillsUp: a Packer stops at the bounds, its object stays readable,
// and its size was never more than it said.
func TestPackerFillsUp(t *testing.T) {
	src := makeCell(t, testKey, testKeyID, dr.UUID{}, func(b *Builder) error { return b.AddFrame(disk(1), 5, 0xffff, 3, noise(1, 65536)) })
	e := &src.f.Entries[0]
	c := CopyOf(&src.h, src.f, e, src.body[e.Offset:][:e.Stored])
	p := NewPacker(testKey, testKeys, testDomain, BuilderOptions{})
	for {
		err := p.Add(&c)
		if errs.Is(err, errs.Full) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if p.Frames() < 500 || p.Size() > MaxObjectSize {
		t.Fatalf("%d frames, %d bytes", p.Frames(), p.Size())
	}
	bound := p.Size()
	// The same frame over and over is refused at the end; what is tested here
	// is room, so frames are told apart behind the Packer's back.
	for i := range p.b.footer.Entries {
		p.b.footer.Entries[i].Chunk = uint32(i)
	}
	body, _, err := p.Finish(packHeader())
	if err != nil || len(body) > bound {
		t.Fatalf("%d bytes of %d: %v", len(body), bound, err)
	}
	if _, f, _, err := OpenObject(testKey, body); err != nil || len(f.Copied) != p.Frames() {
		t.Fatal(err)
	}
}

// TestPackerIsUsedAgain: after Reset nothing of the object before is left.
func TestPackerIsUsedAgain(t *testing.T) {
	a, b := smallCells(t)
	p := NewPacker(testKey, testKeys, testDomain, BuilderOptions{})
	var objects []dr.UUID
	for _, from := range []cell{b, a, b} {
		p.Reset()
		cs := copies(from)
		for i := range cs {
			if err := p.Add(&cs[i]); err != nil {
				t.Fatal(err)
			}
		}
		body, _, err := p.Finish(packHeader())
		if err != nil {
			t.Fatal(err)
		}
		c := openCell(t, testKey, body)
		got, err := contents(testKeys, c)
		want, err2 := contents(testKeys, from)
		if err != nil || err2 != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v, %v", err, err2)
		}
		if len(c.f.Origins) != 1 || c.f.Origins[0].Object != from.h.Object || c.h.Object != p.Object() || slices.Contains(objects, p.Object()) {
			t.Fatalf("origins %v of object %v", c.f.Origins, c.h.Object)
		}
		objects = append(objects, p.Object())
	}
}

// TestPackerBoundsOrigins: a new origin behind the last allowed is refused, one
// that is there already is not.
func TestPackerBoundsOrigins(t *testing.T) {
	a, b := smallCells(t)
	cs := copies(a)
	p := NewPacker(testKey, testKeys, testDomain, BuilderOptions{})
	if err := p.Add(&cs[0]); err != nil {
		t.Fatal(err)
	}
	f := &p.b.footer
	f.Origins = append(f.Origins, make([]Origin, MaxOrigins-1)...)
	other := copies(b)
	if err := p.Add(&other[len(other)-1]); !errs.Is(err, errs.Full) {
		t.Errorf("an origin too many: %v", err)
	}
	if err := p.Add(&cs[1]); err != nil {
		t.Errorf("a known origin: %v", err)
	}
}

// TestPackedFooterFitsItsBound: at every limit at once a packed footer stays
// within MaxFooter.
func TestPackedFooterFitsItsBound(t *testing.T) {
	if worst := fixedBound + MaxDisks*diskBound + MaxFrames*(entryBound+copiedBound) + MaxBlocks*8 + MaxOrigins*originBound; worst > MaxFooter {
		t.Fatalf("a packed footer may take %d bytes; %d are allowed", worst, MaxFooter)
	}
}

// TestPackedParserRefuses writes footers around the Packer.
func TestPackedParserRefuses(t *testing.T) {
	a, b := smallCells(t)
	h := &Header{Kind: Data, Packed: true}
	good := openCell(t, testKey, pack(t, copies(a, b))).f
	plain := good.encode(nil, true)
	if got, err := parseFooter(plain, h, false); err != nil || !reflect.DeepEqual(got, good) {
		t.Fatal(err)
	}
	for what, change := range map[string]func(f *Footer){
		"zeroes":           func(f *Footer) { f.Zeros = []ZeroRange{{Count: 1, Seq: 150}} },
		"checkpoint":       func(f *Footer) { f.Checkpoint = &dr.Checkpoint{Seq: 999} },
		"origin":           func(f *Footer) { f.Copied[0].Origin = 2 },
		"counter":          func(f *Footer) { f.Copied[0].Counter = MaxFrames },
		"origin twice":     func(f *Footer) { f.Origins[1] = f.Origins[0] },
		"oldest first":     func(f *Footer) { f.Entries[0].Seq = 1 },
		"block twice":      func(f *Footer) { f.Entries[1].Seq = f.Entries[0].Seq },
		"too many origins": func(f *Footer) { f.Origins = make([]Origin, MaxOrigins+1) },
	} {
		f := *good
		f.Copied, f.Origins, f.Entries = slices.Clone(f.Copied), slices.Clone(f.Origins), slices.Clone(f.Entries)
		change(&f)
		if _, err := parseFooter(f.encode(nil, true), h, false); err == nil {
			t.Errorf("%s: parsed", what)
		}
	}
	for n := range plain {
		if _, err := parseFooter(plain[:n], h, false); err == nil {
			t.Errorf("cut to %d of %d: parsed", n, len(plain))
		}
	}
	two := makeCell(t, testKey, testKeyID, dr.UUID{}, func(b *Builder) error {
		return errors.Join(b.AddFrame(disk(1), 1, 1, 3, noise(1, 4096)), b.AddFrame(disk(1), 2, 1, 3, noise(2, 4096)))
	})
	moved := openCell(t, testKey, pack(t, copies(two))).f
	moved.Entries[0].Counter, moved.Entries[1].Counter = 1, 0
	if _, err := parseFooter(moved.encode(nil, true), h, false); err == nil {
		t.Error("frames not in place: parsed")
	}
	if _, err := parseFooter(plain, &Header{Kind: Data}, false); err == nil {
		t.Error("a packed footer passes for a plain one")
	}
	if _, err := parseFooter(append(plain, 0), h, true); err != nil {
		t.Errorf("one byte more by a newer version: %v", err)
	}
}

// TestNeedsIsRaisedWhereNeeded: what version 1 reads says so.
func TestNeedsIsRaisedWhereNeeded(t *testing.T) {
	plain, _ := smallObject(t)
	a, b := smallCells(t)
	small, _, err := SealBlob(testKey, journalHeaderOfDomain(), make([]byte, smallBlob))
	if err != nil {
		t.Fatal(err)
	}
	large, _, err := SealBlob(testKey, journalHeaderOfDomain(), make([]byte, smallBlob+1))
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		body []byte
		want byte
	}{"journal": {plain, 1}, "packed": {pack(t, copies(a, b)), 2}, "small blob": {small, 1}, "large blob": {large, 2}} {
		if c.body[offFormat] != c.want || c.body[offNeeds] != c.want {
			t.Errorf("%s: format %d, needs %d, want %d", what, c.body[offFormat], c.body[offNeeds], c.want)
		}
	}
	if _, got, err := OpenBlob(testKey, large); err != nil || len(got) != smallBlob+1 {
		t.Error(err)
	}
	odd := patch(plain, func(h []byte) { h[offForm] = 1 }) // version 1 does not look at it
	if h, err := ParseHeader(odd); err != nil || h.Packed {
		t.Errorf("%+v, %v", h, err)
	}
	odd = patch(plain, func(h []byte) { h[offForm], h[offNeeds] = 1, 2 })
	if _, err := ParseHeader(odd); !errs.Is(err, errs.Corrupt) {
		t.Errorf("a packed journal object: %v", err)
	}
}

// TestGoldenPackedObjectStaysReadable: what version 2 wrote is read for ever,
// and is still written so. Nothing of it depends on how well zstd packs but
// the footer's compressed form.
func TestGoldenPackedObjectStaysReadable(t *testing.T) {
	path := filepath.Join("testdata", "packed-v2.object")
	if *rewrite {
		a, b := smallCells(t)
		if err := os.WriteFile(path, pack(t, copies(a, b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := openCell(t, testKey, readGolden(t, "packed-v2.object"))
	got, err := contents(testKeys, c)
	if err != nil {
		t.Fatal(err)
	}
	a, b := smallCells(t)
	now := openCell(t, testKey, pack(t, copies(a, b)))
	want, err := contents(testKeys, now)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("the golden object reads otherwise than it was written (%v)", err)
	}
	if !bytes.Equal(c.body[:HeaderSize], now.body[:HeaderSize]) {
		t.Error("headers are written otherwise")
	}
	plain := plainFooter(t, c.body)
	f, err := parseFooter(plain, &c.h, false)
	if err != nil || !bytes.Equal(f.encode(nil, true), plain) || !reflect.DeepEqual(f.Copied, now.f.Copied) || !reflect.DeepEqual(f.Origins, now.f.Origins) {
		t.Errorf("footers are encoded otherwise (%v)", err)
	}
}

func FuzzParsePackedFooter(f *testing.F) {
	a, b := smallCells(f)
	h := &Header{Kind: Data, Packed: true}
	_, foot, _, err := OpenObject(testKey, pack(f, copies(a, b)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(foot.encode(nil, true))
	f.Add((&Footer{}).encode(nil, true))
	f.Fuzz(func(t *testing.T, plain []byte) {
		got, err := parseFooter(plain, h, false)
		if err != nil {
			return
		}
		again, err := parseFooter(got.encode(nil, true), h, false)
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("%+v is written and read as %+v, %v", got, again, err)
		}
		for i := range got.Entries {
			origin, counter := got.OriginOf(h, &got.Entries[i])
			if counter >= MaxFrames || !slices.Contains(got.Origins, origin) {
				t.Fatalf("frame %d is of %v, %d", i, origin, counter)
			}
		}
	})
}

// BenchmarkPacker copies frames of 30 KB: authentication is what it costs.
func BenchmarkPacker(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	src := makeCell(b, testKey, testKeyID, dr.UUID{}, func(bu *Builder) error {
		for i := range 256 {
			if err := bu.AddFrame(disk(1), uint32(i), 0x7f, 3, noise(r.Uint64(), 7*4096)); err != nil {
				return err
			}
		}
		return nil
	})
	cs := copies(src)
	p := NewPacker(testKey, testKeys, testDomain, BuilderOptions{})
	b.SetBytes(int64(len(src.body)))
	for b.Loop() {
		p.Reset()
		for i := range cs {
			if err := p.Add(&cs[i]); err != nil {
				b.Fatal(err)
			}
		}
		if _, _, err := p.Finish(packHeader()); err != nil {
			b.Fatal(err)
		}
	}
}
