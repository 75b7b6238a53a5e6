package iofilter

import (
	"bytes"
	"context"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/segment"
	"holdfast/internal/wire"
)

// syncProgress is how far a disk's copying is. Guarded by the outlet's mutex.
type syncProgress struct {
	total int64         // chunks that were dirty when it began
	began time.Duration // 0: never
}

func (p *syncProgress) begin(chunks int64, now time.Duration) {
	p.total, p.began = chunks, now
}

// cursorState is the sync cursor as the outlet sees it. Guarded by its mutex.
type cursorState struct {
	place   dr.HostSeq // the record it waits for to have its place; 0: none
	starved bool       // waits for room; whoever frees it signals syncKick
}

// cursor reads dirty chunks and puts them into the stream, one disk after the
// other. It makes first copies and resyncs alike. The range lock it holds over
// each read puts what it reads in its place among the guest's writes: what was
// written before is in the read, what is written after follows it in the
// stream. So nothing has to be merged, ever.
type cursor struct {
	o     *outlet
	pace  *pacer
	buf   []byte
	ready chan struct{} // capacity 1, written by the range lock

	// Comparing.
	asked     []*question // by window, the one at hand first
	impatient bool        // the last answer was waited for in vain
	stale     int         // how often in a row an answer came too late
	hashers   map[wire.HashKey]*segment.BlockHasher
	verdicts  []verdict // of the blocks at hand
}

// runCursor copies what is dirty until ctx is done, at a pace.
func (o *outlet) runCursor(ctx context.Context, p *pacer) {
	o.strain.Store(&p.strain)
	c := &cursor{o: o, pace: p, buf: make([]byte, syncWindow), ready: make(chan struct{}, 1)}
	for ctx.Err() == nil {
		d, wait := c.pick()
		if d != nil {
			wait = c.copyDisk(ctx, d)
		}
		if wait != 0 {
			p.strain.on.Store(false)
			sleepUntil(ctx, o.syncKick, wait)
		}
	}
}

// pick returns the first disk with dirty chunks, ending the sync of those
// without. When there is nothing to do it says how long to wait.
func (c *cursor) pick() (d *disk, wait time.Duration) {
	o := c.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mode.tracking {
		return nil, never
	}
	wait = never
	for _, d := range o.disks {
		if d.asideLocked() {
			continue
		}
		if d.dirty.Count() > 0 {
			if d.away {
				continue // Reach signals
			}
			if pause := d.retryAt - o.now(); pause > 0 {
				wait = min(wait, pause) // this one cannot be read now; the others go on
				continue
			}
			return d, 0
		}
		if d.unsynced && o.str.RoomForControl(1) {
			d.unsynced, d.compare, d.complete, d.forced = false, false, true, false
			o.controlLocked(record.SyncEnd, d.index)
			o.restateLocked()
		}
	}
	return nil, wait
}

// copyDisk copies d's dirty chunks until none is left or it cannot go on; then
// it returns how long to wait before trying again.
func (c *cursor) copyDisk(ctx context.Context, d *disk) (wait time.Duration) {
	c.pace.strain.on.Store(true)
	for chunk, ok := d.dirty.Next(0); ok; {
		if !c.mayGo(d) {
			return never
		}
		c.pace.strain.reading(true, 0)
		n, err := c.step(ctx, d, chunk)
		c.pace.strain.reading(false, c.o.now())
		if ctx.Err() != nil {
			return 0
		}
		c.note(d, err)
		if err != nil {
			return 0
		}
		c.pace.wait(ctx, n)
		c.o.slowCursor(ctx, n)
		if chunk, ok = d.dirty.Next(chunk); !ok {
			chunk, ok = d.dirty.Next(0)
		}
	}
	return 0
}

// note remembers how the last read of d went.
func (c *cursor) note(d *disk, err error) {
	c.o.mu.Lock()
	defer c.o.mu.Unlock()
	if was := d.readError; was != nil || err != nil {
		d.readError = err
		c.o.restateLocked()
	}
	if err != nil {
		d.retryAt = c.o.now() + syncRetry
	}
}

// mayGo reports whether the host streams, d is part of that, the stream is
// empty enough, and d can be compared if it is to be; if not, what it waits for
// will signal.
func (c *cursor) mayGo(d *disk) bool {
	o := c.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mode.tracking || !o.mayCompareLocked(d) {
		return false
	}
	if d.asideLocked() || d.away {
		signal(o.syncKick) // there may be others
		return false
	}
	need := float64(syncWindow) / float64(o.str.Size())
	o.cursor.starved = o.str.Fill()+need > leaveFill
	return !o.cursor.starved
}

