package segment

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/zeebo/blake3"

	"holdfast/internal/dr"
)

// BlockHasher computes the 64-bit keyed hash of blocks that footers carry:
// the first eight bytes of keyed BLAKE3. Equal blocks of a domain have equal
// hashes under one data key, and without the key nobody can look for a
// collision, which is what a resync by comparing hashes rests on.
//
// It is safe for concurrent use.
type BlockHasher struct {
	pool sync.Pool // of *blockHash
}

// blockHash is the state of one goroutine's hashing.
type blockHash struct {
	h   *blake3.Hasher
	sum [32]byte
}

// HashKey is the key of the block hashes under one data key: derived from it,
// and of no use for anything else. Who has it can tell whether a block he knows
// is in the container, and open nothing. It prints as "redacted" in every way a
// value is printed.
type HashKey [32]byte

// HashKeyOf derives the hash key that belongs to a data key.
func HashKeyOf(key DataKey) HashKey { return HashKey(derive(&key, nil, infoBlocks, len(HashKey{}))) }

// Format prints "redacted" whatever the verb.
func (HashKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns "redacted".
func (HashKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "redacted".
func (HashKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// Hasher returns the hasher that has this key.
func (k HashKey) Hasher() *BlockHasher {
	return &BlockHasher{pool: sync.Pool{New: func() any { return newBlockHash(k[:]) }}}
}

// NewBlockHasher returns the hasher of the domain whose data key is key.
func NewBlockHasher(key DataKey) *BlockHasher { return HashKeyOf(key).Hasher() }

// Sum returns the hash of one block.
func (b *BlockHasher) Sum(block []byte) uint64 {
	s := b.pool.Get().(*blockHash)
	v := s.of(block)
	b.pool.Put(s)
	return v
}

func newBlockHash(key []byte) *blockHash {
	h, err := blake3.NewKeyed(key)
	if err != nil {
		panic("segment: BLAKE3 refused a 32-byte key: " + err.Error())
	}
	return &blockHash{h: h}
}

func (s *blockHash) appendSums(dst []uint64, blocks []byte) []uint64 {
	for ; len(blocks) >= dr.BlockSize; blocks = blocks[dr.BlockSize:] {
		dst = append(dst, s.of(blocks[:dr.BlockSize]))
	}
	return dst
}

func (s *blockHash) of(block []byte) uint64 {
	s.h.Reset()
	_, _ = s.h.Write(block) // a hash never fails to take bytes
	s.h.Sum(s.sum[:0])
	return binary.LittleEndian.Uint64(s.sum[:])
}
