package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/segment"
	"holdfast/internal/store"
)

// poolBlocks is how many different blocks guests write: enough that none comes
// twice in a frame too often.
const poolBlocks = 1024

// virtualClock is a clock that somebody moves: days pass in minutes.
type virtualClock struct{ at atomic.Int64 }

func newVirtualClock(t time.Time) *virtualClock {
	c := &virtualClock{}
	c.at.Store(t.UnixNano())
	return c
}

func (c *virtualClock) Wall() time.Time         { return time.Unix(0, c.at.Load()).UTC() }
func (c *virtualClock) Boot() time.Duration     { return time.Duration(c.at.Load()) }
func (c *virtualClock) advance(d time.Duration) { c.at.Add(int64(d)) }

// guests is a protected domain whose guests write what the bench says, down to
// a real container by the real publisher. It knows what its disks must hold.
type guests struct {
	c     *journal.Container
	key   journal.RecoveryKeyPair
	pub   *journal.Publisher
	clock *virtualClock // nil: real time
	rng   *rand.Rand
	pool  []byte // poolBlocks blocks
	disks []dr.CheckpointDisk
	head  [][]uint16 // of each disk, by block: 1 + place in the pool; 0: zeroes

	slots   []*slot
	current *slot
	turn    int
	used    map[place]bool // by the object being made: it may write a chunk once
	first   dr.Seq
	seq     dr.Seq
	cp      dr.CheckpointID
	raw     int64 // bytes written by the guests
	stored  int64 // bytes of the objects published
}

type place struct {
	disk  int
	chunk uint32
}

// slot is a builder and where its last object is.
type slot struct {
	b       *segment.Builder
	pending *journal.Pending
}

// guestsOptions say what domain to make.
type guestsOptions struct {
	disks  int
	chunks int // of each disk
	slots  int // objects under way at once
	clock  *virtualClock
	seed   uint64
}

// newPool makes blocks of which half are words that compress well and half is
// noise, so that frames shrink to about a half.
func newPool(rng *rand.Rand) []byte {
	pool := make([]byte, poolBlocks*dr.BlockSize)
	for i := 0; i < len(pool); i += dr.BlockSize {
		for j := range dr.BlockSize / 2 {
			pool[i+j] = byte(rng.Uint32())
		}
		for j := dr.BlockSize / 2; j < dr.BlockSize; j++ {
			pool[i+j] = byte(i / dr.BlockSize)
		}
	}
	return pool
}

// newGuests makes a container in st and takes it over.
func newGuests(ctx context.Context, st store.Store, o guestsOptions) (*guests, error) {
	key, err := journal.NewRecoveryKey()
	if err != nil {
		return nil, err
	}
	c, err := journal.Create(ctx, st, journal.CreateOptions{Name: "bench", Recipients: []journal.Recipient{key.Recipient()}})
	if err != nil {
		return nil, err
	}
	g := &guests{c: c, key: key, clock: o.clock, rng: rand.New(rand.NewPCG(o.seed, 5)), used: make(map[place]bool)}
	g.pool = newPool(g.rng)
	for range o.disks {
		g.disks = append(g.disks, dr.CheckpointDisk{ID: dr.DiskID{UUID: dr.NewUUID()}, VM: dr.VMID{UUID: dr.NewUUID()},
			Size: int64(o.chunks) * dr.ChunkSize, Synced: true})
		g.head = append(g.head, make([]uint16, o.chunks*dr.BlocksPerChunk))
	}
	return g, g.open(ctx, o.slots)
}

// open takes the domain over with builders for so many objects at once.
func (g *guests) open(ctx context.Context, slots int) error {
	opts := journal.PublisherOptions{Host: "bench"}
	if g.clock != nil {
		opts.Clock = g.clock
	}
	var err error
	if g.pub, err = g.c.OpenPublisher(ctx, opts); err != nil {
		return err
	}
	g.seq = g.pub.LastSeq()
	g.first = g.seq + 1
	if cp, ok := g.pub.LastCheckpoint(); ok {
		g.cp = cp.ID
	}
	for range max(1, slots) {
		g.slots = append(g.slots, &slot{b: g.c.NewBuilder(segment.BuilderOptions{})})
	}
	g.current = g.slots[0]
	return nil
}

func (g *guests) now() time.Time {
	if g.clock != nil {
		return g.clock.Wall()
	}
	return time.Now()
}

