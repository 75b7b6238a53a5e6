package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// FormatVersion is the newest object format this package writes and reads.
// Version 2 added packed data objects and blobs above smallBlob; everything
// else is written as version 1 and stays readable by it.
const FormatVersion = 2

// Versions of the format that a reader must know.
const (
	needsFirst  = 1 // what is not listed below
	needsPacked = 2 // packed objects, blobs above smallBlob
)

// suite 1: HKDF-SHA256, AES-256-GCM, zstd, BLAKE3.
const suite = 1

// Magic opens every object. Its bytes break when a transport takes the object
// for text.
const Magic = "\x89HFOBJ\r\n"

// Offsets in the header. Those of magic, format, needs and crc hold for every
// future format, so that any version can tell what it cannot read.
const (
	offMagic    = 0
	offFormat   = 8
	offNeeds    = 10
	offKind     = 12
	offSuite    = 13
	offWindow   = 14
	offObject   = 16
	offDomain   = 32
	offTimeline = 48
	offKey      = 64
	offEpoch    = 80
	offNumber   = 88
	offPrev     = 96
	offCreated  = 128
	offCheck    = 136
	offForm     = 144 // 1: packed
	offUnused   = 145 // zero
	offPrevID   = 152
	offPrevNum  = 168
	offUnused2  = 176 // zero up to the crc
	offCRC      = HeaderSize - 4
)

// Kind says what an object is. Values are part of the format.
type Kind uint8

const (
	Journal Kind = 1 // captured blocks of one checkpoint cell
	Data    Kind = 2 // blocks moved by sync or repack
	Fence   Kind = 3 // a new epoch takes a timeline over; header and tail alone
	Blob    Kind = 4 // small sealed content: a VM's configuration, a timeline's head
)

var kindNames = [...]string{Journal: "journal", Data: "data", Fence: "fence", Blob: "blob"}

// String returns the kind's stable name.
func (k Kind) String() string {
	if k >= Journal && k <= Blob {
		return kindNames[k]
	}
	return "unknown"
}

// Header is the clear head of an object: who wrote it, where it belongs and
// which key opens it. It is authenticated as part of opening the footer or
// blob; of a fence, which has neither, only by its place in the digest chain:
// the object behind it names the digest of its header, see FenceDigest.
type Header struct {
	Kind     Kind
	Object   dr.UUID // random; every object's own key is derived from it
	Domain   dr.DomainID
	Timeline dr.TimelineID
	Epoch    dr.Epoch
	Number   dr.ObjectNumber // place among the timeline's journal objects; 0 outside
	Prev     Digest          // of the object before; zero for the first
	// PrevObject is the uuid of the object before. Unlike Prev it can be compared
	// without reading that object's content. Zero for the first, and in objects
	// written before the field was there. PrevNumber is that object's number: what
	// lies between is dead. Zero likewise.
	PrevObject dr.UUID
	PrevNumber dr.ObjectNumber
	Key        dr.UUID   // which data key seals it
	Window     uint16    // objects a publisher may have in flight (W)
	Created    time.Time // by the writer's clock, UTC; for people, never for decisions
	Packed     bool      // Kind Data: frames are copied from other objects and keep their seals
}

