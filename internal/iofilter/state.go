package iofilter

import (
	"time"

	"holdfast/internal/dr"
)

// State says how well a host or a disk is protected, in a word.
type State string

// The states. States says what each means and what to do about it.
const (
	Streaming    State = "streaming"
	NotActive    State = "not-active"
	Syncing      State = "syncing"
	Resync       State = "resync"
	BackPressure State = "back-pressure"
	Disconnected State = "disconnected"
	Tracking     State = "tracking"
	PausedUser   State = "paused-user"
	PausedSystem State = "paused-system"
	Failed       State = "error"
)

// StateInfo is what there is to say about a state.
type StateInfo struct {
	State   State
	Meaning string
	Points  string // whether new recovery points cover the disk
	Remedy  string // what a person should do
}

// states are in order of rank: of two that hold, a disk is in the later one.
var states = []StateInfo{
	{Streaming, "every write goes to the DRVA, whose copy is complete", "yes", "nothing"},
	{NotActive, "as streaming, and nobody has the disk open: its VM is powered off, or not connected", "yes", "nothing if the VM is meant to be off; else see that its disk is connected to the socket"},
	{Syncing, "every write goes to the DRVA; the first copy of the disk is being made", "when it has ended", "wait for the end it tells; allow more bandwidth if that is too late"},
	{Resync, "every write goes to the DRVA; what it missed is being sent", "when it has ended", "wait for the end it tells; allow more bandwidth if that is too late"},
	{BackPressure, "guests' writes wait, briefly, because the DRVA takes less than they write", "yes", "if it stays: a faster link or DRVA, a larger ring_bytes, or less load"},
	{Disconnected, "there is no link to the DRVA; writes gather in the stream until it is full", "older ones stay usable", "see that the DRVA runs and can be reached; the status tells the error"},
	{Tracking, "writes are acknowledged by the primary alone and remembered; only what changed is sent afterwards", "older ones stay usable", "see the cause; it ends by itself when that is gone"},
	{PausedSystem, "as tracking, because the DRVA asked for it", "older ones stay usable", "see the status of the DRVA for its reason"},
	{PausedUser, "as tracking, because a person asked for it", "older ones stay usable", "holdfast resume"},
	{Failed, "the disk cannot be read, so that its copy cannot be completed", "older ones stay usable", "repair the disk or its storage; it is tried again every second"},
}

// States returns all states, in order of rank: of two that hold for a disk,
// the later one is shown.
func States() []StateInfo { return append([]StateInfo(nil), states...) }

// RemedyOf is what a person should do about a state; empty for a word that is
// no state.
func RemedyOf(s State) string {
	for i := range states {
		if states[i].State == s {
			return states[i].Remedy
		}
	}
	return ""
}

// rank orders states; unknown ones come first.
func rank(s State) int {
	for i := range states {
		if states[i].State == s {
			return i
		}
	}
	return -1
}

// CauseInfo is a reason to be in a state.
type CauseInfo struct {
	Cause  string
	State  State
	Remedy string
}

// Why a host or a disk is not streaming; shown to people.
const (
	causeStarting   = "the host component has just started"
	causeFull       = "the stream is full and the DRVA takes nothing from it"
	causeSlow       = "the DRVA takes less than the guests write"
	causeCutOff     = "the stream is full and there is no link to the DRVA"
	causeSilent     = "the DRVA does not acknowledge writes in time"
	causeLost       = "the DRVA does not know this host's stream any more"
	causeUnsynced   = "the DRVA has no complete copy of a disk"
	causeUnreadable = "the primary could not be read"
	causeNoLink     = "there is no link to the DRVA"
	causeJoining    = "the DRVA has not been told of the disk yet"
	causeHeld       = "the disk is not in its guest's path yet"
	causeStray      = "the disk is written past the host component"
	causePaused     = "paused by a user"
	causePressure   = "the stream is full"
	causeNoClient   = "no client is connected to the disk's socket"
	causeFirst      = "the first copy"
	causeChanged    = "what changed while the host or the disk was tracked"
	causeForced     = "a user asked for a sync"
)

// strayRemedy is what to do about causeStray.
const strayRemedy = "see who writes to the image while no client is connected; it is compared when that ends, or its VM is connected"

