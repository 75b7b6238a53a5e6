package qemu

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// storageDaemon is looked for on PATH.
const storageDaemon = "qemu-storage-daemon"

// Monitor is how one running QEMU is reached.
type Monitor struct {
	QMP   string // unix socket of its QMP monitor; nobody else may use it meanwhile
	Agent string // unix socket of its guest agent's channel; "": none
}

// LiveOptions are what a Platform is made from.
type LiveOptions struct {
	VMs []Monitor
	// Dir is where private directories for sockets are made; "": the system's
	// temporary directory. QEMU must be able to reach it.
	Dir string
	// Reconnect is how long QEMU holds a disk's requests while the export is
	// away, where an I/O error would reach the guest; 0: 20 s. A disk whose
	// errors stop the VM (werror=stop, rerror=stop) has no need of it: the VM
	// waits as long as it takes, and can be helped at once. QEMU tries a dead
	// export at once, where its watchdog may answer already, and after 1, 3, 7, 15
	// and 31 s: a new server, or FailOpen of a disk that needs this delay, must
	// come before the last of these that lies within it, and the guest waits until
	// the next of them.
	Reconnect time.Duration
	Log       *slog.Logger // nil: nothing is logged
}

// Platform drives QEMU processes that somebody else started, each by its QMP
// socket. It connects again whenever one went away, so a VM that ended is
// listed as powered off until its QEMU is there again; one that was never
// reached is not listed. Safe for concurrent use.
type Platform struct {
	opt     LiveOptions // immutable, as the next three
	log     *slog.Logger
	changes *hypervisor.ChangeQueue
	stop    context.CancelFunc
	running sync.WaitGroup // the goroutine of each VM
	vms     []*LiveVM      // immutable

	mu     sync.Mutex
	closed bool // guarded by mu
}

var (
	_ hypervisor.Platform = (*Platform)(nil)
	_ hypervisor.LiveVM   = (*LiveVM)(nil)
)

// NewPlatform begins to connect to every monitor and returns once each was
// tried. Kinds: Invalid (no monitor, or a path too long for a socket),
// Unavailable (Dir cannot be used).
func NewPlatform(ctx context.Context, opt LiveOptions) (*Platform, error) {
	if err := opt.check(); err != nil {
		return nil, err
	}
	if opt.Reconnect <= 0 {
		opt.Reconnect = reconnectSeconds * time.Second
	}
	if opt.Dir == "" {
		opt.Dir = os.TempDir()
	}
	p := &Platform{opt: opt, log: opt.Log, changes: hypervisor.NewChangeQueue(time.Now)}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	sweep(opt.Dir)
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop = stop
	for _, m := range opt.VMs {
		p.vms = append(p.vms, newLiveVM(p, m))
	}
	tried := make(chan struct{}, len(p.vms))
	for _, v := range p.vms {
		p.running.Go(func() { v.keep(run, func() { tried <- struct{}{} }) })
	}
	for range p.vms {
		select {
		case <-tried:
		case <-ctx.Done():
			p.Close()
			return nil, errs.E("qemu.NewPlatform", errs.Canceled, "", context.Cause(ctx))
		}
	}
	return p, nil
}

func (o *LiveOptions) check() error {
	if len(o.VMs) == 0 || len(o.VMs) > maxLiveVMs {
		return errs.New("qemu.NewPlatform", errs.Invalid, "", "no QMP socket is named, or too many").
			WithRemedy("name the QMP socket of each QEMU")
	}
	for _, m := range o.VMs {
		for _, path := range []string{m.QMP, m.Agent} {
			if err := checkSocketPath(path); err != nil {
				return err
			}
		}
		if m.QMP == "" {
			return errs.New("qemu.NewPlatform", errs.Invalid, "", "a VM without a QMP socket")
		}
	}
	return nil
}

// Name returns "qemu".
func (p *Platform) Name() string { return "qemu" }

// Changes returns the changes of all VMs.
func (p *Platform) Changes() <-chan hypervisor.Change { return p.changes.Changes() }

// Close disconnects and ends the storage daemons. What is attached stays so.
func (p *Platform) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.running.Wait()
	for _, v := range p.vms {
		v.close()
	}
	p.changes.Close()
	return nil
}

// usable refuses after Close and for a ctx that has ended.
func (p *Platform) usable(ctx context.Context, op string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errs.New(op, errs.Unavailable, "", "the driver was closed")
	}
	if ctx.Err() != nil {
		return errs.E(op, errs.Canceled, "", context.Cause(ctx))
	}
	return nil
}

// VMs lists the VMs that were reached at least once, in order of name.
func (p *Platform) VMs(ctx context.Context) ([]hypervisor.LiveVM, error) {
	if err := p.usable(ctx, "qemu.VMs"); err != nil {
		return nil, err
	}
	var known []*LiveVM
	for _, v := range p.vms {
		if v.name() != "" {
			known = append(known, v)
		}
	}
	slices.SortFunc(known, func(a, b *LiveVM) int { return strings.Compare(a.name(), b.name()) })
	all := make([]hypervisor.LiveVM, len(known))
	for i, v := range known {
		all[i] = v
	}
	return all, nil
}

// VM finds one by name or UUID.
func (p *Platform) VM(ctx context.Context, nameOrID string) (hypervisor.LiveVM, error) {
	const op = "qemu.VM"
	if err := p.usable(ctx, op); err != nil {
		return nil, err
	}
	var found *LiveVM
	for _, v := range p.vms {
		name, id := v.identity()
		if name == "" || name != nameOrID && id.String() != nameOrID {
			continue
		}
		if found != nil {
			return nil, errs.New(op, errs.Conflict, nameOrID, "several VMs are named so").
				WithRemedy("name the VM by its UUID")
		}
		found = v
	}
	if found == nil {
		return nil, errs.New(op, errs.NotFound, nameOrID, "no such VM behind the QMP sockets that are configured")
	}
	return found, nil
}

// privateDir makes a directory of mode 0700 whose lock is held as long as the
// file returned is open, so that sweep tells it from what a dead process left.
func privateDir(in string) (string, *os.File, error) {
	dir, err := os.MkdirTemp(in, livePrefix)
	if err != nil {
		return "", nil, errs.E("qemu.privateDir", errs.Unavailable, in, err)
	}
	f, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		removeDir(dir, f)
		return "", nil, errs.E("qemu.privateDir", errs.Unavailable, dir, err)
	}
	return dir, f, nil
}

// removeDir removes a private directory and ends its lock, which may be nil.
// What cannot be removed now, sweep removes later.
func removeDir(dir string, lock *os.File) {
	_ = os.RemoveAll(dir)
	if lock != nil {
		lock.Close()
	}
}

// livePrefix begins the name of every private directory.
const livePrefix = "holdfast-live-"

// sweep removes private directories whose owner died.
func sweep(in string) {
	dirs, _ := filepath.Glob(filepath.Join(in, livePrefix+"*"))
	for _, dir := range dirs {
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			removeDir(dir, nil)
		}
		f.Close()
	}
}

// lookStorageDaemon finds the program that serves other formats than raw.
func lookStorageDaemon() (string, error) {
	binary, err := exec.LookPath(storageDaemon)
	if err != nil {
		return "", errs.E("qemu.Prepare", errs.Unavailable, storageDaemon, err).
			WithRemedy("install it: apt-get install qemu-utils (or protect the VM in capture mode mirror)")
	}
	return binary, nil
}
