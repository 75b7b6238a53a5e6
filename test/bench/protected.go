package main

import (
	"context"
	"fmt"
	"time"
)

// target makes the system a target: it stays up between runs, and each run
// begins with everything published and ends with the proof that the container
// rebuilds the disk.
func (s *system) target(name string) target {
	return target{name: name, direct: s.direct, start: func(ctx context.Context) (*server, error) {
		if err := s.awaitSynced(ctx); err != nil {
			return nil, err
		}
		before, err := s.filterState(ctx)
		if err != nil {
			return nil, err
		}
		procs := []*proc{s.filter, s.drva}
		spent, err := cpuOf(procs)
		if err != nil {
			return nil, err
		}
		after := func(ctx context.Context, r *row) error {
			start := time.Now()
			id, err := s.drain(ctx)
			if err != nil {
				return err
			}
			r.Drain = time.Since(start).Seconds()
			now, err := cpuOf(procs)
			if err != nil {
				return err
			}
			for i := range procs {
				r.CPUToPublished += float64((now[i] - spent[i]).Microseconds()) / float64(r.IOs)
			}
			st, err := s.filterState(ctx)
			if err != nil {
				return err
			}
			r.Tracked = st.Stream.Trackings != before.Stream.Trackings
			if err := s.replay.advance(ctx, id); err != nil {
				return err
			}
			return s.replay.compare(ctx, s.disk)
		}
		return &server{socket: s.socket, disk: s.disk, size: s.size, procs: procs, after: after, stop: func() error { return nil }}, nil
	}}
}

// noteTracking says how many protected runs of a stage fell back to tracking:
// their figures are of a system that postponed its work.
func (b *bench) noteTracking(stage string) {
	runs, tracked := map[pair]int{}, map[pair]int{}
	for _, r := range b.rows {
		if r.Stage != stage || r.CPUToPublished == 0 {
			continue
		}
		p := pair{r.Target, r.Workload}
		runs[p]++
		if r.Tracked {
			tracked[p]++
		}
	}
	for _, r := range b.rows { // in the order of the runs
		p := pair{r.Target, r.Workload}
		if n := tracked[p]; n > 0 && r.Stage == stage {
			b.notes = append(b.notes, fmt.Sprintf("stage %s: %s under %s entered tracking in %d of %d runs", stage, p.target, p.workload, n, runs[p]))
			delete(tracked, p)
		}
	}
}
