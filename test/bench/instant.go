package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/qemu"
	"holdfast/internal/nbd"
	"holdfast/internal/rocva/ondemand"
	"holdfast/internal/store"
	"holdfast/internal/store/dir"
	"holdfast/test/instant"
)

// What a guest waits for when it boots before its disk is there, and what it
// feels of the disk while that is made.
var (
	bootFigures = []string{"instant_boot_minus_local_boot_s", "instant_boot_minus_local_boot_16g_s"}
	tenFigures  = []string{"ten_vms_instant_over_local"}
	readFigures = []string{"hydrated_read_vs_local", "hydrating_read_vs_local"}
	traceFigure = "traced_boot_over_untraced"
)

const (
	instantRounds = 5
	tenVMs        = 10
	// bootsAtOnce is how many guests boot at the same time: as many as this
	// machine has processors for.
	bootsAtOnce = 2
	// filledOf: one chunk of so many behind the guest's own content is filled.
	filledOf = 8
	readSize = gib
	// farStore is how late a store answers that is not in the house.
	farStore = 20 * time.Millisecond
)

// randread is a guest that reads all over its disk.
var randread = workload{name: "randread", rw: "randread", bs: 4096, depth: 16}

// instantStage measures instant recovery, from a store in a directory.
func (b *bench) instantStage(ctx context.Context) error {
	for i, size := range []int64{gib, 16 * gib} {
		if b.quick {
			size = gib / 4
		}
		if b.wants(bootFigures[i]) {
			if err := b.instantBoot(ctx, bootFigures[i], size); err != nil {
				return err
			}
		}
	}
	if b.wants(traceFigure) {
		if err := b.tracedBoot(ctx); err != nil {
			return err
		}
	}
	if b.wants(tenFigures...) {
		if err := b.tenBoots(ctx); err != nil {
			return err
		}
	}
	if b.wants(readFigures...) {
		return b.instantReads(ctx)
	}
	return nil
}

// inStage runs do with a directory of its own and a driver.
func (b *bench) inStage(name string, do func(at string, p *qemu.Provider) error) (err error) {
	at := filepath.Join(b.dir, name)
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(at)) }()
	p, err := qemu.New(qemu.Options{CacheDir: at, DieWithParent: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	return do(at, p)
}

// guestImage makes a guest's disk of size bytes: its own content, and behind it
// one chunk of filledOf filled with what does not compress.
func guestImage(ctx context.Context, path string, size int64) error {
	src, err := ledger.BuildImage(ctx)
	if err != nil {
		return err
	}
	if err := ledger.CopyImage(ctx, path, src); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	own, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		return err
	}
	return fill(ctx, f, own, size, filledOf)
}

// fill fills one chunk of each so many.
func fill(ctx context.Context, f *os.File, from, to, each int64) error {
	random := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, dr.ChunkSize)
	for off := from; off+dr.ChunkSize <= to && ctx.Err() == nil; off += each * dr.ChunkSize {
		if _, err := random.Read(buf); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf, off); err != nil {
			return err
		}
	}
	return errors.Join(ctx.Err(), f.Sync())
}

// publishImages publishes VMs with a copy of an image each to a store below at.
func publishImages(ctx context.Context, at, image string, vms []dr.VMConfig) (*dir.Store, error) {
	path := filepath.Join(at, "store")
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	st, err := dir.Open(path)
	if err != nil {
		return nil, err
	}
	images := make([]string, len(vms))
	for i := range images {
		images[i] = image
	}
	return st, instant.Publish(ctx, st, vms, images)
}

// instantBoot compares the time from the decision to recover to a guest that is
// up, with that of a boot from the plain image.
func (b *bench) instantBoot(ctx context.Context, name string, size int64) error {
	return b.inStage(name, func(at string, p *qemu.Provider) error {
		image := filepath.Join(at, "image")
		if err := guestImage(ctx, image, size); err != nil {
			return err
		}
		cfg, err := instant.Guest("guest", image)
		if err != nil {
			return err
		}
		st, err := publishImages(ctx, at, image, []dr.VMConfig{cfg})
		if err != nil {
			return err
		}
		var more []float64
		for round := range min(b.rounds, instantRounds) {
			local, err := localBoot(ctx, p, cfg, image)
			if err != nil {
				return err
			}
			opened, ours, _, err := b.bootFromStore(ctx, p, st, fmt.Sprintf("%s-%d", name, round), ondemand.Options{})
			if err != nil {
				return err
			}
			more = append(more, (ours - local).Seconds())
			b.notes = append(b.notes, fmt.Sprintf("%s round %d: local %.2f s, instant %.2f s, of which %.2f s until disks are served", name, round+1, local.Seconds(), ours.Seconds(), opened.Seconds()))
		}
		f := spread(name, "s", fmt.Sprintf("the same guest booted from the plain image; disk of %d MiB, one eighth filled, hydrated meanwhile", size/mib), bound{"<=", 3}, more)
		b.figures = append(b.figures, f)
		return nil
	})
}

