package iofilter

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/extent"
	"holdfast/internal/iofilter/sidecar"
	"holdfast/internal/iofilter/stream"
	"holdfast/internal/nbd"
	"holdfast/internal/record"
)

// dirtyMap is a bitmap of dirty chunks that counts how often it was marked.
type dirtyMap struct {
	*extent.Bitmap
	marks atomic.Uint64
}

func newDirtyMap(size int64) *dirtyMap { return &dirtyMap{Bitmap: extent.NewBitmap(size)} }

// Set marks a range. It is counted after it is marked: who sees the count as it
// was, and then no mark, and later the same count, knows that there is none.
func (m *dirtyMap) Set(off, n int64) {
	m.Bitmap.Set(off, n)
	m.marks.Add(1)
}

// SetAll marks everything.
func (m *dirtyMap) SetAll() {
	m.Bitmap.SetAll()
	m.marks.Add(1)
}

// region reports whether a chunk of a region is dirty.
func (m *dirtyMap) region(r int) bool {
	const chunks = sidecar.RegionSize / dr.ChunkSize
	next, ok := m.Next(uint32(r) * chunks)
	return ok && next < uint32(r+1)*chunks
}

// keeper keeps the sidecar of one disk true. Its two goroutines are the opener,
// which opens regions for writes that wait for it, and the closer. All methods
// may be called on nil, which keeps nothing.
type keeper struct {
	d     *disk
	side  *sidecar.Sidecar
	image string       // path of the primary
	flush func() error // makes all completed writes of the primary durable

	opening chan struct{} // capacity 1: something is parked or broken
	opened  chan struct{} // capacity 1: there are open regions
	crowded chan struct{} // capacity 1: there are too many

	mu     sync.Mutex
	parked []parkedOp // guarded by mu; wait for a region to be opened
	broken error      // guarded by mu; the file failed, and the opener has not dealt with it

	run       atomic.Uint64 // the run that was last welcome; 0: none yet. Written by the link's goroutine
	continued uint64        // of the link's goroutine: the run that was announced in the file
	fresh     bool          // of the link's goroutine: the file is new, and knows nothing of what is dirty

	// Of the opener.
	toldDRVA bool // the DRVA was told not to trust it: it is not tried again
	retryAt  time.Duration
}

// parkedOp is a guest's write that waits for its regions.
type parkedOp struct {
	op  *nbd.Op
	via *tap
}

// sidecarPath is where a disk's sidecar lies; "": it has none. A mirrored disk
// is written before its regions could be opened.
func (c *Config) sidecarPath(d *Disk) string {
	if d.Mirror {
		return ""
	}
	if c.SidecarDir != "" {
		return filepath.Join(c.SidecarDir, d.ID.String()+".holdfast")
	}
	return SidecarPath(d.Path)
}

// SidecarPath is where the sidecar of the disk in an image lies, unless
// Config.SidecarDir says otherwise; "": it has none, the image being no file.
func SidecarPath(image string) string {
	real, err := filepath.EvalSymlinks(image)
	if err != nil {
		return ""
	}
	if st, err := os.Stat(real); err != nil || !st.Mode().IsRegular() {
		return ""
	}
	return real + ".holdfast"
}

// modified is the primary's modification time; 0: it tells none.
func modified(image string) int64 {
	st, err := os.Stat(image)
	if err != nil || !st.Mode().IsRegular() {
		return 0
	}
	return st.ModTime().UnixNano()
}

// remember gives d a sidecar at path. If there is one that vouches for the
// disk, only what it calls open is dirty; unless the disk may have been written
// unseen since: then the file is made worthless first. Before d is served.
func (d *disk) remember(fs durable.FS, path, image string, flush func() error, unseen bool) {
	k := &keeper{d: d, image: image, flush: flush, opening: make(chan struct{}, 1),
		opened: make(chan struct{}, 1), crowded: make(chan struct{}, 1)}
	side, err := sidecar.Open(fs, path, sidecar.Identity{Disk: d.info.ID, Size: d.size}, modified(image))
	k.side, k.broken = side, err
	d.keep = k
	if unseen && err == nil {
		k.broken = side.Void()
	}
	if k.broken != nil {
		signal(k.opening)
	}
	v := side.Vouch()
	if len(v.Runs) == 0 || unseen {
		return
	}
	d.dirty = newDirtyMap(d.size)
	side.Regions(func(r int) { d.dirty.Set(int64(r)*sidecar.RegionSize, sidecar.RegionSize) })
	d.unsynced = !v.Clean
}

