package hypervisor

import "time"

// State is where a VM's run stands. The zero value is Starting.
type State uint8

// The states; doc.go draws the moves.
const (
	Starting State = iota
	Running
	Paused
	Stopping
	Stopped
	Crashed
	numStates
)

var stateNames = [numStates]string{"starting", "running", "paused", "stopping", "stopped", "crashed"}

// String returns the stable lower-case name.
func (s State) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return "unknown"
}

// Final reports whether the run is over.
func (s State) Final() bool { return s == Stopped || s == Crashed }

// moves[from] is the set of states a VM may go to from there.
var moves = [numStates][numStates]bool{
	Starting: {Running: true, Paused: true, Stopped: true, Crashed: true},
	Running:  {Paused: true, Stopping: true, Stopped: true, Crashed: true},
	Paused:   {Running: true, Stopped: true, Crashed: true},
	Stopping: {Running: true, Paused: true, Stopped: true, Crashed: true},
}

// Status is a state and how it came about.
type Status struct {
	State  State
	Reason string    // why, in words; may be empty
	Since  time.Time // when it was entered
}

// EventKind classes an event. The zero value is StateChanged.
type EventKind uint8

const (
	StateChanged EventKind = iota // Status has the new state
	IOError                       // Disk met an error; the VM is about to be Paused
	GuestReset                    // the guest rebooted itself
	GuestPanic                    // the guest's kernel said it cannot go on
)

// String returns the stable lower-case name.
func (k EventKind) String() string {
	switch k {
	case StateChanged:
		return "state changed"
	case IOError:
		return "i/o error"
	case GuestReset:
		return "guest reset"
	case GuestPanic:
		return "guest panic"
	}
	return "unknown"
}

// Event is something that happened to a VM.
type Event struct {
	Kind   EventKind
	Time   time.Time
	Status Status // the state from here on
	Disk   string // IOError: the disk's name in the VM's configuration
	Detail string // words of the platform; may be empty
	Lost   int    // events before this one that did not fit the queue
}
