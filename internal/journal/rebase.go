package journal

import (
	"context"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
)

// forkBase is where a branch began.
type forkBase struct {
	parent dr.TimelineID
	head   *branch
	hist   *History // the parent's
	why    string   // why the fork cannot be recovered; "": it can
}

func (b *forkBase) broken() string {
	if b == nil {
		return ""
	}
	return b.why
}

// depth is how many timelines reading may fall through, this one included.
func (h *History) depth() int {
	n := 1
	for b := h.base; b != nil; b = b.hist.base {
		n++
	}
	return n
}

// openHistory reads timeline t and, if it is a branch, those it falls through
// to.
func (c *Container) openHistory(ctx context.Context, t dr.TimelineID, progress func(HistoryProgress)) (*History, error) {
	return c.openBranch(ctx, t, progress, nil)
}

// openBranch is openHistory below the timelines in above.
func (c *Container) openBranch(ctx context.Context, t dr.TimelineID, progress func(HistoryProgress), above []dr.TimelineID) (*History, error) {
	const op = "journal.History"
	v, err := c.readHead(ctx, t)
	if err != nil {
		return nil, err
	}
	h := &History{c: c, timeline: t, progress: progress, chain: newChain(Window), ends: lru[dr.ObjectNumber, *loaded]{most: maxEnds}}
	if b := v.Branch; b != nil {
		if above = append(above, t); slices.Contains(above, v.Parent) || len(above) >= maxDepth {
			return nil, errs.New(op, errs.Corrupt, headKey(t), "the timelines it falls through to go in a circle, or too deep")
		}
		parent, err := c.openBranch(ctx, v.Parent, nil, above)
		if err != nil {
			return nil, errs.E(op, errs.Internal, headKey(v.Parent), fmt.Errorf("of the timeline that %s is a branch of: %w", t, err))
		}
		h.base = &forkBase{parent: v.Parent, head: b, hist: parent}
		h.base.judge()
	}
	h.begin(nil)
	m, stale, err := c.newestManifest(ctx, t)
	if errs.Is(err, errs.Corrupt) {
		m, stale, err = nil, append(stale, Problem{Object: manifestPrefix(t), What: err.Error(), Kind: errs.Corrupt}), nil
	}
	if err != nil {
		return nil, errs.E(op, errs.Internal, manifestPrefix(t), err)
	}
	h.begin(m)
	h.stale = stale
	if err := h.Extend(ctx); err != nil {
		return nil, err
	}
	return h, nil
}

// judge finds out whether the parent still has the checkpoint.
func (b *forkBase) judge() {
	at := fmt.Sprintf("the branch began at checkpoint #%d of timeline %s", b.head.Point.ID, b.parent)
	i := slices.IndexFunc(b.hist.points, func(p CheckpointInfo) bool { return p.ID == b.head.Point.ID })
	switch {
	case i < 0 || b.hist.points[i].Seq != b.head.Point.Seq:
		b.why = at + ", which is not there any more"
	case !b.hist.points[i].Recoverable:
		b.why = at + ", which is not recoverable: " + b.hist.points[i].Why
	}
}

// begin makes m, or the timeline's beginning, what the history starts with.
func (h *History) begin(m *Manifest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.chain, h.unlinked, h.broken = newChain(Window), false, false
	h.manifest, h.anchor, h.objects, h.points, h.last = m, Anchor{Next: FirstNumber}, nil, nil, 0
	if b := h.base; b != nil {
		p := CheckpointInfo{Checkpoint: b.head.Point, PublishedAt: b.head.PublishedAt, Inherited: true,
			Retained: []Reason{{ByFork, h.timeline.String()}}}
		h.judgeLocked(&p)
		h.points, h.last = append(h.points, p), b.head.Point.Seq
	}
	if m == nil {
		return
	}
	h.anchor = m.Anchor
	h.chain.next, h.chain.epoch, h.chain.prev, h.chain.at = m.Anchor.Next, m.Anchor.Epoch, m.Anchor.Digest, m.Anchor.Number
	h.last = max(h.last, m.Anchor.LastSeq)
	for _, p := range m.Points {
		i := CheckpointInfo{Checkpoint: p.Checkpoint, Object: p.Object, PublishedAt: p.PublishedAt, Suspect: p.Suspect, Retained: p.Reasons}
		h.judgeLocked(&i)
		h.points = append(h.points, i)
	}
}

// rebase looks for a newer manifest whose anchor lies beyond what was walked:
// then journal objects that are missing were deleted, not lost. done is true
// when the history begins anew behind it.
func (h *History) rebase(ctx context.Context) (done bool, err error) {
	var known uint64
	if h.manifest != nil {
		known = h.manifest.Generation
	}
	m, stale, err := h.c.newestManifest(ctx, h.timeline)
	if err != nil && !ownFault(err) {
		return false, err
	}
	h.mu.Lock()
	h.stale = stale
	next := h.chain.next
	h.mu.Unlock()
	if m == nil || m.Generation <= known || m.Anchor.Next <= next {
		return false, nil
	}
	h.begin(m)
	return true, nil
}

// readTags takes the tags given after the fact into the history.
func (h *History) readTags(ctx context.Context) error {
	pins, err := h.c.Pins(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tags = make(map[dr.CheckpointID][]string)
	for _, p := range pins {
		switch {
		case p.Damaged != "":
			h.stale = append(h.stale, Problem{Object: pinKey(p.ID), What: p.Damaged, Kind: errs.Corrupt})
		case p.Kind == PinTag && p.Timeline == h.timeline && p.Active(now):
			h.tags[p.Checkpoint] = append(h.tags[p.Checkpoint], p.Label)
		}
	}
	h.points = slices.Clone(h.points)
	for i := range h.points {
		h.points[i].Tags = h.tags[h.points[i].ID]
	}
	return nil
}

// byID returns the checkpoint with an id if it can be recovered. Kinds NotFound
// and Unavailable.
func (h *History) byID(id dr.CheckpointID) (CheckpointInfo, error) {
	h.mu.RLock()
	points := h.points
	h.mu.RUnlock()
	return findID(points, fmt.Sprintf("#%d", id), id)
}

// Manifest returns the manifest the history begins with, nil when there is
// none. It is shared and must not be changed.
func (h *History) Manifest() *Manifest {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.manifest
}
