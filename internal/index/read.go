package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// corrupt is the error for a part that is not what a Writer made.
func corrupt(op string, err error) *errs.Error {
	return errs.E(op, errs.Corrupt, "", err).
		WithRemedy("read it again; if it stays damaged recover from an earlier manifest, and run fsck on the container")
}

// Source gives a run's entries in order, some at a time, all of one disk. They
// are read-only and hold until the next call. io.EOF ends it.
type Source interface {
	Next() ([]Entry, error)
}

// Info is what a part says of itself. Of damaged bytes it is what they say.
type Info struct {
	Entries, Blocks, Objects, Disks int
	Low, High                       dr.Seq // of its entries
}

// Reader decodes one part block by block. It is a Source. It holds the part's
// tables and one block: some 200 KiB, and 12 bytes for each object. One
// goroutine uses a Reader at a time.
type Reader struct {
	info    Info
	disks   []uint16 // numbers in the catalog
	objects []object
	fences  []fence
	body    []byte // behind the tables

	block int // the next one
	at    int // its place in body
	disk  int // Seek's target, place in disks; chunks before chunk there are left out
	chunk uint32
	last  Entry // of the block before
	begun bool  // there was one

	u    unpacker
	vals [columns][]uint64
	out  []Entry
}

// NewReader reads a part's header and tables and numbers its disks and objects
// by cat. The bytes must not change while the Reader is used. Kinds: Corrupt
// for bytes that are no part, Invalid for a newer format, Full when cat is.
func NewReader(cat *Catalog, part []byte) (*Reader, error) {
	const op = "index.NewReader"
	r := &Reader{}
	tables, timelines, err := r.header(part)
	if err != nil {
		return nil, err
	}
	r.u = unpacker{b: tables, dec: decoders.Get().(*zstd.Decoder)}
	defer r.release()
	if err := r.readDisks(cat); err != nil {
		return nil, err
	}
	if err := r.readObjects(cat, timelines); err != nil {
		return nil, err
	}
	r.readFences()
	if r.u.err == nil && len(r.u.b) != 0 {
		r.u.fail("has %d bytes behind its tables", len(r.u.b))
	}
	if r.u.err != nil {
		return nil, corrupt(op, fmt.Errorf("part %w", r.u.err))
	}
	return r, nil
}

// Info tells what the part holds.
func (r *Reader) Info() Info { return r.info }

func (r *Reader) release() {
	decoders.Put(r.u.dec)
	r.u.dec, r.u.b = nil, nil
}

// header checks the header and returns the tables' bytes.
func (r *Reader) header(part []byte) (tables []byte, timelines int, err error) {
	const op = "index.NewReader"
	if len(part) < headerSize || len(part) > MaxPart || string(part[:len(Magic)]) != Magic {
		return nil, 0, corrupt(op, fmt.Errorf("%d bytes are not a part of an index", len(part)))
	}
	le := binary.LittleEndian
	if needs := le.Uint16(part[offNeeds:]); needs > FormatVersion {
		return nil, 0, errs.E(op, errs.Invalid, "", fmt.Errorf("part is readable from version %d of the format on; this program reads up to version %d", needs, FormatVersion)).
			WithRemedy("use a Holdfast at least as new as the one that wrote it")
	}
	entries, blocks, objects := le.Uint32(part[offEntries:]), le.Uint32(part[offBlocks:]), le.Uint32(part[offObjects:])
	disks, size := le.Uint16(part[offDisks:]), le.Uint32(part[offTables:])
	if entries == 0 || entries > MaxPartEntries || blocks == 0 || blocks > MaxBlocks || objects > MaxPartObjects ||
		disks == 0 || disks > MaxDisks || int64(size) > int64(len(part)-headerSize) {
		return nil, 0, corrupt(op, errors.New("part's header is out of bounds"))
	}
	r.info = Info{
		Entries: int(entries), Blocks: int(blocks), Objects: int(objects), Disks: int(disks),
		Low: dr.Seq(le.Uint64(part[offLow:])), High: dr.Seq(le.Uint64(part[offHigh:])),
	}
	r.body = part[headerSize+size:]
	return part[headerSize:][:size], int(le.Uint16(part[offTimelines:])), nil
}

