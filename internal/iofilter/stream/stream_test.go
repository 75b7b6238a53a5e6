package stream

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// data appends a data record of n blocks filled with b, in odd pieces.
func data(s *Stream, blocks int, b byte) dr.HostSeq {
	p := bytes.Repeat([]byte{b}, blocks*dr.BlockSize)
	r := record.Record{Kind: record.Data, Length: uint32(len(p)), CRC: record.Checksum(p)}
	cut := len(p) / 3
	return s.Append(&r, &Pieces{p[:cut], p[cut : 2*cut], p[2*cut:]})
}

// meta appends a record whose payload of n bytes is not whole blocks.
func meta(s *Stream, n int, b byte) dr.HostSeq {
	p := bytes.Repeat([]byte{b}, n)
	r := record.Record{Kind: record.Meta, Length: uint32(n), CRC: record.Checksum(p)}
	return s.Append(&r, &Pieces{p})
}

// sendAll gathers everything from hs on and returns how many records.
func sendAll(t interface{ Fatalf(string, ...any) }, s *Stream, hs dr.HostSeq) int {
	var f Frame
	n := 0
	for s.Gather(&f, hs, s.Next()) {
		recs := decode(t, &f, false)
		n += len(recs)
		hs = f.First + dr.HostSeq(f.Count)
		s.Unpin()
	}
	return n
}

// decode runs a frame through the wire's own decoder, which checks everything.
func decode(t interface{ Fatalf(string, ...any) }, f *Frame, replayed bool) []record.Record {
	head := f.Encode(7, replayed)
	var h wire.Head
	if err := h.Parse(head); err != nil {
		t.Fatalf("frame head: %v", err)
	}
	payload := append(append([]byte(nil), f.Payload[0]...), f.Payload[1]...)
	recs, err := h.Records(bytes.Clone(head[wire.HeadSize:]), payload, make([]record.Record, 0, wire.MaxRecords))
	if err != nil {
		t.Fatalf("frame: %v", err)
	}
	for i, r := range recs {
		if r.HostSeq != f.First+dr.HostSeq(i) && r.Kind != record.Marker || r.Session != 7 || (r.Flags&record.Replayed != 0) != replayed {
			t.Fatalf("record %d of frame at %d: %+v", i, f.First, r)
		}
	}
	return recs
}

func TestFramesKeepTheirBounds(t *testing.T) {
	s := New(MinPayload, 0)
	for i := range 300 {
		data(s, 1, byte(i))
	}
	var f Frame
	want := []int{256, 44}
	for i, hs := 0, dr.HostSeq(1); s.Gather(&f, hs, s.Next()); i++ {
		if recs := decode(t, &f, false); len(recs) != want[i] {
			t.Fatalf("frame %d holds %d records, want %d", i, len(recs), want[i])
		}
		hs += dr.HostSeq(f.Count)
		s.Unpin()
	}
	s.Reset()
	data(s, 200, 1)
	data(s, 57, 2) // together one block over 1 MiB
	if s.Gather(&f, 1, s.Next()); f.Count != 1 {
		t.Fatalf("%d records in a frame of at most 1 MiB", f.Count)
	}
	s.Unpin()
}

func TestMarkerEndsAFrame(t *testing.T) {
	s := New(MinPayload, 0)
	for range 256 {
		data(s, 1, 1)
	}
	var f Frame
	if s.Gather(&f, 1, 3); !f.Mark(5, 1) || f.Mark(6, 1) {
		t.Fatal("a frame takes one marker")
	}
	recs := decode(t, &f, false)
	if len(recs) != 3 || recs[2].Kind != record.Marker || recs[2].Offset != 5 || recs[2].HostSeq != 0 {
		t.Fatalf("marked frame: %+v", recs)
	}
	if s.Gather(&f, 1, s.Next()); f.Mark(6, 1) || len(decode(t, &f, false)) != 256 {
		t.Fatal("a full frame took a marker")
	}
	s.Unpin()
	f.Clear()
	if f.Empty(); !f.Mark(7, 1) || f.Empty() || len(decode(t, &f, false)) != 1 {
		t.Fatal("a marker alone is a frame")
	}
}

