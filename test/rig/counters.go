package rig

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/nbd"
)

// Counters is a load that can be judged later: every block of a disk counts how
// often it was written, and each belongs to one writer. Safe for concurrent use.
type Counters struct {
	seed  uint64
	acked []atomic.Uint64 // by block
	count atomic.Int64
}

// NewCounters is for a disk of so many blocks, which begins as zeroes.
func NewCounters(t testing.TB, blocks int) *Counters {
	t.Helper()
	c := &Counters{seed: rand.Uint64(), acked: make([]atomic.Uint64, blocks)}
	t.Logf("load of seed %d", c.seed)
	return c
}

// Count is how many writes were acknowledged.
func (c *Counters) Count() int64 { return c.count.Load() }

// Acked is what each block's writer was told.
func (c *Counters) Acked() []uint64 {
	out := make([]uint64, len(c.acked))
	for b := range c.acked {
		out[b] = c.acked[b].Load()
	}
	return out
}

// Write has writers, each over a connection of its own, count up random blocks
// until the disk fails or the returned function is called, which waits for
// them. every is the pause of a writer between two writes.
func (c *Counters) Write(t testing.TB, socket, export string, writers int, every time.Duration) (wait func()) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	share := len(c.acked) / writers
	for w := range writers {
		disk, err := nbd.Dial(ctx, "unix", socket, nbd.DialOptions{Export: export})
		if err != nil {
			stop()
			t.Fatal(err)
		}
		done.Go(func() {
			defer disk.Close()
			c.writer(ctx, disk, rand.New(rand.NewPCG(c.seed, uint64(w))), w*share, share, every)
		})
	}
	wait = func() {
		stop()
		done.Wait()
	}
	t.Cleanup(wait)
	return wait
}

func (c *Counters) writer(ctx context.Context, disk *nbd.Client, rng *rand.Rand, first, n int, every time.Duration) {
	buf := make([]byte, dr.BlockSize)
	var tick <-chan time.Time
	if every > 0 {
		t := time.NewTicker(every)
		defer t.Stop()
		tick = t.C
	}
	for ctx.Err() == nil {
		b := first + rng.IntN(n)
		count := c.acked[b].Load() + 1
		for at := 0; at < len(buf); at += 16 { // all of the block tells
			binary.LittleEndian.PutUint64(buf[at:], count)
			binary.LittleEndian.PutUint64(buf[at+8:], uint64(b))
		}
		if _, err := disk.WriteAt(context.WithoutCancel(ctx), buf, int64(b)*dr.BlockSize, 0); err != nil {
			return // the disk is gone; this write was promised to nobody
		}
		c.acked[b].Store(count)
		c.count.Add(1)
		if tick != nil {
			select {
			case <-tick:
			case <-ctx.Done():
			}
		}
	}
}

// Missing judges a restored disk after the writers have ended: each block must
// be whole, and as new as what its writer was told, or one newer.
func (c *Counters) Missing(disk []byte) error { return MissingSince(disk, c.Acked(), 1) }

// MissingSince judges a disk by what had been acknowledged at an earlier
// moment: blocks may be newer than that by at most ahead writes (0: by any
// number).
func MissingSince(disk []byte, acked []uint64, ahead uint64) error {
	for b, acked := range acked {
		p := disk[b*dr.BlockSize:][:dr.BlockSize]
		n := binary.LittleEndian.Uint64(p)
		if n == 0 && acked == 0 {
			continue
		}
		for at := 0; at < len(p); at += 16 {
			if binary.LittleEndian.Uint64(p[at:]) != n || binary.LittleEndian.Uint64(p[at+8:]) != uint64(b) {
				return fmt.Errorf("block %d is torn or another's", b)
			}
		}
		if n < acked || ahead > 0 && n > acked+ahead {
			return fmt.Errorf("block %d holds write %d, %d were acknowledged", b, n, acked)
		}
	}
	return nil
}