func (r *Reader) readDisks(cat *Catalog) error {
	r.disks = make([]uint16, r.info.Disks)
	var last dr.DiskID
	for i := range r.disks {
		var id dr.DiskID
		copy(id.UUID[:], r.u.take(len(id.UUID)))
		if r.u.err == nil && i > 0 && compareDisks(last, id) >= 0 {
			r.u.fail("has disks out of order")
		}
		if r.u.err != nil {
			return nil
		}
		n, err := cat.Disk(id)
		if err != nil {
			return err
		}
		r.disks[i], last = n, id
	}
	return nil
}

func (r *Reader) readObjects(cat *Catalog, timelines int) error {
	ids := make([]dr.TimelineID, timelines)
	raw := r.u.take(timelines * len(dr.UUID{}))
	if raw == nil && timelines > 0 {
		return nil
	}
	for i := range ids {
		copy(ids[i].UUID[:], raw[i*len(dr.UUID{}):])
	}
	n := r.info.Objects
	vals := make([]uint64, 3*n)
	timeline, number, base := vals[:n], vals[n:2*n], vals[2*n:]
	r.u.column(timeline)
	r.u.column(number)
	r.u.column(base)
	r.objects = make([]object, n)
	low, num := r.info.Low, dr.ObjectNumber(0)
	for i := range r.objects {
		var id ObjectID
		switch t := timeline[i]; {
		case r.u.err != nil:
			return nil
		case t == 0:
			copy(id.Data[:], r.u.take(len(id.Data)))
		case t > uint64(timelines):
			r.u.fail("has an object of timeline %d of %d", t, timelines)
		default:
			num += dr.ObjectNumber(zag(number[i]))
			id = ObjectID{Timeline: ids[t-1], Number: num}
		}
		low += dr.Seq(base[i])
		if r.u.err == nil && !id.Valid() {
			r.u.fail("refers to an object without a name")
		}
		if r.u.err != nil {
			return nil
		}
		at, err := cat.Object(id)
		if err != nil {
			return err
		}
		r.objects[i] = object{at, low}
	}
	return nil
}

func (r *Reader) readFences() {
	n := r.info.Blocks
	vals := make([]uint64, n)
	r.fences = make([]fence, n)
	for col := range 5 {
		r.u.column(vals)
		for i, v := range vals {
			f := &r.fences[i]
			v32 := uint32(min(v, 1<<32-1)) // what is beyond any bound stays beyond it
			switch col {
			case 0:
				f.disk = uint16(min(v32, 1<<16-1))
			case 1:
				f.first = v32
			case 2:
				f.reach = min(v32, MaxChunks) // sum checked below
			case 3:
				f.entries = int(v32)
			case 4:
				f.size = int(v32)
			}
		}
	}
	entries, size := 0, 0
	for i := range r.fences {
		f := &r.fences[i]
		f.reach += min(f.first, MaxChunks)
		bad := int(f.disk) >= r.info.Disks || f.first >= f.reach || f.reach > MaxChunks ||
			f.entries < 1 || f.entries > BlockEntries || f.size > len(r.body)-size
		if i > 0 {
			p := &r.fences[i-1]
			bad = bad || f.disk < p.disk || f.disk == p.disk && f.first < p.first
		}
		if bad {
			r.u.fail("has block %d out of bounds or order", i)
			return
		}
		entries += f.entries
		size += f.size
	}
	if r.u.err == nil && (entries != r.info.Entries || size != len(r.body)) {
		r.u.fail("has %d entries in %d bytes instead of %d in %d", entries, size, r.info.Entries, len(r.body))
	}
}

// Seek makes Next begin with the first entry that touches chunk of the disk
// with the given number or lies behind it; zero ranges that begin before and
// reach it are among them. Blocks in between are not decoded.
func (r *Reader) Seek(cat *Catalog, disk dr.DiskID, chunk uint32) {
	r.block, r.at, r.begun = 0, 0, false
	r.chunk = chunk
	for r.disk = 0; r.disk < len(r.disks); r.disk++ {
		switch c := compareDisks(cat.disks[r.disks[r.disk]], disk); {
		case c > 0:
			r.chunk = 0
			return
		case c == 0:
			return
		}
	}
}

