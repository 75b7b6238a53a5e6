package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// spawner starts children. It does so from one thread that lives as long as
// the bench, because the kernel delivers a child's parent-death signal when
// the thread that made the child ends, not when the process does.
type spawner struct {
	work chan func()
	logs string // directory of the children's logs
	n    int    // owned by the spawner's thread
}

func newSpawner(logs string) *spawner {
	s := &spawner{work: make(chan func()), logs: logs}
	go func() {
		runtime.LockOSThread()
		for f := range s.work {
			f()
		}
	}()
	return s
}

// proc is a child process.
type proc struct {
	name string
	cmd  *exec.Cmd
	log  string        // path of its stdout and stderr
	done chan struct{} // closed when it has ended; how is in cmd.ProcessState then
}

// start runs a program in the background.
func (s *spawner) start(name string, argv ...string) (*proc, error) {
	type result struct {
		p   *proc
		err error
	}
	reply := make(chan result)
	s.work <- func() {
		s.n++
		p, err := launch(filepath.Join(s.logs, fmt.Sprintf("%04d-%s.log", s.n, name)), name, argv)
		reply <- result{p, err}
	}
	r := <-reply
	return r.p, r.err
}

func launch(log, name string, argv []string) (*proc, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &proc{name: name, cmd: exec.Command(argv[0], argv[1:]...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// A group of its own: Ctrl-C reaches the bench, which ends its children in
	// order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // says no more than ProcessState
		close(p.done)
	}()
	return p, nil
}

// stop ends the process: SIGTERM, and SIGKILL if that does not help. Safe to
// call again.
func (p *proc) stop() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopWithin):
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.done
	return fmt.Errorf("%s did not end within %s of SIGTERM and was killed", p.name, stopWithin)
}

// kill ends the process at once and waits until it is gone.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill() // gone already is as good
	<-p.done
}

// alive returns an error when the process has ended.
func (p *proc) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended by itself (%s)\n%s", p.name, p.cmd.ProcessState, p.tail())
	default:
		return nil
	}
}

// tail returns the end of the process's log.
func (p *proc) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b[max(0, len(b)-maxLog):]))
}

// cpu returns the processor time the process has used so far, of all its
// threads. The kernel counts in hundredths of a second.
func (p *proc) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return parseCPU(string(b))
}

// parseCPU reads utime and stime from the text of a /proc/PID/stat. The
// second field is the program's name in brackets and may hold anything.
func parseCPU(stat string) (time.Duration, error) {
	const utime, stime = 11, 12 // counted from the field after the name
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, fmt.Errorf("process status %q has no name", stat)
	}
	fields := strings.Fields(stat[i+1:])
	if len(fields) <= stime {
		return 0, fmt.Errorf("process status %q is short", stat)
	}
	var ticks int64
	for _, f := range []string{fields[utime], fields[stime]} {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("process status: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// awaitNBD waits until a server greets clients on a unix socket.
func awaitNBD(ctx context.Context, socket string, p *proc) error {
	return await(ctx, readyWithin, "the greeting of "+p.name, func() (bool, error) {
		if err := p.alive(); err != nil {
			return false, err
		}
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false, nil // not there yet; alive() tells when it never will be
		}
		defer c.Close()
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return false, err
		}
		greeting := make([]byte, 8)
		if _, err := io.ReadFull(c, greeting); err != nil {
			return false, nil
		}
		if string(greeting) != "NBDMAGIC" {
			return false, fmt.Errorf("%s greets with %q", p.name, greeting)
		}
		return true, nil
	})
}

// await polls cond until it holds, fails, or the time is over.
func await(ctx context.Context, within time.Duration, what string, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("waited %s for %s in vain", within, what))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, err := cond()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run runs a program to its end and returns its standard output. It ends with
// ctx.
func (s *spawner) run(ctx context.Context, name string, argv ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWithin
	failed := make(chan error, 1)
	s.work <- func() { failed <- cmd.Start() }
	if err := <-failed; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		b := bytes.TrimSpace(stderr.Bytes())
		return nil, fmt.Errorf("%s: %w\n%s", name, err, b[max(0, len(b)-maxLog):])
	}
	return stdout.Bytes(), nil
}