// start submits a write to the primary, whose range it holds, as soon as the
// sidecar says that the primary may differ there.
func (t *tap) start(op *nbd.Op) {
	if k := t.disk.keep; k == nil || k.side.Hot(op.Offset, op.Length) || !k.park(op, t) {
		t.primary.Submit(op)
	}
}

// park keeps op until its regions are open; false: they are.
func (k *keeper) park(op *nbd.Op, via *tap) bool {
	if k.side.Touch(op.Offset, op.Length) {
		return false
	}
	k.mu.Lock()
	k.parked = append(k.parked, parkedOp{op, via})
	k.mu.Unlock()
	signal(k.opening)
	return true
}

// runOpener opens regions until ctx is done. What is parked while one write to
// the file is under way shares the next.
func (k *keeper) runOpener(ctx context.Context) {
	if k == nil {
		return
	}
	var ops []parkedOp
	var ranges []sidecar.Range
	for {
		wait := never
		if k.retryAt != 0 {
			wait = max(k.retryAt-k.d.out.now(), 1)
		}
		sleepUntil(ctx, k.opening, wait)
		if ctx.Err() != nil {
			return
		}
		k.mu.Lock()
		ops, k.parked = k.parked, ops[:0]
		err := k.broken
		k.broken = nil
		k.mu.Unlock()
		ranges = ranges[:0]
		for _, p := range ops {
			ranges = append(ranges, sidecar.Range{Off: p.op.Offset, N: p.op.Length})
		}
		if err == nil {
			err = k.side.OpenRegions(ranges)
		}
		if err != nil {
			k.fail(ctx, err)
		}
		for i, p := range ops {
			p.via.primary.Submit(p.op)
			ops[i] = parkedOp{}
		}
		k.recover()
		signal(k.opened)
		if k.side.Crowded() {
			signal(k.crowded)
		}
	}
}

// fail gives the sidecar up: the guest goes on, and no later run may trust what
// the file says. If that cannot be made sure of on the spot, the DRVA is told,
// for which the guest waits a while.
func (k *keeper) fail(ctx context.Context, err error) {
	if k.side.Stats().Given {
		return
	}
	o := k.d.out
	o.log.LogAttrs(ctx, slog.LevelError, "the disk's sidecar cannot be written: a restart would copy the disk anew",
		slog.String("disk", k.d.info.Name), slog.Any("err", err), slog.String("remedy", errs.RemedyOf(err)))
	if k.side.Void() != nil {
		k.toldDRVA = true
		k.tellVoid(ctx)
	}
	k.side.GiveUp()
	if k.retryAt = 0; !k.toldDRVA {
		k.retryAt = o.now() + sidecarRetry
	}
}

// tellVoid tells the DRVA not to accept the sidecar from a later run, and waits
// until its log has that, for as long as a write may wait.
func (k *keeper) tellVoid(ctx context.Context) {
	o := k.d.out
	ctx, cancel := context.WithTimeout(ctx, voidLimit)
	defer cancel()
	o.mu.Lock()
	run, ok := o.run, o.diskRecordLocked("void", k.d.index)
	at := o.str.Next() - 1
	o.mu.Unlock()
	if !ok || !o.await(ctx, at, run) {
		o.log.LogAttrs(ctx, slog.LevelError, "the DRVA does not know yet that the disk's sidecar is worthless",
			slog.String("disk", k.d.info.Name), slog.String("remedy", "remove the sidecar before the host component is started again"))
	}
}

// recover tries a sidecar that was given up again, when it is time.
func (k *keeper) recover() {
	if k.retryAt == 0 || k.d.out.now() < k.retryAt {
		return
	}
	k.retryAt = k.d.out.now() + sidecarRetry
	if run := k.run.Load(); run != 0 && k.side.Restart(run) == nil {
		k.retryAt = 0
		k.d.out.log.Info("the disk's sidecar can be written again", "disk", k.d.info.Name)
	}
}

// runCloser closes regions until ctx is done.
func (k *keeper) runCloser(ctx context.Context) {
	if k == nil {
		return
	}
	for ctx.Err() == nil {
		if k.side.Count() == 0 {
			sleepUntil(ctx, k.opened, never)
			continue
		}
		if !k.side.Crowded() {
			sleepUntil(ctx, k.crowded, roundEvery)
		}
		k.round(ctx, false)
		sleepUntil(ctx, nil, roundGap)
	}
}

