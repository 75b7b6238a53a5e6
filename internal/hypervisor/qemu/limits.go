package qemu

import "time"

const (
	// reconnectSeconds is how long QEMU holds a disk's requests while its NBD
	// server is away, before they become I/O errors: a filter restarts in one.
	reconnectSeconds = 20
	// maxSocketPath bounds a unix socket's path, bytes: sun_path holds 108
	// with the zero at its end.
	maxSocketPath = 107
	// maxMessage bounds one QMP message, bytes: the largest answers we ask for
	// are a few KiB.
	maxMessage = 1 << 20
	// maxPending bounds QMP commands awaiting their answer.
	maxPending = 16
	// stderrTail is how much of QEMU's last words is kept, bytes.
	stderrTail = 4 << 10
	// startLimit bounds the time from the process's start to its QMP greeting
	// when the caller's context has no earlier end: milliseconds on a quiet
	// host, seconds when disks are slow to open.
	startLimit = 60 * time.Second
	// pressEvery is how often an orderly stop presses the power button: a guest
	// that is still booting does not see the first time, and one that shuts
	// down already does not mind the next.
	pressEvery = 2 * time.Second
	// quitLimit bounds how long output pipes of an ended process are drained.
	quitLimit = 2 * time.Second
	// probeLimit bounds the trial boot of an accelerator. A KVM that works
	// takes a tenth of a second; one that hangs must not hold up the user.
	probeLimit = 5 * time.Second
	// probeFactor and probeSlack: KVM is used when its trial boot took at most
	// factor times what emulation took, plus slack for process start-up noise.
	// There are hosts whose KVM works at a thirtieth of emulation's speed.
	probeFactor = 3
	probeSlack  = 250 * time.Millisecond
	// maxCached bounds the file that remembers a probe's outcome, bytes.
	maxCached = 64 << 10
	// maxFirmware bounds a UEFI variable store's template, bytes: the largest
	// in the field has 528 KiB.
	maxFirmware = 8 << 20
)
