package live

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// Process is the host component as its watchdog sees it.
type Process interface {
	// Ping asks it whether it lives, and waits until ctx ends.
	Ping(ctx context.Context) error
	// Kill ends it and returns when it is gone; no effect if it is gone
	// already. It never touches another process that got the same number.
	Kill(ctx context.Context) error
	// Gone is closed when it has ended.
	Gone() <-chan struct{}
}

// Watchdog looks after a host component from another process. Run it once.
type Watchdog struct {
	// Connect reaches the hypervisor. It is called when the host component is
	// gone: a QEMU monitor serves one client at a time.
	Connect func(ctx context.Context) (hypervisor.Platform, error)
	Process Process
	Open    func() (*Record, error) // reads the record, when it is needed
	// Heir reports whether another process serves the guests of one that is
	// gone, or is about to; nil: none does. It has a watchdog of its own.
	Heir func() bool
	// Sockets are those of the host component, as far as it lent them; nil: none.
	Sockets *Sockets
	Hang    time.Duration // 0: DefaultHang
	Logger  *slog.Logger  // nil discards
}

// Run watches until ctx ends, or until the host component is gone and either no
// guest waits for it any more or another one has taken over: then it returns
// nil. A host component that ended in
// good order has taken its exports out of all paths itself; there is nothing to
// do then.
func (w *Watchdog) Run(ctx context.Context) error {
	log := w.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if w.Hang == 0 {
		w.Hang = DefaultHang
	}
	if w.Hang < MinHang {
		return errs.New("live.Watchdog", errs.Invalid, "hang", "the limit is shorter than 1 s").WithRemedy("leave it out for 10 s")
	}
	if !w.awaitTrouble(ctx) {
		return nil
	}
	log.Warn("the host component is dead or does not answer: guests go on without it")
	if err := w.Process.Kill(ctx); err != nil {
		return err // as long as it lives, what it still did to the disks would be mixed with the guests' writes
	}
	return w.failOpen(ctx, log)
}

// awaitTrouble returns when the host component is gone or hangs; false: ctx
// ended.
func (w *Watchdog) awaitTrouble(ctx context.Context) bool {
	heard := time.Now()
	tick := time.NewTicker(min(pingEvery, w.Hang/2))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-w.Process.Gone():
			return w.alone(ctx)
		case <-tick.C:
		}
		err, now := w.ping(ctx), time.Now()
		if err == nil {
			heard = now
		} else if now.Sub(heard) >= w.Hang {
			return true
		}
	}
}

// alone reports whether nobody has come after a host component that is gone.
// One that answers has a watchdog of its own, and so has one that has inherited
// the guests and does not answer yet: as long as it lives, what it still does to
// the disks would be mixed with the guests' writes.
func (w *Watchdog) alone(ctx context.Context) bool {
	tick := time.NewTicker(heirEvery)
	defer tick.Stop()
	for w.ping(ctx) != nil {
		if w.Heir == nil || !w.Heir() {
			return ctx.Err() == nil
		}
		if w.Sockets != nil { // who waits there is to find the new one
			w.Sockets.Close()
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return false
}

func (w *Watchdog) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(pingLimit, w.Hang/2))
	defer cancel()
	return w.Process.Ping(ctx)
}

// failOpen takes the dead exports out of all guests' paths, all at once, and
// tries again with those where it failed.
func (w *Watchdog) failOpen(ctx context.Context, log *slog.Logger) error {
	record, err := w.Open()
	if err != nil {
		return err
	}
	// Noted before: whatever happens to this process, nobody takes the disks'
	// copies for complete.
	if err := record.markUnseen(func(*EntryDisk) bool { return true }); err != nil {
		log.Error("the record cannot be written; the guests come first", "err", err)
	}
	end := w.standIn(ctx, record, log)
	defer end()
	platform, err := w.connect(ctx, log)
	if platform == nil || err != nil {
		return err
	}
	began := time.Now()
	for {
		// A driver may need a moment to meet a VM.
		failed := w.failOpenOnce(ctx, platform, record, time.Since(began) < meetLimit, log)
		if failed == nil || ctx.Err() != nil {
			return errors.Join(failed, platform.Close())
		}
		t := time.NewTimer(failRetry)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// connect reaches the hypervisor, however often that takes; nil: nothing is
// protected any more, so that nobody waits.
func (w *Watchdog) connect(ctx context.Context, log *slog.Logger) (hypervisor.Platform, error) {
	for {
		if r, err := w.Open(); err == nil && len(r.Entries()) == 0 {
			return nil, nil
		}
		p, err := w.Connect(ctx)
		if err == nil || ctx.Err() != nil {
			return p, err
		}
		log.Error("the hypervisor cannot be reached, trying on", "err", err, "remedy", errs.RemedyOf(err))
		t := time.NewTimer(failRetry)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// failOpenOnce does all disks side by side and returns what failed. meet: a VM
// that is not known is one that has not been met yet.
func (w *Watchdog) failOpenOnce(ctx context.Context, p hypervisor.Platform, record *Record, meet bool, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, failLimit)
	defer cancel()
	entries := record.Entries()
	failed := make([]error, len(entries))
	var wg sync.WaitGroup
	for i := range entries {
		wg.Go(func() { failed[i] = failOpenVM(ctx, p, &entries[i], meet, log) })
	}
	wg.Wait()
	return errors.Join(failed...)
}

func failOpenVM(ctx context.Context, p hypervisor.Platform, e *Entry, meet bool, log *slog.Logger) error {
	vm, err := p.VM(ctx, e.Config.ID.String())
	if errs.Is(err, errs.NotFound) && !meet {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := vm.Info(ctx)
	if err != nil || !info.Running {
		return err
	}
	var all error
	for i := range e.Disks {
		d := &e.Disks[i]
		if !attachedTo(&info, d) {
			continue
		}
		sw, err := vm.FailOpen(ctx, d.Name)
		if err != nil {
			log.Error("a guest cannot be taken off the dead host component", "vm", e.Config.Name, "disk", d.Name, "err", err, "remedy", errs.RemedyOf(err))
			all = errors.Join(all, err)
			continue
		}
		log.Warn("a guest goes on with its own disk, unprotected", "vm", e.Config.Name, "disk", d.Name, "route", sw.Route, "pause", sw.Pause)
	}
	return all
}
