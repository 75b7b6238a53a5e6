package iofilter

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"holdfast/internal/wire"
)

// A disk that nobody has open here does not change: its VM is off. If somebody
// starts that VM past the host component, its writes are in no record, and the
// hypervisor's word of it comes late or never. The image file tells in time: by
// its modification time, which is looked at before each yes to a checkpoint
// round. What was written before the cut has moved it by then, so that no
// checkpoint counts on a disk that had been written unseen.
//
//	              another mtime                quiet for strayCalm, a client
//	nobody has it ────────────▶ strayed, aside ─────────────────────────────▶ compared
//	      ▲                          │ another mtime ▲                            │
//	      │                          └───────────────┘                            │
//	      └───────────────────────────────────────────────────────────────────────┘
//
// Not so for a block device, which tells nothing, and for a disk in a format of
// the hypervisor, whose image is written to once more when it is closed: there
// the disk is held when the VM is found running (package live).

// watched is what is known of an image that nobody has open here. Guarded by
// the outlet's mutex.
type watched struct {
	image    string        // immutable; "": it tells nothing
	modified int64         // its mtime when it was last as it should be; 0: not looked at
	strayed  bool          // written unseen: no copy of it would be complete
	since    time.Duration // when that was last seen
}

// watchableLocked reports whether the disk's image is to be looked at.
func (d *disk) watchableLocked() bool {
	m := &d.member
	return d.seen.modified != 0 && d.clients == 0 && !m.held && !m.retired && m.leave == nil
}

// look is one look at an image.
type look struct {
	d        *disk
	was, now int64 // mtime as known, and as it is
}

// looksLocked lists the disks to be looked at.
func (o *outlet) looksLocked() (out []look) {
	for _, d := range o.disks {
		if d.watchableLocked() {
			out = append(out, look{d: d, was: d.seen.modified})
		}
	}
	return out
}

// take looks at the images, however long the file system takes.
func take(looks []look) {
	for i := range looks {
		looks[i].now = modified(looks[i].d.seen.image)
	}
}

// judgeLocked draws the consequences and returns the disks that have strayed
// just now.
func (o *outlet) judgeLocked(looks []look) (strayed []*disk) {
	now := o.now()
	for _, l := range looks {
		w := &l.d.seen
		switch {
		case !l.d.watchableLocked() || w.modified != l.was:
			// A client has come since, or somebody else has looked.
		case l.now != l.was:
			w.modified, w.since = l.now, now
			if !w.strayed {
				o.strayLocked(l.d)
				strayed = append(strayed, l.d)
			}
		case w.strayed && now-w.since >= strayCalm:
			o.foundLocked(l.d)
		}
	}
	return strayed
}

// strayLocked takes d for different from its copy, and its writes for unseen.
func (o *outlet) strayLocked(d *disk) {
	d.seen.strayed = true
	signal(o.doubt) // the vigil looks more often from now on
	d.dirty.SetAll()
	d.compare = true
	o.oweLocked(d)
	o.membersMovedLocked(o.now())
	o.restateLocked()
	o.log.LogAttrs(context.Background(), slog.LevelWarn, "a disk that nobody has open here is written to: it counts for no checkpoint",
		slog.String("disk", d.info.Name), slog.String("image", d.seen.image), slog.String("remedy", strayRemedy))
}

// foundLocked has d compared: nobody writes to it unseen any more.
func (o *outlet) foundLocked(d *disk) {
	d.seen.strayed = false
	d.progress.begin(d.dirty.Count(), o.now())
	o.restateLocked()
	signal(o.syncKick)
}

// lookNow looks at all there is to look at, and reports whether a disk has
// strayed just now.
func (o *outlet) lookNow() bool {
	o.mu.Lock()
	looks := o.looksLocked()
	o.mu.Unlock()
	return o.lookAt(looks)
}

// lookAt takes the looks and draws the consequences.
func (o *outlet) lookAt(looks []look) (strayed bool) {
	take(looks)
	o.mu.Lock()
	all := o.judgeLocked(looks)
	o.unlock()
	// After the marks: what is marked no round closes.
	for _, d := range all {
		d.keep.openAll()
	}
	return len(all) > 0
}

// vouchLocked gives an answer to a round: a yes goes past the vigil, if there
// are images to look at.
func (o *outlet) vouchLocked(c wire.Confirm) error {
	if !c.OK || len(o.looksLocked()) == 0 {
		return o.answerLocked(c)
	}
	if len(o.vouching) == maxVouching { // a file system hangs: the first is given up by now
		o.vouching = slices.Delete(o.vouching, 0, 1)
	}
	o.vouching = append(o.vouching, c)
	signal(o.doubt)
	return nil
}

// vigil looks at images before a round is answered, and every second while a
// disk has strayed.
func (o *outlet) vigil(ctx context.Context) {
	for {
		o.mu.Lock()
		wait := never
		for _, d := range o.disks {
			if d.seen.strayed {
				wait = strayEvery
			}
		}
		o.mu.Unlock()
		sleepUntil(ctx, o.doubt, wait)
		if ctx.Err() != nil {
			return
		}
		o.mu.Lock()
		asked := o.vouching // what is asked from here on is for the next look
		o.vouching = nil
		o.mu.Unlock()
		strayed := o.lookNow()
		o.mu.Lock()
		for _, c := range asked {
			if strayed {
				c = wire.Confirm{Round: c.Round, Reason: wire.ReasonOutside}
			}
			if o.link.up {
				_ = o.answerLocked(c) // a DRVA that asks more than it reads hears nothing
			}
		}
		o.unlock()
	}
}

// arrived notes a client of the disk, which is looked at a last time: what was
// written unseen before is to be compared.
func (d *disk) arrived() {
	d.lookNow()
	o := d.out
	o.mu.Lock()
	defer o.unlock()
	if d.clients == 0 {
		d.wrote.Store(false)
		o.bootMayBeginLocked(d)
	}
	d.clients++
	if d.seen.strayed {
		o.foundLocked(d)
	}
	o.restateLocked()
}

// departed notes that a client has gone. From the last one on the image is
// watched, as the clients left it; if they wrote nothing, as they found it.
func (d *disk) departed() {
	o := d.out
	o.mu.Lock()
	d.clients--
	last := d.clients == 0
	if last {
		o.bootLeftLocked(d)
	}
	o.restateLocked()
	o.unlock()
	switch {
	case !last:
	case d.wrote.Load():
		d.renew()
	default:
		d.lookNow()
	}
}

// lookNow looks at the disk, if it is to be looked at.
func (d *disk) lookNow() {
	o := d.out
	o.mu.Lock()
	looks := []look{{d: d, was: d.seen.modified}}
	watched := d.watchableLocked()
	o.mu.Unlock()
	if watched {
		o.lookAt(looks)
	}
}

// renew takes the image as it is for as it should be: a sync of it is about to
// begin, or its last client has gone.
func (d *disk) renew() {
	if d.seen.image == "" {
		return
	}
	now := modified(d.seen.image)
	o := d.out
	o.mu.Lock()
	defer o.unlock()
	d.seen.modified, d.seen.strayed = now, false
	o.restateLocked()
}

// renewLocked is renew for the disks of a target that match.
func (f *Filter) renewLocked(t Target, match func(*disk) bool) {
	for _, p := range f.ports {
		if t.matches(p.disk) && match(p.disk) {
			p.disk.renew()
		}
	}
}
