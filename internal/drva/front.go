package drva

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/errs"
	"holdfast/internal/wire"
)

// Front accepts the hosts of all domains of one process and hands each to the
// appliance of the domain that its Hello names. Make it with NewFront, Add what
// it serves, Run it once. Safe for concurrent use.
type Front struct {
	listener     net.Listener
	authenticate func(net.Conn) (dr.HostID, error)
	log          *slog.Logger

	mu      sync.Mutex
	servers map[dr.DomainID]*Server
	pending int // appliances that will be added
}

// NewFront returns a front on a listener, which Run closes. authenticate is as
// Config.Authenticate. log may be nil.
func NewFront(l net.Listener, authenticate func(net.Conn) (dr.HostID, error), log *slog.Logger) *Front {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Front{listener: l, authenticate: authenticate, log: log, servers: map[dr.DomainID]*Server{}}
}

// Expect says that one more appliance will be added: until then hosts of a
// domain nobody serves are told to come again, and not that they are wrong here.
func (f *Front) Expect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending++
}

// Add has the front serve an appliance's hosts. The appliance's Config has no
// Listener.
func (f *Front) Add(s *Server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.servers[s.cfg.Domain] = s
	f.pending = max(0, f.pending-1)
}

// find returns the appliance of a domain, or why there is none.
func (f *Front) find(d dr.DomainID) (*Server, error) {
	const op = "drva.greet"
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.servers[d]
	switch {
	case !ok && f.pending > 0:
		return nil, errNotReady(d)
	case !ok && len(f.servers) == 1:
		for own := range f.servers {
			return nil, errs.New(op, errs.Invalid, "domain "+d.String(), "this appliance serves domain "+own.String()).
				WithRemedy("give the host the address of its own domain's appliance")
		}
	case !ok:
		return nil, errs.New(op, errs.Invalid, "domain "+d.String(), fmt.Sprintf("this appliance serves %d other domains", len(f.servers))).
			WithRemedy("give the host the address of its own domain's appliance")
	}
	return s, nil
}

func errNotReady(d dr.DomainID) error {
	return errs.New("drva.greet", errs.Unavailable, "domain "+d.String(), "its appliance is not ready yet").
		WithRemedy("nothing to do: the host component tries again")
}

// Run serves hosts until ctx ends (nil) or the listener fails.
func (f *Front) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { f.listener.Close() })
	defer stop()
	defer f.listener.Close()
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, maxConns)
	for {
		nc, err := f.listener.Accept()
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
			f.log.Warn("a connection could not be accepted", "err", err)
			select { // out of descriptors, as a rule: let some go
			case <-ctx.Done():
			case <-time.After(cutRetry):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			f.log.Warn("too many connections, one is refused", "host", nc.RemoteAddr().String())
			nc.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			f.serve(ctx, nc)
		})
	}
}

// serve is the life of one connection.
func (f *Front) serve(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	unhook := context.AfterFunc(ctx, func() { nc.Close() })
	defer unhook()
	in := bufio.NewReaderSize(nc, readBuffer)
	h, err := f.greet(nc, in)
	var s *Server
	if err == nil {
		if s, err = f.find(h.Domain); err == nil && s.serve(nc, in, h) {
			return
		}
	}
	if err == nil {
		err = errNotReady(h.Domain)
	}
	f.turnAway(nc, err)
}

// greet authenticates the peer and reads its Hello.
func (f *Front) greet(nc net.Conn, in *bufio.Reader) (*wire.Hello, error) {
	const op = "drva.greet"
	if err := nc.SetDeadline(time.Now().Add(handshakeLimit)); err != nil {
		return nil, errs.E(op, errs.Unavailable, "link", err)
	}
	var id dr.HostID
	if f.authenticate != nil {
		var err error
		if id, err = f.authenticate(nc); err != nil {
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
	if f.authenticate != nil && id != h.Host {
		return nil, errs.New(op, errs.Denied, "host "+h.Host.String(), "the certificate is of host "+id.String()).
			WithRemedy("issue the host its own certificate; identities are not copied between hosts")
	}
	return h, nc.SetDeadline(time.Time{})
}

// turnAway tells a host why it is not served.
func (f *Front) turnAway(nc net.Conn, err error) {
	f.log.Warn("a host was turned away", "host", nc.RemoteAddr().String(), "err", err, "remedy", errs.RemedyOf(err))
	f.mu.Lock()
	for _, s := range f.servers {
		if len(f.servers) == 1 {
			s.noteError(err) // of several, nobody can say whose host it is
		}
	}
	f.mu.Unlock()
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
