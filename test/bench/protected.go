package main

import (
	"context"
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
			id, err := s.drain(ctx)
			if err != nil {
				return err
			}
			r.Drain = time.Since(r.ended).Seconds()
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
