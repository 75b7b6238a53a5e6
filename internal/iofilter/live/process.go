package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
)

// Running is a process of this machine, held by a descriptor that means it and
// no later one of the same number. Close lets go of it.
type Running struct {
	fd   int
	pid  int
	ping func(context.Context) error
	gone chan struct{}
	stop int // an eventfd that ends the wait
	over chan struct{}
}

// OpenProcess takes hold of the process pid that began at start, as StartOf
// says. ping asks it whether it lives. Errors: NotFound (it has ended, or the
// number is another's now), Unavailable.
func OpenProcess(pid int, start uint64, ping func(context.Context) error) (*Running, error) {
	const op = "live.OpenProcess"
	object := "process " + strconv.Itoa(pid)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		kind := errs.Unavailable
		if errors.Is(err, unix.ESRCH) {
			kind = errs.NotFound
		}
		return nil, errs.E(op, kind, object, err)
	}
	// Asked after the descriptor was opened, the answer is about what it holds.
	if got, err := StartOf(pid); err != nil || got != start {
		unix.Close(fd)
		return nil, errs.E(op, errs.NotFound, object, fmt.Errorf("it is another one now: %w", err))
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		unix.Close(fd)
		return nil, errs.E(op, errs.Unavailable, object, err)
	}
	p := &Running{fd: fd, pid: pid, ping: ping, gone: make(chan struct{}), stop: stop, over: make(chan struct{})}
	go p.wait()
	return p, nil
}

// wait closes gone when the process ends.
func (p *Running) wait() {
	defer close(p.over)
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}, {Fd: int32(p.stop), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || fds[1].Revents != 0:
			return
		}
		close(p.gone)
		return
	}
}

// Ping asks the process whether it lives.
func (p *Running) Ping(ctx context.Context) error { return p.ping(ctx) }

// Gone is closed when the process has ended.
func (p *Running) Gone() <-chan struct{} { return p.gone }

// Kill ends the process and waits until it is gone. Errors: Denied,
// Unavailable, Canceled.
func (p *Running) Kill(ctx context.Context) error {
	const op = "live.Kill"
	object := "process " + strconv.Itoa(p.pid)
	if err := unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		kind := errs.Unavailable
		if errors.Is(err, unix.EPERM) {
			kind = errs.Denied
		}
		return errs.E(op, kind, object, err)
	}
	select {
	case <-p.gone:
		return nil
	case <-ctx.Done():
		return errs.E(op, errs.Canceled, object, context.Cause(ctx))
	}
}

// Stop asks the process to end, and kills it when it has not after limit; it
// returns when it is gone. Errors as of Kill.
func (p *Running) Stop(ctx context.Context, limit time.Duration) error {
	// One that cannot be asked is killed, or says why not.
	if unix.PidfdSendSignal(p.fd, unix.SIGTERM, nil, 0) == nil {
		t := time.NewTimer(limit)
		defer t.Stop()
		select {
		case <-p.gone:
			return nil
		case <-t.C:
		case <-ctx.Done():
			return errs.E("live.Stop", errs.Canceled, "process "+strconv.Itoa(p.pid), context.Cause(ctx))
		}
	}
	return p.Kill(ctx)
}

// Close lets go of the process.
func (p *Running) Close() error {
	one := [8]byte{1}
	_, err := unix.Write(p.stop, one[:])
	<-p.over
	return errors.Join(err, unix.Close(p.stop), unix.Close(p.fd))
}

// StartOf is when a process began, in clock ticks since the machine did: with
// its number, its name for as long as the machine runs. Error: NotFound.
func StartOf(pid int) (uint64, error) {
	const op = "live.StartOf"
	object := "process " + strconv.Itoa(pid)
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, errs.E(op, errs.NotFound, object, err)
	}
	// The second field is the program's name in parentheses, which may hold
	// anything; the start is the 22nd.
	i := bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[i+1:])
	if i < 0 || len(fields) < 20 {
		return 0, errs.New(op, errs.Unavailable, object, "the kernel tells nothing of it")
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, errs.E(op, errs.Unavailable, object, err)
	}
	return start, nil
}
