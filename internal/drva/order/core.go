package order

import (
	"cmp"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// ConnID names a connection of a host. The caller never uses one twice; 0
// means "none".
type ConnID uint64

// Config holds a core's limits. Zero fields take the defaults of limits.go.
type Config struct {
	MarkerLimit  time.Duration // how long a round waits for markers
	ConfirmLimit time.Duration // how long a round waits for answers
	ReplayLimit  time.Duration // how long a restart waits for known hosts
	FreezeWait   time.Duration // how long an application-consistent round waits for guests to freeze
	ThawWait     time.Duration // and for the word that they stayed frozen
	FreezeLimit  time.Duration // when hosts thaw by themselves; longer than FreezeWait
}

// Frame is one Records frame of a host. The core owns it from [Core.Frame]
// until it comes back in an Output, and rewrites Seq, Session and Disk of its
// records in place.
type Frame struct {
	Recs []record.Record // in stream order; a Marker only as the last
	// Owner is the caller's: the buffers behind Recs.
	Owner any

	stamp  uint64 // arrival, over all streams
	replay bool   // sent before the host's ReplayEnd
	next   int    // first record not yet sequenced
	marker bool   // the last record is a Marker
}

// Append is a run of records for the log, dense in Seq, to be appended in the
// order of the Output.
type Append struct {
	Recs []record.Record
	// Frame is where Recs lie, nil for the core's own records. With Last, the
	// frame is not referenced by any later Append: once these records are
	// durable its memory is free.
	Frame *Frame
	Last  bool
}

// Send is a frame for a host. Type says which of the other fields counts.
type Send struct {
	Conn    ConnID
	Type    wire.Type     // Welcome, Refuse, Ack, Hold, Release, Mark, Freeze or Thaw
	Round   wire.Round    // Hold, Release, Mark, Freeze, Thaw
	Limit   time.Duration // Freeze
	Span    wire.Span     // Ack; Count 0: only Durable
	Durable dr.HostSeq    // Ack; 0: only Span
	Welcome *wire.Welcome // Welcome
	Refuse  *wire.Refuse  // Refuse: the connection ends after it
}

// EventKind names what happened to the order, for logs and status.
type EventKind string

// The events.
const (
	HostLost      EventKind = "host-lost"      // a known host did not come back in time
	ReplayDone    EventKind = "replay-done"    // the order is whole again after a restart
	DiskUnsynced  EventKind = "disk-unsynced"  // the disk must be synced from the start
	DiskSuspended EventKind = "disk-suspended" // the disk must be synced where its host's sidecar says
	Disordered    EventKind = "disordered"     // replayed records found their places taken
)

// Event is one happening a person may want to know.
type Event struct {
	Kind  EventKind
	Host  dr.HostID
	Disk  dr.DiskID
	Count uint64 // ReplayDone: places filled with Pad
}

// Output is what a core wants done. Sends may be carried out before Appends
// are durable.
type Output struct {
	Appends []Append
	Sends   []Send
	Free    []*Frame // frames without a record for the log
	Results []Result
	Events  []Event
}

// Result is the outcome of a checkpoint. It is for good once the record at Seq
// is durable; what it says is true at once.
type Result struct {
	dr.Checkpoint
	Seq    dr.Seq // place of the CheckpointResult record
	Faults []FreezeFault
}

// Core is the sequencer of one domain. Not safe for concurrent use.
type Core struct {
	cfg     Config
	state   *State
	now     time.Time
	lastCut time.Time // of the newest checkpoint this process has cut; zero: none

	streams map[dr.Session]*stream
	conns   map[ConnID]*stream
	order   []*stream // streams by session, for a stable iteration
	stamps  uint64
	top     dr.Session         // highest session number given out
	metas   map[dr.VMID]uint32 // checksum of each VM's configuration as logged
	paused  bool
	parked  []parked // Hellos that came while paused
	merge   *merge   // nil once the order is whole again
	round   *round   // nil between rounds
	flight  []flight
	out     Output
	flaws   flaws
}

// flaws switch off single rules, most of application-consistent rounds, for tests
// that prove the worth of other tests. All false outside them.
type flaws struct {
	noMarker    bool // cut when all are frozen, not behind a marker
	trustFrozen bool // do not ask whether guests stayed frozen
	countLate   bool // a report after the cut counts
	// The time of a checkpoint of an asynchronous host is that at which it was
	// placed: not a rule of application-consistent rounds.
	timeOfArrival bool
}

// stream is one session as the core serves it.
type stream struct {
	session  dr.Session
	host     dr.HostID
	name     string
	ack      dr.AckRule
	conn     ConnID             // 0: not connected
	hello    map[uint16]dr.Disk // wire index → disk, as the last Hello said
	binds    map[uint16]uint16  // wire index → domain index, as the log says
	pending  *wire.Hello        // not yet bound
	nonce    uint64
	resume   map[uint16]*wire.HelloResume // wire indices with a sidecar, as the last Hello said
	resync   map[uint16]bool              // wire indices the last Welcome called unsynced
	resumed  map[uint16]bool              // wire indices the last Welcome called resumed
	unbound  map[uint16]bool              // wire indices with records that were not sequenced
	gap      bool                         // the last Hello left out records the log does not hold
	queue    []*Frame                     // arrived, not sequenced
	received dr.HostSeq                   // highest HostSeq that arrived
	durable  dr.HostSeq                   // highest HostSeq known to be durable
	next     dr.HostSeq                   // Hello.Next: where live records begin
	replayed bool                         // ReplayEnd came on this connection
	place    dr.Seq                       // place of the last replayed record on this connection
	dirty    bool                         // durable moved since the last drain
	freezes  bool                         // its host takes Freeze
	places   bool                         // its host takes Place
	// A marker was asked for in this round and at this time, and has not come yet.
	// When it has, all that was acknowledged before that time has come: asOf.
	probe  wire.Round
	probed time.Time
	asOf   time.Time
}

// parked is a Hello that waits until places are given out again: what its
// session already queued lies before the binding.
type parked struct {
	conn  ConnID
	hello *wire.Hello
}

// flight is an Append that is not yet durable.
type flight struct {
	seq    dr.Seq
	stream *stream
	last   dr.HostSeq
}

// New returns a core that goes on after st, which it owns from here on. When
// st knows hosts with disks, the core begins with the merge of their replays.
func New(cfg Config, st *State, now time.Time) *Core {
	cfg.MarkerLimit = cmp.Or(cfg.MarkerLimit, DefaultMarkerLimit)
	cfg.ConfirmLimit = cmp.Or(cfg.ConfirmLimit, DefaultConfirmLimit)
	cfg.ReplayLimit = cmp.Or(cfg.ReplayLimit, DefaultReplayLimit)
	cfg.FreezeWait = cmp.Or(cfg.FreezeWait, DefaultFreezeWait)
	cfg.ThawWait = cmp.Or(cfg.ThawWait, DefaultThawWait)
	cfg.FreezeLimit = cmp.Or(cfg.FreezeLimit, DefaultFreezeLimit)
	c := &Core{cfg: cfg, state: st, now: now, streams: map[dr.Session]*stream{}, conns: map[ConnID]*stream{},
		top: st.lastSession, metas: map[dr.VMID]uint32{}}
	st.LastRound += RoundSkip
	for n := range st.sessions {
		c.addStream(st.sessions[n])
	}
	for _, i := range st.inherited {
		c.ownJSON(record.Disk, i, st.disks[i].body())
	}
	st.inherited = nil
	c.merge = newMerge(st, now.Add(cfg.ReplayLimit))
	c.pump()
	return c
}

func (c *Core) addStream(se *session) *stream {
	s := &stream{session: se.number, host: se.host, name: se.name, nonce: se.nonce, ack: se.ack,
		binds: se.binds, unbound: map[uint16]bool{}, received: se.last, durable: se.last}
	c.streams[s.session] = s
	c.order = append(c.order, s)
	slices.SortFunc(c.order, func(a, b *stream) int { return cmp.Compare(a.session, b.session) })
	return s
}

// Frame takes one Records frame from a host. The frame is checked as a whole
// first; a refusal leaves the order untouched and ends the connection. A frame
// of a connection the core does not know comes back at once.
func (c *Core) Frame(conn ConnID, f *Frame, now time.Time) {
	c.now = now
	s := c.conns[conn]
	if s == nil {
		c.out.Free = append(c.out.Free, f)
		return
	}
	if err := c.admit(s, f); err != nil {
		c.out.Free = append(c.out.Free, f)
		c.refuse(conn, err)
		c.drop(s)
		c.pump()
		return
	}
	if f.next == len(f.Recs) && !f.marker {
		c.out.Free = append(c.out.Free, f)
		return
	}
	c.stamps++
	f.stamp = c.stamps
	s.queue = append(s.queue, f)
	c.pump()
}

// Queued is the number of frames of a connection that wait for their place;
// the caller bounds it by its buffers.
func (c *Core) Queued(conn ConnID) int {
	if s := c.conns[conn]; s != nil {
		return len(s.queue)
	}
	return 0
}

// Detach tells that a connection is gone. Frames that arrived are still
// sequenced.
func (c *Core) Detach(conn ConnID, now time.Time) {
	c.now = now
	c.parked = slices.DeleteFunc(c.parked, func(p parked) bool { return p.conn == conn })
	if s := c.conns[conn]; s != nil {
		c.drop(s)
		c.pump()
	}
}

// drop takes the stream off its connection.
func (c *Core) drop(s *stream) {
	delete(c.conns, s.conn)
	s.conn, s.hello, s.replayed, s.pending = 0, nil, false, nil
	if c.state.sessions[s.session] == nil {
		// The log does not know this session yet: it has no disks to place its
		// records on. Its host was told nothing and sends all of it again.
		c.out.Free = append(c.out.Free, s.queue...)
		s.queue = nil
		delete(c.streams, s.session)
		c.order = slices.DeleteFunc(slices.Clone(c.order), func(o *stream) bool { return o == s })
	}
	c.roundLost(s)
}

// Durable tells that the log holds every record up to seq.
func (c *Core) Durable(seq dr.Seq) {
	i := 0
	for ; i < len(c.flight) && c.flight[i].seq <= seq; i++ {
		s := c.flight[i].stream
		s.durable, s.dirty = c.flight[i].last, true
	}
	c.flight = slices.Delete(c.flight, 0, i)
}

// Pause stops giving out places (the log has no room); Pause(false) goes on.
// Meanwhile cuts are refused and hosts that attach wait for their Welcome. A
// round that is open may still emit its two records.
func (c *Core) Pause(paused bool, now time.Time) {
	c.now, c.paused = now, paused
	c.pump()
	if paused {
		return
	}
	waiting := c.parked
	c.parked = nil
	for _, p := range waiting {
		c.Attach(p.conn, p.hello, now)
	}
}

// Tick lets time limits act.
func (c *Core) Tick(now time.Time) {
	c.now = now
	c.roundTick()
	c.pump()
}

// Deadline is when Tick is next needed.
func (c *Core) Deadline() (time.Time, bool) {
	var at time.Time
	if c.round != nil {
		at = c.round.deadline
	}
	if c.merge != nil && !c.merge.over(c.now) && (at.IsZero() || c.merge.deadline.Before(at)) {
		at = c.merge.deadline
	}
	return at, !at.IsZero()
}

// Drain moves what the core wants done into out, which is reset first.
func (c *Core) Drain(out *Output) {
	for _, s := range c.order {
		if s.dirty {
			s.dirty = false
			if s.conn != 0 {
				c.send(Send{Conn: s.conn, Type: wire.TypeAck, Durable: s.durable})
			}
		}
	}
	spare := Output{Appends: clearOf(out.Appends), Sends: clearOf(out.Sends), Free: clearOf(out.Free),
		Results: clearOf(out.Results), Events: clearOf(out.Events)}
	*out, c.out = c.out, spare
}

func clearOf[T any](s []T) []T {
	clear(s)
	return s[:0]
}

func (c *Core) send(m Send) { c.out.Sends = append(c.out.Sends, m) }

func (c *Core) event(e Event) { c.out.Events = append(c.out.Events, e) }

// refuse ends a connection with err's words.
func (c *Core) refuse(conn ConnID, err *errs.Error) {
	c.send(Send{Conn: conn, Type: wire.TypeRefuse, Refuse: RefuseOf(err)})
}

// RefuseOf renders an error for the host it is meant for.
func RefuseOf(err *errs.Error) *wire.Refuse {
	words := err.Kind.String()
	if err.Err != nil {
		words = err.Err.Error()
	}
	return &wire.Refuse{Kind: err.Kind, Object: err.Object, Message: words, Remedy: errs.RemedyOf(err)}
}
