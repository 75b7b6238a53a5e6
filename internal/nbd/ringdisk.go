package nbd

import (
	"golang.org/x/sys/unix"
)

// reserve gives a read its destination: aligned, with the reply's header
// right in front, so that both are sent as one piece.
func (l *ringLoop) reserve(op *Op, n int) {
	op.hold = l.pool.get(pageAlign+n, &l.acct)
	op.region = op.hold.b[pageAlign-l.readHeader() : pageAlign+n]
	op.Data = op.hold.b[pageAlign : pageAlign+n : pageAlign+n]
}

func (l *ringLoop) submit(dev Device, op *Op) { dev.Submit(op) }

// Submit is the primary of this connection; any goroutine. What the disk
// takes as it is goes to the ring, the rest (parts of blocks, zeroing) to the
// file's workers, which may wait.
func (l *ringLoop) Submit(op *Op) {
	f := l.file
	op.span.ring = nil
	switch {
	case f.readOnly && op.Kind != Read && op.Kind != Flush:
		op.Complete(unix.EROFS)
	case op.Kind == Flush, op.Kind == Read && f.aligned(op.Data, op.Offset):
		l.submitLater(op)
	case op.Kind == Write && f.aligned(op.Data, op.Offset):
		op.span.ring = l // where to go on, should it have to wait
		if f.lockSpan(op) {
			l.submitLater(op)
		}
	default:
		f.Submit(op)
	}
}

// submitLater hands op to the loop's thread.
func (l *ringLoop) submitLater(op *Op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.submitted.push(op)
	if l.sleeping.Load() {
		l.rouseLocked()
	}
}

// finished is told by the last Complete of an operation.
func (l *ringLoop) finished(op *Op, err error) {
	op.err = err
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done.push(op)
	if l.sleeping.Load() {
		l.rouseLocked()
	}
}

// start puts an operation into the ring.
func (l *ringLoop) start(op *Op) {
	if op.Kind == Flush {
		l.syncNext.push(op)
		l.sync()
		return
	}
	var slot int
	if n := len(l.vacant); n > 0 {
		slot, l.vacant = l.vacant[n-1], l.vacant[:n-1]
	} else {
		slot = len(l.flight)
		l.flight = append(l.flight, flight{})
	}
	l.flight[slot] = flight{op: op}
	l.transfer(slot)
}

// transfer puts what remains of a disk transfer into the ring.
func (l *ringLoop) transfer(slot int) {
	fl := &l.flight[slot]
	op := fl.op
	p, off, tag := op.Data[fl.done:], op.Offset+int64(fl.done), uint64(tagOp+slot)
	l.active++
	if op.Kind == Read {
		l.ring.Read(l.file.fd, p, off, 0, tag)
		return
	}
	l.ring.Write(l.file.fd, p, off, writeFlags(op), tag)
}

// writeFlags makes a forced write durable by itself, without a sync of
// everything else.
func writeFlags(op *Op) uint32 {
	if op.Flags&FUA != 0 {
		return unix.RWF_DSYNC
	}
	return 0
}

// transferred takes a disk transfer's result.
func (l *ringLoop) transferred(slot int, res int32) {
	fl := &l.flight[slot]
	op := fl.op
	var err error
	switch e := unix.Errno(-res); {
	case res < 0 && (e == unix.EINTR || e == unix.EAGAIN):
		l.transfer(slot)
		return
	case res < 0:
		err = e
	case res == 0:
		err = unix.EIO // the disk shrank beneath us
	default:
		fl.done += int(res)
		if fl.done < len(op.Data) {
			if fl.done%l.file.align == 0 {
				l.transfer(slot)
				return
			}
			err = unix.EIO
		}
	}
	*fl = flight{}
	l.vacant = append(l.vacant, slot)
	if op.Kind == Write {
		l.file.unlock(op)
	}
	op.Complete(err)
}

// sync runs one sync for every flush that waits. Those that come while it
// runs need the next: it may have begun before a write they cover.
func (l *ringLoop) sync() {
	if !l.syncing.empty() || l.syncNext.empty() {
		return
	}
	l.syncing = l.syncNext.take()
	l.active++
	l.ring.Datasync(l.file.fd, tagSync)
}

func (l *ringLoop) synced(res int32) {
	var err error
	if e := unix.Errno(-res); res < 0 && e == unix.EINTR {
		l.active++
		l.ring.Datasync(l.file.fd, tagSync)
		return
	} else if res < 0 {
		err = e
	}
	done := l.syncing.take()
	for op := done.pop(); op != nil; op = done.pop() {
		op.Complete(err)
	}
	l.sync()
}

// reap takes every completion there is.
func (l *ringLoop) reap() {
	for {
		tag, res, ok := l.ring.Next()
		if !ok {
			return
		}
		l.active--
		switch tag {
		case tagRecv:
			l.received(res)
		case tagSend:
			l.sentSome(res)
		case tagWake:
			l.listening = false
		case tagSync:
			l.synced(res)
		case tagCancel:
		default:
			l.transferred(int(tag-tagOp), res)
		}
	}
}
