package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// rehydrateRounds is how often a whole disk is rebuilt and copied.
const rehydrateRounds = 3

// rehydrate compares `holdfast restore` of the newest checkpoint with nbdcopy
// of the same image from nbdkit: what one would use if the image lay ready.
// Both end with their output durable.
func (b *bench) rehydrate(ctx context.Context, s *system, st *stage) (figure, error) {
	var f figure
	var ratios []float64
	for round := range min(b.rounds, rehydrateRounds) {
		var ours, theirs time.Duration
		jobs := []func() (err error){
			func() (err error) { ours, err = b.timeRestore(ctx, s); return err },
			func() (err error) { theirs, err = b.timeCopy(ctx, s, st); return err },
		}
		if round%2 == 1 {
			slices.Reverse(jobs)
		}
		for _, job := range jobs {
			if err := settle(ctx, b.dir); err != nil {
				return f, err
			}
			if err := job(); err != nil {
				return f, fmt.Errorf("rehydrate: %w", err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d  restore %.2f s  nbdcopy %.2f s\n", round+1, ours.Seconds(), theirs.Seconds())
		b.notes = append(b.notes, fmt.Sprintf("rehydrate round %d: restore %.2f s, nbdcopy %.2f s", round+1, ours.Seconds(), theirs.Seconds()))
		ratios = append(ratios, theirs.Seconds()/ours.Seconds())
	}
	return spread("rehydrate_vs_nbdcopy", "ratio", "nbdcopy of the same image from nbdkit file; speed", bound{">=", 0.8}, ratios), nil
}

// timeRestore rebuilds the disk with the command people use and compares it
// with the primary.
func (b *bench) timeRestore(ctx context.Context, s *system) (took time.Duration, err error) {
	out := filepath.Join(b.dir, "restored")
	defer func() { err = errors.Join(err, os.RemoveAll(out)) }()
	start := time.Now()
	if _, err := b.sp.run(ctx, "holdfast restore", s.binary, "restore", s.url, "--key", s.key, "--at", "latest", "--out", out); err != nil {
		return 0, err
	}
	took = time.Since(start)
	disks, err := filepath.Glob(filepath.Join(out, "*", "*.raw"))
	if err != nil || len(disks) != 1 {
		return 0, errors.Join(err, fmt.Errorf("restore left %d disks, not 1", len(disks)))
	}
	restored, err := os.Open(disks[0])
	if err != nil {
		return 0, err
	}
	defer restored.Close()
	primary, err := os.Open(s.disk)
	if err != nil {
		return 0, err
	}
	defer primary.Close()
	return took, sameContent(ctx, s.size, primary, restored)
}

// timeCopy copies the primary with nbdcopy.
func (b *bench) timeCopy(ctx context.Context, s *system, st *stage) (took time.Duration, err error) {
	socket := filepath.Join(b.sockets, "copy")
	p, err := st.serveNBD(ctx, "nbdkit", socket, []string{"nbdkit", "--foreground", "--exit-with-parent", "--readonly", "--unix", socket, "file", s.disk})
	if err != nil {
		return 0, err
	}
	stop := stopAll(socket, p)
	out := filepath.Join(b.dir, "copied.raw")
	defer func() { err = errors.Join(err, stop(), os.Remove(out)) }()
	start := time.Now()
	if _, err := b.sp.run(ctx, "nbdcopy", "nbdcopy", "--flush", "nbd+unix:///?socket="+socket, out); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}
