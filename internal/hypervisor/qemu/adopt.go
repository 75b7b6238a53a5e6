package qemu

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// Adopt takes over VMs that are kept, as hypervisor.Provider promises.
func (p *Provider) Adopt(ctx context.Context, workDir string) ([]hypervisor.VM, error) {
	const op = "qemu.Adopt"
	if ctx.Err() != nil {
		return nil, errs.E(op, errs.Canceled, workDir, context.Cause(ctx))
	}
	if err := p.claims.Claim(workDir); err != nil {
		return nil, err
	}
	dirs, err := runDirs(workDir)
	if err != nil {
		return nil, err
	}
	var found []hypervisor.VM
	var fail []error
	for _, dir := range dirs {
		vm, err := p.adopt(ctx, dir)
		if err != nil {
			fail = append(fail, err)
		}
		if vm != nil {
			found = append(found, vm)
			p.log.Info("vm adopted", "vm", vm.run.ID, "name", vm.run.Name, "pid", vm.proc.pid())
		}
	}
	slices.SortFunc(found, func(a, b hypervisor.VM) int { return strings.Compare(a.Name(), b.Name()) })
	return found, errors.Join(fail...)
}

// adopt takes over the VM of one directory. It returns nil when there is none
// that runs: then what it left is removed, unless it is a VM of this provider,
// or one that is not kept.
func (p *Provider) adopt(ctx context.Context, dir string) (*VM, error) {
	over, err := sweepRun(dir)
	if over || err != nil {
		return nil, err
	}
	r, err := readRun(dir)
	if errs.Is(err, errs.NotFound) {
		return nil, nil // of a VM that is not kept
	}
	if err != nil {
		return nil, err
	}
	e, err := p.reserve(r.ID, r.Name)
	if errs.Is(err, errs.Exists) {
		return nil, nil // ours
	}
	if err != nil {
		return nil, err
	}
	vm := &VM{
		run: r, dir: dir, log: p.log.With("vm", r.ID), release: func() { p.release(r.ID, e) },
		life: hypervisor.NewLifecycle(time.Now), exited: make(chan struct{}), letGone: make(chan struct{}),
	}
	if up, err := vm.meet(ctx); !up {
		return nil, err
	}
	p.mu.Lock()
	e.vm = vm
	closed := p.closed
	p.mu.Unlock()
	if closed {
		vm.letGo()
		return nil, errs.New("qemu.Adopt", errs.Canceled, r.Name, "the provider was closed")
	}
	return vm, nil
}

// sweepRun removes a run's directory if the run is over, and reports whether it was.
func sweepRun(dir string) (over bool, err error) {
	lock, held, err := hypervisor.LockDir(dir)
	if errs.Is(err, errs.NotFound) {
		return true, nil
	}
	if err != nil || held {
		return false, err
	}
	defer lock.Close()
	if err := os.RemoveAll(dir); err != nil {
		return true, errs.E("qemu.Adopt", errs.Unavailable, dir, err)
	}
	return true, nil
}

// meet connects to a QEMU that somebody else started, and learns how it is. up
// is false when it is not there, or does not answer; then the VM's place is free
// again, and what a QEMU left that ended is removed.
func (v *VM) meet(ctx context.Context) (up bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, adoptLimit, errors.New("QEMU did not answer in time"))
	defer cancel()
	conn, err := v.dial(ctx)
	if conn == nil {
		v.release()
		return false, err
	}
	proc, err := newStranger(conn)
	if err != nil {
		conn.Close()
		v.release()
		return false, err
	}
	v.proc, v.qmp = proc, newQMP(conn, v.onEvent)
	go v.qmp.run()
	go v.attend(proc)
	if err := v.acquaint(ctx); err != nil {
		if errs.Is(err, errs.Unavailable) { // it hung up: it has ended, or does in a moment
			select {
			case <-v.exited:
				return false, nil
			case <-ctx.Done():
			}
		}
		v.letGo()
		return false, errs.E("qemu.Adopt", errs.Unavailable, v.run.Name, err).
			WithRemedy("QEMU is process " + strconv.Itoa(proc.pid()) + "; see what it waits for, or end it")
	}
	return true, nil
}

