package replog

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// Layout of the carry area, in bytes.
const (
	carryOffRecords  = 0  // u32
	carryOffSessions = 4  // u32
	carryHeadSize    = 16 // the rest is zero
	// carrySessionSize is one session's line: session u32, zero u32, hostSeq u64.
	carrySessionSize = 16
)

// carryClass groups kinds of which only the latest per index is in force.
type carryClass uint8

const (
	classDisk carryClass = iota
	classSession
	classSync // SyncEnd and TrackBegin: the later one tells the disk's state
	classMeta
	classCheckpoint
	classCheckpointResult
)

type carryKey struct {
	class carryClass
	index uint32
}

// keyOf says what r replaces; ok is false for kinds that are never carried.
func keyOf(r *record.Record) (key carryKey, ok bool) {
	switch r.Kind {
	case record.Disk:
		return carryKey{classDisk, uint32(r.Disk)}, true
	case record.Session:
		return carryKey{classSession, uint32(r.Session)}, true
	case record.SyncEnd, record.TrackBegin:
		return carryKey{classSync, uint32(r.Disk)}, true
	case record.Meta:
		return carryKey{classMeta, uint32(r.Disk)}, true
	case record.Checkpoint:
		return carryKey{classCheckpoint, 0}, true
	case record.CheckpointResult:
		return carryKey{classCheckpointResult, 0}, true
	}
	return carryKey{}, false
}

// withdraws reports whether r ends what it names instead of replacing it: a
// Disk, Session or Meta record without payload.
func withdraws(r *record.Record) bool {
	return r.Length == 0 && (r.Kind == record.Disk || r.Kind == record.Session || r.Kind == record.Meta)
}

// inForce is the state that trimming must not lose: the latest record of each
// key and the last hostSeq of each session. Not safe for concurrent use.
type inForce struct {
	recs     map[carryKey]record.Record // payloads are copies
	sessions map[dr.Session]*dr.HostSeq
	bytes    int // encoded size without the head and the rounding to pages

	// The session of the last record, to spare the map on the hot path.
	last    dr.Session
	lastSeq *dr.HostSeq
}

func newInForce() *inForce {
	return &inForce{recs: map[carryKey]record.Record{}, sessions: map[dr.Session]*dr.HostSeq{}}
}

// entrySize is what a carried record takes, in bytes.
func entrySize(r *record.Record) int {
	return record.Size + (r.PayloadLen()+record.Size-1)&^(record.Size-1)
}

// growth is an upper bound of what apply(r) adds to the encoded size.
func (s *inForce) growth(r *record.Record) int {
	n := 0
	if r.Session != s.last || s.lastSeq == nil {
		if r.Session != 0 && s.sessions[r.Session] == nil {
			n = carrySessionSize
		}
	}
	if _, ok := keyOf(r); ok && !withdraws(r) {
		n += entrySize(r)
	}
	return n
}

// apply takes the next record of the log into account.
func (s *inForce) apply(r *record.Record) {
	if key, ok := keyOf(r); ok {
		s.replace(key, r)
	}
	if r.Session == 0 || withdraws(r) && r.Kind == record.Session {
		return
	}
	if r.Session != s.last || s.lastSeq == nil {
		s.last, s.lastSeq = r.Session, s.session(r.Session)
	}
	*s.lastSeq = max(*s.lastSeq, r.HostSeq)
}

func (s *inForce) session(id dr.Session) *dr.HostSeq {
	p := s.sessions[id]
	if p == nil {
		p = new(dr.HostSeq)
		s.sessions[id] = p
		s.bytes += carrySessionSize
	}
	return p
}

func (s *inForce) replace(key carryKey, r *record.Record) {
	s.drop(key)
	if !withdraws(r) {
		c := *r
		c.Page, c.Payload = 0, slices.Clone(r.Payload[:r.PayloadLen()])
		s.recs[key] = c
		s.bytes += entrySize(&c)
		return
	}
	switch r.Kind {
	case record.Disk:
		s.drop(carryKey{classSync, uint32(r.Disk)})
	case record.Session:
		if s.sessions[r.Session] != nil {
			delete(s.sessions, r.Session)
			s.bytes -= carrySessionSize
		}
		s.last, s.lastSeq = 0, nil
	}
}

func (s *inForce) drop(key carryKey) {
	if old, ok := s.recs[key]; ok {
		s.bytes -= entrySize(&old)
		delete(s.recs, key)
	}
}

