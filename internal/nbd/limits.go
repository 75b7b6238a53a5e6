package nbd

import "time"

// Every bound of the package. Sizes are bytes.
const (
	// maxPayload is the largest read or write, as every NBD client assumes
	// of a server (and as the protocol recommends as the default).
	maxPayload = 32 << 20
	// maxDrain is the largest write payload that is read and thrown away to
	// answer an oversize write politely; beyond it the stream is cut.
	maxDrain = 64 << 20

	// arenaSize is what one receive may bring in. One large buffered read
	// instead of a header read and a payload read each request was worth
	// 18 -> 14 us CPU per write at queue depth 32.
	arenaSize = 1 << 20
	// exactReceive is how much of a payload must be missing for it to be
	// received alone.
	exactReceive = 16 << 10
	// outSize is one reply buffer, and batchBytes the work (bytes written and
	// read) after which replies are sent although more requests wait: beyond
	// ~256 KiB batching saves nothing more and only delays the first reply.
	outSize    = 512 << 10
	batchBytes = 256 << 10
	// maxSegments bounds the vector of one gathered write (IOV_MAX is 1024).
	maxSegments = 128

	// opsPerConn is how many operations of one connection may be in flight;
	// a loop stops reading at this bound. QEMU keeps 16 in flight per
	// connection, libnbd clients 64, fio what it is told to.
	opsPerConn = 256
	// connMemory is how much buffer memory detached operations of one
	// connection may pin before its loop stops reading.
	connMemory = 64 << 20
	// poolRetain is the buffer memory a server keeps for reuse: two busy
	// connections at their bound allocate nothing.
	poolRetain = 128 << 20

	// maxOptions, maxOption and maxOptionDrain bound a handshake: options in
	// all, bytes of one option that is looked at, bytes of one that is read
	// and refused. 4096 is the protocol's longest string, twice is room for
	// a name and queries.
	maxOptions     = 1024
	maxOption      = 16 << 10
	maxOptionDrain = 1 << 20
	// maxName is the protocol's longest export name, query or description.
	maxName = 4096
	// maxInfos and maxQueries bound the lists inside one option.
	maxInfos   = 64
	maxQueries = 64
	// maxExtents bounds one block status reply (2 KiB of descriptors).
	maxExtents = 256

	// defaultHandshake is how long a client may take to negotiate.
	defaultHandshake = 10 * time.Second
	// defaultDrain is how long Serve waits for operations in flight.
	defaultDrain = 5 * time.Second
	// defaultConns bounds the connections of one server: each costs two
	// goroutines (or a thread) and ~1.5 MiB of buffers.
	defaultConns = 1024

	// fileWorkers run what must not stall a loop: cold reads, trims, zeroing.
	// A disk's own queue is kept full by far fewer; not measured.
	fileWorkers = 16
	// directWorkers serve an O_DIRECT file where no ring can be had.
	directWorkers = 32
	// zeroStep is the buffer for writing zeroes the slow way.
	zeroStep = 1 << 20

	// defaultRemoteRetry is how long an operation on a remote disk waits for
	// a connection, and remoteRedial how often one is tried: a server that is
	// started again is there in tenths of a second, and a guest's disk driver
	// gives up after 30 s.
	defaultRemoteRetry = 5 * time.Second
	remoteRedial       = 20 * time.Millisecond
	// defaultRemoteTimeout bounds one operation on a remote disk.
	defaultRemoteTimeout = 30 * time.Second
)
