package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
	"holdfast/internal/store"
	"holdfast/internal/store/s3"
)

// view is the container as another site sees it: with the recovery key alone,
// and by a way of its own.
type view struct {
	s *site
	c *journal.Container
	h *journal.History
}

func (s *site) view(ctx context.Context) (*view, error) {
	url := strings.Replace(s.url, s.toStore.Addr(), strings.TrimPrefix(s.store.Endpoint, "http://"), 1)
	u, err := store.ParseURL(url)
	if err != nil {
		return nil, err
	}
	st, err := s3.Open(ctx, u, s3.Options{})
	if err != nil {
		return nil, err
	}
	c, err := journal.Open(ctx, st, s.Identity)
	if err != nil {
		return nil, err
	}
	h, err := c.History(ctx, journal.HistoryOptions{})
	if err != nil {
		return nil, err
	}
	if p := h.Problems(); len(p) > 0 {
		return nil, fmt.Errorf("the history has problems: %+v", p)
	}
	return &view{s, c, h}, nil
}

// points are the group checkpoints listed as recoverable, oldest first.
func (v *view) points() (all []journal.CheckpointInfo) {
	for _, p := range v.h.Checkpoints() {
		if p.Recoverable && p.Scope == dr.Group {
			all = append(all, p)
		}
	}
	return all
}

// check restores a checkpoint and judges both guests' disks: whole ledgers, one
// instant, nothing missing that was acknowledged before it.
func (v *view) check(ctx context.Context, cp *journal.CheckpointInfo, l *load) error {
	img, err := v.h.Resolve(ctx, *cp)
	if err != nil {
		return fmt.Errorf("checkpoint %d does not resolve: %w", cp.ID, err)
	}
	scratch, err := os.MkdirTemp(v.s.Dir, "check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	var targets []rocva.Target
	var paths [guests]string
	for i, vm := range v.s.vms {
		paths[i] = filepath.Join(scratch, fmt.Sprintf("%d.raw", i))
		targets = append(targets, rocva.Target{Disk: vm.Disks[0].ID, Path: paths[i]})
	}
	if _, err := rocva.Full(ctx, v.c, img, targets, rocva.Options{}); err != nil {
		return fmt.Errorf("checkpoint %d does not restore: %w", cp.ID, err)
	}
	var reports [guests]ledger.Report
	for i, path := range paths {
		if reports[i], err = ledger.CheckImage(ctx, path); err != nil {
			return err
		}
	}
	if err := ledger.CheckPair(reports[0], reports[1]); err != nil {
		return fmt.Errorf("checkpoint %d: %w", cp.ID, err)
	}
	acked := l.before(v.s.clocks.earliest(cp.Time))
	if reports[0].Max < acked[0] || reports[1].Max < acked[1] {
		return fmt.Errorf("checkpoint %d lost commits: %v were acknowledged before it was cut, it holds %d and %d",
			cp.ID, acked, reports[0].Max, reports[1].Max)
	}
	return nil
}

// checkSome checks the newest checkpoint, and one drawn from all the others.
func (v *view) checkSome(ctx context.Context, rng *rand.Rand, l *load) error {
	points := v.points()
	if len(points) == 0 {
		return fmt.Errorf("no checkpoint can be recovered")
	}
	if err := v.check(ctx, &points[len(points)-1], l); err != nil || len(points) == 1 {
		return err
	}
	return v.check(ctx, &points[rng.IntN(len(points)-1)], l)
}

// fsck checks every byte of the container.
func (v *view) fsck(ctx context.Context) error {
	r, err := v.c.Fsck(ctx, journal.FsckOptions{Mode: journal.FsckDeep})
	if err != nil {
		return err
	}
	if !r.Clean || len(r.Problems) > 0 {
		return fmt.Errorf("the container is not clean: %+v", r.Problems)
	}
	return nil
}
