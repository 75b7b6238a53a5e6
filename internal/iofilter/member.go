package iofilter

import (
	"encoding/json"
	"math"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/iofilter/stream"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// What a host may say of a disk in a Disk record.
const (
	leaveRelease = "release" // the stream holds all its writes: another host goes on
	leaveRemove  = "remove"  // not protected any more
	leaveSilent  = ""        // nothing: the next Hello does not name it
)

// members are the VMs and disks of the host, which come and go while it runs.
// Guarded by the outlet's mutex; disks is replaced, never changed in place.
//
// The DRVA takes records only of disks that the connection's Hello named, as
// large as it said. So each change makes a new edition; the sender ends a
// connection whose Hello was of an older one, at the end of a frame, and the
// next Hello names what there is now, under the same nonce: the stream goes on
// where it was.
//
//	        join, resize                       TrackBegin placed
//	unknown ────────────▶ owed, its writes are ──────────────────▶ in the stream
//	                      tracked meanwhile                          │
//	                                              Disk record durable│ leave
//	gone ◀───────────────────────────────────────────────── leaving ◀┘
type members struct {
	vms       []dr.VMConfig // as recovery is to build them; disk sizes are filled in
	disks     []*disk
	nextIndex uint16 // of disks; never reused while the host component runs
	edition   int
	owing     int    // disks with membership.owed
	leaving   int    // disks with membership.leave
	yielding  int    // disks with membership.before
	users     pauses // what people have paused
}

// membership is how a disk stands to the stream, beside the host's mode.
// Guarded by the outlet's mutex. The zero value: a disk the host began with.
type membership struct {
	edition int        // the first that names the disk as it is
	told    bool       // a DRVA has welcomed such a Hello
	owed    bool       // writes stay outside the stream until a TrackBegin is placed
	held    bool       // somebody may still write to the disk unseen: no copy of it would be complete
	paused  string     // cause for which writes stay outside although it is; "": they do not
	retired bool       // nothing of it enters any more
	leave   *leaving   // on its way out
	whole   dr.HostSeq // from this TrackBegin on the stream holds all of the disk; 0: unknown
	before  *dr.Disk   // a disk that shrank is named so while records of that size may be replayed
	last    dr.HostSeq // the last of these
}

// leaving is a disk's way out.
type leaving struct {
	op     string
	placed bool          // at is known
	at     dr.HostSeq    // the Disk record, or the disk's last one
	done   chan struct{} // closed when the DRVA knows
}

// lostStream forgets what was in a stream that is lost.
func (m *membership) lostStream() {
	m.whole, m.last = 0, 0
	if m.leave != nil {
		m.leave.placed, m.leave.at = false, 0
	}
}

// asideLocked reports whether d's writes stay outside the stream, whatever the
// host's mode.
func (d *disk) asideLocked() bool {
	return d.member.owed || d.member.retired || d.barredLocked()
}

// barredLocked reports whether d stands aside until somebody says otherwise, so
// that to wait for its copy may be to wait for ever.
func (d *disk) barredLocked() bool {
	return d.member.held || d.seen.strayed || d.member.paused != ""
}

// diskLocked returns the disk with an index, or nil.
func (o *outlet) diskLocked(index uint16) *disk {
	for _, d := range o.disks {
		if d.index == index {
			return d
		}
	}
	return nil
}

// setVMLocked puts a VM's configuration in place of its former one.
func (o *outlet) setVMLocked(c *dr.VMConfig) {
	if i := slices.IndexFunc(o.vms, func(v dr.VMConfig) bool { return v.ID == c.ID }); i >= 0 {
		o.vms[i] = *c
		return
	}
	o.vms = append(o.vms, *c)
}

// vmIDs lists the VMs that have disks here now.
func (o *outlet) vmIDs() (out []dr.VMID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.vms {
		out = append(out, o.vms[i].ID)
	}
	return out
}

// configLocked is a VM's configuration with the sizes of its disks to the
// byte; the disks themselves are announced in whole blocks.
func (o *outlet) configLocked(c *dr.VMConfig) dr.VMConfig {
	out := *c
	out.Disks = slices.Clone(c.Disks)
	for _, d := range o.disks {
		for i := range out.Disks {
			if out.Disks[i].ID == d.info.ID {
				out.Disks[i].Size = d.size
			}
		}
	}
	return out
}

// helloLocked is what the host says of itself now.
func (o *outlet) helloLocked() wire.Hello {
	h := o.identity
	for i := range o.vms {
		vm := wire.HelloVM{Config: o.configLocked(&o.vms[i])}
		for _, d := range o.disks {
			if d.info.VM != vm.Config.ID {
				continue
			}
			info := d.info
			if d.member.before != nil {
				info = *d.member.before
			}
			vm.Disks = append(vm.Disks, wire.HelloDisk{Index: d.index, Disk: info})
		}
		if len(vm.Disks) > 0 {
			h.VMs = append(h.VMs, vm)
		}
	}
	return h
}

// editionLocked makes a new edition and the sender say it.
func (o *outlet) editionLocked() int {
	o.edition++
	o.wakeSender()
	return o.edition
}

// oweLocked keeps d's writes outside the stream until a TrackBegin is placed.
func (o *outlet) oweLocked(d *disk) {
	if !d.member.owed {
		d.member.owed = true
		o.owing++
	}
	d.unsynced = true
	o.bypassLocked(d)
	o.gate.Outside()
	o.holdEndedLocked(o.now())
}

// settleLocked ends oweLocked, one way or the other.
func (o *outlet) settleLocked(d *disk) {
	if d.member.owed {
		d.member.owed = false
		o.owing--
	}
}

// beginLocked places d's TrackBegin, for which there is room.
func (o *outlet) beginLocked(d *disk, now time.Duration) {
	o.controlLocked(record.TrackBegin, d.index)
	at := o.str.Next() - 1
	if !d.announced && d.dirty.Count() == d.dirty.Chunks() {
		d.member.whole = at
	}
	d.announced, d.unsynced = true, true
	o.settleLocked(d)
	d.progress.begin(d.dirty.Count(), now)
	o.stats.trackedBytes += uint64(d.dirtyBytes())
	o.mode.insideAt = at
}

// join adds disks, all of which have to be copied, and their VM. Their writes
// are tracked until the DRVA knows of them. Error: Full.
func (o *outlet) join(vm *dr.VMConfig, fresh []*disk) error {
	o.mu.Lock()
	defer o.unlock()
	if len(fresh) > math.MaxUint16-int(o.nextIndex) {
		return errs.New("iofilter.Protect", errs.Full, vm.Name, "the host component has had 65535 disks").
			WithRemedy("restart the host component")
	}
	o.setVMLocked(vm)
	at := o.editionLocked()
	for _, d := range fresh {
		d.index = o.nextIndex
		o.nextIndex++
		d.member = membership{edition: at, held: d.member.held}
		if o.users.has(d.info.ID) {
			d.member.paused = causePaused
		}
		o.oweLocked(d)
	}
	o.disks = append(slices.Clip(o.disks), fresh...)
	o.restateLocked()
	return nil
}

// replace puts now in the place of old, which is retired: the same disk with
// another size. Its writes are tracked until the DRVA knows the size.
func (o *outlet) replace(old, now *disk) {
	o.mu.Lock()
	defer o.unlock()
	o.settleLocked(old)
	old.member.retired = true
	now.index, now.complete, now.announced = old.index, old.complete, old.announced
	now.member = membership{held: old.member.held, paused: old.member.paused}
	now.seen.strayed = old.seen.strayed
	chunks := now.dirty.Chunks()
	for c, ok := old.dirty.Next(0); ok && int64(c) < chunks; c, ok = old.dirty.Next(c + 1) {
		now.dirty.Set(int64(c)*dr.ChunkSize, 1)
	}
	if now.size > old.size {
		now.dirty.Set(old.size, now.size-old.size)
	}
	named := old.info
	if old.member.before != nil {
		named = *old.member.before
		o.yielding--
	}
	if now.info.Size < named.Size {
		// What is in the stream may reach beyond the new end, and would be
		// refused if it were replayed behind a Hello with the new size.
		now.member.before, now.member.last = &named, o.str.Next()-1
		now.member.edition = math.MaxInt // until then nobody is told
		o.yielding++
	} else {
		now.member.edition = o.editionLocked()
	}
	o.disks = slices.Clone(o.disks)
	o.disks[slices.Index(o.disks, old)] = now
	o.oweLocked(now)
	o.membersMovedLocked(o.now())
	o.restateLocked()
}

// reconfigure logs another configuration of a VM, in its place among the
// writes. Error: NotFound.
func (o *outlet) reconfigure(c *dr.VMConfig) error {
	o.mu.Lock()
	defer o.unlock()
	if !slices.ContainsFunc(o.vms, func(v dr.VMConfig) bool { return v.ID == c.ID }) {
		return errs.New("iofilter.Reconfigure", errs.NotFound, c.Name, "this host does not protect the VM").
			WithRemedy("protect it first")
	}
	o.setVMLocked(c)
	if !o.documentLocked(record.Meta, 0, o.configLocked(c)) {
		o.editionLocked() // no room: the next Hello tells it
	}
	return nil
}

// documentLocked appends a record whose payload is JSON; false: there is no
// room for it, or it is too long.
func (o *outlet) documentLocked(kind record.Kind, disk uint16, v any) bool {
	body, err := json.Marshal(v)
	if err != nil || len(body) > maxDocument {
		return false
	}
	r := record.Record{Kind: kind, Disk: disk, Length: uint32(len(body)), CRC: record.Checksum(body), Time: time.Now().UnixNano()}
	if !o.str.Room(r.PaddedLen()) {
		return false
	}
	o.link.rush = o.str.Append(&r, &stream.Pieces{body})
	o.stats.records++
	o.wakeSender()
	return true
}

// leave begins a disk's way out: from now on nothing of it enters the stream.
// op release becomes silence if the disk's copy is not complete.
func (o *outlet) leave(d *disk, op string) *leaving {
	o.mu.Lock()
	defer o.unlock()
	if op == leaveRelease && (d.unsynced || d.dirty.Count() > 0) {
		op = leaveSilent
	}
	o.settleLocked(d)
	d.member.retired = true
	if d.member.leave == nil {
		o.leaving++
	}
	d.member.leave = &leaving{op: op, done: make(chan struct{})}
	o.membersMovedLocked(o.now())
	o.restateLocked()
	return d.member.leave
}

// toldLocked takes in what a Welcome to a Hello of an edition means for the
// disks.
func (o *outlet) toldLocked(w *wire.Welcome, edition int) {
	for _, d := range o.disks {
		m := &d.member
		if m.edition > edition {
			continue
		}
		if !m.told {
			m.told = true
			d.complete = d.complete || !slices.Contains(w.Unsynced, d.index)
		}
		if l := m.leave; l != nil && l.op != leaveSilent {
			// The Hello has made the disk the host's again if its Disk record
			// had arrived before. To repeat the record costs nothing.
			l.placed = false
		}
	}
	for _, i := range w.Unsynced {
		d := o.diskLocked(i)
		switch {
		case d == nil || d.member.retired || !d.announced:
			// It has left, or is about to be copied anyway.
		case d.member.whole > w.Durable:
			// All of it is in the stream and will be replayed, but a DRVA
			// does not count the end of a copy that it finds there.
			o.oweLocked(d)
		default:
			o.bypassLocked(d)
			d.dirty.SetAll()
			d.unsynced, d.complete = true, false
			o.trackLocked(causeUnsynced)
		}
	}
}

// membersMovedLocked goes on with what waits for the stream to move: disks on
// their way in and out.
func (o *outlet) membersMovedLocked(now time.Duration) {
	if o.yielding > 0 {
		o.yieldLocked()
	}
	if o.owing > 0 && !o.mode.tracking {
		o.payLocked(now)
	}
	if o.leaving > 0 {
		o.partLocked()
	}
}

// yieldLocked names disks that shrank by their new size when no record of the
// former one can be replayed any more.
func (o *outlet) yieldLocked() {
	for _, d := range o.disks {
		if m := &d.member; m.before != nil && o.str.Durable() >= m.last {
			m.before, m.edition = nil, o.editionLocked()
			o.yielding--
		}
	}
}

// payLocked places the TrackBegins that are owed.
func (o *outlet) payLocked(now time.Duration) {
	for _, d := range o.disks {
		if d.member.owed && d.member.told && o.str.RoomForControl(1) {
			o.beginLocked(d, now)
			o.restateLocked()
			signal(o.syncKick)
		}
	}
	o.insideLocked()
}

// partLocked places the Disk records of disks that leave, and lets go of those
// of which the DRVA knows it.
func (o *outlet) partLocked() {
	for _, d := range o.disks {
		l := d.member.leave
		switch {
		case l == nil || !d.member.told:
			continue
		case !l.placed && l.op == leaveSilent:
			l.placed, l.at = true, o.str.Next()-1
		case !l.placed:
			l.placed = o.diskRecordLocked(l.op, d.index)
			l.at = o.str.Next() - 1
		}
		if l.placed && o.link.up && o.str.Durable() >= l.at {
			o.partedLocked(d)
		}
	}
}

// partedLocked forgets a disk, and its VM with the last one.
func (o *outlet) partedLocked(d *disk) {
	o.disks = slices.DeleteFunc(slices.Clone(o.disks), func(e *disk) bool { return e == d })
	o.vms = slices.DeleteFunc(slices.Clone(o.vms), func(v dr.VMConfig) bool {
		return v.ID == d.info.VM && !slices.ContainsFunc(o.disks, func(e *disk) bool { return e.info.VM == v.ID })
	})
	o.leaving--
	if d.member.before != nil {
		o.yielding--
	}
	if d.member.leave.op == leaveSilent {
		o.editionLocked()
	}
	close(d.member.leave.done)
}