// localBoot is how long a guest takes to be up from a plain image, which is
// changed by it.
func localBoot(ctx context.Context, p *qemu.Provider, cfg dr.VMConfig, image string) (time.Duration, error) {
	began := time.Now()
	vm, console, _, err := instant.Boot(ctx, p, cfg, hypervisor.Source{Path: image})
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, errors.Join(console.Close(), vm.Kill(ctx))
}

// bootFromStore is how long a guest takes to be up from the container alone:
// opening it, reading its history and making the disks count too, and are opened.
func (b *bench) bootFromStore(ctx context.Context, p *qemu.Provider, st store.Store, name string, o ondemand.Options) (opened, took time.Duration, trace ondemand.Trace, err error) {
	began := time.Now()
	site, end, err := b.site(ctx, st, name, o)
	if err != nil {
		return 0, 0, trace, err
	}
	opened = time.Since(began)
	defer func() { err = errors.Join(err, end()) }()
	for _, cfg := range site.Image.VMs {
		vm, console, _, err := instant.Boot(ctx, p, cfg, site.Source(cfg.Disks[0].ID))
		if err != nil {
			return 0, 0, trace, err
		}
		took = time.Since(began)
		if err := errors.Join(console.Close(), vm.Kill(ctx)); err != nil {
			return 0, 0, trace, err
		}
	}
	return opened, took, site.Set.Trace(func(dr.DiskID) bool { return true }), nil
}

// tracedBoot compares boots from a store that answers late, with and without what an
// earlier boot has read.
func (b *bench) tracedBoot(ctx context.Context) error {
	return b.inStage("traced", func(at string, p *qemu.Provider) error {
		image := filepath.Join(at, "image")
		if err := guestImage(ctx, image, int64(b.sized(gib, gib/4))); err != nil {
			return err
		}
		cfg, err := instant.Guest("guest", image)
		if err != nil {
			return err
		}
		st, err := publishImages(ctx, at, image, []dr.VMConfig{cfg})
		if err != nil {
			return err
		}
		far := instant.Late{Store: st, Delay: farStore}
		var ratios []float64
		for round := range min(b.rounds, instantRounds) {
			_, without, trace, err := b.bootFromStore(ctx, p, far, fmt.Sprintf("untraced-%d", round), ondemand.Options{})
			if err != nil {
				return err
			}
			_, with, _, err := b.bootFromStore(ctx, p, far, fmt.Sprintf("traced-%d", round), ondemand.Options{Prefetch: []ondemand.Trace{trace}})
			if err != nil {
				return err
			}
			b.remark("%s round %d: %.2f s without, %.2f s with a trace of %d chunks", traceFigure, round+1, without.Seconds(), with.Seconds(), len(trace.Chunks))
			ratios = append(ratios, with.Seconds()/without.Seconds())
		}
		b.figures = append(b.figures, spread(traceFigure, "ratio", fmt.Sprintf("the same boot without a trace; each read of the store takes %s longer", farStore), bound{"<=", 1}, ratios))
		return nil
	})
}

// site opens the newest checkpoint in st and begins to hydrate it; end takes all
// of it away.
func (b *bench) site(ctx context.Context, st store.Store, name string, o ondemand.Options) (*instant.Site, func() error, error) {
	at := filepath.Join(b.sockets, name) // short enough for a socket
	if err := os.Mkdir(at, 0o755); err != nil {
		return nil, nil, err
	}
	site, err := instant.Open(ctx, st, at, o)
	if err != nil {
		return nil, nil, err
	}
	running, stop := context.WithCancel(ctx)
	over := make(chan error, 1)
	go func() { over <- site.Set.Run(running) }()
	return site, func() error {
		stop()
		<-over // it was ended in its middle, or had ended
		return errors.Join(site.Discard(), os.RemoveAll(at))
	}, nil
}

