package segment

import (
	"cmp"
	"crypto/cipher"
	"fmt"
	"math/bits"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Copied is a frame as it is taken from another object. Its bytes and hashes
// are not kept.
type Copied struct {
	Origin  Origin // for which it was sealed, see Footer.OriginOf
	Counter uint32 // its nonce there
	Disk    dr.DiskID
	Chunk   uint32
	Mask    uint16
	Seq     dr.Seq
	Raw     bool
	Sealed  []byte   // the frame as stored
	Hashes  []uint64 // of its blocks
}

// CopyOf describes frame e of the object with header h and footer f for a
// Packer; sealed are the object's bytes from e.Offset, e.Stored of them.
func CopyOf(h *Header, f *Footer, e *Entry, sealed []byte) Copied {
	origin, counter := f.OriginOf(h, e)
	return Copied{
		Origin: origin, Counter: counter, Disk: f.Disks[e.Disk], Chunk: e.Chunk, Mask: e.Mask, Seq: e.Seq, Raw: e.Raw,
		Sealed: sealed, Hashes: f.Hashes[e.FirstHash:][:e.Blocks()],
	}
}

// Packer makes packed data objects: frames copied as they are from other
// objects, which keep the seals they have, under a footer of their own. Unlike
// a cell, a packed object may hold several versions of a block; their seqs tell
// them apart. Zero ranges and checkpoints are not in it.
//
// One goroutine uses a Packer at a time.
type Packer struct {
	b       *Builder
	keys    Keys
	origins map[Origin]source
	first   dr.Seq
	last    dr.Seq
	plain   []byte
}

// source is an origin met since Reset.
type source struct {
	place uint32
	aead  cipher.AEAD
}

// NewPacker returns a Packer of objects of domain, whose footers are sealed
// under key; its id goes into the header given to Finish. keys is asked for
// the data keys of the frames' origins.
func NewPacker(key DataKey, keys Keys, domain dr.DomainID, opts BuilderOptions) *Packer {
	p := &Packer{b: NewBuilder(key, domain, opts), keys: keys, origins: map[Origin]source{}}
	p.b.packed = true
	return p
}

// Reset drops the current object and begins the next, with a new uuid. The
// body returned by Finish is overwritten from here on.
func (p *Packer) Reset() {
	p.b.Reset()
	clear(p.origins)
}

// Object is the uuid of the object being made.
func (p *Packer) Object() dr.UUID { return p.b.object }

// Frames is the number of frames added since Reset; the next one's counter.
func (p *Packer) Frames() int { return p.b.Frames() }

// Size is an upper bound of the object's size in bytes if it was finished now.
func (p *Packer) Size() int { return p.b.Size() }

// Add copies a frame. Frames come in the order of the index: those of a disk
// together, by chunk, the newest first. The frame's counter in this object is
// what Frames was before.
//
// Kinds: Full when the object has no room, and is unchanged; Invalid when the
// arguments contradict each other or the order; Corrupt, naming the origin,
// when the bytes are not what was sealed for this disk, chunk, mask and seq:
// damage is never copied. Errors of keys keep their kind.
func (p *Packer) Add(c *Copied) error {
	const op = "segment.Packer.Add"
	b := p.b
	if err := p.check(op, c); err != nil {
		return err
	}
	f := &b.footer
	from, known := p.origins[c.Origin]
	count := bits.OnesCount16(c.Mask)
	if len(f.Entries) == MaxFrames || len(f.Hashes)+count > MaxBlocks || !known && len(f.Origins) == MaxOrigins ||
		b.Size()+len(c.Sealed)+entryBound+8*count+diskBound+originBound+copiedBound > MaxObjectSize {
		return b.full(op)
	}
	if !known {
		key, err := p.keys(c.Origin.Key)
		if err != nil {
			return errs.E(op, errs.Internal, "object "+c.Origin.Object.String(), fmt.Errorf("data key %v: %w", c.Origin.Key, err))
		}
		from.place = uint32(len(f.Origins))
		from.aead, _ = objectKey(&key, c.Origin.Object)
	}
	if err := p.authenticate(op, c, from.aead); err != nil {
		return err
	}
	index, err := b.disk(op, c.Disk)
	if err != nil {
		return err
	}
	if !known {
		f.Origins = append(f.Origins, c.Origin)
		p.origins[c.Origin] = from
	}
	p.append(c, index, from.place)
	return nil
}

// append adds what was found in order.
func (p *Packer) append(c *Copied, disk uint16, origin uint32) {
	b, f := p.b, &p.b.footer
	if len(f.Entries) == 0 {
		p.first, p.last = c.Seq, c.Seq
	}
	p.first, p.last = min(p.first, c.Seq), max(p.last, c.Seq)
	f.Entries = append(f.Entries, Entry{
		Disk: disk, Chunk: c.Chunk, Mask: c.Mask, Raw: c.Raw, Seq: c.Seq, Offset: uint32(len(b.buf)),
		Stored: uint32(len(c.Sealed)), Counter: uint32(len(f.Entries)), FirstHash: uint32(len(f.Hashes)),
	})
	f.Copied = append(f.Copied, CopiedFrom{Origin: origin, Counter: c.Counter})
	f.Hashes = append(f.Hashes, c.Hashes...)
	b.reserve(len(c.Sealed))
	b.buf = append(b.buf, c.Sealed...)
}

func (p *Packer) check(op string, c *Copied) error {
	b := p.b
	size := bits.OnesCount16(c.Mask)*dr.BlockSize + Overhead
	switch {
	case b.finished:
		return b.invalid(op, "object is finished")
	case c.Origin.Object.IsZero() || c.Origin.Key.IsZero() || c.Counter >= MaxFrames:
		return b.invalid(op, "frame %d of object %v under data key %v has no origin", c.Counter, c.Origin.Object, c.Origin.Key)
	case c.Mask == 0 || c.Chunk >= MaxChunks || len(c.Hashes) != bits.OnesCount16(c.Mask):
		return b.invalid(op, "%d hashes do not fit mask %016b of chunk %d", len(c.Hashes), c.Mask, c.Chunk)
	case c.Raw && len(c.Sealed) != size || !c.Raw && (len(c.Sealed) <= Overhead || len(c.Sealed) >= size):
		return b.invalid(op, "%d stored bytes do not fit mask %016b", len(c.Sealed), c.Mask)
	}
	return p.checkOrder(op, c)
}

// checkOrder compares c with the frame before.
func (p *Packer) checkOrder(op string, c *Copied) error {
	b, f := p.b, &p.b.footer
	if len(f.Entries) == 0 {
		return nil
	}
	last := &f.Entries[len(f.Entries)-1]
	if f.Disks[last.Disk] != c.Disk {
		if _, again := b.index[c.Disk]; again {
			return b.invalid(op, "disk %v comes again", c.Disk)
		}
		return nil
	}
	if cmp.Or(cmp.Compare(last.Chunk, c.Chunk), cmp.Compare(c.Seq, last.Seq)) > 0 {
		return b.invalid(op, "version %d of chunk %d comes behind version %d of chunk %d", c.Seq, c.Chunk, last.Seq, last.Chunk)
	}
	return nil
}

// authenticate opens the frame's seal and throws what is in it away.
func (p *Packer) authenticate(op string, c *Copied, aead cipher.AEAD) error {
	putNonce(&p.b.nonce, c.Counter)
	putAAD(&p.b.aad, p.b.domain, c.Disk, c.Chunk, c.Mask, c.Seq)
	plain, err := aead.Open(p.plain[:0], p.b.nonce[:], c.Sealed, p.b.aad[:])
	if err != nil {
		return corrupt(op, "object "+c.Origin.Object.String(), fmt.Errorf("frame %d, chunk %d of disk %v: %w", c.Counter, c.Chunk, c.Disk, errTag))
	}
	p.plain = plain[:0]
	return nil
}

// Finish closes the object. h says where it belongs: Timeline, Key (the id of
// the Packer's key) and Created; kind, object and domain are the Packer's, and
// the records covered are those of its frames. body is the whole object and
// stays valid until Reset. Kinds as of Builder.Finish; Invalid too for an
// object without frames.
func (p *Packer) Finish(h Header) (body []byte, d Digest, err error) {
	const op = "segment.Packer.Finish"
	if p.Frames() == 0 {
		return nil, d, p.b.invalid(op, "object has no frames")
	}
	h.Kind = Data
	p.b.SetSeqs(p.first, p.last)
	return p.b.Finish(h)
}
