package takeover

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
)

// Predecessor is the host component that is followed, as its heir sees it.
type Predecessor struct {
	conn *net.UnixConn
	ln   *net.UnixListener // inherited
}

// Ask asks the host component that listens on socket to be followed; it goes on
// serving until Legacy is called. Errors: Unavailable (nobody answers, with a
// remedy), Denied (another user's), Invalid (of another host, or it speaks
// another version).
func Ask(ctx context.Context, socket string, id Identity) (_ *Predecessor, err error) {
	const op = "takeover.Ask"
	d := net.Dialer{Timeout: askLimit}
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, errs.E(op, errs.Unavailable, socket, err).
			WithRemedy("if no host component runs with this configuration, start this one without --takeover")
	}
	p := &Predecessor{conn: c.(*net.UnixConn)}
	defer func() {
		if err != nil {
			p.conn.Close()
		}
	}()
	if _, err := peerOf(p.conn); err != nil {
		return nil, err
	}
	p.conn.SetDeadline(time.Now().Add(askLimit))
	b, err := frame(ask{version, id})
	if err != nil {
		return nil, err
	}
	if _, err := p.conn.Write(b); err != nil {
		return nil, errs.E(op, errs.Unavailable, socket, err)
	}
	p.ln, err = inherit(p.conn)
	return p, err
}

// inherit receives the first reply with the listening socket.
func inherit(conn *net.UnixConn) (*net.UnixListener, error) {
	const op = "takeover.Ask"
	word, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, got, _, _, err := conn.ReadMsgUnix(word, oob)
	if err != nil || n == 0 {
		return nil, errs.E(op, errs.Unavailable, "predecessor", err).WithRemedy("it may be in the middle of ending or of another takeover: try again")
	}
	if word[0] != wordOpen {
		return nil, judgeWord(conn, word[0], wordOpen)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:got])
	if err != nil || len(messages) != 1 {
		return nil, errs.E(op, errs.Invalid, "descriptor", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errs.E(op, errs.Invalid, "descriptor", err)
	}
	unix.CloseOnExec(fds[0])
	f := os.NewFile(uintptr(fds[0]), "takeover")
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, errs.E(op, errs.Invalid, "descriptor", err)
	}
	unixLn, ok := ln.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errs.New(op, errs.Invalid, "descriptor", "not a listening unix socket"), ln.Close())
	}
	return unixLn, nil
}

// Legacy has the predecessor hand over; its guests wait from now on. The caller
// owns what is returned; it lets go of it by Release, should it fail. Errors:
// those of the predecessor and of iofilter.ReceiveLegacy; Unavailable.
func (p *Predecessor) Legacy() (*iofilter.Legacy, error) {
	p.conn.SetDeadline(time.Now().Add(handLimit))
	if _, err := p.conn.Write([]byte{wordGo}); err != nil {
		return nil, errs.E("takeover.Legacy", errs.Unavailable, "predecessor", err)
	}
	if err := readWord(p.conn, wordHand); err != nil {
		return nil, err
	}
	return iofilter.ReceiveLegacy(p.conn)
}

// Ready tells the predecessor that everything is open, and returns when the
// connections are the heir's. On error they are not, and it must not touch them.
// Error: Unavailable, with a remedy.
func (p *Predecessor) Ready() error {
	const op = "takeover.Ready"
	p.conn.SetDeadline(time.Now().Add(askLimit))
	_, err := p.conn.Write([]byte{wordReady})
	if err == nil {
		err = readWord(p.conn, wordYours)
	}
	if err != nil {
		return errs.E(op, errs.Unavailable, "predecessor", err).
			WithRemedy("if it has ended, start the host component without --takeover")
	}
	return nil
}

// Serving tells the predecessor that its guests are served. It may be gone: that
// is no trouble any more.
func (p *Predecessor) Serving() {
	_, _ = p.conn.Write([]byte{wordServes})
}

// AwaitLeft returns when the predecessor has left its status socket or is gone,
// or ctx ends. It may hang; its own watchdog ends it then.
func (p *Predecessor) AwaitLeft(ctx context.Context) {
	p.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { p.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = readWord(p.conn, wordLeft)
}

// Answering tells the predecessor that it may end.
func (p *Predecessor) Answering() {
	_, _ = p.conn.Write([]byte{wordAnswer})
	p.conn.Close()
}

// Listener is the inherited socket, for the next heir. Called once, after
// Serving; its file is removed when it is closed.
func (p *Predecessor) Listener(own Identity) *Listener {
	p.ln.SetUnlinkOnClose(true)
	return &Listener{ln: p.ln, own: own}
}

// Close lets go of a predecessor that is not followed: it serves again.
func (p *Predecessor) Close() error {
	return errors.Join(p.ln.Close(), p.conn.Close())
}
