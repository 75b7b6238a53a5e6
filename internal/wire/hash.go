package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"

	"log/slog"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// FeatureHash is the word in Features of a side that speaks HashAsk and
// HashAnswer.
const FeatureHash = "hash"

// Bounds of a question about hashes and its answer.
const (
	// MaxHashChunks bounds the chunks of one question: 16 MiB of a disk, some 40
	// ms of comparing.
	MaxHashChunks = 256
	// MaxHashKeys bounds the keys one answer uses: chunks that need more are
	// answered as unknown. A container has a few data keys.
	MaxHashKeys = 16
	// MaxHashPieces bounds the pieces of one answer: each block its own.
	MaxHashPieces = MaxHashChunks * dr.BlocksPerChunk
	// MaxHashAnswer bounds the body of an answer, in bytes: 66,320.
	MaxHashAnswer = hashAnswerHead + MaxHashKeys*HashKeySize + MaxHashChunks + MaxHashPieces*hashPieceSize +
		MaxHashChunks*dr.BlocksPerChunk*8
)

// Sizes in the encoding of HashAsk and HashAnswer, in bytes.
const (
	HashKeySize    = 32
	hashAskSize    = 24
	hashAnswerHead = 16
	hashPieceSize  = 8
)

// HashKey is the key of block hashes. It is for the host that owns the disk,
// over the authenticated link, and prints as "redacted" in every way a value
// is printed.
type HashKey [HashKeySize]byte

const redacted = "redacted"

