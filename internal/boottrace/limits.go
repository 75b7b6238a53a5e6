package boottrace

import "time"

const (
	// For is how long reads are recorded from the first one on: a boot.
	For = 120 * time.Second
	// MaxChunks bounds a trace in chunks: 2 GiB of what a boot reads.
	MaxChunks = 32 << 10
	// MaxDisks bounds the disks of a trace.
	MaxDisks = 256
	// MaxSize bounds an encoded trace, in bytes: each chunk of MaxChunks takes two
	// for its disk and at most five for its number.
	MaxSize = 16 + MaxDisks*16 + MaxChunks*7
	// slots is the size of a recorder's table, a power of two: at half full a
	// look-up takes one step or two.
	slots = 2 * MaxChunks
)
