package order

import (
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// aloneHost is a bench with one asynchronous host that takes Place.
func aloneHost(t *testing.T) *bench {
	b := newBench(t, NewState())
	h := host(1, 7, 1)
	h.Features = []string{wire.FeaturePlace}
	b.live(1, h)
	return b
}

// ask begins a cut and returns its round and when it was asked for.
func (b *bench) ask() (wire.Round, time.Time) {
	b.t.Helper()
	b.cut()
	return b.last(wire.TypePlace).Round, b.now
}

// confirmed answers a round and returns the newest checkpoint.
func (b *bench) confirmed(round wire.Round) dr.Checkpoint {
	b.t.Helper()
	b.core.Confirm(1, wire.Confirm{Round: round, OK: true}, b.now)
	b.drain()
	return b.results[len(b.results)-1].Checkpoint
}

// TestTimeOfACheckpointIsKept: whatever an asynchronous host had acknowledged at the
// time of a checkpoint is in it, however long it is on its way.
func TestTimeOfACheckpointIsKept(t *testing.T) {
	b := aloneHost(t)
	round, asked := b.ask()
	if n := b.log[len(b.log)-1].Kind; n == record.Checkpoint {
		t.Fatal("it was cut before the host said what it had acknowledged")
	}
	b.pass(time.Second)                   // the link is slow
	b.frame(1, zero(2, 0))                // acknowledged before it was asked
	b.frame(1, zero(3, 0), marker(round)) // and so on
	if cp := b.confirmed(round); !cp.Time.Equal(asked) || cp.Scope != dr.Group || cp.Seq != b.log[len(b.log)-2].Seq {
		t.Errorf("%+v, want one of %s", cp, asked)
	}

	// A marker that does not come in time: the point is as old as the last that came.
	b.pass(5 * time.Second)
	late, askedLate := b.ask()
	b.frame(1, zero(4, 0))
	b.pass(DefaultConfirmLimit)
	if cp := b.confirmed(late); !cp.Time.Equal(asked) || cp.Scope != dr.Group {
		t.Errorf("%+v, want one of %s", cp, asked)
	}
	// It comes behind the cut, and counts for the next.
	b.frame(1, zero(5, 0), marker(late))
	b.pass(5 * time.Second)
	last, _ := b.ask()
	b.pass(DefaultConfirmLimit)
	if cp := b.confirmed(last); !cp.Time.Equal(askedLate) || cp.Scope != dr.Group {
		t.Errorf("%+v, want one of %s", cp, askedLate)
	}
}

// TestFirstMarkerDoesNotCome: nothing is known of what the host acknowledged, and
// the checkpoint is no group's.
func TestFirstMarkerDoesNotCome(t *testing.T) {
	b := aloneHost(t)
	round, _ := b.ask()
	b.pass(DefaultConfirmLimit)
	if cp := b.confirmed(round); cp.Scope != dr.Partial {
		t.Errorf("%+v", cp)
	}
	b.ask()
	b.core.Detach(1, b.now)
	b.drain()
	if cp := b.results[len(b.results)-1].Checkpoint; cp.Scope != dr.Partial {
		t.Errorf("a host that went away before its marker: %+v", cp)
	}
}

// TestNoCheckpointIsOlderThanTheOneBefore: its promise is kept by the newer one too.
func TestNoCheckpointIsOlderThanTheOneBefore(t *testing.T) {
	b := aloneHost(t)
	round, asked := b.ask()
	b.frame(1, marker(round))
	b.confirmed(round)
	b.pass(3 * time.Second)
	b.core.lastCut = b.now // another host, in a round with markers, which has gone since
	at := b.now
	round, _ = b.ask()
	b.pass(DefaultConfirmLimit)
	if cp := b.confirmed(round); cp.Time.Before(at) {
		t.Errorf("%s is before %s; asked %s", cp.Time, at, asked)
	}
}

// TestTimeOfArrivalIsCaught breaks the rule.
func TestTimeOfArrivalIsCaught(t *testing.T) {
	b := aloneHost(t)
	b.core.flaws.timeOfArrival = true
	round, asked := b.ask()
	b.pass(time.Second)
	b.frame(1, marker(round))
	if cp := b.confirmed(round); cp.Time.Equal(asked) {
		t.Error("a checkpoint with the time at which it was placed has the time at which it was asked for")
	}
}
