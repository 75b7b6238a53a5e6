package appliance

import "time"

const (
	// lookEvery is how often processes are looked at: one that died is seen before
	// hosts have filled their streams.
	lookEvery = 2 * time.Second
	// askLimit bounds a question to a process: it answers in milliseconds, or hangs.
	askLimit = 5 * time.Second
	// actLimit bounds a change of a VM's disks, which may take a platform some seconds
	// each.
	actLimit = 2 * time.Minute
	// startFirst and startMost bound the pauses between two starts of a process that
	// ends again: the first misses a port that is about to be free, the last notices
	// within half a minute that what was wrong is mended.
	startFirst = time.Second
	startMost  = 30 * time.Second
	// deadFirst and deadMost bound the pauses between restarts of a DRVA of which one
	// domain has ended alone: each interrupts the others for a moment.
	deadFirst = 15 * time.Second
	deadMost  = 10 * time.Minute
	// levelEvery is how often a DRVA is asked whether it has come level.
	levelEvery = time.Second
	// maxConfig is what a process reads of its configuration, bytes.
	maxConfig = 4 << 20
	// defaultPool is what the logs of a DRVA share when nobody says it: half of the
	// file system they are on, and at most this, bytes.
	defaultPool = 256 << 30
	// mostPoints is how many checkpoints a history is asked to keep: less than what a
	// maintainer takes, which counts the ends of its slots as well.
	mostPoints = 23_000
)
