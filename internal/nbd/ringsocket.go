package nbd

import (
	"golang.org/x/sys/unix"
)

// parse serves every complete request that has been received.
func (l *ringLoop) parse() error {
	for {
		if l.partial {
			if !l.fillPayload() {
				return nil
			}
			if err := l.finishPayload(); err != nil {
				return err
			}
		}
		if l.skip > 0 {
			n := min(l.skip, int64(l.wr-l.rd))
			l.rd, l.skip = l.rd+int(n), l.skip-n
		}
		if l.wr-l.rd < requestSize {
			return nil
		}
		if l.stalled = !l.room(); l.stalled {
			return nil
		}
		r := &l.req
		if !parseRequest(l.in.b[l.rd:l.wr], r) {
			return bad("wrong request magic")
		}
		l.rd += requestSize
		n := r.payloadLen()
		if n > maxPayload {
			if n > maxDrain {
				return bad("write payload far too large")
			}
			l.skip = n
			l.reject(r, errnoInvalid)
			continue
		}
		if n > 0 {
			l.beginPayload(r, int(n))
			continue
		}
		if err := l.dispatch(r); err != nil {
			return err
		}
	}
}

// beginPayload gives a write its aligned memory and what has arrived.
func (l *ringLoop) beginPayload(r *request, n int) {
	r.hold = l.pool.get(n, &l.acct)
	r.payload = r.hold.b[:n:n]
	l.have, l.partial = 0, true
}

// fillPayload takes what has arrived and reports whether it is all there.
func (l *ringLoop) fillPayload() bool {
	n := copy(l.req.payload[l.have:], l.in.b[l.rd:l.wr])
	l.rd, l.have = l.rd+n, l.have+n
	return l.have == len(l.req.payload)
}

// finishPayload runs the write whose payload is complete. parse saw room
// before the payload began, and no operation has started since.
func (l *ringLoop) finishPayload() error {
	l.partial = false
	hold := l.req.hold
	defer hold.release()
	return l.dispatch(&l.req)
}

// receive asks for more: the rest of a payload to its own place, else
// whatever comes.
func (l *ringLoop) receive() {
	l.receiving = true
	l.active++
	if l.straight = l.partial; l.straight {
		l.ring.Recv(l.sock, l.req.payload[l.have:], unix.MSG_WAITALL, tagRecv)
		return
	}
	l.wr = copy(l.in.b, l.in.b[l.rd:l.wr])
	l.rd = 0
	l.ring.Recv(l.sock, l.in.b[l.wr:], 0, tagRecv)
}

// received takes a receive's result.
func (l *ringLoop) received(res int32) {
	l.receiving = false
	switch {
	case res > 0 && l.straight:
		l.have += int(res)
	case res > 0:
		l.wr += int(res)
	case res == 0:
		l.end(nil) // the client hung up
	case unix.Errno(-res) == unix.ECANCELED: // by over, to hand the connection over
	case unix.Errno(-res) != unix.EINTR && unix.Errno(-res) != unix.EAGAIN:
		l.end(unix.Errno(-res))
	}
}

// send starts sending what is queued.
func (l *ringLoop) send() {
	l.out.closeSegment()
	n := min(len(l.out.segs), maxSegments)
	l.sent = append(l.sent[:0], l.out.segs[:n]...)
	l.out.segs = append(l.out.segs[:0], l.out.segs[n:]...)
	for _, s := range l.sent {
		l.out.pending -= len(s.b)
	}
	l.rest = l.sent
	l.resend()
}

// resend puts what is unsent into the ring.
func (l *ringLoop) resend() {
	l.sending = true
	l.active++
	const how = unix.MSG_NOSIGNAL | unix.MSG_WAITALL
	if len(l.rest) == 1 {
		l.ring.Send(l.sock, l.rest[0].b, how, tagSend)
		return
	}
	l.iov = l.iov[:0]
	for _, s := range l.rest {
		v := unix.Iovec{Base: &s.b[0]}
		v.SetLen(len(s.b))
		l.iov = append(l.iov, v)
	}
	l.msg = unix.Msghdr{Iov: &l.iov[0]}
	l.msg.SetIovlen(len(l.iov))
	l.ring.SendMsg(l.sock, &l.msg, how, tagSend)
}

func (l *ringLoop) unsent() bool { return l.sending || l.out.waiting() > 0 }

// sentSome takes a send's result.
func (l *ringLoop) sentSome(res int32) {
	l.sending = false
	if res < 0 {
		if e := unix.Errno(-res); e != unix.EINTR && e != unix.EAGAIN {
			l.end(e)
			l.deaf = true
			l.forget()
			return
		}
		res = 0
	}
	n := int(res)
	for len(l.rest) > 0 && n >= len(l.rest[0].b) {
		n -= len(l.rest[0].b)
		l.rest = l.rest[1:]
	}
	if len(l.rest) > 0 {
		l.rest[0].b = l.rest[0].b[n:]
		l.resend()
		return
	}
	l.releaseSent()
	l.out.reuse()
}

func (l *ringLoop) releaseSent() {
	for i := range l.sent {
		if h := l.sent[i].hold; h != nil {
			h.release()
		}
		l.sent[i] = segment{}
	}
	l.sent = l.sent[:0]
}

// forget drops replies that nobody will read.
func (l *ringLoop) forget() {
	l.releaseSent()
	l.out.discard()
}

func (l *ringLoop) reject(r *request, errno uint32) {
	l.out.commit(l.putStatus(l.out.space(errChunkSize), r.cmd, r.cookie, errno))
}

// answer queues the reply of a completed operation.
func (l *ringLoop) answer(op *Op) {
	switch {
	case l.deaf:
	case op.err != nil || op.region == nil:
		l.out.commit(l.putStatus(l.out.space(errChunkSize), op.cmd, op.cookie, wireErrno(op.err)))
	default:
		if op.Data != nil {
			l.putReadHeader(op)
		}
		l.out.add(op.region, op.hold)
		op.hold = nil
	}
	l.ops.put(op)
}
