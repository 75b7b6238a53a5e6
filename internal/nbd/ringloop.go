package nbd

import (
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/internal/nbd/ring"
)

// Tags of the ring's requests; tagOp and above are entries of the flight table.
const (
	tagRecv = iota
	tagSend
	tagWake
	tagSync
	tagCancel
	tagOp
)

const (
	// ringEntries holds every operation of a connection, its receive, send,
	// sync and wake-up, twice over for what layers add.
	ringEntries = 512
	// ringReceive is one receive. Payloads are copied out of it to aligned
	// memory, so it need not be large; a payload that is longer than what has
	// arrived is received straight to its place.
	ringReceive = 256 << 10
)

// ringLoop serves a direct file: one locked thread, one ring, on which it
// receives, reads and writes the disk, syncs and sends. For O_DIRECT, threads
// that block each in a pwrite do not scale (21 k IOPS at queue depth 32, two
// thirds of qemu-nbd); one thread and a ring do (40 k).
//
// Everything below runs on the loop's thread, but for Submit, submitLater and
// finished, which only put an operation on a list and wake the thread if it
// sleeps: nobody needs to know whose goroutine he is on.
type ringLoop struct {
	transmission
	file *File
	log  *slog.Logger
	ring *ring.Ring
	sock int
	wake int // eventfd, read on the ring

	sleeping atomic.Bool // the thread waits in the kernel
	halted   atomic.Bool
	handing  atomic.Bool
	left     *Handed

	mu        sync.Mutex
	submitted opList
	done      opList
	closed    bool // the descriptors are closed

	in      *buffer
	rd, wr  int
	skip    int64
	partial bool // req's payload is on its way to req.hold
	have    int  // bytes of it
	stalled bool // parse stopped for want of room

	flight []flight
	vacant []int

	receiving, sending, listening bool
	straight                      bool // the running receive goes to the payload
	active                        int  // requests in the ring
	ending                        bool
	closing                       bool  // operations are done, the ring is being emptied
	cause                         error // why, if not orderly
	deaf                          bool  // the client does not get replies any more

	syncing, syncNext opList // operations of the sync that runs, and of the one after

	out     outQueue
	sent    []segment // what the running send covers
	rest    []segment // its rest, a tail of sent
	iov     []unix.Iovec
	msg     unix.Msghdr
	wakeBuf []byte // the kernel reads the eventfd into it
	oneBuf  []byte // what is written to it; never changes
}

// flight is a disk transfer in the ring.
type flight struct {
	op   *Op
	done int // bytes transferred before, when the kernel stopped short
}

// newRingLoop makes a loop for the calling goroutine, which is locked to its
// thread from here to the end of run. It takes the socket over from the
// handshake's connection. When it fails, the connection is as before and the
// goroutine unlocked.
func newRingLoop(h *handshake, pool *bufferPool, log *slog.Logger) (*ringLoop, error) {
	sc, ok := h.conn.(syscall.Conn)
	if !ok {
		return nil, errors.New("the connection is not a plain socket")
	}
	runtime.LockOSThread()
	r, err := ring.New(ringEntries)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	l := &ringLoop{file: h.chosen.File, log: log, ring: r, wakeBuf: make([]byte, 8), oneBuf: []byte{1, 0, 0, 0, 0, 0, 0, 0}}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err == nil {
		if l.sock, err = takeSocket(sc); err == nil {
			h.conn.Close()
			l.set(l, h, pool)
			l.out.pool, l.out.acct = pool, &l.acct
			l.dev = layered(h.chosen, l)
			return l, nil
		}
		unix.Close(l.wake)
	}
	r.Close()
	runtime.UnlockOSThread()
	return nil, err
}

// takeSocket duplicates a connection's descriptor and makes it blocking: on a
// non-blocking socket the ring would return EAGAIN instead of waiting.
func takeSocket(sc syscall.Conn) (int, error) {
	rc, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	sock := -1
	var failed error
	err = rc.Control(func(fd uintptr) {
		if sock, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); failed == nil {
			failed = unix.SetNonblock(sock, false)
		}
	})
	if err = errors.Join(err, failed); err != nil && sock >= 0 {
		unix.Close(sock)
	}
	return sock, err
}

