package maintain

import (
	"context"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

// Report tells what one pass found and did.
type Report struct {
	Timeline   dr.TimelineID `json:"timeline"`
	Generation uint64        `json:"generation"` // of the newest manifest after the pass; 0: there is none
	Worked     bool          `json:"worked"`     // a manifest was written
	More       bool          `json:"more"`       // a backlog is left: pass again soon
	Backlog    int           `json:"backlog"`    // journal objects that lay behind the manifest

	Flushed   int           `json:"flushed"` // journal objects taken into the index
	Changed   bool          `json:"changed"` // any of them held content
	Kept      int           `json:"kept"`    // checkpoints
	Dropped   int           `json:"dropped"` // checkpoints
	Merged    int           `json:"merged"`  // runs merged
	Full      bool          `json:"full"`    // all runs were merged into one
	Packed    int           `json:"packed"`  // objects whose live frames were moved
	Written   int64         `json:"written"` // bytes of data and index
	Deleted   int           `json:"deleted"` // objects
	Freed     int64         `json:"freed"`   // bytes of them
	Swept     int           `json:"swept"`   // orphans among them
	Extended  int           `json:"extended"`
	Now       time.Time     `json:"now"` // the time retention decided by
	Took      time.Duration `json:"took"`
	Stats     journal.Stats `json:"stats"`
	Entries   uint64        `json:"entries"` // of the index
	Runs      int           `json:"runs"`
	Oldest    time.Time     `json:"oldest"` // checkpoint
	Promised  time.Duration `json:"promised"`
	Paused    []string      `json:"paused,omitempty"` // what is not done, and why
	Alarms    []string      `json:"alarms,omitempty"` // what somebody should look at
	Held      []Held        `json:"held,omitempty"`
	Forecasts *Sizes        `json:"-"` // counted by the last full merge; nil: none has yet
}

// Held names something that keeps bytes from being given back.
type Held struct {
	Reason     string          `json:"reason"` // tag, read, fork, hold, suspect, lock, grace
	Name       string          `json:"name,omitempty"`
	Checkpoint dr.CheckpointID `json:"checkpoint,omitempty"`
	// Bytes that would be free without it, at least; -1: not counted yet.
	Bytes int64     `json:"bytes"`
	Until time.Time `json:"until"` // of a lock: when it runs out
}

// Status is how maintenance of a timeline stands, for people.
type Status struct {
	Timeline  dr.TimelineID `json:"timeline"`
	Began     time.Time     `json:"began"` // when the timeline was made: what it keeps may be older
	LastRun   time.Time     `json:"last_run"`
	NextRun   time.Time     `json:"next_run"` // zero: nobody runs it here
	Failures  int           `json:"failures"` // passes in a row
	LastError string        `json:"last_error,omitempty"`
	Resting   bool          `json:"resting"` // after too many failures
	Report                  // of the last good pass
}

func (s *Status) adopt(r *Report) {
	s.Report = *r
}

// Status tells how maintenance stands; of a Maintainer that has made no pass
// yet, what the newest manifest tells. It reads that manifest at most.
func (m *Maintainer) Status(ctx context.Context) (Status, error) {
	m.mu.Lock()
	s := m.state
	m.mu.Unlock()
	s.Resting = s.Failures >= breakerFailures
	if s.Generation != 0 {
		return s, nil
	}
	man, ok, err := m.c.ReadManifest(ctx, m.timeline)
	if err != nil {
		return s, errs.E("maintain.Status", errs.Internal, m.timeline.String(), err)
	}
	if !ok {
		return s, nil
	}
	policy := PolicyOf(man)
	s.Report = Report{Timeline: m.timeline, Generation: man.Generation}
	s.describe(man, &policy)
	s.LastRun = man.Created
	if man.Stats.Paused != "" {
		s.Paused = []string{man.Stats.Paused}
	}
	s.Forecasts = sizesOf(man)
	s.Held = heldBy(man, s.Forecasts)
	return s, nil
}

// describe fills in what a manifest tells.
func (r *Report) describe(man *journal.Manifest, policy *Policy) {
	r.Stats, r.Entries, r.Runs, r.Kept = man.Stats, man.Stats.Entries, len(man.Runs), len(man.Points)
	r.Promised = policy.Schedule.Span()
	r.Now = man.Stats.LastRun
	if len(man.Points) > 0 {
		r.Oldest = man.Points[0].Time
	}
}

// heldBy lists what besides the schedule keeps checkpoints, with the bytes
// each alone needs when they were counted.
func heldBy(man *journal.Manifest, sizes *Sizes) (out []Held) {
	for i := range man.Points {
		p := &man.Points[i]
		for _, r := range p.Reasons {
			if r.Kind == journal.BySchedule || r.Kind == journal.ByNewest || len(out) >= maxHeld {
				continue
			}
			h := Held{Reason: string(r.Kind), Name: r.Name, Checkpoint: p.ID, Bytes: -1}
			if n, ok := sizes.alone(p.ID); ok {
				h.Bytes = n
				if len(p.Reasons) > 1 {
					h.Bytes = 0 // something else keeps it too
				}
			}
			out = append(out, h)
		}
	}
	slices.SortStableFunc(out, func(a, b Held) int { return int(min(1, max(-1, b.Bytes-a.Bytes))) })
	return out
}

// Plan is what a pass would do now, without doing it.
type Plan struct {
	Report
	Drop    []journal.Point `json:"drop"` // checkpoints that would go
	Keep    []journal.Point `json:"keep"` // with their reasons
	Due     []string        `json:"due"`  // keys that would be deleted, if nothing is found to need them
	Victims int             `json:"victims"`
	Moved   int64           `json:"moved"` // live bytes of the victims
}

// Plan tells what a pass would do now. Nothing is written or deleted. Kinds as
// of Pass.
func (m *Maintainer) Plan(ctx context.Context) (*Plan, error) {
	select {
	case <-m.turn:
	case <-ctx.Done():
		return nil, errs.E("maintain.Plan", errs.Canceled, m.timeline.String(), context.Cause(ctx))
	}
	defer func() { m.turn <- struct{}{} }()
	m.mu.Lock()
	ask := m.ask
	m.mu.Unlock()
	p := newPass(m, ask)
	p.dry = true
	plan, err := p.plan(ctx)
	if err != nil {
		return nil, errs.E("maintain.Plan", errs.Internal, m.timeline.String(), err)
	}
	return plan, nil
}

func (r *Report) pause(format string, args ...any) {
	r.Paused = append(r.Paused, fmt.Sprintf(format, args...))
}

func (r *Report) alarm(format string, args ...any) {
	r.Alarms = append(r.Alarms, fmt.Sprintf(format, args...))
}
