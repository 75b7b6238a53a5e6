package iofilter

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// port is where a disk meets its guest: the primary, the socket, and the
// server between them. Guarded by the Filter's mutex but for the goroutine that
// serves.
type port struct {
	conf    Disk
	disk    *disk
	primary primary     // file or remote
	file    *nbd.File   // nil: it is a remote
	remote  *nbd.Remote // nil: it is a file
	log     *slog.Logger

	ln      *net.UnixListener
	server  *nbd.Server
	adopted []nbd.Handed // connections to begin with
	keep    func()       // ends what keeps the disk's sidecar; nil: nothing does

	stop context.CancelFunc // nil: it is not served
	over chan error         // capacity 1: how serving ended
}

// open opens a disk's primary and makes the disk, which belongs to no stream
// yet. Errors: those of nbd.OpenFile; Invalid.
func (f *Filter) open(vm dr.VMID, c Disk) (*port, error) {
	const op = "iofilter.open"
	p := &port{conf: c, log: f.log.With("disk", c.Name)}
	if err := p.openPrimary(); err != nil {
		return nil, errs.E(op, errs.KindOf(err), c.Name, err)
	}
	if err := sane(c.Path, p.primary.Size()); err != nil {
		return nil, errors.Join(err, p.primary.Close())
	}
	info := dr.Disk{ID: c.ID, VM: vm, Name: c.Name, Size: p.primary.Size()}
	p.disk = f.out.newDisk(info, p.primary)
	p.disk.away = c.Source != nil && c.Source.Socket == ""
	p.disk.member.held = c.Held
	p.watch()
	p.remember(&f.cfg, f.fs, c.Unseen)
	return p, nil
}

// watch has the image looked at while nobody has it open, if it tells anything.
func (p *port) watch() {
	if p.file != nil {
		if at := modified(p.conf.Path); at != 0 {
			p.disk.seen = watched{image: p.conf.Path, modified: at}
		}
	}
}

// remember gives the disk its sidecar, if it has one.
func (p *port) remember(cfg *Config, fs durable.FS, unseen bool) {
	if path := cfg.sidecarPath(&p.conf); path != "" {
		p.disk.remember(fs, path, p.conf.Path, p.primary.Flush, unseen)
	}
}

// keepSidecar begins to keep the disk's sidecar true, until ctx ends or keep is
// called.
func (p *port) keepSidecar(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	k := p.disk.keep
	wg.Go(func() { k.runOpener(ctx) })
	wg.Go(func() { k.runCloser(ctx) })
	p.keep = func() { cancel(); wg.Wait() }
}

// sane refuses sizes a disk cannot have.
func sane(path string, size int64) error {
	if size <= 0 || size > dr.MaxDiskSize {
		return errs.New("iofilter.open", errs.Invalid, path, "the primary is empty or larger than 64 TiB").
			WithRemedy("give the disk a size from 1 byte to 64 TiB")
	}
	return nil
}

// listen opens the socket. Errors: those of nbd.Listen.
func (p *port) listen() error {
	ln, err := nbd.Listen(p.conf.Socket)
	if err != nil {
		return err
	}
	p.ln = ln.(*net.UnixListener)
	return nil
}

// start begins to serve until stopped or ctx ends.
func (p *port) start(ctx context.Context) {
	ctx, p.stop = context.WithCancel(ctx)
	p.over = make(chan error, 1)
	d := p.disk
	d.out.mu.Lock()
	d.attachable = true
	d.out.restateLocked()
	d.out.mu.Unlock()
	e := nbd.Export{Name: p.conf.Name, Description: p.conf.ID.String(), File: p.file, Enter: d.enter,
		Layer: func(primary nbd.Device) nbd.Device { return &tap{disk: d, primary: primary} }}
	if p.remote != nil {
		e.Disk = p.remote
	}
	if p.conf.Mirror {
		e.Layer = func(source nbd.Device) nbd.Device { return &tap{disk: d, primary: &mirrored{source}} }
	}
	server, err := nbd.NewServer(nbd.Options{Logger: p.log, Exports: []nbd.Export{e}})
	if err != nil {
		p.over <- err
		return
	}
	for _, h := range p.adopted {
		server.Adopt(h)
	}
	p.server, p.adopted = server, nil
	ln, path := p.ln, p.conf.Socket
	go func() { p.over <- p.serve(ctx, server, ln, path) }()
}

// enter counts a client that uses the disk.
func (d *disk) enter() (leave func()) {
	d.arrived()
	return d.departed
}

// serve serves until ctx ends. A socket that fails is served again: one disk's
// trouble is not the others'.
func (p *port) serve(ctx context.Context, server *nbd.Server, ln *net.UnixListener, path string) error {
	for {
		if err := ln.SetDeadline(time.Time{}); err != nil {
			return errs.E("iofilter.serve", errs.Unavailable, path, err)
		}
		lent := nbd.Lend(ln)
		err := server.Serve(ctx, lent)
		lent.End()
		if ctx.Err() != nil {
			return err
		}
		p.log.Error("the disk's socket failed", "err", err)
		sleepUntil(ctx, nil, serveRetry)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// halt ends serving; clients that come later wait in the socket's queue. Error:
// Unavailable, operations are in flight and the primary must stay open.
func (p *port) halt() error {
	if p.stop == nil {
		return nil
	}
	p.stop()
	err := <-p.over
	p.stop = nil
	d := p.disk
	d.out.mu.Lock()
	d.attachable = false
	d.out.restateLocked()
	d.out.mu.Unlock()
	if err != nil {
		return errs.E("iofilter.halt", errs.Unavailable, p.conf.Name, err)
	}
	return nil
}

// Socket is the listening socket of a disk.
type Socket struct {
	Path     string
	Listener *net.UnixListener // the Filter's, which closes it
}

// Sockets returns the listening sockets of the disks that are served. Safe for
// concurrent use.
func (f *Filter) Sockets() (all []Socket) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.ports {
		if p.ln != nil {
			all = append(all, Socket{p.conf.Socket, p.ln})
		}
	}
	return all
}

// stopAll ends all ports' serving, at the same time.
func stopAll(ports []*port) error {
	failed := make([]error, len(ports))
	var wg sync.WaitGroup
	for i, p := range ports {
		wg.Go(func() { failed[i] = p.halt() })
	}
	wg.Wait()
	return errors.Join(failed...)
}

// close removes the socket and closes the primary of a port that is not
// served, once the cursor has let go of it.
func (p *port) close() error {
	var err error
	if p.ln != nil {
		err = p.ln.Close()
	}
	for i := range p.adopted {
		err = errors.Join(err, p.adopted[i].Close())
	}
	if p.keep != nil {
		p.keep()
	}
	p.disk.work.Lock()
	defer p.disk.work.Unlock()
	return errors.Join(err, p.disk.keep.end(), p.primary.Close())
}
