package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/rocva"
	"holdfast/internal/rocva/warm"
	"holdfast/internal/store/dir"
	"holdfast/internal/store/meter"
)

const (
	warmFigure     = "warm_failover_minus_local_boot_s"
	failbackFigure = "failback_bytes_over_changed"

	// recoveryChunks are in the disk of these figures: 1 GiB.
	recoveryChunks = 1 << 14
	// failbackParts is in how many checkpoints the changes are published.
	failbackParts = 12
	// warmChanges is how many chunks change between two checkpoints: 5 s of the
	// reference domain, 2.3 MB/s in writes of 16 KiB.
	warmChanges = 700
)

// noisy makes the guests' blocks incompressible: what is stored of them is never
// less than what they are.
func (g *guests) noisy() {
	for i := range g.pool {
		g.pool[i] = byte(g.rng.Uint32())
	}
}

// metered is a domain with one disk that is published, in a counted store.
func (b *bench) metered(ctx context.Context, at string, seed int) (*guests, *meter.Store, error) {
	root := filepath.Join(at, "store")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, nil, err
	}
	files, err := dir.Open(root)
	if err != nil {
		return nil, nil, err
	}
	st := meter.New(files)
	g, err := newGuests(ctx, st, guestsOptions{disks: 1, chunks: b.sized(recoveryChunks, 512), slots: 1, seed: uint64(seed)})
	if err != nil {
		return nil, nil, err
	}
	g.noisy()
	if err := g.baseline(ctx, 256); err != nil {
		g.close()
		return nil, nil, err
	}
	if err := g.drain(ctx); err != nil {
		g.close()
		return nil, nil, err
	}
	return g, st, indexAll(ctx, g.c)
}

// indexAll maintains a container once, as is done every few minutes: its history
// is read from a manifest then.
func indexAll(ctx context.Context, c *journal.Container) error {
	m, err := maintain.New(ctx, c, maintain.Options{By: "bench"})
	if err == nil {
		_, err = m.Pass(ctx)
	}
	return err
}

// sprinkle changes so many random single blocks of the disk in one checkpoint.
func (g *guests) sprinkle(ctx context.Context, blocks []uint64) error {
	byChunk := map[uint32]uint16{}
	for _, b := range blocks {
		byChunk[uint32(b/dr.BlocksPerChunk)] |= 1 << (b % dr.BlocksPerChunk)
	}
	for chunk, mask := range byChunk {
		if err := g.write(0, chunk, mask); err != nil {
			return err
		}
	}
	if err := g.cut(ctx); err != nil {
		return err
	}
	return g.drain(ctx)
}

// failback measures what goes through the store when a site that was away comes
// back after 1 % of its disk changed elsewhere, block by block: what the other
// site publishes, and what the returning one reads.
func (b *bench) failback(ctx context.Context, at string) (_ []figure, err error) {
	var worst []float64
	for round := range min(b.rounds, 3) {
		out := filepath.Join(at, fmt.Sprint(round))
		if err := os.Mkdir(out, 0o755); err != nil {
			return nil, err
		}
		in, read, err := b.failbackOnce(ctx, out, round)
		if err != nil {
			return nil, err
		}
		b.remark("failback round %d: stored %.3f, read %.3f of what changed", round+1, in, read)
		worst = append(worst, max(in, read))
		if err := os.RemoveAll(out); err != nil {
			return nil, err
		}
	}
	return []figure{spread(failbackFigure, "ratio", "bytes in or out of the store, the larger, over 4 KiB blocks that changed: 1 % of the disk at random, incompressible",
		bound{"<=", 1.1}, worst)}, nil
}