// round closes what may be closed. The order is what counts: whatever touches a
// region after Begin keeps it open; what touched it before is on the primary
// and in the stream when the range lock is quiet; then the primary is flushed,
// and the log has the stream to that point. A region with a dirty chunk is
// none of the candidates, and if any chunk became dirty meanwhile, the cursor
// may have copied it since: then the round is given up.
func (k *keeper) round(ctx context.Context, all bool) {
	o, d := k.d.out, k.d
	marks := d.dirty.marks.Load()
	round, worth := k.side.Begin(d.dirty.region)
	if worth == 0 && !all {
		return
	}
	select {
	case <-d.locks.quiesce():
	case <-ctx.Done():
		return
	}
	o.mu.Lock()
	last, run := o.str.Next()-1, o.run
	o.mu.Unlock()
	if err := k.flush(); err != nil {
		o.log.LogAttrs(ctx, slog.LevelWarn, "the primary cannot be flushed: its regions stay open", slog.String("disk", d.info.Name), slog.Any("err", err))
		return
	}
	if !o.await(ctx, last, run) {
		return
	}
	o.mu.Lock()
	sound := o.run == run && !o.settling && d.dirty.marks.Load() == marks
	durable := o.str.Durable()
	o.mu.Unlock()
	if !sound || durable == 0 {
		return
	}
	// The log has this run: from here on the sidecar is its. Before, a DRVA
	// that restarted might know only of the run before.
	name := k.run.Load()
	err := k.side.Settle(name)
	if err == nil {
		_, err = k.side.Close(round, name, durable, all)
	}
	if err != nil {
		k.breaks(err)
	}
}

// breaks hands an error of the file to the opener.
func (k *keeper) breaks(err error) {
	k.mu.Lock()
	k.broken = err
	k.mu.Unlock()
	signal(k.opening)
}

// openAll makes a later run copy the whole disk, until the regions are closed
// again because they are copied.
func (k *keeper) openAll() {
	if k == nil {
		return
	}
	run := k.run.Load()
	if run == 0 { // no DRVA has been met yet: what the file says is of another run
		if err := k.side.Void(); err != nil {
			k.breaks(err)
		}
		return
	}
	if err := k.side.Restart(run); err != nil {
		k.breaks(err)
	}
}

// forget makes the file worthless: the disk is not this domain's any more, or
// another one takes the file's place.
func (k *keeper) forget() error {
	if k == nil {
		return nil
	}
	return k.side.Void()
}

// end closes the file; the keeper's goroutines have ended.
func (k *keeper) end() error {
	if k == nil {
		return nil
	}
	return k.side.End()
}

// landing is somebody who waits for the log to hold a record.
type landing struct {
	at  dr.HostSeq
	run uint32
	ch  chan struct{}
}

// await waits until the log holds everything up to a record of a run of the
// stream; false: ctx has ended, or the stream was lost.
func (o *outlet) await(ctx context.Context, at dr.HostSeq, run uint32) bool {
	ch := make(chan struct{})
	o.mu.Lock()
	o.landings = append(o.landings, landing{at, run, ch})
	o.landLocked()
	o.mu.Unlock()
	select {
	case <-ch:
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.landings {
		if o.landings[i].ch == ch {
			o.landings = append(o.landings[:i], o.landings[i+1:]...)
			break
		}
	}
	return o.run == run && o.str.Durable() >= at
}

// landLocked wakes those whose record the log holds, or never will.
func (o *outlet) landLocked() {
	left := o.landings[:0]
	for _, l := range o.landings {
		if o.run != l.run || o.str.Durable() >= l.at {
			close(l.ch)
		} else {
			left = append(left, l)
		}
	}
	o.landings = left
}

// diskRecordLocked appends a Disk record with what the host says of a disk;
// false: there is no room for it.
func (o *outlet) diskRecordLocked(op string, disk uint16) bool {
	body := []byte(`{"op":"` + op + `"}`)
	r := record.Record{Kind: record.Disk, Disk: disk, Length: uint32(len(body)), CRC: record.Checksum(body), Time: time.Now().UnixNano()}
	if !o.str.Room(r.PaddedLen()) {
		return false
	}
	o.link.rush = o.str.Append(&r, &stream.Pieces{body})
	o.stats.records++
	o.wakeSender()
	return true
}
