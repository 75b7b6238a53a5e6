package runs

import "time"

const (
	// maxSteps bounds the steps of a run: 2,000 VMs with some twelve each, and as
	// many that undo.
	maxSteps = 50000
	// maxSnapshot bounds a snapshot as JSON, bytes: some 600 a step.
	maxSnapshot = 32 << 20
	// maxAfter bounds the steps one step waits for by name: a VM on which all others
	// of a plan depend is shut down after them.
	maxAfter = 2000
	// maxName bounds names, kinds, keys, users and subjects, bytes.
	maxName = 200
	// maxWords bounds one note, question, answer or reason, bytes.
	maxWords = 2 << 10
	// maxNotes bounds the warnings and errors kept of one attempt of a step.
	maxNotes = 100
	// maxChoices bounds the answers a prompt offers.
	maxChoices = 16
	// maxMemory bounds what a step hands to its next attempt, bytes.
	maxMemory = 64 << 10
	// outputTail is how much of a step's output is kept: its end, bytes.
	outputTail = 4 << 10
	// maxWait bounds timers, timeouts and limits: longer is a mistake.
	maxWait = 30 * 24 * time.Hour
	// maxAttempts bounds retries.
	maxAttempts = 1000
	// maxParallel bounds the steps of one run that run at once; defaultParallel
	// is for snapshots that say nothing.
	maxParallel     = 1000
	defaultParallel = 20
	// maxPage bounds a list or a part of the feed, rows.
	maxPage = 1000
	// pruneBatch is how many runs one transaction deletes, with all their rows.
	pruneBatch = 20
	// rowsAtOnce is how many rows one INSERT has: the parameters stay below both
	// engines' limits, and a run of 20,000 steps begins in a second.
	rowsAtOnce = 100
	// holdFor is how long a worker keeps a run in which nothing goes on: what is
	// due sooner is not worth a release and a claim.
	holdFor = time.Second
	// progressEvery is how often the progress of steps under way is stored.
	progressEvery = time.Second
	// firstPause and longestPause bound how long a worker waits before it asks a
	// database again that was away.
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
	// never is the time of what only a person brings on.
	never = 1<<63 - 1
)
