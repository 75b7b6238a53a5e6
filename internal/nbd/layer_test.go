package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// gateLayer holds every completed operation until it is opened.
type gateLayer struct {
	below nbd.Device
	open  chan struct{}
	held  atomic.Int64
}

func (g *gateLayer) over(below nbd.Device) nbd.Device {
	g.below = below
	return g
}

func (g *gateLayer) Submit(op *nbd.Op) {
	op.Intercept(g)
	g.below.Submit(op)
}

func (g *gateLayer) Completed(op *nbd.Op, err error) {
	g.held.Add(1)
	go func() {
		<-g.open
		op.Complete(err)
	}()
}

// waitHeld waits until n operations are held, and then a little for more.
func (g *gateLayer) waitHeld(t *testing.T, n int64) {
	t.Helper()
	await(t, fmt.Sprintf("%d operations held", n), func() bool { return g.held.Load() >= n })
}

// await waits for a condition, for at most a minute.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// funcLayer is a layer made of functions.
type funcLayer struct {
	submit    func(op *nbd.Op, below nbd.Device)
	completed func(op *nbd.Op, err error)
	below     nbd.Device
}

func (f *funcLayer) Submit(op *nbd.Op) {
	if f.completed != nil {
		op.Intercept(f)
	}
	f.submit(op, f.below)
}

func (f *funcLayer) Completed(op *nbd.Op, err error) { f.completed(op, err) }

// TestLayerErrors checks how an error of a layer reaches the client, at once
// and from another goroutine.
func TestLayerErrors(t *testing.T) {
	cases := []struct {
		err  error
		want syscall.Errno
	}{
		{syscall.EIO, syscall.EIO},
		{fmt.Errorf("wrapped: %w", syscall.ENOSPC), syscall.ENOSPC},
		{errs.New("x", errs.Full, "", "full"), syscall.ENOSPC},
		{errs.New("x", errs.Denied, "", "no"), syscall.EPERM},
		{errs.New("x", errs.Fenced, "", "old"), syscall.EPERM},
		{errs.New("x", errs.Invalid, "", "odd"), syscall.EINVAL},
		{errs.New("x", errs.Corrupt, "", "rot"), syscall.EIO},
		{errs.New("x", errs.Canceled, "", "over"), syscall.ESHUTDOWN},
		{nbd.ErrNotSupported, syscall.EOPNOTSUPP},
		{errors.New("whatever"), syscall.EIO},
	}
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		var n atomic.Int64
		s.export = func(e *nbd.Export) {
			e.Layer = func(below nbd.Device) nbd.Device {
				return &funcLayer{submit: func(op *nbd.Op, _ nbd.Device) {
					err := cases[op.Offset].err
					if n.Add(1)%2 == 0 {
						go op.Complete(err)
						return
					}
					op.Complete(err)
				}}
			}
		}
		c := s.start(t).dial(t)
		for i, k := range cases {
			for range 2 {
				if _, err := c.WriteAt(t.Context(), []byte{1}, int64(i), 0); !errors.Is(err, k.want) {
					t.Errorf("write failing with %v: %v", k.err, err)
				}
				if _, err := c.ReadAt(t.Context(), make([]byte, 100), int64(i)); !errors.Is(err, k.want) {
					t.Errorf("read failing with %v: %v", k.err, err)
				}
			}
		}
	})
}

// TestPayload checks what a layer sees: the whole payload of a write, still
// after the primary has taken it and while the completion is held back, and
// of a read what was read.
func TestPayload(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 8 << 20
		s.export = func(e *nbd.Export) {
			e.Layer = func(below nbd.Device) nbd.Device {
				f := &funcLayer{below: below, submit: func(op *nbd.Op, below nbd.Device) { below.Submit(op) }}
				f.completed = func(op *nbd.Op, err error) {
					go func() { // later, when the loop has received much more
						for _, b := range op.Data {
							if b != byte(op.Offset>>16)+1 {
								t.Errorf("%v at %d holds %d", op.Kind, op.Offset, b)
								break
							}
						}
						op.Complete(err)
					}()
				}
				return f
			}
		}
		c := s.start(t).dial(t)
		done := make(chan error)
		for i := range 64 {
			go func() {
				p := bytes.Repeat([]byte{byte(i) + 1}, 40000)
				for range 5 {
					if _, err := c.WriteAt(t.Context(), p, int64(i)<<16, 0); err != nil {
						done <- err
						return
					}
				}
				_, err := c.ReadAt(t.Context(), p, int64(i)<<16)
				done <- err
			}()
		}
		for range 64 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestPromptReplies completes one operation from another goroutine while the
// loop has nothing else to do: its reply must not wait for anything.
func TestPromptReplies(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		parked := make(chan *nbd.Op, 8)
		s.export = func(e *nbd.Export) {
			e.Layer = func(below nbd.Device) nbd.Device {
				f := &funcLayer{below: below, submit: func(op *nbd.Op, below nbd.Device) { below.Submit(op) }}
				f.completed = func(op *nbd.Op, err error) { parked <- op }
				return f
			}
		}
		w := wire{t, s.start(t).raw(t)}.enter(false)
		for i := range uint64(20) {
			w.request(0, uint16(i%2), i, 0, 512, make([]byte, 512*(i%2)))
			op := <-parked
			op.Complete(nil)
			if no := w.simple(i); no != 0 {
				t.Errorf("errno %d", no)
			}
			if i%2 == 0 {
				w.get(512)
			}
		}
	})
}

