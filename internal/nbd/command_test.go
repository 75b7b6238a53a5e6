package nbd_test

import (
	"bytes"
	"testing"

	"holdfast/internal/nbd"
)

// loops are the ways to serve a file; what is said of one holds for all.
var loops = map[string]setup{
	"buffered": {},
	"ring":     {file: nbd.FileOptions{Direct: true}},
	"workers":  {file: nbd.FileOptions{Direct: true}, server: func(o *nbd.Options) { o.NoRing = true }},
}

func eachLoop(t *testing.T, run func(t *testing.T, s setup)) {
	for name, s := range loops {
		t.Run(name, func(t *testing.T) { run(t, s) })
	}
}

// Errors of the protocol.
const (
	eperm  = 1
	eio    = 5
	einval = 22
	enospc = 28
	enotsp = 95
)

// TestRefusals sends what a command may not ask for. Each must be answered
// with its errno, and the connection go on.
func TestRefusals(t *testing.T) {
	const size = 1 << 20
	big := make([]byte, 33<<20)
	cases := []struct {
		name       string
		flags, cmd uint16
		off        uint64
		n          uint32
		payload    []byte
		want       uint32
	}{
		{"read nothing", 0, 0, 0, 0, nil, einval},
		{"read beyond", 0, 0, size - 10, 11, nil, einval},
		{"read far beyond", 0, 0, 1 << 63, 512, nil, einval},
		{"read wrapping", 0, 0, ^uint64(0), 512, nil, einval},
		{"read too long", 0, 0, 0, 1 << 31, nil, einval},
		{"read with write flags", 1 << 4, 0, 0, 512, nil, einval},
		{"read with unknown flags", 1 << 15, 0, 0, 512, nil, einval},
		{"write nothing", 0, 1, 0, 0, nil, einval},
		{"write beyond", 0, 1, size - 1, 2, []byte{1, 2}, enospc},
		{"write far beyond", 0, 1, 1 << 62, 2, []byte{1, 2}, enospc},
		{"write with read flags", 1 << 2, 1, 0, 2, []byte{1, 2}, einval},
		{"write too long", 0, 1, 0, 33 << 20, big, einval},
		{"flush with a range", 0, 3, 0, 512, nil, einval},
		{"flush with flags", 2, 3, 0, 0, nil, einval},
		{"trim nothing", 0, 4, 0, 0, nil, einval},
		{"trim beyond", 0, 4, size, 1, nil, einval},
		{"cache beyond", 0, 5, size, 1, nil, einval},
		{"zero beyond", 0, 6, size - 1, 2, nil, enospc},
		{"zero with unknown flags", 1 << 5, 6, 0, 2, nil, einval},
		{"status without a context", 0, 7, 0, 512, nil, einval},
		{"unknown command", 0, 77, 0, 512, nil, einval},
		{"resize", 0, 8, 0, 512, nil, einval},
	}
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = size
		w := wire{t, s.start(t).raw(t)}.enter(false)
		for i, c := range cases {
			w.request(c.flags, c.cmd, uint64(i), c.off, c.n, c.payload)
			if got := w.simple(uint64(i)); got != c.want {
				t.Errorf("%s: errno %d, want %d", c.name, got, c.want)
			}
		}
		w.request(1, 0, 7, 1, 5, nil) // FUA is taken everywhere
		if no := w.simple(7); no != 0 || !bytes.Equal(w.get(5), make([]byte, 5)) {
			t.Errorf("read after refusals: errno %d", no)
		}
	})
}

func TestReadOnly(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		s.export = func(e *nbd.Export) { e.ReadOnly = true }
		w := wire{t, s.start(t).raw(t)}.enter(false)
		w.request(0, 1, 1, 0, 4, []byte("abcd"))
		w.request(0, 4, 2, 0, 4, nil)
		w.request(0, 6, 3, 0, 4, nil)
		for cookie := range uint64(3) {
			if got := w.simple(cookie + 1); got != eperm {
				t.Errorf("command %d: errno %d, want %d", cookie, got, eperm)
			}
		}
		w.request(0, 3, 4, 0, 0, nil)
		if got := w.simple(4); got != 0 {
			t.Errorf("flush: errno %d", got)
		}
	})
}

