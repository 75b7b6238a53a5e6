package segment

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"holdfast/internal/dr"
)

// Level is how hard frames are compressed. Every level reads alike. The zero
// value is Fastest.
type Level uint8

const (
	Fastest  Level = iota // about 180 MB/s of a core; ratio 2.2 on a Linux system's files
	Balanced              // half as fast, some 7 % smaller
	Smallest              // for links dearer than processors
	None                  // frames lie as they are: for processors dearer than links
)

func (l Level) zstd() zstd.EncoderLevel {
	switch l {
	case Balanced:
		return zstd.SpeedDefault
	case Smallest:
		return zstd.SpeedBetterCompression
	}
	return zstd.SpeedFastest
}

// newEncoder returns an encoder for EncodeAll by one goroutine at a time. Its
// window is a chunk: no frame is larger.
func newEncoder(l Level) *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(l.zstd()), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(dr.ChunkSize), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("segment: zstd refused constant options: " + err.Error())
	}
	return e
}

// aad is what a frame is bound to besides its object's key: a store that
// swaps frames, or versions of a chunk, is found out.
const aadSize = 16 + 16 + 4 + 2 + 8

func putAAD(b *[aadSize]byte, domain dr.DomainID, disk dr.DiskID, chunk uint32, mask uint16, seq dr.Seq) {
	copy(b[0:], domain.UUID[:])
	copy(b[16:], disk.UUID[:])
	binary.LittleEndian.PutUint32(b[32:], chunk)
	binary.LittleEndian.PutUint16(b[36:], mask)
	binary.LittleEndian.PutUint64(b[38:], uint64(seq))
}

// scratch is what opening needs besides the key: a decompressor (safe to
// share, dear to make), room for its input, and values that would otherwise
// be allocated per call.
type scratch struct {
	dec   *zstd.Decoder
	plain []byte
	nonce [nonceSize]byte
	aad   [aadSize]byte
}

// scratches is a cache and holds no state. It is shared by all openers,
// because a recovery makes one per object.
var scratches = sync.Pool{New: func() any {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(MaxFooter), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic("segment: zstd refused constant options: " + err.Error())
	}
	return &scratch{dec: dec}
}}

// expand appends exactly n decompressed bytes to dst, which has room for
// them: the decompressor is confined to that room, whatever in claims.
func (s *scratch) expand(dst, in []byte, n int) ([]byte, error) {
	at := len(dst)
	out, err := s.dec.DecodeAll(in, dst[:at:at+n])
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(out) != at+n {
		return nil, fmt.Errorf("decompressed to %d bytes instead of %d", len(out)-at, n)
	}
	return out, nil
}

// errTag is an authentication failure.
var errTag = errors.New("authentication failed: the bytes are not what was sealed")

// A packed part (footer, blob) is its plain length, u32, and its zstd form,
// sealed together.

// appendPacked seals plain onto dst under a reserved counter.
func appendPacked(dst []byte, aead cipher.AEAD, counter uint32, aad, plain []byte, enc *zstd.Encoder) []byte {
	at := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(plain)))
	dst = enc.EncodeAll(plain, dst)
	var nonce [nonceSize]byte
	putNonce(&nonce, counter)
	return aead.Seal(dst[:at], nonce[:], dst[at:], aad)
}

// openPacked is the inverse; the result is at most most bytes and the
// caller's own.
func openPacked(aead cipher.AEAD, counter uint32, aad, sealed []byte, most int) ([]byte, error) {
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	putNonce(&s.nonce, counter)
	packed, err := aead.Open(nil, s.nonce[:], sealed, aad)
	if err != nil {
		return nil, errTag
	}
	if len(packed) < 4 {
		return nil, errors.New("sealed part is too short")
	}
	n := binary.LittleEndian.Uint32(packed)
	if uint64(n) > uint64(most) {
		return nil, fmt.Errorf("sealed part of %d bytes is larger than %d", n, most)
	}
	return s.expand(make([]byte, 0, n), packed[4:], int(n))
}
