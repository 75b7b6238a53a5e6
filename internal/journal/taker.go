package journal

import (
	"holdfast/internal/dr"
	"holdfast/internal/segment"
)

// taker is the takeover rule as a pure state: the history as walked so far and
// the epoch that was claimed for the new reign. No I/O, no clock.
type taker struct {
	chain
	claimed dr.Epoch
}

// walked brings the taker to the end of the history as a reader accepts it.
// late is true when a reign at or above the claimed epoch has begun.
func (t *taker) walked(c chain) (late bool) {
	t.chain = c
	return c.epoch >= t.claimed
}

// fenceAt returns where the FENCE goes and the digest it names.
func (t *taker) fenceAt() (dr.ObjectNumber, segment.Digest) { return t.next, t.prev }

// won begins the reign: the FENCE of digest d and uuid id was created at
// fenceAt.
func (t *taker) won(d segment.Digest, id dr.UUID, window dr.ObjectNumber) *writer {
	w := newWriter(t.claimed, t.next, d, t.gap, window)
	w.last, w.at = id, t.next
	return w
}
