package gate

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"holdfast/internal/wire"
)

const ms = time.Millisecond

func want(t *testing.T, got wire.Confirm, round wire.Round, reason wire.Reason) {
	t.Helper()
	if got != (wire.Confirm{Round: round, OK: reason == wire.ReasonNone, Reason: reason}) {
		t.Fatalf("got %+v, want round %d: %v", got, round, reason)
	}
}

func hold(t *testing.T, g *Gate, round wire.Round, now time.Duration) {
	t.Helper()
	if !g.Hold(round, now) || !g.Holding() {
		t.Fatalf("hold of round %d refused", round)
	}
}

func TestReleaseInTime(t *testing.T) {
	g := New(100 * ms)
	hold(t, g, 1, 5*ms)
	if d, ok := g.Deadline(); !ok || d != 105*ms {
		t.Fatalf("deadline %v %v", d, ok)
	}
	if g.Expire(104 * ms) {
		t.Fatal("expired before its time")
	}
	want(t, g.Release(1, 104*ms), 1, wire.ReasonNone)
	if g.Holding() {
		t.Fatal("still holding after release")
	}
	want(t, g.Release(1, 104*ms), 1, wire.ReasonUnknown)
	if _, ok := g.Deadline(); ok {
		t.Fatal("deadline without a hold")
	}
}

func TestSelfRelease(t *testing.T) {
	g := New(0)
	hold(t, g, 7, 0)
	if !g.Expire(SelfRelease) || g.Expire(SelfRelease) || g.Holding() {
		t.Fatal("a hold ends by itself exactly once")
	}
	want(t, g.Release(7, SelfRelease), 7, wire.ReasonReleased)
	hold(t, g, 8, 200*ms)
	want(t, g.Release(7, 200*ms), 7, wire.ReasonReleased)
	want(t, g.Release(8, 200*ms), 8, wire.ReasonNone)
}

func TestStaleAndRepeatedHolds(t *testing.T) {
	g := New(100 * ms)
	hold(t, g, 5, 0)
	for _, r := range []wire.Round{5, 4, 0} {
		if g.Hold(r, ms) {
			t.Fatalf("hold of round %d granted after 5", r)
		}
	}
	want(t, g.Release(4, ms), 4, wire.ReasonUnknown)
	want(t, g.Release(6, ms), 6, wire.ReasonUnknown)
	want(t, g.Release(5, ms), 5, wire.ReasonNone)
}

// A DRVA that sends Hold after Hold does not keep completions back for longer.
func TestTakeoverKeepsTheTimeLimit(t *testing.T) {
	g := New(100 * ms)
	for r := range 10 {
		hold(t, g, wire.Round(r+1), time.Duration(r)*10*ms)
	}
	if d, _ := g.Deadline(); d != 100*ms {
		t.Fatalf("deadline moved to %v", d)
	}
	want(t, g.Release(9, 95*ms), 9, wire.ReasonUnknown)
	if !g.Expire(100 * ms) {
		t.Fatal("did not expire")
	}
	want(t, g.Release(10, 100*ms), 10, wire.ReasonReleased)
}

func TestOutside(t *testing.T) {
	g := New(100 * ms)
	want(t, g.Mark(1), 1, wire.ReasonNone)
	hold(t, g, 1, 0)
	g.Outside()
	if g.Holding() || g.Hold(2, ms) {
		t.Fatal("holds outside the stream")
	}
	want(t, g.Refusal(2), 2, wire.ReasonOutside)
	want(t, g.Mark(2), 2, wire.ReasonOutside)
	g.Inside()
	want(t, g.Release(1, 2*ms), 1, wire.ReasonOutside) // the cut stays bad for ever
	want(t, g.Mark(3), 3, wire.ReasonNone)
	hold(t, g, 3, 3*ms)
	want(t, g.Release(3, 4*ms), 3, wire.ReasonNone)
}

func TestDisconnect(t *testing.T) {
	g := New(100 * ms)
	hold(t, g, 9, 0)
	g.Disconnect()
	if g.Holding() {
		t.Fatal("holds without a link")
	}
	want(t, g.Release(9, ms), 9, wire.ReasonUnknown)
	hold(t, g, 1, ms) // a DRVA that starts its rounds anew is served
	g.Outside()
	g.Disconnect()
	want(t, g.Mark(2), 2, wire.ReasonOutside) // links do not change what was acknowledged
}

// TestAgainstHistory drives random calls and judges each OK by the history
// alone, not by the gate's own state.
func TestAgainstHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := New(100 * ms)
		var now, heldSince time.Duration
		var held wire.Round // granted and neither released, expired, taken over nor broken
		outside := false
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			now += time.Duration(rapid.IntRange(0, 60).Draw(t, "dt")) * ms
			round := wire.Round(rapid.IntRange(0, 12).Draw(t, "round"))
			switch rapid.IntRange(0, 6).Draw(t, "call") {
			case 0:
				if g.Hold(round, now) {
					if outside {
						t.Fatal("hold granted outside")
					}
					if held == 0 {
						heldSince = now
					}
					held = round
				}
			case 1:
				c := g.Release(round, now)
				if wantOK := held != 0 && round == held; c.OK != wantOK || c.OK != (c.Reason == wire.ReasonNone) {
					t.Fatalf("release of %d: %+v, held %d", round, c, held)
				}
				if c.OK {
					held = 0
				}
			case 2:
				if c := g.Mark(round); c.OK == outside {
					t.Fatalf("mark: %+v, outside %v", c, outside)
				}
			case 3:
				if wantEnd := held != 0 && now-heldSince >= 100*ms; g.Expire(now) != wantEnd {
					t.Fatalf("expire, want %v", wantEnd)
				} else if wantEnd {
					held = 0
				}
			case 4:
				g.Outside()
				outside, held = true, 0
			case 5:
				g.Inside()
				outside = false
			case 6:
				g.Disconnect()
				held = 0
			}
			if g.Holding() != (held != 0) {
				t.Fatalf("holding %v, history says round %d", g.Holding(), held)
			}
			if d, ok := g.Deadline(); ok && d != heldSince+100*ms {
				t.Fatalf("deadline %v of a hold since %v", d, heldSince)
			}
		}
	})
}
