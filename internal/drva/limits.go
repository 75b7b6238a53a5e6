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
	// cellLog and cellParts bound what one object may cover of the log, in bytes
	// and as a part of the quota: guests that overwrite the same blocks again and
	// again would else fill the log with records that no object ever covers, for
	// a full log cuts no checkpoint. recordLog is what a lone record takes in the
	// log besides its payload.
	cellLog   = 1 << 30
	cellParts = 8
	recordLog = 4096
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
	// burstOfInterval is the per cent of the time between checkpoints it gives way
	// at most: at an interval of 1 s, 3 s would be three points late.
	burstOfInterval = 60
	// burstLeast is the backlog, in bytes, from which on there is a burst: one
	// object. Less is packed in a few milliseconds.
	burstLeast = 16 << 20
	// burstFill is the part of the log's quota it may fill; above it, draining
	// comes first, also before compressing well.
	burstFill = 0.5
	// busyStore is the number of requests under way from which on it is the
	// store that limits publishing: most of the eight it may have.
	busyStore = 6
	// pressureSpan is how often contention is looked at.
	pressureSpan = 20 * time.Millisecond

	// maxBoots bounds the boot traces that wait to be stored, of at most 1 MiB each
	// once they are decoded.
	maxBoots = 16
	// bootEvery is the least time between two boot traces of a VM that are stored: a
	// guest that boots again and again fills no store, and what it reads is the same.
	bootEvery = 24 * time.Hour
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

	// leastBuilders are the objects in memory that each domain of a process may
	// have whatever the others do: one that waits for its checkpoint's result,
	// one behind it, one under way, one being filled.
	leastBuilders = 4

	// smallRecords and smallPayload are what a small buffer of a frame has room
	// for; keptSmall and keptLarge are how many that are not in use are kept for
	// the next frames, 8 and 32 MiB.
	smallRecords = 32
	smallPayload = 64 << 10
	keptSmall    = 128
	keptLarge    = 32

	// lookEvery is how often the log's filling is looked at, unless what came in
	// since is a lookParts of the quota: the levels are 5 % apart.
	lookEvery = 100 * time.Millisecond
	lookParts = 100
	// lookWindow is the memory of what comes in and drains: two checkpoints of
	// the usual interval, since objects settle in bursts.
	lookWindow = 10 * time.Second
	// throttleEvery is how often hosts are told another rate.
	throttleEvery = 500 * time.Millisecond
	// DefaultThrottleDelay is how long a throttled write is kept back at most:
	// what a busy disk does to it anyway.
	DefaultThrottleDelay = 20 * time.Millisecond
	// throttleMost and throttleLeast are the parts of what drains that hosts may
	// send at the beginning and at the end of throttling.
	throttleMost, throttleLeast = 1.2, 0.7
	// minThrottle is what hosts may always send together, bytes a second:
	// while nothing drains at all, guests still run, slowly.
	minThrottle = 1 << 20

	// watchEvery is how often the RPO and the store are looked at.
	watchEvery = time.Second
	// nearTarget is the part of the RPO target from which on people are warned.
	nearTarget = 0.80
	// calmIntervals is how many intervals the RPO must stay better before an
	// alarm ends; calmLeast is the least of it.
	calmIntervals = 3
	calmLeast     = 10 * time.Second
	// storeAway is how long publishing must fail before people are told.
	storeAway = 10 * time.Second
	// MinTarget is the least RPO target: the interval of 1 s, and its publishing.
	MinTarget = 2 * time.Second
	// MaxTarget is the largest: a month.
	MaxTarget = 30 * 24 * time.Hour
	// MinAppInterval is the shortest time between application-consistent
	// checkpoints: each stops the guests' applications for a moment.
	MinAppInterval = time.Minute
	// maxEventsKept bounds the events in memory: about 300 KiB.
	maxEventsKept = 1024
	// maxPauseFile bounds the file that tells of a pause, in bytes.
	maxPauseFile = 4096
	// retryFirst and retryMost bound the pauses between tries to open the
	// container or store a VM's configuration.
	retryFirst = 200 * time.Millisecond
	retryMost  = 10 * time.Second
)
