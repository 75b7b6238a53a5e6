package drva

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"holdfast/internal/drva/order"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// hosts takes hosts, from the server's own listener or from a Front, until ctx
// ends.
func (s *Server) hosts(ctx context.Context) error {
	s.mu.Lock()
	s.serving = ctx
	s.mu.Unlock()
	defer s.attached.Wait()
	defer func() {
		s.mu.Lock()
		s.serving = nil
		s.mu.Unlock()
	}()
	if s.cfg.Listener == nil {
		<-ctx.Done()
		return nil
	}
	f := NewFront(s.cfg.Listener, s.cfg.Authenticate, s.log)
	f.Add(s)
	return f.Run(ctx)
}

// enter returns the context in which a host is served; nil when none is now.
// With a context the caller must leave.
func (s *Server) enter() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving != nil {
		s.attached.Add(1)
	}
	return s.serving
}

// serve takes a host that has said Hello, until its connection ends; false when
// the appliance is not ready, and the connection is as it was.
func (s *Server) serve(nc net.Conn, in *bufio.Reader, h *wire.Hello) bool {
	ctx := s.enter()
	if ctx == nil {
		return false
	}
	defer s.attached.Done()
	unhook := context.AfterFunc(ctx, func() { nc.Close() })
	defer unhook()
	c := newConn(order.ConnID(s.conns.Add(1)), nc, h, s.share.frames)
	if !s.post(ctx, event{attach: h, conn: c}) {
		return true
	}
	var writer sync.WaitGroup
	writer.Go(c.write)
	writer.Go(func() { s.answer(ctx, c) })
	err := s.read(ctx, c, in)
	nc.Close()
	close(c.done)
	writer.Wait()
	s.log.Info("host disconnected", "host", h.Name, "err", err)
	s.noteError(err)
	s.post(ctx, event{detach: true, conn: c})
	return true
}

// readSmall reads a frame without records whose body is at most limit bytes.
func readSmall(in *bufio.Reader, limit uint32) (h wire.Head, body []byte, err error) {
	const op = "drva.read"
	var head [wire.HeadSize]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return h, nil, errs.E(op, errs.Unavailable, "link", err)
	}
	if err := h.Parse(head[:]); err != nil {
		return h, nil, err
	}
	if h.Type == wire.TypeRecords || h.Body > limit {
		return h, nil, errs.E(op, errs.Invalid, "link", fmt.Errorf("frame of type %d with %d bytes", h.Type, h.Body))
	}
	body = make([]byte, h.Body)
	if _, err := io.ReadFull(in, body); err != nil {
		return h, nil, errs.E(op, errs.Unavailable, "link", err)
	}
	return h, body, h.CheckBody(body)
}

// Write path, step 4: take in a host's frames and give them their place.

// read takes frames until the connection ends, and says why it did. Payloads
// are read to where the log will write them from.
func (s *Server) read(ctx context.Context, c *conn, in *bufio.Reader) error {
	const op = "drva.read"
	var small [maxSmall]byte
	var raw [wire.HeadSize]byte
	for {
		if err := c.nc.SetReadDeadline(time.Now().Add(peerSilence)); err != nil {
			return errs.E(op, errs.Unavailable, "host "+c.name, err)
		}
		if _, err := io.ReadFull(in, raw[:]); err != nil {
			return errs.E(op, errs.Unavailable, "host "+c.name, err)
		}
		var h wire.Head
		if err := h.Parse(raw[:]); err != nil {
			return err
		}
		var e event
		var err error
		switch h.Type {
		case wire.TypeRecords:
			e, err = s.readRecords(ctx, c, in, &h)
		case wire.TypeBootTrace:
			err = s.readBoot(c, in, &h)
		default:
			e, err = readControl(c, in, &h, small[:])
		}
		if err != nil {
			return errs.E(op, errs.Unavailable, "host "+c.name, err)
		}
		if e.conn != nil && !s.post(ctx, e) {
			return errs.E(op, errs.Canceled, "host "+c.name, context.Cause(ctx))
		}
	}
}

// maxSmall bounds what a host says besides records and reports of a freeze, in
// bytes: a Confirm.
const maxSmall = 64

// readControl reads a frame without records; Pings become no event.
func readControl(c *conn, in *bufio.Reader, h *wire.Head, small []byte) (event, error) {
	if h.Type == wire.TypeFrozen || h.Type == wire.TypeThawed {
		return readReport(c, in, h)
	}
	if h.Body > maxSmall {
		return event{}, errs.E("drva.read", errs.Invalid, "link", fmt.Errorf("frame of type %d with %d bytes", h.Type, h.Body))
	}
	body := small[:h.Body]
	if _, err := io.ReadFull(in, body); err != nil {
		return event{}, err
	}
	if err := h.CheckBody(body); err != nil {
		return event{}, err
	}
	switch h.Type {
	case wire.TypePing:
		return event{}, nil
	case wire.TypeReplayEnd:
		return event{conn: c, replayEnd: true}, nil
	case wire.TypeConfirm:
		m, err := wire.ParseConfirm(body)
		return event{conn: c, confirm: &m}, err
	case wire.TypeHashAsk:
		m, err := wire.ParseHashAsk(body)
		if err == nil && !c.ask(m) {
			err = errs.New("drva.read", errs.Invalid, "link", "the host asks for more hashes than it waits for")
		}
		return event{}, err
	}
	return event{}, errs.E("drva.read", errs.Invalid, "link", fmt.Errorf("frame of type %d from a host", h.Type))
}

// readReport reads what became of a host's guests in an application-consistent
// round.
func readReport(c *conn, in *bufio.Reader, h *wire.Head) (event, error) {
	if h.Body > wire.MaxFreezeReport {
		return event{}, errs.E("drva.read", errs.Invalid, "link", fmt.Errorf("a report of %d bytes", h.Body))
	}
	body := make([]byte, h.Body)
	if _, err := io.ReadFull(in, body); err != nil {
		return event{}, err
	}
	if err := h.CheckBody(body); err != nil {
		return event{}, err
	}
	m, err := wire.ParseFreezeReport(body)
	if h.Type == wire.TypeFrozen {
		return event{conn: c, frozen: &m}, err
	}
	return event{conn: c, thawed: &m}, err
}

// readRecords reads a Records frame into a free buffer.
func (s *Server) readRecords(ctx context.Context, c *conn, in *bufio.Reader, h *wire.Head) (event, error) {
	b := c.buffer(h, ctx.Done())
	if b == nil {
		return event{}, context.Cause(ctx)
	}
	e, err := b.fill(in, h)
	if err != nil {
		b.release()
		return event{}, err
	}
	s.count.bytesIn.Add(uint64(h.Payload))
	c.bytesIn.Add(uint64(h.Payload))
	s.count.records.Add(uint64(h.Count))
	e.conn = c
	return e, nil
}

func (b *buffer) fill(in io.Reader, h *wire.Head) (event, error) {
	body, payload := b.body[:h.Body], b.payload[:h.Payload]
	if _, err := io.ReadFull(in, body); err != nil {
		return event{}, err
	}
	if _, err := io.ReadFull(in, payload); err != nil {
		return event{}, err
	}
	recs, err := h.Records(body, payload, b.recs)
	if err != nil {
		return event{}, err
	}
	for i := range recs {
		if recs[i].Kind == record.Marker {
			recs[i].Payload = nil
		}
	}
	b.frame.Recs = recs
	return event{frame: &b.frame}, nil
}
