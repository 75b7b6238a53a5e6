package nbd_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/nbd"
	"holdfast/internal/nbd/nbdtest"
)

// rig is a server over one export, ended with the test.
type rig struct {
	server *nbd.Server
	socket string
	disk   string
	file   *nbd.File
}

// setup is how a rig differs from the plain one.
type setup struct {
	size   int64
	file   nbd.FileOptions
	export func(*nbd.Export)
	server func(*nbd.Options)
}

func (s setup) start(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{socket: filepath.Join(dir, "s"), disk: filepath.Join(dir, "d")}
	if err := os.WriteFile(r.disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(r.disk, s.size); err != nil {
		t.Fatal(err)
	}
	f, err := nbd.OpenFile(r.disk, s.file)
	if err != nil {
		t.Fatal(err)
	}
	r.file = f
	e := nbd.Export{File: f}
	if s.export != nil {
		s.export(&e)
	}
	o := nbd.Options{Exports: []nbd.Export{e}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if s.server != nil {
		s.server(&o)
	}
	r.server, err = nbd.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := nbd.Listen(r.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
			return // the disk may still be in use
		}
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r
}

func (r *rig) dial(t *testing.T) *nbd.Client {
	t.Helper()
	c, err := nbd.Dial(context.Background(), "unix", r.socket, nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (r *rig) raw(t *testing.T) net.Conn {
	t.Helper()
	nc, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// contract runs the suite against a setup.
func contract(t *testing.T, s setup) {
	nbdtest.Run(t, func(t *testing.T, size int64) nbdtest.Dial {
		s.size = size
		return s.start(t).dial
	})
}

func TestContractBuffered(t *testing.T) { contract(t, setup{}) }

func TestContractDirect(t *testing.T) {
	contract(t, setup{file: nbd.FileOptions{Direct: true}})
}

func TestContractDirectWorkers(t *testing.T) {
	contract(t, setup{file: nbd.FileOptions{Direct: true}, server: func(o *nbd.Options) { o.NoRing = true }})
}

func TestContractDelayed(t *testing.T) {
	contract(t, setup{export: func(e *nbd.Export) { e.Layer = newDelayLayer }})
}

func TestContractDirectDelayed(t *testing.T) {
	contract(t, setup{file: nbd.FileOptions{Direct: true}, export: func(e *nbd.Export) { e.Layer = newDelayLayer }})
}

// delayLayer parks every second operation before the primary and every third
// completion after it, and lets them go from another goroutine, last in first
// out: what a filter that waits for a remote acknowledgement does at worst.
type delayLayer struct {
	below nbd.Device
	n     atomic.Uint64

	mu      sync.Mutex
	parked  []func()
	running bool
}

func newDelayLayer(below nbd.Device) nbd.Device { return &delayLayer{below: below} }

func (d *delayLayer) Submit(op *nbd.Op) {
	op.Intercept(d)
	if d.n.Add(1)%2 == 0 {
		d.later(func() { d.below.Submit(op) })
		return
	}
	d.below.Submit(op)
}

func (d *delayLayer) Completed(op *nbd.Op, err error) {
	if op.Kind == nbd.Write && len(op.Data) != int(op.Length) {
		panic("payload gone before the completion")
	}
	if d.n.Add(1)%3 == 0 {
		d.later(func() { op.Complete(err) })
		return
	}
	op.Complete(err)
}

// later runs f from another goroutine, newest first.
func (d *delayLayer) later(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parked = append(d.parked, f)
	if !d.running {
		d.running = true
		go d.release()
	}
}

func (d *delayLayer) release() {
	for {
		d.mu.Lock()
		n := len(d.parked)
		if n == 0 {
			d.running = false
			d.mu.Unlock()
			return
		}
		f := d.parked[n-1]
		d.parked = d.parked[:n-1]
		d.mu.Unlock()
		f()
	}
}
