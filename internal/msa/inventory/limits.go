package inventory

import "time"

const (
	// surveyEvery is how often what platforms have no events for is looked at:
	// networks, datastores, hosts. A network that was made a minute ago is soon
	// enough for a mapping, and a datastore's room is never urgent.
	surveyEvery = time.Minute
	// glance is how many VMs are looked at again with each survey though nothing was
	// told of them, so that what a platform has no event for, as an address a guest
	// gave itself, is known within minutes at 500 VMs and within the hour at 4,000.
	glance = 64
	// maxAgain bounds the looks that againAfter asks for.
	maxAgain = 2 * maxDirty
	// maxDirty is how many changed VMs are looked at one by one; above it a list of
	// all is cheaper for the platform, and bounded.
	maxDirty = 500
	// lookers bounds VMs of one host that are looked at at once: daemons answer one
	// call after the other anyway, and others want to be answered as well.
	lookers = 4
	// lookFor bounds one look at one VM.
	lookFor = 30 * time.Second
	// addressFor bounds the question for a guest's addresses: a guest whose agent
	// hangs must not keep the inventory from the others.
	addressFor = 5 * time.Second
	// reopenFirst and reopenMost are the pauses between attempts to reach an
	// endpoint: a daemon that restarts is back in a second, one that is gone is not
	// to be knocked at all day.
	reopenFirst = time.Second
	reopenMost  = time.Minute
	// freeGrain is in how many steps a datastore's room is told: each written block
	// is no news, and no row.
	freeGrain = 256

	// LeaseFor is how long a keeper that says nothing keeps its site.
	LeaseFor = 30 * time.Second
	// renewEvery leaves two attempts before a lease ends.
	renewEvery = LeaseFor / 3
	// pollEvery is how often a keeper that does not hold its site asks for it.
	pollEvery = LeaseFor / 6
	// maxNotes is how many changes of one update are entered into the change feed one
	// by one. A site that comes back after an hour is one entry.
	maxNotes = 64
	// batch is how many rows one statement writes: PostgreSQL takes 65,535
	// parameters, SQLite 32,766.
	batch = 200
	// maxDoc bounds one row's document, bytes: a VM with 256 disks, 32 cards and 16
	// addresses on each takes a third.
	maxDoc = 256 << 10
	// MaxPage bounds a page of VMs.
	MaxPage = 1000
	// maxViews bounds the views that are held: a manager sees its own site, and those
	// of its peers.
	maxViews = 64
	// maxWords bounds what a platform says about its state, bytes.
	maxWords = 2048
	// adoptEvery is how often rules are looked at without news from the platform:
	// domains change as well.
	adoptEvery = 30 * time.Second
	// settleFor is how long after a change rules and placeholders are looked at: a site
	// that churns is read for them five times a second at most.
	settleFor = 200 * time.Millisecond
	// placeTries bounds placeholders put or removed in one go, so that a keeper comes
	// back to its platform's news.
	placeTries = 50
)

// againAfter is when a VM that something happened to is looked at once more. No platform
// tells what a guest does about its addresses: they come some seconds after its start, and
// a plan sets others some seconds after that. Who moves the VM soon after goes by them.
var againAfter = []time.Duration{5 * time.Second, 20 * time.Second}
