package drva

import (
	"time"

	"holdfast/internal/dr"
)

const (
	// Buffers is the number of frames of one host that are in memory at once,
	// from the network until durable: 16 MiB hide a log write of 50 ms at 300
	// MB/s.
	Buffers = 16
	// maxEvents is the sequencer's queue: enough that readers do not wait for
	// each other, small against the buffers.
	maxEvents = 64
	// maxConns bounds open connections: every host twice (reconnects).
	maxConns = 128
	// maxRequests bounds the user's checkpoints waiting for their turn.
	maxRequests = 16

	// handshakeLimit is how long a host may take from connect to Hello.
	handshakeLimit = 10 * time.Second
	// peerSilence ends a connection on which nothing came for so long; hosts
	// ping every 2 s.
	peerSilence = 8 * time.Second
	// pingEvery is how long the DRVA is silent before it pings.
	pingEvery = 2 * time.Second
	// writeLimit is how long a host may leave a write of ours unread.
	writeLimit = 8 * time.Second
	// ackNap gathers acknowledgements for asynchronous hosts, whose guests do
	// not wait for them.
	ackNap = time.Millisecond
	// maxSpans bounds the acknowledgements waiting for one host: a host that
	// does not read them is dropped.
	maxSpans = 1 << 14
	// maxControl bounds other bytes waiting for one host: a Welcome of 1024
	// disks and a few rounds.
	maxControl = 2 << 20
	// readBuffer gathers heads and bodies of frames; payload beyond it is read
	// straight into its place.
	readBuffer = 32 << 10

	// MinInterval is the shortest time between checkpoints: an object a second
	// costs five times the requests of the default.
	MinInterval = time.Second
	// MaxInterval is the longest: what is lost with the site grows with it.
	MaxInterval = time.Minute
	// DefaultInterval is an object every 5 s: $2.6 of requests a month at
	// public list prices.
	DefaultInterval = 5 * time.Second
	// Heartbeat is how long an unchanged domain publishes nothing: 720 objects
	// a day, half of the requests an idle domain may make.
	Heartbeat = 2 * time.Minute
	// cutRetry is the pause after a cut that could not begin.
	cutRetry = 250 * time.Millisecond
	// statusEvery is how old a status may be.
	statusEvery = 500 * time.Millisecond

	// objectBlocks is the live payload at which an object is closed even
	// without a checkpoint: 16 MiB.
	objectBlocks = 16 << 20 / dr.BlockSize
	// objectZeros and objectMetas bound the other content of an object.
	objectZeros = 1 << 14
	objectMetas = 64
	// maxHeld bounds the objects that wait behind a checkpoint whose result is
	// not known yet: 128 MiB, over 2 s at 50 MB/s.
	maxHeld = 8
	// maxBuilders bounds the objects in memory: those under way to the store,
	// those held, and the one being filled.
	maxBuilders = 8 + maxHeld + 1

	// contended is the part of the time in which some task waits for a
	// processor from which on publishing gives way to a burst of writes.
	contended = 0.5
	// burstMost is how long it gives way: what is lost with the site grows by
	// it, in a burst that the processors do not suffice for.
	burstMost = 3 * time.Second
	// burstLeast is the backlog, in bytes, from which on there is a burst: one
	// object. Less is packed in a few milliseconds.
	burstLeast = 16 << 20
	// burstFill is the part of the log's quota it may fill.
	burstFill = 0.5
	// pressureSpan is how often contention is looked at.
	pressureSpan = 20 * time.Millisecond

	// maxAsks bounds a host's questions about hashes that wait for their turn;
	// hosts ask four ahead.
	maxAsks = 16
	// maxHashRanges bounds the ranges of hashes in memory: one for each of so
	// many disks that are compared at once, and 10 MiB.
	maxHashRanges = 4
	// hashPoll is how often it is looked whether what a host needs to be in the
	// container is there.
	hashPoll = 20 * time.Millisecond

	// maxSeeds bounds the seeds that wait, run or are shown.
	maxSeeds = 16
	// seedPiece is what a seed reads and logs at once: a batch of the log.
	seedPiece = 1 << 20
	// seedPoll is how often it is looked whether a piece is durable.
	seedPoll = 2 * time.Millisecond

	// warnQuota and alarmQuota are the parts of the log's quota at which
	// operators are told.
	warnQuota  = 0.70
	alarmQuota = 0.95
	// watchEvery is how often the log's filling is looked at.
	watchEvery = time.Second
	// retryFirst and retryMost bound the pauses between tries to open the
	// container or store a VM's configuration.
	retryFirst = 200 * time.Millisecond
	retryMost  = 10 * time.Second
)
