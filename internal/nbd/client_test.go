package nbd_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// badServer negotiates like a server without structured replies and then does
// what misbehave does.
func badServer(t *testing.T, misbehave func(w wire)) *nbd.Client {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		w := wire{t, nc}
		b := be.AppendUint64(nil, oldMagic)
		b = be.AppendUint64(b, optMagic)
		w.put(be.AppendUint16(b, 3))
		w.get(4)
		for _, replies := range [][]optReply{{{unsup, ""}}, {{3, "\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x0d\x6d"}, {1, ""}}} {
			h := w.get(16)
			w.get(int(be.Uint32(h[12:])))
			for _, r := range replies {
				b := be.AppendUint64(nil, repMagic)
				b = be.AppendUint32(b, be.Uint32(h[8:]))
				b = be.AppendUint32(b, r.typ)
				w.put(append(be.AppendUint32(b, uint32(len(r.data))), r.data...))
			}
		}
		misbehave(w)
	})
	c, err := nbd.Dial(t.Context(), "unix", ln.Addr().String(), nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		ln.Close()
		served.Wait()
	})
	return c
}

func reply(cookie uint64, errno uint32) []byte {
	return be.AppendUint64(be.AppendUint32(be.AppendUint32(nil, simple), errno), cookie)
}

func TestClientServerGone(t *testing.T) {
	c := badServer(t, func(w wire) { w.get(28) })
	if err := c.Flush(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("flush: %v", err)
	}
	if _, err := c.ReadAt(t.Context(), make([]byte, 10), 0); !errs.Is(err, errs.Unavailable) {
		t.Errorf("read after that: %v", err)
	}
}

func TestClientNonsense(t *testing.T) {
	for name, answer := range map[string]func(cookie uint64) []byte{
		"wrong magic":    func(uint64) []byte { return make([]byte, 16) },
		"wrong cookie":   func(c uint64) []byte { return reply(c+1, 0) },
		"old generation": func(c uint64) []byte { return reply(c-1<<32, 0) },
		"not negotiated": func(c uint64) []byte {
			b := be.AppendUint64([]byte{0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 0}, c)
			return append(b, 0, 0, 0, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := badServer(t, func(w wire) {
				h := w.get(28)
				w.put(answer(be.Uint64(h[8:])))
				w.closed()
			})
			if err := c.Flush(t.Context()); !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Invalid) {
				t.Errorf("flush: %v", err)
			}
		})
	}
}

// TestClientTwice answers a request twice; the second answer finds nobody.
func TestClientTwice(t *testing.T) {
	c := badServer(t, func(w wire) {
		h := w.get(28)
		w.put(reply(be.Uint64(h[8:]), 0))
		w.put(reply(be.Uint64(h[8:]), 0))
		w.drain()
	})
	if err := c.Flush(t.Context()); err != nil {
		t.Errorf("flush: %v", err)
	}
	await(t, "the client to notice", func() bool {
		return errs.Is(c.Flush(t.Context()), errs.Unavailable)
	})
}

// TestClientCancel gives up on a read whose reply comes late: the connection
// lives on, and the late reply touches nothing.
func TestClientCancel(t *testing.T) {
	release := make(chan struct{})
	c := badServer(t, func(w wire) {
		late := w.get(28)
		<-release
		w.put(reply(be.Uint64(late[8:]), 0))
		w.put([]byte("12345678"))
		h := w.get(28)
		w.put(reply(be.Uint64(h[8:]), 0))
		w.put([]byte("abcdefgh"))
		w.get(28)
	})
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	p := make([]byte, 8)
	if _, err := c.ReadAt(ctx, p, 0); !errs.Is(err, errs.Canceled) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled read: %v", err)
	}
	close(release)
	if _, err := c.ReadAt(t.Context(), p, 0); err != nil || string(p) != "abcdefgh" {
		t.Errorf("next read: %q, %v", p, err)
	}
}

// TestClientStall has a server that stops in the middle of a reply: a caller
// who gives up gets free, at the price of the connection.
func TestClientStall(t *testing.T) {
	half := make(chan struct{})
	c := badServer(t, func(w wire) {
		h := w.get(28)
		w.put(reply(be.Uint64(h[8:]), 0))
		w.put([]byte("1234"))
		close(half)
		w.drain()
	})
	ctx, stop := context.WithCancel(t.Context())
	go func() { <-half; stop() }()
	if _, err := c.ReadAt(ctx, make([]byte, 8), 0); err == nil {
		t.Error("half a reply was taken for a whole one")
	}
}

// TestClientBounds asks outside the export, which never reaches the server.
func TestClientBounds(t *testing.T) {
	c := badServer(t, func(w wire) { w.get(28) })
	for _, r := range [][2]int64{{-1, 1}, {1 << 20, 1}, {0, 1<<20 + 1}, {1 << 62, 1 << 62}} {
		if err := c.Trim(t.Context(), r[0], r[1], 0); !errs.Is(err, errs.Invalid) {
			t.Errorf("trim %v: %v", r, err)
		}
		if _, err := c.BlockStatus(t.Context(), r[0], r[1]); !errs.Is(err, errs.Invalid) {
			t.Errorf("status %v: %v", r, err)
		}
	}
	if got, err := c.BlockStatus(t.Context(), 5, 10); err != nil || len(got) != 1 || got[0] != (nbd.Extent{Offset: 5, Length: 10}) {
		t.Errorf("status without a context: %v, %v", got, err)
	}
}
