package maintain

import (
	"fmt"
	"slices"
	"time"

	"holdfast/internal/dr"
)

// Point is what retention needs to know of a checkpoint.
type Point struct {
	ID   dr.CheckpointID
	Time time.Time // when the cut was taken
	// Offered says that it is recoverable and consistent over the whole
	// domain. Others are kept only in the finest tier's window, beside the
	// offered ones and never in place of one.
	Offered bool
	// Lasting says that it has a tag of its own or that guests were quiesced
	// for it: it stays for Rules.TagFor.
	Lasting bool
	// Suspect says that what was written up to it is the first of an episode
	// that looks like damage done by malice, see Detector: nothing around it is
	// thinned.
	Suspect bool
}

// Reason says why a checkpoint is kept. The zero value is Dropped.
type Reason uint8

// Reasons, in the order in which they are given when several hold.
const (
	Dropped  Reason = iota // no reason to keep it
	BySlot                 // it is the newest of a slot of the schedule
	ByTag                  // its tag, or a tag given later, keeps it
	BySafety               // thinning is paused around a suspect checkpoint
	ByNewest               // it is the newest of all, or the newest offered one
	ByRead                 // a reader has pinned it
	ByFork                 // a timeline branches off it
	ByHold                 // somebody holds it
)

var reasonNames = [...]string{"dropped", "schedule", "tag", "suspect", "newest", "read", "fork", "hold"}

// String returns the reason's stable name.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// Hold keeps one checkpoint for a reason of its own.
type Hold struct {
	Checkpoint dr.CheckpointID
	Reason     Reason // ByTag, ByRead, ByFork or ByHold
	Name       string // the pin's label or the fork's timeline, for people
}

// Rules are what retention decides by.
type Rules struct {
	Schedule Schedule
	TagFor   time.Duration // how long tagged and quiesced checkpoints stay; 0: as long as the schedule
	Holds    []Hold        // pins and forks that are in force
}

// Decision is what becomes of one checkpoint.
type Decision struct {
	Reason Reason
	Tier   int    // of Rules.Schedule, when Reason is BySlot
	Name   string // of the hold, when Reason is that of one
}

// Keep reports whether the checkpoint stays.
func (d Decision) Keep() bool { return d.Reason != Dropped }

// Retained decides about points, which are in the order of the history, at
// now. The result has their order.
//
// Slots are aligned to the wall clock, and the last of a slot's checkpoints in
// the order of the history stays while any part of the slot is younger than
// its tier's span. So what is dropped once is never needed later: the last of
// a slot was its last at every earlier time, and a slot only ages. Deciding
// again about what was kept keeps it all. A clock that goes back drops
// nothing, because every slot then is younger.
func Retained(points []Point, now time.Time, r Rules) []Decision {
	out := make([]Decision, len(points))
	keep := func(i int, d Decision) {
		if d.Reason > out[i].Reason {
			out[i] = d
		}
	}
	for tier := len(r.Schedule) - 1; tier >= 0; tier-- { // the finest that keeps it is named last
		keepSlots(points, now, r.Schedule[tier], tier == 0, func(i int) {
			out[i] = Decision{Reason: BySlot, Tier: tier}
		})
	}
	keepLatest(points, func(i int) { keep(i, Decision{Reason: ByNewest}) })
	tagFor := r.TagFor
	if tagFor == 0 {
		tagFor = r.Schedule.Span()
	}
	for i := range points {
		if points[i].Lasting && now.Sub(points[i].Time) < tagFor {
			keep(i, Decision{Reason: ByTag})
		}
	}
	keepAroundSuspects(points, func(i int) { keep(i, Decision{Reason: BySafety}) })
	for _, h := range r.Holds {
		i, found := slices.BinarySearchFunc(points, h.Checkpoint, func(p Point, id dr.CheckpointID) int {
			return compareIDs(p.ID, id)
		})
		if found {
			keep(i, Decision{Reason: h.Reason, Name: h.Name})
		}
	}
	return out
}

