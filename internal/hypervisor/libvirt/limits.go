package libvirt

import "time"

const (
	// maxPacket bounds one message of the daemon, bytes: libvirt's own bound.
	maxPacket = 32 << 20
	// maxVMs bounds the VMs of a host we look at: ten times what one holds.
	maxVMs = 4096
	// maxXML bounds a VM's description, bytes: libvirt's own bound for strings.
	maxXML = 4 << 20
	// maxCalls bounds calls that await their answer. A daemon whose QEMU hangs
	// answers late, and the callers have given up long before.
	maxCalls = 64
	// dialLimit bounds connecting to the daemon, which is on this host.
	dialLimit = 15 * time.Second
	// pollEvery is how often every VM is looked at unless options say otherwise,
	// for what libvirt tells no event of, as a resized disk. One look costs the daemon about a millisecond
	// a VM.
	pollEvery = 10 * time.Second
	// lookLimit bounds one look at all VMs, so that one that hangs does not keep
	// us deaf.
	lookLimit = 30 * time.Second
	// redialEvery is how long to wait before the daemon is tried again: an
	// upgrade restarts it in a second or two.
	redialEvery = time.Second
	// startLimit bounds how long the daemon may take to make a VM: two or three
	// seconds on a quiet host, and more when disks are slow to open.
	startLimit = 60 * time.Second
	// eventLimit is how long the event of a command that was carried out may take
	// before the VM is asked how it is instead.
	eventLimit = 5 * time.Second
	// goneTick is how often the daemon is asked whether a VM that ended is gone:
	// it tells of the end some milliseconds before.
	goneTick = 5 * time.Millisecond
	// undoLimit bounds the steps that put a disk back after its caller gave up.
	undoLimit = 30 * time.Second
	// thawLimit bounds the driver's own attempt to end a freeze, and thawEvery
	// is how long it waits before the next.
	thawLimit = 5 * time.Second
	thawEvery = time.Second
	// agentSeconds bounds one question to a guest's agent whose caller has no bound.
	agentSeconds = 10
	// jobTick is how often a block copy is asked how far it is. It may end the
	// pass this much late, without harm: writes go to both sides by then.
	jobTick = 20 * time.Millisecond
	// resumeTick is how often a VM that stopped on its dead export is told to go
	// on, until it does: libvirt hears of the stop a moment after QEMU made it.
	resumeTick = 2 * time.Millisecond
	// reconnectSeconds is how long QEMU holds a disk's requests while its export
	// is away, before they become I/O errors: a filter restarts in one.
	reconnectSeconds = 20
	// copyBuffer is the unit in which a block copy reads and writes, bytes. It
	// locks what it copies: a guest's write waits for one such piece, and with
	// QEMU's default of 16 MiB for many.
	copyBuffer = 1 << 20
	// maxSocketPath bounds a unix socket's path, bytes: sun_path holds 108 with
	// the zero at its end.
	maxSocketPath = 107
)
