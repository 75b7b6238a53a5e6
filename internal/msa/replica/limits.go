package replica

import "time"

const (
	// headerFor bounds how long a client may take to send its headers, idleFor how
	// long a connection is kept on which nothing is asked; maxHeader their size.
	headerFor = 10 * time.Second
	idleFor   = 2 * time.Minute
	maxHeader = 64 << 10
	// maxConnections bounds the connections of one replica, each some 50 kB: it is
	// the streams of events and the browsers of everybody.
	maxConnections = 2000
	// stopFor is how long requests under way may take when the process ends.
	stopFor = 5 * time.Second
	// pruneEvery is how often rows that are over are deleted; each time in small
	// transactions, until none is left or pruneFor has passed.
	pruneEvery = 10 * time.Minute
	pruneFor   = time.Minute
	// plansEvery is how often is looked for tests, decisions and reminders that are due:
	// time-tables have minutes.
	plansEvery = 15 * time.Second
	// diskEvery is how often is looked how full the database's disk is, and verifyEvery how
	// often the whole audit log is followed: a million entries are some seconds of it.
	diskEvery   = time.Minute
	verifyEvery = 24 * time.Hour
	// leastFree is how much of the disk should be free, bytes, and leastPart which part of
	// it, if that is less: a year of runs, events and samples is not more.
	leastFree = 1 << 30
	leastPart = 20
	// HistoryFor is how long reports of runs are kept: auditors ask about years.
	HistoryFor = 5 * 366 * 24 * time.Hour
	// RunsFor is how long an ended run, or task, is kept.
	RunsFor = 366 * 24 * time.Hour
)