var causes = []CauseInfo{
	{causeStarting, Tracking, "nothing: it ends when the DRVA has been reached"},
	{causeFull, Tracking, "see that the DRVA is well and its log has room"},
	{causeSlow, Tracking, "a faster link or DRVA, a larger ring_bytes, or less load"},
	{causeCutOff, Tracking, "see that the DRVA runs and can be reached"},
	{causeSilent, Tracking, "see that the DRVA is well and its log's disk is fast enough"},
	{causeLost, Tracking, "nothing: all disks are compared or copied again; find out what the DRVA's log lost"},
	{causeUnsynced, Tracking, "nothing: the disk is copied again"},
	{causeUnreadable, Tracking, "repair the disk or its storage"},
	{causeNoLink, Disconnected, "see that the DRVA runs and can be reached"},
	{causeJoining, Tracking, "nothing: it takes one exchange with the DRVA"},
	{causeHeld, Tracking, "nothing: it is copied when the guest writes through the host component"},
	{causeStray, Tracking, strayRemedy},
	{causePaused, PausedUser, "holdfast resume"},
	{causePausedUser, PausedUser, "holdfast resume, at the socket of the DRVA"},
	{causeLogFull, PausedSystem, "see that the DRVA's store can be reached and is fast enough, or give its log a larger quota"},
	{causePressure, BackPressure, "if it stays: a faster link or DRVA, a larger ring_bytes, or less load"},
	{causeNoClient, NotActive, "nothing if the VM is meant to be off"},
	{causeFirst, Syncing, "wait; allow more bandwidth if that takes too long"},
	{causeChanged, Resync, "wait; allow more bandwidth if that takes too long"},
	{causeForced, Resync, "wait; allow more bandwidth if that takes too long"},
}

// Causes returns all causes that Holdfast itself gives for a state. An error
// of the primary has the system's words besides.
func Causes() []CauseInfo { return append([]CauseInfo(nil), causes...) }

// stateOfCause is the state a cause of tracking means.
func stateOfCause(cause string) State {
	for i := range causes {
		if causes[i].Cause == cause {
			return causes[i].State
		}
	}
	return Tracking
}

// shown is a state as it was last told. Guarded by the outlet's mutex.
type shown struct {
	state State
	cause string
	since time.Time
}

// hostStateLocked is the host's state, its disks' own apart.
func (o *outlet) hostStateLocked() (State, string) {
	switch {
	case o.mode.tracking:
		return stateOfCause(o.mode.cause), o.mode.cause
	case !o.link.up && !o.link.rejoining():
		return Disconnected, causeNoLink
	case o.pressure.began != 0:
		return BackPressure, causePressure
	}
	return Streaming, ""
}

// diskStateLocked is a disk's own state, as if the host streamed.
func (o *outlet) diskStateLocked(d *disk) (State, string) {
	m := &d.member
	switch {
	case d.readError != nil:
		return Failed, causeUnreadable + ": " + d.readError.Error()
	case m.paused != "":
		return stateOfCause(m.paused), m.paused
	case m.owed:
		return Tracking, causeJoining
	case m.held:
		return Tracking, causeHeld
	case d.seen.strayed:
		return Tracking, causeStray
	case !d.unsynced && (d.dirty.Count() == 0 || d.out.mode.tracking): // what a host tracks counts when it streams again
	case d.forced:
		return Resync, causeForced
	case d.complete:
		return Resync, causeChanged
	default:
		return Syncing, causeFirst
	}
	if d.clients == 0 && d.attachable {
		return NotActive, causeNoClient
	}
	return Streaming, ""
}

// restateLocked looks whether states have changed, and tells it. Called
// whenever something happened that may have changed one.
func (o *outlet) restateLocked() {
	s, cause := o.hostStateLocked()
	if s != o.shown.state || cause != o.shown.cause {
		e := Event{From: o.shown.state, To: s, Cause: cause}
		for _, d := range o.disks {
			e.DirtyBytes += d.dirtyBytes()
		}
		o.shown = shown{s, cause, o.tellLocked(e)}
	}
	for _, d := range o.disks {
		if d.calm != nil && (!d.unsynced && d.dirty.Count() == 0 || d.barredLocked()) {
			close(d.calm)
			d.calm = nil
		}
		if d.member.leave != nil {
			continue
		}
		s, cause := o.diskStateLocked(d)
		if s == d.shown.state && cause == d.shown.cause {
			continue
		}
		e := Event{VM: d.info.VM, VMName: o.vmNameLocked(d.info.VM), Disk: d.info.ID, DiskName: d.info.Name,
			From: d.shown.state, To: s, Cause: cause, DirtyBytes: d.dirtyBytes(), ETASeconds: d.eta(o.now())}
		d.shown = shown{s, cause, o.tellLocked(e)}
	}
}

func (o *outlet) vmNameLocked(id dr.VMID) string {
	for i := range o.vms {
		if o.vms[i].ID == id {
			return o.vms[i].Name
		}
	}
	return ""
}

// dirtyBytes is what has to be copied.
func (d *disk) dirtyBytes() int64 { return min(d.dirty.Count()*dr.ChunkSize, d.size) }

// eta is how many seconds the running copy will take at the pace it had so
// far; 0: unknown, or there is none.
func (d *disk) eta(now time.Duration) int64 {
	p, left := &d.progress, d.dirtyBytes()
	total := min(p.total*dr.ChunkSize, d.size)
	done := total - left
	if p.began == 0 || done <= 0 || left == 0 {
		return 0
	}
	return int64((now-p.began).Seconds()*float64(left)/float64(done) + 0.5)
}