// Format prints "redacted" whatever the verb.
func (HashKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns "redacted".
func (HashKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "redacted".
func (HashKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// HashAsk asks for the block hashes of some chunks of a disk, as the container
// has them.
type HashAsk struct {
	ID    uint32 // chosen by the host; the answer repeats it
	Disk  uint16 // index in the host's Hello
	First uint32 // chunk
	Count uint16 // chunks, 1 to MaxHashChunks
	// Need is a record of this host: what is answered holds it and all before
	// it, and all other sessions' records of the disk. The answer comes no
	// earlier than that is so.
	Need dr.HostSeq
}

// Append encodes a as a whole frame.
func (a *HashAsk) Append(dst []byte) []byte {
	var b [hashAskSize]byte
	binary.LittleEndian.PutUint32(b[:], a.ID)
	binary.LittleEndian.PutUint32(b[4:], a.First)
	binary.LittleEndian.PutUint64(b[8:], uint64(a.Need))
	binary.LittleEndian.PutUint16(b[16:], a.Disk)
	binary.LittleEndian.PutUint16(b[18:], a.Count)
	return AppendFrame(dst, TypeHashAsk, b[:])
}

// ParseHashAsk decodes a HashAsk.
func ParseHashAsk(body []byte) (a HashAsk, err error) {
	if len(body) != hashAskSize {
		return a, errs.New("wire.ParseHashAsk", errs.Invalid, "hash question", "body is not 24 bytes")
	}
	a = HashAsk{
		ID: binary.LittleEndian.Uint32(body), First: binary.LittleEndian.Uint32(body[4:]),
		Need: dr.HostSeq(binary.LittleEndian.Uint64(body[8:])),
		Disk: binary.LittleEndian.Uint16(body[16:]), Count: binary.LittleEndian.Uint16(body[18:]),
	}
	if a.Count == 0 || a.Count > MaxHashChunks || int64(a.First) >= dr.MaxDiskSize/dr.ChunkSize || binary.LittleEndian.Uint32(body[20:]) != 0 {
		return HashAsk{}, errs.New("wire.ParseHashAsk", errs.Invalid, "hash question", "it is about no chunks, or too many")
	}
	return a, nil
}

// ChunkState says what an answer knows of a chunk. Values are part of the
// protocol. HashUnknown is not HashZero: of the one nothing is known, the other
// reads as zeroes.
type ChunkState uint8

// The states.
const (
	HashUnknown ChunkState = 0 // compare nothing, ship it
	HashZero    ChunkState = 1 // all blocks read as zeroes
	HashKnown   ChunkState = 2 // blocks in pieces have hashes, the others read as zeroes
)

// HashPiece is some blocks of a chunk whose hashes are under one key.
type HashPiece struct {
	Chunk uint16 // place among the chunks asked for
	Mask  uint16 // the blocks, bit 0 the chunk's first; disjoint from the chunk's other pieces
	Key   uint8  // place in HashAnswer.Keys
}

// HashAnswer answers a HashAsk.
type HashAnswer struct {
	ID     uint32
	Keys   []HashKey
	States []ChunkState // of each chunk asked for
	Pieces []HashPiece  // by chunk
	Hashes []uint64     // of the pieces' blocks, in their order
}

// Append encodes a as a whole frame. It is within the bounds.
func (a *HashAnswer) Append(dst []byte) []byte {
	size := hashAnswerHead + len(a.Keys)*HashKeySize + len(a.States) + len(a.Pieces)*hashPieceSize + len(a.Hashes)*8
	b := make([]byte, hashAnswerHead, size)
	binary.LittleEndian.PutUint32(b, a.ID)
	binary.LittleEndian.PutUint16(b[4:], uint16(len(a.States)))
	binary.LittleEndian.PutUint16(b[6:], uint16(len(a.Keys)))
	binary.LittleEndian.PutUint16(b[8:], uint16(len(a.Pieces)))
	for i := range a.Keys {
		b = append(b, a.Keys[i][:]...)
	}
	for _, s := range a.States {
		b = append(b, byte(s))
	}
	for _, p := range a.Pieces {
		b = binary.LittleEndian.AppendUint16(b, p.Chunk)
		b = binary.LittleEndian.AppendUint16(b, p.Mask)
		b = append(b, p.Key, 0, 0, 0)
	}
	for _, h := range a.Hashes {
		b = binary.LittleEndian.AppendUint64(b, h)
	}
	return AppendFrame(dst, TypeHashAnswer, b)
}

// ParseHashAnswer decodes and checks a HashAnswer: every state, mask, key and
// hash is in its place. Kind Invalid.
func ParseHashAnswer(body []byte) (*HashAnswer, error) {
	bad := func(words string) (*HashAnswer, error) {
		return nil, errs.New("wire.ParseHashAnswer", errs.Invalid, "hash answer", words)
	}
	if len(body) < hashAnswerHead || len(body) > MaxHashAnswer {
		return bad("body is too short or too long")
	}
	le := binary.LittleEndian
	chunks, keys, pieces := int(le.Uint16(body[4:])), int(le.Uint16(body[6:])), int(le.Uint16(body[8:]))
	b := body[hashAnswerHead:]
	if chunks == 0 || chunks > MaxHashChunks || keys > MaxHashKeys || pieces > MaxHashPieces ||
		le.Uint16(body[10:]) != 0 || le.Uint32(body[12:]) != 0 || len(b) < keys*HashKeySize+chunks+pieces*hashPieceSize {
		return bad("its counts do not fit the body")
	}
	a := &HashAnswer{ID: le.Uint32(body), Keys: make([]HashKey, keys), States: make([]ChunkState, chunks), Pieces: make([]HashPiece, pieces)}
	for i := range a.Keys {
		copy(a.Keys[i][:], b)
		b = b[HashKeySize:]
	}
	for i := range a.States {
		if a.States[i] = ChunkState(b[i]); a.States[i] > HashKnown {
			return bad("unknown state of a chunk")
		}
	}
	b = b[chunks:]
	blocks := 0
	for i := range a.Pieces {
		p := b[i*hashPieceSize:]
		a.Pieces[i] = HashPiece{Chunk: le.Uint16(p), Mask: le.Uint16(p[2:]), Key: p[4]}
		if p[5] != 0 || p[6] != 0 || p[7] != 0 {
			return bad("reserved bytes are used")
		}
		blocks += bits.OnesCount16(a.Pieces[i].Mask)
	}
	if words := a.check(); words != "" {
		return bad(words)
	}
	if b = b[pieces*hashPieceSize:]; len(b) != 8*blocks {
		return bad("the hashes do not fit the pieces")
	}
	a.Hashes = make([]uint64, blocks)
	for i := range a.Hashes {
		a.Hashes[i] = le.Uint64(b[8*i:])
	}
	return a, nil
}

// check tells what makes the pieces none of the chunks, or "".
func (a *HashAnswer) check() string {
	at, seen := -1, uint16(0)
	known := 0
	for _, s := range a.States {
		if s == HashKnown {
			known++
		}
	}
	for _, p := range a.Pieces {
		switch {
		case int(p.Chunk) < at || int(p.Chunk) >= len(a.States):
			return "pieces are out of order"
		case a.States[p.Chunk] != HashKnown:
			return "a chunk without hashes has a piece"
		case int(p.Key) >= len(a.Keys):
			return "a piece has a key that is not there"
		}
		if int(p.Chunk) > at {
			at, seen = int(p.Chunk), 0
			known--
		}
		if p.Mask == 0 || p.Mask&seen != 0 {
			return "a piece has no blocks, or blocks of another"
		}
		seen |= p.Mask
	}
	if known != 0 {
		return "a chunk with hashes has no piece"
	}
	return ""
}
