// Package limit keeps the traffic of a store within a bandwidth that may
// depend on the day and the hour: so that replication leaves the link to
// others while they work, and takes all of it at night.
//
// A [Schedule] says what is allowed when, as in
//
//	zone Europe/Berlin; mon-fri 08:00-18:00 20MB/s; * 100MB/s
//
// and a [Limiter] enforces it, separately up and down, for all stores that are
// made with it: one appliance has one limiter. It can be given another
// schedule at any time, which holds at once, also for calls that wait.
//
// A call waits until its bytes are allowed, and then goes at full speed: over
// a second or a few the mean is right, within one object it is not. Waiting
// calls are served in turn, 64 KiB each, so that a small object does not wait
// for a large one. Requests without content (Stat, List, Delete) pass freely.
// Put it between package meter and package retry, so that repeats are limited
// too.
//
// Nothing here starts a goroutine.
package limit
