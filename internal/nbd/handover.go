package nbd

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
)

// Handed is a connection past its handshake, taken out of a server between two
// requests: every request that was executed has been answered, and what has
// arrived of the ones behind it is in Pending. Another server, of this process
// or of one that is given the descriptor, goes on with it, and the client
// notices nothing but a pause. Who has a Handed owns its descriptor.
type Handed struct {
	File       *os.File `json:"-"` // the socket
	Export     string   `json:"export"`
	Structured bool     `json:"structured"` // structured replies were negotiated
	Allocation bool     `json:"allocation"` // base:allocation was selected
	Skip       int64    `json:"skip"`       // bytes behind Pending that belong to a request that was refused
	Pending    []byte   `json:"-"`          // received and not executed; at most MaxPending bytes
}

// MaxPending bounds Handed.Pending: the largest payload with its header, and
// what one receive can bring behind it.
const MaxPending = maxPayload + requestSize + arenaSize + ringReceive + 2*pageAlign

// HandOver makes the end of Serve take the connections out instead of closing
// them; Handed returns them then. Connections that are not past their handshake
// are closed all the same, and so are those under TLS, whose keys stay here.
func (s *Server) HandOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handing = true
}

// Handed returns the connections that were taken out, once.
func (s *Server) Handed() []Handed {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.handed
	s.handed, s.handing = nil, false
	return out
}

// Adopt has the next Serve go on with a connection that another server handed
// over. The server owns h from here on.
func (s *Server) Adopt(h Handed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopted = append(s.adopted, h)
}

// Close lets go of a connection that nobody adopts: the client sees it end.
func (h *Handed) Close() error { return h.File.Close() }

// check refuses what no server can have handed over.
func (h *Handed) check() error {
	if h.Skip < 0 || h.Skip > maxDrain || len(h.Pending) > MaxPending {
		return errs.New("nbd.Adopt", errs.Invalid, h.Export, "a connection in a state it cannot be in")
	}
	return nil
}

func (s *Server) isHanding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handing
}

// keep notes a connection that was taken out; nil: it was not.
func (s *Server) keep(h *Handed) {
	if h == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handed = append(s.handed, *h)
}

// takeAdopted gives Serve the connections to begin with.
func (s *Server) takeAdopted() []Handed {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.adopted
	s.adopted = nil
	return out
}

// serveAdopted runs a connection from where another server left it.
func (s *Server) serveAdopted(ctx context.Context, h Handed, by *serving) {
	c := &serverConn{by: by, done: make(chan struct{}), halt: func() {}, kill: func() {}}
	if !s.register(ctx, c) {
		if s.isHanding() {
			s.keep(&h) // nobody has touched it
		} else {
			h.File.Close()
		}
		return
	}
	defer s.unregister(c)
	err := h.check()
	var nc net.Conn
	if err == nil {
		nc, err = net.FileConn(h.File) // a descriptor of its own
	}
	h.File.Close()
	if err != nil {
		s.log.Warn("an adopted connection is of no use", "export", h.Export, "err", err)
		return
	}
	defer nc.Close()
	hs := &handshake{conn: nc, exports: &s.exports, structured: h.Structured, chosen: s.exports.find(h.Export)}
	if hs.chosen == nil {
		s.log.Warn("an adopted connection is of an export that is not served", "export", h.Export)
		return
	}
	if h.Allocation {
		hs.metaFor = hs.chosen
	}
	s.transmit(c, hs, &h)
}

// dupSocket duplicates a connection's descriptor.
func dupSocket(nc net.Conn) (*os.File, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, errors.New("the connection is not a plain socket")
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var dup int
	var failed error
	if err = rc.Control(func(fd uintptr) { dup, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || failed != nil {
		return nil, errors.Join(err, failed)
	}
	return os.NewFile(uintptr(dup), "nbd"), nil
}

// handOver asks the loop to end between two requests, leaving the connection
// whole; any goroutine.
func (l *streamLoop) handOver() {
	l.handing.Store(true)
	l.halt()
}

// taken is the connection as the loop has left it; nil: it was not asked to
// leave it, or it has broken. Called after run.
func (l *streamLoop) taken() *Handed { return l.left }

// leave keeps what another server needs. Called by run at its end.
func (l *streamLoop) leave(err error) {
	if !l.handing.Load() || !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	f, err := dupSocket(l.nc)
	if err != nil {
		return // the client sees its connection end, and comes again
	}
	h := l.handed()
	h.File, h.Skip = f, l.skip
	if l.in != nil {
		h.Pending = append(h.Pending, l.in.b[l.rd:l.wr]...)
	}
	l.left = h
}

func (l *streamLoop) leaveIdle() *Handed {
	l.leave(os.ErrDeadlineExceeded)
	return l.left
}

// preload has the loop begin with what was received before.
func (l *streamLoop) preload(h *Handed) {
	l.in = l.pool.get(max(arenaSize, len(h.Pending)+pageAlign), &l.acct)
	l.wr = copy(l.in.b, h.Pending)
	l.skip = h.Skip
}

// handed is what both loops know of the connection.
func (t *transmission) handed() *Handed {
	return &Handed{Export: t.name, Structured: t.structured, Allocation: t.allocation}
}

func (l *ringLoop) handOver() {
	l.handing.Store(true)
	l.halt()
}

func (l *ringLoop) taken() *Handed { return l.left }

// leave keeps what another server needs: a payload that has arrived in part
// goes back behind its header.
func (l *ringLoop) leave() {
	if !l.handing.Load() || l.cause != nil || l.deaf {
		return
	}
	dup, err := unix.FcntlInt(uintptr(l.sock), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return
	}
	h := l.handed()
	h.File, h.Skip = os.NewFile(uintptr(dup), "nbd"), l.skip
	if l.partial {
		h.Pending = make([]byte, requestSize)
		putRequest(h.Pending, &l.req)
		h.Pending = append(h.Pending, l.req.payload[:l.have]...)
	}
	if l.in != nil {
		h.Pending = append(h.Pending, l.in.b[l.rd:l.wr]...)
	}
	l.left = h
}

func (l *ringLoop) leaveIdle() *Handed {
	l.leave()
	return l.left
}

func (l *ringLoop) preload(h *Handed) {
	l.in = l.pool.get(max(ringReceive, len(h.Pending)+pageAlign), &l.acct)
	l.wr = copy(l.in.b, h.Pending)
	l.skip = h.Skip
}
