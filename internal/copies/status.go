package copies

import (
	"context"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// State is how a copy stands. Names are stable.
type State string

// The states.
const (
	Copying State = "copying" // nothing can be recovered from it yet
	Lagging State = "behind"  // it lacks something of the source, and catches up
	Current State = "current" // it has all that the source has
	Away    State = "away"    // its store does not answer
	Full    State = "full"    // the copy's store has no room
	Failing State = "error"   // something else is in the way
	Fenced  State = "fenced"  // it is somebody else's now: for good
)

// Behind is what the source has and the copy has not, as far as it was seen.
type Behind struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// Status is how a copy stands. Times are zero where there is none.
type Status struct {
	Name   string `json:"copy"`
	State  State  `json:"state"`
	Cause  string `json:"cause,omitempty"` // why it is not current
	Remedy string `json:"remedy,omitempty"`
	// Newest is the newest recovery point that the copy has, Source that of the source
	// as far as it was seen.
	Newest time.Time `json:"newest,omitzero"`
	Source time.Time `json:"source,omitzero"`
	// Lag is how much older the copy's newest recovery point is than the source's; while
	// the copy cannot be followed: than now. -1: it has none.
	Lag     time.Duration `json:"lag_ns"`
	Behind  Behind        `json:"behind"`
	Waiting string        `json:"waiting,omitempty"` // who keeps deletion or a manifest waiting
	LastRun time.Time     `json:"last_run,omitzero"` // end of the last pass
	Tries   int           `json:"failures,omitempty"`

	// Since the Copier was made.
	Copied      int   `json:"copied"` // objects
	CopiedBytes int64 `json:"copied_bytes"`
	Deleted     int   `json:"deleted"`        // objects
	Held        int   `json:"held,omitempty"` // that a lock, or the store, refused to delete, by the last look
}

// Status tells how the copy stands. It asks no store.
func (m *Copier) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	switch {
	case s.Newest.IsZero():
		s.Lag = -1
	case s.State == Current || s.State == Lagging:
		s.Lag = max(0, s.Source.Sub(s.Newest))
	default:
		s.Lag = max(0, time.Since(s.Newest))
	}
	return s
}

// answers reports whether the copy's store does.
func (m *Copier) answers(ctx context.Context) bool {
	_, err := m.to.Stat(ctx, journal.DomainName)
	return err == nil || errs.Is(err, errs.NotFound)
}

// note keeps what a pass came to, and what state a failure makes; changed is true when the state is another one.
func (m *Copier) note(ctx context.Context, more bool, err error, state State) (changed bool) {
	current := m.currentLine()
	waiting := m.inTheWay()
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.state
	before := s.State
	s.LastRun, s.Waiting = time.Now(), waiting
	if current != nil {
		s.Newest, s.Source = current.newest, later(current.source, current.newest)
	}
	if err != nil {
		if ctx.Err() != nil {
			return false
		}
		s.Tries++
		s.State, s.Cause, s.Remedy = state, err.Error(), errs.RemedyOf(err)
		if s.State != before {
			m.log.Warn("the copy cannot be followed", "state", string(s.State), "err", err, "remedy", s.Remedy)
		}
		return s.State != before
	}
	s.Tries, s.Cause, s.Remedy = 0, "", ""
	switch {
	case !m.work.whole:
		s.State = Copying
	case more:
		s.State = Lagging
	default:
		s.State, s.Behind = Current, Behind{}
	}
	if s.State == Current && before != Current {
		m.log.Info("the copy has all that the first store has")
	}
	return s.State != before
}

// currentLine is the timeline that the domain lives on; nil: not known yet.
func (m *Copier) currentLine() *line {
	for i := len(m.work.order) - 1; i >= 0; i-- {
		if m.work.order[i].Current {
			return m.work.order[i]
		}
	}
	return nil
}

// StateOf is the state that a failure makes.
func StateOf(err error) State {
	switch errs.KindOf(err) {
	case errs.Fenced:
		return Fenced
	case errs.Transient, errs.Unavailable:
		return Away
	case errs.Full:
		return Full
	}
	return Failing
}

// copied counts an object that landed.
func (m *Copier) copied(bytes int64) {
	m.mu.Lock()
	m.state.Copied++
	m.state.CopiedBytes += bytes
	b := &m.state.Behind
	b.Objects, b.Bytes = max(0, b.Objects-1), max(0, b.Bytes-bytes)
	now := *b
	m.mu.Unlock()
	if m.opts.Progress != nil {
		m.opts.Progress(now)
	}
}

// deleted counts an object that was deleted.
func (m *Copier) deleted() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Deleted++
}

// tellBehind keeps what of a chain was seen and not copied yet.
func (m *Copier) tellBehind(l *line, ahead []journal.TailObject) {
	b := Behind{Objects: len(ahead)}
	for i := range ahead {
		b.Bytes += ahead[i].Size
	}
	m.setBehind(b)
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.Current {
		m.state.Newest, m.state.Source = l.newest, l.source
	}
}

// measure finds out how far the copy is behind while it cannot be followed: at least
// so far, by one page of a list. It is for people; a source that does not answer either
// changes nothing.
func (m *Copier) measure(ctx context.Context) {
	l := m.currentLine()
	if l == nil || !l.started || ctx.Err() != nil {
		return
	}
	after := journal.ObjectName(objectID(l, &journal.TailObject{Number: l.at.Next - 1}))
	page, err := m.from.List(ctx, journal.JournalPrefix(l.ID), after, store.MaxList)
	if err != nil {
		return
	}
	b := Behind{Objects: len(page)}
	for _, in := range page {
		b.Bytes += in.Size
	}
	m.setBehind(b)
}

// setBehind keeps what is to be copied.
func (m *Copier) setBehind(b Behind) {
	m.mu.Lock()
	m.state.Behind = b
	m.mu.Unlock()
	if m.opts.Progress != nil {
		m.opts.Progress(b)
	}
}
