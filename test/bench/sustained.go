package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// What one DRVA is asked to sustain.
	pacedRate     = 100e6 // bytes a second
	pacedWrites   = 12000 // 4 KiB writes a second
	scatterWrites = 4000  // a second

	// rpoEvery is the pause between two looks at the newest recoverable point.
	rpoEvery = 250 * time.Millisecond
	// scatterFor bounds the load that measures what is shipped.
	scatterFor = 20 * time.Second
)

// sustained is what a paced run showed.
type sustained struct {
	row       row
	ingest    float64 // MB/s that reached the DRVA's log
	writes    float64 // guest's writes a second that did
	published float64 // MB/s, from the first write to the publishing of the last
	rpo       []float64
}

// sustain puts a paced load on a system and looks at what the DRVA makes of it.
func (b *bench) sustain(ctx context.Context, s *system, w workload, d time.Duration) (sustained, error) {
	var out sustained
	before, err := s.filterState(ctx)
	if err != nil {
		return out, err
	}
	t := s.target(protected)
	started := t.start
	t.start = func(ctx context.Context) (*server, error) {
		srv, err := started(ctx)
		if err != nil {
			return nil, err
		}
		stopWatch := b.watchRPO(ctx, s, w.name)
		proven := srv.after
		srv.after = func(ctx context.Context, r *row) (err error) {
			if out.rpo, err = stopWatch(); err != nil {
				return err
			}
			if err := s.ingested(ctx, &out, r, before.Stream.Bytes); err != nil {
				return err
			}
			return proven(ctx, r)
		}
		return srv, nil
	}
	if out.row, err = b.runPair(ctx, t, w, d); err != nil {
		return out, err
	}
	out.row.Stage = stageLong
	out.published = float64(out.row.WriteBytes) / 1e6 / (out.row.Seconds + out.row.Drain)
	b.note(out.row)
	return out, nil
}

// ingested computes what reached the log: the bytes captured, over the time
// until the log holds the last of them. before is the host's count at the
// start.
func (s *system) ingested(ctx context.Context, out *sustained, r *row, before uint64) error {
	var captured uint64
	err := await(ctx, drainedWithin, "the log of "+s.name, func() (bool, error) {
		st, err := s.filterState(ctx)
		captured = st.Stream.Bytes
		return st.Stream.Durable+1 >= st.Stream.Next, err
	})
	if err != nil {
		return err
	}
	out.ingest = float64(captured-before) / 1e6 / (r.Seconds + time.Since(r.ended).Seconds())
	out.writes = out.ingest * 1e6 / float64(r.WriteBytes) * float64(r.IOs)
	return nil
}

// watchRPO looks, until the returned function is called, at the container as
// a recovery at this moment would: how old is its newest recoverable point? The
// disk has not changed between the newest point and now, before the load, so
// that point counts as one of now.
func (b *bench) watchRPO(ctx context.Context, s *system, load string) (stop func() ([]float64, error)) {
	ctx, cancel := context.WithCancel(ctx)
	start := time.Now()
	var ages []float64
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(rpoEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
			if err := s.replay.h.Extend(ctx); err != nil {
				if ctx.Err() != nil {
					err = nil
				}
				done <- err
				return
			}
			cp, err := s.replay.h.Find("latest")
			if err != nil {
				done <- err
				return
			}
			now := time.Now()
			age := min(now.Sub(cp.Time), now.Sub(start)).Seconds()
			ages = append(ages, age)
			b.samples = append(b.samples, rpoSample{load, now.UTC(), age})
		}
	}()
	return func() ([]float64, error) {
		cancel()
		err := <-done
		return ages, err
	}
}

// percentile returns the value that p of v are not above.
func percentile(v []float64, p float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[min(int(p*float64(len(s))), len(s)-1)]
}

