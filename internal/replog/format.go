package replog

import (
	"encoding/binary"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// Magic numbers: the first eight bytes of each structure, as ASCII.
const (
	magicFile  = "HFLOGFIL"
	magicState = "HFLOGSTA"
	magicBatch = "HFLOGBAT"
)

// The format of this build. A log is refused when its major differs or when it
// sets an incompat bit this build does not know; compat bits are ignored.
const (
	formatMajor    = 1
	formatCompat   = 0
	formatIncompat = 0
)

// Offsets shared by file headers and state pages: who the log is.
const (
	offMagic       = 0
	offMajor       = 8
	offCompat      = 12
	offIncompat    = 16
	offUUID        = 24
	offDomain      = 40
	offTimeline    = 56
	offEpoch       = 72
	offIncarnation = 76
	offPageCRC     = pageSize - 4
)

// Offsets in a file header page.
const (
	fileOffNumber     = 80
	fileOffFirstSeq   = 88
	fileOffFirstBatch = 96
	fileOffPrevCRC    = 104
	fileOffCarryCRC   = 108
	fileOffCarryBytes = 112
	fileOffSize       = 120
)

// Offsets in a state page.
const (
	stateOffGeneration   = 80
	stateOffFirstFile    = 88
	stateOffTrimmed      = 96
	stateOffDurableBatch = 104
	stateOffDurableSeq   = 112
	stateOffFileSize     = 120
)

// identity is who a log is: the same in each of its structures but for the
// epoch and the incarnation, which rise.
type identity struct {
	uuid        dr.UUID
	domain      dr.DomainID
	timeline    dr.TimelineID
	epoch       dr.Epoch
	incarnation uint32
}

// fileHeader is the first page of a log file in use.
type fileHeader struct {
	identity
	number     uint64 // of the file in the log, from 1; the slot's generation
	firstSeq   dr.Seq
	firstBatch uint64
	prevCRC    uint32 // of the head of the batch before the first
	carryCRC   uint32
	carryBytes uint32 // whole pages after the header
	size       int64
}

// state is what the log knows about itself beside its files.
type state struct {
	identity
	generation   uint64 // of this state, rising with each write
	firstFile    uint64 // files below this number are free
	trimmed      dr.Seq // records up to here are not needed any more
	durableBatch uint64 // at least this much was acknowledged
	durableSeq   dr.Seq
	fileSize     int64
}

func putIdentity(p []byte, magic string, id *identity) {
	clear(p[:pageSize])
	copy(p[offMagic:], magic)
	binary.LittleEndian.PutUint16(p[offMajor:], formatMajor)
	binary.LittleEndian.PutUint32(p[offCompat:], formatCompat)
	binary.LittleEndian.PutUint32(p[offIncompat:], formatIncompat)
	copy(p[offUUID:], id.uuid[:])
	copy(p[offDomain:], id.domain.UUID[:])
	copy(p[offTimeline:], id.timeline.UUID[:])
	binary.LittleEndian.PutUint32(p[offEpoch:], uint32(id.epoch))
	binary.LittleEndian.PutUint32(p[offIncarnation:], id.incarnation)
}

// parseIdentity checks magic, checksum and format of a page. Errors: Corrupt
// when it is not such a page, Invalid when a newer build wrote it.
func parseIdentity(p []byte, magic string, id *identity) error {
	if len(p) < pageSize || string(p[offMagic:offMagic+len(magic)]) != magic {
		return errs.New("replog.parse", errs.Corrupt, "", "not a "+magic+" page")
	}
	if binary.LittleEndian.Uint32(p[offPageCRC:]) != record.Checksum(p[:offPageCRC]) {
		return errs.New("replog.parse", errs.Corrupt, "", magic+" page does not match its checksum")
	}
	major, incompat := binary.LittleEndian.Uint16(p[offMajor:]), binary.LittleEndian.Uint32(p[offIncompat:])
	if major != formatMajor || incompat&^uint32(formatIncompat) != 0 {
		return errs.New("replog.parse", errs.Invalid, "",
			fmt.Sprintf("log has format %d (features %#x), this build knows format %d", major, incompat, formatMajor)).
			WithRemedy("start the version that wrote the log, or a newer one")
	}
	copy(id.uuid[:], p[offUUID:])
	copy(id.domain.UUID[:], p[offDomain:])
	copy(id.timeline.UUID[:], p[offTimeline:])
	id.epoch = dr.Epoch(binary.LittleEndian.Uint32(p[offEpoch:]))
	id.incarnation = binary.LittleEndian.Uint32(p[offIncarnation:])
	return nil
}

func seal(p []byte) {
	binary.LittleEndian.PutUint32(p[offPageCRC:], record.Checksum(p[:offPageCRC]))
}

// put encodes the header into the page p.
func (h *fileHeader) put(p []byte) {
	putIdentity(p, magicFile, &h.identity)
	binary.LittleEndian.PutUint64(p[fileOffNumber:], h.number)
	binary.LittleEndian.PutUint64(p[fileOffFirstSeq:], uint64(h.firstSeq))
	binary.LittleEndian.PutUint64(p[fileOffFirstBatch:], h.firstBatch)
	binary.LittleEndian.PutUint32(p[fileOffPrevCRC:], h.prevCRC)
	binary.LittleEndian.PutUint32(p[fileOffCarryCRC:], h.carryCRC)
	binary.LittleEndian.PutUint32(p[fileOffCarryBytes:], h.carryBytes)
	binary.LittleEndian.PutUint64(p[fileOffSize:], uint64(h.size))
	seal(p)
}

// parse decodes and checks the page p.
func (h *fileHeader) parse(p []byte) error {
	if err := parseIdentity(p, magicFile, &h.identity); err != nil {
		return err
	}
	h.number = binary.LittleEndian.Uint64(p[fileOffNumber:])
	h.firstSeq = dr.Seq(binary.LittleEndian.Uint64(p[fileOffFirstSeq:]))
	h.firstBatch = binary.LittleEndian.Uint64(p[fileOffFirstBatch:])
	h.prevCRC = binary.LittleEndian.Uint32(p[fileOffPrevCRC:])
	h.carryCRC = binary.LittleEndian.Uint32(p[fileOffCarryCRC:])
	h.carryBytes = binary.LittleEndian.Uint32(p[fileOffCarryBytes:])
	h.size = int64(binary.LittleEndian.Uint64(p[fileOffSize:]))
	switch {
	case h.number == 0 || h.firstSeq == 0 || h.firstBatch == 0:
		return errs.New("replog.parse", errs.Corrupt, "", "file header counts from 0")
	case h.carryBytes > maxCarry || h.carryBytes%pageSize != 0:
		return errs.New("replog.parse", errs.Corrupt, "", "carry area has an impossible size")
	case h.size <= int64(h.carryBytes)+pageSize || h.size%pageSize != 0:
		return errs.New("replog.parse", errs.Corrupt, "", "file has an impossible size")
	}
	return nil
}

// start is the offset of the file's first batch.
func (h *fileHeader) start() int64 { return pageSize + int64(h.carryBytes) }

// put encodes the state into the page p.
func (s *state) put(p []byte) {
	putIdentity(p, magicState, &s.identity)
	binary.LittleEndian.PutUint64(p[stateOffGeneration:], s.generation)
	binary.LittleEndian.PutUint64(p[stateOffFirstFile:], s.firstFile)
	binary.LittleEndian.PutUint64(p[stateOffTrimmed:], uint64(s.trimmed))
	binary.LittleEndian.PutUint64(p[stateOffDurableBatch:], s.durableBatch)
	binary.LittleEndian.PutUint64(p[stateOffDurableSeq:], uint64(s.durableSeq))
	binary.LittleEndian.PutUint64(p[stateOffFileSize:], uint64(s.fileSize))
	seal(p)
}

// parse decodes and checks the page p.
func (s *state) parse(p []byte) error {
	if err := parseIdentity(p, magicState, &s.identity); err != nil {
		return err
	}
	s.generation = binary.LittleEndian.Uint64(p[stateOffGeneration:])
	s.firstFile = binary.LittleEndian.Uint64(p[stateOffFirstFile:])
	s.trimmed = dr.Seq(binary.LittleEndian.Uint64(p[stateOffTrimmed:]))
	s.durableBatch = binary.LittleEndian.Uint64(p[stateOffDurableBatch:])
	s.durableSeq = dr.Seq(binary.LittleEndian.Uint64(p[stateOffDurableSeq:]))
	s.fileSize = int64(binary.LittleEndian.Uint64(p[stateOffFileSize:]))
	if s.firstFile == 0 || s.fileSize < minFiles*pageSize || s.fileSize%pageSize != 0 {
		return errs.New("replog.parse", errs.Corrupt, "", "state page holds impossible values")
	}
	return nil
}
