package segment

import (
	"bytes"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

var (
	testKey    = DataKey{1, 2, 3, 4, 5, 6, 7, 8, 9}
	testObject = dr.UUID{0xa0, 1}
	testDomain = dr.DomainID{UUID: dr.UUID{0xd0, 1}}
	testTime   = time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)
)

func disk(n byte) dr.DiskID { return dr.DiskID{UUID: dr.UUID{0xdd, n}} }

func journalHeader() Header {
	return Header{
		Kind: Journal, Timeline: dr.TimelineID{UUID: dr.UUID{0x71, 1}}, Epoch: 3, Number: 12,
		Prev: Digest{9, 9}, Key: dr.UUID{0x4e, 1}, Window: 8, Created: testTime,
	}
}

// noise returns n incompressible bytes, text n compressible ones.
func noise(seed uint64, n int) []byte {
	var s [32]byte
	s[0], s[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(s).Read(b)
	return b
}

func text(seed uint64, n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "line %d of file %d: nothing new here\n", i*int(seed+1), seed)
	}
	return b[:n]
}

func testCheckpoint(seq dr.Seq) dr.Checkpoint {
	return dr.Checkpoint{
		ID: 77, Seq: seq, Time: testTime, Kind: dr.UserTagged, Scope: dr.Group, Tag: "before upgrade",
		Missing: []dr.VMID{{UUID: dr.UUID{5}}},
		Disks: []dr.CheckpointDisk{
			{ID: disk(1), VM: dr.VMID{UUID: dr.UUID{6}}, Size: 10 << 30, Synced: true},
			{ID: disk(2), VM: dr.VMID{UUID: dr.UUID{6}}, Size: 4096},
		},
	}
}

