package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
)

// Guard sees to it that a host component has a watchdog: it starts one, lends it
// the sockets of the disks, and starts another one when it has ended or hangs.
// Fill it in, call Begin, then Run once.
type Guard struct {
	// Start starts a watchdog of this process, which is given the other end of
	// its connection.
	Start func(other *os.File) (*os.Process, error)
	// Sockets are those of the disks that a watchdog takes guests off.
	Sockets func() []iofilter.Socket
	Tell    func(iofilter.WatchdogStatus) // hears how the watchdog is, when that changes
	Logger  *slog.Logger                  // nil discards

	patience int32 // answers that may be missing; 0: guardMisses

	child  *watcher // owned by Begin, then by Run; nil: none runs
	status iofilter.WatchdogStatus
}

// watcher is a watchdog that was started.
type watcher struct {
	proc   *os.Process
	conn   *net.UnixConn
	began  time.Time
	misses atomic.Int32  // questions since its last answer
	over   chan struct{} // closed when it has ended
	end    error         // how, valid then
}

// Begin starts the first watchdog. Errors: those of Start.
func (g *Guard) Begin() error {
	if g.Logger == nil {
		g.Logger = slog.New(slog.DiscardHandler)
	}
	g.patience = cmp.Or(g.patience, guardMisses)
	own, other, err := Pair()
	if err != nil {
		return err
	}
	proc, err := g.Start(other)
	if err = errors.Join(err, other.Close()); err != nil {
		return errors.Join(err, own.Close())
	}
	c := &watcher{proc: proc, conn: own, began: time.Now(), over: make(chan struct{})}
	go c.wait()
	go c.listen()
	g.child = c
	g.status = iofilter.WatchdogStatus{PID: proc.Pid, Since: c.began, Starts: g.status.Starts + 1, Error: g.status.Error}
	g.Tell(g.status)
	return nil
}

// Run keeps a watchdog until ctx ends, and leaves it to itself then, without a
// socket: it outlives this process.
func (g *Guard) Run(ctx context.Context) {
	wait := guardPause
	for {
		if g.child != nil {
			steady := g.attend(ctx)
			if ctx.Err() != nil {
				return
			}
			if steady {
				wait = guardPause
			}
		}
		if !pause(ctx, wait) {
			return
		}
		wait = min(2*wait, guardPauses)
		if err := g.Begin(); err != nil {
			g.Logger.Error("no watchdog can be started, trying on", "err", err, "remedy", errs.RemedyOf(err))
			g.status.Error = err.Error()
			g.Tell(g.status)
		}
	}
}

// attend looks after the watchdog until it has ended or ctx ends; steady: it had
// lived for long.
func (g *Guard) attend(ctx context.Context) (steady bool) {
	c := g.child
	l := &lender{conn: c.conn, given: map[string]*net.UnixListener{}}
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for hangs := false; ; {
		if !hangs {
			c.misses.Add(1)
			// What cannot be said is said again later; one that has ended says so.
			if err := l.update(g.Sockets()); err != nil {
				g.Logger.Debug("the watchdog does not take what is said", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			// In good order nobody is left to be answered; it may have ended.
			_ = l.update(nil)
			return false
		case <-c.over:
			why := c.end
			if hangs {
				why = errors.New("it did not answer")
			}
			g.lost(why)
			return time.Since(c.began) > guardSteady
		case <-tick.C:
		}
		if c.misses.Load() > g.patience && !hangs {
			hangs = true
			_ = c.proc.Kill() // it may just have ended
		}
	}
}

// lost takes in that the watchdog is gone.
func (g *Guard) lost(why error) {
	g.child.conn.Close()
	g.child = nil
	g.Logger.Error("the watchdog has ended: another one is started", "pid", g.status.PID, "err", why)
	g.status = iofilter.WatchdogStatus{Since: time.Now(), Starts: g.status.Starts, Error: why.Error()}
	g.Tell(g.status)
}

// wait notes how the watchdog ended.
func (c *watcher) wait() {
	defer close(c.over)
	state, err := c.proc.Wait()
	if c.end = err; err == nil {
		c.end = fmt.Errorf("process %d: %s", c.proc.Pid, state)
	}
}

// listen hears its answers.
func (c *watcher) listen() {
	b := make([]byte, 1)
	for {
		n, err := c.conn.Read(b)
		if err != nil || n == 0 {
			return
		}
		c.misses.Store(0)
	}
}
