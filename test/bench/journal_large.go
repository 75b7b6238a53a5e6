package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/maintain"
	"holdfast/internal/store/dir"
)

const (
	resolveFigure = "resolve_4tib_s"
	growthFigure  = "resolve_growth"
	rssFigure     = "maintain_4tib_rss_mb"
)

const (
	// growthChunks is the disk whose history grows: 400 GiB, so that ten
	// versions of it are as many entries as one of 4 TiB.
	growthChunks = largeChunks / 10 / scatter * scatter
	growthBy     = 10

	// tailObjects of tailChunks are published for real behind the synthetic
	// manifest: small enough to be packed, together more than a batch of what
	// packing holds in memory.
	tailObjects = 112
	tailChunks  = 45
)

// large makes the container of a disk of 4 TiB with one entry for each of its
// 67 million chunks, resolves its newest checkpoint, and maintains it.
func (b *bench) large(ctx context.Context, root string) ([]figure, error) {
	n := b.sized(largeChunks, 16*scatter)
	s, c, key, err := newSynthetic(ctx, filepath.Join(root, "container"), n, 1)
	if err != nil {
		return nil, err
	}
	times, err := b.timeResolve(ctx, s, c, b.rounds)
	if err != nil {
		return nil, err
	}
	out := []figure{spread(resolveFigure, "s", "opening the history, and the newest checkpoint of 4 TiB, from a directory", bound{"<", 30}, times)}
	b.remark("resolve: a disk of %d GiB, %d entries in one run, no content behind them; the parts are in the page cache", int64(n)*dr.ChunkSize/gib, n)
	if !b.only.MatchString(rssFigure) {
		return out, nil
	}
	rss, err := b.maintainLarge(ctx, root, s, c, key)
	if err != nil {
		return nil, fmt.Errorf("maintenance: %w", err)
	}
	return append(out, spread(rssFigure, "MiB", "peak of the process, a whole pass with a full merge and packing", bound{"<", 512}, []float64{rss})), nil
}

// newSynthetic makes a container in a new directory that holds a synthetic
// index.
func newSynthetic(ctx context.Context, path string, chunks, versions int) (synthetic, *journal.Container, journal.RecoveryKeyPair, error) {
	s := synthetic{disk: dr.DiskID{UUID: dr.NewUUID()}, chunks: chunks, versions: versions}
	var key journal.RecoveryKeyPair
	if err := os.Mkdir(path, 0o755); err != nil {
		return s, nil, key, err
	}
	st, err := dir.Open(path)
	if err != nil {
		return s, nil, key, err
	}
	if key, err = journal.NewRecoveryKey(); err != nil {
		return s, nil, key, err
	}
	c, err := journal.Create(ctx, st, journal.CreateOptions{Name: "synthetic", Recipients: []journal.Recipient{key.Recipient()}})
	if err != nil {
		return s, nil, key, err
	}
	s.timeline = c.Domain().Timeline
	p, err := c.OpenPublisher(ctx, journal.PublisherOptions{Host: "bench"}) // the reign that the manifest speaks of
	if err != nil {
		return s, nil, key, err
	}
	_ = p.Close() // always nil
	return s, c, key, s.store(ctx, c, time.Now().Add(-36*time.Hour))
}

// timeResolve resolves the checkpoint in the middle of the history, from
// nothing known of it.
func (b *bench) timeResolve(ctx context.Context, s synthetic, c *journal.Container, rounds int) ([]float64, error) {
	version := s.versions / 2
	var times []float64
	for range rounds {
		start := time.Now()
		h, err := c.History(ctx, journal.HistoryOptions{})
		if err != nil {
			return nil, err
		}
		cp, err := h.Find("#" + strconv.Itoa(version+1))
		if err != nil {
			return nil, err
		}
		img, err := h.Resolve(ctx, cp)
		if err != nil {
			return nil, err
		}
		times = append(times, time.Since(start).Seconds())
		fmt.Fprintf(os.Stderr, "resolved %d entries in %.2f s\n", s.chunks*s.versions, times[len(times)-1])
		if err := s.check(img, version); err != nil {
			return nil, err
		}
	}
	return times, nil
}

// growth compares the times it takes to resolve a checkpoint in the middle of
// a history and of one ten times as long, on the same disk.
func (b *bench) growth(ctx context.Context, root string) ([]figure, error) {
	n := b.sized(growthChunks, 16*scatter)
	times := make([][]float64, 2)
	for i, versions := range []int{1, growthBy} {
		s, c, _, err := newSynthetic(ctx, filepath.Join(root, strconv.Itoa(versions)), n, versions)
		if err != nil {
			return nil, err
		}
		if times[i], err = b.timeResolve(ctx, s, c, b.rounds); err != nil {
			return nil, err
		}
	}
	ratio := median(times[1]) / median(times[0])
	b.remark("resolve growth: a disk of %d GiB; every chunk once: %.2f s; ten times, the checkpoint in the middle: %.2f s", int64(n)*dr.ChunkSize/gib, median(times[0]), median(times[1]))
	f := spread(growthFigure, "ratio", "time with a history ten times as long over time with one", bound{"<=", 10}, []float64{ratio})
	f.min, f.max = slices.Min(times[1])/slices.Max(times[0]), slices.Max(times[1])/slices.Min(times[0])
	return []figure{f}, nil
}

