package stream

import (
	"fmt"
	"unsafe"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// Pieces are the parts a payload is gathered from, in order; empty ones are
// skipped. They are read during Append only.
type Pieces [3][]byte

// Len is the number of bytes in all pieces.
func (p *Pieces) Len() int { return len(p[0]) + len(p[1]) + len(p[2]) }

// entry is a retained record. Its HostSeq is its place in the ring.
type entry struct {
	offset uint64
	time   int64
	pos    uint64 // where its payload begins, in bytes ever written to the payload ring
	seq    dr.Seq
	length uint32
	crc    uint32
	disk   uint16
	kind   record.Kind
	flags  record.Flags
}

// payload is what the record takes of the payload ring: whole blocks.
func (e *entry) payload() uint64 {
	if !e.kind.HasPayload() {
		return 0
	}
	return (uint64(e.length) + dr.BlockSize - 1) &^ (dr.BlockSize - 1)
}

var padding [dr.BlockSize]byte // never written

// Stream retains the records of one host run. Not safe for concurrent use.
type Stream struct {
	ring    []byte // payload pages
	entries []entry
	mask    uint64 // len(entries)-1

	first, next dr.HostSeq // retained records: [first, next)
	low, high   uint64     // payload bytes freed and written, ever; high-low are in use

	sent      dr.HostSeq // highest record ever handed to a connection
	sequenced dr.HostSeq // every record up to here has its place, or is durable
	replayed  dr.Seq     // the last place gathered since Resume
	durable   dr.HostSeq // every record up to here is in the replication log
	pinned    dr.HostSeq // first record of the frame being sent; 0: none
}

// New returns an empty stream whose rings hold payload bytes (rounded up to
// whole pages, at least MinPayload) and records descriptors (rounded up to a
// power of two, at least four frames of them).
func New(payload int64, records int) *Stream {
	payload = (max(payload, MinPayload) + pageSize - 1) &^ (pageSize - 1)
	n := 4 * wire.MaxRecords
	for n < records {
		n *= 2
	}
	raw := make([]byte, payload+pageSize)
	skip := -uintptr(unsafe.Pointer(&raw[0])) & (pageSize - 1)
	s := &Stream{
		ring:    raw[skip : int64(skip)+payload : int64(skip)+payload],
		entries: make([]entry, n),
		mask:    uint64(n - 1),
	}
	s.Reset()
	return s
}

// Reset forgets everything, as for a new host run: numbers begin at 1 again.
// No frame may be on its way.
func (s *Stream) Reset() {
	s.first, s.next = 1, 1
	s.low, s.high = 0, 0
	s.sent, s.sequenced, s.replayed, s.durable, s.pinned = 0, 0, 0, 0, 0
}

// First is the oldest retained record, Next the number the next record gets;
// they are equal when nothing is retained.
func (s *Stream) First() dr.HostSeq { return s.first }

// Next is the number of the record that enters next.
func (s *Stream) Next() dr.HostSeq { return s.next }

// Sent is the highest record ever handed to a connection; 0: none.
func (s *Stream) Sent() dr.HostSeq { return s.sent }

// Sequenced is the record up to which all have a place in the order that the
// host knows, or are durable.
func (s *Stream) Sequenced() dr.HostSeq { return s.sequenced }

// Durable is the record up to which the replication log holds all.
func (s *Stream) Durable() dr.HostSeq { return s.durable }

// Used is the number of payload bytes retained, Size what the ring holds.
func (s *Stream) Used() int64 { return int64(s.high - s.low) }

// Size is the capacity of the payload ring in bytes.
func (s *Stream) Size() int64 { return int64(len(s.ring)) }

// Fill is how full the fuller of the two rings is, from 0 to 1.
func (s *Stream) Fill() float64 {
	records := float64(s.next-s.first) / float64(len(s.entries)-ControlReserve)
	return max(float64(s.Used())/float64(len(s.ring)), records)
}

// Room reports whether a record with so many payload bytes, whole blocks, fits
// now.
func (s *Stream) Room(payload int) bool {
	return s.free() > ControlReserve && uint64(len(s.ring))-(s.high-s.low) >= uint64(payload)
}

// RoomForControl reports whether n records without payload fit now when the
// reserve may be used.
func (s *Stream) RoomForControl(n int) bool { return s.free() >= n }

func (s *Stream) free() int { return len(s.entries) - int(s.next-s.first) }

// Append puts r at the end of the stream and returns its number. Of r, the
// Kind, Flags, Disk, Length, Offset, CRC and Time are taken. Kinds with a
// payload carry Length bytes from p, which the stream pads to whole blocks; of
// other kinds p is ignored and may be nil. The caller has made sure of Room
// for the padded payload, or of RoomForControl.
func (s *Stream) Append(r *record.Record, p *Pieces) dr.HostSeq {
	hs := s.next
	e := s.at(hs)
	*e = entry{
		offset: r.Offset, time: r.Time, pos: s.high, length: r.Length,
		crc: r.CRC, disk: r.Disk, kind: r.Kind, flags: r.Flags,
	}
	if n := e.payload(); n > 0 {
		for _, b := range p {
			s.copyIn(b)
		}
		s.copyIn(padding[:n-uint64(e.length)])
	}
	s.next++
	return hs
}

func (s *Stream) at(hs dr.HostSeq) *entry { return &s.entries[uint64(hs)&s.mask] }

func (s *Stream) copyIn(b []byte) {
	at := s.high % uint64(len(s.ring))
	n := copy(s.ring[at:], b)
	copy(s.ring, b[n:])
	s.high += uint64(len(b))
}

// slices returns n payload bytes from position pos: one run, or two when they
// wrap around the end of the ring.
func (s *Stream) slices(pos, n uint64) (a, b []byte) {
	at := pos % uint64(len(s.ring))
	if at+n <= uint64(len(s.ring)) {
		return s.ring[at : at+n : at+n], nil
	}
	cut := uint64(len(s.ring)) - at
	return s.ring[at:], s.ring[: n-cut : n-cut]
}

// Pending returns the number of payload bytes of the records from hs on.
func (s *Stream) Pending(hs dr.HostSeq) int64 {
	if hs >= s.next {
		return 0
	}
	return int64(s.high - s.at(max(hs, s.first)).pos)
}

// Resume takes in the DRVA's word, at the beginning of a connection, that its
// log holds everything up to durable. Errors: Corrupt when the log has gone
// back behind what it had confirmed (the records in between are lost and all
// disks have to be synced again); Invalid when it claims what was never sent.
func (s *Stream) Resume(durable dr.HostSeq) error {
	switch {
	case durable > s.sent:
		return errs.E("stream.Resume", errs.Invalid, "welcome",
			fmt.Errorf("record %d is said to be durable, but only %d were sent", durable, s.sent))
	case durable < s.durable:
		return errs.E("stream.Resume", errs.Corrupt, "welcome",
			fmt.Errorf("record %d was durable, now only %d is", s.durable, durable))
	}
	s.replayed = 0
	s.confirm(durable)
	return nil
}

// Ack takes in an acknowledgement. It judges all of it before it believes any
// of it; an error (kind Invalid) means that the other side is not sane, and
// leaves the stream as it was.
//
// Spans may leave out records: what a DRVA received on an earlier connection
// it does not speak of again. Such records count as sequenced only when they
// are durable, because without their place they could not be put back into it.
// A place may change, when a restarted DRVA could not keep it; its word counts.
func (s *Stream) Ack(a *wire.Ack) error {
	bad := func(format string, v ...any) error {
		return errs.E("stream.Ack", errs.Invalid, "ack", fmt.Errorf(format, v...))
	}
	if a.Durable > s.sent {
		return bad("record %d is said to be durable, but only %d were sent", a.Durable, s.sent)
	}
	for _, sp := range a.Spans {
		n := dr.HostSeq(sp.Count)
		switch {
		case sp.First == 0 || n == 0 || sp.First > s.sent || n > s.sent-sp.First+1:
			return bad("span of %d records from %d, but only %d were sent", n, sp.First, s.sent)
		case sp.Seq == 0 || sp.Seq+dr.Seq(n) < sp.Seq:
			return bad("span of %d records at place %d", n, sp.Seq)
		}
	}
	for _, sp := range a.Spans {
		for hs := max(sp.First, s.first); hs < sp.First+dr.HostSeq(sp.Count); hs++ {
			s.at(hs).seq = sp.Seq + dr.Seq(hs-sp.First)
		}
	}
	s.confirm(a.Durable)
	return nil
}

// confirm notes that everything up to hs is durable, and frees what may be.
func (s *Stream) confirm(hs dr.HostSeq) {
	s.durable = max(s.durable, hs)
	s.sequenced = max(s.sequenced, s.durable)
	for s.sequenced < s.sent && s.at(s.sequenced+1).seq != 0 {
		s.sequenced++
	}
	s.release()
}

// release frees durable records, except those of a frame on its way.
func (s *Stream) release() {
	for s.first <= s.durable && (s.pinned == 0 || s.first < s.pinned) {
		s.low += s.at(s.first).payload()
		s.first++
	}
	if s.first == s.next {
		s.low, s.high = 0, 0 // begin again where memory is warm: a calm host never touches the whole ring
	}
}
