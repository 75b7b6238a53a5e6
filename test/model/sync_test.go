package model

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/durable"
	"holdfast/internal/iofilter"
	"holdfast/internal/journal"
	"holdfast/internal/record"
	"holdfast/internal/replog"
	"holdfast/test/rig"
)

const (
	// defaultLosses is how many sites are lost, in turn in each way.
	defaultLosses = 5
	lossMost      = 1500 * time.Millisecond // of writing before the loss
	// drainLimit is for a DRVA that came back alone: it waits 10 s for its
	// hosts before it gives them up and goes on.
	drainLimit = 3 * time.Minute
)

// way is how a site is lost.
type way int

const (
	// everything is killed at one moment.
	everything way = iota
	// logFirst: the DRVA dies of the first write to its log after some moment,
	// and the hosts with it. What it had given a place and not logged is gone
	// for certain; a plain kill rarely meets that instant.
	logFirst
	// hostsOnly: the DRVA lives on.
	hostsOnly
)

func (w way) String() string {
	return [...]string{"everything killed", "killed at a write of the log", "hosts killed"}[w]
}

// loss is a site that was lost.
type loss struct {
	s     *site
	truth *truth
	at    *point          // everything acknowledged is older
	held  replog.Recovery // what the log held, when the DRVA was killed too
	last  *image          // disks as container and log together have them
	acked int
	way   way
	lacks bool // the container alone lacks acknowledged writes
}

// TestSyncAckSurvives: in the sync rule a write is acknowledged when the
// replication log has it. Hosts and DRVA are killed at one moment, or the
// hosts alone, and nothing of the hosts is used again: what was acknowledged is
// in the log, and the DRVA publishes all the log holds, without them.
// HOLDFAST_MODEL_LOSSES is how often; HOLDFAST_SEED repeats.
func TestSyncAckSurvives(t *testing.T) {
	seed := knob(t, "HOLDFAST_SEED", uint64(time.Now().UnixNano()))
	t.Logf("HOLDFAST_SEED=%d", seed)
	var all []*loss
	for i := range knob(t, "HOLDFAST_MODEL_LOSSES", defaultLosses) {
		rng := rand.New(rand.NewPCG(seed, 1000+i))
		all = append(all, loseSite(t, rng, ([...]way{everything, logFirst, hostsOnly})[i%3]))
	}
	// The DRVAs wait for their hosts all at once.
	acked, lacked := 0, 0
	for i, l := range all {
		acked += l.acked
		if l.lacks {
			lacked++
		}
		if l.way == hostsOnly {
			l.checkAlive(t)
		} else {
			l.checkDrained(t)
		}
		t.Logf("loss %d, %v: %d acknowledged writes", i, l.way, l.acked)
	}
	t.Logf("%d losses, %d acknowledged writes; %d times the newest checkpoint alone lacked some", len(all), acked, lacked)
	if lacked == 0 {
		t.Error("the log was never needed: this test proves nothing")
	}
}

// loseSite lets a site work for a while and kills it.
func loseSite(t *testing.T, rng *rand.Rand, w way) *loss {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := &loss{s: newSite(t, dr.Sync.String(), 0), truth: newTruth(rng), way: w}
	load := startLoad(ctx, l.s, l.truth, rng.Uint64())
	err := l.s.waitRecoverable(ctx, time.Time{}, calmLimit)
	if err == nil {
		err = (&schedule{s: l.s, rng: rng}).wait(ctx, lossMost)
	}
	if err == nil {
		err = l.s.waitStreaming(ctx)
	}
	epoch, epochErr := l.s.epoch(ctx)
	doomed := []*rig.Process{l.s.hosts[0].Process, l.s.hosts[1].Process}
	if w != hostsOnly {
		doomed = append(doomed, l.s.drva.Process)
	}
	if w == logFirst {
		must(t, l.s.drva.FailWrites())
	}
	l.s.killTogether(rng, doomed...)
	killed := time.Now().Round(0)
	cancel() // the guests are gone, too
	load.finish()
	must(t, err)
	must(t, epochErr)
	if err := l.s.Problems(); err != nil {
		t.Fatal(err)
	}
	l.at = &point{name: "after the loss", group: true, taken: killed.Add(2 * clockMargin), published: killed}
	for _, c := range l.truth.chains {
		_, n := c.all()
		l.acked += n
	}
	for _, r := range l.truth.regions {
		_, n := r.all()
		l.acked += n
	}
	if w != hostsOnly {
		l.readLog(t, epoch)
		must(t, l.s.startDRVA(t.Context(), l.s.drva))
	}
	return l
}