// run serves until the client leaves, the stream breaks or halt is called,
// then waits for every operation in flight and sends its reply.
func (l *ringLoop) run() error {
	if l.in == nil {
		l.in = l.pool.get(ringReceive, &l.acct)
	}
	defer l.in.release()
	for {
		l.round()
		if l.over() {
			break
		}
		if err := l.waitForWork(); err != nil {
			l.strand(err)
		}
		l.reap()
	}
	l.leave()
	if l.partial { // a payload that will not be completed
		l.req.hold.release()
	}
	return l.cause
}

// round does what can be done without waiting.
func (l *ringLoop) round() {
	for again := true; again; again = l.stalled && !l.ending && l.room() {
		if l.halted.Load() {
			l.end(nil)
		}
		if !l.ending {
			if err := l.parse(); errors.Is(err, errDisconnect) {
				l.end(nil)
			} else if err != nil {
				l.end(err)
			}
		}
		submitted, done := l.takeLists()
		for op := submitted.pop(); op != nil; op = submitted.pop() {
			l.start(op)
		}
		for op := done.pop(); op != nil; op = done.pop() {
			l.answer(op)
		}
	}
	l.arm()
}

// strand is for a ring that the kernel does not serve any more, which only a
// mistake of ours can cause. Its requests may still write to our memory, so
// nothing may ever be freed: the client is cut off and the goroutine stays,
// for Serve to report operations that do not complete.
func (l *ringLoop) strand(err error) {
	l.log.Error("nbd ring failed, the connection is stranded", "err", err)
	unix.Shutdown(l.sock, unix.SHUT_RDWR)
	select {}
}

// end makes this the last requests' time. The first reason counts.
func (l *ringLoop) end(cause error) {
	if !l.ending {
		l.ending, l.cause = true, cause
	}
}

// over reports whether everything has ended and the ring is empty. Once the
// operations are done it makes the requests that only wait return.
func (l *ringLoop) over() bool {
	if !l.ending || !l.ops.idle() || l.unsent() {
		return false
	}
	if l.active == 0 {
		return true
	}
	if !l.closing {
		l.closing = true
		switch {
		case !l.handing.Load():
			unix.Shutdown(l.sock, unix.SHUT_RDWR)
		case l.receiving:
			l.active++
			l.ring.Cancel(tagRecv, tagCancel)
		}
		l.rouse()
	}
	return false
}

// waitForWork sleeps until a completion or a wake-up. Whoever puts something
// on a list after sleeping was set wakes the thread; what came before is seen
// here.
func (l *ringLoop) waitForWork() error {
	l.sleeping.Store(true)
	wait := uint32(1)
	if !l.listsEmpty() || l.halted.Load() && !l.ending {
		wait = 0
	}
	err := l.ring.Enter(wait)
	l.sleeping.Store(false)
	return err
}

func (l *ringLoop) listsEmpty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.submitted.empty() && l.done.empty()
}

func (l *ringLoop) takeLists() (submitted, done opList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.submitted.take(), l.done.take()
}

// arm keeps a receive, a send and a read of the eventfd in the ring.
func (l *ringLoop) arm() {
	if !l.listening && !l.closing {
		l.listening = true
		l.active++
		l.ring.Read(l.wake, l.wakeBuf, 0, 0, tagWake)
	}
	if !l.receiving && !l.ending && (l.partial || !l.stalled) {
		l.receive()
	}
	if !l.sending && l.out.waiting() > 0 {
		l.send()
	}
}

// halt asks the loop to end in good order; any goroutine.
func (l *ringLoop) halt() {
	l.halted.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rouseLocked()
}

// kill breaks the connection; any goroutine.
func (l *ringLoop) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		unix.Shutdown(l.sock, unix.SHUT_RDWR)
	}
}

// rouse makes the read of the eventfd return.
func (l *ringLoop) rouse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rouseLocked()
}

func (l *ringLoop) rouseLocked() {
	if l.closed {
		return
	}
	for {
		// The counter cannot overflow: it is read after every wake-up.
		if _, err := unix.Write(l.wake, l.oneBuf); err != unix.EINTR {
			return
		}
	}
}

// close gives everything back that newRingLoop took, and the thread.
func (l *ringLoop) close() {
	defer runtime.UnlockOSThread()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.out.drop()
	l.ring.Close()
	unix.Close(l.sock)
	unix.Close(l.wake)
}
