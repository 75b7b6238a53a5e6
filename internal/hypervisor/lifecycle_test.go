package hypervisor_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

func TestMovesOfTheTable(t *testing.T) {
	all := []hypervisor.State{hypervisor.Starting, hypervisor.Running, hypervisor.Paused,
		hypervisor.Stopping, hypervisor.Stopped, hypervisor.Crashed}
	// From each state, the way there and the states it may go to.
	for _, c := range []struct {
		way     []hypervisor.State
		allowed string // as initials of the states in all
	}{
		{nil, "RPDC"},
		{all[1:2], "PSDC"},
		{all[2:3], "RDC"},
		{[]hypervisor.State{hypervisor.Running, hypervisor.Stopping}, "RPDC"},
		{all[4:5], ""},
		{all[5:6], ""},
	} {
		for i, to := range all {
			l := hypervisor.NewLifecycle(time.Now)
			for _, s := range c.way {
				if !l.Move(s, "way") {
					t.Fatalf("no way %v", c.way)
				}
			}
			want := false
			for _, r := range c.allowed {
				want = want || "XRPSDC"[i] == byte(r)
			}
			before := l.Status()
			if got := l.Move(to, "test"); got != want {
				t.Errorf("%v to %v: moved %v, want %v", before.State, to, got, want)
			} else if !got && l.Status() != before {
				t.Errorf("%v to %v: refused, and yet it is %+v", before.State, to, l.Status())
			}
		}
	}
}

// TestEventsAreBounded lets nobody read: the newest events stay, the final one
// among them, and the count of the lost is exact.
func TestEventsAreBounded(t *testing.T) {
	l := hypervisor.NewLifecycle(time.Now)
	const emitted = 1000
	l.Move(hypervisor.Running, "")
	for range emitted {
		l.Emit(hypervisor.Event{Kind: hypervisor.GuestReset})
	}
	l.Move(hypervisor.Crashed, "test")
	l.Emit(hypervisor.Event{Kind: hypervisor.GuestReset}) // after the end: ignored
	read, lost := 0, 0
	var last hypervisor.Event
	for last = range l.Events() {
		read++
		lost += last.Lost
	}
	if read+lost != emitted+2 || lost == 0 {
		t.Errorf("%d events read and %d lost, of %d", read, lost, emitted+2)
	}
	if last.Status.State != hypervisor.Crashed || last.Detail != "test" {
		t.Errorf("the last event is %+v, want the crash", last)
	}
}

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := hypervisor.NewLifecycle(time.Now)
		is := func(want hypervisor.State) func(hypervisor.State) bool {
			return func(s hypervisor.State) bool { return s == want }
		}
		time.AfterFunc(time.Hour, func() { l.Move(hypervisor.Running, "") })
		if s, err := l.Await(t.Context(), is(hypervisor.Running)); err != nil || s.State != hypervisor.Running {
			t.Errorf("Await = %+v, %v", s, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := l.Wait(ctx); !errs.Is(err, errs.Canceled) {
			t.Errorf("Wait = %v, want kind canceled", err)
		}
		time.AfterFunc(time.Hour, func() { l.Move(hypervisor.Stopped, "done") })
		if _, err := l.Await(t.Context(), is(hypervisor.Paused)); !errs.Is(err, errs.Conflict) {
			t.Errorf("Await of what cannot come = %v, want kind conflict", err)
		}
		if s, err := l.Wait(t.Context()); err != nil || s.Reason != "done" {
			t.Errorf("Wait = %+v, %v", s, err)
		}
	})
}
