package maintain

import "time"

const day = 24 * time.Hour

const (
	// Floor is the youngest part of a history that no size limit shortens.
	Floor = time.Hour

	// LeastGrace and DefaultGrace bound how long what nothing refers to any
	// more stays in the store: a reader that takes a whole day over a restore
	// without a pin still finds everything.
	LeastGrace   = time.Hour
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
	// maxSchedulePoints bounds the checkpoints a schedule keeps: 5 s for two
	// days. With what tags, holds and pauses keep besides, a manifest still has
	// room for them.
	maxSchedulePoints = 36_000
	// maxEpisodes bounds the suspect episodes thinning is paused around.
	maxEpisodes = 64
)
