package iofilter

import (
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/wire"
)

// onHold begins to keep completions back for a cut, behind a marker.
func (o *outlet) onHold(round wire.Round) error {
	o.mu.Lock()
	defer o.unlock()
	now := o.now()
	if !o.gate.Hold(round, now) {
		return o.answerLocked(o.gate.Refusal(round))
	}
	last := o.placeLocked(round)
	if !o.holding {
		o.holding, o.markerAt = true, last
		o.stats.holdBegan = now
		o.stats.holds++
	}
	if at, ok := o.gate.Deadline(); ok {
		o.armLocked(at)
	}
	return nil
}

// onPlace puts a marker behind all that was acknowledged, and keeps nothing back.
func (o *outlet) onPlace(round wire.Round) error {
	o.mu.Lock()
	defer o.unlock()
	o.placeLocked(round)
	return nil
}

// placeLocked puts a round's marker behind the newest record, which it returns, and
// has all before it sent.
func (o *outlet) placeLocked(round wire.Round) dr.HostSeq {
	last := o.str.Next() - 1
	o.link.marker = marker{set: true, round: round, after: last}
	o.link.rush = last
	o.wakeSender()
	return last
}

// onRelease ends a hold and answers whether the cut is good.
func (o *outlet) onRelease(round wire.Round) error {
	o.mu.Lock()
	defer o.unlock()
	now := o.now()
	c := o.gate.Release(round, now)
	o.holdEndedLocked(now)
	return o.vouchLocked(c)
}

// onMark answers a mark round.
func (o *outlet) onMark(round wire.Round) error {
	o.mu.Lock()
	defer o.unlock()
	return o.vouchLocked(o.gate.Mark(round))
}

// holdEndedLocked lets go of what the gate kept back, if it holds no more.
func (o *outlet) holdEndedLocked(now time.Duration) {
	if o.gate.Holding() || !o.holding {
		return
	}
	o.holding = false
	o.stats.longestHold = max(o.stats.longestHold, now-o.stats.holdBegan)
	o.ready.take(&o.held)
}

// answerLocked queues a Confirm for the sender.
func (o *outlet) answerLocked(c wire.Confirm) error {
	if len(o.link.outbox) > maxOutbox {
		return errs.New("iofilter.answer", errs.Invalid, "link", "the DRVA asks more than it reads")
	}
	o.link.outbox = c.Append(o.link.outbox)
	if !c.OK {
		o.stats.refused++
	}
	o.wakeSender()
	return nil
}

// stats are counters for Status. Guarded by the outlet's mutex.
type stats struct {
	records, bytes uint64 // entered into the stream
	stalls         uint64 // stretches in which writes waited for room
	trackings      uint64
	holds          uint64
	refused        uint64 // rounds not confirmed
	holdBegan      time.Duration
	longestHold    time.Duration
	connects       uint64
	sentBytes      uint64
	trackedBytes   uint64 // dirty when syncs began
	syncedBytes    uint64 // read by the sync cursor
	comparedBytes  uint64 // compared with hashes
	shippedBytes   uint64 // put into the stream by the sync cursor
}
