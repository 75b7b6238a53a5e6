package iofilter

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// slowSource is a disk that its hypervisor writes to itself: a read returns
// what was there at one moment, later.
type slowSource struct {
	mu   sync.Mutex
	data []byte
	lag  func() time.Duration
}

func (s *slowSource) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(s.lag())
	s.mu.Lock()
	n := copy(p, s.data[off:])
	s.mu.Unlock()
	time.Sleep(s.lag())
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *slowSource) write(p []byte, off int64) {
	time.Sleep(s.lag())
	s.mu.Lock()
	copy(s.data[off:], p)
	s.mu.Unlock()
	time.Sleep(s.lag())
}

func (s *slowSource) Size() int64                              { return int64(len(s.data)) }
func (s *slowSource) NextData(off int64) (int64, int64, error) { return off, s.Size(), nil }
func (s *slowSource) Submit(op *nbd.Op)                        { op.Complete(nil) }

// mirrorWay is how a hypervisor mirrors.
type mirrorWay struct {
	exportFirst bool // the export hears of a write before the disk has it
	early       bool // the disk is read before the mirror stands
}

func (w mirrorWay) write(r *rig, s *slowSource, p []byte, off int64) {
	if !w.exportFirst {
		s.write(p, off)
	}
	<-r.mirrored(off, p).done
	if w.exportFirst {
		s.write(p, off)
	}
}

// mirrored sends a write to the export of a mirrored disk.
func (r *rig) mirrored(off int64, p []byte) *call {
	c := &call{done: make(chan struct{})}
	op := nbd.NewOp(func(_ *nbd.Op, err error) { c.err = err; close(c.done) })
	op.Kind, op.Offset, op.Length, op.Data = nbd.Write, off, int64(len(p)), p
	t := &tap{disk: r.o.disks[0], primary: &mirrored{}}
	t.Submit(op)
	return c
}

// mirrorRun has workers write, each to its own part, whole blocks and odd
// ranges, while the disk is copied, and reports whether the log ends with what
// the disk holds.
func mirrorRun(t *testing.T, way mirrorWay, seed uint64) (same bool) {
	const size, workers = 1 << 20, 4
	bubble(t, func(t *testing.T) {
		r := newRig(t, dr.Async, size)
		rng := source(seed)
		var dice sync.Mutex
		s := &slowSource{data: make([]byte, size), lag: func() time.Duration {
			dice.Lock()
			defer dice.Unlock()
			return time.Duration(rng.IntN(3000)) * time.Microsecond
		}}
		d := r.o.disks[0]
		d.primary, d.away = s, !way.early
		r.run()
		defer r.end()
		if way.early {
			for range 30 { // unseen: the mirror does not stand
				s.write(fill(7, dr.BlockSize), int64(rng.IntN(size/dr.BlockSize))*dr.BlockSize)
			}
		}
		d.setAway(false)
		var wg sync.WaitGroup
		for w := range int64(workers) {
			mine := source(seed<<8 | uint64(w))
			wg.Go(func() {
				const part = size / workers
				for range 60 {
					off, n := mine.Int64N(part/512-64)*512, (1+mine.Int64N(63))*512
					if mine.IntN(2) == 0 {
						off, n = roundDown(off), roundUp(n)
					}
					p := fill(byte(1+mine.IntN(255)), int(n))
					way.write(r, s, p, w*part+off)
				}
			})
		}
		wg.Wait()
		r.settle(time.Hour)
		same = bytes.Equal(r.drva.image(0, size), s.data)
	})
	return same
}

// TestMirrorLogEqualsDisk: the reasoning at the type mirrored, and that each of
// its premises is needed.
func TestMirrorLogEqualsDisk(t *testing.T) {
	for name, way := range map[string]mirrorWay{
		"as QEMU does": {}, "the export first": {exportFirst: true}, "read too early": {early: true},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := 0
			for seed := range uint64(20) {
				if !mirrorRun(t, way, seed) {
					wrong++
					if way == (mirrorWay{}) {
						t.Errorf("seed %d: the log does not hold what the disk does", seed)
					}
				}
			}
			if way != (mirrorWay{}) && wrong == 0 {
				t.Error("a mirror that must lose writes was not noticed")
			}
			t.Logf("%d of 20 differ", wrong)
		})
	}
}

// content is an NBD server of a file, to be a disk's source.
type content struct {
	t      *testing.T
	path   string
	socket string
	stop   func()
}

func (c *content) serve() {
	c.t.Helper()
	file, err := nbd.OpenFile(c.path, nbd.FileOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	server, err := nbd.NewServer(nbd.Options{Exports: []nbd.Export{{Name: "disk", File: file}}})
	if err != nil {
		c.t.Fatal(err)
	}
	ln, err := nbd.Listen(c.socket)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, ln) }()
	c.stop = sync.OnceFunc(func() { cancel(); <-ended; file.Close() })
	c.t.Cleanup(c.stop)
}

