package ondemand

import (
	"bytes"
	"iter"
	"reflect"
	"testing"
)

func testHeader() header { return header{image: [32]byte{1, 2}, size: 5<<20 + 512, boot: bootSum("x")} }

// told collects what a map's records say.
func told(h header, b []byte) (masks [4][]uint16, s story) {
	for k := range masks {
		masks[k] = make([]uint16, chunks(h.size))
	}
	s.marks = func(kind byte, first, n uint32, mask uint16) {
		for c := first; c < first+n; c++ {
			masks[kind][c] |= mask
		}
	}
	s.read(h, b)
	return masks, s
}

// TestMapReadsBack: all that is recorded is read back, up to the first record
// that is not what was written.
func TestMapReadsBack(t *testing.T) {
	rng := seeded(t)
	h := testHeader()
	for range 300 {
		b := h.encode()
		var want [4][]uint16
		for k := range want {
			want[k] = make([]uint16, chunks(h.size))
		}
		cut, kept := 0, want
		for range 1 + rng.IntN(6) {
			kind := byte(1 + rng.IntN(3))
			masks := make([]uint16, chunks(h.size))
			for c := range masks {
				masks[c] = []uint16{0, all16, uint16(rng.Uint32())}[rng.IntN(3)]
				want[kind][c] |= masks[c]
			}
			cut = len(b)
			for k := range kept {
				kept[k] = append([]uint16(nil), want[k]...)
			}
			b = appendMasks(b, h.seed(), kind, numbered(masks))
			if cut == len(b) {
				continue
			}
		}
		got, _ := told(h, b)
		if !reflect.DeepEqual(got, want) {
			t.Fatal("the map reads back otherwise")
		}
		if back, err := decodeHeader(b); err != nil || back != h {
			t.Fatalf("header %v, %v", back, err)
		}
		if cut < len(b) {
			torn := bytes.Clone(b)
			torn[cut+rng.IntN(len(b)-cut)] ^= byte(1 + rng.IntN(255))
			_, s := told(h, torn)
			if s.closed || s.whole {
				t.Fatal("a torn record was believed")
			}
		}
		for i := range headerSize {
			bad := bytes.Clone(b)
			bad[i] ^= 1
			if _, err := decodeHeader(bad); err == nil {
				t.Fatalf("a header with byte %d flipped was believed", i)
			}
		}
	}
	b := appendRecord(h.encode(), h.seed(), kindWhole, nil)
	if _, s := told(h, b); !s.whole || s.closed {
		t.Fatal("whole is not told")
	}
	b = appendRecord(b, h.seed(), kindClosed, nil)
	if _, s := told(h, b); !s.closed {
		t.Fatal("closed is not told")
	}
	b = appendMasks(b, h.seed(), kindWriting, oneMask(3, 1))
	if _, s := told(h, b); s.closed {
		t.Fatal("closed counts although a write came after")
	}
}

func oneMask(c uint32, m uint16) iter.Seq2[uint32, uint16] { return sorted(map[uint32]uint16{c: m}) }

// TestLongMaps: masks that fit no single record are read back too.
func TestLongMaps(t *testing.T) {
	h := testHeader()
	h.size = 4 << 30
	masks := make([]uint16, chunks(h.size))
	for c := range masks {
		masks[c] = uint16(c%7 + 1)
	}
	b := appendMasks(h.encode(), h.seed(), kindHeld, numbered(masks))
	if len(b) < 2*maxPayload {
		t.Fatal("one record holds it all")
	}
	got, _ := told(h, b)
	if !reflect.DeepEqual(got[kindHeld], masks) {
		t.Fatal("the map reads back otherwise")
	}
	if int64(len(b)) > mapLimit(h.size) {
		t.Fatal("larger than a map may be")
	}
}

func FuzzMap(f *testing.F) {
	h := testHeader()
	b := appendMasks(h.encode(), h.seed(), kindHeld, oneMask(2, 0xff))
	f.Add(b)
	f.Add(appendRecord(b, h.seed(), kindClosed, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err != nil {
			return
		}
		if h.size > 1<<30 {
			return // told below would take its memory
		}
		told(h, b)
	})
}

// FuzzRecords gets past the CRCs: what a record says is bounded all the same.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{0, 1, 255, 255, 3, 2, 1, 0}, byte(1))
	f.Fuzz(func(t *testing.T, payload []byte, kind byte) {
		h := testHeader()
		if len(payload) <= maxPayload {
			told(h, appendRecord(h.encode(), h.seed(), kind, payload))
		}
	})
}
