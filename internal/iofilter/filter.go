package iofilter

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
	"holdfast/internal/wire"
)

// serveRetry is the pause before a disk whose socket failed is served again.
const serveRetry = time.Second

// Options are what a Filter needs besides its configuration.
type Options struct {
	// Dial opens a connection to the domain's DRVA, mutually authenticated. A
	// connection with a method Flush() error may gather small writes; it is
	// flushed before the sender sleeps.
	Dial func(ctx context.Context) (net.Conn, error)
	// Logger hears of changes of state; nil discards.
	Logger *slog.Logger
	// Freezer quiesces guests for application-consistent checkpoints; nil: none
	// can be, and the host says so.
	Freezer Freezer
	// FS holds the sidecars; nil is the real one.
	FS durable.FS
}

// Filter is the host component: all protected disks of one host that belong to
// one domain. Make it with New, run it once; Status may be called at any time
// and from anywhere.
type Filter struct {
	cfg   Config
	log   *slog.Logger
	dial  dialer
	fs    durable.FS
	out   *outlet
	files []*nbd.File // by disk index
	close sync.Once
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
	f := &Filter{cfg: cfg, log: o.Logger, dial: o.Dial, fs: o.FS, out: newOutlet(&cfg, o.Logger)}
	for i := range cfg.VMs {
		for _, d := range cfg.VMs[i].Disks {
			if err := f.open(cfg.VMs[i].Config.ID, d); err != nil {
				f.Close()
				return nil, err
			}
		}
	}
	f.out.freeze = newQuiescer(f.out, &cfg, o.Freezer)
	f.out.hello = cfg.hello(f.out.disks)
	if _, err := wire.EncodeJSON(wire.TypeHello, f.out.hello); err != nil {
		f.Close()
		return nil, errs.E("iofilter.New", errs.Invalid, cfg.Name, err).WithRemedy("protect fewer VMs in one domain")
	}
	return f, nil
}

func (f *Filter) open(vm dr.VMID, d Disk) error {
	file, err := nbd.OpenFile(d.Path, nbd.FileOptions{Direct: d.Direct})
	if err != nil {
		return errs.E("iofilter.New", errs.KindOf(err), d.Name, err)
	}
	f.files = append(f.files, file)
	if size := file.Size(); size <= 0 || size > dr.MaxDiskSize {
		return errs.New("iofilter.New", errs.Invalid, d.Path, "the primary is empty or larger than 64 TiB")
	}
	added := f.out.addDisk(dr.Disk{ID: d.ID, VM: vm, Name: d.Name, Size: file.Size()}, file)
	if path := f.cfg.sidecarPath(&d); path != "" {
		added.remember(f.fs, path, d.Path, file.Flush)
	}
	return nil
}

// addDisk adds a disk all of which has to be copied. Before Run.
func (o *outlet) addDisk(info dr.Disk, primary nbd.Primary) *disk {
	d := &disk{
		out: o, index: uint16(len(o.disks)), size: info.Size, info: info, primary: primary,
		dirty: newDirtyMap(info.Size), unsynced: true,
	}
	d.info.Size = roundUp(info.Size)
	d.dirty.SetAll()
	o.disks = append(o.disks, d)
	return d
}

// Run serves every disk on its socket and keeps the link to the DRVA until ctx
// ends. Then it takes no more requests, lets those in flight complete, waits a
// few seconds for the DRVA to have everything durably, removes the sockets and
// closes the primaries. Errors: those of nbd.Listen, before anything is
// served; Unavailable when guests' operations did not complete.
func (f *Filter) Run(ctx context.Context) error {
	listeners, err := f.listen()
	if err != nil {
		f.Close()
		return err
	}
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	syncing, stopSync := context.WithCancel(own)
	defer stopSync()
	var running, copying sync.WaitGroup
	running.Go(func() { f.out.watch(own) })
	running.Go(func() { f.out.runLink(own, f.dial) })
	for _, d := range f.out.disks {
		running.Go(func() { d.keep.runOpener(own) })
		running.Go(func() { d.keep.runCloser(own) })
	}
	copying.Go(func() { f.out.runCursor(syncing, f.cfg.SyncBandwidth) })

	var servers errgroup.Group
	for i, ln := range listeners {
		servers.Go(func() error { return f.serve(ctx, i, ln) })
	}
	err = servers.Wait()
	stopSync()
	copying.Wait()
	if !f.out.drain(drainLimit) {
		f.log.Warn("stopped before the DRVA had everything")
	} else if err == nil {
		f.out.releaseDisks(drainLimit)
	}
	stop()
	running.Wait()
	f.out.freeze.close()
	if err != nil {
		return err // operations are in flight: the primaries stay open
	}
	return f.Close()
}

// Close closes the primaries of a Filter that is not running. Run calls it.
func (f *Filter) Close() error {
	var all error
	f.close.Do(func() {
		for _, d := range f.out.disks {
			all = errors.Join(all, d.keep.end())
		}
		for _, file := range f.files {
			all = errors.Join(all, file.Close())
		}
	})
	return all
}

// listen opens all sockets, or none.
func (f *Filter) listen() (out []net.Listener, err error) {
	for i := range f.files {
		ln, err := nbd.Listen(f.disk(i).Socket)
		if err != nil {
			for _, ln := range out {
				ln.Close()
			}
			return nil, err
		}
		out = append(out, ln)
	}
	return out, nil
}

// disk is the configuration of the disk with an index.
func (f *Filter) disk(i int) *Disk {
	for v := range f.cfg.VMs {
		if n := len(f.cfg.VMs[v].Disks); i >= n {
			i -= n
			continue
		}
		return &f.cfg.VMs[v].Disks[i]
	}
	return nil // not reached: files are opened from the configuration
}

// serve serves one disk until ctx ends. A socket that fails is opened again:
// one disk's trouble is not the others'.
func (f *Filter) serve(ctx context.Context, i int, ln net.Listener) error {
	d, c := f.out.disks[i], f.disk(i)
	log := f.log.With("disk", c.Name)
	server, err := nbd.NewServer(nbd.Options{Logger: log, Exports: []nbd.Export{{
		Name: c.Name, Description: c.ID.String(), File: f.files[i],
		Layer: func(primary nbd.Device) nbd.Device { return &tap{disk: d, primary: primary} },
	}}})
	if err != nil {
		ln.Close()
		return err
	}
	for {
		err := server.Serve(ctx, ln)
		if ctx.Err() != nil {
			return err
		}
		log.Error("the disk's socket failed", "err", err)
		for {
			sleepUntil(ctx, nil, serveRetry)
			if ctx.Err() != nil {
				return nil
			}
			if ln, err = nbd.Listen(c.Socket); err == nil {
				break
			}
			log.Error("the disk's socket cannot be opened", "err", err)
		}
	}
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
