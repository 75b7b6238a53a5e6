package record

import (
	"encoding/binary"
	"hash/crc32"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Size is the encoded size of a descriptor in bytes.
const Size = 64

// MaxPayload bounds one record's payload in bytes: larger guest writes become
// several records.
const MaxPayload = 1 << 20

// MaxRange bounds the length of a record without payload (Zero, Discard):
// 1 GiB, a whole number of chunks that fits the length field with room.
const MaxRange = 1 << 30

// Kind says what a record tells. Values are part of the wire and log formats.
type Kind uint8

const (
	Data             Kind = 1  // blocks written: offset, length, payload (block-aligned)
	Zero             Kind = 2  // blocks zeroed: offset, length, no payload
	Discard          Kind = 3  // blocks trimmed, recovered as zeroes; no payload
	Checkpoint       Kind = 4  // a cut lies exactly here; payload: see drva; tentative until its result
	CheckpointResult Kind = 5  // the cut's outcome, payload: see drva
	Disk             Kind = 6  // disk attached, resized or detached; payload: JSON
	Session          Kind = 7  // a host session began; payload: JSON
	SyncEnd          Kind = 8  // disk's baseline (or resync) is complete from here on; no payload
	TrackBegin       Kind = 9  // disk's host acknowledged writes outside the stream before this point; no payload
	Meta             Kind = 10 // VM configuration; payload: JSON
	OpenRegion       Kind = 11 // region about to be written for the first time; no payload
	Pad              Kind = 12 // fills a hole; carries nothing
	Marker           Kind = 13 // wire only: the host's place of cut offset=round
	maxKind          Kind = 13
)

var kindNames = [maxKind + 1]string{
	"invalid", "data", "zero", "discard", "checkpoint", "checkpoint-result", "disk",
	"session", "sync-end", "track-begin", "meta", "open-region", "pad", "marker",
}

// String returns the kind's stable name.
func (k Kind) String() string {
	if k <= maxKind {
		return kindNames[k]
	}
	return "unknown"
}

// Flags qualify a record.
type Flags uint8

const (
	// FromSync marks content read by the sync cursor, not written by a guest.
	FromSync Flags = 1 << iota
	// Replayed marks a record sent again after a DRVA restart; its Seq, when
	// not 0, is the one it was given before.
	Replayed
)

// Record is a descriptor in memory, with its payload beside it. The zero value
// is invalid. Payload is not owned: who made the record says how long it lives.
type Record struct {
	Kind    Kind
	Flags   Flags
	Disk    uint16
	Length  uint32
	Seq     dr.Seq
	Offset  uint64
	HostSeq dr.HostSeq
	Session dr.Session
	CRC     uint32
	Time    int64
	Page    uint32
	Payload []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C used for payloads and descriptors.
func Checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// HasPayload reports whether records of this kind carry Length payload bytes.
func (k Kind) HasPayload() bool {
	switch k {
	case Data, Checkpoint, CheckpointResult, Disk, Session, Meta:
		return true
	}
	return false
}

// PayloadLen is the number of payload bytes the record carries.
func (r *Record) PayloadLen() int {
	if r.Kind.HasPayload() {
		return int(r.Length)
	}
	return 0
}

// PaddedLen is PayloadLen rounded up to whole pages of dr.BlockSize, the space
// the payload takes on the wire and in the log.
func (r *Record) PaddedLen() int {
	return (r.PayloadLen() + dr.BlockSize - 1) &^ (dr.BlockSize - 1)
}

// Put encodes the descriptor into dst, which must hold Size bytes.
func (r *Record) Put(dst []byte) {
	_ = dst[Size-1]
	dst[0], dst[1] = byte(r.Kind), byte(r.Flags)
	binary.LittleEndian.PutUint16(dst[2:], r.Disk)
	binary.LittleEndian.PutUint32(dst[4:], r.Length)
	binary.LittleEndian.PutUint64(dst[8:], uint64(r.Seq))
	binary.LittleEndian.PutUint64(dst[16:], r.Offset)
	binary.LittleEndian.PutUint64(dst[24:], uint64(r.HostSeq))
	binary.LittleEndian.PutUint32(dst[32:], uint32(r.Session))
	binary.LittleEndian.PutUint32(dst[36:], r.CRC)
	binary.LittleEndian.PutUint64(dst[40:], uint64(r.Time))
	binary.LittleEndian.PutUint32(dst[48:], r.Page)
	binary.LittleEndian.PutUint64(dst[52:], 0)
	binary.LittleEndian.PutUint32(dst[60:], Checksum(dst[:60]))
}

// Parse decodes and validates a descriptor: its own checksum, a known kind,
// a length inside the bounds of its kind, block alignment of data. It does not
// look at the payload. Errors are of kind Corrupt (checksum) or Invalid.
func (r *Record) Parse(src []byte) error {
	if len(src) < Size {
		return errs.New("record.Parse", errs.Corrupt, "", "descriptor is shorter than 64 bytes")
	}
	if binary.LittleEndian.Uint32(src[60:]) != Checksum(src[:60]) {
		return errs.New("record.Parse", errs.Corrupt, "", "descriptor checksum does not match")
	}
	*r = Record{
		Kind:    Kind(src[0]),
		Flags:   Flags(src[1]),
		Disk:    binary.LittleEndian.Uint16(src[2:]),
		Length:  binary.LittleEndian.Uint32(src[4:]),
		Seq:     dr.Seq(binary.LittleEndian.Uint64(src[8:])),
		Offset:  binary.LittleEndian.Uint64(src[16:]),
		HostSeq: dr.HostSeq(binary.LittleEndian.Uint64(src[24:])),
		Session: dr.Session(binary.LittleEndian.Uint32(src[32:])),
		CRC:     binary.LittleEndian.Uint32(src[36:]),
		Time:    int64(binary.LittleEndian.Uint64(src[40:])),
		Page:    binary.LittleEndian.Uint32(src[48:]),
	}
	return r.validate()
}

func (r *Record) validate() error {
	bad := func(words string) error {
		return errs.New("record.Parse", errs.Invalid, r.Kind.String(), words)
	}
	switch r.Kind {
	case Data, Zero, Discard:
		if r.Length == 0 || r.Length%dr.BlockSize != 0 || r.Offset%dr.BlockSize != 0 {
			return bad("range is empty or not a whole number of blocks")
		}
		if r.Offset > dr.MaxDiskSize || r.Offset+uint64(r.Length) > dr.MaxDiskSize {
			return bad("range ends beyond the largest disk")
		}
		if r.Kind != Data && r.Length > MaxRange {
			return bad("range is longer than 1 GiB")
		}
	case Checkpoint, CheckpointResult, Disk, Session, SyncEnd, TrackBegin, Meta, OpenRegion, Pad, Marker:
	default:
		return bad("unknown kind")
	}
	if r.Kind.HasPayload() && r.Length > MaxPayload {
		return bad("payload is longer than 1 MiB")
	}
	return nil
}

// CheckPayload compares the payload with its checksum; kind Corrupt if they
// differ. Records without payload always pass.
func (r *Record) CheckPayload() error {
	if r.PayloadLen() == 0 {
		return nil
	}
	if len(r.Payload) < int(r.Length) || Checksum(r.Payload[:r.Length]) != r.CRC {
		return errs.New("record.CheckPayload", errs.Corrupt, r.Kind.String(), "payload checksum does not match")
	}
	return nil
}
