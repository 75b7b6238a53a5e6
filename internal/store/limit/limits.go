package limit

import "time"

const (
	// slice is how many bytes a call is allowed before the next one in line
	// has its turn: at 1 MB/s, 66 ms.
	slice = 64 << 10
	// burst is how long an idle link may save what it did not use: enough to
	// make up for timers that fire late, too little to be noticed by others.
	burst = 100 * time.Millisecond
	// lookAgain bounds how long a schedule's answer is trusted: clocks are
	// set, and zones change to and from summer time.
	lookAgain = time.Minute

	// maxText bounds a schedule's text in bytes, maxRules its rules.
	maxText  = 4096
	maxRules = 64
	// MinRate and MaxRate bound a rate in bytes per second: less would be a
	// replication that never ends, more is not a limit.
	MinRate Rate = 1000
	MaxRate Rate = 1e12 // see MinRate
)
