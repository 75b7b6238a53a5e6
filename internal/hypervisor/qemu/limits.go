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
	// adoptLimit bounds how long a VM that is adopted may take to answer: its
	// QEMU may be starting up, and takes as long as startLimit says at worst.
	adoptLimit = 60 * time.Second
	// dialEvery is how often the monitor of a QEMU that is starting up is tried.
	dialEvery = 5 * time.Millisecond
	// maxRunFile bounds the file that describes a run, bytes: sixteen disks with
	// paths as long as they come take a tenth.
	maxRunFile = 1 << 20
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
	// maxLiveVMs bounds the QEMU processes one Platform drives: more do not fit
	// a host.
	maxLiveVMs = 1024
	// maxNews bounds events of one VM that were not looked at yet; what does
	// not fit is found by looking.
	maxNews = 64
	// reconnectEvery is how often a QMP socket that does not answer is tried: a
	// VM that starts writes unseen for as long, and a try where nobody listens
	// takes some 10 µs.
	reconnectEvery = 100 * time.Millisecond
	// lookEvery is how often a VM is looked at for changes QEMU has no event
	// for: some 20 commands of a tenth of a millisecond each.
	lookEvery = 2 * time.Second
	// commandLimit bounds commands that do not depend on a disk, and connecting.
	commandLimit = 10 * time.Second
	// switchLimit bounds what is done once a switch-over has begun, whatever
	// the caller's context says: half of one must not be left. A hung export
	// holds QEMU until it is killed.
	switchLimit = 60 * time.Second
	// jobPoll is how often a mirror job is asked where it stands: it is ready
	// after a millisecond or two.
	jobPoll = 2 * time.Millisecond
	// maxDevices bounds the devices of a VM that are looked at for network cards.
	maxDevices = 256
	// maxSlots bounds the numbers of our block nodes in one VM: each attached
	// disk uses one, and a detached one may keep its number in use.
	maxSlots = 4096
	// maxNodeName bounds a block node's name, bytes, in QEMU.
	maxNodeName = 31
	// daemonLimit is how long a storage daemon may take to close its image
	// before it is killed.
	daemonLimit = 30 * time.Second
	// maxAgentBytes bounds what one conversation with a guest's agent reads,
	// bytes, old garbage in the channel included; maxAgentLine one answer.
	// What a program in a guest printed is in one answer: the agent keeps 16 MiB of it,
	// and nothing here needs as much.
	maxAgentBytes = 8 << 20
	maxAgentLine  = 4 << 20
	// syncLimit is how long a guest's agent may take to answer the handshake:
	// milliseconds where there is one.
	syncLimit = 3 * time.Second
	// agentLimit bounds a conversation that has no limit of its own.
	agentLimit = 10 * time.Second
	// agentMemory is how long an agent that answered is taken to be there.
	agentMemory = 10 * time.Minute
	// thawEvery and maxThaws: a guest that does not answer while frozen is
	// asked again for ten minutes; then it is dead.
	thawEvery = time.Second
	maxThaws  = 600
)
