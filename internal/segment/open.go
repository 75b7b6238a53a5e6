package segment

import (
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// unlock derives an object's key and makes sure it is the right one: kind
// Denied when the object was sealed under another data key.
func unlock(op string, key *DataKey, h *Header, check keyCheck) (cipher.AEAD, error) {
	aead, want := objectKey(key, h.Object)
	if check != want {
		return nil, errs.E(op, errs.Denied, h.name(), fmt.Errorf("sealed under data key %v, which is not the key given", h.Key)).
			WithRemedy("use the recovery key or passphrase that opens data key " + h.Key.String())
	}
	return aead, nil
}

// OpenFooter opens the sealed footer of the object with the given header.
// headerBytes are the object's first HeaderSize bytes, which opening the
// footer authenticates. Kinds: Denied for a wrong key, Corrupt for anything
// that is not what was sealed.
func OpenFooter(key DataKey, h Header, headerBytes, sealedFooter []byte) (*Footer, error) {
	const op = "segment.OpenFooter"
	own, x, err := parseHeader(headerBytes)
	if err != nil {
		return nil, err
	}
	if own.Object != h.Object || own.Domain != h.Domain {
		return nil, errs.E(op, errs.Invalid, h.name(), fmt.Errorf("header bytes are of %v", own.name()))
	}
	if own.Kind != Journal && own.Kind != Data {
		return nil, errs.New(op, errs.Invalid, h.name(), "has no footer")
	}
	aead, err := unlock(op, &key, &own, x.check)
	if err != nil {
		return nil, err
	}
	plain, err := openPacked(aead, counterFooter, headerBytes[:HeaderSize], sealedFooter, MaxFooter)
	if err != nil {
		return nil, corrupt(op, own.name(), fmt.Errorf("footer: %w", err))
	}
	f, err := parseFooter(plain, &own, x.newer)
	if err != nil {
		return nil, corrupt(op, own.name(), err)
	}
	return f, nil
}

// Opener opens frames of one object. It is safe for concurrent use and cheap
// enough to make one per object read.
type Opener struct {
	h    Header
	own  *lock   // of an object whose frames are its own
	from *copier // of a packed object
}

// lock is what opens and checks the frames that were sealed for one object.
type lock struct {
	aead   cipher.AEAD
	hasher *BlockHasher
}

// NewOpener returns an Opener for the object with header h, whose frames are
// its own: for a packed one see NewPackedOpener. That key is the right one is
// found out by OpenFooter; with a wrong one Frame fails.
func NewOpener(key DataKey, h Header) (*Opener, error) {
	if h.Kind != Journal && h.Kind != Data || h.Packed {
		return nil, errs.New("segment.NewOpener", errs.Invalid, h.name(), "has no frames of its own")
	}
	aead, _ := objectKey(&key, h.Object)
	return &Opener{h: h, own: &lock{aead, NewBlockHasher(key)}}, nil
}

// lockOf returns what opens frame e, and its nonce's counter.
func (o *Opener) lockOf(e *Entry) (*lock, uint32, error) {
	if o.from == nil {
		return o.own, e.Counter, nil
	}
	return o.from.lockOf(e)
}

// Frame opens one frame and appends its blocks, those of e.Mask in ascending
// order, to dst. sealed is the object's bytes from e.Offset, e.Stored of
// them; it is not changed. Memory beyond dst is bounded by a chunk, whatever
// sealed holds. Kind Corrupt when these are not the bytes that were sealed
// for exactly this disk, chunk, mask and seq.
func (o *Opener) Frame(dst []byte, disk dr.DiskID, e *Entry, sealed []byte) ([]byte, error) {
	const op = "segment.Frame"
	if e.Mask == 0 || len(sealed) != int(e.Stored) {
		return nil, o.corrupt(op, disk, e, fmt.Errorf("%d bytes given of a frame of %d", len(sealed), e.Stored))
	}
	l, counter, err := o.lockOf(e)
	if err != nil {
		return nil, errs.E(op, errs.Internal, o.h.name(), err)
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	putNonce(&s.nonce, counter)
	putAAD(&s.aad, o.h.Domain, disk, e.Chunk, e.Mask, e.Seq)
	size := e.Size()
	if e.Raw && len(sealed) != size+Overhead || !e.Raw && len(sealed) > size+Overhead {
		return nil, o.corrupt(op, disk, e, fmt.Errorf("%d bytes stored for %d", len(sealed), size))
	}
	dst = slices.Grow(dst, size)
	if e.Raw {
		out, err := l.aead.Open(dst, s.nonce[:], sealed, s.aad[:])
		if err != nil {
			return nil, o.corrupt(op, disk, e, errTag)
		}
		return out, nil
	}
	packed, err := l.aead.Open(s.plain[:0], s.nonce[:], sealed, s.aad[:])
	if err != nil {
		return nil, o.corrupt(op, disk, e, errTag)
	}
	s.plain = packed[:0]
	out, err := s.expand(dst, packed, size)
	if err != nil {
		return nil, o.corrupt(op, disk, e, err)
	}
	return out, nil
}

// CheckBlocks compares a frame's opened blocks with their hashes in f: the
// end-to-end check from capture to here. Kind Corrupt names the first block
// that differs.
func (o *Opener) CheckBlocks(f *Footer, e *Entry, blocks []byte) error {
	const op = "segment.CheckBlocks"
	disk := f.Disks[e.Disk]
	if len(blocks) != e.Size() {
		return o.corrupt(op, disk, e, fmt.Errorf("%d bytes given for %d blocks", len(blocks), e.Blocks()))
	}
	l, _, err := o.lockOf(e)
	if err != nil {
		return errs.E(op, errs.Internal, o.h.name(), err)
	}
	for i, want := range f.Hashes[e.FirstHash:][:e.Blocks()] {
		if l.hasher.Sum(blocks[i*dr.BlockSize:][:dr.BlockSize]) != want {
			return o.corrupt(op, disk, e, fmt.Errorf("block %d of the frame is not what was captured", i))
		}
	}
	return nil
}

func (o *Opener) corrupt(op string, disk dr.DiskID, e *Entry, err error) error {
	return corrupt(op, o.h.name(), fmt.Errorf("chunk %d of disk %v: %w", e.Chunk, disk, err))
}

// OpenObject checks a whole object in memory, except for its frames' content:
// header, tail, digest, and the footer against all of them. The Footer is nil
// for a fence; blobs have OpenBlob. Kinds as of ParseHeader and OpenFooter.
func OpenObject(key DataKey, body []byte) (Header, *Footer, Digest, error) {
	const op = "segment.OpenObject"
	h, sealed, d, err := split(op, body)
	if err != nil {
		return h, nil, d, err
	}
	if h.Kind == Fence {
		if len(sealed) != 0 {
			return h, nil, d, corrupt(op, h.name(), fmt.Errorf("fence holds %d bytes", len(sealed)))
		}
		return h, nil, d, nil
	}
	f, err := OpenFooter(key, h, body[:HeaderSize], sealed)
	if err != nil {
		return h, nil, d, err
	}
	if end := int64(len(body) - TailSize - len(sealed)); f.FramesEnd() != end {
		return h, nil, d, corrupt(op, h.name(), fmt.Errorf("frames end at %d, footer begins at %d", f.FramesEnd(), end))
	}
	return h, f, d, nil
}

// split takes a whole object apart by header and tail, and checks its digest.
func split(op string, body []byte) (h Header, sealed []byte, d Digest, err error) {
	if h, err = ParseHeader(body); err != nil {
		return h, nil, d, err
	}
	if len(body) < HeaderSize+TailSize || len(body) > MaxObjectSize {
		return h, nil, d, corrupt(op, h.name(), fmt.Errorf("object of %d bytes is out of bounds", len(body)))
	}
	off, n, d, err := ParseTail(body[len(body)-TailSize:])
	if err != nil {
		return h, nil, d, corrupt(op, h.name(), err)
	}
	if off+n != int64(len(body)-TailSize) {
		return h, nil, d, corrupt(op, h.name(), fmt.Errorf("%d bytes, but its tail says %d", len(body), off+n+TailSize))
	}
	if sha256.Sum256(body[:off+n]) != d {
		return h, nil, d, corrupt(op, h.name(), fmt.Errorf("digest does not match"))
	}
	return h, body[off : off+n], d, nil
}

// Check tells whether body is a whole object, by its header, its tail and the
// digest in that, and returns its header. It needs no key, and proves no more
// than that nothing was damaged: who can write objects can make one that passes.
// Kind Corrupt for anything else, Invalid for an object of a newer format.
func Check(body []byte) (Header, error) {
	h, _, _, err := split("segment.Check", body)
	return h, err
}
