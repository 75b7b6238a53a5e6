package drva

import (
	"time"
)

// Severity says how much an event matters to a person.
type Severity string

// The severities.
const (
	Info    Severity = "info"    // nothing to do
	Warning Severity = "warning" // protection goes on; look at it today
	Alarm   Severity = "alarm"   // points are not made as promised; act
)

// Event is something that happened to a domain, for people and for management.
type Event struct {
	Seq      uint64    `json:"seq"` // rises by one; begins anew with the process
	Time     time.Time `json:"time"`
	Code     string    `json:"code"` // stable, as "log-throttle"; docs/operate/drva.md lists all
	Severity Severity  `json:"severity"`
	Object   string    `json:"object"` // what it happened to, as "vm 51d0…"
	Text     string    `json:"text"`
	Remedy   string    `json:"remedy,omitempty"`
}

// Events is the answer to a look at the events after one.
type Events struct {
	Events []Event `json:"events"` // oldest first
	Lost   uint64  `json:"lost"`   // newer than asked for, and not kept any more
}

// eventRing keeps the newest maxEventsKept events. The zero value is empty; the
// caller serialises.
type eventRing struct {
	kept []Event
	last uint64
}

func (r *eventRing) add(e Event) Event {
	r.last++
	e.Seq = r.last
	if len(r.kept) == maxEventsKept {
		copy(r.kept, r.kept[1:])
		r.kept = r.kept[:maxEventsKept-1]
	}
	r.kept = append(r.kept, e)
	return e
}

// after returns the events after one. A number this run has not reached yet is
// of an earlier run: everything is new then.
func (r *eventRing) after(seq uint64) Events {
	if seq > r.last {
		seq = 0
	}
	out := Events{Events: []Event{}}
	first := r.last - uint64(len(r.kept)) + 1
	if seq+1 < first {
		out.Lost = first - seq - 1
		seq = first - 1
	}
	out.Events = append(out.Events, r.kept[seq+1-first:]...)
	return out
}

// Events returns what happened after the event of that number; 0: all that is
// kept. Cheap.
func (s *Server) Events(after uint64) Events {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ring.after(after)
}

// Tell keeps an event of what runs beside the server, as the domain's others; Seq is
// given, and Time where there is none. Cheap.
func (s *Server) Tell(e Event) { s.emit(e) }

// emit keeps an event and tells the log of it.
func (s *Server) emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	s.mu.Lock()
	e = s.ring.add(e)
	s.mu.Unlock()
	args := []any{"code", e.Code, "object", e.Object, "text", e.Text}
	if e.Remedy != "" {
		args = append(args, "remedy", e.Remedy)
	}
	switch e.Severity {
	case Info:
		s.log.Info("event", args...)
	case Warning:
		s.log.Warn("event", args...)
	default:
		s.log.Error("event", args...)
	}
}
