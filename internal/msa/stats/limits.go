package stats

import "time"

const (
	// flushEvery is how long samples are held in memory: what a crash may lose.
	flushEvery = time.Minute
	// minutesFor, hoursFor and daysFor are how long each level is kept: a weekend in
	// detail, two months by the hour for a report, five years for a trend.
	minutesFor = 48 * time.Hour
	hoursFor   = 62 * 24 * time.Hour
	daysFor    = 5 * 366 * 24 * time.Hour
	// maxSeries bounds the series one recorder knows: 2,000 VMs with five metrics, 200
	// domains with twenty, and as much again.
	maxSeries = 30000
	// maxValue bounds a sample: a day of 86,400 of them adds up to less than 2⁶³.
	maxValue = int64(1) << 45
	// maxObject bounds an object's name, bytes.
	maxObject = 600
	// maxPoints bounds the points of an answer; more fit no screen.
	maxPoints = 3000
	// freshFor is how long a value is shown to Prometheus after its last sample: what
	// is gone must not look well for ever.
	freshFor = 5 * time.Minute
	// batch is how many minutes' rows one transaction merges, into each level with one
	// statement: others want to write as well.
	batch = 500
	// pruneSpan is how much of the oldest history one transaction deletes.
	pruneSpan = 10 * time.Minute
	// scrapeFor bounds what a scrape may ask of the database.
	scrapeFor = 5 * time.Second
)
