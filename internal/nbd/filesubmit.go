package nbd

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Submit starts op. A buffered file does reads of cached data and all writes
// at once, in the caller's goroutine: a hand-over costs more (27 us CPU) than
// the system call (3 us). What may wait for the disk goes to workers, what
// must be durable to the syncer.
func (f *File) Submit(op *Op) {
	if f.readOnly && op.Kind != Read && op.Kind != Flush {
		op.Complete(unix.EROFS)
		return
	}
	switch op.Kind {
	case Read:
		f.submitRead(op)
	case Write:
		f.submitWrite(op)
	case Flush:
		f.syncs.push(op)
	case Trim, WriteZeroes:
		f.push(op)
	default:
		op.Complete(unix.EINVAL)
	}
}

func (f *File) submitRead(op *Op) {
	if !f.noWait.Load() {
		f.work.push(op)
		return
	}
	n, err := preadCached(f.fd, op.Data, op.Offset)
	if err == nil && n == len(op.Data) {
		op.Complete(nil)
		return
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		f.noWait.Store(false) // this file system cannot tell: workers read
	}
	f.work.push(op)
}

func (f *File) submitWrite(op *Op) {
	if f.direct {
		f.push(op)
		return
	}
	err := pwriteFull(f.fd, op.Data, op.Offset)
	f.wrote(op, err)
}

// wrote ends a write-like operation: with FUA it still has to become durable.
func (f *File) wrote(op *Op, err error) {
	if err == nil && op.Flags&FUA != 0 {
		f.syncs.push(op)
		return
	}
	op.Complete(err)
}

// push hands a write-like operation to a worker, once its place in the range
// lock is free.
func (f *File) push(op *Op) {
	if f.direct && !f.lockSpan(op) {
		return // handed on by the operation it collides with
	}
	f.work.push(op)
}

// execute runs one operation in a worker.
func (f *File) execute(op *Op) {
	switch op.Kind {
	case Read:
		op.Complete(f.read(op.Data, op.Offset))
	case Write:
		err := f.writeDirect(op.Data, op.Offset)
		f.unlock(op)
		f.wrote(op, err)
	case Trim:
		err := f.trim(op.Offset, op.Length)
		f.unlock(op)
		f.wrote(op, err)
	case WriteZeroes:
		err := f.zero(op.Offset, op.Length, op.Flags)
		f.unlock(op)
		f.wrote(op, err)
	case Flush:
		op.Complete(f.datasync())
	}
}

// read fills p, waiting for the disk.
func (f *File) read(p []byte, off int64) error {
	if !f.direct {
		return preadFull(f.fd, p, off)
	}
	return f.readDirect(p, off)
}

// datasync makes completed writes durable. After a failed sync of a buffered
// file the kernel has dropped the error and may have dropped the pages, so no
// later sync can be believed: every one fails until the disk is opened anew.
// A direct file keeps nothing in memory and may be asked again.
func (f *File) datasync() error {
	if e := f.syncErr.Load(); e != nil {
		return *e
	}
	for {
		err := unix.Fdatasync(f.fd)
		if err == unix.EINTR {
			continue
		}
		if err != nil && !f.direct {
			f.syncErr.CompareAndSwap(nil, &err)
		}
		return err
	}
}
