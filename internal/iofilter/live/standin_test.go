package live

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/iofilter"
	"holdfast/internal/nbd"
)

// TestStandIn: a hypervisor that connects again in the moment of the host
// component's death is answered by its watchdog, with the raw image, until the
// guest has been taken off; refused, where the image is somebody else's or behind
// a hypervisor's export. Without the sockets everybody is refused.
func TestStandIn(t *testing.T) {
	for name, c := range map[string]struct {
		unlent, locked, exported bool
		answered                 bool
	}{
		"answered":         {answered: true},
		"not lent":         {unlent: true},
		"somebody else's":  {locked: true},
		"behind an export": {exported: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "vda")
			r.m.cfg.Sockets = shortDir(t)
			r.protect()
			d := r.m.cfg.Record.entries[0].Disks[0]
			s := listenAt(t, d.Socket)
			image := filepath.Join(t.TempDir(), "vda.raw")
			if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := r.m.cfg.Record.change(d.ID, func(d *EntryDisk) {
				if d.Path = image; c.exported {
					d.Size = 1 << 20
				}
			}); err != nil {
				t.Fatal(err)
			}
			if c.locked {
				f, err := nbd.OpenFile(image, nbd.FileOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
			}
			w := &Watchdog{Connect: r.connect, Open: func() (*Record, error) { return OpenRecord(durable.OS{}, r.path) }}
			own, other, err := Pair()
			if err != nil {
				t.Fatal(err)
			}
			if w.Sockets, err = HoldSockets(other); err != nil {
				t.Fatal(err)
			}
			if !c.unlent {
				l := lender{own, map[string]*net.UnixListener{}}
				if err := l.update([]iofilter.Socket{s}); err != nil {
					t.Fatal(err)
				}
			}
			s.Listener.Close()
			own.Close()
			<-w.Sockets.over
			gone := make(chan struct{})
			close(gone)
			w.Process = &scripted{began: time.Now(), gone: gone, hangs: func(time.Duration) bool { return true }}
			r.vm.Fail(errors.New("busy")) // the guest is taken off when its write is answered
			type answer struct {
				c   *nbd.Client
				err error
			}
			dialed := make(chan answer, 1)
			go func() { // as QEMU: before anybody accepts
				cl, err := nbd.Dial(t.Context(), "unix", s.Path, nbd.DialOptions{Export: "vda"})
				dialed <- answer{cl, err}
			}()
			ran := make(chan error, 1)
			if !c.answered {
				go func() { ran <- w.Run(t.Context()) }()
				if a := <-dialed; a.err == nil {
					a.c.Close()
					t.Error("answered")
				}
				r.vm.Fail(nil)
				if err := <-ran; err != nil {
					t.Fatal(err)
				}
				return
			}
			go func() { ran <- w.Run(t.Context()) }()
			a := <-dialed
			if a.err != nil {
				t.Fatal(a.err)
			}
			if _, err := a.c.WriteAt(t.Context(), []byte("after"), 4096, 0); err != nil {
				t.Fatal(err)
			}
			r.want("record", r.recorded(), "vda unseen")
			r.vm.Fail(nil)
			if err := <-ran; err != nil {
				t.Fatal(err)
			}
			r.want("attached", r.attached())
			a.c.Close()
			if !refused(s.Path) {
				t.Error("the socket is still held")
			}
			b, err := os.ReadFile(image)
			if err != nil || string(b[4096:4101]) != "after" {
				t.Errorf("%q, %v", b[4096:4101], err)
			}
			f, err := nbd.OpenFile(image, nbd.FileOptions{})
			if err != nil {
				t.Fatal("the image is still taken:", err)
			}
			f.Close()
		})
	}
}

// FuzzSockets: whatever is said to a watchdog, it goes on.
func FuzzSockets(f *testing.F) {
	for _, s := range []string{"h/x", "d/x", "p", "?", "h"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 || len(in) > 1<<10 {
			return
		}
		own, other, err := Pair()
		if err != nil {
			t.Fatal(err)
		}
		s, err := HoldSockets(other)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := own.Write(in); err != nil {
			t.Fatal(err)
		}
		own.Close()
		if held := s.take(t.Context()); len(held) > 0 {
			t.Errorf("%d sockets are held, none was given", len(held))
		}
	})
}
