package gate

import (
	"time"

	"holdfast/internal/wire"
)

// Gate is the state of one host's rounds. Not safe for concurrent use: the
// caller's stream lock serialises all calls. Use New.
type Gate struct {
	selfRelease time.Duration

	holding bool
	round   wire.Round    // of the hold; meaningful while holding
	since   time.Duration // when completions began to be kept back

	newest wire.Round // highest round held on this connection; 0: none
	ended  wire.Round // the round of the last hold that ended without its Release; 0: none
	why    wire.Reason

	outside bool
}

// New returns an open gate, inside the stream. A hold ends by itself after
// selfRelease; not positive means SelfRelease.
func New(selfRelease time.Duration) *Gate {
	if selfRelease <= 0 {
		selfRelease = SelfRelease
	}
	return &Gate{selfRelease: selfRelease}
}

// Hold asks to keep back completions for a cut. True: the caller must place
// Marker(round) in the stream in the same critical section, and from now on
// the gate is holding. False: nothing changed and no marker may be placed; the
// caller answers with Refusal(round).
//
// A higher round takes over a hold that is still on: what was kept back stays
// so, and the time limit goes on counting from the first hold, so that no
// sequence of Holds keeps a completion back for longer than one time limit.
func (g *Gate) Hold(round wire.Round, now time.Duration) bool {
	if g.outside || round <= g.newest {
		return false
	}
	if g.holding {
		g.ended, g.why = g.round, wire.ReasonUnknown
	} else {
		g.since = now
	}
	g.holding, g.round, g.newest = true, round, round
	return true
}

// Refusal is the answer to a Hold that was not granted. It changes nothing.
func (g *Gate) Refusal(round wire.Round) wire.Confirm {
	return wire.Confirm{Round: round, Reason: g.reason(round)}
}

// Holding reports whether completions of writes whose records enter the stream
// from now on must be kept back. Writes that entered before the marker complete
// freely.
func (g *Gate) Holding() bool { return g.holding }

// Release ends the hold of this very round and tells whether the cut is good:
// OK iff the gate was still holding it and nothing was acknowledged outside
// the stream. The caller then lets go of everything it kept back. The release
// of any other round changes nothing.
func (g *Gate) Release(round wire.Round, _ time.Duration) wire.Confirm {
	if !g.holding || round != g.round {
		return g.Refusal(round)
	}
	g.holding = false
	return wire.Confirm{Round: round, OK: true}
}

// Mark answers a mark round: OK iff every write acknowledged so far entered
// the stream, or lies before a TrackBegin that has been placed in it.
func (g *Gate) Mark(round wire.Round) wire.Confirm {
	if g.outside {
		return wire.Confirm{Round: round, Reason: wire.ReasonOutside}
	}
	return wire.Confirm{Round: round, OK: true}
}

// Expire ends a hold whose time is over. True: it just ended, and the caller
// lets go of everything it kept back; a later Release of that round is answered
// ReasonReleased.
func (g *Gate) Expire(now time.Duration) bool {
	if !g.holding || now-g.since < g.selfRelease {
		return false
	}
	g.end(wire.ReasonReleased)
	return true
}

// Deadline is when Expire would end the hold; false when there is none.
func (g *Gate) Deadline() (time.Duration, bool) {
	return g.since + g.selfRelease, g.holding
}

// Outside says that a write is about to be acknowledged that is not in the
// stream. A hold ends by it: the caller lets go of what it kept back. Until
// Inside no hold begins and no round is confirmed.
func (g *Gate) Outside() {
	if g.holding {
		g.end(wire.ReasonOutside)
	}
	g.outside = true
}

// Inside says that TrackBegin has been placed in the stream for every disk
// that had writes acknowledged outside of it, and that from now on all writes
// enter the stream before they are acknowledged.
func (g *Gate) Inside() { g.outside = false }

// Disconnect says that the link to the DRVA is gone: a hold ends (the caller
// lets go of what it kept back), and what is remembered about rounds is
// forgotten. Whether the host is outside the stream does not depend on links
// and stays.
func (g *Gate) Disconnect() {
	g.holding = false
	g.newest, g.ended, g.why = 0, 0, wire.ReasonNone
}

func (g *Gate) end(why wire.Reason) {
	g.holding = false
	g.ended, g.why = g.round, why
}

// reason says why round is not being held.
func (g *Gate) reason(round wire.Round) wire.Reason {
	switch {
	case round == g.ended && g.ended != 0:
		return g.why
	case g.outside:
		return wire.ReasonOutside
	}
	return wire.ReasonUnknown
}
