package ondemand

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"path/filepath"
	"sync"
	"sync/atomic"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/journal"
)

// stripes is how many locks the chunks of a disk share: writes of one
// connection seldom meet in one.
const stripes = 256

// all16 is every block of a chunk.
const all16 = 1<<dr.BlocksPerChunk - 1

// disk is one local disk of a Set.
//
// What is held and what is written is in state, a word for each chunk: the
// blocks held in its lower half, those written in its upper. Bits are only
// ever set, and after the ledger knows of them. Whoever puts content into
// absent blocks holds the chunk's stripe.
type disk struct {
	set  *Set
	path string
	source
	size int64
	fs   durable.FS
	lock io.Closer
	file durable.File // PATH; nil once closed
	// What file can do besides; nil: it cannot.
	cached  durable.CachedReader
	starter durable.Starter

	state  []atomic.Uint32
	locks  [stripes]sync.Mutex
	ledger *ledger
	ahead  ahead

	whole   bool         // the map said so when it was opened
	present atomic.Int64 // content blocks held
	wrote   atomic.Int64 // blocks written
}

// imageID is what one disk of a checkpoint is known by in a map.
func imageID(d dr.DomainID, img *journal.Image, disk journal.ImageDisk) [32]byte {
	h := sha256.New()
	h.Write(d.UUID[:])
	h.Write(img.Timeline.UUID[:])
	h.Write(disk.ID.UUID[:])
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], uint64(img.Checkpoint.ID))
	binary.LittleEndian.PutUint64(b[8:], uint64(img.Checkpoint.Object))
	binary.LittleEndian.PutUint64(b[16:], uint64(disk.Size))
	h.Write(b[:])
	return [32]byte(h.Sum(nil))
}

// bootSum makes a header's boot of a boot id.
func bootSum(id string) [16]byte {
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:16])
}

func (d *disk) held(chunk uint32) uint16   { return uint16(d.state[chunk].Load()) }
func (d *disk) writes(chunk uint32) uint16 { return uint16(d.state[chunk].Load() >> 16) }

// lacks is which of blocks are absent.
func (d *disk) lacks(chunk uint32, blocks uint16) uint16 { return blocks &^ d.held(chunk) }

// set marks blocks held, and written too where the guest wrote them, and counts.
func (d *disk) mark(chunk uint32, held, written uint16) {
	old := d.state[chunk].Or(uint32(held|written) | uint32(written)<<16)
	d.wrote.Add(int64(bits.OnesCount16(written &^ uint16(old>>16))))
	fresh := (held | written) &^ uint16(old) & d.content[chunk]
	if fresh == 0 {
		return
	}
	d.present.Add(int64(bits.OnesCount16(fresh)))
	d.set.arrived(bits.OnesCount16(fresh))
}

// masks yields what is held of the content, or what is written.
func (d *disk) masks(written bool) iter.Seq2[uint32, uint16] {
	return func(yield func(uint32, uint16) bool) {
		for c := range d.state {
			m := d.writes(uint32(c))
			if !written {
				m = d.held(uint32(c)) & d.content[c]
			}
			if m != 0 && !yield(uint32(c), m) {
				return
			}
		}
	}
}

// open finds or makes the disk's files and reads what is held. ended says that
// it is a plain disk already.
func (d *disk) open(head header) (ended bool, err error) {
	const op = "ondemand.Open"
	lock, err := d.fs.Lock(d.path + lockSuffix)
	if err != nil {
		return false, errs.E(op, errs.Internal, d.path, err)
	}
	d.lock = lock
	if err := durable.SweepTempsOf(d.fs, d.path+presentSuffix); err != nil { // of a map that a killed process was replacing
		return false, errs.E(op, errs.Internal, d.path, err)
	}
	d.state = make([]atomic.Uint32, chunks(d.size))
	for c := range d.state {
		d.state[c].Store(uint32(^d.content[c])) // nothing to fetch: a hole is what it is
	}
	d.ledger = newLedger(d.fs, d.path+presentSuffix, head)
	d.ledger.all = d.masks
	b, err := durable.ReadFile(d.fs, d.path+presentSuffix, mapLimit(d.size))
	if errs.Is(err, errs.NotFound) {
		return d.begin(op)
	} else if err != nil {
		return false, errs.E(op, errs.Internal, d.path+presentSuffix, err)
	}
	return false, d.resume(op, head, b)
}

// begin makes the map, and then the file that it speaks of.
func (d *disk) begin(op string) (ended bool, err error) {
	if _, err := d.fs.Stat(d.path); err == nil {
		return true, nil
	} else if !errs.Is(err, errs.NotFound) {
		return false, errs.E(op, errs.Internal, d.path, err)
	}
	if err := d.restart(nil, nil); err != nil {
		return false, err
	}
	return false, d.openFile(op)
}

