package iofilter

import (
	"context"
	"log/slog"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/wire"
)

// mode is streaming or tracking. Guarded by the outlet's mutex.
type mode struct {
	tracking bool
	cause    string
	began    time.Duration // of tracking
	from     dr.HostSeq    // the last record that had entered when tracking began
	dwell    time.Duration // how long this tracking lasts at least
	left     time.Duration // when tracking last ended; 0: never yet
	insideAt dr.HostSeq    // when this record has its place the gate is inside; 0: nothing to wait for
	logged   bool          // tracking, as the log knows it
}

// pressure is a stretch of time in which writes wait for room.
type pressure struct {
	waiting  int           // writes waiting now
	began    time.Duration // of the stretch; 0: there is none
	progress time.Duration // when room was last freed, or the first began to wait
	noWait   time.Duration // until then nobody waits: the host has just recovered
	// the last stretch that is over
	lastBegan, lastEnd time.Duration
}

// since is when an operation that arrived at a time began to wait, counting
// what it may have waited in its socket behind a stretch.
func (p *pressure) since(arrived time.Duration) time.Duration {
	switch {
	case p.began != 0:
		return min(arrived, p.began)
	case arrived >= p.lastBegan && arrived < p.lastEnd+pressureEcho && p.lastEnd != 0:
		return p.lastBegan
	}
	return arrived
}

func (p *pressure) end(now time.Duration) {
	if p.began != 0 {
		p.lastBegan, p.lastEnd = p.began, now
	}
	p.began = 0
}

// awaitRoomLocked waits until room may have been freed, or decides that it is
// not worth waiting and the host tracks from now on.
func (o *outlet) awaitRoomLocked() {
	now := o.now()
	p := &o.pressure
	if !o.link.up && !o.link.rejoining() {
		o.trackLocked(causeCutOff)
		return
	}
	if now < p.noWait {
		o.trackLocked(causeSlow)
		return
	}
	if p.waiting == 0 {
		p.progress = now
	}
	if p.began == 0 {
		p.began = now
		o.stats.stalls++
		o.restateLocked()
	}
	o.armLocked(min(p.progress+o.stallLimit, p.began+pressureLimit))
	p.waiting++
	o.room.Wait()
	p.waiting--
}

// roomFreedLocked tells those who wait.
func (o *outlet) roomFreedLocked(now time.Duration) {
	p := &o.pressure
	p.progress = now
	if p.waiting > 0 {
		o.room.Broadcast()
	} else if p.began != 0 && o.str.Fill() < pressureEnd {
		p.end(now)
		o.restateLocked()
	}
	if o.cursor.starved && o.str.Fill() < leaveFill {
		o.cursor.starved = false
		signal(o.syncKick)
	}
}

// trackLocked begins tracking: whatever waits is acknowledged, whoever waits
// for room marks its chunks instead. The stream keeps what it holds, to be
// sent when the DRVA is well again.
func (o *outlet) trackLocked(cause string) {
	if o.mode.tracking {
		return
	}
	now := o.now()
	m := &o.mode
	dwell := dwellMin
	if m.left != 0 && now-m.left < dwellMemory {
		dwell = min(max(2*m.dwell, dwellMin), dwellMax)
	}
	m.tracking, m.cause, m.began, m.from, m.dwell, m.insideAt = true, cause, now, o.str.Next()-1, dwell, 0
	o.gate.Outside()
	o.holdEndedLocked(now)
	o.ready.take(&o.waits)
	o.hurryLocked()
	o.pressure.end(now)
	o.room.Broadcast()
	o.stats.trackings++
	o.restateLocked()
	o.armLocked(now) // the watchdog logs it and comes back when it may end
}

// tryLeaveLocked ends tracking if it may: the link is up and has replayed, the
// stream has drained, and the DRVA has shown that it does what the ack rule
// needs. From then on writes enter the stream again, behind a TrackBegin for
// every disk whose copy is not complete.
func (o *outlet) tryLeaveLocked(now time.Duration) {
	m := &o.mode
	if !m.tracking || o.order != wire.TrackNone || !o.link.replayed || now < m.began+m.dwell || o.str.Fill() > leaveFill || !o.reachedLocked(m.from) {
		return
	}
	if !o.str.RoomForControl(len(o.disks)) {
		return
	}
	for _, d := range o.disks {
		if d.member.told && d.member.leave == nil && (d.unsynced || d.dirty.Count() > 0) {
			o.beginLocked(d, now)
		}
	}
	switch m.cause {
	case causeFull, causeSlow, causeSilent:
		o.pressure.noWait = now + noWaitAfter
	}
	m.tracking, m.cause, m.left = false, "", now
	m.insideAt = o.str.Next() - 1
	o.insideLocked()
	o.restateLocked()
	o.armLocked(now) // the watchdog logs it
	signal(o.syncKick)
}

