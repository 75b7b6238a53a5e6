package iofilter

import (
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// Status is a picture of a Filter at one moment. Byte counts are since the
// host component started unless said otherwise.
type Status struct {
	Domain dr.DomainID `json:"domain"`
	Host   dr.HostID   `json:"host"`
	Name   string      `json:"name"`
	Ack    string      `json:"ack"`
	// State is the host's own or, if that is Streaming, the worst of its disks'.
	State  State     `json:"state"`
	Cause  string    `json:"cause,omitempty"`  // why the state is not Streaming
	Remedy string    `json:"remedy,omitempty"` // what can be done about it
	Since  time.Time `json:"since,omitzero"`   // when the state began

	// Watchdog is the process that takes the guests off this one when it dies;
	// nil: there is to be none.
	Watchdog *WatchdogStatus `json:"watchdog,omitempty"`

	Link   LinkStatus   `json:"link"`
	Stream StreamStatus `json:"stream"`
	Rounds RoundStatus  `json:"rounds"`
	Disks  []DiskStatus `json:"disks"`
}

// WatchdogStatus is the watchdog of a host component.
type WatchdogStatus struct {
	PID    int       `json:"pid,omitempty"`   // 0: there is none now, another one is about to be started
	Since  time.Time `json:"since,omitzero"`  // when that began
	Starts uint64    `json:"starts"`          // how many were started
	Error  string    `json:"error,omitempty"` // how the last one ended, or why none could be started
}

// LinkStatus is the connection to the DRVA.
type LinkStatus struct {
	Up       bool       `json:"up"`
	Session  dr.Session `json:"session,omitempty"`
	Connects uint64     `json:"connects"`         // how often a link came up
	Error    string     `json:"error,omitempty"`  // why there is none
	Remedy   string     `json:"remedy,omitempty"` // what can be done about it
}

// StreamStatus is the host's stream.
type StreamStatus struct {
	Next      dr.HostSeq `json:"next"`      // number of the next record
	Sequenced dr.HostSeq `json:"sequenced"` // up to here the DRVA has given places
	Durable   dr.HostSeq `json:"durable"`   // up to here its log holds everything
	RingBytes int64      `json:"ring_bytes"`
	RingUsed  int64      `json:"ring_used"` // payload retained now
	Records   uint64     `json:"records"`   // entered
	Bytes     uint64     `json:"bytes"`     // payload entered
	SentBytes uint64     `json:"sent_bytes"`
	Tracked   uint64     `json:"tracked_bytes"`  // of disks, that syncs had to deal with when they began
	SyncBytes uint64     `json:"sync_bytes"`     // read by the sync cursor
	Compared  uint64     `json:"compared_bytes"` // of disks, with what the DRVA holds; holes included
	Shipped   uint64     `json:"shipped_bytes"`  // payload the sync cursor put into the stream
	Stalls    uint64     `json:"stalls"`         // stretches in which writes waited for room
	Trackings uint64     `json:"trackings"`      // how often tracking began
}

// RoundStatus is the host's part in checkpoint rounds.
type RoundStatus struct {
	Holds         uint64  `json:"holds"`
	Refused       uint64  `json:"refused"` // rounds not confirmed
	LongestHoldMS float64 `json:"longest_hold_ms"`
}

// DiskStatus is one disk.
type DiskStatus struct {
	ID         dr.DiskID `json:"id"`
	VM         dr.VMID   `json:"vm"`
	VMName     string    `json:"vm_name"`
	Name       string    `json:"name"`
	Size       int64     `json:"size"` // bytes
	State      State     `json:"state"`
	Cause      string    `json:"cause,omitempty"`
	Remedy     string    `json:"remedy,omitempty"`
	Since      time.Time `json:"since,omitzero"`
	Clients    int       `json:"clients"`               // NBD connections that use it
	DirtyBytes int64     `json:"dirty_bytes"`           // to be copied, now
	SyncTotal  int64     `json:"sync_total,omitempty"`  // bytes to be copied when the running sync began
	SyncDone   int64     `json:"sync_done,omitempty"`   // of these, bytes copied
	ETASeconds int64     `json:"eta_seconds,omitempty"` // of the running sync; 0: unknown
	OpenBytes  int64     `json:"open_bytes"`            // what would be copied again if the host ended now; 0 without a sidecar: all
	NoSidecar  bool      `json:"no_sidecar,omitempty"`  // a restart copies the disk whole: there is no sidecar, or it cannot be written
}

// Status returns the present picture. Safe for concurrent use.
func (f *Filter) Status() Status {
	s := Status{Domain: f.cfg.Domain, Host: f.cfg.Host, Name: f.cfg.Name, Watchdog: f.watchdog.Load()}
	f.out.fill(&s)
	return s
}

// fill adds what the outlet knows.
func (o *outlet) fill(s *Status) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	l := &o.link
	s.Ack = o.ack.String()
	s.Link = LinkStatus{Up: l.up, Connects: o.stats.connects}
	if l.up {
		s.Link.Session = l.session
	} else if l.err != nil {
		s.Link.Error, s.Link.Remedy = l.err.Error(), errs.RemedyOf(l.err)
	}
	s.Stream = StreamStatus{
		Next: o.str.Next(), Sequenced: o.str.Sequenced(), Durable: o.str.Durable(),
		RingBytes: o.str.Size(), RingUsed: o.str.Used(),
		Records: o.stats.records, Bytes: o.stats.bytes, SentBytes: o.stats.sentBytes,
		Tracked: o.stats.trackedBytes, SyncBytes: o.stats.syncedBytes, Compared: o.stats.comparedBytes, Shipped: o.stats.shippedBytes, Stalls: o.stats.stalls, Trackings: o.stats.trackings,
	}
	s.Rounds = RoundStatus{
		Holds: o.stats.holds, Refused: o.stats.refused,
		LongestHoldMS: float64(o.stats.longestHold) / float64(time.Millisecond),
	}
	o.restateLocked()
	host := o.shown
	worst := host
	for _, d := range o.disks {
		if d.member.leave != nil {
			continue
		}
		s.Disks = append(s.Disks, o.diskStatusLocked(d, host, now))
		if host.state == Streaming && d.shown.state != NotActive && rank(d.shown.state) > rank(worst.state) {
			worst = d.shown
		}
	}
	s.State, s.Cause, s.Since, s.Remedy = worst.state, worst.cause, worst.since, remedyOf(worst)
}

