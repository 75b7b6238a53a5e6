package warm

import "time"

const (
	// pollEvery is how often the next object is asked for: as often as a domain
	// publishes. A request that finds nothing costs $0.21 a month at that.
	pollEvery = 5 * time.Second
	// listEvery is how often the history is listed although the next object is
	// not there: its name may have been freed while the standby was away.
	listEvery = time.Minute
	// retryMost is the longest pause after errors.
	retryMost = time.Minute
	// configEvery is how old configurations may be that sizes and names are taken
	// from while following; a failover reads them anew.
	configEvery = time.Minute
	// maxState bounds standby.json in bytes: 4,096 disks and 2,000 VMs are 6 MiB.
	maxState = 32 << 20
	// stateFormat is the version of standby.json.
	stateFormat = 1
)

const (
	stateFile = "standby.json"
	lockFile  = "standby.lock"
)
