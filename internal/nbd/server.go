package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"holdfast/internal/errs"
)

// Limits bound a server. A zero field takes the default.
type Limits struct {
	Handshake   time.Duration // longest negotiation; default 10 s
	Drain       time.Duration // longest wait for operations in flight at the end; default 5 s
	Connections int           // at most this many at once, further ones wait; default 1024
}

// Options configure a server.
type Options struct {
	Exports []Export
	// TLS, if set, offers STARTTLS and, unless AllowPlain, requires it.
	TLS        *tls.Config
	AllowPlain bool
	// Logger hears of connections and of clients that break the protocol;
	// nil discards.
	Logger *slog.Logger
	Limits Limits
	// NoRing serves direct files by worker threads even where io_uring works,
	// for hosts whose policy forbids it.
	NoRing bool
}

// Server serves exports to NBD clients. Make one with NewServer, then call
// Serve for each listener. All methods are safe for concurrent use.
type Server struct {
	opts    Options
	log     *slog.Logger
	exports exports
	pool    *bufferPool
	slots   chan struct{} // one token per connection

	mu    sync.Mutex
	conns map[*serverConn]struct{}

	handing bool     // the end of Serve takes connections out; guarded by mu
	handed  []Handed // that were; guarded by mu
	adopted []Handed // that the next Serve begins with; guarded by mu
}

// serving is one call of Serve.
type serving struct{ conns sync.WaitGroup }

// serverConn is a connection as the server sees it.
type serverConn struct {
	done chan struct{} // closed by the connection's goroutine when it is over

	// Guarded by Server.mu.
	by     *serving // the Serve call that accepted it
	export *Export  // nil during the handshake
	halt   func()   // asks the loop to stop reading
	kill   func()   // breaks the connection
	hand   func()   // asks the loop to leave the connection whole; nil: it cannot
	halted bool
}

// NewServer makes a server with its first exports. Errors: Invalid, Exists.
func NewServer(o Options) (*Server, error) {
	s := &Server{opts: o, log: o.Logger, pool: newBufferPool(), conns: make(map[*serverConn]struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	l := &s.opts.Limits
	if l.Handshake <= 0 {
		l.Handshake = defaultHandshake
	}
	if l.Drain <= 0 {
		l.Drain = defaultDrain
	}
	if l.Connections <= 0 {
		l.Connections = defaultConns
	}
	s.slots = make(chan struct{}, l.Connections)
	for _, e := range o.Exports {
		if err := s.AddExport(e); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// AddExport begins to serve e. Errors: Invalid, Exists.
func (s *Server) AddExport(e Export) error { return s.exports.add(&e) }

// RemoveExport ends an export: no new connection finds it, and those that use
// it stop reading requests, finish what is in flight, reply and close. It
// returns when the last is gone and the disk is unused; when ctx ends first,
// the connections are broken and ctx's error is returned. Errors: NotFound.
func (s *Server) RemoveExport(ctx context.Context, name string) error {
	const op = "nbd.Server.RemoveExport"
	e := s.exports.remove(name)
	if e == nil {
		return errs.New(op, errs.NotFound, name, "no such export")
	}
	uses := func(c *serverConn) bool { return c.export == e }
	for _, c := range s.halt(uses) {
		select {
		case <-c.done:
		case <-ctx.Done():
			s.kill(uses)
			return errs.E(op, errs.Canceled, name, ctx.Err())
		}
	}
	return nil
}

// halt asks matching connections to end and returns them.
func (s *Server) halt(match func(*serverConn) bool) []*serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*serverConn
	for c := range s.conns {
		if match(c) {
			c.halted = true
			if s.handing && c.hand != nil {
				c.hand()
			} else {
				c.halt()
			}
			out = append(out, c)
		}
	}
	return out
}

func (s *Server) kill(match func(*serverConn) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if match(c) {
			c.kill()
		}
	}
}

// Serve accepts connections from ln until ctx ends or ln fails, and closes ln.
// At the end it stops reading requests, lets operations in flight complete
// and their replies go out for at most Limits.Drain, then breaks what is left.
// It returns nil when ctx ended and everything was drained; Unavailable when
// operations did not complete in time: their disk must not be closed.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	mine := new(serving)
	for _, h := range s.takeAdopted() {
		mine.conns.Go(func() { s.serveAdopted(ctx, h, mine) })
	}
	err := s.accept(ctx, ln, mine)
	ln.Close()
	if drained := s.drain(mine); err == nil {
		err = drained
	}
	return err
}

// accept starts a goroutine per connection.
func (s *Server) accept(ctx context.Context, ln net.Listener, mine *serving) error {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		nc, err := ln.Accept()
		if err == nil {
			mine.conns.Go(func() {
				defer func() { <-s.slots }()
				s.serveConn(ctx, nc, mine)
			})
			continue
		}
		<-s.slots
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if !shortOfDescriptors(err) {
			return errs.E("nbd.Server.Serve", errs.Unavailable, ln.Addr().String(), err)
		}
		s.log.Warn("nbd accept failed, trying again", "err", err)
		select {
		case <-time.After(100 * time.Millisecond): // until descriptors are free again
		case <-ctx.Done():
		}
	}
}