// paced measures what one DRVA sustains.
func (b *bench) paced(ctx context.Context, s *system) ([]figure, error) {
	mb, err := b.sustain(ctx, s, pacedMB.paced(fmt.Sprintf("--rate=%d", int64(pacedRate))), b.long)
	if err != nil {
		return nil, err
	}
	io, err := b.sustain(ctx, s, pacedIOPS.paced(fmt.Sprintf("--rate_iops=%d", pacedWrites)), b.long)
	if err != nil {
		return nil, err
	}
	if len(mb.rpo) == 0 || len(io.rpo) == 0 {
		return nil, errors.New("paced runs too short for a look at the RPO")
	}
	load := fmt.Sprintf("mixed writes paced at %d MB/s for %s", int64(pacedRate)/1e6, b.long)
	note := ""
	if mb.row.Tracked || io.row.Tracked {
		note = "tracking entered"
	}
	one := func(name, unit, against string, v float64, want bound) figure {
		f := spread(name, unit, against, want, []float64{v})
		f.note = note
		return f
	}
	return []figure{
		one("drva_ingest_mb_s", "MB/s", load, mb.ingest, bound{">", 80}),
		one("drva_publish_mb_s", "MB/s", load, mb.published, bound{">", 80}),
		one("drva_write_iops", "writes/s", fmt.Sprintf("4 KiB random writes paced at %d/s for %s", pacedWrites, b.long), io.writes, bound{">", 10000}),
		one("drva_rpo_p99_s", "s", "age of the newest recoverable point in the container, worse of both paced runs",
			max(percentile(mb.rpo, 0.99), percentile(io.rpo, 0.99)), bound{"<", 6}),
	}, nil
}

// shipped measures what the container grows by for scattered writes, against
// the distinct bytes that changed.
func (b *bench) shipped(ctx context.Context, s *system) (figure, error) {
	var f figure
	if err := s.verify(ctx); err != nil { // the replay is the disk as it is now
		return f, err
	}
	before, err := treeSize(s.containerDir())
	if err != nil {
		return f, err
	}
	t := s.target(protected)
	started := t.start
	var changed int64
	t.start = func(ctx context.Context) (*server, error) {
		srv, err := started(ctx)
		if err != nil {
			return nil, err
		}
		proven := srv.after
		srv.after = func(ctx context.Context, r *row) (err error) {
			if changed, err = s.replay.changed(ctx, s.disk); err != nil {
				return err
			}
			return proven(ctx, r)
		}
		return srv, nil
	}
	r, err := b.runPair(ctx, t, scattered.paced(fmt.Sprintf("--rate_iops=%d", scatterWrites)), min(b.long, scatterFor))
	if err != nil {
		return f, err
	}
	r.Stage = stageLong
	b.note(r)
	after, err := treeSize(s.containerDir())
	if err != nil {
		return f, err
	}
	if changed == 0 {
		return f, errors.New("scattered writes changed nothing")
	}
	f = spread("shipped_over_changed", "ratio", "distinct bytes changed by scattered incompressible 4 KiB writes", bound{"<=", 1.1},
		[]float64{float64(after-before) / float64(changed)})
	b.notes = append(b.notes, fmt.Sprintf("shipped %d bytes for %d changed, %d writes of %d bytes", after-before, changed, r.IOs, r.WriteBytes))
	return f, nil
}

// changed counts the bytes of blocks in which a disk differs from the replay.
func (r *replay) changed(ctx context.Context, disk string) (n int64, err error) {
	f, err := os.Open(disk)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	x, y := make([]byte, mib), make([]byte, mib)
	for off := int64(0); off < r.size; off += mib {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if err := readFull(f, x, off); err != nil {
			return 0, err
		}
		if err := readFull(r.scratch, y, off); err != nil {
			return 0, err
		}
		for i := 0; i < mib; i += blockSize {
			if !bytes.Equal(x[i:i+blockSize], y[i:i+blockSize]) {
				n += blockSize
			}
		}
	}
	return n, nil
}

// containerDir is where the container's objects lie.
func (s *system) containerDir() string { return strings.TrimPrefix(s.url, "file://") }

// treeSize sums the sizes of the files below a directory.
func treeSize(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) { // a temporary file on its way to its name
				return nil
			}
			return err
		}
		n += info.Size()
		return nil
	})
	return n, err
}
