package live

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
)

// The words between a host component and its watchdog; see the package comment.
const (
	wordHold = 'h'
	wordDrop = 'd'
	wordPing = 'p'
)

// Pair makes the connection between a host component, which keeps own, and its
// watchdog, which is given other. Error: Unavailable.
func Pair() (own *net.UnixConn, other *os.File, err error) {
	const op = "live.Pair"
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, errs.E(op, errs.Unavailable, "socket", err)
	}
	mine, other := os.NewFile(uintptr(fds[0]), "watchdog"), os.NewFile(uintptr(fds[1]), "host component")
	own, err = connOf(mine)
	if err != nil {
		return nil, nil, errors.Join(err, other.Close())
	}
	return own, other, nil
}

// connOf makes a connection of a descriptor, which it closes.
func connOf(f *os.File) (*net.UnixConn, error) {
	const op = "live.Pair"
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, errs.E(op, errs.Invalid, "descriptor", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errs.New(op, errs.Invalid, "descriptor", "not a unix socket"), c.Close())
	}
	return conn, nil
}

// lend gives a socket to the watchdog at the other end.
func lend(conn *net.UnixConn, s iofilter.Socket) error {
	rc, err := s.Listener.SyscallConn()
	if err != nil {
		return nil // closed meanwhile: nothing to lend
	}
	var sent error
	err = rc.Control(func(fd uintptr) {
		_, _, sent = conn.WriteMsgUnix(append([]byte{wordHold}, s.Path...), unix.UnixRights(int(fd)), nil)
	})
	if err != nil {
		return nil // the same
	}
	return sent
}

// Sockets are the listening sockets of a host component that its watchdog holds,
// too: a client that connects when the host component is dead is not refused, but
// waits. Nobody accepts there as long as the host component lives. Safe for
// concurrent use.
type Sockets struct {
	over chan struct{} // closed when the host component says no more

	mu   sync.Mutex
	held map[string]*net.UnixListener // guarded by mu; by path; nil: let go of
}

// HoldSockets begins to hold what is said over the connection other, which it
// closes, of Pair. Error: Invalid.
func HoldSockets(other *os.File) (*Sockets, error) {
	conn, err := connOf(other)
	if err != nil {
		return nil, err
	}
	s := &Sockets{over: make(chan struct{}), held: map[string]*net.UnixListener{}}
	go s.receive(conn)
	return s, nil
}

// receive does what the host component says until it is gone.
func (s *Sockets) receive(conn *net.UnixConn) {
	defer close(s.over)
	defer conn.Close()
	in, oob := make([]byte, 1+maxSocketPath), make([]byte, unix.CmsgSpace(4))
	for {
		n, got, _, _, err := conn.ReadMsgUnix(in, oob)
		if err != nil || n == 0 {
			return
		}
		ln, path := listenerIn(oob[:got]), string(in[1:n])
		switch in[0] {
		case wordHold:
			s.put(path, ln)
		case wordDrop:
			s.put(path, nil)
		case wordPing:
			if _, err := conn.Write([]byte{wordPing}); err != nil {
				return
			}
		}
	}
}

// listenerIn makes a listener of the one descriptor in a control message; nil:
// there is none of that sort.
func listenerIn(oob []byte) *net.UnixListener {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var found *net.UnixListener
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "socket")
			ln, err := net.FileListener(f)
			f.Close()
			if err != nil {
				continue
			}
			if u, ok := ln.(*net.UnixListener); ok && found == nil {
				found = u
			} else {
				ln.Close()
			}
		}
	}
	return found
}

// put holds ln in the place of what was held for path; nil: nothing any more.
func (s *Sockets) put(path string, ln *net.UnixListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was := s.held[path]; was != nil {
		was.Close()
		delete(s.held, path)
	}
	switch {
	case ln == nil:
	case s.held == nil || len(s.held) >= maxHeld:
		ln.Close()
	default:
		s.held[path] = ln
	}
}

// take returns all that is held, by path, to a caller that owns it then. The host
// component is dead, so that all it said is there in a moment.
func (s *Sockets) take(ctx context.Context) map[string]*net.UnixListener {
	select {
	case <-s.over:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.held
	s.held = nil
	return all
}

// Close lets go of all sockets: who waits there is refused.
func (s *Sockets) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ln := range s.held {
		ln.Close()
	}
	s.held = nil
}

// lender keeps a watchdog supplied with the sockets there are.
type lender struct {
	conn  *net.UnixConn
	given map[string]*net.UnixListener // by path
}

// update tells the watchdog what is different now, and asks it whether it lives.
func (l *lender) update(now []iofilter.Socket) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(guardEvery)); err != nil {
		return err
	}
	is := map[string]*net.UnixListener{}
	for _, s := range now {
		is[s.Path] = s.Listener
		if l.given[s.Path] == s.Listener {
			continue
		}
		if err := lend(l.conn, s); err != nil {
			return err
		}
		l.given[s.Path] = s.Listener
	}
	for path := range l.given {
		if is[path] != nil {
			continue
		}
		if _, err := l.conn.Write(append([]byte{wordDrop}, path...)); err != nil {
			return err
		}
		delete(l.given, path)
	}
	_, err := l.conn.Write([]byte{wordPing})
	return err
}
