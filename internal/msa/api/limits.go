package api

import "time"

const (
	// maxBody bounds what is sent with a request, bytes, unless the operation says
	// another: an object with a thousand VMs has some 200 kB.
	maxBody = 4 << 20
	// maxHeader bounds the headers of a request, bytes.
	maxHeader = 64 << 10
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
	// maxAnswer bounds an answer that is kept, bytes.
	maxAnswer = 1 << 20
)
