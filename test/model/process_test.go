package model

import (
	"context"
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

// asHoldfast makes this test binary the holdfast binary in a child process.
const asHoldfast = "HOLDFAST_MODEL_MAIN"

// TestMain lets the test binary serve as the product's: the code under test is
// the same, and nothing has to be built first.
func TestMain(m *testing.M) {
	if os.Getenv(asHoldfast) != "" {
		os.Exit(cli.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// process is one running appliance.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string        // file
	done   chan struct{} // closed when it is gone
	err    error         // valid once done is closed
	doomed atomic.Bool   // its end is the test's doing
}

// startProcess starts an appliance. It dies with the test, whatever becomes of
// that. unexpected hears of an end that is not the test's doing.
func startProcess(dir, name string, unexpected func(*process), args ...string) (*process, error) {
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
	p := &process{name: name, cmd: exec.Command(binary, args...), log: path, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asHoldfast+"=1")
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
		if !p.doomed.Load() {
			unexpected(p)
		}
	}()
	return p, nil
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill() {
	p.doomed.Store(true)
	_ = p.cmd.Process.Kill() // gone already is as good
	<-p.done
}

// signal sends a signal that does not end the process.
func (p *process) signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// failWrites makes the process die of its next write to a file, and waits until
// it has, which takes no longer than until its next write.
func (p *process) failWrites() error {
	const limit = 5 * time.Second
	p.doomed.Store(true)
	if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{}, nil); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("%s lives without writing", p.name)
	}
}

// stop asks the process to end, and demands that it does so cleanly.
func (p *process) stop(limit time.Duration) error {
	p.doomed.Store(true)
	if err := p.signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	select {
	case <-p.done:
	case <-time.After(limit):
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.name, limit)
	}
	if p.err != nil {
		return fmt.Errorf("%s ended with %w: %s", p.name, p.err, tail(p.log))
	}
	return nil
}

// tail returns the last words of a log.
func tail(path string) string {
	const most = 6 << 10
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// waitStatus polls a status socket until ok says so.
func waitStatus[T any](ctx context.Context, socket, what string, limit time.Duration, ok func(*T) bool) error {
	const every = 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(every)
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

// processesIn lists processes whose command line names a file in dir.
func processesIn(t *testing.T, dir string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(b), dir+"/") { // an error: it ended
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}
