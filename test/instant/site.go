package instant

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/hypervisor"
	"holdfast/internal/journal"
	"holdfast/internal/nbd"
	"holdfast/internal/rocva"
	"holdfast/internal/rocva/ondemand"
	"holdfast/internal/store"
)

// Site is where VMs of a checkpoint run on disks that are being made.
type Site struct {
	Container *journal.Container
	Image     *journal.Image
	Set       *ondemand.Set

	dir    string
	socket string
	stop   func() error
}

// Open reads the container in st, makes the disks of its newest checkpoint in
// dir and serves them. The socket is made below dir too.
func Open(ctx context.Context, st store.Store, dir string, o ondemand.Options) (*Site, error) {
	c, err := journal.Open(ctx, st, journal.PassphraseIdentity(Secret))
	if err != nil {
		return nil, err
	}
	h, err := c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return nil, err
	}
	cp, err := h.Find("latest")
	if err != nil {
		return nil, err
	}
	s := &Site{Container: c, dir: dir, socket: filepath.Join(dir, "nbd")}
	if s.Image, err = h.Resolve(ctx, cp); err != nil {
		return nil, err
	}
	var targets []rocva.Target
	for _, d := range s.Image.Disks {
		targets = append(targets, rocva.Target{Disk: d.ID, Path: s.Path(d.ID)})
	}
	if s.Set, err = ondemand.Open(ctx, c, s.Image, targets, o); err != nil {
		return nil, err
	}
	if err := s.serve(ctx); err != nil {
		return nil, errors.Join(err, s.Set.Discard())
	}
	return s, nil
}

// Path is where a disk's file is.
func (s *Site) Path(id dr.DiskID) string { return filepath.Join(s.dir, id.String()+".raw") }

// Socket is where the disks are exported, each by its id.
func (s *Site) Socket() string { return s.socket }

func (s *Site) serve(ctx context.Context) error {
	var o nbd.Options
	for _, d := range s.Image.Disks {
		o.Exports = append(o.Exports, nbd.Export{Name: d.ID.String(), Disk: s.Set.Device(d.ID)})
	}
	server, err := nbd.NewServer(o)
	if err != nil {
		return err
	}
	ln, err := nbd.Listen(s.socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan error, 1)
	go func() { over <- server.Serve(ctx, ln) }()
	s.stop = func() error {
		cancel()
		return <-over
	}
	return nil
}

// Unserve ends the exports. No VM may use them any more.
func (s *Site) Unserve() error {
	stop := s.stop
	s.stop = func() error { return nil }
	return stop()
}

// Close ends everything and keeps the files.
func (s *Site) Close() error { return errors.Join(s.Unserve(), s.Set.Close()) }

// Discard ends everything and removes the files.
func (s *Site) Discard() error { return errors.Join(s.Unserve(), s.Set.Discard()) }

// Source is what a VM's disk is started from.
func (s *Site) Source(id dr.DiskID) hypervisor.Source {
	return hypervisor.Source{Socket: s.socket, Export: id.String(), Path: s.Path(id)}
}

// Boot starts a VM on its only disk and returns when the guest is up.
func Boot(ctx context.Context, p hypervisor.Provider, cfg dr.VMConfig, src hypervisor.Source) (hypervisor.VM, *ledger.Console, ledger.Boot, error) {
	vm, err := p.Start(ctx, hypervisor.Spec{Config: cfg, Sources: map[dr.DiskID]hypervisor.Source{cfg.Disks[0].ID: src},
		StartOptions: hypervisor.StartOptions{Accelerator: hypervisor.TCG, Serial: true, Paused: true, ExitOnReset: true}})
	if err != nil {
		return nil, nil, ledger.Boot{}, err
	}
	console, err := ledger.Attach(ctx, vm)
	var b ledger.Boot
	if err == nil {
		b, err = console.WaitReady(ctx)
	}
	if err != nil {
		err = fmt.Errorf("the guest did not come up: %w; VM %+v", err, vm.Status())
		return nil, nil, b, errors.Join(err, vm.Kill(context.WithoutCancel(ctx)))
	}
	return vm, console, b, nil
}

// Guest returns the configuration of a guest whose disk is as large as an
// image.
func Guest(name, image string) (dr.VMConfig, error) {
	fi, err := os.Stat(image)
	if err != nil {
		return dr.VMConfig{}, err
	}
	return ledger.Config(name, dr.VMID{UUID: dr.NewUUID()}, dr.DiskID{UUID: dr.NewUUID()}, fi.Size()), nil
}
