package journal

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// branch is what the head of a branch holds besides a first timeline's.
type branch struct {
	Point       dr.Checkpoint   `json:"point"`  // the fork: the branch begins with these disks
	Object      dr.ObjectNumber `json:"object"` // the parent's journal object that carried it
	PublishedAt time.Time       `json:"published_at"`
	Label       string          `json:"label,omitempty"`
	Test        bool            `json:"test,omitempty"` // never the current timeline by itself
}

func (v *head) checkBranch() error {
	what := ""
	switch b := v.Branch; {
	case v.Parent.IsZero() && v.Fork == 0 && b == nil:
	case v.Parent.IsZero() || v.Fork == 0 || b == nil:
		what = "it says only in part where the branch began"
	case v.Parent == v.Timeline:
		what = "the timeline is a branch of itself"
	case b.Point.ID != v.Fork || b.Point.Seq == 0 || len(b.Point.Disks) > segment.MaxDisks:
		what = "the checkpoint it began at makes no sense"
	}
	if what != "" {
		return errs.New("journal.readHead", errs.Corrupt, headKey(v.Timeline), what)
	}
	return nil
}

// ForkOptions say where a branch begins and what for.
type ForkOptions struct {
	Parent     dr.TimelineID   // zero: the current timeline
	Checkpoint dr.CheckpointID // of the parent; it must be recoverable
	Label      string          // shown to people; at most 255 bytes
	By         string          // who asked for it; empty: this host
	// Test makes a branch that is never the current timeline unless it is asked
	// for by name: a test beside a protected domain does not take it over.
	Test bool
}

// Fork begins a new timeline at a checkpoint. It is empty: until something is
// published there it reads as the parent at that checkpoint. Nothing is
// copied. The parent keeps the checkpoint for as long as the branch is not
// dropped.
//
// The checkpoint is pinned while the branch is made, so that maintenance does
// not drop it meanwhile; a crash leaves the pin, which expires by itself.
// Durable on return. Kinds: NotFound and Unavailable when the checkpoint is
// not there or not recoverable, Invalid when the parent is dropped, Full when the branch would be deeper than
// maxDepth or the container has too many timelines, or the store's.
func (c *Container) Fork(ctx context.Context, opts ForkOptions) (dr.TimelineID, error) {
	const op = "journal.Fork"
	var none dr.TimelineID
	if len(opts.Label) > maxName || len(opts.By) > maxName {
		return none, errs.New(op, errs.Invalid, "", "label or name is longer than 255 bytes")
	}
	h, err := c.History(ctx, HistoryOptions{Timeline: opts.Parent})
	if err != nil {
		return none, err
	}
	if err := c.refuseDropped(ctx, op, h.timeline); err != nil {
		return none, err
	}
	if h.depth() >= maxDepth {
		return none, errs.New(op, errs.Full, h.timeline.String(), "the branch would be too deep").
			WithRemedy("recover into a new container, or fork from a timeline nearer to the first")
	}
	if all, err := c.timelines(ctx); err != nil || len(all) >= maxTimelines {
		if err == nil {
			err = errs.New(op, errs.Full, prefixTime, "the container has as many timelines as it may have")
		}
		return none, errs.E(op, errs.Internal, prefixTime, err)
	}
	cp, err := h.byID(opts.Checkpoint)
	if err != nil {
		return none, err
	}
	if cp.Inherited {
		return c.Fork(ctx, ForkOptions{Parent: h.base.parent, Checkpoint: cp.ID, Label: opts.Label, By: opts.By, Test: opts.Test})
	}
	pin, err := c.Pin(ctx, PinOptions{Kind: PinRead, Timeline: h.timeline, Checkpoint: cp.ID, By: opts.By,
		Label: "a branch is being made", Expires: time.Now().Add(forkPin)})
	if err != nil {
		return none, err
	}
	child, err := c.writeBranch(ctx, h.timeline, cp, opts)
	if err != nil {
		return none, err // the branch may still come to be: the pin holds its point until it expires
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unpinLimit) // there is no more to break off
	defer cancel()
	if err := c.Unpin(ctx, pin.ID, opts.By); err != nil {
		// The branch is there and the pin expires: nothing is lost but time.
		return child, nil //nolint:nilerr // see above
	}
	return child, nil
}

func (c *Container) writeBranch(ctx context.Context, parent dr.TimelineID, cp CheckpointInfo, opts ForkOptions) (dr.TimelineID, error) {
	const op = "journal.Fork"
	now := time.Now()
	t := dr.TimelineID{UUID: dr.NewUUID()}
	body, err := c.sealJSON(segment.Header{Timeline: t, Created: now}, &head{
		Timeline: t, Created: now.UTC(), By: hostOr(opts.By), Parent: parent, Fork: cp.ID,
		Container: digestText(c.digest),
		Branch:    &branch{Point: cp.Checkpoint, Object: cp.Object, PublishedAt: cp.PublishedAt, Label: opts.Label, Test: opts.Test},
	})
	if err != nil {
		return t, err
	}
	if err := c.createOwn(ctx, headKey(t), body); err != nil {
		return t, errs.E(op, errs.Internal, headKey(t), err)
	}
	return t, nil
}

// hostOr is by, or this host's name.
func hostOr(by string) string {
	if by != "" {
		return by
	}
	if name, err := os.Hostname(); err == nil {
		return name
	}
	return "unknown" // shown to people only
}

