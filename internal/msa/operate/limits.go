package operate

import "time"

const (
	// together is how many steps of one run go on at once where the plan says
	// nothing: shutting down 2,000 VMs is quick, and no platform takes it as an attack.
	together = 200
	// attempts is how often an effect is tried that may pass; firstPause and maxPause
	// bound the time between.
	attempts   = 4
	firstPause = time.Second
	maxPause   = 15 * time.Second
	// effectTime bounds one call of an effect: platforms answer or are away.
	effectTime = 10 * time.Minute
	// tolerantTime bounds what is tried at a protected site that may be lost.
	tolerantTime = 5 * time.Minute
	// finalTime bounds the last sync of VMs that are shut down: then they are started
	// again.
	finalTime = 30 * time.Minute
	// cutTime is what is left for a power cut after the guest did not obey.
	cutTime = 2 * time.Minute
	// pollEvery is how often a guest is looked at that boots or shuts down.
	pollEvery = time.Second
	// readyPolls is how many polls lie between two asks of a VM's own script whether it
	// is up: it costs the guest more.
	readyPolls = 5
	// maxScopeVMs bounds the VMs one request names.
	maxScopeVMs = 2000
	// maxWords bounds notes people write, bytes.
	maxWords = 8 << 10
	// maxKey bounds request keys and users, bytes: package runs' own bound.
	maxKey = 200
	// maxPage bounds a list, rows.
	maxPage = 1000
	// maxSeen bounds how many events one look at other plans' doings makes.
	maxSeen = 4
	// pruneBatch is how many reports one transaction deletes.
	pruneBatch = 50
	// readyEvery is how often is looked whether plans are ready: each is compiled for it.
	readyEvery = 10 * time.Minute
	// maxHeld bounds the runs of one alarm: nobody reads more.
	maxHeld = 500
	// remindEvery is how often is reminded of the same thing.
	remindEvery = 24 * time.Hour
)
