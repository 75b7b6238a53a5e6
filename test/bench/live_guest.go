package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/hypervisortest/pattern"
	"holdfast/internal/hypervisor/hypervisortest/writerguest"
	"holdfast/internal/hypervisor/qemu"
)

const (
	// guestWithin bounds the guest's boot and its end, under emulation and load.
	guestWithin = 3 * time.Minute
	// guestSteps is how many writes more show that a guest goes on.
	guestSteps = 50
	// liveVM and liveDevice are the names of the guest and of its disk.
	liveVM, liveDevice = "writer", "d0"
)

// liveSpec says what guest to boot.
type liveSpec struct {
	name   string
	image  string // its disk, zero at first
	format string
	policy string // werror and rerror; "": QEMU's own, by which errors reach the guest
	// watched: the host component drives the guest's monitor, not the bench.
	watched bool
}

// liveGuest is a VM that writes all the time and knows what it was
// acknowledged, and the product's driver that takes its disk over.
type liveGuest struct {
	liveSpec
	*writerguest.Guest
	qemu     *proc
	port     net.Conn
	side     *monitor       // a second monitor; the first is the driver's alone
	qmp      string         // socket of the first monitor
	platform *qemu.Platform // nil: it is the host component's
	vm       hypervisor.LiveVM
}

// bootGuest returns when the guest writes.
func (b *bench) bootGuest(ctx context.Context, spec liveSpec) (_ *liveGuest, err error) {
	g := &liveGuest{liveSpec: spec}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("guest %s: %w", spec.name, err), g.close())
		}
	}()
	at := filepath.Join(b.sockets, spec.name)
	if err := g.start(b, at); err != nil {
		return nil, err
	}
	err = await(ctx, guestWithin, "the serial port of "+spec.name, func() (bool, error) {
		var err error
		if g.port, err = net.Dial("unix", at+"-serial"); err != nil {
			return false, g.qemu.alive() // not there yet
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	g.Guest = writerguest.Follow(g.port)
	if g.side, err = dialMonitor(ctx, at+"-side"); err != nil {
		return nil, err
	}
	if err := g.side.execute("cont", nil, nil); err != nil {
		return nil, err
	}
	if err := g.wait(ctx, g.Ready(), g.Over(), "READY"); err != nil {
		return nil, err
	}
	if g.qmp = at + "-qmp"; spec.watched {
		return g, nil
	}
	opt := qemu.LiveOptions{VMs: []qemu.Monitor{{QMP: g.qmp}}, Dir: b.sockets}
	if g.platform, err = qemu.NewPlatform(ctx, opt); err != nil {
		return nil, err
	}
	g.vm, err = g.platform.VM(ctx, liveVM)
	return g, err
}

// start starts QEMU, its sockets' names beginning with at.
func (g *liveGuest) start(b *bench, at string) (err error) {
	dir, err := filepath.Abs(b.guest)
	if err != nil {
		return err
	}
	kernel, initrd := writerguest.Files(dir)
	for _, f := range []string{kernel, initrd} {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("%w (make guest builds it)", err)
		}
	}
	device := "virtio-blk-pci,drive=disk,id=" + liveDevice
	if g.policy != "" {
		device += ",werror=" + g.policy + ",rerror=" + g.policy
	}
	argv := append([]string{"qemu-system-x86_64"}, writerguest.Args(dir, at+"-serial", 1)...)
	argv = append(argv, "-name", "guest="+liveVM,
		"-qmp", "unix:"+at+"-qmp,server=on,wait=off", "-qmp", "unix:"+at+"-side,server=on,wait=off",
		"-blockdev", "driver="+g.format+",node-name=disk,file.driver=file,file.filename="+g.image, "-device", device)
	g.qemu, err = b.sp.start(g.name, argv...)
	return err
}

// wait waits until a channel is closed, or over is first; nil never is.
func (g *liveGuest) wait(ctx context.Context, c, over <-chan struct{}, what string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, guestWithin, fmt.Errorf("waited %s for %s of the guest in vain", guestWithin, what))
	defer cancel()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-over:
		return fmt.Errorf("the guest ended before its %s: %s", what, g.Fatal())
	}
}

// goesOn waits until the guest was acknowledged more writes.
func (g *liveGuest) goesOn(ctx context.Context) error {
	from, err := g.side.acknowledged(liveDevice)
	if err != nil {
		return err
	}
	_, err = g.acknowledgedAfter(ctx, from+guestSteps)
	return err
}

// acknowledgedAfter waits until more than n writes were acknowledged and
// returns when that was seen.
func (g *liveGuest) acknowledgedAfter(ctx context.Context, n uint64) (time.Time, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, guestWithin, errors.New("the guest's writes do not go on"))
	defer cancel()
	tick := time.NewTicker(lookAtGuest)
	defer tick.Stop()
	for {
		now, err := g.side.acknowledged(liveDevice)
		if err != nil || now > n {
			return time.Now(), err
		}
		select {
		case <-tick.C:
		case <-g.Over():
			return time.Time{}, fmt.Errorf("the guest ended: %s", g.Fatal())
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		}
	}
}

// verify ends the guest and proves that its disk holds every write it was
// acknowledged, whole. It returns how many.
func (g *liveGuest) verify(ctx context.Context, scratch string) (uint64, error) {
	if err := g.Stop(); err != nil {
		return 0, err
	}
	if err := g.wait(ctx, g.Over(), nil, "last word"); err != nil {
		return 0, err
	}
	if g.Fatal() != "" {
		return 0, fmt.Errorf("the guest says: %s", g.Fatal())
	}
	if err := g.wait(ctx, g.qemu.done, nil, "end"); err != nil {
		return 0, err
	}
	return checkWrites(g.liveSpec, scratch, g.Last())
}

// checkWrites compares the image of a guest that has ended with what it was
// acknowledged, worker by worker, and returns how many writes that is.
func checkWrites(spec liveSpec, scratch string, counts []uint64) (uint64, error) {
	if len(counts) != pattern.Workers {
		return 0, fmt.Errorf("the guest counts for %d workers, want %d", len(counts), pattern.Workers)
	}
	problems, err := writerguest.CheckImage(spec.image, spec.format, scratch, counts)
	if err != nil {
		return 0, err
	}
	if len(problems) > 0 {
		return 0, fmt.Errorf("%w of %s:\n%s", errLostWrites, spec.name, strings.Join(problems, "\n"))
	}
	sum := uint64(0)
	for _, n := range counts {
		sum += n
	}
	return sum, nil
}

// close ends the guest if it still runs.
func (g *liveGuest) close() error {
	var all []error
	if g.platform != nil {
		all = append(all, g.platform.Close())
	}
	if g.side != nil {
		all = append(all, g.side.c.Close())
	}
	if g.port != nil {
		all = append(all, g.port.Close())
	}
	if g.qemu != nil {
		g.qemu.kill()
	}
	return errors.Join(all...)
}