// copyFrom copies the run of dirty chunks at chunk: all of a hole, or up to
// one window of content. It returns the bytes read.
func (c *cursor) copyFrom(ctx context.Context, d *disk, chunk uint32) (int, error) {
	d.work.Lock()
	defer d.work.Unlock()
	lo := int64(chunk) * dr.ChunkSize
	start, _, err := d.primary.NextData(lo)
	if err != nil {
		return 0, err
	}
	hole := start >= d.size || start/dr.ChunkSize > int64(chunk)
	limit := int64(syncWindow)
	if hole {
		limit = syncHole
		if start < d.size {
			limit = min(limit, start&^(dr.ChunkSize-1)-lo)
		}
	}
	hi := min(lo+dirtyRun(d, chunk, limit/dr.ChunkSize)*dr.ChunkSize, roundUp(d.size))
	if !c.lock(ctx, d, lo, hi) {
		return 0, ctx.Err()
	}
	defer c.unlock(d)
	if hole {
		return 0, d.copyHole(lo, hi)
	}
	return int(hi - lo), d.copyContent(c.buf[:hi-lo], lo)
}

// dirtyRun counts the dirty chunks from chunk on that follow each other, up to
// a limit; chunk itself counts.
func dirtyRun(d *disk, chunk uint32, limit int64) int64 {
	n := int64(1)
	for n < limit && d.dirty.Test(chunk+uint32(n)) {
		n++
	}
	return n
}

// lock takes the range lock; false: ctx is done and the range is not held.
func (c *cursor) lock(ctx context.Context, d *disk, lo, hi int64) bool {
	if d.locks.acquire(claim{lo: lo, hi: hi, ready: c.ready}) {
		return true
	}
	<-c.ready // held ranges are given up when the primary answers, whatever ctx says
	if ctx.Err() != nil {
		c.unlock(d)
		return false
	}
	return true
}

func (c *cursor) unlock(d *disk) {
	_, start := d.locks.release(nil)
	for _, s := range start {
		s.via.start(s.op)
	}
}

// clearDirty clears the bits of [lo, hi), which the range lock covers: from
// here on the range is in the stream, or marked again.
func (d *disk) clearDirty(lo, hi int64) {
	for at := lo; at < hi; at += dr.ChunkSize {
		d.dirty.ClearChunk(uint32(at / dr.ChunkSize))
	}
}

// remark undoes clearDirty.
func (d *disk) remark(lo, hi int64) {
	d.out.mu.Lock()
	d.dirty.Set(lo, hi-lo)
	d.out.mu.Unlock()
}

// copyHole records [lo, hi) as zeroes if it still is a hole, now that it is
// locked; if not, it is left dirty and looked at again.
func (d *disk) copyHole(lo, hi int64) error {
	start, _, err := d.primary.NextData(lo)
	if err != nil {
		return err
	}
	if start < min(hi, d.size) {
		return nil
	}
	d.clearDirty(lo, hi)
	v := entered{lo: lo, hi: hi, fromSync: true}
	d.enterRange(record.Zero, lo, hi, &v, record.FromSync)
	return nil
}

// copyContent reads p from lo and records it: runs of zero chunks as zeroes,
// the rest as data.
func (d *disk) copyContent(p []byte, lo int64) error {
	d.clearDirty(lo, lo+int64(len(p)))
	if err := d.readBlocks(p, lo); err != nil {
		d.remark(lo, lo+int64(len(p)))
		return err
	}
	d.out.mu.Lock()
	d.out.stats.syncedBytes += uint64(len(p))
	d.out.mu.Unlock()
	v := entered{lo: lo, hi: lo + int64(len(p)), fromSync: true}
	for at := 0; at < len(p); {
		n, zero := sameRun(p[at:])
		from, to := lo+int64(at), lo+int64(at+n)
		var ok bool
		if zero {
			ok = d.enterRange(record.Zero, from, to, &v, record.FromSync)
		} else {
			ok = d.enterData(&captured{lo: from, hi: to, body: p[at : at+n]}, &v, record.FromSync)
		}
		if !ok {
			return nil // marked dirty again
		}
		at += n
	}
	return nil
}

var zeroChunk [dr.ChunkSize]byte // never written

func isZero(p []byte) bool { return bytes.Equal(p, zeroChunk[:len(p)]) }

// sameRun returns how many bytes at the beginning of p are chunks of one sort,
// and whether they are zero.
func sameRun(p []byte) (n int, zero bool) {
	n = min(len(p), dr.ChunkSize)
	zero = isZero(p[:n])
	for n < len(p) {
		m := min(len(p)-n, dr.ChunkSize)
		if isZero(p[n:n+m]) != zero {
			break
		}
		n += m
	}
	return n, zero
}

// sleepUntil waits for a signal, for d, or for ctx, whichever comes first.
func sleepUntil(ctx context.Context, c <-chan struct{}, d time.Duration) {
	if d == never {
		select {
		case <-ctx.Done():
		case <-c:
		}
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-c:
	case <-t.C:
	}
}
