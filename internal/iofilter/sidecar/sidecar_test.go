package sidecar

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/durable/durabletest"
	"holdfast/internal/errs"
)

const path = "/disk.holdfast"

func testDisk(regions int64) Identity {
	return Identity{Disk: dr.DiskID{UUID: dr.UUID{1, 2, 3, 15: 16}}, Size: regions*RegionSize - 512}
}

func open(t testing.TB, fs durable.FS, id Identity, modified int64) *Sidecar {
	t.Helper()
	s, err := Open(fs, path, id, modified)
	must(t, err)
	t.Cleanup(func() { s.End() })
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *Sidecar) list() (out []int) {
	s.Regions(func(r int) { out = append(out, r) })
	return out
}

func at(r int) Range { return Range{int64(r) * RegionSize, dr.BlockSize} }

// closeAll closes what nobody touches.
func (s *Sidecar) closeAll(t testing.TB, run uint64, durable dr.HostSeq) {
	t.Helper()
	r, _ := s.Begin(func(int) bool { return false })
	_, err := s.Close(r, run, durable, true)
	must(t, err)
}

// settled is a sidecar of run 7 with nothing open.
func settled(t testing.TB, fs durable.FS, id Identity) *Sidecar {
	t.Helper()
	s := open(t, fs, id, 0)
	must(t, s.Restart(7))
	s.closeAll(t, 7, 1)
	if s.Count() != 0 {
		t.Fatalf("%d regions open", s.Count())
	}
	return s
}

func TestLifeOfASidecar(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	id := testDisk(5000)
	s := open(t, fs, id, 0)
	if v := s.Vouch(); len(v.Runs) != 0 || s.Count() != 5000 {
		t.Fatalf("a new sidecar: %+v, %d open", v, s.Count())
	}
	must(t, s.Restart(7))
	s.closeAll(t, 7, 10)
	if s.Hot(0, 1) || s.Touch(0, 4096) {
		t.Fatal("a closed region takes writes")
	}
	must(t, s.OpenRegions([]Range{at(4000), {3967*RegionSize + 5, 2 * RegionSize}}))
	want := []int{3967, 3968, 3969, 4000}
	if !slices.Equal(s.list(), want) || !s.Hot(4000*RegionSize, RegionSize) {
		t.Fatalf("open %v, want %v", s.list(), want)
	}
	again := open(t, fs, id, 0)
	v := again.Vouch()
	if !slices.Equal(again.list(), want) || !slices.Equal(v.Runs, []uint64{7}) || v.Durable != 10 || v.Clean {
		t.Fatalf("read again: %v, %+v", again.list(), v)
	}
	// The process that should be dead writes into a file without a name.
	s.closeAll(t, 7, 11)
	if last := open(t, fs, id, 0); !slices.Equal(last.list(), want) {
		t.Fatalf("a zombie closed regions: %v", last.list())
	}
}

func TestTakingOver(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	id := testDisk(10)
	settled(t, fs, id)
	s := open(t, fs, id, 0)
	must(t, s.Continue(8))
	s = open(t, fs, id, 0)
	must(t, s.Continue(9))
	if v := s.Vouch(); !slices.Equal(v.Runs, []uint64{7, 8, 9}) || v.Durable != 1 {
		t.Fatalf("%+v", v)
	}
	must(t, s.OpenRegions([]Range{at(3)}))
	if s.closeAll(t, 9, 100); s.Count() != 1 {
		t.Fatal("closed for a run that is not settled")
	}
	must(t, s.Settle(9))
	if s.closeAll(t, 9, 100); s.Count() != 0 {
		t.Fatal("not closed for a settled run")
	}
	if v := open(t, fs, id, 0).Vouch(); !slices.Equal(v.Runs, []uint64{9}) || v.Durable != 100 {
		t.Fatalf("%+v", v)
	}
	for run := uint64(10); run < 13; run++ {
		must(t, open(t, fs, id, 0).Continue(run))
	}
	if err := open(t, fs, id, 0).Continue(13); !errs.Is(err, errs.Full) {
		t.Fatalf("the fifth run: %v", err)
	}
}