// write has a guest write the blocks of mask. A chunk that the object has
// already is left out, as the appliance would merge it.
func (g *guests) write(disk int, chunk uint32, mask uint16) error {
	at := place{disk, chunk}
	if g.used[at] || mask == 0 {
		return nil
	}
	g.used[at] = true
	g.seq++
	var buf [dr.ChunkSize]byte
	data := buf[:0]
	for i := range dr.BlocksPerChunk {
		if mask>>i&1 == 0 {
			continue
		}
		n := g.rng.IntN(poolBlocks)
		g.head[disk][int(chunk)*dr.BlocksPerChunk+i] = uint16(n + 1)
		data = append(data, g.pool[n*dr.BlockSize:][:dr.BlockSize]...)
	}
	g.raw += int64(len(data))
	return g.current.b.AddFrame(g.disks[disk].ID, chunk, mask, g.seq, data)
}

// cut publishes what was written, with a checkpoint, and returns when another
// object may be begun.
func (g *guests) cut(ctx context.Context) error {
	s := g.current
	g.cp++
	s.b.SetSeqs(g.first, g.seq)
	s.b.SetCheckpoint(dr.Checkpoint{ID: g.cp, Seq: g.seq + 1, Time: g.now(), Scope: dr.Group, Disks: g.disks})
	var err error
	if s.pending, err = g.pub.Publish(ctx, s.b); err != nil {
		return err
	}
	g.stored += int64(s.pending.Size())
	clear(g.used)
	g.first = g.seq + 1
	g.turn++
	g.current = g.slots[g.turn%len(g.slots)]
	return g.current.free(ctx)
}

// free waits until the slot's last object is published.
func (s *slot) free(ctx context.Context) error {
	if s.pending == nil {
		return nil
	}
	if err := s.pending.Wait(ctx); err != nil {
		return err
	}
	s.pending = nil
	s.b.Reset()
	return nil
}

// drain waits until everything is published.
func (g *guests) drain(ctx context.Context) error {
	for _, s := range g.slots {
		if err := s.free(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (g *guests) close() {
	if g.pub != nil {
		_ = g.pub.Close() // always nil
	}
}

// baseline writes each disk once from end to end, in objects of so many chunks.
func (g *guests) baseline(ctx context.Context, perObject int) error {
	for d := range g.disks {
		chunks := len(g.head[d]) / dr.BlocksPerChunk
		for c := range chunks {
			if err := g.write(d, uint32(c), 0xffff); err != nil {
				return err
			}
			if (c+1)%perObject == 0 || c == chunks-1 {
				if err := g.cut(ctx); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// rebuild restores a checkpoint with RocVA, as a recovery would, and returns
// how long that took, reading the history included.
func rebuild(ctx context.Context, c *journal.Container, spec, dir string) (took time.Duration, img *journal.Image, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, nil, err
	}
	start := time.Now()
	h, err := c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return 0, nil, err
	}
	cp, err := h.Find(spec)
	if err != nil {
		return 0, nil, err
	}
	if img, err = h.Resolve(ctx, cp); err != nil {
		return 0, nil, err
	}
	var targets []rocva.Target
	for _, d := range img.Disks {
		targets = append(targets, rocva.Target{Disk: d.ID, Path: filepath.Join(dir, d.ID.String())})
	}
	if _, err := rocva.Full(ctx, c, img, targets, rocva.Options{}); err != nil {
		return 0, nil, err
	}
	return time.Since(start), img, nil
}

// compare compares rebuilt disks in dir with what head says they hold.
func (g *guests) compare(dir string, head [][]uint16) error {
	for d := range g.disks {
		f, err := os.Open(filepath.Join(dir, g.disks[d].ID.String()))
		if err != nil {
			return err
		}
		err = g.compareDisk(f, head[d])
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("disk %d: %w", d, err)
		}
	}
	return nil
}

func (g *guests) compareDisk(f io.Reader, head []uint16) error {
	const blocks = 256
	got, want := make([]byte, blocks*dr.BlockSize), make([]byte, 0, blocks*dr.BlockSize)
	for at := 0; at < len(head); at += blocks {
		want = want[:0]
		for _, n := range head[at:min(at+blocks, len(head))] {
			if n == 0 {
				want = want[:len(want)+dr.BlockSize]
				clear(want[len(want)-dr.BlockSize:])
				continue
			}
			want = append(want, g.pool[int(n-1)*dr.BlockSize:][:dr.BlockSize]...)
		}
		if _, err := io.ReadFull(f, got[:len(want)]); err != nil {
			return err
		}
		if !bytes.Equal(got[:len(want)], want) {
			return fmt.Errorf("rebuilt from the container: %w, between blocks %d and %d", errDiffer, at, at+blocks)
		}
	}
	return nil
}

// verify rebuilds a checkpoint and compares it.
func (g *guests) verify(ctx context.Context, spec, dir string, head [][]uint16) error {
	if _, _, err := rebuild(ctx, g.c, spec, dir); err != nil {
		return err
	}
	return errors.Join(g.compare(dir, head), os.RemoveAll(dir))
}
