package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Names of the figures that are not ratios of two rows.
var (
	allocFigures = []string{"allocs_per_request"}
	pacedFigures = []string{"drva_ingest_mb_s", "drva_publish_mb_s", "drva_write_iops", "drva_rpo_p99_s"}
	shipFigures  = []string{"shipped_over_changed"}
	copyFigures  = []string{"rehydrate_vs_nbdcopy"}
	cpuFigures   = []string{"cpu_us_per_io_passthrough_qd32", "cpu_us_per_io_protected_qd32"}
)

const (
	diskPerSize   = 14 // disk space a whole run needs, in sizes of the disk
	ackSize       = gib
	allocDiskSize = 256 * mib
)

// wantsDisks reports whether any figure is wanted that guests' disks are for.
func (b *bench) wantsDisks() bool {
	for _, r := range ratios() {
		if b.only.MatchString(r.name) {
			return true
		}
	}
	return len(b.figures) == 0 || b.wants(slices.Concat(allocFigures, pacedFigures, shipFigures, copyFigures, cpuFigures, stallFigures, resyncFigures)...)
}

// wants reports whether any figure of a list is wanted.
func (b *bench) wants(names ...string) bool {
	for _, n := range names {
		if b.only.MatchString(n) {
			return true
		}
	}
	return false
}

// wanted returns the ratios of a stage that are wanted.
func (b *bench) wanted(stage string) (out []ratio) {
	for _, r := range ratios() {
		if r.stage == stage && b.only.MatchString(r.name) {
			out = append(out, r)
		}
	}
	return out
}

// all measures what is wanted, stage by stage.
func (b *bench) all(ctx context.Context) error {
	if err := b.checkSpace(); err != nil {
		return err
	}
	if err := b.journalFigures(ctx); err != nil {
		return err
	}
	if err := b.liveStage(ctx); err != nil {
		return err
	}
	if err := b.instantStage(ctx); err != nil {
		return err
	}
	if err := b.managerStage(ctx); err != nil {
		return err
	}
	if !b.wantsDisks() {
		return nil
	}
	st := &stage{sp: b.sp, self: b.self, sockets: b.sockets, size: b.size, cached: filepath.Join(b.dir, "cached.raw"),
		direct: filepath.Join(b.dir, "direct.raw"), second: filepath.Join(b.dir, "second.raw")}
	if err := makeDisk(ctx, st.cached, b.size, true); err != nil {
		return err
	}
	for _, do := range []func(context.Context, *stage) error{b.alone, b.protectedStage, b.directStage, b.ackStage, b.resyncStage, b.longStage, b.allocStage, b.stallStage} {
		if err := do(ctx, st); err != nil {
			return err
		}
	}
	if len(b.figures) == 0 {
		return errors.New("-only matches no figure")
	}
	return nil
}

// checkSpace refuses a run that would fill the disk.
func (b *bench) checkSpace() error {
	var s unix.Statfs_t
	if err := unix.Statfs(b.dir, &s); err != nil {
		return err
	}
	free, need := int64(s.Bavail)*s.Bsize, diskPerSize*b.size
	if free < need {
		return fmt.Errorf("%d MiB are free and a run with disks of %d MiB needs %d: choose a smaller -size", free/mib, b.size/mib, need/mib)
	}
	return nil
}

// conclude adds the figures of a stage's ratios.
func (b *bench) conclude(wanted []ratio) error {
	for _, r := range wanted {
		f, err := r.compute(b.rows)
		if err != nil {
			return err
		}
		b.figures = append(b.figures, f)
	}
	return nil
}

// salvage adds the figures of a stage that broke off, from the rounds it had.
func (b *bench) salvage(wanted []ratio) {
	for _, r := range wanted {
		if f, err := r.compute(b.rows); err == nil {
			f.note = "of the rounds before the run broke off"
			b.figures = append(b.figures, f)
		}
	}
}

// alone compares unprotected servers.
func (b *bench) alone(ctx context.Context, st *stage) (err error) {
	wanted := b.wanted(stageAlone)
	if len(wanted) == 0 {
		return nil
	}
	targets := []target{st.nbdkit(), st.passthrough(passthrough, false), st.qemuNBD(qemuNBDDirect, true), st.passthrough(passthroughDirect, true)}
	if err := makeDisk(ctx, st.direct, b.size, false); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(st.direct)) }()
	if err := b.runRounds(ctx, stageAlone, wanted, []workload{qd1, qd32, plain64, mix}, targets, b.rounds, b.seconds); err != nil {
		return err
	}
	return b.conclude(wanted)
}

// protectedStage compares a protected disk with unprotected ones.
func (b *bench) protectedStage(ctx context.Context, st *stage) (err error) {
	wanted := b.wanted(stageProtected)
	if len(wanted) == 0 {
		return nil
	}
	s, err := b.newSystem(ctx, systemSpec{name: "protected", ack: "async", size: b.size, quota: 2 * b.size})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	targets := []target{st.qemuNBD(qemuNBD, false), st.passthrough(passthrough, false), s.target(protected)}
	if err := b.runRounds(ctx, stageProtected, wanted, []workload{qd1, qd32, seq64, half, flush}, targets, b.rounds, b.seconds); err != nil {
		return err
	}
	if err := b.conclude(wanted); err != nil {
		return err
	}
	b.cpuFigure(cpuFigures[0], pair{passthrough, qd32.name})
	b.cpuFigure(cpuFigures[1], pair{protected, qd32.name})
	return nil
}

