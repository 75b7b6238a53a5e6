package iofilter

import (
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/nbd"
)

// Completed hears that the primary has done a write (or has not), still under
// the range lock.
//
// Write path, step 3: split. The primary has the write; now the host's one
// stream gets it, and then the ack rule decides when the guest hears of it.
//
// A failed operation leaves content nobody knows; its chunks are read again by
// the sync cursor. That is no acknowledgement outside the stream: the guest
// was told of the failure.
func (t *tap) Completed(op *nbd.Op, err error) {
	d := t.disk
	var done time.Duration
	if d.out.sampling() {
		done = d.out.now()
	}
	var v entered
	if err == nil {
		v = d.capture(op)
	} else {
		d.out.markDirty(d, op.Offset, op.Length)
	}
	was, start := d.locks.release(op)
	if done != 0 && was.at != 0 {
		d.out.strain.Load().sample(was.at, done)
	}
	if err != nil {
		op.Complete(err)
	} else {
		d.out.acknowledge(op, &v, was.at)
	}
	for _, c := range start {
		c.via.start(c.op)
	}
}

// sampling reports whether the sync cursor wants to know how long writes take.
func (o *outlet) sampling() bool {
	s := o.strain.Load()
	return s != nil && s.on.Load()
}

// acknowledge is the ack rule, and the only place where it is. The operation's
// records are in the stream, or its range is marked dirty.
//
//	async    at once; while the gate holds, writes behind the marker wait for
//	         its release
//	ordered  when the DRVA has given the last record its place; then as async
//	sync     when the last record is in the replication log; then as async
//
// While tracking, the primary alone decides: nothing waits.
func (o *outlet) acknowledge(op *nbd.Op, v *entered, arrived time.Duration) {
	if v.tracked || o.ack == dr.Async && !v.held && !o.slowed.Load() {
		op.Complete(nil)
		return
	}
	o.mu.Lock()
	op.Scratch[0], op.Scratch[1], op.Scratch[2] = uint64(v.last), uint64(arrived), 0
	switch {
	case o.mode.tracking || v.run != o.run:
		o.ready.push(op)
	case !o.reachedLocked(v.last):
		op.Scratch[1] = uint64(o.pressure.since(arrived))
		o.waits.push(op)
		o.armLocked(time.Duration(op.Scratch[1]) + ackLimit)
	case o.keepBackLocked(op):
	default:
		o.ready.push(op)
	}
	o.unlock()
}

// reachedLocked reports whether the DRVA has done with a record what the ack
// rule asks for.
func (o *outlet) reachedLocked(hs dr.HostSeq) bool {
	switch o.ack {
	case dr.Ordered:
		return hs <= o.str.Sequenced()
	case dr.Sync:
		return hs <= o.str.Durable()
	}
	return true
}

// keepBackLocked keeps op's completion back if the gate holds and op's last
// record is behind the marker.
func (o *outlet) keepBackLocked(op *nbd.Op) bool {
	if !o.gate.Holding() || dr.HostSeq(op.Scratch[0]) <= o.markerAt {
		return false
	}
	o.held.push(op)
	return true
}
