package auth

import "time"

// Bounds of what people and programs give us, and how long things are good for.
const (
	// minPassword is NIST SP 800-63B-4's for a password alone, and more than eight
	// because the set-up is often exposed. Runes.
	minPassword = 12
	// maxPassword bounds what a hash is computed of, bytes.
	maxPassword = 256
	// maxName bounds a user's name, bytes: names appear in rows and logs.
	maxName = 128
	// maxTitle bounds what people write about users and tokens, bytes.
	maxTitle = 255
	// maxFolder bounds a folder's path, bytes, as site.MaxRef.
	maxFolder = 255
	// maxGrants of one user, and of one token's scope.
	maxGrants = 64
	// maxTokens of one user.
	maxTokens = 100
	// maxSessions of one user; the oldest ends when there are more.
	maxSessions = 50
	// maxAgent bounds what is kept of a browser's name, bytes.
	maxAgent = 200
	// maxSecret bounds a token that is given to us, bytes. Ours have 47.
	maxSecret = 256
	// maxContent bounds what a single-use token carries, bytes.
	maxContent = 8 << 10
	// maxSingle bounds the single-use tokens of one purpose: log-ins by a provider
	// are begun by anybody.
	maxSingle = 2000
	// page bounds a list.
	page = 1000

	// idleFor ends a session nobody used; wholeFor ends every session.
	idleFor  = 30 * time.Minute
	wholeFor = 12 * time.Hour
	// seenEvery is how exactly we know when a session or token was used: a write
	// for every request would make reading as dear as writing.
	seenEvery = time.Minute
	// maxTokenLife is the longest an API token lives; each is made anew sometimes.
	maxTokenLife = 366 * 24 * time.Hour
	// setupFor is how long a set-up token is good.
	setupFor = 24 * time.Hour
	// providerFor is how long a log-in may take at the provider.
	providerFor = 10 * time.Minute
	// approvalFor is how long an approval waits, and then is good.
	approvalFor = time.Hour

	// Failures after which attempts have to wait, and how long: the lock doubles
	// with each further failure.
	failuresPair   = 5   // of one name from one address
	failuresRemote = 30  // of one address, whatever the name: a proxy has many users
	failuresName   = 100 // of one name, from wherever: guessing spread over addresses
	lockFirst      = time.Minute
	lockMost       = time.Hour
	// forgetAfter is when failures no longer count.
	forgetAfter = 24 * time.Hour

	// Cost of a password's hash: RFC 9106's second recommendation.
	hashMemory  = 64 << 10 // KiB
	hashPasses  = 3
	hashThreads = 4
	hashSalt    = 16
	hashSize    = 32
	// hashAtOnce bounds hashes computed at once, so 256 MiB; hashWaiting who waits.
	hashAtOnce  = 4
	hashWaiting = 64
	// What we accept of a stored hash's cost: whoever can write the database must
	// not be able to have us allocate all memory.
	mostMemory  = 1 << 20 // KiB
	mostPasses  = 16
	mostThreads = 16
)
