package iofilter

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/boottrace"
	"holdfast/internal/dr"
	"holdfast/internal/iofilter/gate"
	"holdfast/internal/iofilter/stream"
	"holdfast/internal/nbd"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// outlet is the host's one way to its DRVA: the stream, the gate, the mode,
// and the operations that wait for an answer. Everything that must happen "at
// the same moment" happens under its mutex.
type outlet struct {
	// Immutable.
	ack        dr.AckRule
	stallLimit time.Duration
	log        *slog.Logger
	base       time.Time  // now() counts from here
	identity   wire.Hello // what a Hello says of the host itself
	window     uint32     // chunks a question about hashes is about

	// Signals; each has capacity 1, is written by anyone without blocking, read
	// by one goroutine, never closed.
	wake     chan struct{} // sender
	kick     chan struct{} // watchdog
	syncKick chan struct{} // sync cursor
	answered chan struct{} // sync cursor, while it waits for an answer
	doubt    chan struct{} // vigil

	strain atomic.Pointer[strain] // of the cursor; nil: it does not run
	asleep atomic.Int32           // the sender: awake, napping, idle; so that a hot path makes no system call

	mu   sync.Mutex
	room sync.Cond // on mu: the stream has been drained a little, or the mode changed

	// Guarded by mu.
	members
	events   events
	shown    shown // the host's state
	str      *stream.Stream
	gate     *gate.Gate
	run      uint32        // counts the streams that were lost; numbers of different runs do not compare
	waits    opList        // waiting for their acknowledgement, in stream order
	held     opList        // kept back by the gate, in stream order
	ready    opList        // to be completed by whoever unlocks
	holding  bool          // as the gate is
	markerAt dr.HostSeq    // while holding: the last record before the marker
	armed    time.Duration // the watchdog looks again at this time
	mode     mode
	pressure pressure
	link     linkState
	drainAt  dr.HostSeq    // a stopping host waits until this is durable; 0: it does not
	drained  chan struct{} // closed by progressLocked, then nil
	cursor   cursorState
	landings []landing      // who waits for the log
	vouching []wire.Confirm // yeses that wait for a look at images
	settling bool           // a Welcome is being taken in: no region is closed
	hash     hashLink
	stats    stats
	order    wire.TrackReason // of the DRVA: track until it says otherwise
	slow     slowdown
	boots    boots

	slowed atomic.Bool // slow is on; so that a hot path takes no lock
	freeze *quiescer   // immutable after New; nil: no guest can be frozen
}

// Sleep states of the sender.
const (
	awake int32 = iota
	napping
	idle
)

// entered says what became of an operation's records.
type entered struct {
	lo, hi   int64 // the range on the disk, whole blocks
	fromSync bool  // from the cursor: never waits for room
	last     dr.HostSeq
	run      uint32
	held     bool // the gate was holding when the last record entered
	tracked  bool // not (wholly) in the stream: the range is marked dirty
}

// opList is a queue of intercepted operations threaded through Link.
// Scratch[0] is the last record's number, Scratch[1] the time of arrival, or, of
// one that is kept back by a throttle, when its turn comes; Scratch[2] is paid
// once it was kept back.
type opList struct{ head, tail *nbd.Op }

func (l *opList) push(op *nbd.Op) {
	op.Link = nil
	if l.tail == nil {
		l.head = op
	} else {
		l.tail.Link = op
	}
	l.tail = op
}

func (l *opList) pop() *nbd.Op {
	op := l.head
	if op != nil {
		if l.head = op.Link; l.head == nil {
			l.tail = nil
		}
		op.Link = nil
	}
	return op
}

// take moves everything from o to the end of l.
func (l *opList) take(o *opList) {
	if o.head == nil {
		return
	}
	if l.tail == nil {
		l.head = o.head
	} else {
		l.tail.Link = o.head
	}
	l.tail = o.tail
	*o = opList{}
}

