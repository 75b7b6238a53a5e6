package takeover

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
	"holdfast/internal/iofilter/live"
)

// Listener is where heirs ask. One goroutine accepts at a time.
type Listener struct {
	ln  *net.UnixListener
	own Identity
}

// Listen listens for heirs. A socket that nobody listens on any more is
// replaced. Errors: Exists (a host component listens there), Invalid (the path
// is too long), Unavailable.
func Listen(socket string, own Identity) (*Listener, error) {
	const op = "takeover.Listen"
	if len(socket) > maxSocketPath {
		return nil, errs.New(op, errs.Invalid, socket, "the path of a unix socket may have 107 bytes").WithRemedy("choose a shorter path for status")
	}
	if Inherited(socket) {
		return nil, errs.New(op, errs.Exists, socket, "a host component with this status socket is running").
			WithRemedy("stop it, or go on in its place with --takeover")
	}
	if st, err := os.Lstat(socket); err == nil && st.Mode()&os.ModeSocket != 0 {
		_ = os.Remove(socket) // left by a process that died
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, errs.E(op, errs.Unavailable, socket, err).WithRemedy("create " + filepath.Dir(socket) + " or make it writable for this user")
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(errs.E(op, errs.Internal, socket, err), ln.Close())
	}
	return &Listener{ln, own}, nil
}

// Inherited reports whether a process lives that serves, or is about to serve,
// the guests of the host component that listens, or listened, on socket.
func Inherited(socket string) bool {
	c, err := net.DialTimeout("unix", socket, askLimit)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// Close ends listening and removes the socket.
func (l *Listener) Close() error { return l.ln.Close() }

// Abandon is Close for a socket that an heir goes on with: its file stays.
func (l *Listener) Abandon() error {
	l.ln.SetUnlinkOnClose(false)
	return l.ln.Close()
}

// Heir is a process that wants to go on in this one's place.
type Heir struct {
	conn *net.UnixConn
	proc *live.Running
}

// Accept returns the first heir that is prepared: from then on it waits for
// HandOver. Who only looks, or is not entitled, is sent away. Errors: Canceled
// (ctx ended), Unavailable.
func (l *Listener) Accept(ctx context.Context) (*Heir, error) {
	const op = "takeover.Accept"
	l.ln.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { l.ln.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		conn, err := l.ln.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil, errs.E(op, errs.Canceled, "heir", context.Cause(ctx))
		case err != nil:
			return nil, errs.E(op, errs.Unavailable, "heir", err)
		}
		if h, err := l.admit(ctx, conn); err == nil {
			return h, nil
		}
		conn.Close() // it knows why, or is gone
	}
}

// admit hears what a process wants.
func (l *Listener) admit(ctx context.Context, conn *net.UnixConn) (*Heir, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	pid, err := peerOf(conn)
	if err != nil {
		return nil, errors.Join(err, refuse(conn, err))
	}
	conn.SetDeadline(time.Now().Add(askLimit))
	var a ask
	if err := readFrame(conn, &a); err != nil {
		return nil, err
	}
	if err := a.judge(l.own); err != nil {
		return nil, errors.Join(err, refuse(conn, err))
	}
	start, err := live.StartOf(pid)
	if err != nil {
		return nil, err
	}
	proc, err := live.OpenProcess(pid, start, nil)
	if err != nil {
		return nil, err
	}
	h := &Heir{conn, proc}
	if err := h.prepared(l); err != nil {
		return nil, errors.Join(err, proc.Close())
	}
	return h, nil
}

// prepared gives the heir the socket and waits until it is ready.
func (h *Heir) prepared(l *Listener) error {
	const op = "takeover.Accept"
	rc, err := l.ln.SyscallConn()
	if err != nil {
		return errs.E(op, errs.Unavailable, "socket", err)
	}
	var sent error
	if err := rc.Control(func(fd uintptr) {
		_, _, sent = h.conn.WriteMsgUnix([]byte{wordOpen}, unix.UnixRights(int(fd)), nil)
	}); err != nil || sent != nil {
		return errs.E(op, errs.Unavailable, "heir", errors.Join(err, sent))
	}
	h.conn.SetDeadline(time.Now().Add(prepareLimit))
	return readWord(h.conn, wordGo)
}

// Refuse tells the heir why nothing is handed over.
func (h *Heir) Refuse(why error) {
	h.conn.SetDeadline(time.Now().Add(askLimit))
	_ = refuse(h.conn, why)
}

// HandOver gives the heir the Legacy and returns when it serves it: then this
// process must not, any more. On error the caller calls End, and serves again;
// given says that the heir may have used the connections, so that guests have to
// make new ones. Errors: Unavailable; those of Legacy.Send.
func (h *Heir) HandOver(l *iofilter.Legacy) (given bool, err error) {
	h.conn.SetDeadline(time.Now().Add(serveLimit))
	if _, err := h.conn.Write([]byte{wordHand}); err != nil {
		return false, errs.E("takeover.HandOver", errs.Unavailable, "heir", err)
	}
	if err := l.Send(h.conn); err != nil {
		return false, err
	}
	if err := readWord(h.conn, wordReady); err != nil {
		return false, err
	}
	if _, err := h.conn.Write([]byte{wordYours}); err != nil {
		return false, errs.E("takeover.HandOver", errs.Unavailable, "heir", err)
	}
	return true, readWord(h.conn, wordServes)
}

// Left tells the heir that the status socket is its own, and returns when it
// answers there, or is gone, or takes too long.
func (h *Heir) Left() {
	h.conn.SetDeadline(time.Now().Add(answerLimit))
	if _, err := h.conn.Write([]byte{wordLeft}); err == nil {
		_ = readWord(h.conn, wordAnswer)
	}
}

// End makes sure that the heir has ended and holds nothing any more: the lock
// of no primary. It may say first why it failed. Errors: those of live.Kill.
func (h *Heir) End(ctx context.Context) error {
	h.conn.Close() // it learns that it is too late
	t := time.NewTimer(endLimit)
	defer t.Stop()
	select {
	case <-h.proc.Gone():
		return nil
	case <-t.C:
	}
	return h.proc.Kill(ctx)
}

// Close lets go of the heir.
func (h *Heir) Close() error {
	h.conn.Close()
	return h.proc.Close()
}
