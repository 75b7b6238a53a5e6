package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"holdfast/internal/demo/ledger/talk"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// Boot is what a guest said of its ledger when it came up.
type Boot struct {
	Max      uint64   // highest row in the ledger
	Bad      uint64   // what was wrong, counted; 0: sound
	Cause    uint64   // highest cause recorded
	Problems []string // some of Bad, in words
}

// Console speaks with one guest for one boot. Safe for concurrent use;
// commands take turns. It is dead, for good, once the line ends, the guest
// gives up, or it boots a second time.
type Console struct {
	rw      io.ReadWriteCloser
	answers chan talk.Reply // written by read; room for every answer that can be outstanding
	ready   chan struct{}   // closed by read at READY
	dead    chan struct{}   // closed by read at its end
	acked   atomic.Uint64

	turn chan int // holds one token: the right to send; its value is the number of answers owed

	boot Boot  // owned by read until ready is closed, then immutable
	err  error // owned by read until dead is closed, then immutable
}

// NewConsole returns the console of a guest on the serial line rw, which it
// owns from here. It must be there before the guest boots.
func NewConsole(rw io.ReadWriteCloser) *Console {
	c := &Console{
		rw: rw, answers: make(chan talk.Reply, maxOwed+1),
		ready: make(chan struct{}), dead: make(chan struct{}), turn: make(chan int, 1),
	}
	c.turn <- 0
	go c.read()
	return c
}

