package nbd_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/internal/nbd"
)

// relay is a disk that one server after the other serves on one socket.
type relay struct {
	t    *testing.T
	file *nbd.File
	s    setup
	ln   *net.UnixListener
	path string

	server *nbd.Server
	stop   context.CancelFunc
	over   chan error
}

func newRelay(t *testing.T, s setup) *relay {
	t.Helper()
	r := &relay{t: t, s: s, file: open(t, newDisk(t, s.size), s.file), path: filepath.Join(t.TempDir(), "s")}
	ln, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	r.ln = ln.(*net.UnixListener)
	t.Cleanup(func() { ln.Close() })
	r.serve(nil)
	t.Cleanup(func() {
		r.stop()
		if err := <-r.over; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *relay) serve(handed []nbd.Handed) {
	o := nbd.Options{Exports: []nbd.Export{{Name: "d", File: r.file}}}
	if r.s.server != nil {
		r.s.server(&o)
	}
	server, err := nbd.NewServer(o)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, h := range handed {
		server.Adopt(h)
	}
	if err := r.ln.SetDeadline(time.Time{}); err != nil {
		r.t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	r.server, r.over = server, make(chan error, 1)
	go func(over chan error) {
		l := nbd.Lend(r.ln)
		err := server.Serve(ctx, l)
		l.End()
		over <- err
	}(r.over)
}

// pass hands all connections to another server.
func (r *relay) pass() []nbd.Handed {
	r.t.Helper()
	r.server.HandOver()
	r.stop()
	if err := <-r.over; err != nil {
		r.t.Fatal(err)
	}
	handed := r.server.Handed()
	r.serve(handed)
	return handed
}

// TestHandOverUnderLoad: clients read and write all the time while their
// connections go from server to server; none sees an error, nothing is lost or
// done twice.
func TestHandOverUnderLoad(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		const clients, part, passes = 3, 4 << 20, 30
		s.size = clients * part
		r := newRelay(t, s)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range clients {
			c, err := nbd.Dial(t.Context(), "unix", r.path, nbd.DialOptions{Export: "d"})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for g := range 4 {
				lo := int64(i)*part + int64(g)*part/4
				wg.Go(func() { hammerRange(t, c, lo, part/4, uint64(i*10+g), stop) })
			}
		}
		total := 0
		for range passes {
			total += len(r.pass())
		}
		close(stop)
		wg.Wait()
		if total != passes*clients {
			t.Errorf("%d connections were handed over in %d passes of %d", total, passes, clients)
		}
	})
}

// hammerRange writes at random to its own range, and checks what it reads.
func hammerRange(t *testing.T, c *nbd.Client, lo, n int64, seed uint64, stop chan struct{}) {
	rng := rand.New(rand.NewPCG(seed, 5))
	model := make([]byte, n)
	if _, err := c.WriteAt(t.Context(), model, lo, 0); err != nil {
		t.Error(err)
		return
	}
	buf := make([]byte, 300<<10)
	for last := false; !last; {
		select {
		case <-stop:
			last = true
		default:
		}
		m := rng.Int64N(int64(len(buf))) + 1
		if rng.IntN(2) == 0 {
			m = 512
		}
		off := rng.Int64N(n - m)
		p := buf[:m]
		if rng.IntN(2) == 0 {
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			copy(model[off:], p)
			if _, err := c.WriteAt(t.Context(), p, lo+off, nbd.Flags(rng.IntN(2))); err != nil {
				t.Errorf("seed %d: write: %v", seed, err)
				return
			}
			continue
		}
		if _, err := c.ReadAt(t.Context(), p, lo+off); err != nil || !bytes.Equal(p, model[off:off+m]) {
			t.Errorf("seed %d: read of %d at %d: %v, content differs: %v", seed, m, off, err, err == nil)
			return
		}
	}
	got := make([]byte, n)
	if _, err := c.ReadAt(t.Context(), got, lo); err != nil || !bytes.Equal(got, model) {
		t.Errorf("seed %d: in the end: %v", seed, err)
	}
}

// TestHandOverInsideARequest: whatever part of a request has arrived, the next
// server waits for the rest of it; also of one that is refused and thrown away.
func TestHandOverInsideARequest(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 40 << 20
		r := newRelay(t, s)
		nc, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		w := wire{t, nc}.enter(false)
		for i, n := range []int{512, 64 << 10, 5 << 20, 33 << 20} {
			payload := bytes.Repeat([]byte{byte(i + 1)}, n)
			head := make([]byte, 28)
			copy(head, []byte{0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1})
			head[15] = byte(i + 1) // cookie
			head[24], head[25], head[26], head[27] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
			whole := append(head, payload...)
			at := 0
			for _, cut := range []int{0, 1, 27, 28, 29, 300, n / 2, len(whole) - 1} {
				if cut < at {
					continue
				}
				w.put(whole[at:cut])
				at = cut
				if got := len(r.pass()); got != 1 {
					t.Fatalf("%d connections at byte %d of %d", got, cut, len(whole))
				}
			}
			w.put(whole[at:])
			want := uint32(0)
			if n > 32<<20 {
				want = einval
			}
			if got := w.simple(uint64(i + 1)); got != want {
				t.Fatalf("%d bytes: errno %d, want %d", n, got, want)
			}
			if want != 0 {
				continue
			}
			w.request(0, 0, 99, 0, 512, nil)
			if no := w.simple(99); no != 0 || !bytes.Equal(w.get(512), payload[:512]) {
				t.Fatalf("%d bytes: read back: errno %d", n, no)
			}
		}
	})
}

