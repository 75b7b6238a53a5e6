package nbd_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/nbd"
	"holdfast/internal/nbd/nbdtest"
)

// front serves a Remote of what listens at socket, on a server of its own.
func front(t *testing.T, o nbd.RemoteOptions) *rig {
	t.Helper()
	remote, err := nbd.NewRemote(o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := nbd.NewServer(nbd.Options{Exports: []nbd.Export{{Disk: remote}}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{server: s, socket: filepath.Join(t.TempDir(), "front")}
	ln, err := nbd.Listen(r.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
			return
		}
		remote.Close()
	})
	return r
}

func TestContractRemote(t *testing.T) {
	nbdtest.Run(t, func(t *testing.T, size int64) nbdtest.Dial {
		back := setup{size: size}.start(t)
		return front(t, nbd.RemoteOptions{Network: "unix", Address: back.socket, Size: size}).dial
	})
}

// TestContractRemoteStorageDaemon fronts a qcow2 image that QEMU's storage
// daemon exports.
func TestContractRemoteStorageDaemon(t *testing.T) {
	nbdtest.Run(t, func(t *testing.T, size int64) nbdtest.Dial {
		dir := t.TempDir()
		image, socket, pid := filepath.Join(dir, "i.qcow2"), filepath.Join(dir, "s"), filepath.Join(dir, "pid")
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", image, "48M").CombinedOutput(); err != nil {
			t.Fatalf("qemu-img: %v: %s (run 'make deps')", err, out)
		}
		daemon := exec.Command("qemu-storage-daemon", "--blockdev", "driver=qcow2,node-name=n,discard=unmap,file.driver=file,file.filename="+image,
			"--nbd-server", "addr.type=unix,addr.path="+socket, "--export", "type=nbd,id=e,node-name=n,name=disk,writable=on", "--pidfile", pid)
		daemon.Stderr = os.Stderr
		if err := daemon.Start(); err != nil {
			t.Fatalf("%v (run 'make deps')", err)
		}
		t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
		return front(t, nbd.RemoteOptions{Network: "unix", Address: socket, Export: "disk", Size: size, Retry: 30 * time.Second}).dial
	})
}

// submit runs one operation on a device.
func submit(d nbd.Device, kind nbd.Kind, flags nbd.Flags, p []byte, off int64) (out error) {
	var wg sync.WaitGroup
	wg.Add(1)
	op := nbd.NewOp(func(_ *nbd.Op, err error) { out = err; wg.Done() })
	op.Kind, op.Flags, op.Data, op.Offset, op.Length = kind, flags, p, off, int64(len(p))
	d.Submit(op)
	wg.Wait()
	return out
}

// restartable is a server that can be ended and started again on one socket.
type restartable struct {
	t      *testing.T
	file   *nbd.File
	socket string
	stop   func()
}

func (s *restartable) start() {
	s.t.Helper()
	server, err := nbd.NewServer(nbd.Options{Exports: []nbd.Export{{File: s.file}}})
	if err != nil {
		s.t.Fatal(err)
	}
	ln, err := nbd.Listen(s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); server.Serve(ctx, ln) }()
	s.stop = func() { cancel(); <-ended }
}