func TestClean(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	id := testDisk(10)
	s := settled(t, fs, id)
	if ok, err := s.Clean(55); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if v := open(t, fs, id, 55).Vouch(); !v.Clean {
		t.Fatalf("%+v", v)
	}
	s = open(t, fs, id, 55)
	must(t, s.OpenRegions([]Range{at(1)}))
	if v := open(t, fs, id, 99).Vouch(); v.Clean || len(v.Runs) != 1 {
		t.Fatalf("after a write: %+v", v)
	}
	s = open(t, fs, id, 0)
	if ok, err := s.Clean(60); ok || err != nil {
		t.Fatal("clean with an open region", err)
	}
	s.closeAll(t, 7, 2)
	if ok, err := s.Clean(60); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if s := open(t, fs, id, 61); len(s.Vouch().Runs) != 0 || s.Count() != 10 {
		t.Fatalf("somebody wrote to the primary: %+v", s.Vouch())
	}
}

// TestClosingOrder: idle regions go first, touched ones stay, and of too many
// the rest goes.
func TestClosingOrder(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	s := settled(t, fs, testDisk(4000))
	begin := func() Round { r, _ := s.Begin(func(r int) bool { return r == 2 }); return r }
	shut := func(r Round) int { n, err := s.Close(r, 7, 5, false); must(t, err); return n }
	must(t, s.OpenRegions([]Range{at(2), at(500), at(900)}))
	if n := shut(begin()); n != 0 {
		t.Fatalf("%d closed that were in use a round ago", n)
	}
	r := begin()
	s.Touch(500*RegionSize, 1)
	if n := shut(r); n != 1 || !slices.Equal(s.list(), []int{2, 500}) {
		t.Fatalf("%d closed, open %v", n, s.list())
	}
	if n := shut(r); n != 0 {
		t.Fatal("a round closed twice")
	}
	r = begin()
	must(t, s.Restart(8))
	if n, err := s.Close(r, 8, 5, true); n != 0 || err != nil {
		t.Fatal("a round from before a restart closed regions", n, err)
	}
	s.closeAll(t, 8, 5)
	for i := range MaxOpen + 100 {
		must(t, s.OpenRegions([]Range{at(1000 + 2*i)}))
	}
	if !s.Crowded() {
		t.Fatal("not crowded")
	}
	r, worth := s.Begin(func(int) bool { return false })
	if n, err := s.Close(r, 8, 6, false); err != nil || worth != 100 || s.Count() != MaxOpen*3/4 {
		t.Fatalf("%d closed (%v), worth %d, %d open", n, err, worth, s.Count())
	}
}

func TestSequentialStreamOpensAhead(t *testing.T) {
	fs := durabletest.New(durabletest.Config{})
	s := settled(t, fs, testDisk(1024))
	before := s.Stats().Syncs
	for off := int64(0); off < 1024*RegionSize-RegionSize; off += 64 << 10 {
		if !s.Hot(off, 64<<10) && !s.Touch(off, 64<<10) {
			must(t, s.OpenRegions([]Range{{off, 64 << 10}}))
		}
	}
	n := s.Stats().Syncs - before
	t.Logf("%d synchronous writes for 1 GiB", n)
	if n > 66 {
		t.Errorf("%d synchronous writes for 1 GiB in sequence", n)
	}
}

// TestDamage: a damaged sector is open, a damaged head falls back to the other,
// and whatever is not this disk's is worth nothing.
func TestDamage(t *testing.T) {
	id := testDisk(5000)
	const firstSector = headPages * pageSize
	for name, x := range map[string]struct {
		spoil func(fs *durabletest.FS)
		id    Identity
		count int // open; all: the file is not used
	}{
		"sound":        {func(*durabletest.FS) {}, id, 1},
		"a sector":     {func(fs *durabletest.FS) { fs.Flip(path, firstSector+100, 1) }, id, sectorRegions + 1},
		"the last":     {func(fs *durabletest.FS) { fs.Flip(path, firstSector+sectorSize+20, 1) }, id, 5000 - sectorRegions},
		"one head":     {func(fs *durabletest.FS) { fs.Flip(path, 70, 1) }, id, 1},
		"other head":   {func(fs *durabletest.FS) { fs.Flip(path, pageSize+70, 1) }, id, 1},
		"both heads":   {func(fs *durabletest.FS) { fs.Flip(path, 70, 1); fs.Flip(path, pageSize+70, 1) }, id, 5000},
		"another disk": {func(*durabletest.FS) {}, Identity{Size: id.Size}, 5000},
		"another size": {func(*durabletest.FS) {}, Identity{Disk: id.Disk, Size: id.Size + 512}, 5000},
	} {
		fs := durabletest.New(durabletest.Config{})
		s := settled(t, fs, id)
		must(t, s.OpenRegions([]Range{at(4500)}))
		x.spoil(fs)
		s = open(t, fs, x.id, 0)
		if s.Count() != x.count || (len(s.Vouch().Runs) == 0) != (x.count == 5000) {
			t.Errorf("%s: %d open, want %d; %+v", name, s.Count(), x.count, s.Vouch())
		}
	}
}

