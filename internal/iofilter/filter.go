package iofilter

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
	"holdfast/internal/wire"
)

// Options are what a Filter needs besides its configuration.
type Options struct {
	// Dial opens a connection to the domain's DRVA, mutually authenticated. A
	// connection with a method Flush() error may gather small writes; it is
	// flushed before the sender sleeps.
	Dial func(ctx context.Context) (net.Conn, error)
	// Legacy is what an earlier Filter handed over: the sockets and connections
	// of disks that both have are gone on with. The Filter owns it, if New
	// succeeds; nil: none.
	Legacy *Legacy
	// Logger hears of changes of state; nil discards.
	Logger *slog.Logger
	// Freezer quiesces guests for application-consistent checkpoints; nil: none
	// can be, and the host says so.
	Freezer Freezer
	// FS holds the sidecars; nil is the real one.
	FS durable.FS
}

// Filter is the host component: all protected disks of one host that belong to
// one domain. Make it with New, run it once. VMs and disks may come and go
// while it runs. All methods but New and Run may be called at any time and from
// anywhere; those that change what is protected go one after the other.
type Filter struct {
	log  *slog.Logger
	dial dialer
	fs   durable.FS
	out  *outlet
	pace *pacer

	watchdog atomic.Pointer[WatchdogStatus] // nil: there is to be none

	mu    sync.Mutex
	cfg   Config          // guarded by mu; VMs is what is protected now
	ports []*port         // guarded by mu
	run   context.Context // guarded by mu; nil: not running
	own   context.Context // guarded by mu; of what goes on when guests are not served any more
	began chan struct{}   // closed when it runs

	hand    chan struct{} // closed by HandOver
	handing *handing      // guarded by mu; nil: it is not being handed over
	legacy  *Legacy       // until Run; nil: none
}

// Running returns a channel that is closed when Run has begun to serve, and
// what is protected may be changed.
func (f *Filter) Running() <-chan struct{} { return f.began }

// Ping returns when the Filter is well enough to serve guests: its locks are
// given up in the end. It does not return otherwise.
func (f *Filter) Ping() error {
	f.out.mu.Lock()
	disks := f.out.disks
	f.out.mu.Unlock()
	for _, d := range disks {
		d.locks.mu.Lock()
		_ = len(d.locks.held) // only to have had the lock
		d.locks.mu.Unlock()
	}
	return nil
}

