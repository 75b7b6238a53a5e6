package command

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/setup"
)

// Agent is an appliance's side: it beats (package enrol), is told what the box is to be,
// takes commands, has them done and tells what became of them. Its fields are set before
// Run.
type Agent struct {
	// Dir is what enrol.Join made: the certificate directory. The newest epochs are kept
	// there, too.
	Dir     string
	Release string
	Handler Handler // nil: every command is refused
	// Setup makes the box what it is to be; it is called with each new one, one call at
	// a time, and again with the same after an error. Nil: nobody is told.
	Setup func(ctx context.Context, s *setup.Setup) error
	// Report is what the box tells of itself, every ten seconds; nil: nothing.
	Report func() *setup.Report
	// Capacity gives the box's capacity with each beat; nil: none.
	Capacity func() map[string]int64
	// Manager is called in place of the one that Dir names; then nobody beats. Nil: that.
	Manager Poster
	Logger  *slog.Logger // nil: none

	log    *slog.Logger
	fence  *fence
	line   line
	up     bool          // commands are taken; of exchanges alone
	began  time.Time     // when Run did
	tells  chan struct{} // one place: something is to be told
	setups chan struct{} // one place: wanted has changed

	mu     sync.Mutex
	wanted *setup.Setup // the newest that was given; guarded by mu
}

// Poster calls a manager.
type Poster interface {
	// Post sends in to a path of its API and reads the answer into out.
	Post(ctx context.Context, path string, in, out any) error
}

// reportEvery is how often a box tells of itself.
const reportEvery = 10 * time.Second

// Run serves until ctx ends, and returns nil then, when all handlers have returned. A
// manager that is away is tried again: what goes on goes on, and is told later. Kinds:
// NotFound, Corrupt (Dir), Conflict (another process serves it).
func (a *Agent) Run(ctx context.Context) error {
	parts := []func(context.Context){a.exchanges, a.telling, a.makes}
	if a.log = a.Logger; a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.Manager == nil {
		c, err := enrol.Open(a.Dir)
		if err != nil {
			return err
		}
		defer c.Close()
		a.Manager = c
		parts = append(parts, a.beats)
	}
	lock, err := durable.OS{}.Lock(filepath.Join(a.Dir, "agent.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if a.fence, err = openFence(durable.OS{}, a.Dir); err != nil {
		return err
	}
	a.began = time.Now()
	a.tells, a.setups = make(chan struct{}, 1), make(chan struct{}, 1)
	a.line = line{ctx: ctx, handler: a.Handler, fence: a.fence, changed: func() { poke(a.tells) }, meets: meet}
	var wg sync.WaitGroup
	for _, f := range parts {
		wg.Go(func() { f(ctx) })
	}
	wg.Wait()
	a.line.wait()
	return nil
}

// beats has the manager know that the box lives.
func (a *Agent) beats(ctx context.Context) {
	beat := enrol.Agent{Dir: a.Dir, Release: a.Release, Figures: a.Capacity, Logger: a.Logger}
	if err := beat.Run(ctx); err != nil {
		a.log.Error("the manager is not told any more that this box lives", "err", err, "remedy", errs.RemedyOf(err))
	}
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// exchanges asks for commands, until ctx ends.
func (a *Agent) exchanges(ctx context.Context) {
	pause := firstPause
	away, denied := false, false
	for ctx.Err() == nil {
		in := Exchange{Holds: a.line.holds()}
		a.mu.Lock()
		if a.wanted != nil {
			in.Generation = a.wanted.Generation
		}
		a.mu.Unlock()
		var r Reply
		err := a.Manager.Post(ctx, ExchangePath, &in, &r)
		if err == nil {
			if away {
				a.log.Info("the manager answers again")
			}
			pause, away, denied = firstPause, false, false
			if !a.isUp() && len(r.Commands) > 0 {
				r.Commands = nil // they are given again
				sleep(ctx, upLook)
			}
			a.took(&r)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		// Denied again, this box is not what it was: what it does is somebody else's. Once
		// may be a question that waited with a certificate which was renewed meanwhile.
		if refused(err) && denied {
			a.line.abandon(err)
		}
		denied = refused(err)
		if !away {
			a.log.Warn("the manager gives no commands", "err", err, "remedy", errs.RemedyOf(err))
			away = true
		}
		sleep(ctx, pause)
		pause = min(2*pause, longestPause)
	}
}

// isUp reports whether the box knows what an earlier agent left in it: a command about
// that would find nothing. One that does not come up says so to what it is asked.
func (a *Agent) isUp() bool {
	a.up = a.up || a.Report == nil || a.Report().IsUp() || time.Since(a.began) > upFor
	return a.up
}

// refused reports whether the manager itself, not the way to it, has denied.
func refused(err error) bool {
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Denied {
		return false
	}
	var inner *errs.Error
	return e.Err == nil || !errors.As(e.Err, &inner)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// took takes what the manager has said.
func (a *Agent) took(r *Reply) {
	if r.Setup != nil {
		a.mu.Lock()
		a.wanted = r.Setup
		a.mu.Unlock()
		poke(a.setups)
	}
	a.line.take(r)
}

// makes has the box be what it is to be.
func (a *Agent) makes(ctx context.Context) {
	var made *setup.Setup
	pause := firstPause
	for {
		a.mu.Lock()
		s := a.wanted
		a.mu.Unlock()
		if s == made || a.Setup == nil {
			select {
			case <-a.setups:
				continue
			case <-ctx.Done():
				return
			}
		}
		if err := a.Setup(ctx, s); err != nil {
			if ctx.Err() != nil {
				return
			}
			a.log.Warn("this box is not yet what it is to be", "setup", s.Generation, "err", err, "remedy", errs.RemedyOf(err))
			t := time.NewTimer(pause)
			select {
			case <-a.setups:
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
			pause = min(2*pause, longestPause)
			continue
		}
		made, pause = s, firstPause
	}
}

// telling tells the manager of the box, and of its commands, until ctx ends: how far they
// are once a second, and how they ended at once, until it has taken that. All of it goes
// one way, one after the other: what a command made is known before its end, and no older
// report comes after a newer one.
func (a *Agent) telling(ctx context.Context) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	pause := firstPause
	var reported time.Time
	for {
		more := false
		tales, now := a.line.tales(maxTold), time.Now()
		due := a.Report != nil && now.Sub(reported) >= reportEvery
		if len(tales) > 0 || due {
			err := a.tell(ctx, tales, due)
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				a.line.told(tales)
				more, pause = len(tales) == maxTold, firstPause
				if due {
					reported = now
				}
			default:
				sleep(ctx, pause)
				more, pause = true, min(2*pause, longestPause)
			}
		}
		if more {
			continue
		}
		select {
		case <-a.tells:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// tell tells of the box, if that is due or a command has ended, and then of commands. A
// report that is refused for what it is keeps no command from being told.
func (a *Agent) tell(ctx context.Context, tales []Tale, due bool) error {
	if a.Report != nil && (due || slices.ContainsFunc(tales, func(t Tale) bool { return t.Done })) {
		r := a.Report()
		if !due {
			r.Figures = nil // samples are so far apart as reports are
		}
		err := a.Manager.Post(ctx, TellPath, &Told{Report: r}, nil)
		if err != nil && !errs.Is(err, errs.Invalid) {
			return err
		}
		if err != nil {
			a.log.Warn("the manager does not take what this box tells of itself", "err", err, "remedy", errs.RemedyOf(err))
		}
	}
	if len(tales) == 0 {
		return nil
	}
	return a.Manager.Post(ctx, TellPath, &Told{Commands: tales}, nil)
}