// maintained is what `bench maintain` prints.
type maintained struct {
	PeakMiB float64
	Report  maintain.Report
}

// maintainLarge publishes some objects behind the synthetic manifest, a day
// ago, and runs a whole pass in a process of its own.
func (b *bench) maintainLarge(ctx context.Context, root string, s synthetic, c *journal.Container, key journal.RecoveryKeyPair) (float64, error) {
	g, err := newTail(ctx, s, c)
	if err != nil {
		return 0, err
	}
	defer g.close()
	for i := range tailObjects {
		g.clock.advance(2 * time.Minute)
		for j := range tailChunks {
			if err := g.write(0, uint32(i*tailChunks+j), 0xffff); err != nil {
				return 0, err
			}
		}
		if err := g.cut(ctx); err != nil {
			return 0, err
		}
	}
	keyFile := filepath.Join(root, "key")
	if err := os.WriteFile(keyFile, key.FileText(), 0o600); err != nil {
		return 0, err
	}
	text, err := b.sp.run(ctx, "bench maintain", b.self, "maintain", "-container", filepath.Join(root, "container"), "-key", keyFile)
	if err != nil {
		return 0, err
	}
	var m maintained
	if err := json.Unmarshal(text, &m); err != nil {
		return 0, err
	}
	r := &m.Report
	if !r.Full || r.Flushed != tailObjects+1 || r.Packed != tailObjects || len(r.Alarms) > 0 || r.Entries < uint64(s.chunks) {
		return 0, fmt.Errorf("the pass did something else than it was to: full %v, flushed %d, packed %d, %d entries, alarms %q", r.Full, r.Flushed, r.Packed, r.Entries, r.Alarms)
	}
	b.remark("maintenance of %d GiB: a pass over %d entries, all of them merged, %d objects of %d MiB packed (the synthetic ones have no content to pack), took %.1f s of its own process",
		int64(s.chunks)*dr.ChunkSize/gib, r.Entries, r.Packed, g.stored/tailObjects/mib, r.Took.Seconds())
	return m.PeakMiB, b.checkTail(ctx, c, s)
}

// newTail takes the synthetic history over, by a clock that is a day behind.
func newTail(ctx context.Context, s synthetic, c *journal.Container) (*guests, error) {
	g := &guests{c: c, clock: newVirtualClock(time.Now().Add(-30 * time.Hour)), rng: seededRand(7), used: make(map[place]bool)}
	g.pool = newPool(g.rng)
	g.disks = s.points(g.clock.Wall())[0].Disks
	g.head = [][]uint16{make([]uint16, tailObjects*tailChunks*dr.BlocksPerChunk)}
	return g, g.open(ctx, 1)
}

// checkTail resolves the newest checkpoint after the pass: of the frames that
// were published for real all are taken, and the rest is as it was.
func (b *bench) checkTail(ctx context.Context, c *journal.Container, s synthetic) error {
	h, err := c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return err
	}
	cp, err := h.Find("latest")
	if err != nil {
		return err
	}
	img, err := h.Resolve(ctx, cp)
	if err != nil {
		return err
	}
	packed, frames := 0, 0
	for _, o := range img.Objects {
		frames += len(o.Frames)
		if !o.Ref.Data.IsZero() {
			packed += len(o.Frames)
		}
	}
	if packed != tailObjects*tailChunks || frames != s.chunks {
		return fmt.Errorf("after maintenance the newest checkpoint takes %d frames, %d of them packed, not %d and %d", frames, packed, s.chunks, tailObjects*tailChunks)
	}
	return nil
}

// maintainOnce is `bench maintain`: one whole pass over a container in a
// process of its own, as the product runs it, and the most memory it had.
func maintainOnce(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("maintain", flag.ContinueOnError)
	path := fs.String("container", "", "directory of the container")
	key := fs.String("key", "", "file of the recovery key")
	if err := fs.Parse(args); err != nil {
		return err
	}
	id, err := journal.ParseIdentityFile(*key)
	if err != nil {
		return err
	}
	st, err := dir.Open(*path)
	if err != nil {
		return err
	}
	c, err := journal.Open(ctx, st, id)
	if err != nil {
		return err
	}
	m, err := maintain.New(ctx, c, maintain.Options{By: "bench"})
	if err != nil {
		return err
	}
	m.Compact()
	start := time.Now()
	r, err := m.Pass(ctx)
	if err != nil {
		return err
	}
	r.Took = time.Since(start)
	out := maintained{Report: *r}
	if out.PeakMiB, err = peakMemory(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// peakMemory is the most memory this process ever had resident, in MiB.
func peakMemory() (float64, error) { return peakMemoryOf("self") }

// peakMemoryOf is peakMemory of a process by its number.
func peakMemoryOf(pid string) (float64, error) {
	field, ok := strings.CutSuffix(procField("/proc/"+pid+"/status", "VmHWM"), " kB")
	if !ok {
		return 0, errors.New("the kernel does not tell the peak of a process's memory")
	}
	kib, err := strconv.ParseFloat(strings.TrimSpace(field), 64)
	return kib / 1024, err
}