// insideLocked tells the gate that the host is inside the stream again, once
// no TrackBegin is owed, and those placed, and with them all that was
// acknowledged early, have their place in the domain's order. To say so when they have merely been appended
// would be too soon for a mark round whose checkpoint was cut before they
// arrived.
func (o *outlet) insideLocked() {
	m := &o.mode
	if !m.tracking && o.owing == 0 && m.insideAt <= o.str.Sequenced() {
		o.gate.Inside()
		m.insideAt = 0
	}
}

// markDirty makes the sync cursor read a range again.
func (o *outlet) markDirty(d *disk, off, n int64) {
	o.mu.Lock()
	o.bypassLocked(d)
	d.dirty.Set(off, n)
	o.mu.Unlock()
	signal(o.syncKick)
}

// trackUnread is the way out when a written range cannot be captured because
// the primary, which took the write, cannot be read: the guest must hear of
// success, and the stream does not have it.
func (o *outlet) trackUnread(d *disk, v *entered, err error) {
	o.mu.Lock()
	o.trackLocked(causeUnreadable)
	o.bypassLocked(d)
	d.dirty.Set(v.lo, v.hi-v.lo)
	d.readError = err
	v.tracked = true
	o.unlock()
}

// watch is the watchdog: it ends what has lasted too long. It sleeps until the
// earliest limit and is woken only when an earlier one appears.
func (o *outlet) watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.kick:
		case <-timer.C:
		}
		o.mu.Lock()
		now := o.now()
		o.expireLocked(now)
		o.armed = o.deadlineLocked(now)
		o.restateLocked()
		next, mode, tell := o.armed, o.mode, o.mode.tracking != o.mode.logged
		o.mode.logged = mode.tracking
		o.unlock()
		if tell {
			o.logMode(ctx, mode)
		}
		timer.Reset(min(next-now, time.Hour))
	}
}

func (o *outlet) logMode(ctx context.Context, m mode) {
	if m.tracking {
		o.log.LogAttrs(ctx, slog.LevelWarn, "host tracks: writes are acknowledged by the primary alone", slog.String("cause", m.cause))
		return
	}
	o.log.LogAttrs(ctx, slog.LevelInfo, "host streams")
}

// expireLocked ends what is over at now.
func (o *outlet) expireLocked(now time.Duration) {
	if o.gate.Expire(now) {
		o.holdEndedLocked(now)
	}
	p := &o.pressure
	switch {
	case o.mode.tracking || p.waiting == 0:
	case now >= p.progress+o.stallLimit:
		o.trackLocked(causeFull)
	case now >= p.began+pressureLimit:
		o.trackLocked(causeSlow)
	}
	if at, ok := o.oldestWaitLocked(); ok && now >= at+ackLimit {
		o.trackLocked(causeSilent)
	}
	o.slowDueLocked(now)
	o.bootsDueLocked(now)
	o.tryLeaveLocked(now)
}

// deadlineLocked is when expireLocked may next have something to do.
func (o *outlet) deadlineLocked(now time.Duration) time.Duration {
	next := o.nextBootLocked()
	if at, ok := o.gate.Deadline(); ok {
		next = min(next, at)
	}
	if p := &o.pressure; p.waiting > 0 && !o.mode.tracking {
		next = min(next, p.progress+o.stallLimit, p.began+pressureLimit)
	}
	if at, ok := o.oldestWaitLocked(); ok {
		next = min(next, at+ackLimit)
	}
	if op := o.slow.waiting.head; op != nil {
		next = min(next, time.Duration(op.Scratch[1]))
	}
	if end := o.mode.began + o.mode.dwell; o.mode.tracking && end > now {
		next = min(next, end)
	}
	return next
}

// oldestWaitLocked is the earliest arrival among those that wait for their
// acknowledgement. They are few, and this is asked about once in ackLimit.
func (o *outlet) oldestWaitLocked() (at time.Duration, ok bool) {
	at = never
	for op := o.waits.head; op != nil; op = op.Link {
		at = min(at, time.Duration(op.Scratch[1]))
	}
	return at, o.waits.head != nil
}
