package iofilter

import (
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/store/limit"
)

// Target names disks. The zero value is all of the host; VM alone, all of that
// VM; Disks, these.
type Target struct {
	VM    dr.VMID     `json:"vm,omitzero"`
	Disks []dr.DiskID `json:"disks,omitempty"`
}

// matches reports whether a disk is meant.
func (t *Target) matches(d *disk) bool {
	return (t.VM.IsZero() || d.info.VM == t.VM) && (len(t.Disks) == 0 || slices.Contains(t.Disks, d.info.ID))
}

// whole reports whether the host is meant with all it has and will have.
func (t *Target) whole() bool { return t.VM.IsZero() && len(t.Disks) == 0 }

// findLocked returns the ports of a target. Error: NotFound, if there is none
// or not each disk that is named.
func (f *Filter) findLocked(op string, t Target) (ports []*port, err error) {
	for _, p := range f.ports {
		if t.matches(p.disk) {
			ports = append(ports, p)
		}
	}
	if len(ports) == 0 || len(t.Disks) > 0 && len(ports) != len(t.Disks) {
		return nil, errs.New(op, errs.NotFound, t.String(), "this host does not protect it").
			WithRemedy("see holdfast status for what it protects")
	}
	return ports, nil
}

// String names the target for people.
func (t Target) String() string {
	switch {
	case len(t.Disks) > 0:
		return fmt.Sprintf("disk %v", t.Disks)
	case !t.VM.IsZero():
		return "vm " + t.VM.String()
	}
	return "host"
}

// SyncMode says how a forced sync finds what to send.
type SyncMode string

// The modes.
const (
	SyncBitmap SyncMode = "bitmap" // only what is known to have changed: what resync does by itself
	SyncHash   SyncMode = "hash"   // each chunk that differs from what the DRVA holds
	SyncFull   SyncMode = "full"   // every chunk
)

// Sync sends the content of disks anew, besides what is written; their next
// recovery points come when it has ended. Disks that are held stay so, and are
// sent once they are let go. Errors: NotFound; Invalid; Unavailable (another
// process is taking over: repeat).
func (f *Filter) Sync(t Target, mode SyncMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.syncLocked("iofilter.Sync", t, mode)
}

func (f *Filter) syncLocked(op string, t Target, mode SyncMode) error {
	if err := f.staysLocked(op); err != nil {
		return err
	}
	if _, err := f.findLocked(op, t); err != nil {
		return err
	}
	switch mode {
	case SyncBitmap: // as it does by itself
	case SyncFull, SyncHash:
		f.renewLocked(t, func(*disk) bool { return true })
		f.out.forceSync(t, mode == SyncHash)
	default:
		return errs.New(op, errs.Invalid, string(mode), "no such mode of sync").WithRemedy("choose bitmap, hash or full")
	}
	return nil
}

// Hold is said before disks are taken out of their guests' paths for a while, or
// when they are found to be: from its return on no checkpoint counts on them,
// since what the guests write then is in no record, until Vouch is said. Error:
// NotFound.
func (f *Filter) Hold(t Target) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.findLocked("iofilter.Hold", t); err != nil {
		return err
	}
	f.out.hold(t)
	return nil
}

// Vouch is said when all that is written to disks passes the host component from
// now on, or nobody writes to them: those that were held are let go, and all of
// them is compared. Then they are synced in a mode, those too that were not held.
// Errors as of Sync.
func (f *Filter) Vouch(t Target, mode SyncMode) error {
	const op = "iofilter.Vouch"
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.staysLocked(op); err != nil {
		return err
	}
	f.renewLocked(t, (*disk).held)
	f.out.letGo(t)
	return f.syncLocked(op, t, mode)
}

func (o *outlet) hold(t Target) {
	o.mu.Lock()
	defer o.unlock()
	for _, d := range o.disks {
		if t.matches(d) && d.member.leave == nil {
			d.member.held = true
			o.oweLocked(d)
		}
	}
	o.membersMovedLocked(o.now())
	o.restateLocked()
}

func (d *disk) held() bool {
	d.out.mu.Lock()
	defer d.out.mu.Unlock()
	return d.member.held
}

// letGo has disks copied that were held: all of them, since what was written
// unseen is not marked; by comparison, unless no copy was ever begun.
func (o *outlet) letGo(t Target) {
	o.mu.Lock()
	var free []*disk
	for _, d := range o.disks {
		if !t.matches(d) || !d.member.held {
			continue
		}
		d.member.held = false
		if d.dirty.Count() < d.dirty.Chunks() {
			d.dirty.SetAll()
			d.compare = true
			o.bypassLocked(d)
		}
		d.progress.begin(d.dirty.Count(), o.now())
		free = append(free, d)
	}
	o.restateLocked()
	o.unlock()
	// After the marks: what is marked no round closes.
	for _, d := range free {
		d.keep.openAll()
	}
	signal(o.syncKick)
}

// forceSync marks all of the disks dirty, behind a TrackBegin; compare: what the
// DRVA holds already is not shipped, where that can be known.
func (o *outlet) forceSync(t Target, compare bool) {
	o.mu.Lock()
	var forced []*disk
	for _, d := range o.disks {
		if t.matches(d) && d.member.leave == nil {
			d.dirty.SetAll()
			d.forced, d.compare = true, compare
			o.oweLocked(d)
			forced = append(forced, d)
		}
	}
	o.membersMovedLocked(o.now())
	o.restateLocked()
	o.unlock()
	// After the marks: what is marked no round closes.
	for _, d := range forced {
		d.keep.openAll()
	}
	signal(o.syncKick)
}

// SetBandwidth changes what the first copy and resyncs may read and when; it
// holds at once.
func (f *Filter) SetBandwidth(s limit.Schedule) { f.pace.set(s) }

// Bandwidth returns what holds, and the rate of this moment in bytes a second,
// which may be less while the primaries answer guests slowly.
func (f *Filter) Bandwidth() (s limit.Schedule, now limit.Rate) { return f.pace.get() }