// TestHangUpWaits closes a connection whose operations a layer still holds:
// the export is in use until they have completed.
func TestHangUpWaits(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		gate := &gateLayer{open: make(chan struct{})}
		s.export = func(e *nbd.Export) { e.Name, e.Layer = "x", gate.over }
		r := s.start(t)
		w := wire{t, r.raw(t)}
		w.greet(3)
		if w.ask(7, infoQuery("x")) != ackReply {
			t.Fatal("go refused")
		}
		for i := range uint64(10) {
			w.request(0, uint16(i%2), i, 0, 4096, make([]byte, 4096*(i%2)))
		}
		gate.waitHeld(t, 10)
		w.nc.Close()
		removed := make(chan error, 1)
		go func() { removed <- r.server.RemoveExport(context.Background(), "x") }()
		select {
		case <-removed:
			t.Fatal("the export was given up with operations in flight")
		case <-time.After(50 * time.Millisecond):
		}
		close(gate.open)
		if err := <-removed; err != nil {
			t.Error(err)
		}
	})
}

// TestDrain ends a server while a layer holds operations: their replies still
// go out.
func TestDrain(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		gate := &gateLayer{open: make(chan struct{})}
		s.export = func(e *nbd.Export) { e.Name, e.Layer = "x", gate.over }
		r := s.start(t)
		w := wire{t, r.raw(t)}
		w.greet(3)
		if w.ask(7, infoQuery("x")) != ackReply {
			t.Fatal("go refused")
		}
		w.request(0, 1, 1, 0, 4096, make([]byte, 4096))
		w.request(0, 3, 2, 0, 0, nil)
		gate.waitHeld(t, 2)
		removed := make(chan error, 1)
		go func() { removed <- r.server.RemoveExport(context.Background(), "x") }()
		await(t, "the export to be gone", func() bool {
			return errs.Is(r.server.AddExport(nbd.Export{Name: "x", File: r.file}), errs.Exists) == false
		})
		close(gate.open)
		for range 2 {
			if b := w.get(16); be.Uint32(b[4:]) != 0 {
				t.Errorf("errno %d", be.Uint32(b[4:]))
			}
		}
		w.closed()
		if err := <-removed; err != nil {
			t.Error(err)
		}
	})
}

// TestDeafClient asks for far more than it fetches: the server must stop
// reading requests when its memory bound is reached, and go on later.
func TestDeafClient(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 2 << 20
		var started atomic.Int64
		s.export = func(e *nbd.Export) {
			e.Layer = func(below nbd.Device) nbd.Device {
				return &funcLayer{below: below, submit: func(op *nbd.Op, below nbd.Device) {
					started.Add(1)
					below.Submit(op)
				}}
			}
		}
		w := wire{t, s.start(t).raw(t)}.enter(false)
		const n, size = 500, 1 << 20
		batch, reply := pipelined(0, 0, size, 1)
		sent := make(chan error, 1)
		go func() {
			_, err := w.nc.Write(bytes.Repeat(batch, n))
			sent <- err
		}()
		await(t, "some reads", func() bool { return started.Load() > 0 })
		for last := int64(-1); last != started.Load(); { // until nothing moves any more
			last = started.Load()
			<-time.After(30 * time.Millisecond)
		}
		if got := started.Load(); got > 100 {
			t.Errorf("%d MiB read for a client that takes nothing", got)
		}
		for range n {
			if _, err := io.ReadFull(w.nc, reply); err != nil || be.Uint32(reply[4:]) != 0 {
				t.Fatalf("errno %d, %v", be.Uint32(reply[4:]), err)
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}
