package ring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kernel interface, from include/uapi/linux/io_uring.h.
const (
	setupCQSize       = 1 << 3
	setupClamp        = 1 << 4
	setupSubmitAll    = 1 << 7
	setupCoopTaskrun  = 1 << 8
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13

	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1

	offSQRing = 0
	offSQEs   = 0x10000000

	enterGetEvents = 1 << 0

	opFsync   = 3
	opCancel  = 14
	opSendMsg = 9
	opRead    = 22
	opWrite   = 23
	opSend    = 26
	opRecv    = 27

	fsyncDatasync = 1 << 0
)

// sqOffsets and cqOffsets tell where the shared rings keep their fields.
type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array, resv uint32
	userAddr                                               uint64
}

type cqOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, resv uint32
	userAddr                                               uint64
}

type params struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, wqFD uint32
	resv                                                               [3]uint32
	sq                                                                 sqOffsets
	cq                                                                 cqOffsets
}

// sqe is one request as the kernel reads it.
type sqe struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off           uint64
	addr          uint64
	len           uint32
	opFlags       uint32
	tag           uint64
	_             [3]uint64
}

type cqe struct {
	tag   uint64
	res   int32
	flags uint32
}

// Ring is one io_uring. Not safe for concurrent use: one locked thread makes
// it, uses it and closes it.
type Ring struct {
	fd     int
	rings  []byte // both rings, mapped
	sqeMem []byte

	sqHead, sqTail *uint32
	sqMask         uint32
	sqes           []sqe
	tail           uint32 // ours, published by Enter
	submitted      uint32 // up to where the kernel was told

	cqHead, cqTail *uint32
	cqMask         uint32
	cqes           []cqe
}

// New makes a ring for entries requests at a time. It fails where the kernel
// has no io_uring or forbids it (ENOSYS, EPERM), or is too old for one
// mapping and lossless completions (before 5.5).
func New(entries uint32) (*Ring, error) {
	var (
		p   params
		fd  uintptr
		no  syscall.Errno
		err error
	)
	base := uint32(setupClamp | setupSubmitAll | setupCQSize)
	for _, flags := range []uint32{
		base | setupSingleIssuer | setupDeferTaskrun, // 6.1
		base | setupCoopTaskrun,                      // 5.19
		setupClamp | setupCQSize,
	} {
		p = params{flags: flags, cqEntries: 4 * entries}
		fd, _, no = unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
		if no != unix.EINVAL {
			break
		}
	}
	if no != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", no)
	}
	r := &Ring{fd: int(fd)}
	if p.features&featSingleMmap == 0 || p.features&featNoDrop == 0 {
		err = errors.New("io_uring of this kernel is too old")
	} else {
		err = r.mapRings(&p)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// mapRings maps the memory shared with the kernel.
func (r *Ring) mapRings(p *params) error {
	size := max(int(p.sq.array+4*p.sqEntries), int(p.cq.cqes)+int(p.cqEntries)*int(unsafe.Sizeof(cqe{})))
	var err error
	const prot, how = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.rings, err = unix.Mmap(r.fd, offSQRing, size, prot, how); err != nil {
		return fmt.Errorf("map rings: %w", err)
	}
	if r.sqeMem, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), prot, how); err != nil {
		return fmt.Errorf("map requests: %w", err)
	}
	at := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }
	r.sqHead, r.sqTail, r.sqMask = at(p.sq.head), at(p.sq.tail), *at(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = at(p.cq.head), at(p.cq.tail), *at(p.cq.mask)
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&r.sqeMem[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&r.rings[p.cq.cqes])), p.cqEntries)
	order := unsafe.Slice(at(p.sq.array), p.sqEntries)
	for i := range order {
		order[i] = uint32(i) // requests are used in their own order, for good
	}
	return nil
}