// New validates the configuration and opens the primaries; their sizes are the
// disks' sizes. Errors: Invalid, with a remedy; those of nbd.OpenFile.
func New(cfg Config, o Options) (*Filter, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if o.Dial == nil {
		return nil, errs.New("iofilter.New", errs.Invalid, cfg.Name, "no way to reach a DRVA")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = durable.OS{}
	}
	f := &Filter{log: o.Logger, dial: o.Dial, fs: o.FS, out: newOutlet(&cfg, o.Logger), cfg: cfg, pace: newPacer(cfg.SyncBandwidth.Schedule),
		began: make(chan struct{}), hand: make(chan struct{})}
	for i := range cfg.VMs {
		for _, c := range cfg.VMs[i].Disks {
			p, err := f.open(cfg.VMs[i].Config.ID, c)
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
			f.out.addDisk(p.disk)
			f.ports = append(f.ports, p)
		}
	}
	f.out.freeze = newQuiescer(f.out, o.Freezer)
	if err := fits(f.out.helloLocked()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := f.pauseAsBefore(o.Legacy); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	f.legacy = o.Legacy
	return f, nil
}

// fits refuses a host that could not say Hello.
func fits(h wire.Hello) error {
	if _, err := wire.EncodeJSON(wire.TypeHello, h); err != nil {
		return errs.E("iofilter.New", errs.Invalid, h.Name, err).WithRemedy("protect fewer VMs in one domain")
	}
	return nil
}

// addDisk adds a disk all of which has to be copied. Before Run.
func (o *outlet) addDisk(d *disk) {
	d.index = o.nextIndex
	o.nextIndex++
	o.disks = append(o.disks, d)
}

// newDisk returns a disk all of which is dirty, and which belongs to no stream
// yet.
func (o *outlet) newDisk(info dr.Disk, primary nbd.Primary) *disk {
	d := &disk{out: o, size: info.Size, info: info, primary: primary, dirty: newDirtyMap(info.Size), unsynced: true}
	d.info.Size = roundUp(info.Size)
	d.dirty.SetAll()
	return d
}

// Run serves every disk on its socket and keeps the link to the DRVA until ctx
// ends. Then it takes no more requests, lets those in flight complete, waits a
// few seconds for the DRVA to have everything durably, removes the sockets and
// closes the primaries. Errors: those of nbd.Listen, before anything is
// served; Unavailable when guests' operations did not complete.
func (f *Filter) Run(ctx context.Context) error {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if err := f.listen(ctx, own); err != nil {
		return errors.Join(err, f.Close())
	}
	syncing, stopSync := context.WithCancel(own)
	defer stopSync()
	var running, copying sync.WaitGroup
	running.Go(func() { f.out.watch(own) })
	running.Go(func() { f.out.vigil(own) })
	running.Go(func() { f.out.runLink(own, f.dial) })
	copying.Go(func() { f.out.runCursor(syncing, f.pace) })

	select {
	case <-ctx.Done():
	case <-f.hand:
	}
	f.mu.Lock()
	f.run = nil // what is protected changes no more
	err := stopAll(f.ports)
	limit, handing := drainLimit, f.handing
	if handing != nil {
		limit = handing.limit
		handing.collect(f.ports, f.out.pausesNow())
	}
	f.mu.Unlock()
	stopSync()
	copying.Wait()
	f.out.lookNow() // what has strayed is not handed over as complete
	if !f.out.drain(limit) {
		f.log.Warn("stopped before the DRVA had everything")
	} else if err == nil {
		f.out.releaseDisks(limit)
	}
	stop()
	running.Wait()
	f.out.freeze.close()
	if err == nil {
		err = f.Close()
	} // else operations are in flight: the primaries stay open
	if handing != nil {
		handing.finish(err)
	}
	return err
}

// Close closes the primaries of a Filter that is not running. Run calls it.
func (f *Filter) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all error
	for _, p := range f.ports {
		all = errors.Join(all, p.close())
	}
	f.ports = nil
	if f.legacy != nil {
		all = errors.Join(all, f.legacy.Close())
	}
	return all
}

// listen opens all sockets, or none, and begins to serve them.
func (f *Filter) listen(ctx, own context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.run != nil {
		return errs.New("iofilter.Run", errs.Conflict, f.cfg.Name, "the host component is running")
	}
	for _, p := range f.ports {
		if p.ln, p.adopted = f.legacy.take(&p.conf); p.ln != nil {
			continue
		}
		if err := p.listen(); err != nil {
			return err // Close closes the others' sockets
		}
	}
	if f.legacy != nil {
		if err := f.legacy.Close(); err != nil { // of disks that are not ours
			f.log.Warn("what was handed over in excess cannot be closed", "err", err)
		}
	}
	f.run, f.own = ctx, own
	close(f.began)
	for _, p := range f.ports {
		p.ln.SetUnlinkOnClose(true) // also those of another process: the files are ours now
		p.keepSidecar(own)
		p.start(ctx)
	}
	return nil
}

// drain waits until everything in the stream is durable at the DRVA, for at
// most limit, and reports whether it is. Without a link it does not wait.
func (o *outlet) drain(limit time.Duration) bool {
	o.mu.Lock()
	last := o.str.Next() - 1
	if o.str.Durable() >= last || !o.link.up {
		defer o.mu.Unlock()
		return o.str.Durable() >= last
	}
	done := make(chan struct{})
	o.drainAt, o.drained, o.link.rush = last, done, last
	o.wakeSender()
	o.mu.Unlock()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}
