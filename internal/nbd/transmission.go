package nbd

import (
	"sync"
)

// loop is what the commands need of the transmission loop that runs them.
// There are two: streamLoop over any net.Conn, ringLoop with a thread and an
// io_uring of its own for direct files.
type loop interface {
	opOwner
	// reserve gives op its reply region with room for n bytes, and Data.
	reserve(op *Op, n int)
	// submit sends op on its way; its reply follows its completion.
	submit(dev Device, op *Op)
	// unsent reports whether replies wait to be sent.
	unsent() bool
	// reject answers a request that never became an operation.
	reject(r *request, errno uint32)
}

// transmission is a connection past its handshake, as both loops share it.
// Fields are owned by the loop's goroutine unless their type says otherwise.
type transmission struct {
	lp         loop
	name       string // of the export
	disk       Disk
	dev        Device // the outermost layer
	size       uint64
	readOnly   bool
	structured bool
	allocation bool // base:allocation was selected

	pool *bufferPool
	acct account
	ops  opPool
	req  request
}

// set fills in what both loops share.
func (t *transmission) set(lp loop, h *handshake, pool *bufferPool) {
	e := h.chosen
	t.lp, t.disk, t.name = lp, e.disk(), e.Name
	t.size = uint64(t.disk.Size())
	t.readOnly = e.readOnly()
	t.structured = h.structured
	t.allocation = h.metaFor == e
	t.pool = pool
	t.acct.freed = make(chan struct{}, 1)
	t.ops.owner = lp
}

// layered wraps the primary as this connection reaches it.
func layered(e *Export, primary Device) Device {
	if e.Layer == nil {
		return primary
	}
	return e.Layer(primary)
}

// room reports whether another operation may start. Memory that is pinned by
// operations, or by replies the client does not fetch, counts against it; when
// there are neither, one may always start.
func (t *transmission) room() bool {
	if !t.ops.ready() {
		return false
	}
	return t.acct.used.Load() <= connMemory || !t.lp.unsent() && t.ops.idle()
}

// newOp makes a request an operation. The caller has seen room.
func (t *transmission) newOp(r *request, kind Kind) *Op {
	op := t.ops.get()
	op.Kind = kind
	op.Flags = r.flags & (FUA | NoHole | FastZero)
	op.Offset, op.Length = int64(r.offset), int64(r.length)
	op.cookie, op.cmd = r.cookie, r.cmd
	op.depth = 0
	return op
}

// recycle empties op and releases what it held.
func recycle(op *Op) {
	if op.hold != nil {
		op.hold.release()
		op.hold = nil
	}
	op.Data, op.region, op.err, op.Link = nil, nil, nil, nil
}

// readHeader is the room a read's reply needs in front of its payload.
func (t *transmission) readHeader() int {
	if t.structured {
		return readChunkSize
	}
	return simpleSize
}

// putReadHeader completes the region of a successful read.
func (t *transmission) putReadHeader(op *Op) {
	if !t.structured {
		putSimple(op.region, op.cookie, 0)
		return
	}
	putChunk(op.region, op.cookie, chunkOffsetData, uint32(8+len(op.Data)))
	be.PutUint64(op.region[chunkSize:], uint64(op.Offset))
}

// putStatus writes a reply without payload and returns its length, at most
// errChunkSize. Where structured replies were negotiated, reads and block
// status must fail in a chunk; everything else may stay simple, and is: it
// is shorter.
func (t *transmission) putStatus(b []byte, cmd uint16, cookie uint64, errno uint32) int {
	if t.structured && (cmd == cmdRead || cmd == cmdBlockStatus) {
		putErrorChunk(b, cookie, errno)
		return errChunkSize
	}
	putSimple(b, cookie, errno)
	return simpleSize
}

// opPool is a connection's operations: made when first needed, opsPerConn at
// most, then reused.
type opPool struct {
	owner opOwner

	// Owned by the loop.
	local  opList
	localN int
	made   int

	mu      sync.Mutex
	shared  opList // given back by other goroutines
	sharedN int
}

// ready reports whether get will find an operation.
func (p *opPool) ready() bool {
	if p.localN > 0 || p.made < opsPerConn {
		return true
	}
	p.collect()
	return p.localN > 0
}

// collect takes over what other goroutines gave back.
func (p *opPool) collect() {
	p.mu.Lock()
	for op := p.shared.pop(); op != nil; op = p.shared.pop() {
		p.local.push(op)
		p.localN++
	}
	p.sharedN = 0
	p.mu.Unlock()
}

func (p *opPool) get() *Op {
	if p.localN == 0 {
		p.collect()
	}
	if op := p.local.pop(); op != nil {
		p.localN--
		return op
	}
	op := &Op{conn: p.owner, slot: uint32(p.made)}
	p.made++
	return op
}

// put gives op back from the loop, putShared from any goroutine.
func (p *opPool) put(op *Op) {
	recycle(op)
	p.local.push(op)
	p.localN++
}

func (p *opPool) putShared(op *Op) {
	recycle(op)
	p.mu.Lock()
	p.shared.push(op)
	p.sharedN++
	p.mu.Unlock()
}

// idle reports whether no operation is in flight.
func (p *opPool) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.localN+p.sharedN == p.made
}
