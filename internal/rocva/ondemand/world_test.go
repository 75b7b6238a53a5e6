package ondemand

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/journal"
	"holdfast/internal/nbd"
	"holdfast/internal/rocva"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(rand.Int32())
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		check(t, err)
		seed = n
	}
	t.Logf("HOLDFAST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// world is a container with some history and the disks as they were at its last
// checkpoint.
type world struct {
	temps int // files that crashes left, for who wants to know that there were some
	c     *journal.Container
	img   *journal.Image
	disks [][]byte
	key   journal.RecoveryKeyPair
}

// newWorld publishes objects of random writes and resolves the last checkpoint.
func newWorld(t testing.TB, st store.Store, rng *rand.Rand, objects int, sizes ...int64) *world {
	t.Helper()
	ctx := context.Background()
	key, err := journal.NewRecoveryKey()
	check(t, err)
	c, err := journal.Create(ctx, st, journal.CreateOptions{Name: "w", Recipients: []journal.Recipient{key.Recipient()}})
	check(t, err)
	w := &world{c: c, key: key}
	cp := dr.Checkpoint{ID: 1, Seq: dr.Seq(objects + 1), Time: time.Now(), Scope: dr.Group}
	for _, s := range sizes {
		w.disks = append(w.disks, make([]byte, s))
		cp.Disks = append(cp.Disks, dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: dr.VMID{UUID: dr.NewUUID()}, Size: s, Synced: true})
	}
	p, err := c.OpenPublisher(ctx, journal.PublisherOptions{})
	check(t, err)
	defer p.Close()
	for n := range objects {
		b := c.NewBuilder(segment.BuilderOptions{})
		seq := dr.Seq(n + 1)
		b.SetSeqs(seq, seq)
		for d := range w.disks {
			scribble(t, rng, w.disks[d], b, cp.Disks[d].ID, seq)
		}
		if n == objects-1 {
			b.SetCheckpoint(cp)
		}
		q, err := p.Publish(ctx, b)
		check(t, err)
		check(t, q.Wait(ctx))
	}
	w.img = resolve(t, c)
	return w
}

func resolve(t testing.TB, c *journal.Container) *journal.Image {
	t.Helper()
	h, err := c.History(context.Background(), journal.HistoryOptions{})
	check(t, err)
	last, err := h.Find("latest")
	check(t, err)
	img, err := h.Resolve(context.Background(), last)
	check(t, err)
	return img
}

// scribble writes some blocks of some chunks.
func scribble(t testing.TB, rng *rand.Rand, disk []byte, b *segment.Builder, id dr.DiskID, seq dr.Seq) {
	t.Helper()
	for chunk := range int(chunks(int64(len(disk)))) {
		if rng.IntN(3) == 0 {
			continue
		}
		var data []byte
		var mask uint16
		for i := range dr.BlocksPerChunk {
			at := chunk*dr.ChunkSize + i*dr.BlockSize
			if at >= len(disk) || rng.IntN(3) == 0 {
				continue
			}
			block := make([]byte, dr.BlockSize)
			for j := 0; j < len(block); j += 8 {
				block[j] = byte(rng.Uint32()) | 1
			}
			copy(disk[at:], block)
			mask |= 1 << i
			data = append(data, block...)
		}
		if mask != 0 {
			check(t, b.AddFrame(id, uint32(chunk), mask, seq, data))
		}
	}
}

func (w *world) targets(dir string) (out []rocva.Target) {
	for i, d := range w.img.Disks {
		out = append(out, rocva.Target{Disk: d.ID, Path: fmt.Sprintf("%s/disk%d.raw", dir, i)})
	}
	return out
}

func (w *world) open(t testing.TB, fs durable.FS, dir string, o Options) *Set {
	t.Helper()
	o.FS = fs
	if o.BootWindow == 0 {
		o.BootWindow = -1 // nothing boots here
	}
	s, err := Open(context.Background(), w.c, w.img, w.targets(dir), o)
	check(t, err)
	return s
}

// req is an operation.
type req struct {
	Kind           nbd.Kind
	Flags          nbd.Flags
	Offset, Length int64
	Data           []byte
}

// do sends one operation down a device and waits for its end.
func do(dev nbd.Device, op req) error {
	done := make(chan error, 1)
	o := nbd.NewOp(func(_ *nbd.Op, err error) { done <- err })
	o.Kind, o.Flags, o.Offset, o.Length, o.Data = op.Kind, op.Flags, op.Offset, op.Length, op.Data
	dev.Submit(o)
	return <-done
}

func write(t testing.TB, dev nbd.Device, b []byte, off int64, flags nbd.Flags) {
	t.Helper()
	check(t, do(dev, req{Kind: nbd.Write, Flags: flags, Offset: off, Length: int64(len(b)), Data: b}))
}

// whole reads all of a device.
func whole(t testing.TB, dev nbd.Disk) []byte {
	t.Helper()
	b := make([]byte, dev.Size())
	const step = 192 << 10
	for off := 0; off < len(b); off += step {
		p := b[off:min(off+step, len(b))]
		if _, err := dev.ReadAt(p, int64(off)); err != nil {
			t.Fatalf("reading %d bytes at %d: %v", len(p), off, err)
		}
	}
	return b
}

// same compares, and says where the first difference is.
func same(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("%s: byte %d (block %d of chunk %d) differs", what, i, i%dr.ChunkSize/dr.BlockSize, i/dr.ChunkSize)
		}
	}
	t.Fatalf("%s: %d bytes, not %d", what, len(got), len(want))
}

// reopen opens the world's container in another store that holds it.
func reopen(t testing.TB, st store.Store, w *world) (c *journal.Container) {
	t.Helper()
	for range 100 { // the store may be in bad weather
		var err error
		if c, err = journal.Open(context.Background(), st, w.key.Identity()); err == nil {
			return c
		}
	}
	t.Fatal("the container cannot be opened")
	return nil
}
