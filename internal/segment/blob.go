package segment

import (
	"crypto/sha256"
	"fmt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// SealFence returns the object by which a new epoch takes a timeline over. A
// fence is header and tail alone; what binds it is its place in the digest
// chain (h.Prev). h.Object is random when zero; h.Kind is set.
func SealFence(h Header) (body []byte, d Digest, err error) {
	h.Kind = Fence
	if h.Object.IsZero() {
		h.Object = dr.NewUUID()
	}
	if err := h.complete("segment.SealFence"); err != nil {
		return nil, d, err
	}
	body = make([]byte, HeaderSize, HeaderSize+TailSize)
	h.put(body, keyCheck{}, needsFirst)
	d = sha256.Sum256(body)
	return appendTail(body, HeaderSize, 0, d), d, nil
}

// FenceDigest is the digest of the fence with these HeaderSize bytes. A fence is
// nothing else, so whoever has its header need not believe its tail.
func FenceDigest(header []byte) Digest { return sha256.Sum256(header) }

// SealBlob seals small content, at most MaxBlob bytes, as an object of its
// own. h.Kind is set, and h.Object is always a new random uuid: no two blobs
// share a key.
func SealBlob(key DataKey, h Header, plain []byte) (body []byte, d Digest, err error) {
	h.Object = dr.NewUUID()
	return sealBlob(key, h, plain)
}

func sealBlob(key DataKey, h Header, plain []byte) (body []byte, d Digest, err error) {
	const op = "segment.SealBlob"
	h.Kind = Blob
	if err := h.complete(op); err != nil {
		return nil, d, err
	}
	if len(plain) > MaxBlob {
		return nil, d, errs.E(op, errs.Invalid, h.name(), fmt.Errorf("content of %d bytes is larger than %d", len(plain), MaxBlob))
	}
	aead, check := objectKey(&key, h.Object)
	body = make([]byte, HeaderSize, HeaderSize+len(plain)/2+1024)
	needs := uint16(needsFirst)
	if len(plain) > smallBlob {
		needs = needsPacked
	}
	h.put(body, check, needs)
	enc := newEncoder(Fastest)
	body = appendPacked(body, aead, counterBlob, body[:HeaderSize], plain, enc)
	d = sha256.Sum256(body)
	return appendTail(body, HeaderSize, len(body)-HeaderSize, d), d, nil
}

// OpenBlob opens what SealBlob made. Kinds: Denied for a wrong key, Invalid
// for an object that is no blob, Corrupt for damaged bytes.
func OpenBlob(key DataKey, body []byte) (Header, []byte, error) {
	const op = "segment.OpenBlob"
	h, sealed, _, err := split(op, body)
	if err != nil {
		return h, nil, err
	}
	if h.Kind != Blob {
		return h, nil, errs.New(op, errs.Invalid, h.name(), "is not a blob")
	}
	_, x, err := parseHeader(body)
	if err != nil {
		return h, nil, err
	}
	aead, err := unlock(op, &key, &h, x.check)
	if err != nil {
		return h, nil, err
	}
	plain, err := openPacked(aead, counterBlob, body[:HeaderSize], sealed, MaxBlob)
	if err != nil {
		return h, nil, corrupt(op, h.name(), err)
	}
	return h, plain, nil
}
