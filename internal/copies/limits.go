package copies

import "time"

const (
	// DefaultInterval is the time between two passes that follow: a lag of a quarter
	// of a minute, and four small requests for each.
	DefaultInterval = 15 * time.Second
	// LeastInterval bounds it from below: each pass costs requests.
	LeastInterval = time.Second
	// MostInterval bounds it from above: so far the copy is behind.
	MostInterval = 10 * time.Minute

	// mostPause is the longest pause after failures in a row: a copy that comes back
	// is noticed within five minutes.
	mostPause = 5 * time.Minute

	// sideEvery is the time between two looks at what changes seldom: timelines, pins,
	// keys, manifests. A pin or a recovery in the copy is noticed within it.
	sideEvery = time.Minute
	// removeEvery is the time between two looks at what may be deleted: each lists both
	// stores.
	removeEvery = 6 * time.Hour

	// slice bounds how long one pass copies what a manifest names before it looks at
	// newer checkpoints again.
	slice = 20 * time.Second

	// parallel is how many objects are copied at once: each is up to 32 MiB in memory.
	parallel = 4
	// groupBytes bounds the journal objects that are copied at once, in bytes; one goes
	// in any case.
	groupBytes = 64 << 20
	// tailAhead is how many journal objects are walked before they are copied.
	tailAhead = 64

	// maxKnown bounds the names of a copy that are remembered, some 100 bytes each: as
	// many objects as a manifest may name, and as many again.
	maxKnown = 1 << 20

	// keepAge is how old an object of the copy must be, by the copy's clock, before it
	// is deleted: the age below which no journal object is deleted anywhere.
	keepAge = 24 * time.Hour
	// adviceAge is how old pins that ended, and what only helps, must be.
	adviceAge = 48 * time.Hour
	// keepManifests is how many of the newest manifests stay, as in package maintain.
	keepManifests = 8
)