// tenBoots compares ten guests booted instantly, some at once, with ten booted
// from plain images.
func (b *bench) tenBoots(ctx context.Context) error {
	return b.inStage("ten", func(at string, p *qemu.Provider) error {
		image := filepath.Join(at, "image")
		if err := guestImage(ctx, image, 256*mib); err != nil {
			return err
		}
		var vms []dr.VMConfig
		for i := range tenVMs {
			cfg, err := instant.Guest(fmt.Sprintf("guest%d", i), image)
			if err != nil {
				return err
			}
			vms = append(vms, cfg)
			if err := ledger.CopyImage(ctx, image+cfg.Name, image); err != nil {
				return err
			}
		}
		st, err := publishImages(ctx, at, image, vms)
		if err != nil {
			return err
		}
		local, err := bootAll(ctx, p, vms, func(cfg dr.VMConfig) hypervisor.Source { return hypervisor.Source{Path: image + cfg.Name} })
		if err != nil {
			return err
		}
		began := time.Now()
		site, end, err := b.site(ctx, st, "ten", ondemand.Options{})
		if err != nil {
			return err
		}
		opened := time.Since(began)
		ours, err := bootAll(ctx, p, vms, func(cfg dr.VMConfig) hypervisor.Source { return site.Source(cfg.Disks[0].ID) })
		if err = errors.Join(err, end()); err != nil {
			return err
		}
		ours += opened
		b.notes = append(b.notes, fmt.Sprintf("ten VMs, %d at once: local %.1f s, instant %.1f s", bootsAtOnce, local.Seconds(), ours.Seconds()))
		b.figures = append(b.figures, spread(tenFigures[0], "ratio", "ten boots from plain images, as many at once", bound{"<=", 1.3}, []float64{ours.Seconds() / local.Seconds()}))
		return nil
	})
}

// bootAll boots VMs, bootsAtOnce at a time, and kills each once it is up.
func bootAll(ctx context.Context, p *qemu.Provider, vms []dr.VMConfig, source func(dr.VMConfig) hypervisor.Source) (time.Duration, error) {
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(bootsAtOnce)
	for _, cfg := range vms {
		g.Go(func() error {
			vm, console, _, err := instant.Boot(ctx, p, cfg, source(cfg))
			if err != nil {
				return err
			}
			return errors.Join(console.Close(), vm.Kill(ctx))
		})
	}
	err := g.Wait()
	return time.Since(began), err
}

// instantReads compares random reads of a disk that is being made, and of one
// that is whole and still served on demand, with those of a plain image.
func (b *bench) instantReads(ctx context.Context) error {
	at := filepath.Join(b.dir, "reads")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(at)
	size := int64(readSize)
	if b.quick {
		size = gib / 4
	}
	image := filepath.Join(at, "image")
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(size), fill(ctx, f, 0, size, 1), f.Close())
	}
	if err != nil {
		return err
	}
	cfg, err := instant.Guest("reads", image)
	if err != nil {
		return err
	}
	st, err := publishImages(ctx, at, image, []dr.VMConfig{cfg})
	if err != nil {
		return err
	}
	var whole, under []float64
	for round := range min(b.rounds, instantRounds) {
		local, err := b.localReads(ctx, image, size)
		if err != nil {
			return err
		}
		hydrating, hydrated, err := b.demandReads(ctx, st, fmt.Sprintf("reads-%d", round), size)
		if err != nil {
			return err
		}
		b.notes = append(b.notes, fmt.Sprintf("reads round %d: local %.0f, hydrating %.0f, hydrated %.0f IOPS", round+1, local, hydrating, hydrated))
		whole, under = append(whole, hydrated/local), append(under, hydrating/local)
	}
	against := "the plain image served by the same server; 4 KiB at random, 16 at once, 1 GiB in the page cache; IOPS"
	for _, f := range []figure{
		spread(readFigures[0], "ratio", against, bound{">=", 0.95}, whole),
		spread(readFigures[1], "ratio", against+", from the first moment on", bound{">=", 0.5}, under),
	} {
		if b.wants(f.Name) {
			b.figures = append(b.figures, f)
		}
	}
	return nil
}

func (b *bench) localReads(ctx context.Context, image string, size int64) (float64, error) {
	f, err := nbd.OpenFile(image, nbd.FileOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	socket := filepath.Join(b.sockets, "plain")
	stop, err := serveHere(ctx, socket, nbd.Export{File: f})
	if err != nil {
		return 0, errors.Join(err, f.Close())
	}
	l, err := runFio(ctx, b.sp, randread, socket, size, b.seconds)
	return l.IOPS, errors.Join(err, stop(), f.Close())
}

// demandReads reads while the disk is made, and again when it is whole.
func (b *bench) demandReads(ctx context.Context, st *dir.Store, name string, size int64) (hydrating, hydrated float64, err error) {
	// It is to hydrate while the guest reads: a boot has had its time.
	site, end, err := b.site(ctx, st, name, ondemand.Options{BootWindow: -1})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, end()) }()
	l, err := runFio(ctx, b.sp, randread, site.Socket(), size, b.seconds)
	if err != nil {
		return 0, 0, err
	}
	hydrating = l.IOPS
	select {
	case <-site.Set.Whole():
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	l, err = runFio(ctx, b.sp, randread, site.Socket(), size, b.seconds)
	return hydrating, l.IOPS, err
}
