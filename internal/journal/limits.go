package journal

import "time"

const (
	// Window is W: how many numbers a publisher may have beyond its published
	// prefix, and how far the history jumps after a FENCE. Part of the format;
	// 8 objects of 5 s cover a store that answers in 40 s.
	Window = 8

	// FirstNumber is the number of a timeline's first object, always a FENCE.
	FirstNumber = 1

	// EpochCheckAge is how old the last look at the epoch claims may be, by the
	// boot-time clock and by the wall clock, when an object counts as
	// published: far below the age at which anything is ever deleted, so that a
	// publisher that slept past its own removal notices.
	EpochCheckAge = 10 * time.Minute

	// readParallel is the number of concurrent small reads of a walk: hides a
	// 10 ms store behind about 0.6 ms an object.
	readParallel = 16

	// guessTail is how many bytes of an object's end the first read takes, in
	// the hope that footer and tail are inside: the footer of a 5 MiB object
	// is about 20 KiB.
	guessTail = 64 << 10

	// wholeSize is up to which size in bytes maintenance takes an object whole
	// where others take its ends: in the same one request, and its frames need
	// not be asked for later. 180 of them, a quarter of an hour of 5 s objects,
	// are within maxRecentBytes.
	wholeSize = 160 << 10

	// maxRecent and maxRecentBytes bound what of published objects is kept for
	// maintenance in the same process, their ends and small ones whole: over
	// half an hour of 5 s objects, twice what lies between two passes.
	maxRecent      = 512
	maxRecentBytes = 32 << 20

	// maxStoredFooter bounds a sealed footer in bytes; the codec bounds its
	// decompressed form to the same figure.
	maxStoredFooter = 16 << 20

	// maxDocument bounds the domain object, a wrapped key, head, a claim and a stored VM
	// configuration in bytes; real ones are below 8 KiB.
	maxDocument = 1 << 20

	// MaxSettings bounds what a manager keeps in a container, bytes as given: a domain of
	// 500 VMs with its plans takes some 40 KiB, compressed.
	MaxSettings = 256 << 10
	// MaxTrace bounds a boot trace in bytes: 32 Ki chunks take about 100 KiB.
	MaxTrace = 256 << 10

	// maxWraps bounds the wrapped keys of one data key, and maxPassphraseWraps
	// those among them that are for passphrases.
	maxWraps           = 64
	maxPassphraseWraps = 8

	// maxGenerations bounds the data keys of one container: a rotation a month
	// for ten years.
	maxGenerations = 128

	// maxKeyObjects bounds the objects listed below keys/.
	maxKeyObjects = maxGenerations * (maxWraps + 1)

	// maxPassphraseRuns bounds the argon2id runs of one opening, about 0.2 s
	// each. A passphrase keeps its salt over all data keys and so costs one.
	maxPassphraseRuns = 32

	// maxEpochs bounds the claims of one timeline that are looked at: one
	// restart an hour for over a century.
	maxEpochs = 1 << 20

	// listPage is the number of keys asked for at once: the most a store gives.
	listPage = 1000

	// maxTimelines bounds the timelines of a container that are looked at.
	maxTimelines = 4096

	// maxName bounds a domain's or host's name and a hint, in bytes.
	maxName = 255

	// maxProblems bounds the problems kept in memory and in a report; further
	// ones are only counted.
	maxProblems = 10_000

	// LeastLock bounds from below how long a publisher's objects are held: less
	// than a day is over before anybody has looked.
	LeastLock = 24 * time.Hour
	// MostLock bounds it from above: more than a year is a typing error that in
	// compliance mode nobody can take back.
	MostLock = 366 * 24 * time.Hour

	// maxHold bounds the objects besides data that Hold extends the locks of.
	maxHold = 1 << 18

	// retryFirst and retryMost are the bounds of a publisher's waits between
	// two tries of the same object.
	retryFirst = 100 * time.Millisecond
	retryMost  = 15 * time.Second
)

// Bounds of a manifest. A domain of 4 TiB has about 70 000 objects, 3 000
// points and 200 index parts and takes about 3 MiB; what holds four times that
// still fits the content of a blob. A manifest that would be larger is refused
// when it is written.
const (
	maxManifestObjects = 1 << 18
	maxTombstones      = 1 << 18
	maxPoints          = 1 << 16
	maxRuns            = 1 << 10
	maxParts           = 1 << 14
	maxSlots           = 64
	maxReasons         = 64   // of one checkpoint
	maxWords           = 1024 // bytes of a text for people

	// maxManifests bounds the manifests of a timeline that are looked at: a
	// month of one a minute.
	maxManifests = 50_000
)

const (
	// maxFences is how many fences in a row are followed to find what proves the
	// first: publishers that came one after the other and published nothing.
	maxFences = 64

	// maxDepth bounds how many timelines reading falls through.
	maxDepth = 32

	// maxPins bounds the pins of a container that are looked at.
	maxPins = 100_000

	// forkPin is how long the checkpoint of a branch under way is held.
	forkPin = time.Hour
	// unpinLimit bounds taking that back, which is not broken off.
	unpinLimit = 10 * time.Second
)

// partAhead is how many parts of an index run are held at once while it is
// read: hides a store's latency behind decoding; 4 of at most 16 MiB.
const partAhead = 4

const (
	// MaxHashRange bounds the chunks whose hashes are found at once: 1 GiB of a
	// disk, 2.4 MiB of hashes. It is what a resync of the largest disk holds.
	MaxHashRange = 1 << 14

	// maxEnds bounds the footers that a History keeps, in bytes as estimated: of
	// some 80 full objects, minutes of a busy domain.
	maxEnds = 8 << 20
	// maxHashFooters and maxHashParts bound what a HashCache keeps, in bytes as
	// estimated: the footers of some 700 full objects, and the four largest
	// parts of an index.
	maxHashFooters = 64 << 20
	maxHashParts   = 64 << 20
)
