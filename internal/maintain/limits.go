package maintain

import "time"

const day = 24 * time.Hour

const (
	// Floor is the youngest part of a history that no size limit shortens.
	Floor = time.Hour

	// LeastGrace bounds from below how long what nothing refers to any more
	// stays in the store.
	LeastGrace = time.Hour
	// DefaultGrace is how long it stays by default: a reader that takes a whole
	// day over a restore without a pin still finds everything.
	DefaultGrace = 24 * time.Hour

	// maxClockAdvance is how far the clock of retention moves over a stretch
	// of time in which no checkpoint was published: a clock set ahead looks
	// just like such a stretch, and must not age a history to death.
	maxClockAdvance = 24 * time.Hour
	// clockSlack is how far retention's clock may be ahead of the newest
	// checkpoint: several idle intervals and a slow store.
	clockSlack = time.Hour

	// maxTiers and maxScheduleText bound a schedule; maxSpan is ten years.
	maxTiers        = 16
	maxScheduleText = 1024
	maxSpan         = 3650 * day
	// maxSchedulePoints bounds the checkpoints a schedule keeps: 5 s for a day
	// and more. A manifest has room for 64 Ki: these, a day around a suspect
	// one, a backlog's, and what tags and holds keep.
	maxSchedulePoints = 24_000
	// maxEpisodes bounds the suspect episodes thinning is paused around.
	maxEpisodes = 64

	// DefaultInterval is the time between two passes of Run: 15 min of 5 s
	// objects are 180 footers to walk for who recovers meanwhile, and a pass
	// costs about 18 requests: 1,700 a day.
	DefaultInterval = 15 * time.Minute
	// LeastInterval bounds it from below: every pass that works writes a
	// manifest.
	LeastInterval = time.Minute
	// MostInterval bounds it from above, also while there is nothing to do.
	MostInterval = time.Hour

	// passLimit is how long a pass may take from reading a manifest to writing
	// the next, by either clock: far below orphanAge, so that what it wrote is
	// not swept before it is referred to.
	passLimit = 12 * time.Hour
	// orphanAge is the age at which an object that no manifest knows is swept.
	orphanAge = 48 * time.Hour
	// sweepEvery is the time between two looks for orphans: they come from
	// crashes and lost races, and cost nothing but room.
	sweepEvery = 24 * time.Hour
	// removeEvery is the time between two looks at what is due: each reads all
	// manifests of the grace.
	removeEvery = 6 * time.Hour
	// maxListed bounds the journal objects one look goes through: 5 s objects
	// of five weeks, 200 bytes of memory each.
	maxListed = 600_000
	// journalAge is the age below which no journal object is deleted: a
	// publisher that sleeps for hours must find the names it thinks its own
	// taken.
	journalAge = 24 * time.Hour
	// keepManifests is how many of the newest manifests stay whatever their
	// age: a damaged one is passed over for the one before it.
	keepManifests = 8

	// backlogAlarm is how many journal objects may lie behind the manifest
	// before an alarm is raised: almost three hours of 5 s objects.
	backlogAlarm = 2000
	// flushObjects bounds the journal objects one pass takes into the index, so
	// that a long backlog is worked off in passes that each leave a manifest.
	flushObjects = 10_000
	// breakerFailures is after how many failed passes in a row Run rests for
	// breakerRest instead of its interval.
	breakerFailures = 5
	breakerRest     = 30 * time.Minute
	// conflictTries is how often one call begins a pass anew that lost against
	// another maintainer.
	conflictTries = 3

	// tierRuns is how many runs of a size class are merged into one, and
	// tierLeast the entries up to which a run is of the smallest class. A class
	// is tierRuns times the one below.
	tierRuns  = 12
	tierLeast = 4096
	// fullShare: when the runs above the oldest hold more than 1/fullShare of
	// all entries a full merge pays; else it waits until fullRest.
	fullShare = 8
	fullEvery = time.Hour
	fullRest  = 24 * time.Hour

	// throughEntries bounds the entries of the parts a full merge is handed on
	// in: 2 MiB of memory each way.
	throughEntries = 1 << 16

	// packSize is the size in bytes below which a journal object is packed:
	// requests to read it back would cost more than a copy. A busy domain's
	// 5 s objects are above it: packed, each would cost two requests more, as
	// much as publishing it, and is read back no slower as it is.
	packSize = 2 << 20
	// packLeast is how many bytes of small objects make packing them worth it;
	// packWait is how long less than that waits.
	packLeast = 16 << 20
	packWait  = 24 * time.Hour
	// objectOverhead is what an object has besides frames and footer, in bytes:
	// it does not count as garbage.
	objectOverhead = 4096 + 64
	// packCrowd is how many small data objects are packed again together.
	packCrowd = 16
	// repackLeast is the size in bytes below which a data object is not moved
	// for its garbage alone: its own footer would look like some.
	repackLeast = 256 << 10
	// packedSize is what a packed object aims at, in bytes.
	packedSize = 30 << 20
	// batchBytes bounds the victims held in memory at a time.
	batchBytes = 128 << 20
	// packFrames bounds the frames moved by one pass, 48 bytes of memory each;
	// packBytes the live bytes.
	packFrames = 1 << 20
	packBytes  = 8 << 30
	// packAge is how old a journal object is before it is packed.
	packAge = 24 * time.Hour

	// gatherLeast is how many small objects of one pass are gathered into a data
	// object at once, and gatherEvery the mean time between them up to which
	// they are: to pack a 5 s object a day later costs a request to read it, as
	// much as publishing it, while now its bytes are at hand. Rarer ones are
	// packed when thinning has made them smaller.
	gatherLeast = 32
	gatherEvery = 15 * time.Second
	// gatherBytes bounds the memory of objects to be gathered.
	gatherBytes = 32 << 20

	// maxExtensions bounds the locks one pass extends: 32 MiB objects of 4 TiB
	// are through in 66 passes, two hours.
	maxExtensions = 2000
	// holdEvery is the most time between two holds of what is not data: journal
	// objects behind the newest held manifest are held for at least 24 h, so
	// that most of that is left when somebody begins to delete.
	holdEvery = 6 * time.Hour
	// pinSkew is how far apart the clocks of who pins and who maintains may be.
	pinSkew = 10 * time.Minute
	// maxPointReasons, maxReasonName and maxPausedText are what a manifest has
	// room for.
	maxPointReasons = 32
	maxReasonName   = 255
	maxPausedText   = 1000
	// maxHeld bounds the entries of a status that name what holds bytes.
	maxHeld = 1000
)