// smallObject has everything an object can have, in as few bytes as possible.
func smallObject(t testing.TB) (body []byte, d Digest) {
	t.Helper()
	b := NewBuilder(testKey, testDomain, BuilderOptions{Object: testObject})
	b.SetSeqs(100, 110)
	for _, err := range []error{
		b.AddFrame(disk(2), 7, 0b10, 103, noise(1, 4096)),
		b.AddFrame(disk(1), 5, 0b1001, 101, text(2, 8192)),
		b.AddFrame(disk(1), 0, 0b1, 102, text(3, 4096)),
		b.AddFrame(disk(1), 5, 0b0110, 104, text(4, 8192)),
		b.AddZero(disk(1), 16, 10, 105),
		b.AddZero(disk(3), 0, 1<<30, 106),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	b.SetCheckpoint(testCheckpoint(110))
	body, d, err := b.Finish(journalHeader())
	if err != nil {
		t.Fatal(err)
	}
	return body, d
}

// readAll opens every frame of an object and returns the blocks by disk and
// block number, nil for zeroed ones (of short ranges only).
func readAll(key DataKey, body []byte) (map[dr.DiskID]map[uint64][]byte, error) {
	h, f, _, err := OpenObject(key, body)
	if err != nil {
		return nil, err
	}
	o, err := NewOpener(key, h)
	if err != nil {
		return nil, err
	}
	got := map[dr.DiskID]map[uint64][]byte{}
	put := func(d dr.DiskID, block uint64, b []byte) {
		if got[d] == nil {
			got[d] = map[uint64][]byte{}
		}
		got[d][block] = b
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		blocks, err := o.Frame(nil, f.Disks[e.Disk], e, body[e.Offset:][:e.Stored])
		if err != nil {
			return nil, err
		}
		if err := o.CheckBlocks(f, e, blocks); err != nil {
			return nil, err
		}
		for m := e.Mask; m != 0; m &= m - 1 {
			put(f.Disks[e.Disk], uint64(e.Chunk)*16+uint64(bits.TrailingZeros16(m)), blocks[:4096])
			blocks = blocks[4096:]
		}
	}
	for _, z := range f.Zeros {
		for b := range min(z.Count, 1000) {
			put(f.Disks[z.Disk], z.First+b, nil)
		}
	}
	return got, nil
}

func TestSmallObjectReadsBack(t *testing.T) {
	body, d := smallObject(t)
	h, f, gotDigest, err := OpenObject(testKey, body)
	if err != nil {
		t.Fatal(err)
	}
	want := journalHeader()
	want.Object, want.Domain = testObject, testDomain
	if h != want {
		t.Fatalf("header\n got %+v\nwant %+v", h, want)
	}
	if gotDigest != d {
		t.Fatalf("digest %v, want %v", gotDigest, d)
	}
	if c := testCheckpoint(110); !reflect.DeepEqual(*f.Checkpoint, c) {
		t.Fatalf("checkpoint\n got %+v\nwant %+v", *f.Checkpoint, c)
	}
	if f.First != 100 || f.Last != 110 {
		t.Fatalf("covers %d to %d", f.First, f.Last)
	}
	if f.Stats[1].Raw != 5*4096 || f.Stats[0] != (DiskStats{Raw: 4096, Stored: 4112}) || f.Stats[2].Zeroed != 1<<42 {
		t.Fatalf("stats %+v", f.Stats)
	}
	blocks, err := readAll(testKey, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		disk  byte
		block uint64
		want  []byte
	}{
		{2, 7*16 + 1, noise(1, 4096)},
		{1, 5 * 16, text(2, 8192)[:4096]}, {1, 5*16 + 3, text(2, 8192)[4096:]},
		{1, 0, text(3, 4096)},
		{1, 5*16 + 1, text(4, 8192)[:4096]}, {1, 5*16 + 2, text(4, 8192)[4096:]},
		{1, 25, nil},
	} {
		if got := blocks[disk(c.disk)][c.block]; !bytes.Equal(got, c.want) {
			t.Errorf("disk %d block %d differs", c.disk, c.block)
		}
	}
}

// TestRoundTrip: any cell that can be built reads back the same.
func TestRoundTrip(t *testing.T) {
	b := NewBuilder(testKey, testDomain, BuilderOptions{})
	rapid.Check(t, func(t *rapid.T) {
		b.Reset()
		first := dr.Seq(rapid.Uint64Range(1, 1<<60).Draw(t, "first"))
		span := rapid.Uint64Range(0, 1000).Draw(t, "span")
		b.SetSeqs(first, first+dr.Seq(span))
		want := map[dr.DiskID]map[uint64][]byte{}
		free := func(d dr.DiskID, block uint64) bool { _, ok := want[d][block]; return !ok }
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			d := disk(rapid.ByteRange(0, 3).Draw(t, "disk"))
			if want[d] == nil {
				want[d] = map[uint64][]byte{}
			}
			seq := first + dr.Seq(rapid.Uint64Range(0, span).Draw(t, "seq"))
			if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
				from := rapid.Uint64Range(0, 200).Draw(t, "zero")
				n := uint64(0)
				for max := rapid.Uint64Range(1, 40).Draw(t, "count"); n < max && free(d, from+n); n++ {
					want[d][from+n] = nil
				}
				if n == 0 {
					continue
				}
				if err := b.AddZero(d, from, n, seq); err != nil {
					t.Fatal(err)
				}
				continue
			}
			chunk := rapid.Uint32Range(0, 12).Draw(t, "chunk")
			mask := rapid.Uint16().Draw(t, "mask")
			content := rapid.SampledFrom([]func(uint64, int) []byte{noise, text}).Draw(t, "content")
			var blocks []byte
			for bit := range 16 {
				block := uint64(chunk)*16 + uint64(bit)
				if mask>>bit&1 == 0 || !free(d, block) {
					mask &^= 1 << bit
					continue
				}
				want[d][block] = content(block*uint64(seq), 4096)
				blocks = append(blocks, want[d][block]...)
			}
			if mask == 0 {
				continue
			}
			if err := b.AddFrame(d, chunk, mask, seq, blocks); err != nil {
				t.Fatal(err)
			}
		}
		bound := b.Size()
		body, _, err := b.Finish(journalHeader())
		if err != nil {
			t.Fatal(err)
		}
		if len(body) > bound {
			t.Fatalf("object of %d bytes, Size promised at most %d", len(body), bound)
		}
		got, err := readAll(testKey, body)
		if err != nil {
			t.Fatal(err)
		}
		for d := range want {
			if len(want[d]) == 0 {
				delete(want, d)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("read back differs")
		}
	})
}

