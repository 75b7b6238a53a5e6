package chain

const (
	// DefaultPayload is the payload of a row when none is asked for, bytes:
	// four database pages, so that a commit touches several disk blocks.
	DefaultPayload = 16 << 10
	// MaxPayload bounds one row's payload, bytes: a row must stay far below
	// the window.
	MaxPayload = 256 << 10
	// windowBytes bounds the payload kept in the database, bytes: small enough
	// that its pages are overwritten within seconds of use, and that an
	// emulated guest verifies it in a fraction of a second.
	windowBytes = 2 << 20
	// walPages is the size of the write-ahead log, in database pages, at which
	// it is copied into the database: 1 MiB, a quarter of SQLite's own
	// default, so that the database file itself is rewritten often.
	walPages = 256
	// maxProblems bounds the problems a Result names; all are counted.
	maxProblems = 8
)