// copy returns an independent copy.
func (s *inForce) copy() *inForce {
	c := newInForce()
	c.recs, c.bytes = maps.Clone(s.recs), s.bytes // records in force never change
	for id, p := range s.sessions {
		*c.session(id) = *p
	}
	c.bytes = s.bytes
	return c
}

// list returns the records in force in order of seq, payloads copied.
func (s *inForce) list() []record.Record {
	out := slices.SortedFunc(maps.Values(s.recs), func(a, b record.Record) int { return cmp.Compare(a.Seq, b.Seq) })
	for i := range out {
		out[i].Payload = slices.Clone(out[i].Payload)
	}
	return out
}

// hostSeqs returns the last hostSeq of each session.
func (s *inForce) hostSeqs() map[dr.Session]dr.HostSeq {
	out := make(map[dr.Session]dr.HostSeq, len(s.sessions))
	for id, p := range s.sessions {
		out[id] = *p
	}
	return out
}

// carryPages is the pages of a carry area of that many encoded bytes; none
// when there is nothing to carry.
func carryPages(bytes int) int {
	if bytes == 0 {
		return 0
	}
	return (carryHeadSize + bytes + pageSize - 1) / pageSize
}

// put encodes the state into area, which is zeroed and large enough.
func (s *inForce) put(area []byte) {
	if len(area) == 0 {
		return
	}
	clear(area)
	binary.LittleEndian.PutUint32(area[carryOffRecords:], uint32(len(s.recs)))
	binary.LittleEndian.PutUint32(area[carryOffSessions:], uint32(len(s.sessions)))
	at := carryHeadSize
	for _, r := range slices.SortedFunc(maps.Values(s.recs), func(a, b record.Record) int { return cmp.Compare(a.Seq, b.Seq) }) {
		r.Put(area[at:])
		copy(area[at+record.Size:], r.Payload)
		at += entrySize(&r)
	}
	for _, id := range slices.Sorted(maps.Keys(s.sessions)) {
		binary.LittleEndian.PutUint32(area[at:], uint32(id))
		binary.LittleEndian.PutUint64(area[at+8:], uint64(*s.sessions[id]))
		at += carrySessionSize
	}
}

// parseCarry decodes a carry area whose checksum was verified. Errors are of
// kind Corrupt; memory is bounded by the area's own size.
func parseCarry(area []byte) (*inForce, error) {
	s := newInForce()
	if len(area) == 0 {
		return s, nil
	}
	if len(area) < carryHeadSize {
		return nil, corrupt("carry area is cut short")
	}
	records := binary.LittleEndian.Uint32(area[carryOffRecords:])
	sessions := binary.LittleEndian.Uint32(area[carryOffSessions:])
	rest := area[carryHeadSize:]
	for i := range records {
		var r record.Record
		if err := r.Parse(rest); err != nil {
			return nil, corrupt(fmt.Sprintf("carried record %d: %v", i, err))
		}
		size := entrySize(&r)
		if size > len(rest) {
			return nil, corrupt(fmt.Sprintf("carried record %d is cut short", i))
		}
		r.Payload = rest[record.Size : record.Size+r.PayloadLen()]
		if err := r.CheckPayload(); err != nil {
			return nil, corrupt(fmt.Sprintf("carried record %d: %v", i, err))
		}
		key, ok := keyOf(&r)
		if _, twice := s.recs[key]; !ok || twice || withdraws(&r) {
			return nil, corrupt(fmt.Sprintf("carried record %d (%v) is not one that is carried", i, r.Kind))
		}
		s.replace(key, &r)
		rest = rest[size:]
	}
	if uint64(len(rest)) < uint64(sessions)*carrySessionSize {
		return nil, corrupt("carry area is cut short")
	}
	for range sessions {
		id := dr.Session(binary.LittleEndian.Uint32(rest))
		if id == 0 || s.sessions[id] != nil {
			return nil, corrupt("carried sessions repeat")
		}
		*s.session(id) = dr.HostSeq(binary.LittleEndian.Uint64(rest[8:]))
		rest = rest[carrySessionSize:]
	}
	return s, nil
}

// tooMuchToCarry is the error of a log whose state does not fit a file.
func tooMuchToCarry(object string, bytes, limit int) error {
	return errs.New("replog.Append", errs.Full, object,
		fmt.Sprintf("records in force take %d bytes, a log file can carry %d", bytes, limit)).
		WithRemedy("withdraw disks, sessions and VM configurations that are gone, or create the log with larger files")
}
