package journal

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/segment"
	"holdfast/internal/store"
	"holdfast/internal/store/mem"
)

// envInt is an env knob for longer runs.
func envInt(t testing.TB, name string, def int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// seeded returns a generator whose seed is in the test's log.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(envInt(t, "HOLDFAST_SEED", int(rand.Int32())))
	t.Logf("HOLDFAST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

var testKey = func() RecoveryKeyPair {
	k, err := NewRecoveryKey()
	if err != nil {
		panic(err)
	}
	return k
}()

func newTestContainer(t testing.TB, st store.Store) *Container {
	t.Helper()
	return must[*Container](t)(Create(t.Context(), st, CreateOptions{Name: "payroll", Recipients: []Recipient{testKey.Recipient()}}))
}

func reopen(t testing.TB, st store.Store) *Container {
	t.Helper()
	return must[*Container](t)(Open(t.Context(), st, testKey.Identity()))
}

// oracle is a domain kept in memory: disks as they are, and as they were at
// every checkpoint.
type oracle struct {
	rng    *rand.Rand
	vm     dr.VMID
	disks  []dr.DiskID
	images [][]byte
	seq    dr.Seq
	cp     dr.CheckpointID
	now    time.Time
	at     map[dr.CheckpointID][][]byte
	seqAt  map[dr.CheckpointID]dr.Seq
}

func newOracle(rng *rand.Rand, sizes ...int) *oracle {
	o := &oracle{rng: rng, vm: dr.VMID{UUID: dr.NewUUID()}, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		at: make(map[dr.CheckpointID][][]byte), seqAt: make(map[dr.CheckpointID]dr.Seq)}
	for _, s := range sizes {
		o.disks = append(o.disks, dr.DiskID{UUID: dr.NewUUID()})
		o.images = append(o.images, make([]byte, s))
	}
	return o
}

// cell is what happens between two publications: the last state of every
// block that was touched.
type cell struct {
	first, last dr.Seq
	state       []map[uint64]blockState // by disk, by block
	cp          *dr.Checkpoint
}

type blockState struct {
	data []byte // nil: zeroed
	seq  dr.Seq
}

// write does n random writes and zeroings and returns them as a cell.
func (o *oracle) write(n int) *cell {
	c := &cell{first: o.seq + 1}
	for range o.disks {
		c.state = append(c.state, make(map[uint64]blockState))
	}
	for range n {
		o.seq++
		d := o.rng.IntN(len(o.disks))
		img := o.images[d]
		blocks := len(img) / dr.BlockSize
		first := o.rng.IntN(blocks)
		count := min(1+o.rng.IntN(24), blocks-first)
		zero := o.rng.IntN(5) == 0
		for b := first; b < first+count; b++ {
			p := img[b*dr.BlockSize : (b+1)*dr.BlockSize]
			if zero {
				clear(p)
				c.state[d][uint64(b)] = blockState{nil, o.seq}
				continue
			}
			fill(o.rng, p)
			c.state[d][uint64(b)] = blockState{bytes.Clone(p), o.seq}
		}
	}
	c.last = o.seq
	return c
}

// fill makes content that compresses now and then.
func fill(rng *rand.Rand, p []byte) {
	if rng.IntN(2) == 0 {
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		return
	}
	b := byte(1 + rng.IntN(255))
	for i := range p {
		p[i] = b + byte(i>>9)
	}
}

// checkpoint ends c with a checkpoint and remembers the disks.
func (o *oracle) checkpoint(c *cell) {
	o.cp++
	o.now = o.now.Add(5 * time.Second)
	cp := &dr.Checkpoint{ID: o.cp, Seq: o.seq + 1, Time: o.now, Scope: dr.Group}
	var imgs [][]byte
	for i, id := range o.disks {
		cp.Disks = append(cp.Disks, dr.CheckpointDisk{ID: id, VM: o.vm, Size: int64(len(o.images[i])), Synced: true})
		imgs = append(imgs, bytes.Clone(o.images[i]))
	}
	o.at[o.cp], o.seqAt[o.cp] = imgs, cp.Seq
	c.cp = cp
}

// build puts the cell into b.
func (c *cell) build(t testing.TB, o *oracle, b *segment.Builder) *segment.Builder {
	t.Helper()
	for d, blocks := range c.state {
		c.buildDisk(t, b, o.disks[d], blocks, len(o.images[d])/dr.BlockSize)
	}
	b.SetSeqs(c.first, c.last)
	if c.cp != nil {
		b.SetCheckpoint(*c.cp)
	}
	return b
}

func (c *cell) buildDisk(t testing.TB, b *segment.Builder, id dr.DiskID, blocks map[uint64]blockState, total int) {
	t.Helper()
	for chunk := range (total + dr.BlocksPerChunk - 1) / dr.BlocksPerChunk {
		var mask uint16
		var data []byte
		var seq dr.Seq
		for i := range uint64(dr.BlocksPerChunk) {
			s, ok := blocks[uint64(chunk)*dr.BlocksPerChunk+i]
			switch {
			case !ok:
			case s.data == nil:
				if err := b.AddZero(id, uint64(chunk)*dr.BlocksPerChunk+i, 1, s.seq); err != nil {
					t.Fatal(err)
				}
			default:
				mask |= 1 << i
				data = append(data, s.data...)
				seq = max(seq, s.seq)
			}
		}
		if mask != 0 {
			if err := b.AddFrame(id, uint32(chunk), mask, seq, data); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// rehydrate builds the disks of an image in memory, the slow and obvious way.
func rehydrate(ctx context.Context, c *Container, m *Image) ([][]byte, error) {
	var out [][]byte
	for _, d := range m.Disks {
		out = append(out, make([]byte, d.Size))
	}
	for _, io := range m.Objects {
		o, err := c.OpenSized(ctx, io.Ref, io.Size)
		if err != nil {
			return nil, err
		}
		es, err := o.Entries(m, &io)
		if err != nil {
			return nil, err
		}
		for k, p := range io.Frames {
			e := es[k]
			sealed := make([]byte, e.Stored)
			if err := o.ReadAt(ctx, sealed, int64(e.Offset)); err != nil {
				return nil, err
			}
			blocks, err := o.OpenFrame(nil, e, sealed, true)
			if err != nil {
				return nil, err
			}
			for i := range dr.BlocksPerChunk {
				if e.Mask>>i&1 == 0 {
					continue
				}
				if p.Take>>i&1 == 1 {
					copy(out[p.Disk][int64(e.Chunk)*dr.ChunkSize+int64(i)*dr.BlockSize:], blocks[:dr.BlockSize])
				}
				blocks = blocks[dr.BlockSize:]
			}
		}
	}
	return out, nil
}

// compareAll resolves every checkpoint of the history and compares it with
// the oracle; it returns how many.
func (o *oracle) compareAll(t testing.TB, c *Container, h *History) int {
	t.Helper()
	n := 0
	for _, cp := range h.Checkpoints() {
		if !cp.Recoverable {
			t.Fatalf("checkpoint %d is not recoverable: %s", cp.ID, cp.Why)
		}
		if err := o.compare(t.Context(), c, h, cp); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func (o *oracle) compare(ctx context.Context, c *Container, h *History, cp CheckpointInfo) error {
	m, err := h.Resolve(ctx, cp)
	if err != nil {
		return fmt.Errorf("checkpoint %d: %w", cp.ID, err)
	}
	got, err := rehydrate(ctx, c, m)
	if err != nil {
		return fmt.Errorf("checkpoint %d: %w", cp.ID, err)
	}
	for d, want := range o.at[cp.ID] {
		if !bytes.Equal(got[d], want) {
			return fmt.Errorf("checkpoint %d: disk %d differs from the oracle", cp.ID, d)
		}
	}
	return nil
}

// publishCells publishes n cells with a checkpoint each and waits for them.
func publishCells(t testing.TB, c *Container, o *oracle, n, writes int) {
	t.Helper()
	p := must[*Publisher](t)(c.OpenPublisher(t.Context(), PublisherOptions{Host: "drva-1"}))
	defer p.Close()
	for range n {
		cell := o.write(writes)
		o.checkpoint(cell)
		q := must[*Pending](t)(p.Publish(t.Context(), cell.build(t, o, c.NewBuilder(segment.BuilderOptions{}))))
		if err := q.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryCheckpointIsTheOracles(t *testing.T) {
	rng := seeded(t)
	st := mem.New()
	c := newTestContainer(t, st)
	// The second disk ends inside a chunk.
	o := newOracle(rng, 40*dr.ChunkSize, 3*dr.ChunkSize+5*dr.BlockSize)
	for range envInt(t, "HOLDFAST_ORACLE_N", 6) {
		p := must[*Publisher](t)(c.OpenPublisher(t.Context(), PublisherOptions{}))
		var last *Pending
		for range 1 + rng.IntN(12) {
			cell := o.write(rng.IntN(30))
			if rng.IntN(4) != 0 {
				o.checkpoint(cell)
			}
			last = must[*Pending](t)(p.Publish(t.Context(), cell.build(t, o, c.NewBuilder(segment.BuilderOptions{}))))
		}
		if err := last.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.Close()
		c = reopen(t, st)
	}
	h := must[*History](t)(c.History(t.Context(), HistoryOptions{}))
	if p := h.Problems(); len(p) != 0 {
		t.Fatal(p)
	}
	if n := o.compareAll(t, c, h); n != len(o.at) {
		t.Fatalf("the history has %d checkpoints, the oracle %d", n, len(o.at))
	}
	r := must[*Report](t)(c.Fsck(t.Context(), FsckOptions{Mode: FsckDeep}))
	if !r.Clean || r.Frames == 0 || r.Timelines[0].Recoverable != len(o.at) {
		t.Fatalf("%+v", r)
	}
}

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