func TestStructured(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		w := wire{t, s.start(t).raw(t)}.enter(true)
		w.request(0, 1, 1, 4096, 4096, bytes.Repeat([]byte{9}, 4096))
		if no := w.simple(1); no != 0 {
			t.Fatalf("write: errno %d", no)
		}
		w.request(1<<2, 0, 2, 4095, 3, nil)
		if typ, p := w.chunk(2); typ != dataChunk || !bytes.Equal(p, append(be.AppendUint64(nil, 4095), 0, 9, 9)) {
			t.Errorf("read: chunk %d %x", typ, p)
		}
		w.request(0, 0, 3, 1<<20, 3, nil)
		if typ, p := w.chunk(3); typ != errChunk || !bytes.Equal(p, []byte{0, 0, 0, einval, 0, 0}) {
			t.Errorf("read beyond: chunk %d %x", typ, p)
		}
		w.request(0, 7, 4, 0, 1<<20, nil)
		typ, p := w.chunk(4)
		want := be.AppendUint32(nil, 1)
		for _, v := range []uint32{4096, 3, 4096, 0, 1<<20 - 8192, 3} {
			want = be.AppendUint32(want, v)
		}
		if typ != 5 || !bytes.Equal(p, want) {
			t.Errorf("status: chunk %d %x, want %x", typ, p, want)
		}
		w.request(1<<3, 7, 5, 4000, 1<<20-4000, nil)
		if typ, p := w.chunk(5); typ != 5 || !bytes.Equal(p, []byte{0, 0, 0, 1, 0, 0, 0, 96, 0, 0, 0, 3}) {
			t.Errorf("status of one: chunk %d %x", typ, p)
		}
		w.request(0, 7, 6, 0, 0, nil)
		if typ, _ := w.chunk(6); typ != errChunk {
			t.Errorf("status of nothing: chunk %d", typ)
		}
		w.request(0, 5, 7, 0, 4096, nil)
		if no := w.simple(7); no != 0 {
			t.Errorf("cache: errno %d", no)
		}
	})
}

// TestBrokenStream loses the place in the stream; another connection does not
// notice.
func TestBrokenStream(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		r := s.start(t)
		other := r.dial(t)
		w := wire{t, r.raw(t)}.enter(false)
		w.put(make([]byte, 28))
		w.closed()
		w = wire{t, r.raw(t)}.enter(false)
		w.request(0, 1, 1, 0, 1<<32-1, nil) // four gigabytes to throw away
		w.closed()
		w = wire{t, r.raw(t)}.enter(false)
		w.request(0, 1, 1, 0, 4096, make([]byte, 1000))
		w.nc.Close() // in the middle of a payload
		if _, err := other.ReadAt(t.Context(), make([]byte, 10), 0); err != nil {
			t.Error(err)
		}
	})
}

// TestDisconnect says goodbye with requests in flight: all are answered.
func TestDisconnect(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		s.export = func(e *nbd.Export) { e.Layer = newDelayLayer }
		w := wire{t, s.start(t).raw(t)}.enter(false)
		for i := range uint64(100) {
			w.request(0, 1, i, i*512, 512, make([]byte, 512))
		}
		w.request(0, 2, 0, 0, 0, nil)
		seen := make(map[uint64]bool)
		for range 100 {
			b := w.get(16)
			if no := be.Uint32(b[4:]); no != 0 {
				t.Errorf("errno %d", no)
			}
			seen[be.Uint64(b[8:])] = true
		}
		if len(seen) != 100 {
			t.Errorf("%d different replies", len(seen))
		}
		w.closed()
	})
}

// TestManyInFlight has more requests in flight than a connection has
// operations, while a layer holds every one back.
func TestManyInFlight(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		gate := &gateLayer{open: make(chan struct{})}
		s.export = func(e *nbd.Export) { e.Layer = gate.over }
		w := wire{t, s.start(t).raw(t)}.enter(false)
		const n = 1000
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for i := range uint64(n) {
				b := be.AppendUint32(nil, reqMagic)
				b = be.AppendUint32(b, 1)
				b = be.AppendUint64(be.AppendUint64(b, i), i*1000)
				if _, err := w.nc.Write(append(be.AppendUint32(b, 1000), make([]byte, 1000)...)); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		gate.waitHeld(t, 256)
		if got := gate.held.Load(); got != 256 {
			t.Errorf("%d operations held, want 256", got)
		}
		close(gate.open)
		for range n {
			if b := w.get(16); be.Uint32(b[4:]) != 0 {
				t.Errorf("errno %d", be.Uint32(b[4:]))
			}
		}
		<-sent
	})
}
