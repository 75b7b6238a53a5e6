package recovery

import "time"

const (
	// maxRecord bounds run.json in bytes: 2,000 VMs with many disks are 4 MiB.
	maxRecord = 16 << 20
	// maxVMs bounds the VMs of one run, maxGroups the groups they start in.
	maxVMs    = 2000
	maxGroups = 64
	// maxSteps bounds the steps a record remembers: those of some hundred second
	// tries. Older ones go.
	maxSteps = 2000
	// maxWarnings bounds the warnings of one step; maxWords the bytes of one.
	maxWarnings = 100
	maxWords    = 2 << 10
	// maxText bounds a label or note of a user, bytes.
	maxText = 255
	// defaultParallel is how many VMs are started at once: each boot reads as fast
	// as it can, and more only take turns. maxParallel bounds what may be asked.
	defaultParallel = 4
	maxParallel     = 64
	// pinSpan is how long a pin holds without being renewed, and pinEvery when it
	// is: a run nobody looks after keeps from being deleted what it reads for a
	// day, over a weekend's crash it begins anew.
	pinSpan  = 24 * time.Hour
	pinEvery = pinSpan / 4
	// evidenceWait is how long a VM of a test is given before its screen is
	// looked at.
	evidenceWait = 20 * time.Second
	// maxSerial bounds the serial output that is kept of a VM, bytes.
	maxSerial = 4 << 20
	// maxShot bounds a screenshot, bytes: 4K in 24 bit, not compressed.
	maxShot = 32 << 20
	// undoLimit bounds what is undone after a run's context has ended.
	undoLimit = 2 * time.Minute
	// shutdownLimit is how long guests of the source may take in a planned
	// migration.
	shutdownLimit = 5 * time.Minute
	// syncLimit bounds the wait for the source's final checkpoint to be published.
	syncLimit = 30 * time.Minute
	// watchLimit bounds the wait for the host component to get into the paths of
	// VMs that stand still, which then go on without: a process's start and some
	// commands, a second on a quiet machine.
	watchLimit = 20 * time.Second
	// silentLimit is how long the source's DRVA may say nothing: a restart takes
	// seconds.
	silentLimit = time.Minute
	// protectLimit bounds the wait for the first recovery point at the recovery
	// site.
	protectLimit = 24 * time.Hour
	// pollEvery is how often a box is asked for its status.
	pollEvery = 200 * time.Millisecond
	// saveEvery is how often a step's progress is written to the record.
	saveEvery = 2 * time.Second
	// remindEvery is how often an owner reminds of a decision that is due.
	remindEvery = 10 * time.Minute
	// askLimit is how long a local call waits for an answer, and a VM for its end.
	askLimit = 5 * time.Second
	// busyLimit is how long what an owner is asked to do waits for what it is doing:
	// moving VMs to their files, with watchLimit and the end of a watchdog in it.
	busyLimit = time.Minute
	// maxRelaunch is how often a box that ended is started again while the first
	// point is waited for: a kill or two, not a box that cannot live.
	maxRelaunch = 5
	// maxList bounds the directories that List looks into.
	maxList = 10000
)
