package scan

import "time"

const (
	// maxPlain bounds a document that is unpacked, bytes: 500 VMs with all their cards
	// and addresses take a tenth, and what somebody else packed must not fill memory.
	maxPlain = 16 << 20
	// MaxDocuments bounds what is imported at once: every domain there may be.
	MaxDocuments = 250
	// publishEvery is how often domains are looked at; a change that is seen is stored
	// at once, and the next one a minute later.
	publishEvery = time.Minute
	// publishFor bounds storing one document, and how long it is one replica's.
	publishFor = 2 * time.Minute
	// lastRetry bounds the pause between attempts.
	lastRetry = 15 * time.Minute
)
