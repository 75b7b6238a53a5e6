package index

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// How a plane is stored. Part of the format.
const (
	planeSame = 0 // one byte, which all are
	planeRaw  = 1 // as they are
	planeZstd = 2 // uvarint length and a zstd frame
)

// coders are caches and hold no state: encoders and decoders are safe to use
// again and dear to make.
var (
	encoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false), zstd.WithAllLitEntropyCompression(true), zstd.WithWindowSize(MaxPartObjects), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic("index: zstd refused constant options: " + err.Error())
		}
		return e
	}}
	decoders = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxMemory(1<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			panic("index: zstd refused constant options: " + err.Error())
		}
		return d
	}}
)

// zig folds a signed difference into an unsigned number, small ones to small
// ones.
func zig(d int64) uint64 { return uint64(d)<<1 ^ uint64(d>>63) }

// zag is the inverse of zig.
func zag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// packer appends columns.
type packer struct {
	enc   *zstd.Encoder
	plane []byte
	out   []byte
}

// column appends numbers: how many bytes the largest needs, then one plane for
// each of these bytes, the lowest first. Planes are compressed one by one,
// because what lies in one is alike.
func (p *packer) column(dst []byte, vals []uint64) []byte {
	var all uint64
	for _, v := range vals {
		all |= v
	}
	width := (bits.Len64(all) + 7) / 8
	dst = append(dst, byte(width))
	if cap(p.plane) < len(vals) {
		p.plane = make([]byte, max(len(vals), BlockEntries))
	}
	plane := p.plane[:len(vals)]
	for i := range width {
		for j, v := range vals {
			plane[j] = byte(v >> (8 * i))
		}
		dst = p.bytes(dst, plane)
	}
	return dst
}

// bytes appends one plane.
func (p *packer) bytes(dst, plane []byte) []byte {
	same := true
	for _, b := range plane {
		if b != plane[0] {
			same = false
			break
		}
	}
	if same {
		return append(dst, planeSame, plane[0])
	}
	p.out = p.enc.EncodeAll(plane, p.out[:0])
	if len(p.out) > len(plane)-len(plane)/16 {
		dst = append(dst, planeRaw)
		return append(dst, plane...)
	}
	dst = append(dst, planeZstd)
	dst = binary.AppendUvarint(dst, uint64(len(p.out)))
	return append(dst, p.out...)
}

// unpacker takes columns apart. After the first thing that does not fit it
// returns zeroes and keeps the reason in err.
type unpacker struct {
	b     []byte
	err   error
	dec   *zstd.Decoder
	plane []byte
}

func (u *unpacker) fail(format string, args ...any) {
	if u.err == nil {
		u.err = fmt.Errorf(format, args...)
	}
	u.b = nil
}

func (u *unpacker) take(n int) []byte {
	if n < 0 || n > len(u.b) {
		u.fail("ends too early")
		return nil
	}
	p := u.b[:n]
	u.b = u.b[n:]
	return p
}

// column reads len(vals) numbers.
func (u *unpacker) column(vals []uint64) {
	clear(vals)
	w := u.take(1)
	if w == nil {
		return
	}
	if w[0] > 8 {
		u.fail("has numbers of %d bytes", w[0])
		return
	}
	for i := range int(w[0]) {
		u.planeInto(vals, 8*i)
	}
}

// planeInto reads one plane and adds it to vals at the given bit.
func (u *unpacker) planeInto(vals []uint64, shift int) {
	mode := u.take(1)
	if mode == nil {
		return
	}
	var plane []byte
	switch mode[0] {
	case planeSame:
		b := u.take(1)
		if b == nil || b[0] == 0 {
			return
		}
		for j := range vals {
			vals[j] |= uint64(b[0]) << shift
		}
		return
	case planeRaw:
		plane = u.take(len(vals))
	case planeZstd:
		plane = u.expand(len(vals))
	default:
		u.fail("has a plane of unknown form %d", mode[0])
	}
	if len(plane) != len(vals) {
		return // the reason is kept
	}
	if shift == 0 {
		for j, b := range plane {
			vals[j] = uint64(b)
		}
		return
	}
	for j, b := range plane {
		vals[j] |= uint64(b) << shift
	}
}

// expand reads a compressed plane of n bytes. The decompressor is confined to
// them, whatever the frame claims.
func (u *unpacker) expand(n int) []byte {
	size, w := binary.Uvarint(u.b)
	if w <= 0 || size > uint64(len(u.b)-w) {
		u.fail("ends inside a plane")
		return nil
	}
	in := u.b[w:][:size]
	u.b = u.b[w+int(size):]
	if cap(u.plane) < n {
		u.plane = make([]byte, 0, max(n, BlockEntries))
	}
	out, err := u.dec.DecodeAll(in, u.plane[:0:n])
	if err != nil || len(out) != n {
		u.fail("has a plane that does not open to %d bytes (%v)", n, err)
		return nil
	}
	return out
}