// Close gives the ring back. Every request must have completed: the kernel
// might still write to the memory of one that has not.
func (r *Ring) Close() error {
	var errs []error
	if r.rings != nil {
		errs = append(errs, unix.Munmap(r.rings))
	}
	if r.sqeMem != nil {
		errs = append(errs, unix.Munmap(r.sqeMem))
	}
	return errors.Join(append(errs, unix.Close(r.fd))...)
}

// Room is how many more requests can be prepared before Enter.
func (r *Ring) Room() int {
	return len(r.sqes) - int(r.tail-atomic.LoadUint32(r.sqHead))
}

// next returns a cleared request. Preparing more than Room is a mistake of
// the caller and overwrites nothing: it submits what there is first.
func (r *Ring) next() *sqe {
	for r.Room() == 0 {
		_ = r.Enter(0)
	}
	e := &r.sqes[r.tail&r.sqMask]
	*e = sqe{}
	r.tail++
	return e
}

func address(p []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }

func (r *Ring) transfer(op uint8, fd int, p []byte, off uint64, flags uint32, tag uint64) {
	e := r.next()
	e.opcode, e.fd, e.off, e.addr, e.len, e.opFlags, e.tag = op, int32(fd), off, address(p), uint32(len(p)), flags, tag
}

// Read transfers from the file at off; flags are those of preadv2 (RWF_…).
func (r *Ring) Read(fd int, p []byte, off int64, flags uint32, tag uint64) {
	r.transfer(opRead, fd, p, uint64(off), flags, tag)
}

// Write transfers to the file at off; flags are those of pwritev2.
func (r *Ring) Write(fd int, p []byte, off int64, flags uint32, tag uint64) {
	r.transfer(opWrite, fd, p, uint64(off), flags, tag)
}

// Datasync makes completed writes durable. It does not wait for writes that
// are still in the ring.
func (r *Ring) Datasync(fd int, tag uint64) {
	e := r.next()
	e.opcode, e.fd, e.opFlags, e.tag = opFsync, int32(fd), fsyncDatasync, tag
}

// Recv receives what there is, up to len(p), on a blocking socket.
func (r *Ring) Recv(fd int, p []byte, flags uint32, tag uint64) {
	r.transfer(opRecv, fd, p, 0, flags, tag)
}

// Cancel makes a request that only waits return, with what it has done by then
// or an error. Its own completion says nothing that matters.
func (r *Ring) Cancel(target, tag uint64) {
	e := r.next()
	e.opcode, e.fd, e.addr, e.tag = opCancel, -1, target, tag
}

// Send sends p on a blocking socket, all of it with MSG_WAITALL.
func (r *Ring) Send(fd int, p []byte, flags uint32, tag uint64) {
	r.transfer(opSend, fd, p, 0, flags, tag)
}

// SendMsg sends the vector of m. m is read when the request is submitted.
func (r *Ring) SendMsg(fd int, m *unix.Msghdr, flags uint32, tag uint64) {
	e := r.next()
	e.opcode, e.fd, e.addr, e.len, e.opFlags, e.tag = opSendMsg, int32(fd), uint64(uintptr(unsafe.Pointer(m))), 1, flags, tag
}

// Enter submits what was prepared and, with wait > 0, sleeps until so many
// completions are there. An interruption is no error: the caller looks and
// enters again.
func (r *Ring) Enter(wait uint32) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	n, _, no := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.tail-r.submitted), uintptr(wait), enterGetEvents, 0, 0)
	if no == 0 {
		r.submitted += uint32(n)
		return nil
	}
	if no == unix.EINTR || no == unix.EAGAIN || no == unix.EBUSY {
		return nil
	}
	return fmt.Errorf("io_uring_enter: %w", no)
}

// Next returns one completion: its request's tag and result, a count or a
// negative errno.
func (r *Ring) Next() (tag uint64, res int32, ok bool) {
	head := *r.cqHead // only we write it
	if head == atomic.LoadUint32(r.cqTail) {
		return 0, 0, false
	}
	c := &r.cqes[head&r.cqMask]
	tag, res = c.tag, c.res
	atomic.StoreUint32(r.cqHead, head+1)
	return tag, res, true
}
