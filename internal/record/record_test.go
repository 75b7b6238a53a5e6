package record

import (
	"bytes"
	"testing"

	"holdfast/internal/errs"
)

func sample() Record {
	p := bytes.Repeat([]byte{7}, 8192)
	return Record{Kind: Data, Disk: 3, Length: 8192, Seq: 9, Offset: 4096, HostSeq: 5, Session: 2, CRC: Checksum(p), Time: 1, Page: 1, Payload: p}
}

func TestPutParseRoundTrip(t *testing.T) {
	want := sample()
	var b [Size]byte
	want.Put(b[:])
	var got Record
	if err := got.Parse(b[:]); err != nil {
		t.Fatal(err)
	}
	got.Payload = want.Payload
	if err := got.CheckPayload(); err != nil {
		t.Fatal(err)
	}
	var c [Size]byte
	got.Put(c[:])
	if b != c {
		t.Fatalf("encodings differ:\n%x\n%x", b, c)
	}
}

func TestParseRefusesEveryFlippedBit(t *testing.T) {
	r := sample()
	var b [Size]byte
	r.Put(b[:])
	for i := range Size * 8 {
		c := b
		c[i/8] ^= 1 << (i % 8)
		var got Record
		if err := got.Parse(c[:]); err == nil {
			t.Fatalf("bit %d flipped and not noticed", i)
		}
	}
	r.Payload[17] ^= 1
	if err := r.CheckPayload(); !errs.Is(err, errs.Corrupt) {
		t.Fatalf("flipped payload bit: got %v, want corrupt", err)
	}
}

func TestParseBounds(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"empty data":         func(r *Record) { r.Length = 0 },
		"unaligned length":   func(r *Record) { r.Length = 100 },
		"unaligned offset":   func(r *Record) { r.Offset = 5 },
		"payload too long":   func(r *Record) { r.Length = MaxPayload + 4096 },
		"beyond largest":     func(r *Record) { r.Offset = 1 << 50 },
		"offset wraps":       func(r *Record) { r.Offset = ^uint64(0) &^ 4095 },
		"zero range too big": func(r *Record) { r.Kind, r.Length = Zero, MaxRange+4096 },
		"kind 0":             func(r *Record) { r.Kind = 0 },
		"kind unknown":       func(r *Record) { r.Kind = 200 },
	} {
		r := sample()
		change(&r)
		var b [Size]byte
		r.Put(b[:])
		var got Record
		if err := got.Parse(b[:]); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	r := sample()
	var b [Size]byte
	r.Put(b[:])
	f.Add(b[:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		var r Record
		if r.Parse(in) != nil {
			return
		}
		if r.PaddedLen() > MaxPayload || r.PaddedLen() < r.PayloadLen() {
			t.Fatalf("padded length %d of %d", r.PaddedLen(), r.PayloadLen())
		}
	})
}

func TestPutAndParseDoNotAllocate(t *testing.T) {
	r := sample()
	var b [Size]byte
	if n := testing.AllocsPerRun(100, func() { r.Put(b[:]); _ = r.Parse(b[:]) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
