package runs

// State is how a run stands as a whole. Names are stable.
type State string

// The states. All but Active and Parked are ends: nothing changes any more.
const (
	Active       State = "active"        // a worker looks after it, or will when something is due
	Parked       State = "parked"        // waits for an operator; never given up
	Succeeded    State = "succeeded"     // all done
	WithWarnings State = "with-warnings" // all done that matters
	Failed       State = "failed"        // some step failed; another run may go on with the rest
	Cancelled    State = "cancelled"     // by a person
)

// Ended reports whether the state is an end.
func (s State) Ended() bool { return s != Active && s != Parked }

// Phase is which of a run's steps are at work. Names are stable.
type Phase string

// The phases, in order.
const (
	Forward Phase = "forward"
	Undoing Phase = "undo"
	Finally Phase = "finally"
)

// Status is how a step stands. Names are stable.
type Status string

// The statuses. All but Inactive and Running are ends.
const (
	Inactive    Status = "inactive"
	Running     Status = "running" // executes, or waits for a time, an answer or its next attempt
	AlreadyDone Status = "already-done"
	Success     Status = "success"
	Warning     Status = "warning" // done, or failed and of no consequence
	Error       Status = "error"
	Skipped     Status = "skipped"
	Canceled    Status = "cancelled"
)

// Ended reports whether the status is an end.
func (s Status) Ended() bool { return s != Inactive && s != Running }

// done reports whether the step's work is done.
func (s Status) done() bool { return s == Success || s == Warning || s == AlreadyDone }

// follows is the table of what may follow a status.
var follows = map[Status][]Status{
	Inactive: {Running, AlreadyDone, Skipped, Canceled},
	Running:  {Running, AlreadyDone, Success, Warning, Error, Skipped, Canceled},
}
