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
	// updateGap is the longest run of unwanted bytes that an update reads along:
	// where traffic is paid for, 4 KiB cost as much as a request.
	updateGap = 4 << 10
	// comparePiece is how much of a disk is read and hashed at once, in bytes.
	comparePiece = 1 << 20
	// compareMost bounds how many pieces are compared at once: 16 processors
	// hash faster than disks read.
	compareMost = 16
	// maxOwn bounds the stretches of a disk's own changes that its mark notes
	// down: 65,536 are 2 MB of a cursor. More is compared if the update is taken
	// up for another checkpoint.
	maxOwn = 1 << 16
	// zeroPiece is how much of a device is zeroed by one write, in bytes.
	zeroPiece = 4 << 20

	partialSuffix = ".partial"
	cursorSuffix  = ".cursor"
	lockSuffix    = ".lock"
)
