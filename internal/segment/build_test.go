package segment

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

func TestArgumentsAreChecked(t *testing.T) {
	b := NewBuilder(testKey, testDomain, BuilderOptions{})
	block := noise(1, 4096)
	for what, err := range map[string]error{
		"no block":            b.AddFrame(disk(1), 0, 0, 1, nil),
		"too few bytes":       b.AddFrame(disk(1), 0, 0b11, 1, block),
		"too many bytes":      b.AddFrame(disk(1), 0, 0b1, 1, append(block, 0)),
		"chunk too high":      b.AddFrame(disk(1), MaxChunks, 0b1, 1, block),
		"no zeroes":           b.AddZero(disk(1), 0, 0, 1),
		"zeroes too high":     b.AddZero(disk(1), maxDiskBlocks, 1, 1),
		"zeroes end too high": b.AddZero(disk(1), maxDiskBlocks-1, 2, 1),
		"zeroes wrap":         b.AddZero(disk(1), 5, math.MaxUint64, 1),
	} {
		if !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if b.Frames() != 0 || len(b.footer.Disks) != 0 {
		t.Fatal("a refused call left something behind")
	}
	b.SetSeqs(1, 1)
	for what, err := range map[string]error{
		"last chunk": b.AddFrame(disk(1), MaxChunks-1, 1<<15, 1, block),
		"whole disk": b.AddZero(disk(2), 0, maxDiskBlocks, 1),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	body, _, err := b.Finish(journalHeader())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := OpenObject(testKey, body); err != nil {
		t.Fatal(err)
	}
}

// TestFinishRefusesWhatIsNoCell: an object in which a block has two states, or
// that holds what it should not, cannot be made.
func TestFinishRefusesWhatIsNoCell(t *testing.T) {
	block := func(n int) []byte { return noise(uint64(n), n*4096) }
	type step func(b *Builder) error
	frame := func(d byte, chunk uint32, mask uint16, n int, seq dr.Seq) step {
		return func(b *Builder) error { return b.AddFrame(disk(d), chunk, mask, seq, block(n)) }
	}
	zero := func(d byte, first, count uint64, seq dr.Seq) step {
		return func(b *Builder) error { return b.AddZero(disk(d), first, count, seq) }
	}
	checkpoint := func(c dr.Checkpoint) step { return func(b *Builder) error { b.SetCheckpoint(c); return nil } }
	seqs := func(first, last dr.Seq) step { return func(b *Builder) error { b.SetSeqs(first, last); return nil } }
	header := func(change func(h *Header)) Header { h := journalHeader(); change(&h); return h }
	plain := journalHeader()
	many := make([]dr.CheckpointDisk, MaxDisks+1)
	for _, c := range []struct {
		what  string
		steps []step
		h     Header
		ok    bool
	}{
		{"empty", nil, plain, true},
		{"no records", []step{seqs(50, 49)}, plain, true},
		{"one block", []step{frame(1, 3, 1, 1, 15)}, plain, true},
		{"same chunk, other blocks", []step{frame(1, 3, 0b01, 1, 15), frame(1, 3, 0b10, 1, 16)}, plain, true},
		{"same block twice", []step{frame(1, 3, 0b11, 2, 15), frame(1, 3, 0b10, 1, 16)}, plain, false},
		{"same block twice, apart", []step{frame(1, 3, 0b11, 2, 15), frame(1, 2, 1, 1, 15), frame(2, 3, 1, 1, 16), frame(1, 3, 0b10, 1, 16)}, plain, false},
		{"same block, other disk", []step{frame(1, 3, 1, 1, 15), frame(2, 3, 1, 1, 15)}, plain, true},
		{"zero beside block", []step{frame(1, 3, 0b10, 1, 15), zero(1, 48, 1, 15), zero(1, 50, 14, 15)}, plain, true},
		{"zero over block", []step{frame(1, 3, 0b10, 1, 15), zero(1, 49, 1, 15)}, plain, false},
		{"long zero over block", []step{frame(1, 3, 0b10, 1, 15), zero(1, 0, 1000, 15)}, plain, false},
		{"zero up to block", []step{frame(1, 3, 0b1, 1, 15), zero(1, 0, 48, 15)}, plain, true},
		{"zero of other disk", []step{frame(1, 3, 0b1, 1, 15), zero(2, 0, 1000, 15)}, plain, true},
		{"long zero over later chunks", []step{frame(1, 3, 1, 1, 15), frame(1, 900, 1, 1, 15), zero(1, 64, 100_000, 15)}, plain, false},
		{"zero over block of the second disk", []step{zero(1, 0, 10, 15), frame(2, 3, 1, 1, 15), zero(2, 48, 1, 15)}, plain, false},
		{"last of many zeroes over block", []step{zero(1, 0, 5, 15), zero(1, 10, 5, 15), frame(1, 3, 1, 1, 15), zero(1, 40, 9, 15)}, plain, false},
		{"zeroed twice", []step{zero(1, 10, 10, 15), zero(1, 19, 10, 15)}, plain, false},
		{"zeroes touch", []step{zero(1, 10, 10, 15), zero(1, 20, 10, 15)}, plain, true},
		{"seq too low", []step{frame(1, 3, 1, 1, 9)}, plain, false},
		{"seq too high", []step{frame(1, 3, 1, 1, 21)}, plain, false},
		{"zero's seq too high", []step{zero(1, 3, 1, 21)}, plain, false},
		{"no range", []step{seqs(20, 10)}, plain, false},
		{"behind checkpoint", []step{frame(1, 3, 1, 1, 15), checkpoint(dr.Checkpoint{ID: 1, Seq: 15})}, plain, false},
		{"before checkpoint", []step{frame(1, 3, 1, 1, 15), checkpoint(dr.Checkpoint{ID: 1, Seq: 16})}, plain, true},
		{"checkpoint alone", []step{checkpoint(testCheckpoint(16))}, plain, true},
		{"long tag", []step{checkpoint(dr.Checkpoint{Seq: 16, Tag: strings.Repeat("x", MaxTag+1)})}, plain, false},
		{"many disks", []step{checkpoint(dr.Checkpoint{Seq: 16, Disks: many})}, plain, false},
		{"most disks", []step{checkpoint(dr.Checkpoint{Seq: 16, Disks: many[1:]})}, plain, true},
		{"many missing", []step{checkpoint(dr.Checkpoint{Seq: 16, Missing: make([]dr.VMID, MaxMissing+1)})}, plain, false},
		{"negative disk", []step{checkpoint(dr.Checkpoint{Seq: 16, Disks: []dr.CheckpointDisk{{Size: -1}}})}, plain, false},
		{"huge disk", []step{checkpoint(dr.Checkpoint{Seq: 16, Disks: []dr.CheckpointDisk{{Size: dr.MaxDiskSize + 1}}})}, plain, false},
		{"unknown checkpoint", []step{checkpoint(dr.Checkpoint{Seq: 16, Kind: 77})}, plain, false},
		{"fence", nil, header(func(h *Header) { h.Kind = Fence }), false},
		{"no timeline", nil, header(func(h *Header) { h.Timeline = dr.TimelineID{} }), false},
		{"no key", nil, header(func(h *Header) { h.Key = dr.UUID{} }), false},
		{"no epoch", nil, header(func(h *Header) { h.Epoch = 0 }), false},
		{"no number", nil, header(func(h *Header) { h.Number = 0 }), false},
		{"data needs neither", []step{frame(1, 3, 1, 1, 999)}, header(func(h *Header) { h.Kind, h.Epoch, h.Number = Data, 0, 0 }), true},
	} {
		b := NewBuilder(testKey, testDomain, BuilderOptions{})
		b.SetSeqs(10, 20)
		for _, s := range c.steps {
			if err := s(b); err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
		}
		body, _, err := b.Finish(c.h)
		if c.ok != (err == nil) || err != nil && !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v", c.what, err)
		}
		if err == nil {
			if _, err := readAll(testKey, body); err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
		}
	}
}

// TestParserRefusesWhatTheBuilderDoes writes footers around the Builder.
func TestParserRefusesWhatTheBuilderDoes(t *testing.T) {
	good := func() *Footer {
		return &Footer{
			Disks: []dr.DiskID{disk(1), disk(2)},
			Entries: []Entry{
				{Disk: 0, Chunk: 1, Mask: 3, Seq: 12, Stored: 100, Counter: 0},
				{Disk: 1, Chunk: 1, Mask: 1, Seq: 13, Stored: 4112, Raw: true, Counter: 1},
			},
			Zeros:  []ZeroRange{{Disk: 0, First: 0, Count: 16, Seq: 14}},
			Hashes: []uint64{1, 2, 3}, First: 10, Last: 20,
		}
	}
	if _, err := parseFooter(good().encode(nil, false), &Header{Kind: Journal}, false); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(f *Footer){
		"two states":         func(f *Footer) { f.Zeros[0].Count = 17 },
		"seq outside":        func(f *Footer) { f.Entries[0].Seq = 9 },
		"no mask":            func(f *Footer) { f.Entries[0].Mask = 0 },
		"hash too many":      func(f *Footer) { f.Hashes = append(f.Hashes, 4) },
		"hash too few":       func(f *Footer) { f.Hashes = f.Hashes[:2] },
		"counter twice":      func(f *Footer) { f.Entries[1].Counter = 0 },
		"counter gap":        func(f *Footer) { f.Entries[1].Counter = 2 },
		"nothing stored":     func(f *Footer) { f.Entries[0].Stored = 16 },
		"stored too much":    func(f *Footer) { f.Entries[0].Stored = 8192 + 16 },
		"chunk too high":     func(f *Footer) { f.Entries[1].Chunk = MaxChunks },
		"zero too high":      func(f *Footer) { f.Zeros[0].First = maxDiskBlocks },
		"zero of no disk":    func(f *Footer) { f.Zeros[0].Disk = 2 },
		"zero of nothing":    func(f *Footer) { f.Zeros[0].Count = 0 },
		"disk twice":         func(f *Footer) { f.Disks[1] = f.Disks[0] },
		"more disks":         func(f *Footer) { f.Disks = make([]dr.DiskID, MaxDisks+1) },
		"zeros out of order": func(f *Footer) { f.Zeros = append(f.Zeros, ZeroRange{Disk: 0, First: 0, Count: 1, Seq: 14}) },
		"unknown checkpoint": func(f *Footer) { f.Checkpoint = &dr.Checkpoint{Seq: 20, Scope: 9} },
	} {
		f := good()
		change(f)
		if _, err := parseFooter(f.encode(nil, false), &Header{Kind: Journal}, false); err == nil {
			t.Errorf("%s: parsed", what)
		}
	}
	plain := good().encode(nil, false)
	for n := range plain {
		if _, err := parseFooter(plain[:n], &Header{Kind: Journal}, false); err == nil {
			t.Errorf("cut to %d of %d: parsed", n, len(plain))
		}
	}
	if _, err := parseFooter(append(plain, 0), &Header{Kind: Journal}, false); err == nil {
		t.Error("one byte more: parsed")
	}
	if _, err := parseFooter(append(plain, 0), &Header{Kind: Journal}, true); err != nil {
		t.Errorf("one byte more by a newer version: %v", err)
	}
	if _, err := parseFooter(make([]byte, MaxFooter+1), &Header{Kind: Journal}, false); err == nil {
		t.Error("too large: parsed")
	}
}

// TestFooterFitsItsBound: an object at every limit at once stays readable.
func TestFooterFitsItsBound(t *testing.T) {
	worst := fixedBound + MaxDisks*diskBound + MaxFrames*entryBound + MaxZeros*zeroBound + MaxBlocks*8 +
		MaxTag + MaxMissing*missingSize + MaxDisks*checkpointDisk
	if worst > MaxFooter {
		t.Fatalf("a footer may take %d bytes; %d are allowed", worst, MaxFooter)
	}
	f := &Footer{First: 1, Last: math.MaxUint64}
	for i := range MaxDisks {
		f.Disks = append(f.Disks, dr.DiskID{UUID: dr.UUID{byte(i), byte(i >> 8)}})
	}
	r := noise(5, MaxFrames*8)
	for i := range MaxFrames {
		f.Entries = append(f.Entries, Entry{
			Disk: uint16(i * MaxDisks / MaxFrames), Chunk: uint32(i%32) << 24, Mask: 0xff00, Stored: 60,
			Seq: dr.Seq(r[8*i])<<50 | 1, Counter: uint32(MaxFrames - 1 - i),
		})
	}
	f.Hashes = make([]uint64, MaxBlocks)
	for i := range MaxZeros {
		f.Zeros = append(f.Zeros, ZeroRange{Disk: uint16(i * MaxDisks / MaxZeros), First: uint64(i%16)<<30 + 1<<29, Count: 1, Seq: 1 << 60})
	}
	plain := f.encode(nil, false)
	if len(plain) > worst {
		t.Fatalf("encoded to %d bytes, bound %d", len(plain), worst)
	}
	g, err := parseFooter(plain, &Header{Kind: Journal}, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Entries) != MaxFrames || len(g.Zeros) != MaxZeros || len(g.Hashes) != MaxBlocks {
		t.Fatal("lost something")
	}
}

func TestFullObject(t *testing.T) {
	b := NewBuilder(testKey, testDomain, BuilderOptions{})
	b.SetSeqs(1, 1)
	chunk := noise(1, dr.ChunkSize)
	var err error
	n := uint32(0)
	for ; err == nil; n++ {
		err = b.AddFrame(disk(1), n, 0xffff, 1, chunk)
	}
	if !errs.Is(err, errs.Full) || b.Frames() != int(n-1) {
		t.Fatalf("%d frames: %v", b.Frames(), err)
	}
	body, _, err := b.Finish(journalHeader())
	if err != nil {
		t.Fatal(err)
	}
	if len(body) > MaxObjectSize || len(body) < MaxObjectSize-2*dr.ChunkSize {
		t.Fatalf("full object has %d bytes of %d", len(body), MaxObjectSize)
	}
	if _, _, _, err := OpenObject(testKey, body); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	if b.Frames() != 0 || b.Size() > HeaderSize+fixedBound+Overhead+TailSize {
		t.Fatalf("after Reset: %d frames, size %d", b.Frames(), b.Size())
	}
	b.SetSeqs(1, 1)
	for i := range MaxDisks + 1 {
		err = b.AddZero(dr.DiskID{UUID: dr.UUID{byte(i), byte(i >> 8)}}, 0, 1, 1)
	}
	if !errs.Is(err, errs.Full) {
		t.Fatalf("disk %d: %v", MaxDisks+1, err)
	}
	for i := 0; i <= MaxZeros-MaxDisks; i++ {
		err = b.AddZero(disk(0), uint64(i)*2+2, 1, 1)
	}
	if !errs.Is(err, errs.Full) {
		t.Fatalf("zero range %d: %v", MaxZeros+1, err)
	}
}

// TestSameInputSameObject: with the uuid fixed nothing else is random.
func TestSameInputSameObject(t *testing.T) {
	a, da := smallObject(t)
	b, db := smallObject(t)
	if da != db || !slices.Equal(a, b) {
		t.Fatal("two objects of the same content and uuid differ")
	}
}

func TestResetStartsAfresh(t *testing.T) {
	b := NewBuilder(testKey, testDomain, BuilderOptions{Object: testObject})
	seen := map[dr.UUID]bool{}
	for i := range 5 {
		b.SetSeqs(1, 1)
		if i == 0 {
			b.SetCheckpoint(testCheckpoint(9))
		}
		if err := b.AddFrame(disk(byte(i)), uint32(i), 1, 1, text(uint64(i), 4096)); err != nil {
			t.Fatal(err)
		}
		body, _, err := b.Finish(journalHeader())
		if err != nil {
			t.Fatal(err)
		}
		h, f, _, err := OpenObject(testKey, body)
		if err != nil || seen[h.Object] || len(f.Entries) != 1 || f.Disks[0] != disk(byte(i)) || (f.Checkpoint != nil) != (i == 0) {
			t.Fatalf("object %d: %+v %+v %v", i, h, f, err)
		}
		seen[h.Object] = true
		b.Reset()
	}
}

// overhead builds one object of 16 MiB and returns stored bytes per byte.
func overhead(t *testing.T, blocks int, content func(uint64, int) []byte) float64 {
	t.Helper()
	b := NewBuilder(testKey, testDomain, BuilderOptions{})
	b.SetSeqs(1000, 1_000_000)
	raw := 0
	r := uint32(12345)
	seen := map[uint32]bool{}
	for i := 0; raw < 16<<20; i++ {
		r = r*1664525 + 1013904223
		chunk := r >> 8 // scattered over 1 TiB
		if seen[chunk] {
			continue
		}
		seen[chunk] = true
		mask := uint16(1<<blocks-1) << (r % uint32(17-blocks))
		if err := b.AddFrame(disk(byte(i%3)), chunk, mask, dr.Seq(1000+i*7), content(uint64(i), blocks*4096)); err != nil {
			t.Fatal(err)
		}
		raw += blocks * 4096
	}
	bound := b.Size()
	body, _, err := b.Finish(journalHeader())
	if err != nil {
		t.Fatal(err)
	}
	if float64(bound) > 1.01*float64(len(body))+1000 && blocks > 0 {
		t.Logf("Size says %d of %d bytes", bound, len(body))
	}
	return float64(len(body)) / float64(raw)
}

func TestOverhead(t *testing.T) {
	for _, blocks := range []int{1, 4, 16} {
		ratio := overhead(t, blocks, noise)
		t.Logf("scattered incompressible frames of %d blocks: %.4f bytes stored per byte", blocks, ratio)
		if ratio > 1.02 {
			t.Errorf("frames of %d blocks: %.4f bytes stored per byte", blocks, ratio)
		}
	}
}

func TestAddFrameDoesNotAllocate(t *testing.T) {
	const frames = 200
	for name, content := range map[string][]byte{"text": text(1, dr.ChunkSize), "noise": noise(1, dr.ChunkSize)} {
		b := NewBuilder(testKey, testDomain, BuilderOptions{})
		fill := func() {
			for c := range uint32(frames) {
				if err := b.AddFrame(disk(1), c, 0xffff, 1, content); err != nil {
					t.Fatal(err)
				}
			}
		}
		fill() // grows the buffers once
		reset := testing.AllocsPerRun(10, b.Reset)
		both := testing.AllocsPerRun(5, func() { b.Reset(); fill() })
		t.Logf("%s: %.0f allocations per object of %d frames, %.0f of them by Reset", name, both, frames, reset)
		if both-reset > frames/20 { // a collection may empty the pool of hashers
			t.Errorf("%s: %.0f allocations for %d frames", name, both-reset, frames)
		}
	}
}

// The race detector makes sync.Pool forget at random, so that only the plain
// run can count.
func TestFrameDoesNotAllocate(t *testing.T) {
	body, _ := smallObject(t)
	dst := make([]byte, 0, dr.ChunkSize)
	for _, f := range frames(t, body) {
		n := testing.AllocsPerRun(200, func() {
			if _, err := f.o.Frame(dst[:0], f.disk, &f.e, f.sealed); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 && !raceDetector {
			t.Errorf("%v allocations (raw %v)", n, f.e.Raw)
		}
	}
}

// TestRawWhenCompressionSavesLittle: below 1/16 a frame stays as it is.
func TestRawWhenCompressionSavesLittle(t *testing.T) {
	for _, c := range []struct {
		zeroes int // bytes that compress to nothing
		raw    bool
	}{{0, true}, {dr.ChunkSize / 32, true}, {dr.ChunkSize / 17, true}, {dr.ChunkSize / 14, false}, {dr.ChunkSize, false}} {
		b := NewBuilder(testKey, testDomain, BuilderOptions{})
		content := noise(3, dr.ChunkSize)
		clear(content[:c.zeroes])
		if err := b.AddFrame(disk(1), 0, 0xffff, 1, content); err != nil {
			t.Fatal(err)
		}
		if e := b.footer.Entries[0]; e.Raw != c.raw {
			t.Errorf("%d zeroes of %d: stored %d bytes, raw %v", c.zeroes, dr.ChunkSize, e.Stored, e.Raw)
		}
	}
}

// TestFinishCanBeMended: a refused Finish leaves an object that can go on.
func TestFinishCanBeMended(t *testing.T) {
	b := NewBuilder(testKey, testDomain, BuilderOptions{})
	add := func(chunk uint32) {
		t.Helper()
		if err := b.AddFrame(disk(1), chunk, 0b101, 7, text(uint64(chunk), 8192)); err != nil {
			t.Fatal(err)
		}
	}
	add(9)
	add(3)
	add(5)
	if _, _, err := b.Finish(journalHeader()); !errs.Is(err, errs.Invalid) { // no records were set
		t.Fatal(err)
	}
	add(4)
	b.SetSeqs(7, 7)
	body, _, err := b.Finish(journalHeader())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(testKey, body); err != nil {
		t.Fatal(err)
	}
}

// TestCountsAllocateNothing: what a footer claims to hold costs no memory
// before it is there.
func TestCountsAllocateNothing(t *testing.T) {
	var before, after runtime.MemStats
	for i := range 4 {
		plain := []byte{0, 0, 0, 0, 1, 1}
		most := [][]byte{binary.AppendUvarint(nil, MaxDisks), binary.AppendUvarint(nil, MaxFrames), binary.AppendUvarint(nil, MaxZeros), binary.AppendUvarint(nil, MaxBlocks)}
		plain = slices.Concat(plain[:i], most[i], plain[i+1:])
		runtime.ReadMemStats(&before)
		_, err := parseFooter(plain, &Header{Kind: Journal}, false)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; err == nil || took > 32<<10 {
			t.Errorf("count %d: %d bytes allocated, %v", i, took, err)
		}
	}
}

func TestTailBounds(t *testing.T) {
	tail := func(off, n uint64) []byte {
		b := appendTail(nil, 0, 0, Digest{})
		binary.LittleEndian.PutUint64(b[offFooterOffset:], off)
		binary.LittleEndian.PutUint64(b[offFooterLen:], n)
		binary.LittleEndian.PutUint32(b[offTailCRC:], crc32.Checksum(b[offFooterOffset:], castagnoli))
		return b
	}
	for _, c := range []struct {
		off, n uint64
		ok     bool
	}{
		{HeaderSize, 0, true}, {HeaderSize, MaxObjectSize - TailSize - HeaderSize, true},
		{HeaderSize - 1, 0, false}, {0, 100, false}, {HeaderSize, MaxObjectSize - TailSize - HeaderSize + 1, false},
		{MaxObjectSize, 0, false}, {math.MaxUint64, 2, false}, {HeaderSize, math.MaxUint64, false}, {1 << 63, 1 << 63, false},
	} {
		off, n, _, err := ParseTail(tail(c.off, c.n))
		if c.ok && (err != nil || off != int64(c.off) || n != int64(c.n)) || !c.ok && !errs.Is(err, errs.Corrupt) {
			t.Errorf("%d bytes at %d: got %d at %d, %v", c.n, c.off, n, off, err)
		}
	}
}
