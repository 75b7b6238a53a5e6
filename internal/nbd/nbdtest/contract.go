package nbdtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/nbd"
)

// Dial opens a connection to the disk under test; it is closed with the test.
type Dial func(t *testing.T) *nbd.Client

// Serve serves a fresh, zeroed disk of size bytes until the test ends.
type Serve func(t *testing.T, size int64) Dial

// diskSize is large enough for the largest request at an odd offset.
const diskSize = 48 << 20

// Run puts a way of serving through the whole contract.
func Run(t *testing.T, serve Serve) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Dial)
	}{
		{"ReadWrite", readWrite},
		{"Bounds", bounds},
		{"Durability", durability},
		{"Zeroing", zeroing},
		{"BlockStatus", blockStatus},
		{"MultiConn", multiConn},
		{"Pipelining", pipelining},
		{"SharedBlocks", sharedBlocks},
		{"Model", model},
		{"Cancel", cancel},
		{"HangUp", hangUp},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, serve(t, diskSize)) })
	}
}

// seeded returns a generator whose seed is in the log; HOLDFAST_SEED repeats
// a run.
func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("HOLDFAST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// steps is how many random operations each actor of a random test does.
func steps(t *testing.T, normal int) int {
	s := os.Getenv("HOLDFAST_SIM_N")
	if s == "" {
		return normal
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func fill(r *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func write(t *testing.T, c *nbd.Client, p []byte, off int64, flags nbd.Flags) {
	t.Helper()
	_, err := c.WriteAt(t.Context(), p, off, flags)
	must(t, fmt.Sprintf("write %d at %d", len(p), off), err)
}

// expect reads a range and compares it.
func expect(t *testing.T, c *nbd.Client, want []byte, off int64) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := c.ReadAt(t.Context(), got, off)
	must(t, fmt.Sprintf("read %d at %d", len(want), off), err)
	if !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		t.Fatalf("read %d at %d: byte %d is %#x, want %#x", len(want), off, i, got[i], want[i])
	}
}

func readWrite(t *testing.T, dial Dial) {
	c, r := dial(t), seeded(t)
	for _, n := range []int{1, 16, 511, 512, 513, 4095, 4096, 4097, 64 << 10, 1<<20 - 28, 1 << 20, 1<<20 + 3, 5<<20 + 7, 32 << 20} {
		for _, off := range []int64{0, 1, 512, 4096, 5000, diskSize - int64(n)} {
			p := make([]byte, n)
			fill(r, p[:min(n, 64<<10)])
			p[n-1] = 0xa5
			write(t, c, p, off, 0)
			expect(t, c, p, off)
		}
	}
	expect(t, c, nil, 0)
}

func bounds(t *testing.T, dial Dial) {
	c := dial(t)
	if c.Size() != diskSize {
		t.Fatalf("size %d, want %d", c.Size(), diskSize)
	}
	p := make([]byte, 4096)
	if _, err := c.ReadAt(t.Context(), p, diskSize-4095); err == nil {
		t.Error("a read beyond the end succeeded")
	}
	if _, err := c.WriteAt(t.Context(), p, -1, 0); err == nil {
		t.Error("a write before the start succeeded")
	}
	expect(t, c, p, diskSize-4096)
}

// durability checks that flushes and forced writes succeed and are ordered
// after what they cover; that bytes survive a power cut is not for this test.
func durability(t *testing.T, dial Dial) {
	a, b := dial(t), dial(t)
	p := bytes.Repeat([]byte{7}, 8192)
	write(t, a, p, 4096, 0)
	must(t, "flush on the other connection", b.Flush(t.Context()))
	write(t, a, p[:100], 3, nbd.FUA)
	must(t, "zero with FUA", a.WriteZeroes(t.Context(), 8192, 4096, nbd.FUA))
	must(t, "trim with FUA", a.Trim(t.Context(), 20<<20, 4096, nbd.FUA))
	expect(t, b, p[:100], 3)
	expect(t, b, p[:4096], 4096)
	expect(t, b, make([]byte, 4096), 8192)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if err := a.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func zeroing(t *testing.T, dial Dial) {
	c := dial(t)
	full := bytes.Repeat([]byte{0xee}, 256<<10)
	for _, flags := range []nbd.Flags{0, nbd.NoHole, nbd.FastZero, nbd.FastZero | nbd.NoHole} {
		for _, span := range [][2]int64{{0, 4096}, {4096, 128 << 10}, {1, 1}, {511, 2}, {4095, 4098}, {100, 100000}} {
			write(t, c, full, 0, 0)
			want := bytes.Clone(full)
			err := c.WriteZeroes(t.Context(), span[0], span[1], flags)
			switch {
			case err == nil:
				clear(want[span[0] : span[0]+span[1]])
			case flags&nbd.FastZero == 0 || !errors.Is(err, syscall.EOPNOTSUPP):
				t.Fatalf("zero %v flags %#x: %v", span, flags, err)
			}
			expect(t, c, want, 0)
		}
	}
	write(t, c, full, 0, 0)
	must(t, "trim", c.Trim(t.Context(), 65536, 65536, 0))
	expect(t, c, full[:65536], 0)
	expect(t, c, full[:65536], 131072)
}

// blockStatus checks that extents cover the range, and that what is said to
// be zero is.
func blockStatus(t *testing.T, dial Dial) {
	c := dial(t)
	p := bytes.Repeat([]byte{1}, 64<<10)
	for _, off := range []int64{0, 1 << 20, 10<<20 + 4096, diskSize - 64<<10} {
		write(t, c, p, off, 0)
	}
	at := int64(100)
	extents, err := c.BlockStatus(t.Context(), at, diskSize-at)
	must(t, "block status", err)
	data := int64(0)
	for _, e := range extents {
		if e.Offset != at || e.Length <= 0 {
			t.Fatalf("extent %+v does not follow %d", e, at)
		}
		at += e.Length
		if !e.Zero {
			data += e.Length
			continue
		}
		got := make([]byte, e.Length)
		_, err := c.ReadAt(t.Context(), got, e.Offset)
		must(t, "read", err)
		if i := bytes.IndexFunc(got, func(r rune) bool { return r != 0 }); i >= 0 {
			t.Fatalf("extent %+v is said to be zero", e)
		}
	}
	if at != diskSize {
		t.Fatalf("extents end at %d, want %d", at, int64(diskSize))
	}
	if data < 4*64<<10-100 {
		t.Fatalf("%d bytes of data reported, wrote more", data)
	}
}

func multiConn(t *testing.T, dial Dial) {
	var conns []*nbd.Client
	for range 4 {
		conns = append(conns, dial(t))
	}
	if !conns[0].Info().CanMultiConn {
		t.Fatal("several connections not offered")
	}
	p := make([]byte, 5000)
	for i := range 64 {
		p[0], p[4999] = byte(i), byte(i)
		write(t, conns[i%4], p, int64(i)*1234, 0)
		must(t, "flush", conns[(i+1)%4].Flush(t.Context()))
		expect(t, conns[(i+2)%4], p, int64(i)*1234)
	}
}

// pipelining keeps many requests of all kinds in flight on one connection.
func pipelining(t *testing.T, dial Dial) {
	c := dial(t)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			p := bytes.Repeat([]byte{byte(i + 1)}, 4096+i*512)
			off := int64(i) * 65536
			got := make([]byte, len(p))
			for range 10 {
				if _, err := c.WriteAt(t.Context(), p, off, 0); err != nil {
					t.Error(err)
				}
				if i%8 == 0 {
					if err := c.Flush(t.Context()); err != nil {
						t.Error(err)
					}
				}
				clear(got)
				if _, err := c.ReadAt(t.Context(), got, off); err != nil || !bytes.Equal(got, p) {
					t.Errorf("writer %d reads something else (%v)", i, err)
				}
			}
		})
	}
	all.Wait()
}