// drain ends the connections of one Serve call.
func (s *Server) drain(mine *serving) error {
	over := make(chan struct{})
	go func() { mine.conns.Wait(); close(over) }()
	accepted := func(c *serverConn) bool { return c.by == mine }
	s.halt(accepted)
	limit := time.NewTimer(s.opts.Limits.Drain)
	defer limit.Stop()
	select {
	case <-over:
		return nil
	case <-limit.C:
	}
	s.kill(accepted)
	limit.Reset(s.opts.Limits.Drain)
	select {
	case <-over:
		return nil
	case <-limit.C:
		return errs.New("nbd.Server.Serve", errs.Unavailable, "", "operations in flight did not complete")
	}
}

// serveConn runs one connection from greeting to close.
func (s *Server) serveConn(ctx context.Context, nc net.Conn, by *serving) {
	defer nc.Close()
	c := &serverConn{by: by, done: make(chan struct{})}
	c.halt = func() { nc.SetDeadline(time.Unix(1, 0)) } // nothing to finish in a handshake
	c.kill = func() { nc.Close() }
	if !s.register(ctx, c) {
		return
	}
	defer s.unregister(c)

	limit := time.Now().Add(s.opts.Limits.Handshake)
	hctx, cancel := context.WithDeadline(ctx, limit)
	defer cancel()
	h := &handshake{conn: nc, exports: &s.exports, tls: s.opts.TLS, deadline: limit,
		requireTLS: s.opts.TLS != nil && !s.opts.AllowPlain}
	if err := h.run(hctx); err != nil {
		if !quiet(err) {
			s.log.Warn("nbd handshake failed", "client", nc.RemoteAddr(), "err", err)
		}
		return
	}
	s.transmit(c, h, nil)
}

// transmit runs the transmission phase, from where another server left it if
// there was one.
func (s *Server) transmit(c *serverConn, h *handshake, from *Handed) {
	log := s.log.With("export", h.chosen.Name, "client", h.conn.RemoteAddr())
	l := s.newLoop(h, log)
	defer l.close()
	if from != nil {
		l.preload(from)
	}
	hand := l.handOver
	if h.secure {
		hand = nil
	}
	if !s.enter(c, h.chosen, l.halt, l.kill, hand) {
		if hand != nil && s.isHanding() { // the client has just come, or been adopted
			hand()
			s.keep(l.leaveIdle())
		}
		return
	}
	if enter := h.chosen.Enter; enter != nil {
		defer enter()()
	}
	log.Debug("nbd connection", "structured", h.structured, "tls", h.secure)
	if err := l.run(); err != nil && !quiet(err) {
		log.Warn("nbd connection ended", "err", err)
	}
	s.keep(l.taken())
}

// runner is a transmission loop as the server handles it. close is called
// last, by the goroutine that made the loop; halt and kill by any.
type runner interface {
	run() error
	halt()
	kill()
	close()
	preload(h *Handed)
	handOver()
	leaveIdle() *Handed // for a loop that never ran
	taken() *Handed
}

// newLoop chooses the loop: a ring for a direct file where there can be one.
func (s *Server) newLoop(h *handshake, log *slog.Logger) runner {
	if f := h.chosen.File; f == nil || !f.direct {
		return newStreamLoop(h, s.pool)
	}
	if s.opts.NoRing {
		return newStreamLoop(h, s.pool)
	}
	l, err := newRingLoop(h, s.pool, log)
	if err != nil {
		log.Warn("direct disk is served by worker threads, slower: no io_uring for this connection", "err", err)
		return newStreamLoop(h, s.pool)
	}
	return l
}

// quiet reports whether an error is an ordinary way for a connection to end.
func quiet(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, errAbort) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errReset) || errors.Is(err, errPipe)
}

// register makes c known; false when the server is ending.
func (s *Server) register(ctx context.Context, c *serverConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

// enter moves c to the transmission phase; false when it was told to end, or
// its export was removed, meanwhile.
func (s *Server) enter(c *serverConn, e *Export, halt, kill, hand func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.halted || !s.exports.has(e) {
		return false
	}
	c.export, c.halt, c.kill, c.hand = e, halt, kill, hand
	return true
}

func (s *Server) unregister(c *serverConn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	close(c.done)
}
