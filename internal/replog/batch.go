package replog

import (
	"encoding/binary"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
)

// headSize is the size of a batch head in bytes: that of a descriptor, so that
// both share pages.
const headSize = record.Size

// Offsets in a batch head.
const (
	headOffMagic        = 0
	headOffUUID         = 8
	headOffIncarnation  = 24
	headOffCount        = 28
	headOffNumber       = 32
	headOffFirstSeq     = 40
	headOffPayloadPages = 48
	headOffPrevCRC      = 52
	headOffDescCRC      = 56
	headOffCRC          = 60
)

// batchHead is the first 64 bytes of a batch.
type batchHead struct {
	uuid         dr.UUID
	incarnation  uint32
	count        uint32
	number       uint64
	firstSeq     dr.Seq
	payloadPages uint32
	prevCRC      uint32 // crc of the head before: the chain
	descCRC      uint32 // of the descriptor pages behind the head
	crc          uint32 // of the head
}

// put encodes the head into dst and sets h.crc.
func (h *batchHead) put(dst []byte) {
	copy(dst[headOffMagic:], magicBatch)
	copy(dst[headOffUUID:], h.uuid[:])
	binary.LittleEndian.PutUint32(dst[headOffIncarnation:], h.incarnation)
	binary.LittleEndian.PutUint32(dst[headOffCount:], h.count)
	binary.LittleEndian.PutUint64(dst[headOffNumber:], h.number)
	binary.LittleEndian.PutUint64(dst[headOffFirstSeq:], uint64(h.firstSeq))
	binary.LittleEndian.PutUint32(dst[headOffPayloadPages:], h.payloadPages)
	binary.LittleEndian.PutUint32(dst[headOffPrevCRC:], h.prevCRC)
	binary.LittleEndian.PutUint32(dst[headOffDescCRC:], h.descCRC)
	h.crc = record.Checksum(dst[:headOffCRC])
	binary.LittleEndian.PutUint32(dst[headOffCRC:], h.crc)
}

// parse decodes a head and reports whether p starts with a sound one of any
// log. It allocates nothing: recovery asks it of every page of a tail.
func (h *batchHead) parse(p []byte) bool {
	if len(p) < headSize || string(p[headOffMagic:headOffMagic+len(magicBatch)]) != magicBatch {
		return false
	}
	h.crc = binary.LittleEndian.Uint32(p[headOffCRC:])
	if h.crc != record.Checksum(p[:headOffCRC]) {
		return false
	}
	copy(h.uuid[:], p[headOffUUID:])
	h.incarnation = binary.LittleEndian.Uint32(p[headOffIncarnation:])
	h.count = binary.LittleEndian.Uint32(p[headOffCount:])
	h.number = binary.LittleEndian.Uint64(p[headOffNumber:])
	h.firstSeq = dr.Seq(binary.LittleEndian.Uint64(p[headOffFirstSeq:]))
	h.payloadPages = binary.LittleEndian.Uint32(p[headOffPayloadPages:])
	h.prevCRC = binary.LittleEndian.Uint32(p[headOffPrevCRC:])
	h.descCRC = binary.LittleEndian.Uint32(p[headOffDescCRC:])
	return h.count > 0 && h.count <= maxBatchRecords && h.payloadPages <= maxBatchPages &&
		h.number > 0 && h.firstSeq > 0 && h.firstSeq+dr.Seq(h.count) > h.firstSeq
}

// descPages is how many pages the head and n descriptors take.
func descPages(n int) int { return (headSize + n*record.Size + pageSize - 1) / pageSize }

// batchBytes is the size on disk of a batch of n records.
func batchBytes(n, payloadPages int) int64 { return int64(descPages(n)+payloadPages) * pageSize }

// size is the batch's size on disk in bytes.
func (h *batchHead) size() int64 { return batchBytes(int(h.count), int(h.payloadPages)) }

// last is the batch's last seq.
func (h *batchHead) last() dr.Seq { return h.firstSeq + dr.Seq(h.count) - 1 }

// records checks the whole batch in b, which starts with the parsed head, and
// appends its records to list, their payloads pointing into b. Every byte is
// covered by a checksum or must be zero. Errors are of kind Corrupt.
func (h *batchHead) records(b []byte, list []record.Record) ([]record.Record, error) {
	if int64(len(b)) < h.size() {
		return list, corrupt("batch is cut short")
	}
	desc := b[:descPages(int(h.count))*pageSize]
	payload := b[len(desc):h.size()]
	if record.Checksum(desc[headSize:]) != h.descCRC {
		return list, corrupt("descriptors do not match their checksum")
	}
	page := 0
	for i := range int(h.count) {
		var r record.Record
		if err := r.Parse(desc[headSize+i*record.Size:]); err != nil {
			return list, corrupt(err.Error())
		}
		if r.Seq != h.firstSeq+dr.Seq(i) {
			return list, corrupt(fmt.Sprintf("record %d has seq %d, not %d", i, r.Seq, h.firstSeq+dr.Seq(i)))
		}
		var err error
		if page, err = attach(&r, payload, page); err != nil {
			return list, err
		}
		list = append(list, r)
	}
	if page*pageSize != len(payload) {
		return list, corrupt("payload is longer than its records")
	}
	return list, nil
}

// attach points r at its payload, which must start at the given page, checks
// it and returns the page after it.
func attach(r *record.Record, payload []byte, page int) (int, error) {
	n, padded := r.PayloadLen(), r.PaddedLen()
	if n == 0 {
		if r.Page != 0 {
			return page, corrupt("record without payload names a page")
		}
		return page, nil
	}
	from := page * pageSize
	if int(r.Page) != page || from+padded > len(payload) {
		return page, corrupt("payload is not where it belongs")
	}
	r.Payload = payload[from : from+n : from+padded]
	if err := r.CheckPayload(); err != nil {
		return page, corrupt(err.Error())
	}
	for _, c := range payload[from+n : from+padded] {
		if c != 0 {
			return page, corrupt("padding is not zero")
		}
	}
	return page + padded/pageSize, nil
}

func corrupt(words string) error { return errs.New("replog.parse", errs.Corrupt, "", words) }
