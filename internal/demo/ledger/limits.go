package ledger

import "time"

const (
	// maxOwed bounds answers of the guest nobody waits for any more. A command
	// given up costs one; with this many the guest does not answer at all.
	maxOwed = 4
	// maxProblems bounds the complaints kept of one boot or one image.
	maxProblems = 16
	// maxOutput bounds what is kept of a tool's output, bytes.
	maxOutput = 8 << 10
	// maxPartition bounds a file system that is checked, bytes: a guest's image
	// has a tenth.
	maxPartition = 1 << 30
	// writeLimit bounds sending one line: QEMU takes it at once, unless hung.
	writeLimit = 30 * time.Second
	// guestMemoryMiB is enough for kernel, ledger and page cache of a guest.
	guestMemoryMiB = 256
)
