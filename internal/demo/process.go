package demo

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
	"sync"
	"syscall"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/errs"
)

// tailBytes is how much of a process's last words an error quotes.
const tailBytes = 2 << 10

// process is one running appliance of the holdfast binary.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the process is gone; cmd.ProcessState is valid then
}

// startProcess starts the binary with args; its log goes to dir/name.log. It
// dies with this process, whatever becomes of that.
func startProcess(binary, dir, name string, args ...string) (*process, error) {
	path := filepath.Join(dir, name+".log")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errs.E("demo.start", errs.Unavailable, path, err)
	}
	defer out.Close()
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, errs.E("demo.start", errs.Unavailable, name, err)
	}
	p := &process{name: name, cmd: cmd, log: path, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(p.done)
	}()
	return p, nil
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // gone already is as good
	<-p.done
}

// failed describes why a process that should run does not.
func (p *process) failed() error {
	return errs.E("demo", errs.Unavailable, p.name, fmt.Errorf("ended by itself (%s): %s", p.cmd.ProcessState, tail(p.log)))
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-tailBytes):]))
}

// waitStatus polls the process's status socket until ok says so.
func waitStatus[T any](ctx context.Context, p *process, socket string, ok func(T) bool) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var s T
		if err := control.CallLocal(ctx, socket, "/status", nil, &s); err == nil && ok(s) {
			return nil
		}
		select {
		case <-p.done:
			return p.failed()
		case <-ctx.Done():
			return errs.E("demo.waitStatus", errs.Canceled, p.name, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// command runs the binary to its end and decodes the JSON it prints; out may
// be nil, and gets the text when it is a *string.
func command(ctx context.Context, binary string, out any, args ...string) error {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return errs.E("demo.command", errs.Canceled, args[0], context.Cause(ctx))
		}
		return errs.E("demo.command", errs.Unavailable, "holdfast "+args[0], errors.Join(err, errors.New(strings.TrimSpace(stderr.String()))))
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *string:
		*out = strings.TrimSpace(stdout.String())
		return nil
	}
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		return errs.E("demo.command", errs.Corrupt, "holdfast "+args[0], err)
	}
	return nil
}

// killAll kills processes at the same moment and waits for all.
func killAll(ps []*process) {
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(p.kill)
	}
	wg.Wait()
}
