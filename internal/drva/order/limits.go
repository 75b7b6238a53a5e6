package order

import "time"

// Bounds of a domain and of the waiting inside it.
const (
	// MaxHosts bounds the attached hosts of a domain: a round asks each.
	MaxHosts = 64
	// MaxDisks bounds the disks of a domain, so that a checkpoint's snapshot
	// (at most 600 bytes a disk, if each had a session of its own) stays below
	// a record's 1 MiB.
	MaxDisks = 1024
	// MaxIndex bounds the disk indices ever given out by one log; descriptors
	// have 16 bits for it.
	MaxIndex = 1<<16 - 1
	// MaxTag bounds a checkpoint's label in bytes: it is shown in one line.
	MaxTag = 256
	// MaxName bounds a host's name in bytes; longer ones are cut.
	MaxName = 64
	// MaxHole bounds how far above the log's end a replayed record may lie.
	// What is sequenced and not durable sits in frame buffers, 16 frames of
	// 256 records for each host; four times that leaves room for the DRVA's
	// own records.
	MaxHole = 4 * MaxHosts * 16 * 256
	// RoundSkip is added to the last known round at a restart, so that a round
	// whose records never became durable is not numbered again.
	RoundSkip = 1 << 20

	// DefaultMarkerLimit is how long a round waits for markers. Hosts let go
	// by themselves after 100 ms; one more round trip of a bad link on top.
	DefaultMarkerLimit = 200 * time.Millisecond
	// DefaultConfirmLimit is how long a round waits for answers.
	DefaultConfirmLimit = 2 * time.Second
	// DefaultFreezeWait is how long a round waits for guests to freeze: a
	// Windows guest's writers take up to a few seconds. What is frozen first
	// stays frozen for as long as the slowest takes.
	DefaultFreezeWait = 5 * time.Second
	// DefaultThawWait is how long the outcome waits for hosts to say whether
	// their guests had stayed frozen. What is cut meanwhile waits in memory, see
	// the appliance's maxHeld.
	DefaultThawWait = 2 * time.Second
	// DefaultFreezeLimit is when a host thaws by itself. Applications wait.
	DefaultFreezeLimit = 10 * time.Second
	// DefaultReplayLimit is how long a restarted DRVA waits for a known host:
	// hosts try again every second or two.
	DefaultReplayLimit = 10 * time.Second
)
