package api

import (
	"encoding/json"
	"time"
)

// TaskState is how a task stands.
type TaskState string

// The states of tasks. Parked waits for an operator; all behind it have ended.
const (
	TaskActive       TaskState = "active"
	TaskParked       TaskState = "parked"
	TaskSucceeded    TaskState = "succeeded"
	TaskWithWarnings TaskState = "with-warnings"
	TaskFailed       TaskState = "failed"
	TaskCancelled    TaskState = "cancelled"
)

// Ended reports whether nothing more becomes of the task.
func (s TaskState) Ended() bool { return s != TaskActive && s != TaskParked }

// Task is an operation that lasts. It goes on when the manager is restarted, and
// another replica takes it over from one that is dead.
type Task struct {
	ID        string          `json:"id"`
	Operation string          `json:"operation" doc:"What is done"`
	Subject   string          `json:"subject" doc:"What it is done to"`
	State     TaskState       `json:"state" enum:"active,parked,succeeded,with-warnings,failed,cancelled"`
	Steps     int64           `json:"steps" doc:"How many steps it has"`
	Ended     int64           `json:"steps_ended" doc:"How many of them have ended"`
	Percent   float64         `json:"percent" doc:"0 to 100"`
	ETA       *time.Time      `json:"eta,omitempty" doc:"When it ends, if it goes on as until now; missing: that is not known"`
	By        string          `json:"by" doc:"Who asked for it"`
	Created   time.Time       `json:"created"`
	Finished  *time.Time      `json:"finished,omitempty"`
	Cancelled string          `json:"cancelled_by,omitempty" doc:"Who asked for it to be cancelled"`
	Reason    string          `json:"reason,omitempty" doc:"Why it is parked"`
	Notes     []TaskNote      `json:"notes" doc:"Warnings and errors"`
	Result    json.RawMessage `json:"result,omitempty" doc:"What it found, of operations that find something"`
}

// TaskNote is a warning or an error of a task.
type TaskNote struct {
	At    time.Time `json:"at"`
	Level string    `json:"level" doc:"warning or error"`
	Words string    `json:"words"`
}

// TryStore says how a store is tried.
type TryStore struct {
	Role  string `json:"role,omitempty" enum:"publisher,maintainer,recovery" doc:"Whose rights are asked for; missing: publisher"`
	Quick bool   `json:"quick,omitempty" doc:"Fewer rounds, smaller objects"`
}
