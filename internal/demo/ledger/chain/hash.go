package chain

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
)

// Hash is a SHA-256 digest. The zero value precedes the first row.
type Hash [sha256.Size]byte

// row is one row of table entry.
type row struct {
	n       uint64
	cause   uint64 // row of another ledger committed before this one was asked for; 0: none
	oldest  uint64 // lowest row whose payload is kept once this row is committed
	size    uint64 // bytes of payload
	payload Hash
	hash    Hash
}

// sum returns the hash r must have after a row with hash prev.
func (r *row) sum(prev Hash) Hash {
	var b [2*sha256.Size + 4*8]byte
	p := append(b[:0], prev[:]...)
	for _, v := range [...]uint64{r.n, r.cause, r.oldest, r.size} {
		p = binary.BigEndian.AppendUint64(p, v)
	}
	return sha256.Sum256(append(p, r.payload[:]...))
}

// payloadOf fills p with the bytes that row n stores: incompressible, and
// different for every row.
func payloadOf(n uint64, p []byte) {
	var seed [32]byte
	copy(seed[:], "holdfast ledger payload")
	binary.BigEndian.PutUint64(seed[24:], n)
	_, _ = rand.NewChaCha8(seed).Read(p) // never fails
}
