package segment

import (
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/zstd"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// BuilderOptions tune a Builder. The zero value is fine.
type BuilderOptions struct {
	Level Level
	// Object is the uuid of the first object, random when zero. It is for
	// reproducible objects in tests: an object's key follows from its uuid, so
	// that one uuid used for two different objects gives their content away.
	Object dr.UUID
}

// Builder makes one object after the other: frames and zero ranges are added,
// then Finish closes the object and Reset begins the next in the same memory.
// An object is one checkpoint cell: every block of a disk has at most one
// state in it, and at most one checkpoint lies at its end.
//
// One goroutine uses a Builder at a time.
type Builder struct {
	key    *DataKey // behind a pointer, which printing the Builder does not follow
	domain dr.DomainID
	object dr.UUID
	aead   cipher.AEAD
	check  keyCheck
	level  Level
	enc    *zstd.Encoder
	hasher *blockHash

	buf      []byte // header's room, then frames
	footer   Footer // in the order of adding until Finish
	index    map[dr.DiskID]uint16
	nonce    [nonceSize]byte
	aad      [aadSize]byte
	packed   bool
	finished bool

	sorted []uint64 // hashes in the order of entries, reused
	plain  []byte   // footer before compression, reused
}

// NewBuilder returns a Builder of objects of domain, sealed under key.
func NewBuilder(key DataKey, domain dr.DomainID, opts BuilderOptions) *Builder {
	b := &Builder{
		key:    &key,
		domain: domain,
		level:  opts.Level,
		enc:    newEncoder(opts.Level),
		hasher: newBlockHash(derive(&key, nil, infoBlocks, 32)),
		index:  map[dr.DiskID]uint16{},
	}
	b.begin(opts.Object)
	return b
}

// Reset drops the current object and begins the next, with a new uuid and so
// a new key. The body returned by Finish is overwritten from here on.
func (b *Builder) Reset() { b.begin(dr.UUID{}) }

// SetLevel has the frames added from here on compressed so.
func (b *Builder) SetLevel(l Level) {
	if l == b.level {
		return
	}
	if l.zstd() != b.level.zstd() {
		b.enc = newEncoder(l)
	}
	b.level = l
}

func (b *Builder) begin(object dr.UUID) {
	if object.IsZero() {
		object = dr.NewUUID()
	}
	b.object = object
	b.aead, b.check = objectKey(b.key, object)
	b.buf = b.buf[:0]
	b.reserve(firstBuffer)
	b.buf = b.buf[:HeaderSize]
	f := &b.footer
	*f = Footer{Disks: f.Disks[:0], Entries: f.Entries[:0], Zeros: f.Zeros[:0], Hashes: f.Hashes[:0],
		Origins: f.Origins[:0], Copied: f.Copied[:0]}
	clear(b.index)
	b.finished = false
}

// Frames is the number of frames added since Reset.
func (b *Builder) Frames() int { return len(b.footer.Entries) }

// Size is an upper bound of the object's size in bytes if it was finished
// now; with many small frames a few per cent above the truth.
func (b *Builder) Size() int { return len(b.buf) + b.footerBound() + Overhead + TailSize }

func (b *Builder) footerBound() int {
	f := &b.footer
	n := fixedBound + len(f.Disks)*diskBound + len(f.Entries)*entryBound + len(f.Zeros)*zeroBound + len(f.Hashes)*8
	n += len(f.Origins)*originBound + len(f.Copied)*copiedBound
	if c := f.Checkpoint; c != nil {
		n += len(c.Tag) + len(c.Missing)*missingSize + len(c.Disks)*checkpointDisk
	}
	return n + n/dr.ChunkSize*compressionSlop
}

// disk returns the disk's index, giving it one if need be.
func (b *Builder) disk(op string, id dr.DiskID) (uint16, error) {
	if i, ok := b.index[id]; ok {
		return i, nil
	}
	if len(b.footer.Disks) == MaxDisks {
		return 0, b.full(op)
	}
	i := uint16(len(b.footer.Disks))
	b.index[id] = i
	b.footer.Disks = append(b.footer.Disks, id)
	return i, nil
}

// reserve makes room for n more bytes. It doubles: append's smaller steps
// would copy a large object five times over.
func (b *Builder) reserve(n int) {
	if need := len(b.buf) + n; need > cap(b.buf) {
		b.buf = append(make([]byte, 0, max(need, min(2*cap(b.buf), MaxObjectSize))), b.buf...)
	}
}

func (b *Builder) full(op string) error {
	return errs.New(op, errs.Full, b.object.String(), "object is full; finish it and go on with the next")
}

func (b *Builder) invalid(op, format string, args ...any) error {
	return errs.E(op, errs.Invalid, b.object.String(), fmt.Errorf(format, args...))
}

// AddFrame adds blocks of one chunk as the record seq left them: the blocks of
// mask in ascending order, dr.BlockSize bytes each. blocks is not kept. Kind
// Full when the object has no room for them, and is unchanged; Invalid when
// the arguments contradict each other. That no block is given two states is
// checked in Finish.
func (b *Builder) AddFrame(disk dr.DiskID, chunk uint32, mask uint16, seq dr.Seq, blocks []byte) error {
	const op = "segment.AddFrame"
	count := bits.OnesCount16(mask)
	switch {
	case b.finished:
		return b.invalid(op, "object is finished")
	case mask == 0 || len(blocks) != count*dr.BlockSize:
		return b.invalid(op, "%d bytes do not fit mask %016b", len(blocks), mask)
	case chunk >= MaxChunks:
		return b.invalid(op, "chunk %d is beyond the largest disk", chunk)
	}
	f := &b.footer
	room := len(blocks) + Overhead + compressionSlop
	if len(f.Entries) == MaxFrames || len(f.Hashes)+count > MaxBlocks ||
		b.Size()+room+entryBound+8*count+diskBound > MaxObjectSize {
		return b.full(op)
	}
	index, err := b.disk(op, disk)
	if err != nil {
		return err
	}
	e := Entry{
		Disk: index, Chunk: chunk, Mask: mask, Seq: seq,
		Offset: uint32(len(b.buf)), Counter: uint32(len(f.Entries)), FirstHash: uint32(len(f.Hashes)),
	}
	f.Hashes = b.hasher.appendSums(f.Hashes, blocks)
	b.reserve(room)
	body := b.buf
	if e.Raw = b.level == None; !e.Raw {
		body = b.enc.EncodeAll(blocks, b.buf)
		e.Raw = len(body)-len(b.buf) > len(blocks)-len(blocks)/16 // saves less than 1/16: not worth opening it twice
	}
	if e.Raw {
		body = append(b.buf, blocks...)
	}
	putNonce(&b.nonce, e.Counter)
	putAAD(&b.aad, b.domain, disk, chunk, mask, seq)
	at := len(b.buf)
	b.buf = b.aead.Seal(body[:at], b.nonce[:], body[at:], b.aad[:])
	e.Stored = uint32(len(b.buf) - at)
	f.Entries = append(f.Entries, e)
	return nil
}

// AddZero adds a run of blocks that the record seq zeroed or discarded. Kinds
// as of AddFrame.
func (b *Builder) AddZero(disk dr.DiskID, firstBlock, count uint64, seq dr.Seq) error {
	const op = "segment.AddZero"
	f := &b.footer
	switch {
	case b.finished:
		return b.invalid(op, "object is finished")
	case count == 0 || firstBlock >= maxDiskBlocks || count > maxDiskBlocks-firstBlock:
		return b.invalid(op, "%d blocks from %d are none, or beyond the largest disk", count, firstBlock)
	case len(f.Zeros) == MaxZeros || b.Size()+zeroBound+diskBound > MaxObjectSize:
		return b.full(op)
	}
	index, err := b.disk(op, disk)
	if err != nil {
		return err
	}
	f.Zeros = append(f.Zeros, ZeroRange{Disk: index, First: firstBlock, Count: count, Seq: seq})
	return nil
}

// SetSeqs says which records the object covers, both included; last = first-1
// for none. Without it the object covers none.
func (b *Builder) SetSeqs(first, last dr.Seq) { b.footer.First, b.footer.Last = first, last }

// SetCheckpoint puts a checkpoint at the object's end.
func (b *Builder) SetCheckpoint(c dr.Checkpoint) {
	c.Missing, c.Disks = slices.Clone(c.Missing), slices.Clone(c.Disks)
	b.footer.Checkpoint = &c
}

// Object is the uuid of the object being built: it is sealed under a key of its
// own, which is derived from it.
func (b *Builder) Object() dr.UUID { return b.object }

// Finish closes the object. h says where it belongs: Kind (Journal or Data),
// Timeline, Epoch, Number, Prev, PrevObject, PrevNumber, Key, Window and Created;
// Object and Domain are the Builder's. body is the whole object and stays valid until Reset.
//
// Kind Invalid, and nothing sealed, when h lacks something, a block was given
// two states, or content lies outside the records set by SetSeqs or behind
// the checkpoint. An object is finished once: its footer's nonce is used up.
func (b *Builder) Finish(h Header) (body []byte, d Digest, err error) {
	const op = "segment.Finish"
	h.Object, h.Domain, h.Packed = b.object, b.domain, b.packed
	if b.finished {
		return nil, d, b.invalid(op, "object is finished already")
	}
	if h.Kind != Journal && h.Kind != Data {
		return nil, d, b.invalid(op, "a %v object has no frames", h.Kind)
	}
	if err := h.complete(op); err != nil {
		return nil, d, err
	}
	if err := b.checkCheckpoint(op); err != nil {
		return nil, d, err
	}
	b.sort()
	if err := b.footer.check(&h); err != nil {
		return nil, d, errs.E(op, errs.Invalid, h.name(), err)
	}
	b.plain = b.footer.encode(b.plain[:0], b.packed)
	footerOffset := len(b.buf)
	h.put(b.buf, b.check, needsFirst)
	b.finished = true
	b.reserve(b.footerBound() + Overhead + TailSize)
	b.buf = appendPacked(b.buf, b.aead, counterFooter, b.buf[:HeaderSize], b.plain, b.enc)
	d = sha256.Sum256(b.buf)
	b.buf = appendTail(b.buf, footerOffset, len(b.buf)-footerOffset, d)
	return b.buf, d, nil
}

// checkCheckpoint refuses a checkpoint that a reader would.
func (b *Builder) checkCheckpoint(op string) error {
	c := b.footer.Checkpoint
	switch {
	case c == nil:
		return nil
	case len(c.Tag) > MaxTag || len(c.Missing) > MaxMissing || len(c.Disks) > MaxDisks:
		return b.invalid(op, "checkpoint %d has a tag of %d bytes, %d missing VMs and %d disks: at most %d, %d and %d are allowed",
			c.ID, len(c.Tag), len(c.Missing), len(c.Disks), MaxTag, MaxMissing, MaxDisks)
	case c.Kind > dr.UserTagged || c.Scope > dr.Group:
		return b.invalid(op, "checkpoint %d is of unknown kind or scope", c.ID)
	case b.Size() > MaxObjectSize:
		return b.full(op)
	}
	for _, d := range c.Disks {
		if d.Size < 0 || d.Size > dr.MaxDiskSize {
			return b.invalid(op, "checkpoint %d has disk %v of %d bytes", c.ID, d.ID, d.Size)
		}
	}
	return nil
}

// sort brings entries, their hashes and zero ranges into the footer's order.
func (b *Builder) sort() {
	f := &b.footer
	slices.SortFunc(f.Zeros, compareZeros)
	if slices.IsSortedFunc(f.Entries, compareEntries) {
		return // hashes lie in order too
	}
	slices.SortFunc(f.Entries, compareEntries)
	b.sorted = b.sorted[:0]
	for i := range f.Entries {
		e := &f.Entries[i]
		from := e.FirstHash
		e.FirstHash = uint32(len(b.sorted))
		b.sorted = append(b.sorted, f.Hashes[from:int(from)+e.Blocks()]...)
	}
	f.Hashes, b.sorted = b.sorted, f.Hashes
}