// openFile opens PATH, as large as the disk and with a durable name, before a
// record speaks of it.
func (d *disk) openFile(op string) (err error) {
	if d.file, err = d.fs.OpenFile(d.path, durable.Write|durable.Create); err != nil {
		return errs.E(op, errs.Internal, d.path, err)
	}
	d.ledger.data = d.file
	d.cached, _ = d.file.(durable.CachedReader)
	d.starter, _ = d.file.(durable.Starter)
	if err = d.file.Truncate(d.size); err == nil {
		if err = d.file.Sync(); err == nil {
			err = d.fs.SyncDir(filepath.Dir(d.path))
		}
	}
	if err != nil {
		return errs.E(op, errs.Internal, d.path, err)
	}
	return nil
}

// openPlain opens a disk that is finished: all of it is held.
func (d *disk) openPlain(op string) error {
	for c := range d.state {
		d.mark(uint32(c), all16, 0)
	}
	return d.openFile(op)
}

// restart writes a short map of what is held and written.
func (d *disk) restart(held, wrote []uint16) error {
	l := d.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shortenLocked(batch{held: held, wrote: wrote})
}

// resume goes on from a map.
func (d *disk) resume(op string, head header, b []byte) error {
	was, err := decodeHeader(b)
	if err != nil {
		return errs.E(op, errs.Internal, d.path+presentSuffix, err).
			WithRemedy("discard the disk and begin anew")
	}
	if was.image != head.image || was.size != head.size {
		return errs.New(op, errs.Conflict, d.path, "a disk of another checkpoint is being made here").
			WithRemedy("discard it first, or choose another path")
	}
	sameBoot := was.boot == head.boot
	found := false
	s := story{marks: func(kind byte, first, n uint32, mask uint16) {
		if kind == kindWriting && !sameBoot {
			return
		}
		found = true
		for c := first; c < first+n; c++ {
			if kind == kindHeld {
				d.mark(c, mask, 0)
			} else {
				d.mark(c, mask, mask)
			}
		}
	}}
	s.read(was, b)
	d.whole = s.whole
	if e, err := d.fs.Stat(d.path); found && (err != nil || e.Size != d.size) {
		return errs.New(op, errs.Conflict, d.path, "the map beside it says that this disk is partly made, and it is gone or of another size").
			WithRemedy("discard it and begin anew")
	}
	if err := d.openFile(op); err != nil { // syncs: what another process wrote is durable before the map says so
		return err
	}
	if !sameBoot && !s.closed {
		d.doubt()
	}
	return d.restart(d.ledger.masks(false), d.ledger.masks(true))
}

// doubt takes all that is held for written: the machine went down, and which
// unflushed writes reached the disk before is not known.
func (d *disk) doubt() {
	for c := range d.state {
		d.mark(uint32(c), 0, d.held(uint32(c)))
	}
}

// blocksOf is which blocks of a chunk a range touches, wholly or in part, and
// which of them wholly. A block that ends the disk is whole when all of it that
// is on the disk is.
func blocksOf(chunk uint32, r extent.Range, size int64) (touched, whole uint16) {
	from := int64(chunk) * dr.ChunkSize
	lo, hi := max(r.Off-from, 0), min(r.End()-from, dr.ChunkSize)
	first, last := lo/dr.BlockSize, (hi-1)/dr.BlockSize
	touched = uint16(all16<<first) & uint16(all16>>(dr.BlocksPerChunk-1-last))
	whole = touched
	if lo%dr.BlockSize != 0 {
		whole &^= 1 << first
	}
	if hi%dr.BlockSize != 0 && r.End() < size {
		whole &^= 1 << last
	}
	return touched, whole
}

// chunkSpan is the first and last chunk of a range that is not empty.
func chunkSpan(r extent.Range) (first, last uint32) {
	return uint32(r.Off / dr.ChunkSize), uint32((r.End() - 1) / dr.ChunkSize)
}

// chunkRange is the bytes of the chunks from first to last.
func chunkRange(first, last uint32) extent.Range {
	return extent.Range{Off: int64(first) * dr.ChunkSize, Len: (int64(last) - int64(first) + 1) * dr.ChunkSize}
}

// start has what was written of r go to the device.
func (d *disk) start(r extent.Range) error {
	if d.starter == nil {
		return nil
	}
	err := d.starter.Start(r.Off, r.Len)
	if err != nil {
		d.ledger.distrust(err)
	}
	return err
}

// number implements sink.
func (d *disk) number() uint16 { return d.place }

// put writes fetched blocks that are still absent: the take of a frame whose
// blocks, those of mask, are in b one after the other.
func (d *disk) put(chunk uint32, take, mask uint16, b []byte) error {
	l := &d.locks[chunk%stripes]
	l.Lock()
	defer l.Unlock()
	want := d.lacks(chunk, take)
	if want == 0 {
		return nil
	}
	at := int64(chunk) * dr.ChunkSize
	for i := 0; i < dr.BlocksPerChunk; {
		n := bits.TrailingZeros16(^(want >> i)) // the run of wanted blocks here
		n = min(n, dr.BlocksPerChunk-i)
		if n == 0 {
			i++
			continue
		}
		// A run of want is a run of mask: its blocks lie side by side in b.
		from := bits.OnesCount16(mask&(1<<i-1)) * dr.BlockSize
		if err := d.write(b[from:from+n*dr.BlockSize], at+int64(i)*dr.BlockSize); err != nil {
			return err
		}
		i += n
	}
	d.ledger.fetch(chunk, want)
	d.mark(chunk, want, 0)
	return nil
}

