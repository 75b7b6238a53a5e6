package segment

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"reflect"
	"testing"

	"holdfast/internal/dr"
)

// fix makes a header's checksum right, so that the fuzzer gets behind it.
func fix(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) >= HeaderSize {
		copy(b, Magic)
		binary.LittleEndian.PutUint32(b[offCRC:], crc32.Checksum(b[:offCRC], castagnoli))
	}
	return b
}

func FuzzParseHeader(f *testing.F) {
	body, _ := smallObject(f)
	f.Add(body[:HeaderSize])
	f.Add([]byte(Magic))
	f.Add(make([]byte, HeaderSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = ParseHeader(b)
		h, err := ParseHeader(fix(b))
		if err != nil {
			return
		}
		var again [HeaderSize]byte
		h.put(again[:], keyCheck{}, needsFirst)
		if got, err := ParseHeader(again[:]); err != nil || got != h {
			t.Fatalf("%+v is written and read as %+v, %v", h, got, err)
		}
	})
}

func FuzzParseTail(f *testing.F) {
	body, _ := smallObject(f)
	f.Add(body[len(body)-TailSize:])
	f.Add(make([]byte, TailSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _, _ = ParseTail(b)
		if len(b) != TailSize {
			return
		}
		b = bytes.Clone(b)
		copy(b, tailMagic)
		binary.LittleEndian.PutUint32(b[offTailCRC:], crc32.Checksum(b[offFooterOffset:], castagnoli))
		off, n, _, err := ParseTail(b)
		if err == nil && (off < HeaderSize || n < 0 || off+n+TailSize > MaxObjectSize) {
			t.Fatalf("footer of %d bytes at %d", n, off)
		}
	})
}

// FuzzParseFooter gives the parser what only a holder of the key could seal.
func FuzzParseFooter(f *testing.F) {
	body, _ := smallObject(f)
	_, foot, _, err := OpenObject(testKey, body)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(foot.encode(nil, false))
	f.Add((&Footer{}).encode(nil, false))
	f.Add((&Footer{First: 5, Last: 4, Checkpoint: &dr.Checkpoint{Seq: 5}}).encode(nil, false))
	f.Fuzz(func(t *testing.T, plain []byte) {
		got, err := parseFooter(plain, &Header{Kind: Journal}, false)
		if err != nil {
			return
		}
		if end := got.FramesEnd(); end > MaxObjectSize {
			t.Fatalf("frames end at %d", end)
		}
		again, err := parseFooter(got.encode(nil, false), &Header{Kind: Journal}, false)
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("%+v is written and read as %+v, %v", got, again, err)
		}
	})
}

// FuzzExpand is the frame behind its seal: what a holder of the key could make
// the decompressor eat.
func FuzzExpand(f *testing.F) {
	enc := newEncoder(Fastest)
	f.Add(enc.EncodeAll(text(1, 8192), nil), uint16(3))
	f.Add(enc.EncodeAll(noise(1, 4096), nil), uint16(1))
	f.Add([]byte{}, uint16(0xffff))
	f.Fuzz(func(t *testing.T, packed []byte, mask uint16) {
		s := scratches.Get().(*scratch)
		defer scratches.Put(s)
		e := Entry{Mask: mask}
		guard := make([]byte, 8, 8+e.Size()+8)
		copy(guard[:cap(guard)][8+e.Size():], "guarded!")
		out, err := s.expand(guard, packed, e.Size())
		if err == nil && len(out) != 8+e.Size() {
			t.Fatalf("%d bytes instead of %d", len(out)-8, e.Size())
		}
		if string(guard[:cap(guard)][8+e.Size():]) != "guarded!" {
			t.Fatal("wrote behind its room")
		}
	})
}

func FuzzFrame(f *testing.F) {
	body, _ := smallObject(f)
	h, foot, _, err := OpenObject(testKey, body)
	if err != nil {
		f.Fatal(err)
	}
	o, err := NewOpener(testKey, h)
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range foot.Entries {
		f.Add(body[e.Offset:][:e.Stored], e.Chunk, e.Mask, uint64(e.Seq), e.Counter, e.Stored, e.Raw)
	}
	f.Fuzz(func(t *testing.T, sealed []byte, chunk uint32, mask uint16, seq uint64, counter, stored uint32, raw bool) {
		e := Entry{Chunk: chunk, Mask: mask, Seq: dr.Seq(seq), Counter: counter, Stored: stored, Raw: raw}
		for _, d := range foot.Disks {
			got, err := o.Frame(nil, d, &e, sealed)
			if err != nil {
				continue
			}
			if len(got) != e.Size() || !bytes.Contains(body, sealed) {
				t.Fatalf("opened what was never sealed: %+v", e)
			}
		}
	})
}

func FuzzOpenObject(f *testing.F) {
	body, _ := smallObject(f)
	blob, _, err := SealBlob(testKey, journalHeaderOfDomain(), []byte("{}"))
	if err != nil {
		f.Fatal(err)
	}
	fence, _, err := SealFence(journalHeaderOfDomain())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add(blob)
	f.Add(fence)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _, _ = OpenObject(testKey, b)
		_, _, _ = OpenBlob(testKey, b)
		b = fix(b)
		_, _, _, _ = OpenObject(testKey, b)
		_, _, _ = OpenBlob(testKey, b)
	})
}
