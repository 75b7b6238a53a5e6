package iofilter

import (
	"time"

	"holdfast/internal/dr"
)

// Event is one change of state, or, where From and To are the same, something
// that changed none. An event without a disk concerns the whole host and all its
// disks.
type Event struct {
	Number     uint64    `json:"number"` // dense, from 1, in one run of the host component
	Time       time.Time `json:"time"`
	VM         dr.VMID   `json:"vm,omitzero"`
	VMName     string    `json:"vm_name,omitempty"`
	Disk       dr.DiskID `json:"disk,omitzero"`
	DiskName   string    `json:"disk_name,omitempty"`
	From       State     `json:"from,omitempty"` // empty: it begins here
	To         State     `json:"to"`
	Cause      string    `json:"cause,omitempty"`
	DirtyBytes int64     `json:"dirty_bytes"`           // to be sent besides new writes
	ETASeconds int64     `json:"eta_seconds,omitempty"` // until that is done; 0: unknown
}

// EventList is a part of the host's events.
type EventList struct {
	Events []Event `json:"events"` // oldest first
	Next   uint64  `json:"next"`   // ask for these next time
	Lost   uint64  `json:"lost"`   // events asked for that are not kept any more
}

// events keeps the last maxEvents. Guarded by the outlet's mutex.
type events struct {
	ring []Event
	next uint64 // number of the latest
}

// tellLocked keeps an event and returns its time.
func (o *outlet) tellLocked(e Event) time.Time {
	o.events.next++
	e.Number, e.Time = o.events.next, time.Now()
	if at := int((e.Number - 1) % maxEvents); at < len(o.events.ring) {
		o.events.ring[at] = e
	} else {
		o.events.ring = append(o.events.ring, e)
	}
	return e.Time
}

// Events returns the events numbered since and above that are still kept; 0
// and 1 mean all. Safe for concurrent use.
func (f *Filter) Events(since uint64) EventList { return f.out.eventsSince(since) }

func (o *outlet) eventsSince(since uint64) EventList {
	o.mu.Lock()
	defer o.mu.Unlock()
	ev := &o.events
	since = max(since, 1)
	first := uint64(1)
	if n := uint64(len(ev.ring)); n == maxEvents {
		first = ev.next - n + 1
	}
	l := EventList{Events: []Event{}, Next: ev.next + 1}
	if since < first {
		l.Lost, since = first-since, first
	}
	for n := since; n <= ev.next; n++ {
		l.Events = append(l.Events, ev.ring[(n-1)%maxEvents])
	}
	return l
}

// Watched says how the host component's watchdog is. That one has ended, and that
// there is one again, are events. Safe for concurrent use.
func (f *Filter) Watched(w WatchdogStatus) {
	before := f.watchdog.Swap(&w)
	switch {
	case before == nil || (before.PID == 0) == (w.PID == 0):
	case w.PID == 0:
		f.out.notice("the watchdog has ended, another one is started: " + w.Error)
	default:
		f.out.notice("there is a watchdog again")
	}
}

// notice keeps an event of the host that changed no state.
func (o *outlet) notice(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tellLocked(Event{From: o.shown.state, To: o.shown.state, Cause: what})
}