// TestSourceInPath: a disk that is served from an export of its content is
// written there; when that dies the guest gets errors, in time, and when it is
// back, elsewhere, all is made up for.
func TestSourceInPath(t *testing.T) {
	r := runFilter(t)
	vm := r.vm("a", 1<<20)
	d := &vm.Disks[0]
	c := &content{t: t, path: image(t, r.dir, "content.raw", 2<<20), socket: filepath.Join(r.dir, "content")}
	c.serve()
	d.Source = &Source{Size: 2 << 20, WriteThrough: true}
	if err := r.Protect(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.Path + ".holdfast"); err != nil {
		t.Error("no sidecar beside the image:", err)
	}
	cl := r.dial(d)
	defer func() { cl.Close() }()
	if _, err := cl.ReadAt(t.Context(), make([]byte, 4096), 0); err == nil {
		t.Error("a disk was read that nobody knows the place of")
	}
	if err := r.Reach(t.Context(), d.ID, Source{Socket: c.socket, Export: "disk", Size: 2 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.WriteAt(t.Context(), fill(3, 9000), 300, 0); err != nil {
		t.Fatal(err)
	}
	r.synced()
	c.stop()
	began := time.Now()
	if _, err := cl.WriteAt(t.Context(), fill(4, 4096), 8192, 0); err == nil {
		t.Error("a write was acknowledged that nobody has")
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the guest waited %v", took)
	}
	c.socket = filepath.Join(r.dir, "elsewhere")
	c.serve()
	if err := r.Reach(t.Context(), d.ID, Source{Socket: c.socket, Export: "disk", Size: 2 << 20}); err != nil {
		t.Fatal(err)
	}
	if p := r.Protected()[0].Disks[0].Source; p.Socket != c.socket || !p.WriteThrough {
		t.Errorf("the configuration: %+v", p)
	}
	if _, err := cl.WriteAt(t.Context(), fill(5, 4096), 16384, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is made up for", func() bool {
		s, _ := r.disk(d.ID)
		return s.State == Streaming && s.DirtyBytes == 0 && r.Status().Stream.Durable+1 == r.Status().Stream.Next
	})
	want, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.drva.image(0, 2<<20), want) {
		t.Error("the log does not hold what the disk does")
	}
	cl.Close()
	if err := os.Truncate(c.path, 3<<20); err != nil {
		t.Fatal(err)
	}
	c.stop()
	c.serve()
	if err := r.Reach(t.Context(), d.ID, Source{Socket: c.socket, Export: "disk", Size: 3 << 20}); err != nil {
		t.Fatal(err)
	}
	cl = r.dial(d)
	if cl.Size() != 3<<20 {
		t.Errorf("the grown disk has %d bytes", cl.Size())
	}
	if _, err := cl.WriteAt(t.Context(), fill(6, 4096), 3<<20-4096, 0); err != nil {
		t.Error(err)
	}
}

// TestMirroredDiskIsNotWritten, and has no sidecar.
func TestMirroredDiskIsNotWritten(t *testing.T) {
	r := runFilter(t)
	vm := r.vm("a", 1<<20)
	d := &vm.Disks[0]
	c := &content{t: t, path: image(t, r.dir, "content.raw", 1<<20), socket: filepath.Join(r.dir, "content")}
	before, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	c.serve()
	d.Source, d.Mirror = &Source{Socket: c.socket, Export: "disk", Size: 1 << 20}, true
	if err := r.Protect(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	r.synced()
	cl := r.dial(d)
	defer cl.Close()
	if _, err := cl.WriteAt(t.Context(), fill(3, 8192), 4096, 0); err != nil {
		t.Fatal(err)
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.synced()
	after, err := os.ReadFile(c.path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the source was written to (%v)", err)
	}
	if img := r.drva.image(0, 1<<20); !bytes.Equal(img[4096:12288], fill(3, 8192)) {
		t.Error("the write is not in the log")
	}
	if _, err := os.Stat(d.Path + ".holdfast"); err == nil {
		t.Error("a mirrored disk has a sidecar")
	}
	// The source dies: an odd write, which needs it, is remembered instead.
	c.stop()
	if _, err := cl.WriteAt(t.Context(), fill(4, 100), 50, 0); err != nil {
		t.Error("a guest heard of the source's end:", err)
	}
	if s, _ := r.disk(d.ID); s.DirtyBytes == 0 {
		t.Error("an odd write that could not be captured was forgotten")
	}
	if err := r.Reach(t.Context(), dr.DiskID{UUID: dr.NewUUID()}, Source{}); !errs.Is(err, errs.NotFound) {
		t.Errorf("a disk that is not there: %v", err)
	}
}