// sharedBlocks lets writers own neighbouring pieces of the same blocks: a
// server that reads, modifies and writes a block without care loses one of
// their writes. Whole-block writers beside them must not be lost either.
func sharedBlocks(t *testing.T, dial Dial) {
	const piece, writers = 128, 8
	var all sync.WaitGroup
	rounds := steps(t, 60)
	for w := range writers {
		c := dial(t)
		all.Go(func() {
			p, got := make([]byte, piece), make([]byte, piece)
			for i := range rounds {
				off := int64(i%4)*4096 + int64(w)*piece
				for k := range p {
					p[k] = byte(i*writers + w)
				}
				if _, err := c.WriteAt(t.Context(), p, off, 0); err != nil {
					t.Error(err)
					return
				}
				if _, err := c.ReadAt(t.Context(), got, off); err != nil || !bytes.Equal(got, p) {
					t.Errorf("writer %d lost its write of round %d (%v)", w, i, err)
					return
				}
			}
		})
	}
	all.Wait()
	overlapped(t, dial, rounds)
}

// overlapped races a whole-block write with a part of the same block. Any
// order is right, but the bytes outside the part have one writer only.
func overlapped(t *testing.T, dial Dial, rounds int) {
	a, b := dial(t), dial(t)
	got := make([]byte, 4096)
	for i := range rounds {
		whole := bytes.Repeat([]byte{byte(2*i + 1)}, 4096)
		part := bytes.Repeat([]byte{byte(2*i + 2)}, 512)
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := a.WriteAt(t.Context(), whole, 1<<20, 0); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			if _, err := b.WriteAt(t.Context(), part[:100], 1<<20+700, 0); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		_, err := a.ReadAt(t.Context(), got, 1<<20)
		must(t, "read", err)
		if !bytes.Equal(got[:700], whole[:700]) || !bytes.Equal(got[800:], whole[800:]) {
			t.Fatalf("round %d: a whole-block write was undone by a write to a part of the block", i)
		}
	}
}

// cancel gives up on requests and checks that the connection lives on.
func cancel(t *testing.T, dial Dial) {
	c := dial(t)
	p := make([]byte, 1<<20)
	for i := range 50 {
		ctx, stop := context.WithTimeout(t.Context(), time.Duration(i)*20*time.Microsecond)
		_, err := c.ReadAt(ctx, p, int64(i))
		stop()
		if err != nil && ctx.Err() == nil {
			t.Fatalf("read failed without being cancelled: %v", err)
		}
	}
	if _, err := c.ReadAt(t.Context(), p, 0); err != nil {
		d := dial(t) // a cancel in the middle of a request costs the connection, not the server
		expect(t, d, make([]byte, 4096), 0)
	}
}

// hangUp closes connections in the middle of work.
func hangUp(t *testing.T, dial Dial) {
	for range 5 {
		c := dial(t)
		var all sync.WaitGroup
		started := make(chan struct{}, 32)
		for i := range 32 {
			all.Go(func() {
				p := make([]byte, 128<<10)
				started <- struct{}{}
				for range 20 {
					if _, err := c.WriteAt(t.Context(), p, int64(i)<<17, 0); err != nil {
						return
					}
					if _, err := c.ReadAt(t.Context(), p, int64(i)<<17); err != nil {
						return
					}
				}
			})
		}
		for range 32 {
			<-started
		}
		c.Close()
		all.Wait()
	}
	expect(t, dial(t), make([]byte, 4096), 40<<20)
}
