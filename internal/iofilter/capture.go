package iofilter

import (
	"errors"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/iofilter/stream"
	"holdfast/internal/nbd"
	"holdfast/internal/record"
)

// disk is one protected disk.
type disk struct {
	out     *outlet
	index   uint16
	size    int64   // bytes of the primary
	info    dr.Disk // as the DRVA knows it: its size is whole blocks
	primary nbd.Primary
	locks   rangeLock
	dirty   *dirtyMap // set under out.mu, cleared by the cursor under the range lock
	keep    *keeper   // of its sidecar; nil: it has none

	wrote atomic.Bool             // a client has, since the first of those there are
	boot  atomic.Pointer[booting] // set under out.mu; nil: its VM does not boot

	work sync.Mutex // held while the cursor reads the primary, which must not be closed then

	// Guarded by out.mu.
	bypass     dr.HostSeq // the last record that had entered when a change last bypassed the stream
	compare    bool       // what the DRVA holds of it is compared, and only what differs is shipped
	unsynced   bool       // the DRVA must not take its copy as complete before the next SyncEnd
	announced  bool       // a TrackBegin of it is in this stream
	member     membership
	complete   bool // the DRVA has held a complete copy: what is copied now is a resync
	forced     bool // a user asked for the copy that is being made
	clients    int  // NBD connections that use it
	attachable bool // it is served: clients says something
	shown      shown
	progress   syncProgress
	calm       chan struct{} // closed by restateLocked when there is nothing to copy, or nothing will be; nil: nobody waits
	seen       watched       // its image, while nobody has it open
	away       bool          // its primary cannot be reached: nothing of it is copied
	readError  error         // why the primary could not be read; nil: it could
	retryAt    time.Duration // when the cursor tries again after that
}

// tap is a disk as one connection sees it. Safe for concurrent use.
type tap struct {
	disk    *disk
	primary nbd.Device
}

// roundUp returns n rounded up to whole blocks.
func roundUp(n int64) int64 { return (n + dr.BlockSize - 1) &^ (dr.BlockSize - 1) }

// roundDown returns n rounded down to whole blocks.
func roundDown(n int64) int64 { return n &^ (dr.BlockSize - 1) }

