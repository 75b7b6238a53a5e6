package main

import "time"

const (
	mib = 1 << 20
	gib = 1 << 30

	// blockSize is the grain of capture and of the sampling of disks.
	blockSize = 4096

	// readyWithin bounds how long a server may take to greet its first client.
	readyWithin = 20 * time.Second
	// stopWithin is how long a server may take to end after SIGTERM.
	stopWithin = 20 * time.Second
	// monitorWithin bounds how long QEMU may be silent when an answer is due. Its
	// main loop stands still while a request waits for a dead export.
	monitorWithin = time.Minute
	// pollEvery is the pause between looks at a condition that another
	// process brings about.
	pollEvery = 20 * time.Millisecond

	// settleWithin bounds the wait for write-back between two runs. It is a
	// courtesy to the next run, not a promise: others may dirty pages too.
	settleWithin = 8 * time.Second
	// settledDirty is how many dirty bytes count as none.
	settledDirty = 48 * mib

	// bufferedSamples and directSamples are how many blocks are read before
	// and after a run to see that it changed the disk. Reading past the page
	// cache costs 60 us a block, so there are fewer.
	bufferedSamples = 8192
	directSamples   = 2048

	// fioGrace is how much longer than its run time fio may take.
	fioGrace = 60 * time.Second
	// maxLog bounds what an error quotes of a child's log.
	maxLog = 2048
)