// TestUnwritable: what cannot be written is voided by what still works, and if
// nothing does, that is said.
func TestUnwritable(t *testing.T) {
	broken := errs.New("disk", errs.Unavailable, path, "medium error")
	for name, x := range map[string]struct {
		fails func(durabletest.Op) bool
		stale bool // Void cannot help it
	}{
		"sectors only":       {func(o durabletest.Op) bool { return o.Kind == durabletest.Write && o.Off >= headPages*pageSize }, false},
		"all writes":         {func(o durabletest.Op) bool { return o.Kind == durabletest.Write }, false},
		"a dead file system": {func(o durabletest.Op) bool { return o.Kind.Mutates() }, true},
		"names, not the file": {func(o durabletest.Op) bool {
			return o.Kind == durabletest.Remove || o.Kind == durabletest.Write && o.Off > pageSize
		}, false},
	} {
		fs := durabletest.New(durabletest.Config{})
		id := testDisk(100)
		s := settled(t, fs, id)
		fs.SetHook(func(o durabletest.Op) error {
			if x.fails(o) {
				return broken
			}
			return nil
		})
		if err := s.OpenRegions([]Range{at(5)}); !errs.Is(err, errs.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if s.Touch(5*RegionSize, 1) {
			t.Errorf("%s: open without being so on the disk", name)
		}
		if err := s.Void(); (err != nil) != x.stale {
			t.Errorf("%s: void: %v", name, err)
		}
		s.GiveUp()
		if !s.Hot(99*RegionSize, 1) || !s.Touch(7*RegionSize, 1) || !s.Stats().Given {
			t.Errorf("%s: given up, and writes do not pass", name)
		}
		fs.SetHook(nil)
		if v := open(t, fs, id, 0).Vouch(); (len(v.Runs) > 0) != x.stale {
			t.Errorf("%s: a later run finds %+v", name, v)
		}
		must(t, s.Restart(8))
		if s.Count() != 100 || s.Hot(0, 1) || s.Stats().Given {
			t.Errorf("%s: not taken up again", name)
		}
		// A file that cannot be taken over at the start opens nothing.
		fs.SetHook(func(o durabletest.Op) error {
			if o.Kind == durabletest.Read {
				return broken
			}
			return nil
		})
		if s, err := Open(fs, path, id, 0); err == nil || s.Count() != 0 || len(s.Vouch().Runs) != 0 || s.OpenRegions([]Range{at(1)}) == nil {
			t.Errorf("%s: unreadable: %v, %d open", name, err, s.Count())
		}
	}
}

// TestCrashEverywhere stops the machine in every operation of a sidecar's life
// and demands of what is found: it vouches for a run only with every region
// open that was ever promised to be and not given up since; and it names every
// run that was told to go on.
func TestCrashEverywhere(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	if words := crashEverywhere(t, seed, sound); words != "" {
		t.Fatal(words)
	}
}

// TestBrokenOrderIsNoticed: the same with one step too early.
func TestBrokenOrderIsNoticed(t *testing.T) {
	for name, f := range map[string]flaw{"written before it is open": writtenFirst, "closed before the head says why": headLast,
		"named before the file says so": namedFirst} {
		if words := crashEverywhere(t, 1, f); words == "" {
			t.Errorf("%s: not noticed", name)
		} else {
			t.Logf("%s: %s", name, words)
		}
	}
}

// flaw breaks one rule of whoever uses a sidecar.
type flaw int

const (
	sound        flaw = iota
	writtenFirst      // a region counts as open before the call that opens it returns
	headLast          // the log's progress is told after the bits
	namedFirst        // a run announces itself before the file names it
)

func crashEverywhere(t *testing.T, seed uint64, f flaw) string {
	images := 0
	for n := int64(1); ; n++ {
		for _, phase := range []durabletest.Phase{durabletest.Before, durabletest.During, durabletest.After} {
			fs := durabletest.New(durabletest.Config{})
			fs.CrashAt(n, phase)
			l := live(fs, rand.New(rand.NewPCG(seed, 1)), f)
			if !fs.Halted() {
				if phase != durabletest.Before {
					continue // a phase that this kind of operation does not have
				}
				t.Logf("%d operations, %d images", n-1, images)
				return ""
			}
			for i := range uint64(12) {
				images++
				img := fs.Image(seed+i, durabletest.Loss(i%3/2))
				s, err := Open(img, path, l.id, 0)
				must(t, err)
				if words := l.wrong(s); words != "" {
					return fmt.Sprintf("crash in operation %d, phase %d, image %d: %s", n, phase, i, words)
				}
				s.End()
			}
		}
	}
}

// lived is what was promised until the crash.
type lived struct {
	id       Identity
	must     map[int]bool // regions that must be open
	durable  dr.HostSeq   // no sidecar of run 7 may rely on less than what closed regions did
	run      uint64
	may      uint64 // another run that the file may name alone by now
	vouching bool   // the file must not vouch before
	named    uint64 // a run that announced itself
}

func (l *lived) wrong(s *Sidecar) string {
	v := s.Vouch()
	if len(v.Runs) == 0 {
		return ""
	}
	if !l.vouching {
		return fmt.Sprintf("vouches for %v before any run was settled", v.Runs)
	}
	if v.Runs[0] != l.run && v.Runs[0] != l.may {
		return fmt.Sprintf("runs %v, settled %d", v.Runs, l.run)
	}
	if l.named != 0 && !slices.Contains(v.Runs, l.named) {
		return fmt.Sprintf("run %d announced itself, the file names %v", l.named, v.Runs)
	}
	for r := range l.must {
		if !s.open.has(r) {
			return fmt.Sprintf("region %d is closed", r)
		}
	}
	if v.Runs[0] == l.run && v.Durable < l.durable {
		return fmt.Sprintf("relies on %d, regions were closed for %d", v.Durable, l.durable)
	}
	return ""
}

// live plays a life until the machine stops.
func live(fs durable.FS, rng *rand.Rand, f flaw) *lived {
	l := &lived{id: testDisk(40000), must: map[int]bool{}}
	all := func() {
		for r := range l.id.regions() {
			l.must[r] = true
		}
	}
	promise := func(w Range) {
		first, last := span(w)
		for r := first; r <= last; r++ {
			l.must[r] = true
		}
	}
	s, err := Open(fs, path, l.id, 0)
	if err != nil {
		return l
	}
	defer s.End()
	l.vouching, l.may = true, 7
	all()
	if s.Restart(7) != nil {
		return l
	}
	l.run, l.may = 7, 0
	hs := dr.HostSeq(1)
	for step := range 40 {
		switch {
		case step%8 == 7:
			hs += 10
			r, _ := s.Begin(func(r int) bool { return r%1000 == 3 })
			for r := range l.must {
				if r%1000 != 3 {
					delete(l.must, r) // from here on it may be closed
				}
			}
			for range 3 { // touched in the round
				if r := rng.IntN(40000); s.Touch(int64(r)*RegionSize, 1) {
					l.must[r] = true
				}
			}
			relies := hs
			if f == headLast {
				relies, l.durable = l.durable, hs // as if another head followed the bits
			}
			n, err := s.Close(r, l.run, relies, true)
			if err != nil {
				return l
			}
			if n > 0 {
				l.durable = relies
			}
		case step == 20 || step == 30:
			l.may = l.run + 1
			if f == namedFirst {
				l.named = l.may
			}
			if s.Continue(l.may) != nil {
				return l
			}
			l.named = l.may
			if s.Settle(l.may) != nil {
				return l
			}
			l.run, l.may, l.durable = l.may, 0, 0
		default:
			w := Range{rng.Int64N(l.id.Size - 3*RegionSize), 1 + rng.Int64N(2*RegionSize)}
			if f == writtenFirst {
				promise(w)
			}
			if s.OpenRegions([]Range{w}) != nil {
				return l
			}
			promise(w)
		}
	}
	return l
}

// TestHotDoesNotAllocate: the test of a write to an open region is free.
func TestHotDoesNotAllocate(t *testing.T) {
	s := settled(t, durabletest.New(durabletest.Config{}), testDisk(1000))
	must(t, s.OpenRegions([]Range{at(10)}))
	if n := testing.AllocsPerRun(1000, func() { s.Hot(10*RegionSize, 4096); s.Touch(10*RegionSize, 4096) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHot(b *testing.B) {
	s := settled(b, durabletest.New(durabletest.Config{}), testDisk(1<<20))
	must(b, s.OpenRegions([]Range{{0, 256 * RegionSize}}))
	off := int64(0)
	for b.Loop() {
		if !s.Hot(off, 4096) {
			b.Fatal("not open")
		}
		off = (off + 7919*4096) & (256*RegionSize - 1)
	}
}

func BenchmarkOpenOneRegion(b *testing.B) {
	file := filepath.Join(b.TempDir(), "s")
	s, err := Open(durable.OS{}, file, testDisk(1<<22), 0)
	must(b, err)
	must(b, s.Restart(7))
	s.closeAll(b, 7, 1)
	r := 0
	for b.Loop() {
		r = (r + 7919) & (1<<22 - 1)
		must(b, s.OpenRegions([]Range{at(r)}))
	}
	must(b, s.End())
}

// golden is a file of version 1, kept for ever.
const golden = "testdata/v1.holdfast"

func TestGoldenFileStaysReadable(t *testing.T) {
	id := testDisk(5000)
	h := head{id: id, state: clean, serial: 9, generation: 0x1122334455667788, durable: 77, modified: 1234, runs: []uint64{5, 6}}
	bits := newBits(5000)
	bits.set(0)
	bits.set(3968)
	bits.set(4999)
	now := encode(&h, bits)
	if os.Getenv("HOLDFAST_GOLDEN") != "" {
		must(t, os.MkdirAll("testdata", 0o700))
		must(t, os.WriteFile(golden, now, 0o600))
	}
	old, err := os.ReadFile(golden)
	must(t, err)
	if !bytes.Equal(old, now) {
		t.Error("the format changed: that needs a version and a fixture of its own")
	}
	got, open, ok := decode(old, id)
	if !ok || fmt.Sprint(got) != fmt.Sprint(h) || !slices.Equal(open, bits) {
		t.Errorf("%v %+v", ok, got)
	}
}

// TestFormatDocument compares the tables of the document with the code.
func TestFormatDocument(t *testing.T) {
	b, err := os.ReadFile("../../../docs/format/sidecar.md")
	must(t, err)
	rows := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| ([a-z ]+) \|`).FindAllStringSubmatch(string(b), -1) {
		n, _ := strconv.Atoi(m[1])
		rows[m[3]] = n
	}
	want := map[string]int{"magic": 0, "version": atVersion, "state": atState, "runs": atRuns, "serial": atSerial, "disk": atDisk,
		"size": atSize, "region": atRegion, "generation": atGeneration, "durable": atDurable, "modified": atModified,
		"run list": atRunList, "checksum": atHeadCRC, "sector checksum": 0, "number": atNumber,
		"sector generation": atSectorGen, "bits": sectorHead}
	if fmt.Sprint(rows) != fmt.Sprint(want) {
		t.Errorf("the document says %v, the code %v", rows, want)
	}
	for _, words := range []string{"`" + magic + "`", strconv.Itoa(RegionSize), strconv.Itoa(sectorRegions), fmt.Sprintf("at most %d", MaxRuns)} {
		if !bytes.Contains(b, []byte(words)) {
			t.Errorf("the document does not say %s", words)
		}
	}
}

// FuzzDecode: nothing panics, and nothing is closed that is not vouched for.
func FuzzDecode(f *testing.F) {
	id := testDisk(100)
	h := head{id: id, serial: 3, generation: 4, runs: []uint64{5}}
	bits := newBits(100)
	bits.set(70)
	sound := encode(&h, bits)
	f.Add(sound[:600], sound[headPages*pageSize:headPages*pageSize+600])
	f.Fuzz(func(t *testing.T, heads, sectors []byte) {
		p := make([]byte, id.fileSize())
		copy(p[:headPages*pageSize], heads)
		copy(p[headPages*pageSize:], sectors)
		_, open, ok := decode(p, id)
		if ok && (len(open) != 2 || open[1]>>36 != 0) {
			t.Fatalf("%x", open)
		}
		_, _, _ = decode(heads, id)
	})
}
