package maintain

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// load reads where the timeline stands: its manifest first, and only then who
// holds what. So whoever pinned a checkpoint and then found it in the newest
// manifest is seen by every pass that could forget it.
func (p *pass) load(ctx context.Context) error {
	var err error
	if p.infos, err = p.c.ListManifests(ctx, p.timeline); err != nil {
		return err
	}
	for _, in := range p.infos {
		p.store = later(p.store, in.Modified)
	}
	if err := p.readBase(ctx); err != nil {
		return err
	}
	pins, err := p.c.Pins(ctx)
	if err != nil {
		return err
	}
	timelines, err := p.c.Timelines(ctx)
	if err != nil {
		return err
	}
	if err := p.place(timelines); err != nil {
		return err
	}
	p.next = next(p.base, p.infos)
	p.points = slices.Clone(p.base.Points)
	p.setPolicy()
	p.hold(pins, timelines)
	if err := p.lastFull(ctx); err != nil {
		return err
	}
	return p.resurrect(ctx)
}

// lastFull finds out when the oldest run was written, if this Maintainer has
// not done it.
func (p *pass) lastFull(ctx context.Context) error {
	oldest := oldestPart(p.base.Runs)
	if oldest.IsZero() || oldest == p.mem.oldest && !p.mem.full.IsZero() {
		return nil
	}
	p.mem.oldest, p.mem.kept, p.mem.sizes = oldest, nil, sizesOf(p.base)
	h, err := p.c.ReadHeader(ctx, journal.PartName(oldest))
	if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Corrupt) || errs.Is(err, errs.Invalid) {
		return nil // a merge will tell
	} else if err != nil {
		return err
	}
	p.mem.full = h.Created
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// next is a copy of base that becomes the manifest after it.
func next(base *journal.Manifest, infos []journal.ManifestInfo) *journal.Manifest {
	n := *base
	n.Generation = base.Generation + 1
	if len(infos) > 0 {
		n.Generation = infos[len(infos)-1].Generation + 1
	}
	n.Runs, n.Objects = slices.Clone(base.Runs), slices.Clone(base.Objects)
	n.Points, n.Tombstones = nil, slices.Clone(base.Tombstones)
	return &n
}

// readBase reads the newest manifest. Newer ones that are damaged are passed
// over as long as they are so young that nothing can have been deleted on
// their word.
func (p *pass) readBase(ctx context.Context) error {
	const op = "maintain.load"
	for i := len(p.infos) - 1; i >= 0; i-- {
		in := p.infos[i]
		m, err := p.c.ReadListedManifest(ctx, p.timeline, in)
		switch {
		case err == nil:
			p.base = m
			return nil
		case errs.Is(err, errs.NotFound):
			return errs.E(op, errs.Conflict, in.Key, fmt.Errorf("the manifest was deleted meanwhile: %w", err))
		case !errs.Is(err, errs.Corrupt):
			return err
		}
		if age := p.began.wall.Sub(in.Modified); age > LeastGrace/2 || age < -LeastGrace/2 {
			return errs.E(op, errs.Corrupt, in.Key, fmt.Errorf("the manifest is damaged, and too old to begin anew from the one before: %w", err)).
				WithRemedy("restore it from another copy of the container, or from the store's own versions")
		}
		p.report.alarm("manifest %s is damaged and is replaced: %v", in.Key, err)
		p.worked = true
	}
	if len(p.infos) > 0 {
		return errs.New(op, errs.Corrupt, p.infos[0].Key, "no manifest of the timeline can be read").
			WithRemedy("restore one from another copy of the container, or from the store's own versions")
	}
	p.fresh = true
	p.base = &journal.Manifest{Timeline: p.timeline, Anchor: journal.Anchor{Next: journal.FirstNumber}}
	return nil
}

// place finds the timeline among the others.
func (p *pass) place(timelines []journal.TimelineInfo) error {
	i := slices.IndexFunc(timelines, func(t journal.TimelineInfo) bool { return t.ID == p.timeline })
	if i < 0 {
		return errs.New("maintain.load", errs.NotFound, p.timeline.String(), "the timeline is gone")
	}
	t := timelines[i]
	if t.Dropped != nil && !needed(timelines, &t, 0) {
		return errs.New("maintain.load", errs.NotFound, p.timeline.String(), "the timeline was given up").
			WithRemedy("whoever maintains another timeline of the container clears it away")
	}
	p.bottom, p.first = t.Fork == nil, 1
	if t.Fork != nil {
		p.first = max(1, t.Fork.Seq)
		if p.fresh {
			p.base.Anchor.LastSeq = p.first - 1
		}
	}
	return nil
}

func (p *pass) setPolicy() {
	p.policy = PolicyOf(p.base)
	if p.opts.Policy != nil {
		p.policy = p.opts.Policy.full()
	}
	p.next.Policy = p.policy.stored()
	if !p.fresh && !samePolicy(p.next.Policy, p.base.Policy) {
		p.worked = true
	}
	if _, ok := store.AsLocker(p.c.Store()); ok && p.policy.Lock.Mode != "" {
		l := p.policy.Lock
		p.sealed = store.Lock{Mode: l.Mode, Until: p.began.wall.Add(l.Window).UTC().Truncate(time.Second)}
	}
}

