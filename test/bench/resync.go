package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/iofilter"
)

// resyncFigures: how fast a disk is compared with what the container holds of
// it, and what is shipped of what differs.
var resyncFigures = []string{"hash_resync_mb_s", "resync_bytes_over_tracked"}

// changedPart is the part of the disk's blocks that changes while nothing
// protects it, each a place of its own: the worst for what ships whole chunks.
const changedPart = 0.02

// resyncStage compares a disk in the page cache with its copy, nothing else
// going on; then loses the host component and all it knew, changes blocks
// behind its back, and starts it again. Each time the container must rebuild
// the disk.
func (b *bench) resyncStage(ctx context.Context, _ *stage) (err error) {
	if !b.wants(resyncFigures...) {
		return nil
	}
	s, err := b.newSystem(ctx, systemSpec{name: "resync", ack: "async", size: b.size, quota: 2 * b.size})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	var speed, ratio []float64
	for range b.rounds {
		v, err := s.compareSpeed(ctx)
		if err != nil {
			return err
		}
		speed = append(speed, v)
		if v, err = s.shippedOverChanged(ctx, b); err != nil {
			return err
		}
		ratio = append(ratio, v)
	}
	for i, f := range []figure{
		spread(resyncFigures[0], "MB/s", "disk compared, from the first block to the last, in the page cache, nothing differs", bound{">=", 400}, speed),
		spread(resyncFigures[1], "ratio", "payload shipped over blocks that differ, all tracking lost", bound{"<=", 1.1}, ratio),
	} {
		if b.wants(resyncFigures[i]) {
			b.figures = append(b.figures, f)
		}
	}
	return nil
}

// compareSpeed has the disk compared and returns MB/s.
func (s *system) compareSpeed(ctx context.Context) (float64, error) {
	before, err := s.filterState(ctx)
	if err != nil {
		return 0, err
	}
	if err := control.CallLocal(ctx, s.filterStatus, "/sync", map[string]string{"disk": s.diskID.String(), "mode": "hash"}, &struct{}{}); err != nil {
		return 0, err
	}
	var first, last iofilter.Status
	var began, ended time.Time
	err = await(ctx, syncedWithin, "the comparison of "+s.name, func() (bool, error) {
		if last, err = s.filterState(ctx); err != nil {
			return false, err
		}
		ended = time.Now()
		if began.IsZero() && last.Stream.Compared > before.Stream.Compared {
			began, first = ended, last
		}
		return last.Stream.Compared-before.Stream.Compared >= uint64(s.size), nil
	})
	if err != nil {
		return 0, err
	}
	if n := last.Stream.Shipped - before.Stream.Shipped; n != 0 {
		return 0, fmt.Errorf("%d bytes were shipped of a disk that had not changed", n)
	}
	took := ended.Sub(began)
	if first.Stream.Compared == last.Stream.Compared {
		took = pollEvery // a small disk is compared between two looks
	}
	return float64(last.Stream.Compared-first.Stream.Compared+1) / 1e6 / took.Seconds(), s.verify(ctx)
}

// shippedOverChanged loses the host component, changes blocks, starts it again
// and returns the ratio.
func (s *system) shippedOverChanged(ctx context.Context, b *bench) (float64, error) {
	if err := s.filter.stop(); err != nil {
		return 0, err
	}
	n, err := s.changeBehind(int(float64(s.size/blockSize) * changedPart))
	if err != nil {
		return 0, err
	}
	if err := s.startFilter(ctx, b); err != nil {
		return 0, err
	}
	if err := s.awaitSynced(ctx); err != nil {
		return 0, err
	}
	st, err := s.filterState(ctx)
	if err != nil {
		return 0, err
	}
	if st.Stream.Compared < uint64(s.size) {
		return 0, fmt.Errorf("%d of %d bytes were compared", st.Stream.Compared, s.size)
	}
	return float64(st.Stream.Shipped) / float64(n*blockSize), s.verify(ctx)
}

// changeBehind changes random blocks of the primary and returns how many.
func (s *system) changeBehind(n int) (int, error) {
	f, err := os.OpenFile(s.disk, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	changed := map[int64]bool{}
	block := make([]byte, blockSize)
	for range n {
		at := rand.Int64N(s.size / blockSize)
		changed[at] = true
		for i := range block {
			block[i] = byte(rand.Uint32())
		}
		if _, err := f.WriteAt(block, at*blockSize); err != nil {
			return 0, err
		}
	}
	return len(changed), f.Sync()
}