// newOutlet returns an outlet that tracks: nothing is known of the DRVA yet.
// Disks are added before anything else is called.
func newOutlet(c *Config, log *slog.Logger) *outlet {
	ring := c.ring()
	o := &outlet{
		ack: c.ackRule(), stallLimit: c.stallLimit(), log: log, base: time.Now(),
		identity: wire.Hello{Domain: c.Domain, Host: c.Host, Name: c.Name, Ack: c.ackRule().String(),
			Features: []string{wire.FeatureFreeze, wire.FeatureThrottle, wire.FeatureTrack, wire.FeatureHash, wire.FeaturePlace}},
		wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), syncKick: make(chan struct{}, 1),
		answered: make(chan struct{}, 1), doubt: make(chan struct{}, 1),
		str: stream.New(ring, int(ring/ringGrain)), gate: gate.New(gate.SelfRelease),
		armed: never, window: wire.MaxHashChunks, boots: boots{last: boottrace.For, under: map[dr.VMID]*booting{}},
	}
	o.room.L = &o.mu
	o.link.nonce = newNonce()
	o.mode = mode{tracking: true, cause: causeStarting}
	o.gate.Outside()
	for i := range c.VMs {
		o.setVMLocked(&c.VMs[i].Config)
	}
	return o
}

// now is the monotonic time since the outlet was made; never 0.
func (o *outlet) now() time.Duration { return time.Since(o.base) + 1 }

// signal makes the reader of a capacity-1 channel look again.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// unlock gives up mu and completes what became ready under it.
func (o *outlet) unlock() {
	if o.slow.rate > 0 {
		o.slowLocked()
	}
	var ready opList
	ready.take(&o.ready)
	o.mu.Unlock()
	for op := ready.pop(); op != nil; op = ready.pop() {
		op.Complete(nil)
	}
}

// armLocked makes the watchdog look no later than at.
func (o *outlet) armLocked(at time.Duration) {
	if at < o.armed {
		o.armed = at
		signal(o.kick)
	}
}

// enter puts one record into the stream, waiting for room within limits. If
// the host tracks, or comes to, or the disk stands aside, all of v's range is
// marked dirty instead and enter reports false.
func (o *outlet) enter(d *disk, r *record.Record, p *stream.Pieces, v *entered) bool {
	n := r.PayloadLen()
	o.mu.Lock()
	for !o.mode.tracking && !d.asideLocked() && !v.fromSync && !o.str.Room(n) {
		o.awaitRoomLocked()
	}
	if o.mode.tracking || d.asideLocked() || !o.str.Room(n) {
		d.dirty.Set(v.lo, v.hi-v.lo)
		if !v.fromSync {
			o.bypassLocked(d)
		}
		v.tracked = true
		o.unlock()
		return false
	}
	v.last, v.run, v.held = o.str.Append(r, p), o.run, o.gate.Holding()
	o.stats.records++
	o.stats.bytes += uint64(n)
	if v.fromSync {
		o.stats.shippedBytes += uint64(n)
	}
	wake := o.wantsSenderLocked()
	o.mu.Unlock()
	if wake {
		o.wakeSender()
	}
	return true
}

// wantsSenderLocked reports whether a record that has just entered is a reason
// to wake the sender: it sleeps for want of records, or has a load by now.
func (o *outlet) wantsSenderLocked() bool {
	switch o.asleep.Load() {
	case idle:
		return true
	case napping:
		return o.str.Pending(o.link.cursor) >= napBytes
	}
	return false
}

func (o *outlet) wakeSender() {
	if o.asleep.Swap(awake) != awake {
		signal(o.wake)
	}
}

// controlLocked appends a record without payload; there is room for it.
func (o *outlet) controlLocked(kind record.Kind, disk uint16) {
	r := record.Record{Kind: kind, Disk: disk, Time: time.Now().UnixNano()}
	hs := o.str.Append(&r, nil)
	o.stats.records++
	o.link.rush = hs
	o.wakeSender()
}

// progressLocked draws the consequences of the stream having moved: someone is
// acknowledged, room is free, a mode ends.
func (o *outlet) progressLocked(freed bool) {
	now := o.now()
	for o.waits.head != nil && o.reachedLocked(dr.HostSeq(o.waits.head.Scratch[0])) {
		op := o.waits.pop()
		if !o.keepBackLocked(op) {
			o.ready.push(op)
		}
	}
	if freed {
		o.roomFreedLocked(now)
	}
	o.insideLocked()
	o.tryLeaveLocked(now)
	o.landLocked()
	o.membersMovedLocked(now)
	if o.drained != nil && o.str.Durable() >= o.drainAt {
		close(o.drained)
		o.drained = nil
	}
}
