package nbd_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

const (
	unsup   = errBit | 1
	policy  = errBit | 2
	invalid = errBit | 3
	tlsReqd = errBit | 5
	unknown = errBit | 6
	tooBig  = errBit | 9
)

// named is a rig with two exports, "one" and "two".
func named(t *testing.T, more func(*nbd.Options)) *rig {
	r := setup{size: 1 << 20, export: func(e *nbd.Export) { e.Name, e.Description = "one", "the first" }, server: more}.start(t)
	if err := r.server.AddExport(nbd.Export{Name: "two", File: r.file, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	return r
}

type optionCase struct {
	name string
	opt  uint32
	data []byte
	want []optReply // words of refusals left out
}

// optionCases run one after the other on one connection.
func optionCases() []optionCase {
	return []optionCase{
		{"list", 3, nil, []optReply{{2, string(str("one")) + "the first"}, {2, string(str("two"))}, {1, ""}}},
		{"list with data", 3, []byte("x"), []optReply{{invalid, ""}}},
		{"no TLS here", 5, nil, []optReply{{policy, ""}}},
		{"unknown option", 99, []byte("abc"), []optReply{{unsup, ""}}},
		{"extended headers", 11, nil, []optReply{{unsup, ""}}},
		{"info", 6, infoQuery("two"), []optReply{{3, "\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x05\x0f"}, {1, ""}}},
		{"info with items", 6, infoQuery("one", 1, 2, 3), []optReply{{3, "\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x0d\x6d"},
			{3, "\x00\x01one"}, {3, "\x00\x02the first"}, {3, "\x00\x03\x00\x00\x00\x01\x00\x00\x10\x00\x02\x00\x00\x00"}, {1, ""}}},
		{"info of nothing", 6, infoQuery("three"), []optReply{{unknown, ""}}},
		{"info without a default", 6, infoQuery(""), []optReply{{unknown, ""}}},
		{"info cut short", 6, infoQuery("one", 1)[:9], []optReply{{invalid, ""}}},
		{"info with a lying length", 6, be.AppendUint32(nil, 1<<31), []optReply{{invalid, ""}}},
		{"info too long", 6, append(infoQuery("one", 1), 0), []optReply{{invalid, ""}}},
		{"structured with data", 8, []byte{1}, []optReply{{invalid, ""}}},
		{"contexts before structured", 9, metaQuery("one"), []optReply{{invalid, ""}}},
		{"structured", 8, nil, []optReply{{1, ""}}},
		{"all contexts", 9, metaQuery("one"), []optReply{{4, "\x00\x00\x00\x00base:allocation"}, {1, ""}}},
		{"contexts of base", 9, metaQuery("one", "base:"), []optReply{{4, "\x00\x00\x00\x00base:allocation"}, {1, ""}}},
		{"contexts of others", 9, metaQuery("one", "qemu:"), []optReply{{1, ""}}},
		{"contexts of nothing", 9, metaQuery("three"), []optReply{{unknown, ""}}},
		{"set context", 10, metaQuery("one", "x:y", "base:allocation"), []optReply{{4, "\x00\x00\x00\x01base:allocation"}, {1, ""}}},
		{"set no context", 10, metaQuery("one"), []optReply{{1, ""}}},
		{"set malformed", 10, metaQuery("one", "a")[:12], []optReply{{invalid, ""}}},
		{"set too many", 10, be.AppendUint32(str("one"), 1<<20), []optReply{{invalid, ""}}},
		{"too big", 3, make([]byte, 100<<10), []optReply{{tooBig, ""}}},
		{"info after structured", 6, infoQuery("one"), []optReply{{3, "\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x0d\xed"}, {1, ""}}},
	}
}

func TestOptions(t *testing.T) {
	r := named(t, nil)
	w := wire{t, r.raw(t)}
	w.greet(3)
	for _, c := range optionCases() {
		t.Run(c.name, func(t *testing.T) {
			w := wire{t, w.nc}
			w.option(c.opt, c.data)
			got := w.replies(c.opt)
			for i := range got {
				if got[i].typ&errBit != 0 {
					got[i].data = "" // words for people
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %#v, want %#v", got, c.want)
			}
		})
	}
}

func TestAbort(t *testing.T) {
	w := wire{t, named(t, nil).raw(t)}
	w.greet(3)
	if got := w.ask(2, nil); got != ackReply {
		t.Errorf("abort answered %#x", got)
	}
	w.closed()
}

func TestExportName(t *testing.T) {
	r := named(t, nil)
	w := wire{t, r.raw(t)}
	w.greet(1) // no NO_ZEROES
	w.option(1, []byte("one"))
	b := w.get(10 + 124)
	if be.Uint64(b) != 1<<20 || be.Uint16(b[8:]) != 0xd6d || !bytes.Equal(b[10:], make([]byte, 124)) {
		t.Errorf("export name answered %x", b)
	}
	w.request(0, 0, 5, 0, 4096, nil)
	if no := w.simple(5); no != 0 {
		t.Errorf("read after export name: errno %d", no)
	}
	w.get(4096)

	w = wire{t, r.raw(t)}
	w.greet(3)
	w.option(1, []byte("two"))
	if b := w.get(10); be.Uint16(b[8:]) != 0x50f {
		t.Errorf("export name answered %x", b)
	}

	w = wire{t, r.raw(t)}
	w.greet(3)
	w.option(1, []byte("three"))
	w.closed()
}

// TestHandshakeGarbage sends what no client sends: only that connection may
// suffer.
func TestHandshakeGarbage(t *testing.T) {
	r := named(t, func(o *nbd.Options) { o.Limits.Handshake = 300 * time.Millisecond })
	for name, send := range map[string]func(w wire){
		"unknown client flags": func(w wire) { w.greet(1 << 7) },
		"not fixed newstyle":   func(w wire) { w.greet(0) },
		"wrong option magic":   func(w wire) { w.greet(3); w.put(make([]byte, 16)) },
		"huge option": func(w wire) {
			w.greet(3)
			w.put(append(be.AppendUint64(nil, optMagic), 0, 0, 0, 3, 255, 255, 255, 255))
		},
		"silence":              func(wire) {},
		"silence in an option": func(w wire) { w.greet(3); w.put(be.AppendUint64(nil, optMagic)) },
		"endless options": func(w wire) {
			w.greet(3)
			for range 1024 {
				if w.ask(99, nil) != unsup {
					w.t.Error("unknown option not refused")
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := wire{t, r.raw(t)}
			send(w)
			if name == "silence" {
				w.get(18)
			}
			w.closed()
		})
	}
	c, err := nbd.Dial(t.Context(), "unix", r.socket, nbd.DialOptions{Export: "one"})
	if err != nil {
		t.Fatalf("the server is gone: %v", err)
	}
	c.Close()
}

func TestTLS(t *testing.T) {
	server, client := certificates(t)
	eachLoop(t, func(t *testing.T, s setup) { // a direct disk over TLS is served by workers
		s.size, s.server = 1<<20, func(o *nbd.Options) { o.TLS = server }
		testTLS(t, s, client)
	})
}

func testTLS(t *testing.T, s setup, client *tls.Config) {
	s.export = func(e *nbd.Export) { e.Name = "one" }
	r := s.start(t)
	w := wire{t, r.raw(t)}
	w.greet(3)
	for _, opt := range []uint32{3, 6, 7, 8, 9, 10, 99} {
		if got := w.ask(opt, infoQuery("one")); got != tlsReqd {
			t.Errorf("option %d in the clear answered %#x", opt, got)
		}
	}
	w.option(1, []byte("one"))
	w.closed()

	if _, err := nbd.Dial(t.Context(), "unix", r.socket, nbd.DialOptions{Export: "one"}); !errs.Is(err, errs.Denied) {
		t.Errorf("dial in the clear: %v", err)
	}
	c, err := nbd.Dial(t.Context(), "unix", r.socket, nbd.DialOptions{Export: "one", TLS: client})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := bytes.Repeat([]byte("tls!"), 50000)
	if _, err := c.WriteAt(t.Context(), p, 100, nbd.FUA); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(p))
	if _, err := c.ReadAt(t.Context(), got, 100); err != nil || !bytes.Equal(got, p) {
		t.Errorf("read back: %v", err)
	}
	wrongName := client.Clone()
	wrongName.ServerName = "other.example"
	if _, err := nbd.Dial(t.Context(), "unix", r.socket, nbd.DialOptions{Export: "one", TLS: wrongName}); !errs.Is(err, errs.Denied) {
		t.Errorf("dial to somebody else: %v", err)
	}
}

// TestTLSForgets checks that what was negotiated in the clear is forgotten.
func TestTLSForgets(t *testing.T) {
	server, client := certificates(t)
	r := named(t, func(o *nbd.Options) { o.TLS, o.AllowPlain = server, true })
	w := wire{t, r.raw(t)}
	w.greet(3)
	if w.ask(8, nil) != ackReply || w.ask(5, nil) != ackReply {
		t.Fatal("refused")
	}
	w.nc = tls.Client(w.nc, client)
	if got := w.ask(9, metaQuery("one")); got != invalid {
		t.Errorf("contexts without structured replies answered %#x", got)
	}
	if got := w.ask(5, nil); got != invalid {
		t.Errorf("TLS in TLS answered %#x", got)
	}
}

func TestDialErrors(t *testing.T) {
	r := named(t, nil)
	_, client := certificates(t)
	for name, c := range map[string]struct {
		socket string
		o      nbd.DialOptions
		want   errs.Kind
	}{
		"no server":   {r.socket + "x", nbd.DialOptions{}, errs.Unavailable},
		"no export":   {r.socket, nbd.DialOptions{Export: "three"}, errs.NotFound},
		"no TLS":      {r.socket, nbd.DialOptions{Export: "one", TLS: client}, errs.Denied},
		"name length": {r.socket, nbd.DialOptions{Export: strings.Repeat("x", 5000)}, errs.Invalid},
	} {
		if _, err := nbd.Dial(t.Context(), "unix", c.socket, c.o); !errs.Is(err, c.want) {
			t.Errorf("%s: %v, want kind %v", name, err, c.want)
		}
	}
}

func TestExports(t *testing.T) {
	r := named(t, nil)
	add := func(e nbd.Export) error { return r.server.AddExport(e) }
	if err := add(nbd.Export{Name: "one", File: r.file}); !errs.Is(err, errs.Exists) {
		t.Errorf("second export of a name: %v", err)
	}
	if err := add(nbd.Export{Name: "x"}); !errs.Is(err, errs.Invalid) {
		t.Errorf("export without a disk: %v", err)
	}
	if err := add(nbd.Export{Name: strings.Repeat("x", 5000), File: r.file}); !errs.Is(err, errs.Invalid) {
		t.Errorf("long name: %v", err)
	}
	if err := r.server.RemoveExport(t.Context(), "x"); !errs.Is(err, errs.NotFound) {
		t.Errorf("remove of nothing: %v", err)
	}
	c, err := nbd.Dial(t.Context(), "unix", r.socket, nbd.DialOptions{Export: "one"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other, err := nbd.Dial(t.Context(), "unix", r.socket, nbd.DialOptions{Export: "two"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := r.server.RemoveExport(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	var e *errs.Error
	if _, err := c.ReadAt(t.Context(), make([]byte, 1), 0); !errors.As(err, &e) || e.Kind != errs.Unavailable {
		t.Errorf("read from a removed export: %v", err)
	}
	if _, err := other.ReadAt(t.Context(), make([]byte, 1), 0); err != nil {
		t.Errorf("the other export suffered: %v", err)
	}
	if _, err := nbd.Dial(t.Context(), "unix", r.socket, nbd.DialOptions{Export: "one"}); !errs.Is(err, errs.NotFound) {
		t.Errorf("dial of a removed export: %v", err)
	}
}

// TestConnectionLimit has more clients than a server takes at once: those
// beyond wait for one to leave.
func TestConnectionLimit(t *testing.T) {
	r := setup{size: 1 << 20, server: func(o *nbd.Options) { o.Limits.Connections = 2 }}.start(t)
	a, _ := r.dial(t), r.dial(t)
	waiting := make(chan error, 1)
	go func() {
		c, err := nbd.Dial(t.Context(), "unix", r.socket, nbd.DialOptions{})
		if err == nil {
			c.Close()
		}
		waiting <- err
	}()
	select {
	case err := <-waiting:
		t.Fatalf("a third client was served: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	a.Close()
	if err := <-waiting; err != nil {
		t.Errorf("third client, after one left: %v", err)
	}
}
