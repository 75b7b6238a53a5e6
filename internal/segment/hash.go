package segment

import (
	"encoding/binary"
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

// NewBlockHasher returns the hasher of the domain whose data key is key.
func NewBlockHasher(key DataKey) *BlockHasher {
	k := derive(&key, nil, infoBlocks, 32)
	return &BlockHasher{pool: sync.Pool{New: func() any { return newBlockHash(k) }}}
}

// Sum returns the hash of one block.
func (b *BlockHasher) Sum(block []byte) uint64 {
	s := b.pool.Get().(*blockHash)
	v := s.of(block)
	b.pool.Put(s)
	return v
}

// AppendSums appends the hashes of the whole blocks in blocks.
func (b *BlockHasher) AppendSums(dst []uint64, blocks []byte) []uint64 {
	s := b.pool.Get().(*blockHash)
	dst = s.appendSums(dst, blocks)
	b.pool.Put(s)
	return dst
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
