package api

import "time"

const (
	// maxBody bounds what is sent with a request, bytes, unless the operation says
	// another: an object with a thousand VMs has some 200 kB.
	maxBody = 4 << 20
	// maxImport bounds documents that are imported, bytes: 250 of 256 KiB, as base64.
	maxImport = 96 << 20
	// maxAtOnce bounds the requests that are served at once; a request may hold a
	// few megabytes. Streams do not count, they have a bound of their own.
	maxAtOnce = 256
	// perSecond and burst bound the requests of one address: a console that opens
	// asks some fifty things, a script in a loop is slowed down.
	perSecond = 100
	burst     = 400
	// maxAddresses bounds the addresses remembered for that, the oldest go.
	maxAddresses = 8192
	// bodyFor is how long a request may take to send its body, and answerFor how
	// long it may take in all, but for streams.
	bodyFor   = time.Minute
	answerFor = 2 * time.Minute
	// defaultPage and maxPage bound the pages of lists.
	defaultPage = 100
	maxPage     = 1000
	// maxKey bounds an Idempotency-Key, bytes.
	maxKey = 255
	// answersFor is how long an answer is kept for who asks again.
	answersFor = 24 * time.Hour
	// maxStreams bounds the streams of events of one replica: each has a goroutine
	// and looks for itself when there is something new.
	maxStreams = 256
	// eventsAtOnce is how many lines of the feed are read at once.
	eventsAtOnce = 500
	// feedPoll is how often is looked for lines other replicas have written; beatEvery
	// is how often a stream on which nothing happens shows that it lives (proxies
	// end silent ones after 30 s and more); writeFor ends a stream nobody reads.
	feedPoll  = 250 * time.Millisecond
	beatEvery = 15 * time.Second
	writeFor  = 10 * time.Second
	// taskPoll is how often is looked whether a task has ended that somebody waits for.
	taskPoll = 300 * time.Millisecond
	// maxAnswer bounds an answer that is kept, bytes.
	maxAnswer = 1 << 20
)

// askEvery is how often is asked whether who watches events may still do so. Tests
// do not wait so long.
var askEvery = 30 * time.Second
