package alarm

import "time"

const (
	// maxObject and maxDetail bound what an event is about and what is said of it,
	// bytes.
	maxObject = 600
	maxDetail = 2048
	// maxNote bounds what a person says when acknowledging, bytes.
	maxNote = 1024
	// MaxPage bounds a page of alarms or events.
	MaxPage = 1000
	// MaxOutlets there may be: each event costs a row for each.
	MaxOutlets = 32
	// maxPending bounds the deliveries that wait at one outlet: a mail server that is
	// away for a night must not be flooded in the morning.
	maxPending = 5000
	// EventsFor is how long events are kept, and cleared alarms.
	EventsFor = 90 * 24 * time.Hour
	// maxEvents bounds the events that are kept.
	maxEvents = 200000
	// pruneBatch bounds what one transaction deletes.
	pruneBatch = 1000

	// sendEvery is how often deliveries that are due are looked for.
	sendEvery = 2 * time.Second
	// sendBatch is how many are taken at once, and sendLease for how long: a batch is
	// sent one after the other, each within sendFor.
	sendBatch = 16
	sendFor   = 20 * time.Second
	sendLease = (sendBatch + 1) * sendFor
	// firstRetry and lastRetry are the pauses between attempts, doubled each time;
	// after giveUp an event is old news.
	firstRetry = 5 * time.Second
	lastRetry  = 15 * time.Minute
	giveUp     = 24 * time.Hour
	// maxReply bounds what a webhook's answer may have, bytes: nothing of it is used.
	maxReply = 64 << 10
	// maxRecipients of one mail, and maxPEM bounds certificates of authorities, bytes.
	maxRecipients = 32
	maxPEM        = 64 << 10
	// maxSyslog bounds one message, bytes: what RFC 5424 asks receivers to take.
	maxSyslog = 2048
)
