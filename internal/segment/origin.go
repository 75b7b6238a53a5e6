package segment

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Origin is an object for which frames were sealed.
type Origin struct {
	Object dr.UUID
	Key    dr.UUID // its data key; block hashes of its frames are under it too
}

// CopiedFrom says for what one frame of a packed object was sealed.
type CopiedFrom struct {
	Origin  uint32 // place in Footer.Origins
	Counter uint32 // the frame's nonce in that object
}

// Keys returns the data key with the given id. It is safe for concurrent use.
// Errors are of kind Denied when the key is not at hand.
type Keys func(id dr.UUID) (DataKey, error)

// OriginOf tells for what object and under what counter frame e of the object
// with header h and footer f was sealed: the object itself, unless it is
// packed.
func (f *Footer) OriginOf(h *Header, e *Entry) (Origin, uint32) {
	if !h.Packed {
		return Origin{Object: h.Object, Key: h.Key}, e.Counter
	}
	c := f.Copied[e.Counter]
	return f.Origins[c.Origin], c.Counter
}

// checkPacked tells what makes f no index of a packed object: frames lie in the
// order of the index, and one record gives a block one state.
func (f *Footer) checkPacked() error {
	if len(f.Zeros) > 0 || f.Checkpoint != nil {
		return errors.New("a packed object has zero ranges or a checkpoint")
	}
	if len(f.Copied) != len(f.Entries) {
		return fmt.Errorf("%d frames have %d origins", len(f.Entries), len(f.Copied))
	}
	seen := uint16(0) // blocks with a state as of the record at hand
	for i := range f.Entries {
		e := &f.Entries[i]
		if int(e.Counter) != i {
			return fmt.Errorf("frame %d lies at place %d", i, e.Counter)
		}
		if i == 0 || comparePacked(&f.Entries[i-1], e) != 0 {
			seen = 0
		}
		if i > 0 && comparePacked(&f.Entries[i-1], e) > 0 || seen&e.Mask != 0 {
			return fmt.Errorf("version %d of chunk %d of disk %v is out of order or there twice", e.Seq, e.Chunk, f.Disks[e.Disk])
		}
		seen |= e.Mask
	}
	return nil
}

// comparePacked is the order of frames in a packed object.
func comparePacked(a, b *Entry) int {
	return cmp.Or(cmp.Compare(a.Disk, b.Disk), cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(b.Seq, a.Seq))
}

// encodeOrigins appends the table of origins and each frame's place in it and
// counter.
func (f *Footer) encodeOrigins(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(f.Origins)))
	for _, o := range f.Origins {
		b = append(append(b, o.Object[:]...), o.Key[:]...)
	}
	for _, c := range f.Copied {
		b = binary.AppendUvarint(b, uint64(c.Origin))
	}
	for _, c := range f.Copied {
		b = binary.AppendUvarint(b, uint64(c.Counter))
	}
	return b
}

// origins is the inverse of encodeOrigins.
func (r *reader) origins(f *Footer) {
	f.Origins = make([]Origin, r.count("origins", MaxOrigins, originBound))
	seen := make(map[Origin]bool, len(f.Origins))
	for i := range f.Origins {
		f.Origins[i] = Origin{Object: r.uuid(), Key: r.uuid()}
		if r.err == nil && seen[f.Origins[i]] {
			r.fail("names origin %v twice", f.Origins[i].Object)
			return
		}
		seen[f.Origins[i]] = true
	}
	f.Copied = make([]CopiedFrom, len(f.Entries))
	for i := range f.Copied {
		n := r.uvarint()
		if n >= uint64(len(f.Origins)) {
			r.fail("has a frame of origin %d of %d", n, len(f.Origins))
			return
		}
		f.Copied[i].Origin = uint32(n)
	}
	for i := range f.Copied {
		n := r.uvarint()
		if n >= MaxFrames {
			r.fail("has a frame that was number %d in its origin", n)
			return
		}
		f.Copied[i].Counter = uint32(n)
	}
}

// copier opens frames under the seals they were copied with.
type copier struct {
	f    *Footer
	keys Keys

	mu      sync.RWMutex
	locks   []*lock // by origin, made when first needed
	hashers map[dr.UUID]*BlockHasher
}

// NewPackedOpener returns an Opener for the object with header h and footer f,
// packed or not. keys is asked for the data key of each origin when a frame of
// it is first opened; its errors keep their kind.
func NewPackedOpener(keys Keys, h Header, f *Footer) (*Opener, error) {
	const op = "segment.NewPackedOpener"
	if h.Packed {
		return &Opener{h: h, from: &copier{f: f, keys: keys, locks: make([]*lock, len(f.Origins)), hashers: map[dr.UUID]*BlockHasher{}}}, nil
	}
	key, err := keys(h.Key)
	if err != nil {
		return nil, errs.E(op, errs.Internal, h.name(), err)
	}
	return NewOpener(key, h)
}

// lockOf returns what opens frame e, and its nonce's counter.
func (c *copier) lockOf(e *Entry) (*lock, uint32, error) {
	if int(e.Counter) >= len(c.f.Copied) {
		return nil, 0, errs.E("segment.lockOf", errs.Corrupt, "", fmt.Errorf("frame %d of %d", e.Counter, len(c.f.Copied)))
	}
	from := c.f.Copied[e.Counter]
	c.mu.RLock()
	l := c.locks[from.Origin]
	c.mu.RUnlock()
	if l != nil {
		return l, from.Counter, nil
	}
	l, err := c.unlock(from.Origin)
	return l, from.Counter, err
}

// unlock makes the lock of an origin.
func (c *copier) unlock(origin uint32) (*lock, error) {
	o := c.f.Origins[origin]
	key, err := c.keys(o.Key) // may ask a key service: not under the mutex
	if err != nil {
		return nil, fmt.Errorf("data key %v of object %v: %w", o.Key, o.Object, err)
	}
	aead, _ := objectKey(&key, o.Object)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.locks[origin] == nil {
		if c.hashers[o.Key] == nil {
			c.hashers[o.Key] = NewBlockHasher(key)
		}
		c.locks[origin] = &lock{aead, c.hashers[o.Key]}
	}
	return c.locks[origin], nil
}
