package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"holdfast/internal/errs"
)

// tailMagic opens the tail.
const tailMagic = "HFTL"

// Offsets in the tail.
const (
	offTailMagic    = 0
	offTailCRC      = 4 // of the bytes behind it
	offFooterOffset = 8
	offFooterLen    = 16
	offTailUnused   = 24
	offDigest       = 32
)

func appendTail(dst []byte, footerOffset, footerLen int, d Digest) []byte {
	var t [TailSize]byte
	copy(t[offTailMagic:], tailMagic)
	binary.LittleEndian.PutUint64(t[offFooterOffset:], uint64(footerOffset))
	binary.LittleEndian.PutUint64(t[offFooterLen:], uint64(footerLen))
	copy(t[offDigest:], d[:])
	binary.LittleEndian.PutUint32(t[offTailCRC:], crc32.Checksum(t[offFooterOffset:], castagnoli))
	return append(dst, t[:]...)
}

// ParseTail decodes the last TailSize bytes of an object: where its sealed
// footer (or blob) lies, and the digest of everything before the tail. The
// numbers are within the bounds of the format; that footerOffset + footerLen +
// TailSize is the object's size is for who knows the size to check. Kind
// Corrupt for anything but a tail.
func ParseTail(tail []byte) (footerOffset, footerLen int64, d Digest, err error) {
	const op = "segment.ParseTail"
	if len(tail) != TailSize || string(tail[:len(tailMagic)]) != tailMagic {
		return 0, 0, d, corrupt(op, "", fmt.Errorf("object does not end with a tail: it was cut short or is not complete"))
	}
	if binary.LittleEndian.Uint32(tail[offTailCRC:]) != crc32.Checksum(tail[offFooterOffset:], castagnoli) {
		return 0, 0, d, corrupt(op, "", fmt.Errorf("tail checksum does not match"))
	}
	off := binary.LittleEndian.Uint64(tail[offFooterOffset:])
	n := binary.LittleEndian.Uint64(tail[offFooterLen:])
	if off < HeaderSize || off > MaxObjectSize || n > MaxObjectSize || off+n+TailSize > MaxObjectSize {
		return 0, 0, d, errs.E(op, errs.Corrupt, "", fmt.Errorf("footer of %d bytes at %d is out of bounds", n, off))
	}
	return int64(off), int64(n), Digest(tail[offDigest:]), nil
}
