package iofilter

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"crypto/rand"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/wire"
)

// dialer opens a connection to the DRVA, mutually authenticated.
type dialer func(ctx context.Context) (net.Conn, error)

// flusher is what a connection has that gathers small writes.
type flusher interface{ Flush() error }

// linkState is the connection to the DRVA. Guarded by the outlet's mutex.
type linkState struct {
	up       bool // the DRVA has said Welcome on this connection
	replayed bool // what an earlier connection left has been sent again
	session  dr.Session
	nonce    uint64     // names this run of the stream
	cursor   dr.HostSeq // the next record to send
	replayTo dr.HostSeq // records below are replayed
	rush     dr.HostSeq // records up to here are sent without a nap
	marker   marker     // to be sent at its place
	edition  int        // of the members that this connection's Hello named
	outbox   []byte     // answers to be sent, whole frames
	err      error      // why there is no link; nil while there is one
	// lost is since when there has been none, by the outlet's clock; of no meaning while
	// there is one.
	lost time.Duration
}

// marker is a marker that is not yet sent. Of two, the older belongs to a round
// that is over.
type marker struct {
	set   bool
	round wire.Round
	after dr.HostSeq // it follows this record directly
}

func newNonce() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand.Read stops the program instead
	return binary.LittleEndian.Uint64(b[:])
}

// errStreamLost says that the DRVA cannot continue the stream: a new one is
// begun on the next connection.
var errStreamLost = errors.New("the DRVA does not have the earlier part of this host's stream")

// errRejoin ends a connection whose Hello is not true any more: the next one's
// is. Nothing is lost by it; the stream holds what was on its way.
var errRejoin = errors.New("the host has another Hello to say")

// rejoining reports whether there is no connection just because another Hello
// is about to be said.
func (l *linkState) rejoining() bool { return errors.Is(l.err, errRejoin) }

// runLink keeps a connection to the DRVA until ctx is done.
func (o *outlet) runLink(ctx context.Context, dial dialer) {
	pause, told := backoffMin, ""
	for ctx.Err() == nil {
		welcomed, err := o.connect(ctx, dial)
		o.down(err)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errRejoin) {
			continue
		}
		if words := err.Error(); welcomed || words != told {
			o.log.LogAttrs(ctx, slog.LevelWarn, "no link to the DRVA", slog.Any("err", err), slog.String("remedy", errs.RemedyOf(err)))
			told = words
		}
		switch {
		case errors.Is(err, errStreamLost):
			pause = backoffMin
		case refusal(err):
			pause = refusedRetry
		case welcomed:
			pause = backoffMin
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, backoffMax)
	}
}

// refusedError is a Refuse of the DRVA.
type refusedError struct{ error }

func (e refusedError) Unwrap() error { return e.error }

// refusal reports whether err is a refusal that will not change by itself.
func refusal(err error) bool {
	var r refusedError
	return errors.As(err, &r) && !errs.Is(r.error, errs.Transient) && !errs.Is(r.error, errs.Unavailable)
}

