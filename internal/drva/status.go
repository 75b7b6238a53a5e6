package drva

import (
	"cmp"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// counters are written on the hot path.
type counters struct {
	bytesIn, records atomic.Uint64
	drained          atomic.Uint64 // payload of published objects, as it came in
}

// runStatus is what Status tells besides the order. Guarded by Server.mu.
type runStatus struct {
	cut, group, partial uint64
	published           uint64 // checkpoints
	objects             uint64
	raw, stored         uint64
	lastGroup           time.Time     // the newest group checkpoint the container holds, or an equal one
	groupSeen           time.Time     // when that was noted
	groupAge            time.Duration // and how old it was then
	lastPublished       *dr.Checkpoint
	rate                rate
	errors              []TimedError
	load                LoadStatus
	meeting             Meeting
	missing             int // VMs the newest checkpoint's cut does not cover
	paused              *Pause
}

// maxErrors bounds the errors a status shows.
const maxErrors = 8

// TimedError is a failure and when it happened.
type TimedError struct {
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"`
	Error  string    `json:"error"`
	Remedy string    `json:"remedy,omitempty"`
}

// Status is a snapshot of the appliance for people and for management. It is
// at most half a second old.
type Status struct {
	Domain dr.DomainID `json:"domain"`
	State  string      `json:"state"` // "starting", "replaying", "serving", "full", "stopped"
	Hosts  []Host      `json:"hosts"`
	Disks  []Disk      `json:"disks"`
	Seq    dr.Seq      `json:"seq"` // last place given out

	Checkpoints Checkpoints `json:"checkpoints"`
	// RPO is the age, in seconds, of the newest point all VMs can be recovered
	// to from the container; negative: there is none yet.
	RPO float64 `json:"rpo_seconds"`
	// RPOTarget is what is promised, in seconds, and RPOState whether it is
	// kept; absent: nothing is.
	RPOTarget float64 `json:"rpo_target_seconds,omitempty"`
	RPOState  Meeting `json:"rpo_state,omitempty"`

	// Paused is set while a person has paused the domain.
	Paused *Pause     `json:"paused,omitempty"`
	Load   LoadStatus `json:"load"`

	Log         LogStatus       `json:"log"`
	BytesIn     uint64          `json:"bytes_in"`     // payload from hosts
	Records     uint64          `json:"records_in"`   // from hosts
	BytesRaw    uint64          `json:"bytes_raw"`    // data of published objects before packing
	BytesStored uint64          `json:"bytes_stored"` // of published objects
	Objects     uint64          `json:"objects"`      // published by this run
	Publisher   PublisherStatus `json:"publisher"`
	Errors      []TimedError    `json:"errors"` // newest last
	Seeds       []SeedStatus    `json:"seeds,omitempty"`
}

// Host is a host the log knows.
type Host struct {
	ID       dr.HostID  `json:"id"`
	Name     string     `json:"name"`
	Session  dr.Session `json:"session"`
	Ack      string     `json:"ack"`
	State    string     `json:"state"` // "away", "replaying", "live"
	Received dr.HostSeq `json:"received"`
	Durable  dr.HostSeq `json:"durable"`
	Queued   int        `json:"queued"`
}

// Disk is a disk of the domain.
type Disk struct {
	ID    dr.DiskID `json:"id"`
	VM    dr.VMID   `json:"vm"`
	Size  int64     `json:"size"`
	State string    `json:"state"` // "synced", "syncing", "unsynced"
	Host  string    `json:"host"`  // name; empty: no host has it
}

// Checkpoints counts since this run began.
type Checkpoints struct {
	Taken         uint64         `json:"taken"`
	Group         uint64         `json:"group"`
	Partial       uint64         `json:"partial"`
	Published     uint64         `json:"published"`
	Missing       int            `json:"missing"` // VMs the newest cut does not cover
	LastPublished *dr.Checkpoint `json:"last_published,omitempty"`
	LastGroup     time.Time      `json:"last_group"` // zero: none
}

// LogStatus is the replication log.
type LogStatus struct {
	Used  int64   `json:"used"`
	Quota int64   `json:"quota"`
	Rate  float64 `json:"rate"` // bytes a second, over about a minute
	// Absorbs is how long, in seconds, the store may be away at this rate
	// before capture stops; negative: no end in sight.
	Absorbs float64 `json:"absorbs_seconds"`
}

// LoadStatus is how near the log is to its quota and what is done about it.
type LoadStatus struct {
	Level Level     `json:"level"`
	Since time.Time `json:"since"`
	Cause string    `json:"cause,omitempty"` // why it fills; empty at LevelNormal
	Fill  float64   `json:"fill"`            // part of the quota
	In    float64   `json:"in"`              // bytes a second that come from hosts, over about 10 s
	Out   float64   `json:"out"`             // of these, published
	// Throttle is what hosts together may acknowledge, bytes a second; 0: no
	// limit.
	Throttle    float64 `json:"throttle,omitempty"`
	Compression string  `json:"compression,omitempty"` // in use now
}

// PublisherStatus is the way to the container.
type PublisherStatus struct {
	Open      bool            `json:"open"`
	Epoch     dr.Epoch        `json:"epoch"`
	Published dr.ObjectNumber `json:"published"`
	UnderWay  int             `json:"under_way"`
	Oldest    float64         `json:"oldest_seconds"`
	Failures  int             `json:"failures"`
	LastError string          `json:"last_error,omitempty"`
	Stopped   string          `json:"stopped,omitempty"`
	// With locks: until when what a recovery needs besides data is held, and
	// why the last try to hold it longer failed.
	HeldUntil time.Time `json:"held_until,omitzero"`
	HoldError string    `json:"hold_error,omitempty"`
}

// Status tells how the appliance is. Cheap.
func (s *Server) Status() Status {
	st := Status{Domain: s.cfg.Domain, State: "starting", BytesIn: s.count.bytesIn.Load(), Records: s.count.records.Load(), RPO: -1}
	if o := s.order.Load(); o != nil {
		st.fromOrder(o)
	}
	select {
	case <-s.stopped:
		st.State = "stopped"
	default:
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.run
	st.Checkpoints = Checkpoints{Taken: r.cut, Group: r.group, Partial: r.partial, Published: r.published,
		Missing: r.missing, LastPublished: r.lastPublished, LastGroup: r.lastGroup}
	st.RPO = r.rpo(now)
	st.BytesRaw, st.BytesStored, st.Objects = r.raw, r.stored, r.objects
	st.Errors = append([]TimedError{}, r.errors...)
	st.RPOTarget, st.RPOState = s.tuning.Load().RPOTarget.Seconds(), r.meeting
	st.Paused, st.Load = r.paused, r.load
	for _, j := range s.seeds {
		st.Seeds = append(st.Seeds, j.SeedStatus)
	}
	if s.rl != nil {
		u := s.rl.Usage()
		st.Log = LogStatus{Used: u.Used, Quota: u.Quota, Rate: r.rate.perSecond, Absorbs: -1}
		if r.rate.perSecond >= 1 {
			st.Log.Absorbs = math.Floor(float64(max(0, u.Quota-u.Used)) / r.rate.perSecond)
		}
	}
	if s.pub != nil {
		st.Publisher.from(s)
	}
	return st
}

func (st *Status) fromOrder(o *order.Status) {
	st.State, st.Seq = "serving", o.Last
	switch {
	case o.Merging:
		st.State = "replaying"
	case o.Paused:
		st.State = "full"
	}
	st.Hosts = make([]Host, 0, len(o.Hosts))
	for _, h := range o.Hosts {
		state := "away"
		switch {
		case h.Replayed:
			state = "live"
		case h.Conn != 0:
			state = "replaying"
		}
		st.Hosts = append(st.Hosts, Host{ID: h.Host, Name: h.Name, Session: h.Session, Ack: h.Ack.String(), State: state,
			Received: h.Received, Durable: h.Durable, Queued: h.Queued})
	}
	st.Disks = make([]Disk, 0, len(o.Disks))
	for _, d := range o.Disks {
		state := "unsynced"
		switch {
		case d.Synced:
			state = "synced"
		case d.Syncing:
			state = "syncing"
		}
		st.Disks = append(st.Disks, Disk{ID: d.ID, VM: d.VM, Size: d.Size, State: state, Host: d.HostName})
	}
}

// from fills p. Caller holds s.mu.
func (p *PublisherStatus) from(s *Server) {
	u := s.pub.Status()
	*p = PublisherStatus{Open: u.Stopped == nil, Epoch: u.Epoch, Published: u.Published, UnderWay: u.UnderWay,
		Oldest: u.Oldest.Seconds(), Failures: u.Failures, HeldUntil: u.HeldUntil}
	if u.HoldError != nil {
		p.HoldError = u.HoldError.Error()
	}
	if u.LastError != nil {
		p.LastError = u.LastError.Error()
	}
	if u.Stopped != nil {
		p.Stopped = u.Stopped.Error()
	}
}

// tookResult counts a checkpoint's outcome.
func (s *Server) tookResult(r *order.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run.cut++
	s.run.missing = len(r.Missing)
	if r.Scope == dr.Group {
		s.run.group++
	} else {
		s.run.partial++
	}
}

// skipped notes a checkpoint that equals shown, which is in the container or on
// its way there.
func (s *Server) skipped(cp, shown *dr.Checkpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.run.lastPublished; p != nil && p.ID == shown.ID && cp.Scope == dr.Group {
		s.run.sawGroup(cp.Time, time.Now())
	}
}

// shows notes the newest checkpoint of the container. Caller holds Server.mu.
func (r *runStatus) shows(cp *dr.Checkpoint) {
	r.lastPublished = cp
	if cp.Scope == dr.Group {
		r.sawGroup(cp.Time, time.Now())
	}
}

// sawGroup notes the time of the newest group checkpoint. Caller holds
// Server.mu.
func (r *runStatus) sawGroup(at, now time.Time) {
	r.lastGroup, r.groupSeen, r.groupAge = at, now, max(0, now.Sub(at))
}

// rpo is how old the newest group checkpoint is, in seconds; negative: there is
// none. It goes on by the monotonic clock, so that an alarm is neither raised
// nor lowered because somebody sets the clock. Caller holds Server.mu.
func (r *runStatus) rpo(now time.Time) float64 {
	if r.lastGroup.IsZero() {
		return -1
	}
	return (r.groupAge + now.Sub(r.groupSeen)).Seconds()
}

// settled counts a published object.
func (s *Server) settled(o *object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.run
	r.objects++
	r.raw += o.raw
	s.count.drained.Add(o.raw)
	r.stored += uint64(o.pending.Size())
	if o.cp == nil {
		return
	}
	r.published++
	r.shows(o.cp)
}

// event tells operators what happened to the order.
func (s *Server) event(e order.Event) {
	switch e.Kind {
	case order.HostLost:
		s.emit(Event{Code: "host-lost", Severity: Warning, Object: "host " + e.Host.String(), Text: "a known host did not come back in time after a restart", Remedy: "bring the host back; its disks sync again"})
	case order.Disordered:
		s.emit(Event{Code: "host-disordered", Severity: Warning, Object: "host " + e.Host.String(), Text: "replayed records lost their place in the order; its disks sync again"})
	case order.DiskUnsynced:
		s.emit(Event{Code: "disk-unsynced", Severity: Warning, Object: "disk " + e.Disk.String(), Text: "the disk must be synced; until then no new point of it can be recovered"})
	case order.ReplayDone:
		s.emit(Event{Code: "replay-done", Severity: Info, Object: "domain", Text: fmt.Sprintf("the order is whole again after a restart, %d places were filled", e.Count)})
	}
}

// noteError keeps err for the status.
func (s *Server) noteError(err error) {
	if err == nil || errs.Is(err, errs.Canceled) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := TimedError{Time: time.Now().UTC(), Kind: errs.KindOf(err).String(), Error: err.Error(), Remedy: errs.RemedyOf(err)}
	s.run.errors = append(s.run.errors, e)
	if n := len(s.run.errors); n > maxErrors {
		s.run.errors = append(s.run.errors[:0], s.run.errors[n-maxErrors:]...)
	}
}

// showLoad keeps the sequencer's view of the log for the status.
func (s *Server) showLoad(o *overload, fill float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.run.load
	l.Level, l.Since, l.Cause, l.Fill = o.level, o.since.UTC(), o.cause, fill
	l.In, l.Out, l.Throttle = o.in.perSecond, o.out.perSecond, o.throttle
}

// showCompression keeps how the last object was packed for the status.
func (s *Server) showCompression(l segment.Level) {
	s.mu.Lock()
	s.run.load.Compression = wordOf(l)
	s.mu.Unlock()
}

// cause says in a few words what holds points up; empty: nothing known.
func (st *Status) cause() string {
	away := 0
	for _, h := range st.Hosts {
		if h.State != "live" {
			away++
		}
	}
	switch {
	case st.Paused != nil:
		return "protection is paused by a user"
	case st.Publisher.LastError != "":
		return "the store does not take what is published: " + st.Publisher.LastError
	case st.Load.Level >= LevelTrack:
		return "hosts track: " + st.Load.Cause
	case away > 0:
		return fmt.Sprintf("%d of %d hosts are away or replaying", away, len(st.Hosts))
	case st.Checkpoints.Missing > 0:
		return fmt.Sprintf("checkpoints lack %d VM(s): a disk is being synced, or a host tracks", st.Checkpoints.Missing)
	}
	return st.Load.Cause
}

// rate is a moving average of a growing counter over a window; zero: about a
// minute.
type rate struct {
	perSecond float64
	window    time.Duration
	last      uint64
	at        time.Time
}

// rateWindow is the memory of a rate.
const rateWindow = time.Minute

func (r *rate) add(total uint64, now time.Time) {
	if !r.at.IsZero() && now.After(r.at) {
		dt := now.Sub(r.at).Seconds()
		share := 1 - math.Exp(-dt/cmp.Or(r.window, rateWindow).Seconds())
		r.perSecond += share * (float64(total-r.last)/dt - r.perSecond)
	}
	r.last, r.at = total, now
}
