package iofilter

import "time"

// Every bound of the package. A guest's write waits for the DRVA at most
// ackLimit, of which at most pressureLimit for room in the stream: with a
// primary that answers in 200 ms that is below 2 s whatever the DRVA does.
const (
	// DefaultRing is the payload a host retains for a DRVA that restarts: at
	// 100 MB/s of writes it covers 0.6 s, at the usual 2 MB/s half a minute.
	DefaultRing = 64 << 20
	// MinRing and MaxRing bound what may be configured.
	MinRing = 4 << 20
	MaxRing = 4 << 30
	// ringGrain is the payload per descriptor: as many descriptors as blocks,
	// so that descriptors run out first only if most records have no payload.
	ringGrain = 4096

	// DefaultStallLimit is how long a write waits for room in a full stream
	// while none is being freed.
	DefaultStallLimit = 500 * time.Millisecond
	// pressureLimit is how long writes wait for room in one stretch even if a
	// little is freed all the time: a queue of writes waits for the sum.
	pressureLimit = 800 * time.Millisecond
	// pressureEnd is how empty the stream must get for a stretch to end.
	pressureEnd = 0.75
	// pressureEcho is how long after a stretch an arriving operation is taken
	// to have waited, unseen, in its socket since the stretch began.
	pressureEcho = 100 * time.Millisecond
	// ackLimit is how long a write waits for the DRVA's acknowledgement,
	// counted from its arrival.
	ackLimit = 1800 * time.Millisecond

	// leaveFill is how empty the stream must be to end tracking, and what the
	// sync cursor leaves free for live writes.
	leaveFill = 0.5
	// A host that has just left tracking and must go back stays there longer
	// each time, and no write waits for room again so soon: a DRVA that is too
	// slow for good must not stall the guests once a second.
	dwellMin    = time.Second
	dwellMax    = time.Minute
	dwellMemory = time.Minute
	noWaitAfter = 30 * time.Second

	// napTime and napBytes: with asynchronous acknowledgement the sender
	// collects for so long, or so much, before it sends. Without it the sender
	// and the other side wake for every write, which costs a third of the
	// throughput at queue depth 32.
	napTime  = 1500 * time.Microsecond
	napBytes = 512 << 10

	// Link timing. A DRVA that says nothing for peerSilence is taken as dead;
	// either side pings after pingEvery.
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 10 * time.Second
	pingEvery        = 2 * time.Second
	peerSilence      = 8 * time.Second
	backoffMin       = 50 * time.Millisecond
	backoffMax       = time.Second
	// refusedRetry: what a DRVA refuses takes a person to change.
	refusedRetry = 15 * time.Second

	// maxAnswer bounds the body of any frame after the handshake; the largest
	// is an Ack of 512 spans, about 12 KiB.
	maxAnswer = 16 << 10
	// maxOutbox bounds answers waiting to be sent; a DRVA that asks faster
	// than it reads is not sane.
	maxOutbox = 64 << 10
	// readBuffer is the receiver's buffer.
	readBuffer = 64 << 10

	// maxEvents bounds the events kept: a host of 500 disks that pauses,
	// resumes and syncs them all makes 1,500.
	maxEvents = 2048
	// maxDocument bounds the JSON of a record, in bytes: a VM's configuration
	// has some 100 bytes per disk and card.
	maxDocument = 64 << 10

	// A Legacy: its head has some 150 bytes per disk and connection, of which
	// a server takes no more than maxLegacyConns (nbd's default). The kernel
	// passes at most 253 descriptors at once.
	maxLegacyHead  = 16 << 20
	maxLegacyConns = 1024
	legacyBatch    = 200

	// maxPauseFile bounds the file that tells what is paused, in bytes, and
	// maxPauses the disks in it: an id takes 39 bytes.
	maxPauseFile = 64 << 10
	maxPauses    = 1000

	// maxDisks bounds the disks of a host: a Hello must fit its frame.
	maxDisks = 500
	// maxName bounds names of hosts, VMs and disks.
	maxName = 255
	// maxSocketPath is the kernel's bound for a unix socket (108 with its zero).
	maxSocketPath = 107

	// syncWindow is what the cursor reads under one range lock; the guest's
	// writes to that range wait for one read of it. syncHole is the longest
	// run of zeroes recorded at once.
	syncWindow = 1 << 20
	syncHole   = 1 << 30
	// sourceRetry is how long an operation waits for a connection to a disk's
	// source, sourceTimeout for an answer. A source is a process on this host:
	// what takes longer is dead, or its storage is.
	sourceRetry   = 2 * time.Second
	sourceTimeout = 20 * time.Second
	// mirrorTimeout is the same for a mirrored disk, where a guest's write may
	// wait for it: within the 2 s a guest may stand still.
	mirrorTimeout = 1500 * time.Millisecond
	// syncRetry is the pause after the primary failed to be read.
	syncRetry = time.Second

	// freezeParallel bounds the guests frozen at the same time: a freeze waits
	// for the guest, not for us, and the first stays frozen until the last is.
	freezeParallel = 32
	// thawLimit is how long a thaw may take; a guest that does not thaw is tried
	// again every thawRetry, thawTries times.
	thawLimit = 5 * time.Second
	thawRetry = time.Second
	thawTries = 10
	// The cursor gives way to guests: every yieldEvery it compares the median
	// latency of their writes, of at least yieldSamples of them, with the one
	// they have without it. When that is yieldFactor times as long, and
	// yieldSlack longer, it halves its speed, down to yieldFloor bytes a second,
	// at which 1 TiB takes twelve days; else it speeds up by yieldRise.
	yieldEvery   = 100 * time.Millisecond
	yieldSamples = 8
	yieldFactor  = 2
	yieldSlack   = 200 * time.Microsecond
	yieldFloor   = 1 << 20
	yieldRise    = 1.25
	// The guests have the disk for themselves for restFor every restEvery, so
	// that their own latency is known: 2 % of the time. What began within
	// restSettle after a read of the cursor does not count as undisturbed.
	restEvery  = 2 * time.Second
	restFor    = 40 * time.Millisecond
	restSettle = 5 * time.Millisecond

	// serveRetry is the pause before a disk whose socket failed is served
	// again.
	serveRetry = time.Second

	// strayCalm is how long an image must have been left alone by whoever wrote to
	// it past the host component before it is compared: guests that run write
	// every few seconds. strayEvery is how often it is looked at until then.
	strayCalm  = 15 * time.Second
	strayEvery = time.Second
	// maxVouching bounds the answers to rounds that wait for a look: a DRVA gives
	// each up after seconds.
	maxVouching = 16

	// drainLimit is how long a stopping host waits for the DRVA to have
	// everything.
	drainLimit = 5 * time.Second
	// releaseLost is how long the DRVA may be away before the copy of a disk that is
	// handed over is not waited for: one that restarts is back sooner, and who moves
	// a domain away lets its DRVA end first.
	releaseLost = 15 * time.Second
	// releaseLook is how often that is looked at.
	releaseLook = 250 * time.Millisecond
	// never is a deadline that does not come.
	never = time.Duration(1<<63 - 1)
)