// samePolicy reports whether two manifests were made under one policy.
func samePolicy(a, b journal.Policy) bool {
	same := slices.Equal(a.Schedule, b.Schedule)
	a.Schedule, b.Schedule = nil, nil
	return same && reflect.DeepEqual(a, b)
}

// oldestPart is the first part of the oldest run; zero when there is none.
func oldestPart(runs []journal.RunRef) dr.UUID {
	if n := len(runs); n > 0 && len(runs[n-1].Parts) > 0 {
		return runs[n-1].Parts[0].ID
	}
	return dr.UUID{}
}

// hold gathers who holds which checkpoint: pins, then branches. A branch that
// was dropped holds as long as one of its own does not.
func (p *pass) hold(pins []journal.PinInfo, timelines []journal.TimelineInfo) {
	for i := range pins {
		pin := &pins[i]
		if p.broken.ignorePins || !pin.Active(p.began.wall.Add(-pinSkew)) {
			continue
		}
		if pin.Damaged != "" {
			p.frozen = fmt.Sprintf("pin %s is damaged, so that nobody knows what it holds (%s): release it", pin.ID, pin.Damaged)
			continue
		}
		if pin.Timeline == p.timeline {
			p.holds = append(p.holds, Hold{Checkpoint: pin.Checkpoint, Reason: pinReason(pin.Kind), Name: pinName(pin)})
		}
	}
	p.next.Children = nil
	for _, t := range branches(timelines, p.timeline) {
		if p.broken.ignoreForks {
			continue
		}
		p.holds = append(p.holds, Hold{Checkpoint: t.Fork.ID, Reason: ByFork, Name: t.ID.String()})
		p.next.Children = append(p.next.Children, journal.Child{Timeline: t.ID, Checkpoint: t.Fork.ID, Seq: t.Fork.Seq})
	}
	slices.SortFunc(p.next.Children, func(a, b journal.Child) int {
		return slices.Compare(a.Timeline.UUID[:], b.Timeline.UUID[:])
	})
	if !p.fresh && !slices.Equal(p.next.Children, p.base.Children) {
		p.worked = true
	}
}

func pinReason(k journal.PinKind) Reason {
	switch k {
	case journal.PinTag:
		return ByTag
	case journal.PinRead:
		return ByRead
	case journal.PinHold:
		return ByHold
	}
	return ByHold
}

func pinName(p *journal.PinInfo) string {
	if p.Label != "" {
		return p.Label
	}
	return p.ID.String()
}

// branches are the timelines that left parent and are needed.
func branches(timelines []journal.TimelineInfo, parent dr.TimelineID) (out []journal.TimelineInfo) {
	for _, t := range timelines {
		if t.Fork != nil && t.Parent == parent && needed(timelines, &t, 0) {
			out = append(out, t)
		}
	}
	return out
}

// needed reports whether t is not dropped, or a branch of it is needed.
func needed(timelines []journal.TimelineInfo, t *journal.TimelineInfo, depth int) bool {
	if t.Dropped == nil {
		return true
	}
	if depth > len(timelines) {
		return true // branches of each other: somebody made them so, and nothing of it may go
	}
	for i := range timelines {
		if u := &timelines[i]; u.Fork != nil && u.Parent == t.ID && needed(timelines, u, depth+1) {
			return true
		}
	}
	return false
}

// resurrect takes back checkpoints that the last manifest dropped and somebody
// holds by now. Their versions are still in the index: a checkpoint leaves the
// points one manifest before it leaves the merges.
func (p *pass) resurrect(ctx context.Context) error {
	if p.broken.eager {
		return nil
	}
	var missing []Hold
	for _, h := range p.holds {
		if !slices.ContainsFunc(p.points, func(q journal.Point) bool { return q.ID >= h.Checkpoint }) {
			continue // behind the anchor
		}
		if _, ok := findPoint(p.points, h.Checkpoint); !ok {
			missing = append(missing, h)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	before, err := p.c.ReadManifestAt(ctx, p.timeline, p.base.Generation-1)
	if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Corrupt) || p.base.Generation == 1 {
		p.missing(missing)
		return nil
	} else if err != nil {
		return err
	}
	missing = slices.DeleteFunc(missing, func(h Hold) bool {
		i, ok := findPoint(before.Points, h.Checkpoint)
		if ok {
			at, there := findPoint(p.points, h.Checkpoint)
			if !there {
				p.points = slices.Insert(p.points, at, before.Points[i])
			}
			p.worked = true
		}
		return ok
	})
	p.missing(missing)
	return nil
}

// missing says what is held and not there. A branch without its fork is a
// fault that nothing may be deleted over; a pin without its checkpoint is one
// whose maker was told so, or died before.
func (p *pass) missing(holds []Hold) {
	for _, h := range holds {
		if h.Reason == ByFork {
			p.frozen = fmt.Sprintf("checkpoint #%d, where branch %s begins, is not in the history: run fsck", h.Checkpoint, h.Name)
			continue
		}
		p.report.alarm("the %s %q is of checkpoint #%d, which is not retained: release it", h.Reason, h.Name, h.Checkpoint)
	}
}

func findPoint(points []journal.Point, id dr.CheckpointID) (int, bool) {
	return slices.BinarySearchFunc(points, id, func(q journal.Point, id dr.CheckpointID) int { return compareIDs(q.ID, id) })
}