// Memory of a frame on its way is not given to other records, even if the DRVA
// says meanwhile that it has them.
func TestFrameIsPinned(t *testing.T) {
	s := New(MinPayload, 0)
	for range 4 {
		data(s, 256, 1)
	}
	sendAll(t, s, 1)
	var f Frame
	s.Gather(&f, 2, s.Next())
	if err := s.Ack(&wire.Ack{Durable: 4}); err != nil {
		t.Fatal(err)
	}
	if s.First() != 2 || s.Room(256*dr.BlockSize+1) {
		t.Fatalf("pinned frame was freed: first %d, used %d", s.First(), s.Used())
	}
	data(s, 256, 9)
	decode(t, &f, true) // its checksums still hold
	s.Unpin()
	if s.First() != 5 || s.Used() != 256*dr.BlockSize {
		t.Fatalf("first %d, used %d after the frame was sent", s.First(), s.Used())
	}
}

func TestAckRefusals(t *testing.T) {
	prepare := func() *Stream {
		s := New(MinPayload, 0)
		for range 10 {
			data(s, 1, 1)
		}
		var f Frame
		s.Gather(&f, 1, 9) // 1 to 8 are sent
		s.Unpin()
		if err := s.Ack(&wire.Ack{Durable: 2, Spans: []wire.Span{{First: 1, Seq: 10, Count: 4}}}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, c := range map[string]struct {
		ack  wire.Ack
		kind errs.Kind
	}{
		"durable beyond what was sent": {wire.Ack{Durable: 9}, errs.Invalid},
		"durable far beyond":           {wire.Ack{Durable: math.MaxUint64}, errs.Invalid},
		"span beyond what was sent":    {wire.Ack{Spans: []wire.Span{{First: 5, Seq: 14, Count: 5}}}, errs.Invalid},
		"span of nothing":              {wire.Ack{Spans: []wire.Span{{First: 5, Seq: 14}}}, errs.Invalid},
		"record 0":                     {wire.Ack{Spans: []wire.Span{{First: 0, Seq: 14, Count: 1}}}, errs.Invalid},
		"place 0":                      {wire.Ack{Spans: []wire.Span{{First: 5, Seq: 0, Count: 1}}}, errs.Invalid},
		"order overflows":              {wire.Ack{Spans: []wire.Span{{First: 5, Seq: math.MaxUint64, Count: 2}}}, errs.Invalid},
		"second span bad":              {wire.Ack{Durable: 5, Spans: []wire.Span{{First: 5, Seq: 14, Count: 1}, {First: 6, Seq: 0, Count: 1}}}, errs.Invalid},
		"count overflows":              {wire.Ack{Spans: []wire.Span{{First: 5, Seq: 14, Count: math.MaxUint32}}}, errs.Invalid},
		"number overflows":             {wire.Ack{Spans: []wire.Span{{First: math.MaxUint64, Seq: 14, Count: 2}}}, errs.Invalid},
	} {
		s := prepare()
		if err := s.Ack(&c.ack); !errs.Is(err, c.kind) {
			t.Errorf("%s: got %v, want kind %v", name, err, c.kind)
		}
		if s.First() != 3 || s.Sequenced() != 4 || s.Durable() != 2 {
			t.Errorf("%s: the stream changed: first %d, sequenced %d, durable %d", name, s.First(), s.Sequenced(), s.Durable())
		}
	}
	s := prepare()
	for name, a := range map[string]wire.Ack{
		"again":           {Durable: 2, Spans: []wire.Span{{First: 1, Seq: 10, Count: 4}}},
		"older":           {Durable: 0},
		"overlapping":     {Spans: []wire.Span{{First: 3, Seq: 12, Count: 3}}},
		"durable skips":   {Durable: 7},
		"late span of it": {Durable: 7, Spans: []wire.Span{{First: 6, Seq: 20, Count: 2}}},
	} {
		if err := s.Ack(&a); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A record without a known place is not sequenced, whatever follows it, until
// it is durable.
func TestGapsAreNotSequenced(t *testing.T) {
	s := New(MinPayload, 0)
	for range 6 {
		data(s, 1, 1)
	}
	sendAll(t, s, 1)
	step := func(want dr.HostSeq, a wire.Ack) {
		t.Helper()
		if err := s.Ack(&a); err != nil || s.Sequenced() != want {
			t.Fatalf("sequenced %d, want %d; %v", s.Sequenced(), want, err)
		}
	}
	step(1, wire.Ack{Spans: []wire.Span{{First: 1, Seq: 10, Count: 1}}})
	step(1, wire.Ack{Spans: []wire.Span{{First: 3, Seq: 12, Count: 2}}})
	step(4, wire.Ack{Durable: 2})
	step(4, wire.Ack{Spans: []wire.Span{{First: 6, Seq: 20, Count: 1}}})
	step(6, wire.Ack{Spans: []wire.Span{{First: 5, Seq: 30, Count: 1}}})
	// Places 12, 13, 30, 20: what does not rise is replayed without one.
	if err := s.Resume(2); err != nil {
		t.Fatal(err)
	}
	var f Frame
	s.Gather(&f, 3, s.Next())
	var got []dr.Seq
	for _, r := range decode(t, &f, true) {
		got = append(got, r.Seq)
	}
	if !slices.Equal(got, []dr.Seq{12, 13, 30, 0}) {
		t.Fatalf("replayed places %v", got)
	}
}

func TestResume(t *testing.T) {
	s := New(MinPayload, 0)
	for range 6 {
		data(s, 1, 1)
	}
	sendAll(t, s, 1)
	if err := s.Ack(&wire.Ack{Durable: 3}); err != nil {
		t.Fatal(err)
	}
	if err := s.Resume(2); !errs.Is(err, errs.Corrupt) {
		t.Errorf("log went back: %v", err)
	}
	if err := s.Resume(7); !errs.Is(err, errs.Invalid) {
		t.Errorf("log claims what was never sent: %v", err)
	}
	if err := s.Resume(5); err != nil || s.First() != 6 || s.Sequenced() != 5 {
		t.Errorf("resume: %v, first %d", err, s.First())
	}
}

func TestReserveIsForControl(t *testing.T) {
	s := New(MinPayload, 0)
	for s.Room(0) {
		s.Append(&record.Record{Kind: record.Zero, Length: 4096}, nil)
	}
	if !s.RoomForControl(ControlReserve) || s.RoomForControl(ControlReserve+1) {
		t.Fatalf("%d descriptors are free", s.free())
	}
	if s.Fill() != 1 {
		t.Fatalf("fill %v", s.Fill())
	}
}

// TestAgainstModel: whatever the sizes, acks and replays, each gathered record
// carries the bytes and the place it was given, and space is accounted for.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New(MinPayload, 0)
		fill := make(map[dr.HostSeq]byte)
		place := make(map[dr.HostSeq]dr.Seq)
		var f Frame
		var sent, durable dr.HostSeq
		seq, sequenced := dr.Seq(0), dr.HostSeq(0)
		for range rapid.IntRange(1, 80).Draw(t, "n") {
			switch rapid.IntRange(0, 4).Draw(t, "do") {
			case 0, 1:
				blocks := rapid.IntRange(1, 256).Draw(t, "blocks")
				if s.Room(blocks * dr.BlockSize) {
					b := byte(rapid.IntRange(1, 255).Draw(t, "fill"))
					if odd := rapid.IntRange(0, dr.BlockSize-1).Draw(t, "odd"); odd%2 == 0 {
						fill[data(s, blocks, b)] = b
					} else {
						fill[meta(s, blocks*dr.BlockSize-odd, b)] = b
					}
				}
			case 2:
				from := dr.HostSeq(rapid.Uint64Range(1, uint64(s.Next())).Draw(t, "from"))
				from = min(from, sent+1)
				if !s.Gather(&f, from, s.Next()) {
					continue
				}
				if err := s.Resume(durable); err != nil { // places rise from here
					t.Fatal(err)
				}
				if !s.Gather(&f, from, s.Next()) {
					continue
				}
				for _, r := range decode(t, &f, true) {
					if want := fill[r.HostSeq]; bytes.Count(r.Payload, []byte{want}) != int(r.Length) || r.Seq != place[r.HostSeq] {
						t.Fatalf("record %d: content or place %d differs", r.HostSeq, r.Seq)
					}
				}
				sent = max(sent, f.First+dr.HostSeq(f.Count)-1)
				s.Unpin()
			case 3:
				n := dr.HostSeq(rapid.Uint64Range(0, uint64(sent-sequenced)).Draw(t, "acked"))
				if n == 0 {
					continue
				}
				seq += dr.Seq(rapid.IntRange(1, 5).Draw(t, "gap"))
				if err := s.Ack(&wire.Ack{Durable: durable, Spans: []wire.Span{{First: sequenced + 1, Seq: seq, Count: uint32(n)}}}); err != nil {
					t.Fatal(err)
				}
				for i := range n {
					place[sequenced+1+i] = seq + dr.Seq(i)
				}
				sequenced, seq = sequenced+n, seq+dr.Seq(n)-1
			case 4:
				durable = dr.HostSeq(rapid.Uint64Range(uint64(durable), uint64(sequenced)).Draw(t, "durable"))
				if err := s.Ack(&wire.Ack{Durable: durable}); err != nil {
					t.Fatal(err)
				}
			}
			if s.First() != durable+1 || s.Sequenced() != sequenced || s.Sent() != sent {
				t.Fatalf("first %d sequenced %d sent %d, want %d %d %d", s.First(), s.Sequenced(), s.Sent(), durable+1, sequenced, sent)
			}
			if s.Pending(s.First()) != s.Used() {
				t.Fatalf("pending %d, used %d", s.Pending(s.First()), s.Used())
			}
		}
	})
}

func TestStreamDoesNotAllocate(t *testing.T) {
	s := New(MinPayload, 0)
	p := make([]byte, dr.BlockSize)
	var f Frame
	ack := wire.Ack{Spans: make([]wire.Span, 1)}
	n := testing.AllocsPerRun(100, func() {
		hs := s.Append(&record.Record{Kind: record.Data, Length: dr.BlockSize}, &Pieces{p})
		s.Gather(&f, hs, s.Next())
		f.Encode(1, false)
		s.Unpin()
		ack.Spans[0] = wire.Span{First: hs, Seq: dr.Seq(hs), Count: 1}
		ack.Durable = hs
		if err := s.Ack(&ack); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Fatalf("%v allocations a record", n)
	}
}

// FuzzAck: no acknowledgement, however wrong, breaks the accounting.
func FuzzAck(f *testing.F) {
	f.Add((&wire.Ack{Durable: 3, Spans: []wire.Span{{First: 1, Seq: 5, Count: 4}}}).Append(nil)[wire.HeadSize:])
	f.Add((&wire.Ack{Durable: math.MaxUint64, Spans: []wire.Span{{First: math.MaxUint64, Seq: math.MaxUint64, Count: math.MaxUint32}}}).Append(nil)[wire.HeadSize:])
	f.Fuzz(func(t *testing.T, in []byte) {
		s := New(MinPayload, 0)
		for i := range 12 {
			data(s, 1, byte(i))
		}
		var fr Frame
		s.Gather(&fr, 1, 9)
		s.Unpin()
		var a wire.Ack
		for len(in) > 0 {
			n := min(len(in), 40)
			if a.Parse(in[:n]) == nil {
				_ = s.Ack(&a)
			}
			in = in[n:]
			if s.First() > s.Sent()+1 || s.Durable() > s.Sent() || s.Sequenced() > s.Sent() || s.Sequenced() < s.Durable() || s.Used() != s.Pending(s.First()) {
				t.Fatalf("first %d sent %d sequenced %d durable %d used %d", s.First(), s.Sent(), s.Sequenced(), s.Durable(), s.Used())
			}
		}
	})
}
