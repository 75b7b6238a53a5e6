package replog

import (
	"encoding/binary"
	"reflect"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// Seeds of the fuzz targets: one sound structure each.

func sampleIdentity() identity {
	return identity{uuid: dr.UUID{9}, domain: testDomain, timeline: testTimeline, epoch: 3, incarnation: 4}
}

func sampleHeader() []byte {
	h := fileHeader{identity: sampleIdentity(), number: 5, firstSeq: 6, firstBatch: 7, prevCRC: 8, carryCRC: 9, carryBytes: pageSize, size: 16 << 20}
	p := make([]byte, pageSize)
	h.put(p)
	return p
}

func sampleState() []byte {
	s := state{identity: sampleIdentity(), generation: 5, firstFile: 6, trimmed: 7, durableBatch: 8, durableSeq: 9, fileSize: 16 << 20}
	p := make([]byte, pageSize)
	s.put(p)
	return p
}

func sampleCarry() []byte {
	s := newInForce()
	for i, r := range []record.Record{control(record.Disk, 1, 1, "a disk"), control(record.Session, 2, 7, "a session"),
		control(record.SyncEnd, 3, 1, ""), control(record.Checkpoint, 4, 0, "a checkpoint"), write(5, 1, 1)} {
		r.Seq = dr.Seq(i + 1)
		s.apply(&r)
	}
	area := make([]byte, carryPages(s.bytes)*pageSize)
	s.put(area)
	return area
}

func sampleBatch() []byte {
	recs := []record.Record{write(10, 1, 1), control(record.Disk, 11, 1, "a disk"), control(record.SyncEnd, 12, 1, "")}
	b := batch{desc: make([]byte, pageSize), iov: make([][]byte, 1)}
	for i := range recs {
		b.add(&recs[i])
	}
	h := batchHead{uuid: dr.UUID{9}, incarnation: 4, count: 3, number: 5, firstSeq: 10, payloadPages: uint32(b.pages), prevCRC: 6, descCRC: record.Checksum(b.desc[headSize:])}
	h.put(b.desc)
	b.iov[0] = b.desc
	var out []byte
	for _, p := range b.iov {
		out = append(out, p...)
	}
	return out
}

// fitPage makes in a page with a matching checksum, so that the fuzzer gets
// behind it.
func fitPage(in []byte, magic string) []byte {
	p := make([]byte, pageSize)
	copy(p, in)
	copy(p, magic)
	seal(p)
	return p
}

func wantParseKind(t *testing.T, err error) {
	if !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.Invalid) {
		t.Fatalf("got %v, want corrupt or invalid", err)
	}
}

func FuzzFileHeader(f *testing.F) {
	f.Add(sampleHeader())
	f.Fuzz(func(t *testing.T, in []byte) {
		var h, again fileHeader
		_ = h.parse(in) // must not panic on anything
		if err := h.parse(fitPage(in, magicFile)); err != nil {
			wantParseKind(t, err)
			return
		}
		p := make([]byte, pageSize)
		h.put(p)
		if err := again.parse(p); err != nil || again != h {
			t.Fatalf("%+v came back as %+v, %v", h, again, err)
		}
		if h.start() >= h.size {
			t.Fatalf("batches start at %d of %d", h.start(), h.size)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add(sampleState())
	f.Fuzz(func(t *testing.T, in []byte) {
		var s, again state
		_ = s.parse(in)
		if err := s.parse(fitPage(in, magicState)); err != nil {
			wantParseKind(t, err)
			return
		}
		p := make([]byte, pageSize)
		s.put(p)
		if err := again.parse(p); err != nil || again != s {
			t.Fatalf("%+v came back as %+v, %v", s, again, err)
		}
	})
}

func FuzzCarry(f *testing.F) {
	f.Add(sampleCarry())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := parseCarry(in)
		if err != nil {
			wantParseKind(t, err)
			// Behind the descriptors' checksums.
			in = append([]byte(nil), in...)
			for at := carryHeadSize; at+record.Size <= len(in); at += record.Size {
				binary.LittleEndian.PutUint32(in[at+60:], record.Checksum(in[at:at+60]))
			}
			if s, err = parseCarry(in); err != nil {
				wantParseKind(t, err)
				return
			}
		}
		area := make([]byte, carryPages(s.bytes)*pageSize)
		s.put(area)
		again, err := parseCarry(area)
		if err != nil || again.bytes != s.bytes || !reflect.DeepEqual(again.hostSeqs(), s.hostSeqs()) {
			t.Fatalf("came back as %+v, %v", again, err)
		}
		a, b := s.list(), again.list()
		if len(a) != len(b) {
			t.Fatalf("%d records came back as %d", len(a), len(b))
		}
	})
}

func FuzzBatch(f *testing.F) {
	f.Add(sampleBatch())
	f.Fuzz(func(t *testing.T, in []byte) {
		checkBatch(t, in)
		fitted := append([]byte(nil), in...)
		copy(fitted, magicBatch)
		for at := headSize; at+record.Size <= min(len(fitted), descPages(maxBatchRecords)*pageSize); at += record.Size {
			binary.LittleEndian.PutUint32(fitted[at+60:], record.Checksum(fitted[at:at+60]))
		}
		if len(fitted) >= headSize {
			n := descPages(int(min(binary.LittleEndian.Uint32(fitted[headOffCount:]), maxBatchRecords))) * pageSize
			binary.LittleEndian.PutUint32(fitted[headOffDescCRC:], record.Checksum(fitted[headSize:max(headSize, min(n, len(fitted)))]))
			binary.LittleEndian.PutUint32(fitted[headOffCRC:], record.Checksum(fitted[:headOffCRC]))
		}
		checkBatch(t, fitted)
	})
}

func checkBatch(t *testing.T, in []byte) {
	var h batchHead
	if !h.parse(in) {
		return
	}
	recs, err := h.records(in, nil)
	if err != nil {
		wantParseKind(t, err)
		return
	}
	if len(recs) != int(h.count) || recs[len(recs)-1].Seq != h.last() || h.size() > int64(len(in)) {
		t.Fatalf("head %+v with %d records in %d bytes", h, len(recs), len(in))
	}
	for i := range recs {
		if len(recs[i].Payload) != recs[i].PayloadLen() || recs[i].CheckPayload() != nil {
			t.Fatalf("record %+v", recs[i])
		}
	}
	p := make([]byte, headSize)
	again := h
	again.put(p)
	if string(p) != string(in[:headSize]) {
		t.Fatal("head came back different")
	}
}