// name is how errors call the object.
func (h *Header) name() string {
	if h.Number != 0 {
		return fmt.Sprintf("%v object %d (%v)", h.Kind, h.Number, h.Object)
	}
	return fmt.Sprintf("%v object %v", h.Kind, h.Object)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// put encodes h into dst, of which it fills HeaderSize bytes. needs is the
// version of the format a reader must know.
func (h *Header) put(dst []byte, check keyCheck, needs uint16) {
	dst = dst[:HeaderSize]
	clear(dst)
	copy(dst[offMagic:], Magic)
	if h.Packed {
		needs, dst[offForm] = needsPacked, 1
	}
	binary.LittleEndian.PutUint16(dst[offFormat:], needs)
	binary.LittleEndian.PutUint16(dst[offNeeds:], needs)
	dst[offKind] = byte(h.Kind)
	dst[offSuite] = suite
	binary.LittleEndian.PutUint16(dst[offWindow:], h.Window)
	copy(dst[offObject:], h.Object[:])
	copy(dst[offDomain:], h.Domain.UUID[:])
	copy(dst[offTimeline:], h.Timeline.UUID[:])
	copy(dst[offKey:], h.Key[:])
	binary.LittleEndian.PutUint32(dst[offEpoch:], uint32(h.Epoch))
	binary.LittleEndian.PutUint64(dst[offNumber:], uint64(h.Number))
	copy(dst[offPrev:], h.Prev[:])
	binary.LittleEndian.PutUint64(dst[offCreated:], uint64(unixNano(h.Created)))
	copy(dst[offCheck:], check[:])
	copy(dst[offPrevID:], h.PrevObject[:])
	binary.LittleEndian.PutUint64(dst[offPrevNum:], uint64(h.PrevNumber))
	binary.LittleEndian.PutUint32(dst[offCRC:], crc32.Checksum(dst[:offCRC], castagnoli))
}

// ParseHeader decodes the first HeaderSize bytes of an object. Errors: Invalid
// for bytes that are no Holdfast object and for a format newer than this
// version reads, Corrupt for damaged ones.
func ParseHeader(b []byte) (Header, error) {
	h, _, err := parseHeader(b)
	return h, err
}

// extra is what the header holds besides the Header.
type extra struct {
	check keyCheck
	newer bool // written by a newer version that declares this one able to read it
}

func parseHeader(b []byte) (Header, extra, error) {
	const op = "segment.ParseHeader"
	if n := min(len(b), len(Magic)); string(b[:n]) != Magic[:n] {
		return Header{}, extra{}, errs.New(op, errs.Invalid, "", "not a Holdfast object").
			WithRemedy("check that the store's address names a Holdfast container")
	}
	if len(b) < HeaderSize {
		return Header{}, extra{}, corrupt(op, "", fmt.Errorf("object ends after %d bytes, inside its header", len(b)))
	}
	if binary.LittleEndian.Uint32(b[offCRC:]) != crc32.Checksum(b[:offCRC], castagnoli) {
		return Header{}, extra{}, corrupt(op, "", fmt.Errorf("header checksum does not match"))
	}
	format, needs := binary.LittleEndian.Uint16(b[offFormat:]), binary.LittleEndian.Uint16(b[offNeeds:])
	kind := Kind(b[offKind])
	if needs > FormatVersion || b[offSuite] != suite || kind < Journal || kind > Blob {
		return Header{}, extra{}, errs.E(op, errs.Invalid, "", fmt.Errorf(
			"object of format %d, readable from version %d of the format on (suite %d, kind %d); this program reads up to version %d",
			format, needs, b[offSuite], kind, FormatVersion)).
			WithRemedy("use a Holdfast at least as new as the one that wrote the object")
	}
	packed := needs >= needsPacked && b[offForm] == 1 // version 1 does not look at the byte
	if packed && kind != Data {
		return Header{}, extra{}, corrupt(op, "", fmt.Errorf("a packed object of kind %v", kind))
	}
	h := Header{
		Packed:     packed,
		Kind:       kind,
		Object:     dr.UUID(b[offObject:]),
		Domain:     dr.DomainID{UUID: dr.UUID(b[offDomain:])},
		Timeline:   dr.TimelineID{UUID: dr.UUID(b[offTimeline:])},
		Epoch:      dr.Epoch(binary.LittleEndian.Uint32(b[offEpoch:])),
		Number:     dr.ObjectNumber(binary.LittleEndian.Uint64(b[offNumber:])),
		Prev:       Digest(b[offPrev : offPrev+len(Digest{})]),
		Key:        dr.UUID(b[offKey:]),
		Window:     binary.LittleEndian.Uint16(b[offWindow:]),
		PrevObject: dr.UUID(b[offPrevID : offPrevID+len(dr.UUID{})]),
		PrevNumber: dr.ObjectNumber(binary.LittleEndian.Uint64(b[offPrevNum:])),
		Created:    fromUnixNano(int64(binary.LittleEndian.Uint64(b[offCreated:]))),
	}
	x := extra{check: keyCheck(b[offCheck:]), newer: format > FormatVersion}
	return h, x, nil
}

// complete reports what a header lacks to be written, or nil.
func (h *Header) complete(op string) error {
	lacks := ""
	if h.Packed && h.Kind != Data {
		return errs.New(op, errs.Invalid, h.name(), "only data objects are packed")
	}
	switch {
	case h.Domain.IsZero():
		lacks = "domain"
	case h.Kind != Fence && h.Key.IsZero():
		lacks = "data key id"
	case h.Kind == Blob:
	case h.Timeline.IsZero():
		lacks = "timeline"
	case h.Kind == Data:
	case h.Epoch == 0:
		lacks = "epoch"
	case h.Number == 0:
		lacks = "number"
	}
	if lacks != "" {
		return errs.New(op, errs.Invalid, h.name(), "header has no "+lacks)
	}
	return nil
}

// The zero time is stored as 0, which costs the first nanosecond of 1970.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromUnixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// corrupt is the error for bytes that are not what was written.
func corrupt(op, object string, err error) *errs.Error {
	return errs.E(op, errs.Corrupt, object, err).
		WithRemedy("read it again; if it stays damaged the store has changed it: recover from another copy or an earlier checkpoint, and run fsck on the container")
}
