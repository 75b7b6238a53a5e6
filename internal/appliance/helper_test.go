package appliance

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
	"holdfast/internal/recovery"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
}

// shortDir is a directory for sockets.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "hfap")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// boxes are processes of a test: each serves local calls.
type boxes struct {
	t     testing.TB
	calls func(args []string) map[string]control.Handler // of a process with a command line

	mu      sync.Mutex
	running map[string]*process // guarded by mu, by command line
	events  []string            // guarded by mu
	broken  error               // guarded by mu: what Launch answers
	stuck   error               // guarded by mu: what End answers
}

type process struct {
	pid  int
	stop func()
}

func newBoxes(t testing.TB, calls func(args []string) map[string]control.Handler) *boxes {
	b := &boxes{t: t, calls: calls, running: map[string]*process{}}
	t.Cleanup(func() {
		for _, p := range b.running {
			p.stop()
		}
	})
	return b
}

func (b *boxes) all() Boxes { return Boxes{Launch: b.launch, Running: b.find, End: b.end} }

// said are the events so far; they are forgotten.
func (b *boxes) said() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.events
	b.events = nil
	return all
}

func (b *boxes) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = err
}

func (b *boxes) launch(ctx context.Context, _, name, socket string, args ...string) (recovery.Process, error) {
	b.mu.Lock()
	if b.broken != nil {
		defer b.mu.Unlock()
		b.events = append(b.events, "tried "+name)
		return recovery.Process{}, b.broken
	}
	key := strings.Join(args, " ")
	if p := b.running[key]; p != nil {
		b.mu.Unlock()
		return recovery.Process{Name: name, PID: p.pid}, nil
	}
	config, err := os.ReadFile(args[len(args)-1])
	if err != nil {
		b.mu.Unlock()
		return recovery.Process{}, err
	}
	alive, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	p := &process{pid: len(b.events) + 1, stop: func() { stop(); <-over }}
	b.running[key] = p
	b.events = append(b.events, "start "+name)
	b.mu.Unlock()
	go func() {
		defer close(over)
		if err := control.ServeLocal(alive, socket, b.calls(append(args, string(config)))); err != nil {
			b.t.Error(err)
		}
	}()
	for !answers(ctx, socket) {
		if ctx.Err() != nil {
			return recovery.Process{}, ctx.Err()
		}
		time.Sleep(time.Millisecond) // between questions; the answer decides
	}
	return recovery.Process{Name: name, PID: p.pid}, nil
}

func (b *boxes) find(name string, args ...string) []recovery.Process {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.running[strings.Join(args, " ")]; p != nil {
		return []recovery.Process{{Name: name, PID: p.pid}}
	}
	return nil
}

func (b *boxes) end(_ context.Context, want recovery.Process) error {
	b.mu.Lock()
	if b.stuck != nil {
		defer b.mu.Unlock()
		return b.stuck
	}
	var p *process
	for key, v := range b.running {
		if v.pid == want.PID {
			p = v
			delete(b.running, key)
		}
	}
	b.events = append(b.events, "end "+want.Name)
	b.mu.Unlock()
	if p != nil {
		p.stop()
	}
	return nil
}

// kill ends the processes as a crash does.
func (b *boxes) kill() {
	b.mu.Lock()
	all := b.running
	b.running = map[string]*process{}
	b.mu.Unlock()
	for _, p := range all {
		p.stop()
	}
}

func status(v any) map[string]control.Handler {
	return map[string]control.Handler{"/status": func(context.Context, []byte) (any, error) { return v, nil }}
}

func drvaDisk(state, host string) drva.Disk {
	return drva.Disk{ID: dr.DiskID{UUID: dr.NewUUID()}, State: state, Host: host}
}

func drvaHost(id dr.HostID, name, state string) drva.Host {
	return drva.Host{ID: id, Name: name, State: state}
}