// TestEveryFlippedBitIsFound flips every bit of an object that has every part.
// The digest is not asked: a reader of ranges never sees the whole object, so
// each part must notice alone.
func TestEveryFlippedBitIsFound(t *testing.T) {
	body, _ := smallObject(t)
	body = slices.Clone(body)
	if err := openWithoutDigest(body); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	h, f, _, err := OpenObject(testKey, body)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(testKey, h)
	if err != nil {
		t.Fatal(err)
	}
	footer := int(f.FramesEnd())
	partOf := func(at int) (string, func() error) {
		if at < HeaderSize {
			return "header", func() error { _, err := ParseHeader(body); return err }
		}
		for i := range f.Entries {
			e := &f.Entries[i]
			if sealed := body[e.Offset:][:e.Stored]; at >= int(e.Offset) && at < int(e.Offset+e.Stored) {
				return "frame", func() error { _, err := o.Frame(nil, f.Disks[e.Disk], e, sealed); return err }
			}
		}
		if tail := len(body) - TailSize; at < tail {
			return "footer", func() error { _, err := OpenFooter(testKey, h, body[:HeaderSize], body[footer:tail]); return err }
		}
		return "tail", func() error { _, _, _, err := ParseTail(body[len(body)-TailSize:]); return err }
	}
	seen := map[string]int{}
	for at := range body {
		part, open := partOf(at)
		for bit := range 8 {
			body[at] ^= 1 << bit
			want := errs.Corrupt
			if at < len(Magic) {
				want = errs.Invalid // no Holdfast object at all
			}
			if err := open(); !errs.Is(err, want) {
				t.Fatalf("%s: bit %d of byte %d flipped: got %v, want kind %q", part, bit, at, err, want)
			}
			if at%61 == 0 { // a sample: each takes the whole object's digest
				if _, _, _, err := OpenObject(testKey, body); err == nil {
					t.Fatalf("%s: bit %d of byte %d flipped: the whole object opens", part, bit, at)
				}
			}
			body[at] ^= 1 << bit
			seen[part]++
		}
	}
	if seen["header"] != 8*HeaderSize || seen["tail"] != 8*TailSize || seen["frame"] == 0 || seen["footer"] == 0 {
		t.Fatalf("bits flipped: %v", seen)
	}
}

// openWithoutDigest reads an object in ranges, as a recovery does.
func openWithoutDigest(body []byte) error {
	h, err := ParseHeader(body)
	if err != nil {
		return err
	}
	off, n, _, err := ParseTail(body[len(body)-TailSize:])
	if err != nil {
		return err
	}
	f, err := OpenFooter(testKey, h, body[:HeaderSize], body[off:off+n])
	if err != nil {
		return err
	}
	o, err := NewOpener(testKey, h)
	if err != nil {
		return err
	}
	for i := range f.Entries {
		e := &f.Entries[i]
		if _, err := o.Frame(nil, f.Disks[e.Disk], e, body[e.Offset:][:e.Stored]); err != nil {
			return err
		}
	}
	return nil
}

func TestTruncationAtEveryLengthIsFound(t *testing.T) {
	body, _ := smallObject(t)
	blob, _, err := SealBlob(testKey, journalHeaderOfDomain(), text(1, 3000))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(body) {
		if _, _, _, err := OpenObject(testKey, body[:n]); !errs.Is(err, errs.Corrupt) {
			t.Fatalf("cut to %d of %d: %v", n, len(body), err)
		}
	}
	for n := range len(blob) {
		if _, _, err := OpenBlob(testKey, blob[:n]); !errs.Is(err, errs.Corrupt) {
			t.Fatalf("blob cut to %d of %d: %v", n, len(blob), err)
		}
	}
}

func journalHeaderOfDomain() Header {
	h := journalHeader()
	h.Domain = testDomain
	return h
}