func compareIDs(a, b dr.CheckpointID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// keepSlots calls keep for the last offered point of each slot that is in the
// tier's window, and with others for the last one that is not offered too.
func keepSlots(points []Point, now time.Time, t Tier, others bool, keep func(i int)) {
	type slot struct {
		number  int64
		offered bool
	}
	edge := now.Add(-t.For)
	seen := make(map[slot]bool)
	for i := len(points) - 1; i >= 0; i-- {
		p := &points[i]
		if !p.Offered && !others {
			continue
		}
		n := slotOf(p.Time, t.Every)
		if end := time.Unix((n+1)*int64(t.Every/time.Second), 0); !end.After(edge) {
			continue
		}
		if s := (slot{n, p.Offered}); !seen[s] {
			seen[s] = true
			keep(i)
		}
	}
}

// slotOf numbers the slots of a width since 1970, in UTC.
func slotOf(t time.Time, every time.Duration) int64 {
	s, w := t.Unix(), int64(every/time.Second)
	n := s / w
	if s%w < 0 {
		n--
	}
	return n
}

func keepLatest(points []Point, keep func(i int)) {
	if len(points) > 0 {
		keep(len(points) - 1)
	}
	for i := len(points) - 1; i >= 0; i-- {
		if points[i].Offered {
			keep(i)
			return
		}
	}
}

// keepAroundSuspects calls keep for all points from suspectBefore before to
// suspectAfter behind each of the newest maxEpisodes suspect points.
func keepAroundSuspects(points []Point, keep func(i int)) {
	episodes := 0
	for i := len(points) - 1; i >= 0 && episodes < maxEpisodes; i-- {
		if !points[i].Suspect {
			continue
		}
		episodes++
		for j := range points {
			if d := points[j].Time.Sub(points[i].Time); d >= -suspectBefore && d <= suspectAfter {
				keep(j)
			}
		}
	}
}

// Clock is what is known about the time when a pass begins.
type Clock struct {
	Own   time.Time // of this machine
	Store time.Time // newest modification time the store shows; zero: none
	Last  time.Time // retention's time at the last pass; zero: there was none
	// Accepted is up to where somebody has confirmed that time really passed
	// without checkpoints; zero: never.
	Accepted time.Time
}

// Advance returns the time by which retention decides, and why it is held
// back if it is. It is never later than any of the three clocks there are:
// this machine's, the store's and the publisher's (the newest checkpoint's
// time and clockSlack). And it crosses no stretch of more than maxClockAdvance
// without a checkpoint: a clock set ahead by a year, wherever it is, ages
// nothing; and a domain that is not protected for a month keeps its history.
func (c Clock) Advance(points []Point) (now time.Time, held string) {
	if len(points) == 0 {
		return c.Last, ""
	}
	goal, who := c.goal(points)
	at := c.Last
	if at.IsZero() || goal.Before(at) {
		// The first pass starts from the oldest point; a clock that went back
		// is followed back, which makes everything younger.
		at = goal
		for i := range points {
			if t := points[i].Time; c.Last.IsZero() && t.Before(at) {
				at = t
			}
		}
	}
	if c.Accepted.After(at) {
		at = earlier(c.Accepted, goal)
	}
	times := make([]time.Time, 0, len(points)+1)
	for i := range points {
		if t := points[i].Time; t.After(at) && t.Before(goal) {
			times = append(times, t)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	for _, t := range append(times, goal) {
		if t.Sub(at) > maxClockAdvance {
			return at.Add(maxClockAdvance), fmt.Sprintf(
				"time seems to have passed without checkpoints from %s to %s: thinning is held until somebody confirms that no clock is wrong",
				at.UTC().Format(time.RFC3339), t.UTC().Format(time.RFC3339))
		}
		at = t
	}
	return at, who
}

// goal is the earliest of the clocks there are; who tells when that is one
// that stays far behind the others.
func (c Clock) goal(points []Point) (goal time.Time, who string) {
	newest := points[0].Time
	for i := range points {
		if t := points[i].Time; t.After(newest) {
			newest = t
		}
	}
	goal = c.Own
	if limit := newest.Add(clockSlack); limit.Before(goal) {
		goal = limit
		who = "no newer checkpoint than of " + newest.UTC().Format(time.RFC3339) + ": the history is not thinned further"
	}
	if limit := c.Store.Add(clockSlack); !c.Store.IsZero() && limit.Before(goal) {
		goal = limit
		who = "the store's clock is at " + c.Store.UTC().Format(time.RFC3339) + ": the history is not thinned further"
	}
	return goal, who
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
