package journal

import (
	"holdfast/internal/dr"
	"holdfast/internal/segment"
)

// writer is the publisher's rule as a pure state: which number comes next, how
// many may be under way, what counts as published. No I/O, no clock.
//
//	          room/place/seal        land               count
//	builder ------------------> out -------> landed ----------> published
//	                             |  (in any order)   (prefix only)
//	                             | foreign
//	                             v
//	                          stopped, for good
type writer struct {
	epoch     dr.Epoch
	window    dr.ObjectNumber
	next      dr.ObjectNumber // the number the next object gets
	prev      segment.Digest  // digest of the object before next
	last      dr.UUID         // that object's uuid
	at        dr.ObjectNumber // and its number
	published dr.ObjectNumber // all own objects up to here landed and were counted
	landed    map[dr.ObjectNumber]bool
	stopped   bool
}

// newWriter begins a reign whose FENCE landed at fence with the given digest.
func newWriter(epoch dr.Epoch, fence dr.ObjectNumber, digest segment.Digest, gap, window dr.ObjectNumber) *writer {
	return &writer{
		epoch:     epoch,
		window:    window,
		next:      fence + gap,
		prev:      digest,
		published: fence + gap - 1,
		landed:    make(map[dr.ObjectNumber]bool),
	}
}

// room reports whether another number may be given out. It counts from the
// published prefix, not from the number of objects under way: an orphan can
// never lie further than W-1 beyond the first missing number.
func (w *writer) room() bool { return !w.stopped && w.next <= w.published+w.window }

// place returns the number and the predecessor's digest of the next object.
func (w *writer) place() (dr.ObjectNumber, segment.Digest) { return w.next, w.prev }

// seal takes the placed number for an object of the given digest and uuid.
func (w *writer) seal(d segment.Digest, id dr.UUID) {
	w.prev, w.last, w.at = d, id, w.next
	w.next++
}

// land notes that own object n is in the store.
func (w *writer) land(n dr.ObjectNumber) {
	if !w.stopped {
		w.landed[n] = true
	}
}

// prefix is the highest number up to which all own objects have landed.
func (w *writer) prefix() dr.ObjectNumber {
	n := w.published
	for w.landed[n+1] {
		n++
	}
	return n
}

// count makes everything up to prefix published and returns it. The caller
// has made sure that its look at the epoch claims is fresh.
func (w *writer) count() dr.ObjectNumber {
	if w.stopped {
		return w.published
	}
	for to := w.prefix(); w.published < to; {
		w.published++
		delete(w.landed, w.published)
	}
	return w.published
}

// stop ends the reign: a foreign object lies under an own name.
func (w *writer) stop() { w.stopped = true }
