package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// pair is a workload on a target, by their names.
type pair struct{ target, workload string }

// procCPU is what one process of a target spent.
type procCPU struct {
	Process string  `json:"process"`
	PerIO   float64 `json:"cpu_us_per_io"`
}

// row is one run.
type row struct {
	Stage    string `json:"stage"`
	Round    int    `json:"round"`
	Target   string `json:"target"`
	Workload string `json:"workload"`
	Direct   bool   `json:"direct"`
	load
	CPUPerIO float64   `json:"cpu_us_per_io"` // all processes of the target
	CPU      []procCPU `json:"cpu"`
	// CPUToPublished also counts what was spent after the load, until its last
	// write was published. Protected targets only.
	CPUToPublished float64 `json:"cpu_us_per_io_to_published,omitempty"`
	// Drain is how long after the load its last write was published.
	Drain float64 `json:"drain_s,omitempty"`
	// Tracked: the host component fell back to tracking during the load or
	// the drain, so that not every write was captured as it happened.
	Tracked     bool      `json:"tracked,omitempty"`
	LoadAverage float64   `json:"load_average_before"`
	At          time.Time `json:"at"`

	ended time.Time // of the load
}

// runPair starts a target, puts a load on it, proves that the load arrived,
// and stops it.
func (b *bench) runPair(ctx context.Context, t target, w workload, d time.Duration) (_ row, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s under %s: %w", t.name, w.name, err)
		}
	}()
	if err := settle(ctx, b.dir); err != nil {
		return row{}, err
	}
	srv, err := t.start(ctx)
	if err != nil {
		return row{}, err
	}
	r, err := b.measureLoad(ctx, srv, t, w, d)
	if err == nil && srv.after != nil {
		err = srv.after(ctx, &r)
	}
	return r, errors.Join(err, srv.stop())
}

// measureLoad runs the load on a running server.
func (b *bench) measureLoad(ctx context.Context, srv *server, t target, w workload, d time.Duration) (row, error) {
	r := row{Target: t.name, Workload: w.name, Direct: t.direct, At: time.Now().UTC()}
	sample, err := newSampler(srv.disk, srv.size, t.direct)
	if err != nil {
		return r, err
	}
	if r.LoadAverage, err = loadAverage(); err != nil {
		return r, err
	}
	before, err := cpuOf(srv.procs)
	if err != nil {
		return r, err
	}
	if r.load, err = runFio(ctx, b.sp, w, srv.socket, srv.size, d); err != nil {
		return r, errors.Join(err, aliveAll(srv.procs))
	}
	r.ended = time.Now()
	after, err := cpuOf(srv.procs)
	if err != nil {
		return r, errors.Join(err, aliveAll(srv.procs))
	}
	for i, p := range srv.procs {
		us := float64((after[i] - before[i]).Microseconds()) / float64(r.IOs)
		r.CPU = append(r.CPU, procCPU{p.name, us})
		r.CPUPerIO += us
	}
	if err := aliveAll(srv.procs); err != nil {
		return r, err
	}
	return r, sample.check(r.WriteBytes, srv.size)
}

func cpuOf(procs []*proc) ([]time.Duration, error) {
	out := make([]time.Duration, len(procs))
	for i, p := range procs {
		var err error
		if out[i], err = p.cpu(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func aliveAll(procs []*proc) error {
	for _, p := range procs {
		if err := p.alive(); err != nil {
			return err
		}
	}
	return nil
}

// loadAverage returns the machine's load of the last minute.
func loadAverage() (float64, error) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(b), " ")
	return strconv.ParseFloat(first, 64)
}

// schedule returns the runs of one round: workload by workload, within each
// the targets in order, in odd rounds all of it backwards.
func schedule(need map[pair]bool, workloads []workload, targets []target, round int) []scheduled {
	var out []scheduled
	for _, w := range workloads {
		for _, t := range targets {
			if need[pair{t.name, w.name}] {
				out = append(out, scheduled{t, w})
			}
		}
	}
	if round%2 == 1 {
		slices.Reverse(out)
	}
	return out
}

type scheduled struct {
	target   target
	workload workload
}

// runRounds runs everything the ratios need, as often as there are rounds, each
// run for d.
func (b *bench) runRounds(ctx context.Context, stage string, wanted []ratio, workloads []workload, targets []target, rounds int, d time.Duration) error {
	need := map[pair]bool{}
	for _, r := range wanted {
		need[r.num], need[r.den] = true, true
	}
	for round := range rounds {
		for _, s := range schedule(need, workloads, targets, round) {
			r, err := b.runPair(ctx, s.target, s.workload, d)
			if err != nil {
				b.salvage(wanted)
				return err
			}
			r.Stage, r.Round = stage, round
			b.note(r)
		}
	}
	return nil
}

// note keeps a row and shows it.
func (b *bench) note(r row) {
	b.rows = append(b.rows, r)
	tail := ""
	if r.CPUToPublished > 0 {
		tail = fmt.Sprintf(" (%.1f to published, %.1f s)", r.CPUToPublished, r.Drain)
	}
	if r.Tracked {
		tail += " TRACKED"
	}
	fmt.Fprintf(os.Stderr, "%-9s %d  %-18s %-10s %8.0f IOPS %7.1f MB/s  p50 %5.0f  p99 %6.0f  p99.9 %6.0f us  load %.2f  CPU %5.1f us/IO%s\n",
		r.Stage, r.Round+1, r.Target, r.Workload, r.IOPS, r.MBs, r.Write.P50, r.Write.P99, r.Write.P999, r.LoadAverage, r.CPUPerIO, tail)
}
