package runs

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// leases is what a worker does with its lease; a twin breaks a rule of it.
type leases interface {
	renewed(asked instant)
	lapsed(now instant) bool
}

// deafLease takes a renewal that failed for one that succeeded.
type deafLease struct{ *lease }

// monoLease knows one clock alone.
type monoLease struct{ *lease }

func (l monoLease) lapsed(now instant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.mono-l.since.mono >= l.safe
}

// lateLease counts from the answer instead of the question.
type lateLease struct{ *lease }

// checkLease plays a worker, whose machine may sleep and whose wall clock may be set,
// against a database with a clock of its own. It reports whether the worker ever took
// the lease for its own when the database had ended it.
func checkLease(t *rapid.T, make func(time.Duration, instant) leases) (doubled bool) {
	const whole = 10 * time.Second
	now := instant{wall: time.Unix(1000, 0)}
	var real time.Duration // the database's
	until := real + whole
	l := make(whole, now)
	_, deaf := l.(deafLease)
	_, late := l.(lateLease)
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		switch rapid.IntRange(0, 4).Draw(t, "op") {
		case 0: // time passes
			d := time.Duration(rapid.IntRange(1, 5000).Draw(t, "ms")) * time.Millisecond
			real, now.mono, now.wall = real+d, now.mono+d, now.wall.Add(d)
		case 1: // the machine sleeps: its monotonic clock may stand still
			d := time.Duration(rapid.IntRange(1, 20000).Draw(t, "ms")) * time.Millisecond
			real, now.wall = real+d, now.wall.Add(d)
			if rapid.Bool().Draw(t, "counts") {
				now.mono += d
			}
		case 2: // somebody sets the wall clock back
			now.wall = now.wall.Add(-time.Duration(rapid.IntRange(1, 100000).Draw(t, "ms")) * time.Millisecond)
			// Then only the monotonic clock is left: this machine does not sleep
			// until the next renewal.
			d := time.Duration(rapid.IntRange(1, 20000).Draw(t, "ms")) * time.Millisecond
			real, now.mono, now.wall = real+d, now.mono+d, now.wall.Add(d)
			doubled = doubled || !l.lapsed(now) && real >= until
			return doubled
		case 3: // a renewal, which takes its time, and may fail
			asked := now
			fails := rapid.Bool().Draw(t, "fails") || real >= until
			stored := real
			d := time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond
			real, now.mono, now.wall = real+d, now.mono+d, now.wall.Add(d)
			if !fails {
				until = stored + whole
			}
			if late {
				asked = now
			}
			if !fails || deaf {
				l.renewed(asked)
			}
		}
		doubled = doubled || !l.lapsed(now) && real >= until
	}
	return doubled
}

// TestLease: what the worker believes never outlives what the database says, whatever
// clocks and renewals do; a worker that breaks a rule is found out.
func TestLease(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if checkLease(t, func(d time.Duration, i instant) leases { return newLease(d, i) }) {
			t.Fatal("the worker took a lease that had ended for its own")
		}
	})
	for name, make := range map[string]func(time.Duration, instant) leases{
		"a failed renewal ignored": func(d time.Duration, i instant) leases { return deafLease{newLease(d, i)} },
		"one clock alone":          func(d time.Duration, i instant) leases { return monoLease{newLease(d, i)} },
		"counted from the answer":  func(d time.Duration, i instant) leases { return lateLease{newLease(d, i)} },
		"all of the lease used": func(d time.Duration, i instant) leases {
			l := newLease(d, i)
			l.safe = d * 11 / 10
			return l
		},
	} {
		caught := false
		for seed := 0; seed < 2000 && !caught; seed++ {
			caught = rapid.Custom(func(t *rapid.T) bool { return checkLease(t, make) }).Example(seed)
		}
		if !caught {
			t.Errorf("%s: not noticed", name)
		}
	}
}
