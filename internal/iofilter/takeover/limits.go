package takeover

import "time"

const (
	// version of what is said; the Legacy has one of its own.
	version = 1
	// maxMessage bounds the JSON of an ask or a refusal: a few ids, or one error.
	maxMessage = 4 << 10
	// maxSocketPath is the kernel's bound for a unix socket (108 with its zero).
	maxSocketPath = 107

	// askLimit is how long either side may take for one message that needs no
	// work.
	askLimit = 5 * time.Second
	// prepareLimit is how long an heir may take to prepare; guests are served
	// meanwhile, but a second heir waits.
	prepareLimit = 30 * time.Second
	// serveLimit is how long an heir may take from the hand-over until it
	// serves. Guests wait for it: longer than to open 500 disks takes on a busy
	// host, shorter than the 30 s after which guests take a disk for broken.
	serveLimit = 8 * time.Second
	// handLimit is how long a predecessor may take to hand over: its guests'
	// operations have 10 s to end, its stream what the caller allows.
	handLimit = 30 * time.Second
	// answerLimit is how long a predecessor waits, doing nothing, for its heir
	// to answer on the status socket.
	answerLimit = 10 * time.Second
	// endLimit is how long an heir that has failed may take to say why and end
	// before it is killed: guests wait.
	endLimit = time.Second
)
