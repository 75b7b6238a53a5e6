package nbd

import "sync/atomic"

// Kind is what a guest asks a disk to do.
type Kind uint8

// The kinds.
const (
	Read Kind = iota
	Write
	Flush
	Trim
	WriteZeroes
)

// Flags qualify an operation; values follow the NBD protocol's command flags.
type Flags uint16

const (
	FUA      Flags = 1 << 0 // complete only when durable on the primary
	NoHole   Flags = 1 << 1 // WriteZeroes: do not deallocate
	FastZero Flags = 1 << 4 // WriteZeroes: fail with ErrNotSupported rather than write zeroes slowly
)

// maxLayers bounds how many layers may intercept one operation.
const maxLayers = 4

// Completer takes part in the completion of an operation.
type Completer interface {
	// Completed is called exactly once per Intercept, from the goroutine that
	// completed the operation. It must end by calling op.Complete, at once or
	// later, to pass the completion on.
	Completed(op *Op, err error)
}

// Op is one guest request on its way. Ops come from a pool bounded per
// connection and are reused: nobody may touch an Op after its last Complete.
//
// Lifetime of Data: for Write, the payload, valid until Submit returns AND the
// primary has taken it; a layer that needs it later copies it before passing
// the completion on. For Read, the destination, valid until completion. Nil
// otherwise.
type Op struct {
	Kind   Kind
	Flags  Flags
	Offset int64 // bytes; inside the export, checked by the loop
	Length int64 // bytes; > 0 except for Flush, where Offset and Length are 0
	Data   []byte

	// Scratch and Link belong to the layer that intercepted the operation
	// last; a layer that needs them across a lower Submit saves nothing there.
	Scratch [4]uint64
	Link    *Op

	stack [maxLayers]Completer
	depth int
	conn  opOwner
	slot  uint32 // index in the connection's pool

	// What the loop remembers of the request, and what it needs to answer it.
	cookie uint64
	cmd    uint16        // wire command, which chooses the reply's shape
	phase  atomic.Uint32 // rendezvous between the submitting loop and the completing goroutine
	err    error         // the outcome, from finished to the reply
	region []byte        // Read, BlockStatus: the whole reply, header room in front of the payload
	hold   *buffer       // what Data lies in; released when the operation is recycled
	next   *Op           // one list at a time: free, worker queue, done queue
	span   span          // place in the direct file's range lock
}

// opOwner is the transmission loop an operation belongs to.
type opOwner interface{ finished(op *Op, err error) }

// ownerFunc makes a function the owner of an operation made by NewOp.
type ownerFunc func(op *Op, err error)

func (f ownerFunc) finished(op *Op, err error) { f(op, err) }

// NewOp returns an operation that belongs to no connection: a layer's own
// writes, tools and tests send it down a Device like any other. done hears of
// its end, from any goroutine; afterwards the caller may fill the fields anew
// and submit it again.
func NewOp(done func(op *Op, err error)) *Op { return &Op{conn: ownerFunc(done)} }

// Intercept makes c the next to hear of the completion. Called before the
// operation is submitted further down.
func (op *Op) Intercept(c Completer) {
	op.stack[op.depth] = c
	op.depth++
}

// Complete ends the operation at this level: the layer above hears of it, or,
// at the top, the reply is queued. err is nil or maps to an NBD errno by its
// errs.Kind (or syscall.Errno). Safe from any goroutine; exactly once per level.
func (op *Op) Complete(err error) {
	if op.depth > 0 {
		op.depth--
		op.stack[op.depth].Completed(op, err)
		return
	}
	op.conn.finished(op, err)
}

// Device executes operations. Implementations: a file or block device (the
// primary), and layers over one.
//
// A layer may submit an operation further down later and from another
// goroutine, but not after its connection's last operation has completed.
type Device interface {
	// Submit starts op, which is completed exactly once by op.Complete, either
	// before Submit returns or later from any goroutine. Submit is called from
	// one loop in the order requests arrived on that connection; different
	// connections call concurrently. Submit may block briefly for resources.
	Submit(op *Op)
}

// Primary gives direct synchronous access to the disk below all layers: for
// the sync cursor, for widening odd writes, for tests. Safe for concurrent
// use. Offsets and lengths need no alignment; an O_DIRECT primary aligns
// inside.
type Primary interface {
	ReadAt(p []byte, off int64) (int, error)
	Size() int64 // bytes; changes only by Resize of the owner
	// NextData returns the next extent at or after off that may hold data;
	// everything between off and start reads as zeroes. start == Size() when
	// there is none. A primary that cannot tell returns (off, Size()).
	NextData(off int64) (start, end int64, err error)
}