// Submit takes a guest's operation. Reads and flushes pass: a flush concerns
// the primary only, whatever the ack rule.
//
// Write path, step 1: a guest's write arrives at the tap of its disk.
func (t *tap) Submit(op *nbd.Op) {
	switch op.Kind {
	case nbd.Write, nbd.WriteZeroes, nbd.Trim:
	default:
		if b := t.disk.boot.Load(); b != nil && op.Kind == nbd.Read {
			t.disk.bootRead(b, op)
		}
		t.primary.Submit(op)
		return
	}
	c := claim{lo: roundDown(op.Offset), hi: roundUp(op.Offset + op.Length), op: op, via: t}
	if o := t.disk.out; o.ack != dr.Async || o.sampling() {
		c.at = o.now()
	}
	if !t.disk.wrote.Load() {
		t.disk.wrote.Store(true)
	}
	op.Intercept(t)
	// Write path, step 2: range lock, then (after the primary) widening,
	// checksum and the one copy, in capture.
	if t.disk.locks.acquire(c) {
		t.start(op)
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// edges are the blocks at the ends of an odd write, read back whole.
type edges struct{ head, tail [dr.BlockSize]byte }

var (
	edgePool  = sync.Pool{New: func() any { return new(edges) }}
	zeroBlock [dr.BlockSize]byte // never written
)

// captured is the content of a range of whole blocks, in three parts that
// follow each other: a block read back, the guest's own bytes, and a block
// read back or padding beyond the disk's end.
type captured struct {
	lo, hi           int64
	head, body, tail []byte
}

// capture records what op has done to the disk, which the range lock keeps
// as op left it, in the host's stream; or in its dirty map.
func (d *disk) capture(op *nbd.Op) entered {
	v := entered{lo: roundDown(op.Offset), hi: roundUp(op.Offset + op.Length)}
	end := op.Offset + op.Length
	oddHead, oddTail := op.Offset != v.lo, end != v.hi && end != d.size
	var e *edges
	if oddHead || oddTail {
		e = edgePool.Get().(*edges)
		defer edgePool.Put(e)
		if err := d.readEdges(e, &v, oddHead, oddTail); err != nil {
			d.out.trackUnread(d, &v, err)
			return v
		}
	}
	if op.Kind == nbd.Write {
		d.captureWrite(op, &v, e, oddHead, oddTail)
	} else {
		d.captureZeroes(op.Kind, &v, e, oddHead, oddTail)
	}
	return v
}

func (d *disk) readEdges(e *edges, v *entered, head, tail bool) error {
	if head || v.hi-v.lo == dr.BlockSize {
		if err := d.readBlocks(e.head[:], v.lo); err != nil {
			return err
		}
	}
	if tail && v.hi-v.lo > dr.BlockSize {
		return d.readBlocks(e.tail[:], v.hi-dr.BlockSize)
	}
	return nil
}

// readBlocks fills p from the primary; what lies beyond the disk's end is zero.
func (d *disk) readBlocks(p []byte, off int64) error {
	want := p[:min(int64(len(p)), d.size-off)]
	n, err := d.primary.ReadAt(want, off)
	if n < len(want) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	clear(p[len(want):])
	return nil
}

// captureWrite enters the written blocks.
func (d *disk) captureWrite(op *nbd.Op, v *entered, e *edges, oddHead, oddTail bool) {
	c := captured{lo: v.lo, hi: v.hi}
	if (oddHead || oddTail) && v.hi-v.lo == dr.BlockSize {
		c.head = e.head[:]
		d.enterData(&c, v, 0)
		return
	}
	from, to := int64(0), op.Length
	if oddHead {
		c.head = e.head[:]
		from = v.lo + dr.BlockSize - op.Offset
	}
	if oddTail {
		c.tail = e.tail[:]
		to = v.hi - dr.BlockSize - op.Offset
	} else {
		c.tail = zeroBlock[:v.hi-op.Offset-op.Length] // beyond the disk's end
	}
	c.body = op.Data[from:to]
	d.enterData(&c, v, 0)
}

// captureZeroes enters a zeroing or trimming: whole blocks as such, the blocks
// at odd ends as they are now.
func (d *disk) captureZeroes(kind nbd.Kind, v *entered, e *edges, oddHead, oddTail bool) {
	lo, hi := v.lo, v.hi
	if (oddHead || oddTail) && hi-lo == dr.BlockSize {
		d.enterData(&captured{lo: lo, hi: hi, head: e.head[:]}, v, 0)
		return
	}
	if oddHead {
		lo += dr.BlockSize
		if !d.enterData(&captured{lo: v.lo, hi: lo, head: e.head[:]}, v, 0) {
			return
		}
	}
	if oddTail {
		hi -= dr.BlockSize
	}
	rk := record.Zero
	if kind == nbd.Trim {
		rk = record.Discard
	}
	if !d.enterRange(rk, lo, hi, v, 0) {
		return
	}
	if oddTail {
		d.enterData(&captured{lo: hi, hi: v.hi, head: e.tail[:]}, v, 0)
	}
}

// enterData puts content into the stream in records of at most 1 MiB, each
// checksummed outside the stream's lock and copied once under it. It reports
// whether all of it is in the stream; if not, v's range has been marked dirty.
func (d *disk) enterData(c *captured, v *entered, flags record.Flags) bool {
	now := time.Now().UnixNano()
	for lo := c.lo; lo < c.hi; lo += record.MaxPayload {
		hi := min(lo+record.MaxPayload, c.hi)
		p := c.cut(lo, hi)
		crc := uint32(0)
		for _, b := range p {
			crc = crc32.Update(crc, castagnoli, b)
		}
		r := record.Record{
			Kind: record.Data, Flags: flags, Disk: d.index, Length: uint32(hi - lo),
			Offset: uint64(lo), CRC: crc, Time: now,
		}
		if !d.out.enter(d, &r, &p, v) {
			return false
		}
	}
	return true
}

// enterRange puts records without payload into the stream, for [lo, hi).
func (d *disk) enterRange(kind record.Kind, lo, hi int64, v *entered, flags record.Flags) bool {
	now := time.Now().UnixNano()
	for ; lo < hi; lo += record.MaxRange {
		r := record.Record{
			Kind: kind, Flags: flags, Disk: d.index, Length: uint32(min(hi-lo, record.MaxRange)),
			Offset: uint64(lo), Time: now,
		}
		if !d.out.enter(d, &r, nil, v) {
			return false
		}
	}
	return true
}

// cut returns the part of c in [lo, hi).
func (c *captured) cut(lo, hi int64) (p stream.Pieces) {
	at := c.lo
	for i, b := range [...][]byte{c.head, c.body, c.tail} {
		n := int64(len(b))
		from, to := min(max(lo-at, 0), n), min(max(hi-at, 0), n)
		p[i] = b[from:to]
		at += n
	}
	return p
}