// Attach connects to the serial port of a guest that was started Paused, and
// lets it run.
func Attach(ctx context.Context, vm hypervisor.VM) (*Console, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", vm.Serial())
	if err != nil {
		return nil, errs.E("ledger.Attach", errs.Unavailable, vm.Serial(), err)
	}
	c := NewConsole(conn)
	if err := vm.Resume(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close hangs up and waits for the reader to end.
func (c *Console) Close() error {
	err := c.rw.Close()
	<-c.dead
	return err
}

// Dead is closed when nothing more will come from the guest.
func (c *Console) Dead() <-chan struct{} { return c.dead }

// Acked returns the highest row the guest said is durable: its VERIFY at boot,
// or a COMMIT since, even of a Put that was given up. 0: none yet.
func (c *Console) Acked() uint64 { return c.acked.Load() }

// WaitReady waits for the guest to be up and returns what it said of its
// ledger. Kinds: Canceled; Unavailable when the console is dead.
func (c *Console) WaitReady(ctx context.Context) (Boot, error) {
	select {
	case <-c.ready:
		return c.boot, nil
	case <-c.dead:
		select {
		case <-c.ready:
			return c.boot, nil
		default:
			return Boot{}, c.err
		}
	case <-ctx.Done():
		return Boot{}, canceled("ledger.WaitReady", ctx)
	}
}

// Put has the guest commit row n with bytes of payload (talk.DefaultBytes: the
// guest's own choice) and returns once the guest's database acknowledged it.
// Kinds: Conflict (the guest refused), Canceled (the row may come all the
// same), Unavailable (dead), Corrupt (an answer to something else).
func (c *Console) Put(ctx context.Context, n, cause uint64, bytes int) error {
	r, err := c.ask(ctx, talk.Request{Verb: talk.Put, N: n, Cause: cause, Bytes: bytes})
	if err == nil && (r.Word != talk.Commit || r.N != n) {
		err = strange("ledger.Put", r)
	}
	return err
}

// Status returns the guest's highest row and highest cause.
func (c *Console) Status(ctx context.Context) (highest, cause uint64, err error) {
	r, err := c.ask(ctx, talk.Request{Verb: talk.Status})
	if err == nil && r.Word != talk.State {
		err = strange("ledger.Status", r)
	}
	return r.N, r.Cause, err
}

// Sync has the guest write all it has cached to its disk.
func (c *Console) Sync(ctx context.Context) error {
	r, err := c.ask(ctx, talk.Request{Verb: talk.Sync})
	if err == nil && r.Word != talk.Synced {
		err = strange("ledger.Sync", r)
	}
	return err
}

// PowerOff has the guest end cleanly. It returns when the guest agreed; the VM
// ends a moment later.
func (c *Console) PowerOff(ctx context.Context) error {
	r, err := c.ask(ctx, talk.Request{Verb: talk.PowerOff})
	if err == nil && r.Word != talk.Bye {
		err = strange("ledger.PowerOff", r)
	}
	return err
}

func strange(op string, r talk.Reply) error {
	return errs.New(op, errs.Corrupt, "", fmt.Sprintf("the guest answered %q to something else", r))
}

func canceled(op string, ctx context.Context) error {
	return errs.E(op, errs.Canceled, "", context.Cause(ctx))
}

// ask sends one request and returns its answer. The guest answers every line
// once and in order, so the answers of requests given up earlier come first.
func (c *Console) ask(ctx context.Context, req talk.Request) (talk.Reply, error) {
	op := "ledger.ask"
	if _, err := c.WaitReady(ctx); err != nil {
		return talk.Reply{}, err
	}
	var owed int
	select {
	case owed = <-c.turn:
	case <-ctx.Done():
		return talk.Reply{}, canceled(op, ctx)
	}
	defer func() { c.turn <- owed }()
	if owed >= maxOwed {
		return talk.Reply{}, errs.New(op, errs.Unavailable, "", "the guest does not answer")
	}
	if err := c.send(req); err != nil {
		return talk.Reply{}, errs.E(op, errs.Unavailable, "", err)
	}
	for owed++; ; {
		r, err := c.next(ctx)
		if err != nil {
			return talk.Reply{}, err
		}
		if owed--; owed > 0 {
			continue
		}
		if r.Word == talk.Err {
			return r, errs.New(op, errs.Conflict, req.String(), "the guest refused: "+r.Text)
		}
		return r, nil
	}
}

// send writes one line. The break before it ends whatever noise was typed.
func (c *Console) send(req talk.Request) error {
	if d, ok := c.rw.(interface{ SetWriteDeadline(time.Time) error }); ok {
		if err := d.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
			return err
		}
	}
	_, err := io.WriteString(c.rw, "\n"+req.String()+"\n")
	return err
}

// next waits for one answer. What arrived before the end of the line counts.
func (c *Console) next(ctx context.Context) (talk.Reply, error) {
	select {
	case r := <-c.answers:
		return r, nil
	case <-c.dead:
		select {
		case r := <-c.answers:
			return r, nil
		default:
			return talk.Reply{}, c.err
		}
	case <-ctx.Done():
		return talk.Reply{}, canceled("ledger.ask", ctx)
	}
}

// read takes the guest's lines until there are no more.
func (c *Console) read() {
	lines := talk.NewLines(c.rw)
	up, verified := false, false
	for c.err == nil {
		line, err := lines.Next()
		if err != nil {
			c.err = errs.E("ledger.Console", errs.Unavailable, "", fmt.Errorf("serial line ended: %w", err))
			break
		}
		r, ok := talk.ParseReply(line)
		switch {
		case !ok: // noise
		case r.Word == talk.Fatal:
			c.err = errs.New("ledger.Console", errs.Unavailable, "", "the guest gave up: "+r.Text)
		case r.Word == talk.Verified && verified:
			c.err = errs.New("ledger.Console", errs.Unavailable, "", "the guest booted again")
		case r.Word == talk.Verified:
			verified = true
			c.boot.Max, c.boot.Bad, c.boot.Cause = r.N, r.Bad, r.Cause
			c.acked.Store(r.N)
		case up:
			c.deliver(r)
		case r.Word == talk.Err && len(c.boot.Problems) < maxProblems:
			c.boot.Problems = append(c.boot.Problems, r.Text)
		case r.Word == talk.Ready && verified:
			up = true
			close(c.ready)
		}
	}
	close(c.dead)
}

// deliver hands on an answer and notes what it acknowledges.
func (c *Console) deliver(r talk.Reply) {
	if r.Word == talk.Commit {
		c.acked.Store(max(c.acked.Load(), r.N))
	}
	select {
	case c.answers <- r:
	default:
		c.err = errs.New("ledger.Console", errs.Corrupt, "", "the guest answers what nobody asked")
	}
}
