package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/cli"
	"holdfast/internal/control"
)

const (
	// asHoldfast makes a test binary the holdfast binary in a child process.
	asHoldfast = "HOLDFAST_TEST_MAIN"
	// tailBytes is how much of a log an error quotes.
	tailBytes = 6 << 10
	// pollEvery is how often a status socket is asked.
	pollEvery = 20 * time.Millisecond
	// writeWait is how long a process with FailWrites may go without a write.
	writeWait = time.Minute
	// quitWait is how long a command may take to end once it is told to.
	quitWait = time.Minute
)

// Main turns the test binary into the product when it was started as such; it
// does not return then. TestMain calls it first.
func Main() {
	if os.Getenv(asHoldfast) != "" {
		os.Exit(cli.Main(os.Args[1:]))
	}
}

// Process is one running box.
type Process struct {
	Name string
	Log  string        // file with all it said
	Done chan struct{} // closed when it is gone
	Err  error         // how it ended; valid once Done is closed

	cmd    *exec.Cmd
	clock  *clock      // nil: the machine's
	doomed atomic.Bool // its end is the test's doing
}

// Start starts the product with args; its log is dir/name.log. It dies with the
// test, whatever becomes of that. unexpected hears of an end that is not the
// test's doing.
func Start(dir, name string, unexpected func(*Process), args ...string) (*Process, error) {
	return start(dir, name, unexpected, (*exec.Cmd).Start, args)
}

// StartOnClock is Start for a process whose wall clock SetClock can set.
func StartOnClock(dir, name string, unexpected func(*Process), args ...string) (*Process, error) {
	var c *clock
	p, err := start(dir, name, unexpected, func(cmd *exec.Cmd) error {
		return startTraced(cmd, func(pid int) (err error) {
			c, err = takeClock(pid)
			return err
		})
	}, args)
	if err == nil {
		p.clock = c
	}
	return p, err
}

func start(dir, name string, unexpected func(*Process), begin func(*exec.Cmd) error, args []string) (*Process, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+".log")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &Process{Name: name, cmd: exec.Command(binary, args...), Log: path, Done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asHoldfast+"=1")
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := begin(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		p.Err = p.cmd.Wait()
		close(p.Done)
		if !p.doomed.Load() {
			unexpected(p)
		}
	}()
	return p, nil
}

// Doom says that the process's end, from now on, is the test's doing.
func (p *Process) Doom() { p.doomed.Store(true) }

// Kill ends the process at once and waits until it is gone.
func (p *Process) Kill() {
	p.Doom()
	_ = p.cmd.Process.Kill() // gone already is as good
	<-p.Done
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal that does not end the process.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// SetClock sets the wall clock of a process that StartOnClock started: so far
// ahead of the machine's, or, negative, behind it, in whole seconds.
func (p *Process) SetClock(ahead time.Duration) error {
	if err := p.clock.set(ahead); err != nil {
		return fmt.Errorf("the clock of %s: %w", p.Name, err)
	}
	return nil
}

// FailWrites makes the process die of its next write to a file, and waits until
// it has, which takes no longer than until its next write.
func (p *Process) FailWrites() error {
	p.Doom()
	if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{}, nil); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	select {
	case <-p.Done:
		return nil
	case <-time.After(writeWait):
		return fmt.Errorf("%s lives without writing", p.Name)
	}
}

// Stop asks the process to end, and demands that it does so cleanly.
func (p *Process) Stop(limit time.Duration) error {
	p.Doom()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	select {
	case <-p.Done:
	case <-time.After(limit):
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.Name, limit)
	}
	if p.Err != nil {
		return fmt.Errorf("%s ended with %w: %s", p.Name, p.Err, Tail(p.Log))
	}
	return nil
}

// Command runs the product to its end and decodes the JSON it prints into out,
// which may be nil.
func Command(ctx context.Context, out any, args ...string) error {
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), asHoldfast+"=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = quitWait
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("holdfast %s: %w: %s", args[0], errors.Join(err, ctx.Err()), stderr.String())
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(stdout.Bytes(), out)
}

// Tail returns the last words of a log.
func Tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-tailBytes):]))
}

// WaitStatus polls a status socket until ok says so; what names the wait.
func WaitStatus[T any](ctx context.Context, socket, what string, limit time.Duration, ok func(*T) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last string
	for {
		var s T
		err := control.CallLocal(ctx, socket, "/status", nil, &s)
		if err == nil && ok(&s) {
			return nil
		}
		if ctx.Err() == nil {
			last = fmt.Sprintf("%+v, %v", s, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w; last status: %s", what, ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// ProcessesIn lists processes whose command line names a file in dir.
func ProcessesIn(t testing.TB, dir string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(b), dir+"/") { // an error: it ended
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}
