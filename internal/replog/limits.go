package replog

import (
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/record"
)

const (
	// pageSize is the unit of everything in the log, in bytes: the block of the
	// capture path and the alignment of direct I/O.
	pageSize = dr.BlockSize

	// maxBatchRecords bounds the records of a batch: enough to make the 5
	// descriptor pages small against the payload, few enough for one pwritev.
	maxBatchRecords = 256
	// maxBatchPages bounds a batch's payload, in pages: 1 MiB, the largest
	// record, and about a millisecond of a fast disk.
	maxBatchPages = record.MaxPayload / pageSize
	// maxInFlight is how many batches the device works on at once: two keep it
	// busy while one is being acknowledged. Recovery tells a torn tail from
	// damage by this very number.
	maxInFlight = 2
	// queueBatches bounds the batches accepted and not yet acknowledged, so
	// that at most 32 MiB of the caller's payload is pinned.
	queueBatches = 32

	// defaultFileSize is the size of a log file in bytes: large enough to make
	// the header and the switch cost nothing, small enough to trim in steps.
	defaultFileSize = 64 << 20
	// minFileSize leaves room for the largest carry area beside several of the
	// largest batches, in bytes.
	minFileSize = 16 << 20
	// minFiles is the smallest quota, in files: one being trimmed, one being
	// written and the spares.
	minFiles = 4
	// maxFiles bounds open files and the work of Open: 4 TiB of default files.
	maxFiles = 1 << 16
	// spareFiles is how many pre-written files are kept ahead of need: one for
	// the next switch, one because a burst may fill that before the disk has
	// zeroed another.
	spareFiles = 2
	// growRetry is the pause after pre-writing failed, mostly for want of
	// space, before it is tried again.
	growRetry = 5 * time.Second

	// maxCarry bounds the carry area of a file, in bytes: some ten thousand
	// records in force, far beyond any domain, and 1/16 of a default file.
	maxCarry = 4 << 20
	// carryShare is the largest part of a file, as a divisor, that its carry
	// area may take.
	carryShare = 4

	// readAhead is a reader's buffer in bytes: two of the largest batches, so
	// that draining an outage reads in large pieces.
	readAhead = 2 << 20
	// markSpacing is the distance, in bytes, of places inside a file a reader
	// can start from without scanning the file.
	markSpacing = 1 << 20
	// maxReaders bounds the open readers: one ships, one may drain, the rest
	// are for tools.
	maxReaders = 16
)
