package segment

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"

	"holdfast/internal/dr"
)

// Digest is the SHA-256 of everything before the tail of an object. An
// object's digest is in its tail and in its successor's header.
type Digest [sha256.Size]byte

// String renders the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether d means "none", as the first object's Prev does.
func (d Digest) IsZero() bool { return d == Digest{} }

// DataKey is a domain's data encryption key (DEK). It prints as "redacted"
// in every way a value is printed, so that no log line or error carries it.
type DataKey [32]byte

const redacted = "redacted"

// NewDataKey returns a random key.
func NewDataKey() DataKey {
	var k DataKey
	rand.Read(k[:]) // never fails: crypto/rand.Read stops the program instead
	return k
}

// String returns "redacted".
func (DataKey) String() string { return redacted }

// Format prints "redacted" whatever the verb.
func (DataKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns "redacted": a key is stored by what wraps it, never by
// an encoder that happens upon it.
func (DataKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "redacted".
func (DataKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// What keys are derived for. Part of the format.
const (
	infoObject = "holdfast object key v1" // salt: object uuid
	infoCheck  = "holdfast key check v1"  // salt: object uuid
	infoBlocks = "holdfast block hash v1" // no salt: equal content compares equal in a whole domain
)

// keyCheck is a value in the header from which a reader tells a wrong key
// from damaged bytes. It says nothing about the key.
type keyCheck [8]byte

func derive(key *DataKey, salt []byte, info string, n int) []byte {
	b, err := hkdf.Key(sha256.New, key[:], salt, info, n)
	if err != nil {
		panic("segment: key derivation refused constant lengths: " + err.Error())
	}
	return b
}

// objectKey derives the key that seals all of one object. It is used for no
// other object, so counters may serve as nonces.
func objectKey(key *DataKey, object dr.UUID) (cipher.AEAD, keyCheck) {
	block, err := aes.NewCipher(derive(key, object[:], infoObject, 32))
	if err != nil {
		panic("segment: AES refused a 32-byte key: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("segment: GCM refused AES: " + err.Error())
	}
	return aead, keyCheck(derive(key, object[:], infoCheck, len(keyCheck{})))
}

// Nonces are a 32-bit counter, big-endian, at the end of 12 bytes. Frames
// count from 0 and stay far below these two.
const (
	counterFooter = 1<<32 - 1
	counterBlob   = 1<<32 - 2
)

const nonceSize = 12

func putNonce(n *[nonceSize]byte, counter uint32) {
	*n = [nonceSize]byte{8: byte(counter >> 24), 9: byte(counter >> 16), 10: byte(counter >> 8), 11: byte(counter)}
}