// dropped is the sealed content of t/<timeline>/dropped. The name says it; the
// content is for people.
type dropped struct {
	Timeline dr.TimelineID `json:"timeline"`
	At       time.Time     `json:"at"`
	By       string        `json:"by"`
}

// DropTimeline gives a timeline up: it is not current any more, and maintenance
// keeps of it only what branches of it that are not dropped need. It cannot be
// taken back. Stop its publisher first: no other starts, and what that one goes
// on to publish is not kept. Durable on return; a timeline that is dropped
// already is success.
// Kind NotFound when there is no such timeline, Invalid for the last one that
// is left, or the store's.
func (c *Container) DropTimeline(ctx context.Context, t dr.TimelineID, by string) error {
	const op = "journal.DropTimeline"
	all, err := c.Timelines(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(v TimelineInfo) bool { return v.ID == t })
	if i < 0 {
		return errs.New(op, errs.NotFound, t.String(), "the container has no such timeline").
			WithRemedy("inspect the container to see its timelines")
	}
	if all[i].Dropped != nil {
		return nil
	}
	if !slices.ContainsFunc(all, func(v TimelineInfo) bool { return v.ID != t && v.Dropped == nil && !v.Test }) && !all[i].Test {
		return errs.New(op, errs.Invalid, t.String(), "it is the last timeline of the container").
			WithRemedy("delete the container instead, or fork first")
	}
	now := time.Now()
	body, err := c.sealJSON(segment.Header{Timeline: t, Created: now}, &dropped{Timeline: t, At: now.UTC(), By: hostOr(by)})
	if err != nil {
		return err
	}
	err = c.createOwn(ctx, droppedKey(t), body)
	if err != nil && !errs.Is(err, errs.Exists) { // somebody else dropped it
		return errs.E(op, errs.Internal, droppedKey(t), err)
	}
	return nil
}

// refuseDropped is kind Invalid for a timeline that is given up: what would be
// added to it is not kept.
func (c *Container) refuseDropped(ctx context.Context, op string, t dr.TimelineID) error {
	d, err := c.readDropped(ctx, t)
	if err != nil || d == nil {
		return err
	}
	return errs.New(op, errs.Invalid, t.String(), fmt.Sprintf("the timeline was dropped at %s by %s", d.At.Format(time.RFC3339), d.By)).
		WithRemedy("name another timeline")
}

// readDropped reads a timeline's end; nil when it is not dropped.
func (c *Container) readDropped(ctx context.Context, t dr.TimelineID) (*dropped, error) {
	var v dropped
	_, err := c.openJSON(ctx, droppedKey(t), &v)
	switch {
	case errs.Is(err, errs.NotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case v.Timeline != t:
		return nil, errs.New("journal.readDropped", errs.Corrupt, droppedKey(t), "it is the end of another timeline")
	}
	return &v, nil
}

// TimelineInfo is a branch of history as its head tells it.
type TimelineInfo struct {
	ID      dr.TimelineID `json:"timeline"`
	Created time.Time     `json:"created"`
	By      string        `json:"by"`
	Label   string        `json:"label,omitempty"`
	Test    bool          `json:"test,omitempty"`
	Current bool          `json:"current"` // taken when no timeline is named

	// Of a branch: which checkpoint of which timeline it began at.
	Parent dr.TimelineID  `json:"parent"`
	Fork   *dr.Checkpoint `json:"fork,omitempty"`

	Dropped   *time.Time `json:"dropped,omitempty"`
	DroppedBy string     `json:"dropped_by,omitempty"`
}

// Timelines lists the container's timelines, oldest first, dropped ones too.
// What an interrupted Create or Fork left is not there. Cost: three small
// requests a timeline.
func (c *Container) Timelines(ctx context.Context) ([]TimelineInfo, error) {
	const op = "journal.Timelines"
	ids, err := c.timelines(ctx)
	if err != nil {
		return nil, errs.E(op, errs.Internal, prefixTime, err)
	}
	var out []TimelineInfo
	for _, id := range ids {
		v, err := c.readHead(ctx, id)
		if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Denied) && id != c.domain.Timeline {
			continue // begun, never finished; or left by an interrupted Create, under a key that is gone
		} else if err != nil {
			return nil, err
		}
		d, err := c.readDropped(ctx, id)
		if err != nil {
			return nil, err
		}
		out = append(out, infoOf(&v, d))
	}
	slices.SortStableFunc(out, func(a, b TimelineInfo) int {
		if n := a.Created.Compare(b.Created); n != 0 {
			return n
		}
		return strings.Compare(a.ID.String(), b.ID.String())
	})
	for i := len(out) - 1; i >= 0; i-- {
		if out[i].Dropped == nil && !out[i].Test {
			out[i].Current = true
			break
		}
	}
	return out, nil
}

func infoOf(v *head, d *dropped) TimelineInfo {
	t := TimelineInfo{ID: v.Timeline, Created: v.Created, By: v.By, Parent: v.Parent}
	if b := v.Branch; b != nil {
		t.Label, t.Test, t.Fork = b.Label, b.Test, &b.Point
	}
	if d != nil {
		t.Dropped, t.DroppedBy = &d.At, d.By
	}
	return t
}
