package live

import "time"

const (
	// maxRecord bounds the record in bytes: 500 disks have some 200 KiB.
	maxRecord = 4 << 20
	// maxSocketPath is the kernel's bound for a unix socket (108 with its zero).
	maxSocketPath = 107

	// undoLimit is how long undoing may take after the caller has left: a
	// guest must not be left half attached because somebody pressed ^C.
	undoLimit = 30 * time.Second
	// changeLimit bounds what one change of the platform may take, so that a
	// VM that does not answer does not keep the others waiting.
	changeLimit = 2 * time.Minute
	// leaveLimit bounds how long a stopping host component detaches.
	leaveLimit = 30 * time.Second
	// lookAgain is how often the platform is compared with the record even if
	// it tells of no change.
	lookAgain = time.Minute

	// DefaultHang is how long a host component may not answer before its
	// watchdog takes it for dead: longer than any of its own limits, so that
	// a busy one is not killed.
	DefaultHang = 10 * time.Second
	// MinHang is the shortest of such limits.
	MinHang = time.Second
	// pingEvery is how often a watchdog asks, pingLimit how long it waits.
	pingEvery = time.Second
	pingLimit = time.Second
	// heirEvery is how often a watchdog looks whether who came after its host
	// component answers.
	heirEvery = 50 * time.Millisecond
	// failLimit bounds one fail-open; they run side by side.
	failLimit = 10 * time.Second
	// failRetry is the pause before a fail-open that failed is tried again.
	failRetry = time.Second / 4
	// meetLimit is how long a driver may take to meet a VM that runs.
	meetLimit = 5 * time.Second

	// dropLooks looks, dropPause apart, must agree that a disk is gone: a VM
	// that ends has closed its disks up to a second before its process is gone.
	dropLooks = 3
	dropPause = time.Second

	// guardEvery is how often a host component asks its watchdog, and looks what
	// sockets it has to be given; guardMisses answers missing in a row mean that
	// it hangs.
	guardEvery  = time.Second / 2
	guardMisses = 20
	// guardPause is the pause before another watchdog is started, doubled up to
	// guardPauses for one that did not live guardSteady.
	guardPause  = time.Second / 4
	guardPauses = 16 * time.Second
	guardSteady = 10 * time.Second
	// maxHeld bounds the sockets a watchdog holds, one a disk.
	maxHeld = 4096
)
