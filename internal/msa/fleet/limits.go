package fleet

import (
	"time"

	"holdfast/internal/control"
)

const (
	// LostAfter is how long a DRVA may say nothing before its domains are given to
	// others: longer than a restart of its machine takes.
	LostAfter = 2 * time.Minute
	// settleEvery is how often it is looked at which DRVA has which domain. What a box tells is seen at
	// once; this is for what changes by the clock, or by hand.
	settleEvery = 5 * time.Second
	// mostDomains is what one DRVA serves: its certificate has a name for each, and one
	// of its own.
	mostDomains = control.MaxNames - 1
	// atOnce bounds the containers that are looked at together: one that hangs holds one
	// place, and stores are not asked by a crowd.
	atOnce = 8
	// containerFor bounds one look at a container, with its making.
	containerFor = 2 * time.Minute
	// firstRetry and lastRetry bound the pauses after a failure with a container.
	firstRetry = 5 * time.Second
	lastRetry  = 10 * time.Minute
	// otherRetry bounds them for a container that the other site makes, or has yet to
	// let us open: it does so within a minute of the pairing.
	otherRetry = 30 * time.Second
	// recheckAfter is when a container that is as it should be is looked at again.
	recheckAfter = time.Hour
	// askEvery is how often peers are asked for what they have.
	askEvery = 15 * time.Second
	// maxWords bounds kept words of a failure, bytes.
	maxWords = 1024
	// maxReport bounds a stored report, bytes as JSON: 2,000 VMs with words.
	maxReport = 4 << 20
)