// connect makes one connection and serves it until it ends. It reports whether
// the DRVA had welcomed the host.
func (o *outlet) connect(ctx context.Context, dial dialer) (welcomed bool, err error) {
	const op = "iofilter.connect"
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	conn, err := dial(dctx)
	cancel()
	if err != nil {
		return false, errs.E(op, errs.KindOf(err), "drva", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	in := &frameReader{r: bufio.NewReaderSize(conn, readBuffer)}
	if err := o.handshake(conn, in); err != nil {
		return false, errs.E(op, errs.KindOf(err), "drva", err)
	}
	o.log.LogAttrs(ctx, slog.LevelInfo, "link to the DRVA is up")
	received := make(chan error, 1)
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		received <- o.receive(conn, in)
		cancel() // ends the sender's sleep
		conn.Close()
	}()
	sendErr := o.send(lctx, conn)
	conn.Close()
	err = <-received
	if sendErr != nil && !errors.Is(sendErr, net.ErrClosed) && !errors.Is(sendErr, context.Canceled) {
		err = sendErr
	}
	return true, errs.E(op, errs.KindOf(err), "drva", err)
}

// handshake says Hello and takes in the answer.
func (o *outlet) handshake(conn net.Conn, in *frameReader) error {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	o.mu.Lock()
	hello, told := o.helloLocked(), o.edition
	hello.Nonce, hello.First, hello.Next = o.link.nonce, o.str.First(), o.str.Next()
	o.mu.Unlock()
	hello = o.announce(hello)
	frame, err := wire.EncodeJSON(wire.TypeHello, hello)
	if err != nil {
		return err
	}
	if _, err := conn.Write(frame); err != nil {
		return err
	}
	if f, ok := conn.(flusher); ok {
		if err := f.Flush(); err != nil {
			return err
		}
	}
	h, body, err := in.next(wire.MaxBody)
	if err != nil {
		return err
	}
	switch h.Type {
	case wire.TypeWelcome:
		var w wire.Welcome
		if err := wire.DecodeJSON(body, &w); err != nil {
			return err
		}
		if err := conn.SetDeadline(time.Time{}); err != nil {
			return err
		}
		defer o.settled()
		if err := o.settle(&w, hello.Nonce, told); err != nil {
			return err
		}
		return o.welcome(&w, hello.Next, told)
	case wire.TypeRefuse:
		return refused(body)
	}
	return errs.E("iofilter.handshake", errs.Invalid, "drva", fmt.Errorf("frame of type %d instead of a welcome", h.Type))
}

// refused makes an error of a Refuse.
func refused(body []byte) error {
	var r wire.Refuse
	if err := wire.DecodeJSON(body, &r); err != nil {
		return err
	}
	return refusedError{r.Err("drva.refuse")}
}

// welcome takes in what the DRVA knows of this host and decides what has to be
// sent again: the rest of the stream, or whole disks. told is the edition of
// the members that the Hello named.
func (o *outlet) welcome(w *wire.Welcome, next dr.HostSeq, told int) error {
	const op = "iofilter.welcome"
	o.mu.Lock()
	defer o.unlock()
	for _, i := range w.Unsynced {
		if i >= o.nextIndex {
			return errs.E(op, errs.Invalid, "drva", fmt.Errorf("disk index %d of %d disks", i, o.nextIndex))
		}
	}
	if !w.Known && o.str.Sent() > 0 {
		o.loseStreamLocked()
		return errs.E(op, errs.NotFound, "stream", errStreamLost)
	}
	before := o.str.First()
	if err := o.str.Resume(w.Durable); err != nil {
		if errs.Is(err, errs.Corrupt) {
			o.loseStreamLocked()
			return errs.E(op, errs.Corrupt, "stream", errors.Join(errStreamLost, err))
		}
		return err
	}
	o.toldLocked(w, told)
	l := &o.link
	l.up, l.replayed, l.err, l.edition = true, false, nil, told
	l.session, l.cursor, l.replayTo, l.rush = w.Session, o.str.First(), next, next-1
	l.outbox, l.marker = l.outbox[:0], marker{}
	o.hashedLocked(w)
	o.stats.connects++
	o.orderLocked(w.Track)
	o.progressLocked(o.str.First() > before)
	return nil
}

// loseStreamLocked begins a new stream: what the old one held is dropped, and
// every disk is to be copied again.
func (o *outlet) loseStreamLocked() {
	o.trackLocked(causeLost)
	o.mode.cause, o.mode.from = causeLost, 0
	for _, d := range o.disks {
		d.dirty.SetAll()
		d.unsynced, d.announced, d.complete = true, false, false
		d.member.lostStream()
	}
	o.run++
	o.str.Reset()
	for _, d := range o.disks {
		o.bypassLocked(d) // numbers begin anew
	}
	o.link.nonce = newNonce()
	o.landLocked()
}

// down notes that there is no connection.
func (o *outlet) down(err error) {
	o.mu.Lock()
	defer o.unlock()
	l := &o.link
	if l.up {
		l.lost = o.now()
	}
	l.up, l.replayed, l.err = false, false, err
	o.restateLocked()
	l.outbox, l.marker = l.outbox[:0], marker{}
	o.vouching = nil
	o.hashDownLocked()
	o.asleep.Store(awake)
	o.throttleLocked(wire.Throttle{})
	o.freeze.linkLost()
	o.gate.Disconnect()
	o.holdEndedLocked(o.now())
	o.room.Broadcast() // who waits for room now waits in vain
}
