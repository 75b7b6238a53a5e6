package drva

import (
	"fmt"
	"time"
)

// Meeting says whether a domain keeps what was promised for it.
type Meeting string

// The states of an RPO target.
const (
	NoTarget   Meeting = ""            // none is set
	NoPoint    Meeting = "no point"    // the first copy is not complete
	Meets      Meeting = "meeting"     //
	Nearly     Meeting = "warning"     // the RPO is at 80 % of the target or above
	NotMeeting Meeting = "not meeting" // at the target or above
)

// rpoAlarm compares the RPO with its target. It is raised at once and lowered
// only when the RPO has stayed below for a while: between two checkpoints the
// RPO rises and falls by the interval, and each tooth of the saw is no news.
type rpoAlarm struct {
	target time.Duration
	calm   time.Duration // how long it must have stayed better
	state  Meeting
	better time.Time // since when; zero: it is not
	worst  Meeting   // seen since then
}

// look takes the RPO in seconds, negative for none, and reports whether the
// state has changed.
func (a *rpoAlarm) look(rpo float64, now time.Time) bool {
	if a.target == 0 {
		return false
	}
	want := Meets
	switch part := rpo / a.target.Seconds(); {
	case rpo < 0:
		want = NoPoint
	case part >= 1:
		want = NotMeeting
	case part >= nearTarget:
		want = Nearly
	}
	switch {
	case want == a.state:
		a.better = time.Time{}
		return false
	case a.state == NoTarget || want.worse(a.state):
	default:
		if a.better.IsZero() {
			a.better, a.worst = now, want
		}
		if want.worse(a.worst) {
			a.worst = want
		}
		if want = a.worst; now.Sub(a.better) < a.calm {
			return false
		}
	}
	a.state, a.better = want, time.Time{}
	return true
}

func (m Meeting) worse(than Meeting) bool {
	rank := map[Meeting]int{NoTarget: 0, NoPoint: 0, Meets: 1, Nearly: 2, NotMeeting: 3}
	return rank[m] > rank[than]
}

// event tells of the state.
func (a *rpoAlarm) event(rpo float64, cause string) Event {
	e := Event{Object: "domain", Severity: Info}
	words := fmt.Sprintf("the newest recoverable point is %.1f s old, the target is %v", rpo, a.target)
	switch a.state {
	case NoPoint:
		e.Code, words = "rpo-no-point", "no point can be recovered yet"
	case Meets:
		e.Code = "rpo-met"
	case Nearly:
		e.Code, e.Severity = "rpo-warning", Warning
	default:
		e.Code, e.Severity = "rpo-missed", Alarm
	}
	if cause != "" && e.Severity != Info {
		words += ": " + cause
	}
	e.Text = words
	if e.Severity != Info {
		e.Remedy = `"holdfast status" tells what holds it up: the store, a paused domain, a host that tracks or is away`
	}
	return e
}
