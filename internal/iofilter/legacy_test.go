package iofilter

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// TestHandOverToAnotherFilter: guests write all the time while one Filter after
// the other serves their disks; none sees an error, no stall is long, and in the
// end the DRVA's copy of the last run is what the disk holds.
func TestHandOverToAnotherFilter(t *testing.T) {
	dir := shortDir(t)
	cfg := config(t, dir, false, 1<<20, 1<<20)
	drva := newFakeDRVA()
	var legacy *Legacy
	start := func() (f *Filter, stop func() error) {
		f, err := New(cfg, Options{Dial: drva.dial, Legacy: legacy})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- f.Run(ctx) }()
		<-f.Running()
		return f, func() error { cancel(); return <-ran }
	}
	f, stop := start()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range cfg.VMs[0].Disks {
		d := &cfg.VMs[0].Disks[i]
		c, err := nbd.Dial(t.Context(), "unix", d.Socket, nbd.DialOptions{Export: d.Name})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		wg.Go(func() {
			for n := byte(1); ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if _, err := c.WriteAt(t.Context(), fill(n, 6000), int64(n)*4000, 0); err != nil {
					t.Errorf("%s: %v", d.Name, err)
					return
				}
			}
		})
	}
	for i := range 10 {
		var err error
		if legacy, err = f.HandOver(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if len(legacy.Disks) != 2 || len(legacy.Disks[0].Conns) != 1 || legacy.Disks[1].Listener == nil {
			t.Fatalf("handed over: %+v", legacy)
		}
		if i%2 == 1 { // as to another process
			here, there := socketPair(t)
			sent := make(chan error, 1)
			go func() { sent <- legacy.Send(here) }()
			got, err := ReceiveLegacy(there)
			if e := <-sent; err != nil || e != nil {
				t.Fatal(err, e)
			}
			if err := legacy.Release(); err != nil {
				t.Fatal(err)
			}
			legacy = got
		}
		f, stop = start()
	}
	close(done)
	wg.Wait()
	eventually(t, "all synced", func() bool { s := f.Status(); return s.State == Streaming && s.Stream.Durable+1 == s.Stream.Next })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for i := range cfg.VMs[0].Disks {
		d := &cfg.VMs[0].Disks[i]
		want, err := os.ReadFile(d.Path)
		if err != nil {
			t.Fatal(err)
		}
		if img := drva.image(uint16(i), int64(len(want))); !bytes.Equal(img, want) {
			t.Errorf("%s differs", d.Name)
		}
		if _, err := os.Stat(d.Socket); err == nil {
			t.Errorf("%s was left behind", d.Socket)
		}
	}
	if err := drva.problems(); err != nil {
		t.Error(err)
	}
}

// TestLegacyIsTakenUpAgain: if the next Filter cannot begin, another one can
// with the same Legacy; and what nobody wants is closed.
func TestLegacyIsTakenUpAgain(t *testing.T) {
	r := runFilter(t, 1<<20)
	d := r.Protected()[0].Disks[0]
	c := r.dial(&d)
	defer c.Close()
	legacy, err := r.HandOver(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.HandOver(t.Context(), time.Second); !errs.Is(err, errs.Unavailable) {
		t.Errorf("handed over twice: %v", err)
	}
	held, err := nbd.OpenFile(d.Path, nbd.FileOptions{})
	if err != nil {
		t.Fatal("the primary was not let go:", err)
	}
	cfg := r.cfg
	if _, err := New(cfg, Options{Dial: r.drva.dial, Legacy: legacy}); !errs.Is(err, errs.Conflict) {
		t.Fatalf("a Filter over a disk somebody holds: %v", err)
	}
	held.Close()
	f, err := New(cfg, Options{Dial: r.drva.dial, Legacy: legacy})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	if _, err := c.WriteAt(t.Context(), fill(1, 4096), 0, 0); err != nil {
		t.Error("the client was lost:", err)
	}
	<-f.Running()
	legacy2, err := f.HandOver(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := legacy2.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.WriteAt(t.Context(), fill(1, 4096), 0, 0); err == nil {
		t.Error("a connection nobody took up is served")
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

// socketPair is two connected unix sockets.
func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		out[i] = c.(*net.UnixConn)
	}
	return out[0], out[1]
}

// TestHandOverThatBreaksOff: wherever the connection between the two processes
// ends, the receiver has nothing and the sender still has everything: its
// guests go on where they were.
func TestHandOverThatBreaksOff(t *testing.T) {
	r := runFilter(t, 1<<20, 1<<20)
	disks := r.Protected()[0].Disks
	var clients []*nbd.Client
	for i := range disks {
		c := r.dial(&disks[i])
		defer c.Close()
		clients = append(clients, c)
	}
	legacy, err := r.HandOver(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range 8 {
		here, there := socketPair(t)
		sent := make(chan error, 1)
		go func() { sent <- legacy.Send(here); here.Close() }()
		// The receiver dies after so many bytes of the head; the last time it
		// lives, but what it got is not a Legacy.
		if _, err := there.Read(make([]byte, 1+cut*20)); err != nil {
			t.Fatal(err)
		}
		if _, err := ReceiveLegacy(there); !errs.Is(err, errs.Invalid) && !errs.Is(err, errs.Unavailable) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		there.Close()
		<-sent
	}
	f, err := New(r.cfg, Options{Dial: r.drva.dial, Legacy: legacy})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	for _, c := range clients {
		if _, err := c.WriteAt(t.Context(), fill(1, 4096), 0, 0); err != nil {
			t.Error("the client was lost:", err)
		}
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

func FuzzLegacyHead(f *testing.F) {
	ok, _ := json.Marshal(legacyHead{Version: legacyVersion, Disks: []legacyHeadDisk{{Socket: "a", Conns: []legacyHeadConn{{Pending: 5}}}}})
	f.Add(ok)
	f.Add([]byte(`{"version":1,"disks":[{"conns":[{"pending":-1}]}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := parseLegacyHead(in)
		if err != nil {
			return
		}
		for _, d := range h.Disks {
			for _, c := range d.Conns {
				if c.Pending < 0 || c.Pending > nbd.MaxPending {
					t.Fatalf("%+v", c)
				}
			}
		}
	})
}
