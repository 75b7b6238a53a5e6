package takeover

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

func listen(t *testing.T, own Identity) (*Listener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "heir")
	l, err := Listen(path, own)
	if err != nil {
		t.Fatal(err)
	}
	return l, path
}

func identity() Identity {
	return Identity{dr.DomainID{UUID: dr.NewUUID()}, dr.HostID{UUID: dr.NewUUID()}}
}

// TestWhoMayAsk: the host's own, in its version; others are sent away with a
// reason, and who says nothing sensible is no trouble.
func TestWhoMayAsk(t *testing.T) {
	own := identity()
	l, path := listen(t, own)
	ctx, cancel := context.WithCancel(t.Context())
	accepted := make(chan error, 1)
	heirs := make(chan *Heir, 1)
	go func() {
		h, err := l.Accept(ctx)
		accepted <- err
		heirs <- h
	}()
	if !Inherited(path) { // only looks
		t.Error("nobody listens")
	}
	if _, err := Listen(path, own); !errs.Is(err, errs.Exists) {
		t.Errorf("a second one: %v", err)
	}
	for _, junk := range [][]byte{nil, {1}, bytes.Repeat([]byte{0xFF}, 99), {2, 0, 0, 0, '{', '}'}} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(junk)
		c.Close()
	}
	if _, err := Ask(t.Context(), path, identity()); !errs.Is(err, errs.Invalid) || errs.RemedyOf(err) == "" {
		t.Errorf("another host: %v", err)
	}
	p, err := Ask(t.Context(), path, own)
	if err != nil {
		t.Fatal(err)
	}
	// The socket is inherited: it answers although the other one is gone.
	refused := make(chan error, 1)
	go func() {
		_, err := p.Legacy()
		refused <- err
	}()
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	h := <-heirs
	h.Refuse(errs.New("x", errs.Full, "y", "no").WithRemedy("z"))
	if err := <-refused; !errs.Is(err, errs.Full) || errs.RemedyOf(err) != "z" {
		t.Errorf("a refusal arrives as %v", err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Abandon(); err != nil {
		t.Error(err)
	}
	if !Inherited(path) {
		t.Error("the socket was not inherited")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if Inherited(path) {
		t.Error("somebody holds the socket")
	}
	cancel()
}

// TestAcceptEnds with its context, also while somebody says nothing.
func TestAcceptEnds(t *testing.T) {
	l, path := listen(t, identity())
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Accept(ctx); !errs.Is(err, errs.Canceled) {
		t.Errorf("%v", err)
	}
}

func FuzzMessages(f *testing.F) {
	own := identity()
	ok, _ := frame(ask{version, own})
	f.Add(ok)
	no, _ := frame(refusal{errs.Full, "a", "b"})
	f.Add(append([]byte{wordNo}, no...))
	f.Add([]byte{wordHand})
	f.Fuzz(func(t *testing.T, in []byte) {
		var a ask
		if readFrame(bytes.NewReader(in), &a) == nil {
			if err := a.judge(own); err == nil && (a.Version != version || a.Identity != own) {
				t.Fatalf("%+v was let in", a)
			}
		}
		if err := readWord(bytes.NewReader(in), wordHand); err == nil && in[0] != wordHand {
			t.Fatalf("%q was taken for a hand-over", in[0])
		}
	})
}
