package demo

import (
	"context"
	"fmt"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/demo/ledger"
	"holdfast/internal/drva"
	"holdfast/internal/errs"
	"holdfast/internal/iofilter"
)

// watchEvery is how often the live line is renewed.
const watchEvery = time.Second

// drvaStatus is what a DRVA answers on its status socket.
type drvaStatus struct {
	drva.Status
	Address string `json:"address"`
}

// steady shows protection at work until site A has been fully protected for
// the given time: baselines complete and a group checkpoint published.
func (r *run) steady(ctx context.Context, a *siteA, d *ledger.Driver, driven <-chan error, after time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, protectLimit, fmt.Errorf("the guests were not protected within %v", protectLimit))
	defer cancel()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var disaster <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return errs.E("demo.steady", errs.Canceled, "", context.Cause(ctx))
		case err := <-driven:
			if err == nil {
				err = context.Cause(ctx)
			}
			return errs.E("demo.steady", errs.Internal, "guests", err)
		case <-disaster:
			return nil
		case <-tick.C:
		}
		if err := a.dead(); err != nil {
			return err
		}
		var s drvaStatus
		if err := control.CallLocal(ctx, a.drvaSock, "/status", nil, &s); err != nil {
			return err
		}
		r.res.BytesIn, r.res.BytesOut = int64(s.BytesIn), int64(s.BytesStored)
		r.say("%s", r.live(ctx, a, d, &s))
		if disaster == nil && protected(&s) {
			r.say("protected: both baselines are complete and a group checkpoint is published")
			disaster = time.After(after)
		}
	}
}

// protected reports whether everything could be recovered from the store now.
func protected(s *drvaStatus) bool {
	p := s.Checkpoints.LastPublished
	if p == nil || len(p.Disks) != guests || s.Checkpoints.LastGroup.IsZero() {
		return false
	}
	ok, _ := p.Recoverable()
	return ok
}

// live renders one line of how protection goes.
func (r *run) live(ctx context.Context, a *siteA, d *ledger.Driver, s *drvaStatus) string {
	leader, follower := d.Acked()
	rpo := "-"
	if s.RPO >= 0 {
		rpo = fmt.Sprintf("%.1fs", s.RPO)
	}
	line := fmt.Sprintf("%s  commits %d/%d  rpo %s  checkpoints %d (%d group)  log %.1f%%  in %s  out %s",
		time.Now().Format("15:04:05"), leader, follower, rpo, s.Checkpoints.Published, s.Checkpoints.Group,
		100*float64(s.Log.Used)/float64(max(s.Log.Quota, 1)), mebibytes(int64(s.BytesIn)), mebibytes(int64(s.BytesStored)))
	var done, total, eta int64
	for i := range guests {
		var h iofilter.Status
		if err := control.CallLocal(ctx, a.hostSocks[i], "/status", nil, &h); err != nil {
			return line
		}
		for _, disk := range h.Disks {
			done, total, eta = done+disk.SyncDone, total+disk.SyncTotal, max(eta, disk.ETASeconds)
		}
	}
	if total > 0 && done < total {
		line += fmt.Sprintf("  syncing %d%% (ETA %ds)", 100*done/total, eta)
	}
	return line
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
