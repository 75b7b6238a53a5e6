package verify

import (
	"time"

	"holdfast/internal/segment"
)

const (
	// maxConnections bounds independent connections: more would find nothing
	// that three do not, and some stores refuse.
	maxConnections = 8
	// defaultConnections is the number used: an object store's front ends are
	// many machines, and separate connections have a chance to meet several.
	defaultConnections = 3
	// cleanTimeout bounds the removal of what the trial wrote.
	cleanTimeout = time.Minute
	// cleaners is how many deletions run at once.
	cleaners = 8
	// maxSkew is how far the store's clock may be off before we warn: lock and
	// retention times are set by the machine and judged by the store.
	maxSkew = time.Minute
	// lockFor is how long the trial object of a locking store is held: long
	// enough to try to delete it over a slow link, short enough to be gone soon.
	lockFor = 30 * time.Second
	// maxNamed bounds how many left objects a report names.
	maxNamed = 100
	// readPiece is the size of one read of a large object, in bytes: what
	// recoveries use.
	readPiece = 4 << 20
)

// scale is how much a trial does. The fields are numbers of rounds, requests
// or objects, sizes are bytes.
type scale struct {
	rounds, racers int   // create-once
	bigRacers      int   // racers of one round with large bodies
	bigBody        int64 // their size
	recreate       int   // rounds of create-after-delete
	visible        int   // objects of read-after-create and of list-after-create
	listed         int   // objects of list-order
	ranges         int   // random ranges
	object         int64 // the large object
	samples        int   // requests per latency figure
	streams        int   // parallel transfers of the throughput figure
	streamBody     int64 // each
}

var (
	fullScale = scale{
		rounds: 24, racers: 16, bigRacers: 4, bigBody: 2 << 20, recreate: 8, visible: 10, listed: 40,
		ranges: 24, object: segment.MaxObjectSize, samples: 40, streams: 4, streamBody: 4 << 20,
	}
	quickScale = scale{
		rounds: 4, racers: 8, bigRacers: 2, bigBody: 256 << 10, recreate: 2, visible: 3, listed: 12,
		ranges: 8, object: readPiece, samples: 8, streams: 2, streamBody: 1 << 20,
	}
)

const (
	// raceBody and raceSpread size the bodies of a race: raceBody bytes and
	// up to raceSpread more, so that quick and slow writers meet.
	raceBody   = 700
	raceSpread = 48 << 10
	smallBody  = 4 << 10 // of most other objects
	looks      = 4       // reads made while a race is on
	lookGap    = time.Millisecond
	rangeBody  = 1<<20 + 7
	deletes    = 4 // objects of delete, and of delete-stays
)