// cpuFigure adds the processor time per I/O of a pair, up to the publishing of
// its last write, if it was run.
func (b *bench) cpuFigure(name string, p pair) {
	var v []float64
	for _, r := range b.rows {
		if r.Stage == stageProtected && (pair{r.Target, r.Workload}) == p {
			v = append(v, max(r.CPUPerIO, r.CPUToPublished))
		}
	}
	if len(v) == 0 || !b.only.MatchString(name) {
		return
	}
	b.figures = append(b.figures, spread(name, "us/IO", "all processes of the target, until the last write is published", bound{}, v))
}

// directStage compares latencies past the page cache.
func (b *bench) directStage(ctx context.Context, st *stage) (err error) {
	wanted := b.wanted(stageDirect)
	if len(wanted) == 0 {
		return nil
	}
	for _, disk := range []string{st.direct, st.second} {
		if err := makeDisk(ctx, disk, b.size, false); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.Remove(disk)) }()
	}
	targets := []target{st.qemuNBD(qemuNBDDirect, true), st.mirror(), st.passthrough(passthroughDirect, true)}
	if slices.ContainsFunc(wanted, func(r ratio) bool { return r.num.target == protectedDirect }) {
		var s *system
		if s, err = b.newSystem(ctx, systemSpec{name: "direct", ack: "async", direct: true, size: b.size, quota: 2 * b.size}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		targets = append(targets, s.target(protectedDirect))
	}
	if err := b.runRounds(ctx, stageDirect, wanted, []workload{qd1}, targets, b.rounds, b.seconds); err != nil {
		return err
	}
	return b.conclude(wanted)
}

// ackStage compares the stricter ack rules. Both systems are up at a time, on
// smaller disks: with one write in flight their size does not matter.
func (b *bench) ackStage(ctx context.Context, st *stage) (err error) {
	wanted := b.wanted(stageAck)
	if len(wanted) == 0 {
		return nil
	}
	targets := []target{st.passthrough(passthrough, false)}
	for _, rule := range []struct{ ack, name string }{{"ordered", protectedOrdered}, {"sync", protectedSync}} {
		var s *system
		if s, err = b.newSystem(ctx, systemSpec{name: rule.ack, ack: rule.ack, size: min(b.size, ackSize), quota: 2 * gib}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		targets = append(targets, s.target(rule.name))
	}
	if err := b.runRounds(ctx, stageAck, wanted, []workload{qd1}, targets, b.rounds, b.seconds); err != nil {
		return err
	}
	return b.conclude(wanted)
}

// longStage measures what is sustained: one system, first what it ships and
// rebuilds, then paced loads, then as fast as it goes.
func (b *bench) longStage(ctx context.Context, st *stage) (err error) {
	long := b.wanted(stageLong)
	ship, restore, paced := b.wants(shipFigures...), b.wants(copyFigures...), b.wants(pacedFigures...)
	if len(long) == 0 && !ship && !restore && !paced {
		return nil
	}
	s, err := b.newSystem(ctx, systemSpec{name: "long", ack: "async", size: b.size, quota: 4 * b.size})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if ship {
		f, err := b.shipped(ctx, s)
		if err != nil {
			return err
		}
		b.figures = append(b.figures, f)
	}
	if restore {
		f, err := b.rehydrate(ctx, s, st)
		if err != nil {
			return err
		}
		b.figures = append(b.figures, f)
	}
	if paced {
		f, err := b.paced(ctx, s)
		if err != nil {
			return err
		}
		b.figures = append(b.figures, f...)
	}
	targets := []target{st.passthrough(passthrough, false), s.target(protected)}
	if err := b.runRounds(ctx, stageLong, long, []workload{qd32}, targets, 1, b.long); err != nil {
		return err
	}
	return b.conclude(long)
}

// allocStage counts our server's heap allocations per write, with nothing
// behind it and with protection: the host component runs in this process for
// it, and its DRVA in one of its own.
func (b *bench) allocStage(ctx context.Context, st *stage) error {
	if !b.wants(allocFigures...) {
		return nil
	}
	alone, err := b.allocsPassthrough(ctx, st.cached)
	if err != nil {
		return fmt.Errorf("allocations alone: %w", err)
	}
	captured, err := b.allocsProtected(ctx)
	if err != nil {
		return fmt.Errorf("allocations protected: %w", err)
	}
	b.notes = append(b.notes, fmt.Sprintf("allocations per request: %.2f passthrough, %.2f protected", alone, captured))
	b.figures = append(b.figures, spread(allocFigures[0], "allocations", "the worse of passthrough and protected, async", bound{"=", 0},
		[]float64{max(alone, captured)}))
	return nil
}
