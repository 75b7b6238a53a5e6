package iofilter

import (
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// onHold begins to keep completions back for a cut, behind a marker.
func (o *outlet) onHold(round wire.Round) error {
	o.mu.Lock()
	defer o.unlock()
	if !o.str.RoomForControl(1) {
		return o.answerLocked(wire.Confirm{Round: round, Reason: wire.ReasonBusy})
	}
	before := o.gate.Holding()
	if !o.gate.Hold(round, o.now()) {
		return o.answerLocked(o.gate.Refusal(round))
	}
	hs := o.controlLocked(record.Marker, 0, uint64(round))
	if !before {
		o.markerAt = hs
		o.stats.holdBegan = o.now()
		o.stats.holds++
	}
	if at, ok := o.gate.Deadline(); ok {
		o.armLocked(at)
	}
	return nil
}

// onRelease ends a hold and answers whether the cut is good.
func (o *outlet) onRelease(round wire.Round) error {
	o.mu.Lock()
	defer o.unlock()
	now := o.now()
	c := o.gate.Release(round, now)
	o.holdEndedLocked(now)
	return o.answerLocked(c)
}

// onMark answers a mark round.
func (o *outlet) onMark(round wire.Round) error {
	o.mu.Lock()
	defer o.unlock()
	return o.answerLocked(o.gate.Mark(round))
}

// holdEndedLocked lets go of what the gate kept back, if it holds no more.
func (o *outlet) holdEndedLocked(now time.Duration) {
	if o.gate.Holding() || o.markerAt == 0 {
		return
	}
	o.markerAt = 0
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
	syncedBytes    uint64 // read by the sync cursor
}
