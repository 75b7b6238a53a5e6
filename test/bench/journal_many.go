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
	"holdfast/internal/store/dir"
)

var manyFigures = []string{"restore_from_10k_objects_vs_one"}

// manyCount is how many journal objects the content lies in.
const manyCount = 10_000

// manyObjects restores a disk from ten thousand journal objects, one chunk in
// each and in no order, and from the same container after maintenance has
// packed them.
func (b *bench) manyObjects(ctx context.Context, root string) ([]figure, error) {
	n := b.sized(manyCount, 200)
	paths := []string{filepath.Join(root, "many"), filepath.Join(root, "packed")}
	g, err := makeMany(ctx, paths[0], n)
	if err != nil {
		return nil, err
	}
	if err := os.CopyFS(paths[1], os.DirFS(paths[0])); err != nil {
		return nil, err
	}
	containers := make([]*journal.Container, 2)
	for i, path := range paths {
		st, err := dir.Open(path)
		if err != nil {
			return nil, err
		}
		if containers[i], err = journal.Open(ctx, st, g.key.Identity()); err != nil {
			return nil, err
		}
	}
	if err := packAll(ctx, containers[1], n); err != nil {
		return nil, err
	}
	var ratios []float64
	var objects [2]int
	for round := range b.rounds {
		order := []int{0, 1}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		var took [2]time.Duration
		for _, i := range order {
			if err := settle(ctx, b.dir); err != nil {
				return nil, err
			}
			out := filepath.Join(root, "rebuilt")
			var img *journal.Image
			if took[i], img, err = rebuild(ctx, containers[i], "latest", out); err != nil {
				return nil, err
			}
			objects[i] = len(img.Objects)
			if err := errors.Join(g.compare(out, g.head), os.RemoveAll(out)); err != nil {
				return nil, err
			}
		}
		ratios = append(ratios, took[0].Seconds()/took[1].Seconds())
		fmt.Fprintf(os.Stderr, "round %d  %d objects %.2f s, %d objects %.2f s\n", round+1, objects[0], took[0].Seconds(), objects[1], took[1].Seconds())
		b.remark("restore round %d: %d objects %.2f s, %d objects %.2f s", round+1, objects[0], took[0].Seconds(), objects[1], took[1].Seconds())
	}
	if objects[0] != n || objects[1] > n/20 {
		return nil, fmt.Errorf("the disk was restored from %d and %d objects", objects[0], objects[1])
	}
	b.remark("restore: a disk of %d MiB from a directory, reading the history included; the many have no manifest", n*dr.ChunkSize/mib)
	return []figure{spread(manyFigures[0], "ratio", "time from journal objects of one chunk over time from packed ones", bound{"<=", 2}, ratios)}, nil
}

// makeMany writes a disk chunk by chunk, mixed up, an object each, two days
// ago.
func makeMany(ctx context.Context, path string, n int) (*guests, error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	st, err := dir.Open(path)
	if err != nil {
		return nil, err
	}
	g, err := newGuests(ctx, st, guestsOptions{disks: 1, chunks: n, slots: journal.Window, seed: 3, clock: newVirtualClock(time.Now().Add(-48 * time.Hour))})
	if err != nil {
		return nil, err
	}
	defer g.close()
	for _, chunk := range g.rng.Perm(n) {
		g.clock.advance(5 * time.Second)
		if err := g.write(0, uint32(chunk), 0xffff); err != nil {
			return nil, err
		}
		if err := g.cut(ctx); err != nil {
			return nil, err
		}
	}
	return g, g.drain(ctx)
}

// packAll maintains a container until nothing is left to pack.
func packAll(ctx context.Context, c *journal.Container, n int) error {
	m, err := maintain.New(ctx, c, maintain.Options{By: "bench"})
	if err != nil {
		return err
	}
	packed := 0
	for range 10 {
		m.Compact()
		r, err := m.Pass(ctx)
		if err != nil {
			return err
		}
		if packed += r.Packed; r.Packed == 0 && !r.More {
			break
		}
	}
	if packed < n {
		return fmt.Errorf("%d of %d objects were packed", packed, n)
	}
	return nil
}
