package wire

import (
	"encoding/binary"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// Bounds of a frame. Each is a promise to the other side about memory.
const (
	HeadSize   = 32
	MaxRecords = 256     // records in a frame; also the log's batch
	MaxPayload = 1 << 20 // payload bytes in a frame
	MaxBody    = 1 << 20 // body bytes: a Hello naming 500 disks and their VMs is about 300 KiB
)

const (
	magic   = 0x31574648 // "HFW1"
	version = 1
)

// Type says what a frame carries. Values are part of the protocol.
type Type uint8

const (
	TypeHello     Type = 1  // host → DRVA, JSON Hello
	TypeWelcome   Type = 2  // DRVA → host, JSON Welcome
	TypeRefuse    Type = 3  // either, JSON Refuse, last frame of the connection
	TypeRecords   Type = 4  // host → DRVA
	TypeReplayEnd Type = 5  // host → DRVA, empty
	TypeAck       Type = 6  // DRVA → host, Ack
	TypeHold      Type = 7  // DRVA → host, Round
	TypeRelease   Type = 8  // DRVA → host, Round
	TypeMark      Type = 9  // DRVA → host, Round
	TypeConfirm   Type = 10 // host → DRVA, Confirm
	TypePing      Type = 11 // either, empty
	TypeFreeze    Type = 12 // DRVA → host that offers FeatureFreeze, Freeze
	TypeFrozen    Type = 13 // host → DRVA, JSON FreezeReport
	TypeThaw      Type = 14 // DRVA → host, Round
	TypeThawed    Type = 15 // host → DRVA, JSON FreezeReport
	TypeThrottle  Type = 16 // DRVA → host that offers FeatureThrottle, Throttle
	TypeTrack     Type = 17 // DRVA → host that offers FeatureTrack, Track

	TypeHashAsk    Type = 18 // host → DRVA, HashAsk
	TypeHashAnswer Type = 19 // DRVA → host, HashAnswer

	TypeBootTrace Type = 20 // host → DRVA that offers FeatureBoot, BootTrace

	TypePlace Type = 21 // DRVA → host that offers FeaturePlace, Round
	maxType   Type = 21
)

// Head is the first 32 bytes of a frame.
type Head struct {
	Type    Type
	Count   uint16
	Body    uint32
	Payload uint32
	BodyCRC uint32
}

// Put encodes h into dst, which must hold HeadSize bytes.
func (h *Head) Put(dst []byte) {
	_ = dst[HeadSize-1]
	binary.LittleEndian.PutUint32(dst, magic)
	dst[4], dst[5] = byte(h.Type), version
	binary.LittleEndian.PutUint16(dst[6:], h.Count)
	binary.LittleEndian.PutUint32(dst[8:], h.Body)
	binary.LittleEndian.PutUint32(dst[12:], h.Payload)
	binary.LittleEndian.PutUint64(dst[16:], 0)
	binary.LittleEndian.PutUint32(dst[24:], h.BodyCRC)
	binary.LittleEndian.PutUint32(dst[28:], record.Checksum(dst[:28]))
}

// Parse decodes and validates a head, so that its lengths may be trusted for
// allocation. Errors are of kind Corrupt or Invalid; the connection is then
// useless.
func (h *Head) Parse(src []byte) error {
	bad := func(k errs.Kind, format string, a ...any) error {
		return errs.E("wire.Parse", k, "frame", fmt.Errorf(format, a...))
	}
	if len(src) < HeadSize {
		return bad(errs.Corrupt, "head is %d bytes, not %d", len(src), HeadSize)
	}
	if m := binary.LittleEndian.Uint32(src); m != magic {
		return bad(errs.Invalid, "the other side does not speak Holdfast (starts with %#08x)", m)
	}
	if binary.LittleEndian.Uint32(src[28:]) != record.Checksum(src[:28]) {
		return bad(errs.Corrupt, "head checksum does not match")
	}
	if src[5] != version {
		return bad(errs.Invalid, "the other side speaks version %d of the protocol, this side %d", src[5], version)
	}
	*h = Head{
		Type:    Type(src[4]),
		Count:   binary.LittleEndian.Uint16(src[6:]),
		Body:    binary.LittleEndian.Uint32(src[8:]),
		Payload: binary.LittleEndian.Uint32(src[12:]),
		BodyCRC: binary.LittleEndian.Uint32(src[24:]),
	}
	switch {
	case h.Type == 0 || h.Type > maxType:
		return bad(errs.Invalid, "unknown type %d", h.Type)
	case h.Body > MaxBody:
		return bad(errs.Invalid, "body of %d bytes is over the bound", h.Body)
	case h.Type != TypeRecords && (h.Payload != 0 || h.Count != 0):
		return bad(errs.Invalid, "type %d carries records", h.Type)
	case h.Payload > MaxPayload || h.Payload%dr.BlockSize != 0:
		return bad(errs.Invalid, "payload of %d bytes is over the bound or not whole pages", h.Payload)
	case h.Type == TypeRecords && (h.Count == 0 || h.Count > MaxRecords || h.Body != uint32(h.Count)*record.Size):
		return bad(errs.Invalid, "%d records in a body of %d bytes", h.Count, h.Body)
	}
	return nil
}

// CheckBody compares the body with the head's checksum.
func (h *Head) CheckBody(body []byte) error {
	if len(body) != int(h.Body) || record.Checksum(body) != h.BodyCRC {
		return errs.New("wire.CheckBody", errs.Corrupt, "frame", "body checksum does not match")
	}
	return nil
}

// Records decodes a Records frame into recs (which is reset and, with capacity
// MaxRecords, never grows). Payload slices point into payload. Every checksum
// is verified, as are the sum of payloads and the place of a Marker.
func (h *Head) Records(body, payload []byte, recs []record.Record) ([]record.Record, error) {
	recs = recs[:0]
	if h.Type != TypeRecords || len(payload) != int(h.Payload) {
		return recs, errs.New("wire.Records", errs.Invalid, "frame", "not a whole records frame")
	}
	if err := h.CheckBody(body); err != nil {
		return recs, err
	}
	used := 0
	for i := range int(h.Count) {
		recs = recs[:i+1]
		r := &recs[i]
		if err := r.Parse(body[i*record.Size : (i+1)*record.Size]); err != nil {
			return recs[:i], err
		}
		if r.Kind == record.Marker && i != int(h.Count)-1 {
			return recs[:i], errs.New("wire.Records", errs.Invalid, "frame", "marker is not the last record")
		}
		n := r.PaddedLen()
		if used+n > len(payload) {
			return recs[:i], errs.New("wire.Records", errs.Invalid, "frame", "records claim more payload than there is")
		}
		if n > 0 {
			r.Payload = payload[used : used+n : used+n]
			if err := r.CheckPayload(); err != nil {
				return recs[:i], err
			}
		}
		used += n
	}
	if used != len(payload) {
		return recs, errs.New("wire.Records", errs.Invalid, "frame", "payload belongs to no record")
	}
	return recs, nil
}