// diskStatusLocked is one disk's part; of its own state and the host's, it
// shows the one of higher rank.
func (o *outlet) diskStatusLocked(d *disk, host shown, now time.Duration) DiskStatus {
	show := d.shown
	if rank(host.state) > rank(show.state) {
		show = host
	}
	ds := DiskStatus{
		ID: d.info.ID, VM: d.info.VM, VMName: o.vmNameLocked(d.info.VM), Name: d.info.Name, Size: d.size,
		State: show.state, Cause: show.cause, Since: show.since, Remedy: remedyOf(show),
		Clients: d.clients, DirtyBytes: d.dirtyBytes(),
		OpenBytes: min(d.keep.openBytes(), d.size), NoSidecar: d.keep.useless(),
	}
	if (d.unsynced || ds.DirtyBytes > 0) && d.progress.began != 0 {
		ds.SyncTotal = min(d.progress.total*dr.ChunkSize, d.size)
		ds.SyncDone = max(ds.SyncTotal-ds.DirtyBytes, 0)
		ds.ETASeconds = d.eta(now)
	}
	return ds
}

// remedyOf is what to do about a state and its cause; empty when there is
// nothing to do.
func remedyOf(s shown) string {
	for i := range causes {
		if causes[i].Cause == s.cause {
			return causes[i].Remedy
		}
	}
	if s.state == Streaming {
		return ""
	}
	return RemedyOf(s.state)
}