// Boot traces.
const (
	// maxBoots bounds the VMs whose boots are recorded at once, and the traces that
	// wait for a link: 900 KiB each.
	maxBoots = 16
	// leastBoot is how many chunks a trace must have: 4 MiB are less than any boot
	// reads, and more than a tool that looks for a partition table.
	leastBoot = 64
)

// Sidecars.
const (
	// roundEvery is how often regions that are not written to any more are
	// closed, roundGap the least time between two tries: each costs the primary
	// a flush.
	roundEvery = 10 * time.Second
	roundGap   = time.Second
	// voidLimit is how long a write waits for the DRVA to know that a sidecar
	// which can be neither written nor removed must not be trusted.
	voidLimit = 1500 * time.Millisecond
	// sidecarRetry is when a sidecar that was given up is tried again.
	sidecarRetry = time.Minute
)

// Comparing with what the DRVA holds.
const (
	// answerLimit is how long the cursor waits for an answer before it ships:
	// longer than the longest time between two checkpoints, since what is
	// answered is what has been published.
	answerLimit = 90 * time.Second
	// askAhead is how many windows of 16 MiB are asked about at once: hides 100
	// ms at 500 MB/s.
	askAhead = 4
	// staleMost is how often in a row an answer may have become stale by the
	// time it is used before the window is shipped: a primary whose writes keep
	// failing must not keep its sync from ending.
	staleMost = 3
	// judgesMost bounds the goroutines that compare: hashing four times 1.6 GB/s
	// is more than a disk reads.
	judgesMost = 4
	// hashersMost bounds the hashers kept: more than a container has data keys.
	hashersMost = 128
)