// dial connects to the monitor for adopters. A QEMU that has just been started
// makes it in a moment; one that ended meanwhile never does, and then there is
// neither a connection nor an error.
func (v *VM) dial(ctx context.Context) (*net.UnixConn, error) {
	path := filepath.Join(v.dir, adoptSocket)
	tick := time.NewTicker(dialEvery)
	defer tick.Stop()
	for {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			return conn, nil
		}
		if over, err := sweepRun(v.dir); over || err != nil {
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errs.E("qemu.Adopt", errs.Canceled, v.run.Name, context.Cause(ctx))
		}
	}
}

// acquaint brings the lifecycle to where QEMU is.
func (v *VM) acquaint(ctx context.Context) error {
	if err := v.qmp.negotiate(ctx); err != nil {
		return err
	}
	var is struct {
		Running bool   `json:"running"`
		Status  string `json:"status"`
	}
	if err := v.qmp.execute(ctx, "query-status", nil, &is); err != nil {
		return err
	}
	if is.Running {
		v.life.Move(hypervisor.Running, "adopted")
	} else {
		v.life.Move(hypervisor.Paused, "adopted, "+is.Status)
	}
	return nil
}

// attend waits for the end of an adopted VM.
func (v *VM) attend(proc *stranger) {
	defer close(v.exited)
	defer proc.close()
	select {
	case <-proc.gone:
	case <-v.letGone:
		return
	}
	<-v.qmp.done // as in watch
	v.conclude(nil)
}

// stranger is a QEMU process that is no child of ours, held by a descriptor
// that means it and no later process of the same number.
type stranger struct {
	number int
	handle *os.File      // its pidfd
	gone   chan struct{} // closed when it has ended
	once   sync.Once
}

// newStranger takes hold of the process that listens at the other end of conn.
func newStranger(conn *net.UnixConn) (*stranger, error) {
	const op = "qemu.Adopt"
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errs.E(op, errs.Unavailable, "", err)
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return nil, errs.E(op, errs.Unavailable, "", err)
	}
	fd, err := unix.PidfdOpen(int(peer.Pid), unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, errs.E(op, errs.Unavailable, "process "+strconv.Itoa(int(peer.Pid)), err)
	}
	// Had the listener ended before its number was looked up, the connection
	// would have ended with it.
	if hungUp(raw) {
		unix.Close(fd)
		return nil, errs.New(op, errs.Unavailable, "process "+strconv.Itoa(int(peer.Pid)), "it ended just now")
	}
	s := &stranger{number: int(peer.Pid), handle: os.NewFile(uintptr(fd), "pidfd"), gone: make(chan struct{})}
	go s.wait()
	return s, nil
}

// hungUp reports whether the other end of a connection is closed.
func hungUp(conn interface{ Control(func(uintptr)) error }) (gone bool) {
	err := conn.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		_, err := unix.Poll(fds, 0)
		gone = err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLRDHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}

// wait closes gone when the process has ended; close ends it early.
func (s *stranger) wait() {
	raw, err := s.handle.SyscallConn()
	if err != nil {
		return
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, 0)
		ended = err == nil && fds[0].Revents != 0
		return ended
	})
	if err == nil && ended {
		close(s.gone)
	}
}

func (s *stranger) close() { s.once.Do(func() { s.handle.Close() }) }

func (s *stranger) pid() int      { return s.number }
func (s *stranger) words() string { return "" }

func (s *stranger) kill() error {
	raw, err := s.handle.SyscallConn()
	if err != nil {
		return nil // closed: it has ended, or is somebody else's by now
	}
	failed := error(nil)
	err = raw.Control(func(fd uintptr) { failed = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if err != nil || errors.Is(failed, unix.ESRCH) {
		return nil
	}
	if failed != nil {
		return errs.E("qemu.Kill", errs.Unavailable, "process "+strconv.Itoa(s.number), failed)
	}
	return nil
}
