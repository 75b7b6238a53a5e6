package s3

import "time"

const (
	// requestBase bounds a request that moves no data: more than a busy store
	// takes, less than an operator waits.
	requestBase = 60 * time.Second
	// slowest is the rate, in bytes per second, below which a body counts as
	// stuck: a bad line still does it.
	slowest = 64 << 10
	// dialLimit and handshakeLimit bound the way to the store.
	dialLimit      = 10 * time.Second
	handshakeLimit = 10 * time.Second
	// idleLimit closes an unused connection before the store does (S3: about
	// 20 s), so that fewer requests meet a closed one.
	idleLimit = 15 * time.Second
	// maxConnections bounds connections to the store: more than any box's
	// parallel transfers; further calls wait.
	maxConnections = 64
	// socketBuffer is the buffer of a connection in bytes, each way: a
	// system call per 4 KiB, the default, is felt at some hundred MB/s.
	socketBuffer = 64 << 10
	// maxHeader bounds an answer's header in bytes.
	maxHeader = 64 << 10
	// maxAnswer bounds an answer that is not an object, in bytes: a list of
	// 1000 keys has below 1 MiB.
	maxAnswer = 8 << 20
	// maxVersions bounds the versions of one key that Delete removes; Holdfast
	// writes a key once, so each is somebody's doing.
	maxVersions = 1000
	// versionPage is how many versions are asked for at once: mostly there is
	// one, and what follows is of other keys.
	versionPage = 10
	// maxConcerned bounds the keys that Reveal holds in memory, 200 bytes each.
	maxConcerned = 1 << 19
	// maxOffset is the largest object S3 has; nothing lies behind it.
	maxOffset = 50 << 40
)