// waitStreaming waits until no host tracks and none is about to: a write that
// is acknowledged while tracking is in nobody's log.
func (s *site) waitStreaming(ctx context.Context) error {
	for i, h := range s.hosts {
		what := fmt.Sprintf("host %d streams", i+1)
		err := rig.WaitStatus(ctx, h.socket, what, calmLimit, func(st *iofilter.Status) bool {
			return st.State == iofilter.Streaming && st.Stream.Next-st.Stream.Durable < 100
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// epoch returns the DRVA's reign.
func (s *site) epoch(ctx context.Context) (e dr.Epoch, err error) {
	err = rig.WaitStatus(ctx, s.drva.socket, "the DRVA publishes", calmLimit, func(st *rig.DRVAStatus) bool {
		e = st.Publisher.Epoch
		return e != 0
	})
	return e, err
}

// checkImage demands that an image holds every acknowledged write, and nothing
// that its cause is not in as well.
func (l *loss) checkImage(t *testing.T, what string, img *image) {
	t.Helper()
	if wrong := newChecker(l.truth).check(l.at, img); len(wrong) > 0 {
		t.Errorf("%s:\n%s", what, strings.Join(wrong, "\n"))
	}
}

// readLog checks that container and log together hold what was acknowledged.
func (l *loss) readLog(t *testing.T, epoch dr.Epoch) {
	t.Helper()
	ctx := t.Context()
	c, err := l.s.open(ctx)
	must(t, err)
	points := c.recoverable()
	cp := points[len(points)-1]
	img, err := c.restore(ctx, cp)
	must(t, err)
	log, err := replog.Open(ctx, replog.Options{
		Dir: l.s.drva.logDir, FS: durable.OS{}, Domain: l.s.Domain, Timeline: c.history.Timeline(), Epoch: epoch, Quota: logQuota,
		Logger: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	defer log.Close()
	l.held = log.Recovered()
	l.lacks = len(newChecker(l.truth).check(l.at, img)) > 0
	must(t, l.replay(log, cp, img))
	l.last = img
	l.checkImage(t, "the log", img)
}

// replay does to img what the log holds from checkpoint cp on.
func (l *loss) replay(log *replog.Log, cp journal.CheckpointInfo, img *image) error {
	if l.held.First > cp.Seq+1 { // at cp.Seq is the checkpoint itself
		return fmt.Errorf("the log begins at %d, checkpoint %d was cut at %d", l.held.First, cp.ID, cp.Seq)
	}
	st := order.NewState()
	for i := range l.held.Carried {
		if err := st.Apply(&l.held.Carried[i]); err != nil {
			return err
		}
	}
	r, err := log.NewReader(0)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		recs, err := r.TryNext()
		if err != nil || len(recs) == 0 {
			return err
		}
		for i := range recs {
			if err := l.apply(st, &recs[i], cp.Seq, img); err != nil {
				return err
			}
		}
	}
}

// apply does what one record says, if it is not below the checkpoint.
func (l *loss) apply(st *order.State, r *record.Record, from dr.Seq, img *image) error {
	if disk, ok := st.Disk(r.Disk); ok && r.Seq >= from {
		for d, id := range l.s.ids {
			switch {
			case id != disk.ID:
			case r.Kind == record.Data:
				copy(img[d][r.Offset:], r.Payload[:r.Length])
			case r.Kind == record.Zero, r.Kind == record.Discard:
				clear(img[d][r.Offset : r.Offset+uint64(r.Length)])
			}
		}
	}
	return st.Apply(r)
}

// checkAlive: the hosts are gone and the DRVA cuts what it has.
func (l *loss) checkAlive(t *testing.T) {
	t.Helper()
	after := l.at.taken
	must(t, rig.WaitStatus(t.Context(), l.s.drva.socket, "a checkpoint without the hosts is published", drainLimit, func(st *rig.DRVAStatus) bool {
		p := st.Checkpoints.LastPublished
		return p != nil && p.Time.After(after)
	}))
	must(t, l.s.drva.Stop(stopLimit))
	c, err := l.s.open(t.Context())
	must(t, err)
	points := c.recoverable()
	cp := points[len(points)-1]
	if !cp.Time.After(after) {
		t.Fatalf("checkpoint %d of %v is the newest that can be recovered, the hosts died at %v", cp.ID, cp.Time, after)
	}
	img, err := c.restore(t.Context(), cp)
	must(t, err)
	l.checkImage(t, fmt.Sprintf("checkpoint %d", cp.ID), img)
	must(t, c.fsck(t.Context()))
}

// checkDrained: a DRVA that came back alone publishes all its log holds, and
// offers it as a checkpoint that has every acknowledged write.
func (l *loss) checkDrained(t *testing.T) {
	t.Helper()
	must(t, rig.WaitStatus(t.Context(), l.s.drva.socket, "the log is published", drainLimit, func(st *rig.DRVAStatus) bool {
		p := st.Checkpoints.LastPublished
		return p != nil && p.Seq > l.held.Last
	}))
	must(t, l.s.drva.Stop(stopLimit))
	if err := l.s.Problems(); err != nil {
		t.Error(err)
	}
	c, err := l.s.open(t.Context())
	must(t, err)
	if last := c.history.LastSeq(); last < l.held.Last {
		t.Errorf("the container ends at record %d, the log held %d", last, l.held.Last)
	}
	behind := 0
	for _, cp := range c.recoverable() {
		if cp.Seq <= l.held.Last {
			continue
		}
		behind++
		img, err := c.restore(t.Context(), cp)
		must(t, err)
		l.checkImage(t, fmt.Sprintf("checkpoint %d", cp.ID), img)
		if diff := sameDisks(img, l.last); diff != "" {
			t.Errorf("checkpoint %d is not what the log held:\n%s", cp.ID, diff)
		}
	}
	if behind == 0 {
		t.Errorf("no checkpoint offers what the log held up to record %d", l.held.Last)
	}
	must(t, c.fsck(t.Context()))
}
