package catalog

import "time"

const (
	// MaxPage bounds a page of a list or of the feed, rows.
	MaxPage = 1000
	// maxBody bounds one stored object, bytes as JSON: mappings of 20,000 places
	// have some 3 MB.
	maxBody = 8 << 20
	// MaxObjects bounds the objects of all kinds: 10,000 VMs with settings of their
	// own, and everything else.
	MaxObjects = 20000
	// MaxDrafts bounds the drafts of everybody: they are work in hand, not an archive.
	MaxDrafts = 500
	// DraftsFor is how long a draft that nobody touches is kept.
	DraftsFor = 30 * 24 * time.Hour
	// FeedFor is how long a line of the feed is kept: whoever was away longer reads
	// everything anew, which costs less than so many lines.
	FeedFor = 7 * 24 * time.Hour
	// MaxFeed bounds the lines kept of the feed, however young.
	MaxFeed = 200000
	// pruneBatch is how many lines one transaction deletes.
	pruneBatch = 5000
	// maxWord bounds kinds, names, actions and users in the feed, bytes.
	maxWord = 255
)
