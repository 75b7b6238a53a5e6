package drva

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/errs"
	"holdfast/internal/record"
	"holdfast/internal/wire"
)

// accept serves hosts until ctx ends.
func (s *Server) accept(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.cfg.Listener.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, maxConns)
	for {
		nc, err := s.cfg.Listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				nc.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return errs.E("drva.accept", errs.Unavailable, "listener", err)
		}
		if err != nil {
			s.log.Warn("a connection could not be accepted", "err", err)
			select { // out of descriptors, as a rule: let some go
			case <-ctx.Done():
			case <-time.After(cutRetry):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			s.log.Warn("too many connections, one is refused", "host", nc.RemoteAddr().String())
			nc.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, nc)
		})
	}
}

// serve is the life of one connection.
func (s *Server) serve(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	unhook := context.AfterFunc(ctx, func() { nc.Close() })
	defer unhook()
	in := bufio.NewReaderSize(nc, readBuffer)
	h, err := s.greet(nc, in)
	if err != nil {
		s.turnAway(nc, err)
		return
	}
	c := newConn(order.ConnID(s.conns.Add(1)), nc, h)
	if !s.post(ctx, event{attach: h, conn: c}) {
		return
	}
	var writer sync.WaitGroup
	writer.Go(c.write)
	writer.Go(func() { s.answer(ctx, c) })
	err = s.read(ctx, c, in)
	nc.Close()
	close(c.done)
	writer.Wait()
	s.log.Info("host disconnected", "host", h.Name, "err", err)
	s.noteError(err)
	s.post(ctx, event{detach: true, conn: c})
}

// greet authenticates the peer and reads its Hello.
func (s *Server) greet(nc net.Conn, in *bufio.Reader) (*wire.Hello, error) {
	const op = "drva.greet"
	if err := nc.SetDeadline(time.Now().Add(handshakeLimit)); err != nil {
		return nil, errs.E(op, errs.Unavailable, "link", err)
	}
	var id dr.HostID
	if s.cfg.Authenticate != nil {
		var err error
		if id, err = s.cfg.Authenticate(nc); err != nil {
			return nil, errs.E(op, errs.Denied, nc.RemoteAddr().String(), err).
				WithRemedy("enrol the host at this site's management server")
		}
	}
	head, body, err := readSmall(in, wire.MaxBody)
	if err != nil {
		return nil, err
	}
	h := &wire.Hello{}
	if head.Type != wire.TypeHello {
		return nil, errs.E(op, errs.Invalid, "link", fmt.Errorf("frame of type %d instead of a Hello", head.Type))
	}
	if err := wire.DecodeJSON(body, h); err != nil {
		return nil, err
	}
	switch {
	case h.Domain != s.cfg.Domain:
		return nil, errs.New(op, errs.Invalid, "domain "+h.Domain.String(), "this appliance serves domain "+s.cfg.Domain.String()).
			WithRemedy("give the host the address of its own domain's appliance")
	case s.cfg.Authenticate != nil && id != h.Host:
		return nil, errs.New(op, errs.Denied, "host "+h.Host.String(), "the certificate is of host "+id.String()).
			WithRemedy("issue the host its own certificate; identities are not copied between hosts")
	}
	return h, nc.SetDeadline(time.Time{})
}

// turnAway tells a host why it is not served.
func (s *Server) turnAway(nc net.Conn, err error) {
	s.log.Warn("a host was turned away", "host", nc.RemoteAddr().String(), "err", err, "remedy", errs.RemedyOf(err))
	s.noteError(err)
	var e *errs.Error
	if !errors.As(err, &e) {
		return
	}
	if b, err := wire.EncodeJSON(wire.TypeRefuse, order.RefuseOf(e)); err == nil {
		if nc.SetWriteDeadline(time.Now().Add(writeLimit)) == nil {
			_, _ = nc.Write(b) // the host learns of it by the closed connection anyway
		}
	}
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
		if h.Type == wire.TypeRecords {
			e, err = s.readRecords(ctx, c, in, &h)
		} else {
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

// maxSmall bounds what a host says besides records, in bytes: a Confirm.
const maxSmall = 64

// readControl reads a frame without records; Pings become no event.
func readControl(c *conn, in *bufio.Reader, h *wire.Head, small []byte) (event, error) {
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

// readRecords reads a Records frame into a free buffer.
func (s *Server) readRecords(ctx context.Context, c *conn, in *bufio.Reader, h *wire.Head) (event, error) {
	b := c.buffer(ctx.Done())
	if b == nil {
		return event{}, context.Cause(ctx)
	}
	e, err := b.fill(in, h)
	if err != nil {
		b.release()
		return event{}, err
	}
	s.count.bytesIn.Add(uint64(h.Payload))
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