func (b *bench) failbackOnce(ctx context.Context, at string, seed int) (in, read float64, err error) {
	g, st, err := b.metered(ctx, at, seed)
	if err != nil {
		return 0, 0, err
	}
	defer func() { g.close() }()
	old := filepath.Join(at, "old")
	if _, _, err := rebuild(ctx, g.c, "latest", old); err != nil {
		return 0, 0, err
	}
	h, err := g.c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return 0, 0, err
	}
	fork, err := h.Find("latest")
	if err != nil {
		return 0, 0, err
	}
	g.close()
	if _, err := g.c.Fork(ctx, journal.ForkOptions{Checkpoint: fork.ID}); err != nil {
		return 0, 0, err
	}
	g.slots = nil
	if err := g.open(ctx, 1); err != nil {
		return 0, 0, err
	}
	blocks := g.rng.Perm(len(g.head[0]))[:len(g.head[0])/100]
	before := st.Counts()
	for part := range slices.Chunk(blocks, (len(blocks)+failbackParts-1)/failbackParts) {
		var bs []uint64
		for _, n := range part {
			bs = append(bs, uint64(n))
		}
		if err := g.sprinkle(ctx, bs); err != nil {
			return 0, 0, err
		}
	}
	middle := st.Counts()
	if err := g.update(ctx, old, h.Ref(fork)); err != nil {
		return 0, 0, err
	}
	after := st.Counts()
	changed := float64(len(blocks) * dr.BlockSize)
	return float64(middle.BytesIn-before.BytesIn) / changed, float64(after.BytesOut-middle.BytesOut) / changed, g.compare(old, g.head)
}

// update brings the disks in dir, which hold base, to the newest checkpoint.
func (g *guests) update(ctx context.Context, dir string, base journal.PointRef) error {
	h, err := g.c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return err
	}
	cp, err := h.Find("latest")
	if err != nil {
		return err
	}
	plan := rocva.Plan{History: h, Checkpoint: cp, Base: base}
	for _, d := range g.disks {
		plan.Targets = append(plan.Targets, rocva.UpdateTarget{Target: rocva.Target{Disk: d.ID, Path: filepath.Join(dir, d.ID.String())}})
	}
	_, err = rocva.Update(ctx, g.c, plan, rocva.Options{})
	return err
}

// warmFailover measures how long a standby takes from the word to disks that may
// be booted, a checkpoint it does not have yet included. The boot that follows
// is that of a plain local file.
func (b *bench) warmFailover(ctx context.Context, at string) (_ []figure, err error) {
	g, _, err := b.metered(ctx, at, 0)
	if err != nil {
		return nil, err
	}
	defer g.close()
	out := filepath.Join(at, "standby")
	if err := os.Mkdir(out, 0o755); err != nil {
		return nil, err
	}
	var took []float64
	for round := range b.rounds {
		v, err := g.failover(ctx, out, round > 0)
		if err != nil {
			return nil, err
		}
		took = append(took, v.Seconds())
		if err := g.compare(out, g.head); err != nil {
			return nil, err
		}
	}
	b.remark("warm failover: the disk has %d MiB, and the checkpoint that was taken in last %d changes of 16 KiB", len(g.head[0])/256, b.sized(warmChanges, 50))
	return []figure{spread(warmFigure, "s", "from the word to disks under their own names, with a checkpoint the standby does not have yet; the boot that follows is that of a local file",
		bound{"<=", 1.5}, took)}, nil
}

func (g *guests) failover(ctx context.Context, out string, again bool) (took time.Duration, err error) {
	s, err := warm.Open(ctx, g.c, out, warm.Options{Again: again, Poll: pollEvery, Place: func(img *journal.Image) (targets []rocva.Target, err error) {
		for _, d := range img.Disks {
			targets = append(targets, rocva.Target{Disk: d.ID, Path: d.ID.String()})
		}
		return targets, nil
	}})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	err = await(ctx, syncedWithin, "the standby", func() (bool, error) {
		v := s.Status()
		if v.Error != "" {
			return false, errors.New(v.Error)
		}
		return v.Checkpoint == g.cp && v.Applying == nil, nil
	})
	if err != nil {
		return 0, err
	}
	if err := g.burst(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	h, err := s.FailoverTo(ctx, "latest")
	took = time.Since(start)
	if err == nil && h.Checkpoint.ID != g.cp {
		err = fmt.Errorf("the standby was handed over at checkpoint %d, not %d", h.Checkpoint.ID, g.cp)
	}
	if err != nil {
		return 0, err
	}
	return took, <-ended
}

// burst publishes what a domain writes in 5 s.
func (g *guests) burst(ctx context.Context) error {
	chunks := len(g.head[0]) / dr.BlocksPerChunk
	for range min(warmChanges, chunks/2) {
		if err := g.write(0, uint32(g.rng.IntN(chunks)), 0xf<<g.rng.IntN(dr.BlocksPerChunk-3)); err != nil {
			return err
		}
	}
	if err := g.cut(ctx); err != nil {
		return err
	}
	return g.drain(ctx)
}