// write writes b at a byte of the disk; what lies beyond its end is left out.
func (d *disk) write(b []byte, at int64) error {
	b = b[:max(0, min(int64(len(b)), d.size-at))]
	if len(b) == 0 {
		return nil
	}
	if err := d.file.WriteAtv([][]byte{b}, at); err != nil {
		return errs.E("ondemand.write", errs.Internal, d.path, err)
	}
	return nil
}

// guestWrite makes a range the guest's: do puts content into a part of it, and
// is called for the whole range or chunk by chunk. Blocks that the range cuts
// are fetched before.
func (d *disk) guestWrite(ctx context.Context, r extent.Range, do func(extent.Range) error) error {
	first, last := chunkSpan(r)
	var cut []want
	held, known := true, true
	for c := first; c <= last; c++ {
		touched, whole := blocksOf(c, r, d.size)
		if m := d.lacks(c, touched&^whole); m != 0 {
			cut = append(cut, want{c, m})
		}
		held = held && d.lacks(c, touched) == 0
		known = known && touched&^d.writes(c) == 0
	}
	if len(cut) > 0 {
		if err := d.set.fetch.hold(ctx, d, cut); err != nil {
			return err
		}
	}
	switch {
	case known:
		return d.finishWrite(do(r))
	case held:
		if err := d.claim(r, func(uint32) uint16 { return all16 }); err != nil {
			return err
		}
		return d.finishWrite(do(r))
	}
	for c := first; c <= last; c++ {
		part := r.Intersect(extent.Range{Off: int64(c) * dr.ChunkSize, Len: dr.ChunkSize})
		if err := d.writeChunk(c, part, do); err != nil {
			return err
		}
	}
	return nil
}

// claim records that the guest writes the blocks of r that of allows, and marks
// them.
func (d *disk) claim(r extent.Range, of func(chunk uint32) uint16) error {
	first, last := chunkSpan(r)
	masks := make(map[uint32]uint16, last-first+1)
	for c := first; c <= last; c++ {
		touched, _ := blocksOf(c, r, d.size)
		if m := touched & of(c) &^ d.writes(c); m != 0 {
			masks[c] = m
		}
	}
	if len(masks) == 0 {
		return nil
	}
	if err := d.ledger.writing(masks); err != nil {
		return err
	}
	for c, m := range masks {
		d.mark(c, m, m)
	}
	return nil
}

// writeChunk is guestWrite within a chunk that has absent blocks: no fetch
// comes in between.
func (d *disk) writeChunk(chunk uint32, r extent.Range, do func(extent.Range) error) error {
	l := &d.locks[chunk%stripes]
	l.Lock()
	defer l.Unlock()
	held := d.held(chunk)
	// What is held counts as written before it is; what is absent after.
	if err := d.claim(r, func(uint32) uint16 { return held }); err != nil {
		return err
	}
	if err := d.finishWrite(do(r)); err != nil {
		return err
	}
	return d.claim(r, func(uint32) uint16 { return ^held })
}

// finishWrite sees to it that the next flush covers what was written.
func (d *disk) finishWrite(err error) error {
	if err != nil {
		return errs.E("ondemand.write", errs.Internal, d.path, err)
	}
	d.ledger.touched()
	return nil
}

// zero zeroes a range of PATH.
func (d *disk) zero(r extent.Range) error {
	err := durable.ErrNoZero
	if z, ok := d.file.(durable.Zeroer); ok {
		err = z.Zero(r.Off, r.Len)
	}
	if !errors.Is(err, durable.ErrNoZero) {
		return err
	}
	zeroes := make([]byte, min(r.Len, zeroPiece))
	for off := r.Off; off < r.End(); off += zeroPiece {
		if err := d.write(zeroes[:min(zeroPiece, r.End()-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// written lists what the guest wrote.
func (d *disk) written() (out []extent.Range) {
	for c := range d.state {
		for m := d.writes(uint32(c)); m != 0; {
			i := bits.TrailingZeros16(m)
			n := bits.TrailingZeros16(^(m >> i))
			off := int64(c)*dr.ChunkSize + int64(i)*dr.BlockSize
			end := min(off+int64(n)*dr.BlockSize, d.size)
			if k := len(out); k > 0 && out[k-1].End() == off {
				out[k-1].Len += end - off
			} else {
				out = append(out, extent.Range{Off: off, Len: end - off})
			}
			m &^= uint16((1<<n - 1) << i)
		}
	}
	return out
}

// close gives the files back. Nothing is made durable.
func (d *disk) close() {
	if d.ledger != nil {
		d.ledger.close()
	}
	if d.file != nil {
		_ = d.file.Close() // what matters was synced
	}
	if d.lock != nil {
		_ = d.lock.Close()
	}
}

// missing is for errors: what the disk still lacks.
func (d *disk) missing() string {
	return fmt.Sprintf("%d bytes of its content are not there yet", d.blocks*dr.BlockSize-d.present.Load()*dr.BlockSize)
}