// TestHandOverKeepsWhatWasNegotiated: structured replies and the allocation
// context go along.
func TestHandOverKeepsWhatWasNegotiated(t *testing.T) {
	eachLoop(t, func(t *testing.T, s setup) {
		s.size = 1 << 20
		r := newRelay(t, s)
		c, err := nbd.Dial(t.Context(), "unix", r.path, nbd.DialOptions{Export: "d"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		before, err := c.BlockStatus(t.Context(), 0, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		h := r.pass()
		if len(h) != 1 || !h[0].Structured || !h[0].Allocation || h[0].Export != "d" {
			t.Fatalf("handed over: %+v", h)
		}
		after, err := c.BlockStatus(t.Context(), 0, 1<<20)
		if err != nil || len(before) != len(after) || before[0] != after[0] {
			t.Fatalf("%+v, then %+v, %v", before, after, err)
		}
	})
}

// TestAdoptRefuses connections in states no server leaves them in, and of
// exports it does not serve: the client sees the end.
func TestAdoptRefuses(t *testing.T) {
	s := setup{size: 1 << 20}
	r := newRelay(t, s)
	for name, harm := range map[string]func(*nbd.Handed){
		"export":  func(h *nbd.Handed) { h.Export = "other" },
		"skip":    func(h *nbd.Handed) { h.Skip = -1 },
		"pending": func(h *nbd.Handed) { h.Pending = make([]byte, nbd.MaxPending+1) },
		"bytes":   func(h *nbd.Handed) { h.Pending = bytes.Repeat([]byte("x"), 100) },
	} {
		c, err := nbd.Dial(t.Context(), "unix", r.path, nbd.DialOptions{Export: "d"})
		if err != nil {
			t.Fatal(err)
		}
		r.server.HandOver()
		r.stop()
		if err := <-r.over; err != nil {
			t.Fatal(err)
		}
		h := r.server.Handed()
		if len(h) != 1 {
			t.Fatalf("%d connections", len(h))
		}
		harm(&h[0])
		r.serve(h)
		if _, err := c.ReadAt(t.Context(), make([]byte, 512), 0); err == nil {
			t.Errorf("%s: adopted", name)
		}
		c.Close()
	}
}
