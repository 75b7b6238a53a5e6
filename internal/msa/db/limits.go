package db

import "time"

const (
	// maxWriters bounds the connections of one replica to PostgreSQL that write;
	// SQLite has one. A server allows 100 by default: four replicas fit.
	maxWriters = 12
	// maxReaders bounds those that read, on either engine.
	maxReaders = 8
	// idleFor is how long a connection nobody uses is kept.
	idleFor = 5 * time.Minute
	// busyFor is how long SQLite waits for another process's writer, and
	// PostgreSQL for a row another transaction holds. Transactions here last
	// milliseconds; what waits longer had better be repeated than hang.
	busyFor = 5 * time.Second
	// stuckFor ends, on PostgreSQL, a transaction whose owner says nothing: a
	// replica that is stopped must not hold rows the others need. It is less than
	// the shortest lease anybody should run with.
	stuckFor = 5 * time.Second
	// tries bounds how often a transaction is repeated that lost against others;
	// the pause before the second is firstPause, doubled each time.
	tries      = 10
	firstPause = 2 * time.Millisecond
	// openFor bounds how long Open waits for a database that is busy: another
	// replica migrates it.
	openFor = time.Minute
	// maxText bounds what Text lets through, bytes.
	maxText = 1 << 20
)
