package rocva

import "time"

const (
	// defaultParallel is how many objects are fetched at once: with 8 MiB
	// ranges enough to keep a 1 Gbit/s link at 40 ms busy.
	defaultParallel = 6
	// maxParallel bounds Options.Parallel: 64 ranges of 8 MiB are 512 MiB.
	maxParallel = 64
	// rangeSize bounds one read from the store in bytes.
	rangeSize = 8 << 20
	// gatherSize bounds one write to a target in bytes. Direct writes of 4 MiB
	// reached 1.1 GB/s on the disk this was measured on, those of 1 MiB 0.7.
	gatherSize = 4 << 20
	// directFrom is the size in bytes from which a write goes past the page
	// cache: below it the cache does better, because it joins what several
	// objects give side by side.
	directFrom = 256 << 10
	// allocateFrom: a disk of which less than this part is holes is allocated
	// before it is written.
	allocateFrom = 16
	// allocatePiece is how much is allocated by one call, in bytes: one that a
	// signal interrupts may have to begin again.
	allocatePiece = 1 << 30
	// cursorEvery is the default of Options.SaveEvery: often enough that little
	// is repeated, seldom enough that syncing does not hold up writing.
	cursorEvery = 5 * time.Second
	// maxCursor bounds a cursor in bytes: a year of 5-second objects, one in
	// two done, is about 50 MB; more than that is not worth keeping.
	maxCursor = 64 << 20
	// zeroPiece is how much of a device is zeroed by one write, in bytes.
	zeroPiece = 4 << 20

	partialSuffix = ".partial"
	cursorSuffix  = ".cursor"
	lockSuffix    = ".lock"
)
