package stream

import (
	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// Frame is a run of records gathered for one Records frame. It is reused from
// frame to frame; the zero value is empty.
type Frame struct {
	// First and Count say which records of the stream it holds.
	First dr.HostSeq
	Count int
	// Payload are the records' payloads, in the stream's own memory; at most
	// two runs.
	Payload [2][]byte

	marked bool // a marker follows the records
	recs   [wire.MaxRecords]record.Record
	buf    [wire.HeadSize + wire.MaxRecords*record.Size]byte
}

// Bytes is the payload in all.
func (f *Frame) Bytes() int { return len(f.Payload[0]) + len(f.Payload[1]) }

// Empty reports whether there is nothing to send.
func (f *Frame) Empty() bool { return f.records() == 0 }

func (f *Frame) records() int {
	if f.marked {
		return f.Count + 1
	}
	return f.Count
}

// Clear empties the frame.
func (f *Frame) Clear() { f.First, f.Count, f.Payload, f.marked = 0, 0, [2][]byte{}, false }

// Mark ends the frame with the marker of a round, if there is room for it. A
// marker takes no number of the stream and is not retained: it means something
// only on the connection that the round runs on.
func (f *Frame) Mark(round wire.Round, now int64) bool {
	if f.marked || f.Count == len(f.recs) {
		return false
	}
	f.recs[f.Count] = record.Record{Kind: record.Marker, Offset: uint64(round), Time: now}
	f.marked = true
	return true
}

// Gather fills f with the records from hs on (or from the oldest retained, if
// that is younger), below end, as many as one frame takes,
// and reports whether there are any. A place that does not rise from one
// gathered record to the next since Resume is left out: a DRVA that merges
// replays by place could make nothing of it. The records stay where they are until Unpin.
func (s *Stream) Gather(f *Frame, hs, end dr.HostSeq) bool {
	hs, end = max(hs, s.first), min(end, s.next)
	f.Clear()
	f.First = hs
	if hs >= end {
		return false
	}
	pos, bytes := s.at(hs).pos, uint64(0)
	for ; hs < end && f.Count < wire.MaxRecords; hs++ {
		e := s.at(hs)
		if bytes+e.payload() > wire.MaxPayload {
			break
		}
		bytes += e.payload()
		f.recs[f.Count] = record.Record{
			Kind: e.kind, Flags: e.flags, Disk: e.disk, Length: e.length,
			Offset: e.offset, HostSeq: hs, CRC: e.crc, Time: e.time,
		}
		if e.seq > s.replayed {
			f.recs[f.Count].Seq, s.replayed = e.seq, e.seq
		}
		f.Count++
	}
	f.Payload[0], f.Payload[1] = s.slices(pos, bytes)
	s.pinned = f.First
	s.sent = max(s.sent, f.First+dr.HostSeq(f.Count)-1)
	return true
}

// Unpin ends the hold of Gather on the stream's memory, whether or not the
// frame reached anybody.
func (s *Stream) Unpin() {
	s.pinned = 0
	s.release()
}

// Encode returns the frame's head and descriptors, ready to be written before
// its payload. Valid until the next Encode. It touches nothing of the stream.
func (f *Frame) Encode(session dr.Session, replayed bool) []byte {
	n := f.records()
	body := f.buf[wire.HeadSize : wire.HeadSize+n*record.Size]
	for i := range n {
		r := &f.recs[i]
		r.Session = session
		if replayed {
			r.Flags |= record.Replayed
		}
		r.Put(body[i*record.Size:])
	}
	h := wire.Head{
		Type: wire.TypeRecords, Count: uint16(n), Body: uint32(len(body)),
		Payload: uint32(f.Bytes()), BodyCRC: record.Checksum(body),
	}
	h.Put(f.buf[:])
	return f.buf[:wire.HeadSize+len(body)]
}