func newRestartable(t *testing.T) *restartable {
	path := filepath.Join(t.TempDir(), "d")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := nbd.OpenFile(path, nbd.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := &restartable{t: t, file: f, socket: filepath.Join(t.TempDir(), "s")}
	s.start()
	t.Cleanup(func() { s.stop(); f.Close() })
	return s
}

func newRemote(t *testing.T, o nbd.RemoteOptions) *nbd.Remote {
	t.Helper()
	o.Network = "unix"
	r, err := nbd.NewRemote(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// TestRemoteReconnects restarts the server in each state a remote can be in.
func TestRemoteReconnects(t *testing.T) {
	p := make([]byte, 4096)
	for name, c := range map[string]struct {
		through bool
		before  func(r *nbd.Remote) error
		ok      bool
	}{
		"nothing written": {false, func(r *nbd.Remote) error { _, err := r.ReadAt(p, 0); return err }, true},
		"flushed": {false, func(r *nbd.Remote) error {
			if err := submit(r, nbd.Write, 0, p, 0); err != nil {
				return err
			}
			return submit(r, nbd.Flush, 0, nil, 0)
		}, true},
		"forced":    {false, func(r *nbd.Remote) error { return submit(r, nbd.Write, nbd.FUA, p, 0) }, true},
		"through":   {true, func(r *nbd.Remote) error { return submit(r, nbd.Write, 0, p, 0) }, true},
		"unflushed": {false, func(r *nbd.Remote) error { return submit(r, nbd.Write, 0, p, 0) }, false},
		"half flushed": {false, func(r *nbd.Remote) error {
			if err := submit(r, nbd.Flush, 0, nil, 0); err != nil {
				return err
			}
			return submit(r, nbd.WriteZeroes, 0, p, 0)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newRestartable(t)
			r := newRemote(t, nbd.RemoteOptions{Address: s.socket, Size: 1 << 20, WriteThrough: c.through})
			if err := c.before(r); err != nil {
				t.Fatal(err)
			}
			s.stop()
			s.start()
			// The first may still meet the end of the old connection.
			_, err := r.ReadAt(p, 0)
			if err != nil {
				_, err = r.ReadAt(p, 0)
			}
			if c.ok && err != nil || !c.ok && !errs.Is(err, errs.Unavailable) {
				t.Errorf("after a restart: %v, want success %v", err, c.ok)
			}
			if !c.ok {
				if err := submit(r, nbd.Flush, 0, nil, 0); err == nil {
					t.Error("a flush covered writes that may be lost")
				}
			}
		})
	}
}

func TestRemoteIsBounded(t *testing.T) {
	nowhere := newRemote(t, nbd.RemoteOptions{Address: filepath.Join(t.TempDir(), "none"), Size: 4096, Retry: 50 * time.Millisecond})
	if _, err := nowhere.ReadAt(make([]byte, 10), 0); !errs.Is(err, errs.Unavailable) {
		t.Errorf("without a server: %v, want kind unavailable", err)
	}
	if err := submit(nowhere, nbd.Flush, 0, nil, 0); err != nil {
		t.Errorf("a flush of nothing without a server: %v", err)
	}
	s := newRestartable(t)
	small := newRemote(t, nbd.RemoteOptions{Address: s.socket, Size: 4096})
	if err := submit(small, nbd.Write, 0, make([]byte, 10), 0); !errs.Is(err, errs.Invalid) {
		t.Errorf("with a size that is not the export's: %v, want kind invalid", err)
	}
	if n, err := newRemote(t, nbd.RemoteOptions{Address: s.socket, Size: 1 << 20}).ReadAt(make([]byte, 100), 1<<20-10); n != 10 || err != io.EOF {
		t.Errorf("read over the end: %d, %v", n, err)
	}
	if _, err := nbd.NewRemote(nbd.RemoteOptions{}); !errs.Is(err, errs.Invalid) {
		t.Errorf("no address: %v, want kind invalid", err)
	}
}

// held keeps every operation until release is closed.
type held struct {
	below   nbd.Device
	release chan struct{}
}

func (h held) Submit(op *nbd.Op) {
	go func() { <-h.release; h.below.Submit(op) }()
}

// TestRemoteGivesUpOnASilentServer: an operation the server never answers
// ends, and so do those after it.
func TestRemoteGivesUpOnASilentServer(t *testing.T) {
	release := make(chan struct{})
	s := setup{size: 1 << 20, export: func(e *nbd.Export) {
		e.Layer = func(below nbd.Device) nbd.Device { return held{below, release} }
	}}.start(t)
	t.Cleanup(func() { close(release) })
	r := newRemote(t, nbd.RemoteOptions{Address: s.socket, Size: 1 << 20, Timeout: 50 * time.Millisecond})
	for _, kind := range []nbd.Kind{nbd.Write, nbd.Read} {
		if err := submit(r, kind, 0, make([]byte, 4096), 0); !errs.Is(err, errs.Unavailable) {
			t.Errorf("kind %d: %v, want kind unavailable", kind, err)
		}
	}
}

// TestRemoteNextData walks a disk with holes.
func TestRemoteNextData(t *testing.T) {
	s := setup{size: 8 << 20}.start(t)
	for _, off := range []int64{1 << 20, 5 << 20} {
		if _, err := s.file.WriteAt([]byte{1}, off); err != nil {
			t.Fatal(err)
		}
	}
	r := newRemote(t, nbd.RemoteOptions{Address: s.socket, Size: 8 << 20})
	var data int64
	for off := int64(0); ; {
		start, end, err := r.NextData(off)
		if err != nil || start < off || end < start {
			t.Fatalf("NextData(%d): %d, %d, %v", off, start, end, err)
		}
		if start == r.Size() {
			break
		}
		data += end - start
		off = end
	}
	if data < 2 || data > 1<<20 {
		t.Errorf("%d bytes of data found, want two small extents", data)
	}
}

// TestRemoteMoves: a disk that is reached nowhere fails at once; then it is
// reached at one place, and at another.
func TestRemoteMoves(t *testing.T) {
	p := make([]byte, 4096)
	r := newRemote(t, nbd.RemoteOptions{Size: 1 << 20, WriteThrough: true, Retry: time.Hour})
	if err := submit(r, nbd.Read, 0, p, 0); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("nowhere: %v", err)
	}
	a, b := newRestartable(t), newRestartable(t)
	for i, s := range []*restartable{a, b} {
		r.Move(s.socket, "")
		p[0] = byte(i + 1)
		if err := submit(r, nbd.Write, 0, p, 0); err != nil {
			t.Fatal(err)
		}
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range []*restartable{a, b} {
		if _, err := s.file.ReadAt(p, 0); err != nil || p[0] != byte(i+1) {
			t.Errorf("place %d holds %d (%v)", i+1, p[0], err)
		}
	}
	if err := r.Resize(0); !errs.Is(err, errs.Invalid) {
		t.Errorf("no size: %v", err)
	}
}
