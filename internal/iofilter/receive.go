package iofilter

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/wire"
)

// frameReader reads frames without records. Owned by one goroutine.
type frameReader struct {
	r    *bufio.Reader
	head [wire.HeadSize]byte
	body []byte
}

// next returns the next frame; the body is valid until the call after. A body
// longer than limit is refused before it is read.
func (f *frameReader) next(limit int) (h wire.Head, body []byte, err error) {
	if _, err := io.ReadFull(f.r, f.head[:]); err != nil {
		return h, nil, errs.E("iofilter.receive", errs.Unavailable, "link", err)
	}
	if err := h.Parse(f.head[:]); err != nil {
		return h, nil, err
	}
	if h.Type == wire.TypeRecords || int(h.Body) > bodyLimit(h.Type, limit) {
		return h, nil, errs.E("iofilter.receive", errs.Invalid, "link", fmt.Errorf("frame of type %d with %d bytes", h.Type, h.Body))
	}
	if cap(f.body) < int(h.Body) {
		f.body = make([]byte, h.Body)
	}
	body = f.body[:h.Body]
	if _, err := io.ReadFull(f.r, body); err != nil {
		return h, nil, errs.E("iofilter.receive", errs.Unavailable, "link", err)
	}
	return h, body, h.CheckBody(body)
}

// bodyLimit is limit but for an answer about hashes.
func bodyLimit(t wire.Type, limit int) int {
	if t == wire.TypeHashAnswer {
		return max(limit, wire.MaxHashAnswer)
	}
	return limit
}

// receive takes in what the DRVA says until the connection ends. It always
// returns an error.
func (o *outlet) receive(conn net.Conn, in *frameReader) error {
	var ack wire.Ack
	for {
		if err := conn.SetReadDeadline(time.Now().Add(peerSilence)); err != nil {
			return err
		}
		h, body, err := in.next(maxAnswer)
		if err != nil {
			return err
		}
		if err := o.dispatch(h.Type, body, &ack); err != nil {
			return err
		}
	}
}

// dispatch acts on one frame. An error means that the connection is useless.
func (o *outlet) dispatch(t wire.Type, body []byte, ack *wire.Ack) error {
	switch t {
	case wire.TypePing:
		return nil
	case wire.TypeAck:
		if err := ack.Parse(body); err != nil {
			return err
		}
		return o.onAck(ack)
	case wire.TypeHashAnswer:
		a, err := wire.ParseHashAnswer(body)
		if err != nil {
			return err
		}
		return o.onHashAnswer(a)
	case wire.TypeRefuse:
		return refused(body)
	case wire.TypeHold, wire.TypePlace, wire.TypeRelease, wire.TypeMark:
		round, err := wire.ParseRound(body)
		switch {
		case err != nil:
			return err
		case t == wire.TypeHold:
			return o.onHold(round)
		case t == wire.TypePlace:
			return o.onPlace(round)
		case t == wire.TypeRelease:
			return o.onRelease(round)
		}
		return o.onMark(round)
	case wire.TypeFreeze, wire.TypeThaw, wire.TypeThrottle, wire.TypeTrack:
		return o.onOrder(t, body)
	}
	return errs.E("iofilter.dispatch", errs.Invalid, "link", fmt.Errorf("frame of type %d from a DRVA", t))
}

// onAck takes in which records have their place and which are durable.
func (o *outlet) onAck(a *wire.Ack) error {
	o.mu.Lock()
	defer o.unlock()
	before := o.str.First()
	if err := o.str.Ack(a); err != nil {
		return err
	}
	o.progressLocked(o.str.First() > before)
	o.sequencedLocked()
	return nil
}