// Next returns the entries of the next block. Kind Corrupt when they are not
// what a Writer made.
func (r *Reader) Next() ([]Entry, error) {
	for r.block < len(r.fences) {
		f := &r.fences[r.block]
		coded := r.body[r.at:][:f.size]
		r.block++
		r.at += f.size
		if int(f.disk) < r.disk || int(f.disk) == r.disk && f.reach <= r.chunk {
			continue
		}
		if err := r.decode(f, coded); err != nil {
			return nil, corrupt("index.Next", fmt.Errorf("block %d of part: %w", r.block-1, err))
		}
		if int(f.disk) == r.disk && r.chunk > 0 {
			r.drop()
		}
		if len(r.out) > 0 {
			return r.out, nil
		}
	}
	return nil, io.EOF
}

// drop takes out entries that end before Seek's target.
func (r *Reader) drop() {
	kept := r.out[:0]
	for i := range r.out {
		if r.out[i].end() > r.chunk {
			kept = append(kept, r.out[i])
		}
	}
	r.out = kept
}

// decode is the inverse of Writer.block.
func (r *Reader) decode(f *fence, coded []byte) error {
	n := f.entries
	r.u.b, r.u.err, r.u.dec = coded, nil, decoders.Get().(*zstd.Decoder)
	defer r.release()
	for i := range r.vals {
		if cap(r.vals[i]) < n {
			r.vals[i] = make([]uint64, n)
		}
		r.vals[i] = r.vals[i][:n]
		r.u.column(r.vals[i])
	}
	if r.u.err == nil && len(r.u.b) != 0 {
		r.u.fail("has %d bytes behind its end", len(r.u.b))
	}
	if r.u.err != nil {
		return r.u.err
	}
	if cap(r.out) < n {
		r.out = make([]Entry, n)
	}
	r.out = r.out[:n]
	if err := r.fill(f); err != nil {
		return err
	}
	if r.begun && r.last.Disk == r.out[0].Disk && r.out[0].before(&r.last) {
		return fmt.Errorf("goes back from chunk %d to chunk %d", r.last.Chunk, r.out[0].Chunk)
	}
	r.last, r.begun = r.out[n-1], true
	return nil
}

// fill makes entries of the columns.
func (r *Reader) fill(f *fence) error {
	chunks, masks, objects := r.vals[colChunk], r.vals[colMask], r.vals[colObject]
	seqs, frames, saved := r.vals[colSeq], r.vals[colFrame], r.vals[colSaved]
	disk := r.disks[f.disk]
	chunk, place, next := uint64(f.first), int64(0), int64(0)
	for i := range r.out {
		e := &r.out[i]
		chunk += chunks[i]
		at := place + zag(objects[i])
		if chunk >= MaxChunks || masks[i] > fullMask || at < 0 || at > int64(len(r.objects)) {
			return fmt.Errorf("entry %d is out of bounds", i)
		}
		*e = Entry{Chunk: uint32(chunk), Chunks: 1, Mask: uint16(masks[i]), Disk: disk}
		frame := zag(frames[i])
		if at == 0 {
			e.Zero = true
			e.Seq = r.info.Low + dr.Seq(seqs[i])
			e.Chunks = uint32(min(max(frame, -1), MaxChunks) + 1)
		} else {
			if at == place {
				frame += next
			}
			o := &r.objects[at-1]
			e.Object = o.number
			e.Seq = o.base + dr.Seq(seqs[i])
			e.Frame = MaxFrames // refused below
			if frame >= 0 && frame < MaxFrames {
				e.Frame = uint32(frame)
			}
			e.Stored = frameSize(e.Mask) - uint32(min(saved[i], uint64(frameSize(e.Mask))))
			next = frame + 1
		}
		place = at
		if err := r.admit(f, i); err != nil {
			return err
		}
	}
	return nil
}

// admit checks entry i against the format and its predecessor.
func (r *Reader) admit(f *fence, i int) error {
	e := &r.out[i]
	if err := e.check(); err != nil {
		return err
	}
	if e.Seq < r.info.Low || e.Seq > r.info.High || e.end() > f.reach || i > 0 && e.before(&r.out[i-1]) {
		return fmt.Errorf("version %d of chunk %d is out of order or bounds", e.Seq, e.Chunk)
	}
	return nil
}
