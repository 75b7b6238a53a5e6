// Package emulator runs an object store's stand-in as a process on loopback
// for the length of a test or a benchmark: it waits until the program answers,
// and ends it, and whatever it started, by process group. The program ends
// too when its starter dies without a word. Its
// neighbours versitygw and s3rver say which programs there are.
//
// One goroutine per process waits for its end; Stop and Kill join it.
package emulator

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/errs"
)

const (
	startLimit = 60 * time.Second       // a loaded machine's time to the first answer
	stopLimit  = 10 * time.Second       // between the request to end and force
	probePause = 20 * time.Millisecond  // between looks whether it answers
	probeLimit = 2 * time.Second        // for one such look
	keptOutput = 64 << 10               // bytes of its output kept for error messages
	outputWait = 500 * time.Millisecond // for the last words of a program that ended
)

// guard becomes the program, beside a watcher that ends it when the starter's
// pipe does: no emulator outlives a test that was killed.
const guard = `exec 3<&0; (read -r _ <&3; kill $$) >/dev/null 2>&1 & exec "$@" 3<&- </dev/null`

// Spec says what to run.
type Spec struct {
	Program string   // path
	Target  string   // the make target that installs it
	Args    []string // never secrets: everybody may read them
	Env     []string // NAME=value, on top of the environment
	Ready   string   // URL that answers, with whatever status, once it serves
}

// Process is a running emulator. Its methods may be called from any goroutine.
type Process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *tail
	ended chan struct{} // closed by the goroutine that waits for the process
}

// Root is the repository's directory: the nearest one upwards with a go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errs.New("emulator.Root", errs.NotFound, "go.mod", "not below the repository").
				WithRemedy("run this inside the repository")
		}
	}
	return "", errs.E("emulator.Root", errs.Internal, "", err)
}

// FreePort returns a loopback port that was free a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, errs.E("emulator.FreePort", errs.Unavailable, "", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Start runs the program and returns when it answers. Kind NotFound, with the
// make target in the remedy, when it is not installed; Unavailable when it
// ends or does not answer in time.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	const op = "emulator.Start"
	if _, err := os.Stat(spec.Program); err != nil {
		return nil, errs.E(op, errs.NotFound, spec.Program, err).WithRemedy("install it: make " + spec.Target)
	}
	p := &Process{out: &tail{}, ended: make(chan struct{})}
	p.cmd = exec.Command("/bin/sh", append([]string{"-c", guard, "sh", spec.Program}, spec.Args...)...)
	p.cmd.Env = append(os.Environ(), spec.Env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = outputWait
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, errs.E(op, errs.Internal, spec.Program, err)
	}
	p.stdin = stdin
	if err := p.cmd.Start(); err != nil {
		return nil, errs.E(op, errs.Unavailable, spec.Program, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its output
		close(p.ended)
	}()
	if err := p.await(ctx, spec.Ready); err != nil {
		p.Kill()
		return nil, errs.E(op, errs.Unavailable, spec.Program, fmt.Errorf("%w; it said: %s", err, p.out))
	}
	return p, nil
}

// await returns when the program answers at url.
func (p *Process) await(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	client := &http.Client{Timeout: probeLimit, Transport: &http.Transport{
		DisableKeepAlives: true,
		// Only whether it answers is asked; nothing is sent that matters.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			return nil
		}
		select {
		case <-p.ended:
			return errors.New("the program ended")
		case <-ctx.Done():
			return fmt.Errorf("no answer at %s: %w", url, context.Cause(ctx))
		case <-time.After(probePause):
		}
	}
}

// Stop asks the program to end and returns when it has; by force if need be.
func (p *Process) Stop() {
	p.stdin.Close()
	select {
	case <-p.ended:
	case <-time.After(stopLimit):
		p.Kill()
	}
}

// Kill ends the program by force, as a crash would, and returns when it has
// ended.
func (p *Process) Kill() {
	select {
	case <-p.ended: // the group's number may be somebody else's by now
		return
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // gone already: what was wanted
	<-p.ended
}

// Output is the end of what the program has printed.
func (p *Process) Output() string { return p.out.String() }

// tail keeps the end of what is written to it. Safe for concurrent use.
type tail struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - keptOutput; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
