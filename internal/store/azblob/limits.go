package azblob

import "time"

const (
	// dialTimeout bounds the making of a connection: several losses of a first
	// packet on a long line.
	dialTimeout = 15 * time.Second
	// stallTimeout bounds how long a connection may neither take nor give a
	// byte: the service answers each request within 30 s or gives up itself.
	stallTimeout = 60 * time.Second
	// idleTimeout is shorter than the service's own, so that a connection is
	// seldom closed under a request.
	idleTimeout = 30 * time.Second
	// maxConns bounds the connections to the service; more requests wait.
	maxConns = 64
	// maxAnswerHeader bounds an answer's header: the service sends 1 to 2 KiB.
	maxAnswerHeader = 64 << 10
	// maxAnswer bounds an answer that is no object's content. The largest is a
	// page of 5000 names of 1 KiB with 1 KiB about each.
	maxAnswer = 16 << 20
	// maxCA bounds the file of certificates to trust: a system's is 250 KiB.
	maxCA = 4 << 20
	// servicePage is the most that one answer of the service lists.
	servicePage = 5000
	// maxPages bounds the requests of one List. The service may answer with
	// short or empty pages; 2000 full ones are 10 million objects.
	maxPages = 2000
	// maxOffset is beyond the end of every object (the service's limit is
	// 190 TiB) and far below where adding a length overflows.
	maxOffset = 1 << 50
	// maxWords bounds what of a foreign message goes into an error.
	maxWords = 400
)
