package ondemand

import (
	"runtime"
	"time"

	"holdfast/internal/dr"
)

const (
	// defaultStall is how long a guest's operation waits for the store: below
	// the 30 s after which a Linux guest's SCSI layer aborts a command and
	// resets the disk, so that the guest hears of a failed read instead.
	defaultStall = 25 * time.Second
	// retryFirst and retryMost bound the waits between two tries of a read:
	// soon at first, because a guest waits; at most so long that a store that
	// is back is noticed within a second.
	retryFirst = 50 * time.Millisecond
	retryMost  = time.Second
	// tryMost bounds one request for a guest: one that hangs is sent again twice
	// before the guest hears of it.
	tryMost = 8 * time.Second
	// backMost bounds one request in the background: guests that wait for the
	// same bytes still see them in time when it hangs and is sent again.
	backMost = 16 * time.Second
	// corruptTries is how often bytes that cannot be proven are read again for a
	// guest: what was damaged on the way comes right, what lies damaged does not.
	corruptTries = 3

	// defaultParallel is how many reads hydration keeps under way: with 2 MiB
	// each enough for 1 Gbit/s at 40 ms, and few enough that a guest's read does
	// not queue behind many.
	defaultParallel = 4
	// maxParallel bounds Options.Parallel: 64 reads of 2 MiB are 128 MiB.
	maxParallel = 64
	// backShare: of the processors one in so many opens frames in the background.
	// The others are the guests': with all of two processors at it, an emulated
	// guest with 16 GiB took 11 s to boot instead of 4, for which this may be one
	// reason of several: what it gains was not measured alone.
	backShare = 2
	// demandReads bounds the reads for guests that are under way at once.
	demandReads = 64
	// spanSize bounds one read from the store in bytes; a guest's read that is
	// answered meanwhile waits for 16 ms of a 1 Gbit/s link behind it.
	spanSize = 2 << 20
	// yieldMost bounds how long a background read waits for guests' reads to be
	// over before it goes on all the same: hydration slows down and never stops.
	yieldMost = 100 * time.Millisecond
	// bootWindow and bootQuiet leave a boot alone: hydration waits until guests have
	// not read for bootQuiet, for bootWindow at the most. It takes a processor and the
	// disk from a guest that has just begun: beside all of it one with 16 GiB
	// took 1.9 times as long to boot as beside none, and like this 1.3 times.
	bootWindow = 30 * time.Second
	bootQuiet  = 2 * time.Second
	// frameSize is what a frame holds at most once it is opened, in bytes.
	frameSize = dr.ChunkSize
	// aheadFirst and aheadMost bound the read-ahead behind a sequential miss in
	// chunks: 128 KiB, doubled with each to 1 MiB.
	aheadFirst = 2
	aheadMost  = 16
	// prefetchBatch is how many chunks of a trace are fetched together, sorted
	// by object: 16 MiB, small against what a boot reads, so that its order
	// stays about what it was.
	prefetchBatch = 256

	// maxOpenFrames bounds the frames of all objects that are kept open, about
	// 200 bytes each with their hashes: 50 MiB. Beyond it the object that was
	// used longest ago is opened anew when it is needed.
	maxOpenFrames = 256 << 10

	// saveEvery is the default of Options.SaveEvery: often enough that little is
	// fetched again, seldom enough that syncing does not hold up the guest.
	saveEvery = 5 * time.Second
	// maxPending bounds the chunks that wait to be recorded before the keeper is
	// woken: some MiB of memory.
	maxPending = 64 << 10
	// compactFrom is from how many appended bytes on the map is replaced by a
	// short one, when it has doubled besides.
	compactFrom = 1 << 20
	// maxPayload bounds one record's payload in bytes; longer lists make several.
	maxPayload = 64 << 10
	// mapSlack is what a map may have beyond a record for each block, in bytes.
	mapSlack = 64 << 20
	// rateWindow is over how long a rate is taken: long enough to be steady,
	// short enough to follow a link.
	rateWindow = 10 * time.Second
	// zeroPiece is how much is zeroed by one write where the file system cannot
	// do better, in bytes.
	zeroPiece = 1 << 20

	// minCache is the least cache of a read-only disk in bytes, and the default:
	// a file system's directories and the file being read.
	minCache = 64 << 20

	// evictLooks is how many cached chunks are looked at for the one that was
	// used longest ago: of 16 the oldest is nearly always an old one.
	evictLooks = 16

	presentSuffix = ".present"
	lockSuffix    = ".lock"
)

// backHands is how many frames are opened at once in the background.
func backHands() int { return max(1, runtime.GOMAXPROCS(0)/backShare) }
