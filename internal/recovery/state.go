package recovery

import (
	"fmt"
	"slices"
)

// Operation is what a run is for. Names are stable.
type Operation string

// The operations.
const (
	Test     Operation = "test"     // look at a point, beside production
	Planned  Operation = "planned"  // move the domain here, without loss
	Disaster Operation = "disaster" // the source is lost, or given up
	Failback Operation = "failback" // Planned, back onto disks that held the domain before
	Clone    Operation = "clone"    // disks of a point, as VMs of their own
)

var operations = []Operation{Test, Planned, Disaster, Failback, Clone}

// State is where a run stands. Names are stable.
type State string

// The states. While one of the first group holds, a process should own the run.
const (
	Preparing    State = "preparing"     // point, pin, plan
	PreSyncing   State = "pre-syncing"   // the source publishes what it has
	ShuttingDown State = "shutting-down" // the source's guests end in order
	FinalSync    State = "final-sync"    // the source publishes its last checkpoint
	Fencing      State = "fencing"       // the source's history is ended, the fork begins
	Hydrating    State = "hydrating"     // disks are built
	Booting      State = "booting"       // VMs start
	Promoting    State = "promoting"     // commit under way
	Reversing    State = "reversing"     // protection here is being completed
	RollingBack  State = "rolling-back"  // VMs and disks go, the fork is dropped
	Unwinding    State = "unwinding"     // the source is put back in service
	Cleaning     State = "cleaning"      // all a run made goes

	Tested            State = "tested"             // the test's VMs run; cleanup is next
	BeforeCommit      State = "before-commit"      // the recovered VMs run; commit or rollback is next
	FailedOver        State = "failed-over"        // committed; protection here has begun
	Protected         State = "protected"          // recovery points exist here
	RolledBack        State = "rolled-back"        // nothing runs here; another point may be tried
	Unwound           State = "unwound"            // the source is in service again
	Cloned            State = "cloned"             // the clone's disks are whole
	Clean             State = "clean"              // nothing is left but record, evidence and report
	Incomplete        State = "incomplete"         // a step failed or was cancelled: resume, roll back or clean up
	CleanupIncomplete State = "cleanup-incomplete" // cleaning failed: again, or by force
)

// Active reports whether the state is one of work under way.
func (s State) Active() bool {
	switch s {
	case Preparing, PreSyncing, ShuttingDown, FinalSync, Fencing, Hydrating, Booting,
		Promoting, Reversing, RollingBack, Unwinding, Cleaning:
		return true
	}
	return false
}

// Action is a list of steps a run is asked to do. Names are stable.
type Action string

// The actions.
const (
	Recover   Action = "recover" // what the run's operation is
	Commit    Action = "commit"
	Rollback  Action = "rollback"
	Unwind    Action = "unwind"
	Reprotect Action = "reprotect"
	Cleanup   Action = "cleanup"
)

// begins says from which states an action may begin anew, besides Incomplete
// and its own states, in which it goes on.
var begins = map[Action][]State{
	Recover:   {Preparing, RolledBack},
	Commit:    {BeforeCommit},
	Rollback:  {BeforeCommit, Incomplete},
	Unwind:    {Incomplete, RolledBack},
	Reprotect: {FailedOver},
	Cleanup:   {Tested, Cloned, RolledBack, Unwound, Incomplete, CleanupIncomplete, Clean},
}

// underWay are the states of each action while it is carried out.
var underWay = map[Action][]State{
	Recover:   {Preparing, PreSyncing, ShuttingDown, FinalSync, Fencing, Hydrating, Booting},
	Commit:    {Promoting},
	Rollback:  {RollingBack},
	Unwind:    {Unwinding},
	Reprotect: {Reversing},
	Cleanup:   {Cleaning},
}

// rests is where an action ends well, by operation for Recover.
func rests(a Action, op Operation) State {
	switch a {
	case Commit:
		return FailedOver
	case Rollback:
		return RolledBack
	case Unwind:
		return Unwound
	case Reprotect:
		return Protected
	case Cleanup:
		return Clean
	case Recover:
	}
	switch op {
	case Test:
		return Tested
	case Clone:
		return Cloned
	case Planned, Disaster, Failback:
	}
	return BeforeCommit
}

// fails is where an action ends when a step fails.
func fails(a Action) State {
	if a == Cleanup {
		return CleanupIncomplete
	}
	return Incomplete
}

// admit reports why an action may not begin, or go on, on a record as it is.
func (rec *Record) admit(a Action) error {
	if !has(rec.Operation, a) {
		return fmt.Errorf("a %s has no %s", rec.Operation, a)
	}
	again := rec.Action == a && (rec.State == fails(a) || slices.Contains(underWay[a], rec.State))
	if again || slices.Contains(begins[a], rec.State) {
		return nil
	}
	// A run that died, or failed, in one action may be undone by another.
	if (a == Rollback || a == Unwind || a == Cleanup) && rec.State.Active() && rec.Action == Recover {
		return nil
	}
	if a == Rollback && rec.Action == Commit && !rec.Committed && rec.State == Promoting {
		return nil // the commit died before it was one
	}
	return fmt.Errorf("the run is %s", rec.State)
}

// has reports whether an operation knows an action.
func has(op Operation, a Action) bool {
	switch a {
	case Recover, Cleanup:
		return true
	case Unwind:
		return op == Planned || op == Failback
	case Commit, Rollback, Reprotect:
		return op == Planned || op == Failback || op == Disaster
	}
	return false
}

// next says what may be done in a state, in words for people.
func next(s State) string {
	switch s {
	case Tested, Cloned:
		return "holdfast recover cleanup DIR removes it"
	case BeforeCommit:
		return "look at the VMs, then: holdfast recover commit DIR, or rollback DIR [--at ANOTHER]"
	case FailedOver:
		return "holdfast recover reprotect DIR waits until the VMs can be recovered from here"
	case Protected:
		return "to go back: holdfast recover failback, at the other site"
	case RolledBack:
		return "holdfast recover resume DIR --at ANOTHER tries another point; cleanup DIR ends it"
	case Incomplete:
		return "holdfast recover resume DIR goes on, rollback DIR or cleanup DIR undoes it"
	case CleanupIncomplete:
		return "holdfast recover cleanup DIR again, or with --force"
	case Unwound, Clean:
		return ""
	}
	return ""
}
