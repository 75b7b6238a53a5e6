package maintain

import (
	"context"
	"slices"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// pass is one pass: from the newest manifest to the next.
type pass struct {
	*Maintainer
	ask    request
	dry    bool
	began  instant
	report *Report
	policy Policy

	infos   []journal.ManifestInfo // listed when the pass began, oldest first
	base    *journal.Manifest
	next    *journal.Manifest
	fresh   bool   // there is no manifest yet
	bottom  bool   // the timeline has no parent
	first   dr.Seq // where the oldest run begins
	worked  bool   // there is something to write a manifest for
	frozen  string // why nothing is thinned or deleted
	sealed  store.Lock
	points  []journal.Point // retained by base, and of what was flushed: what merges keep
	holds   []Hold
	dropped []journal.Point
	store   time.Time // newest modification time seen

	detector  Detector  // becomes the Maintainer's when the manifest is written
	suspectAt time.Time // newest suspect checkpoint; likewise

	stage           string // what reads runs now
	through, toRead int64  // entries of them
}

func newPass(m *Maintainer, ask request) *pass {
	return &pass{
		Maintainer: m, ask: ask, began: readClock(m.clock),
		report: &Report{Timeline: m.timeline}, detector: m.mem.detector, suspectAt: m.mem.suspect,
	}
}

// run makes the pass. The order is what makes a crash harmless: data, index,
// manifest, deletion.
func (p *pass) run(ctx context.Context) (*Report, error) {
	if err := p.load(ctx); err != nil {
		return nil, err
	}
	damage := p.flush(ctx)
	if damage != nil && !errs.Is(damage, errs.Corrupt) {
		return nil, damage
	}
	if damage != nil {
		p.frozen = damage.Error()
	}
	p.thin()
	if err := p.merge(ctx); errs.Is(err, errs.Corrupt) {
		// What was published is taken in all the same; nothing is given up.
		damage, p.frozen = err, err.Error()
		p.thin()
	} else if err != nil {
		return nil, err
	}
	p.bury()
	if p.broken.early {
		p.deleteEarly(ctx)
	}
	if err := p.extend(ctx); err != nil {
		return nil, err
	}
	if err := p.commit(ctx); err != nil {
		return nil, err
	}
	p.finish()
	if damage != nil {
		return p.report, damage
	}
	return p.report, nil
}

// commit writes the next manifest, if there is anything to write it for, and
// only behind it deletes what is due.
func (p *pass) commit(ctx context.Context) error {
	due := p.dueLater()
	switch {
	case p.worked || due && !p.broken.noBump:
		if err := p.write(ctx); err != nil {
			return err
		}
	case due: // a broken rule
		p.next = p.base
	default:
		return nil
	}
	return p.remove(ctx)
}

// plan does what does not write.
func (p *pass) plan(ctx context.Context) (*Plan, error) {
	if err := p.load(ctx); err != nil {
		return nil, err
	}
	if damage := p.flush(ctx); errs.Is(damage, errs.Corrupt) {
		p.frozen = damage.Error()
	} else if damage != nil {
		return nil, damage
	}
	p.thin()
	plan := &Plan{Drop: p.dropped, Keep: p.next.Points}
	for _, v := range p.victims() {
		plan.Victims++
		plan.Moved += v.Live
	}
	now := p.began.wall
	for _, t := range p.base.Tombstones {
		if now.Sub(t.Since) >= p.policy.Grace && p.frozen == "" {
			plan.Due = append(plan.Due, t.Key)
		}
	}
	p.finish()
	plan.Report = *p.report
	return plan, nil
}

// thin decides which checkpoints the next manifest retains.
func (p *pass) thin() {
	clock := Clock{Own: p.began.wall, Store: p.store, Last: p.base.Stats.LastRun, Accepted: p.ask.accepted}
	if p.ask.clear {
		for i := range p.points {
			if p.points[i].Suspect != "" {
				p.points[i].Suspect, p.worked = "", true
			}
		}
	}
	points := make([]Point, len(p.points))
	for i := range p.points {
		points[i] = retention(&p.points[i])
	}
	now, held := clock.Advance(points)
	p.next.Stats.LastRun = now
	p.report.Now = now
	if held != "" {
		p.report.pause("%s", held)
	}
	decisions := Retained(points, now, Rules{Schedule: p.policy.Schedule, TagFor: p.policy.TagFor, Holds: p.holds})
	p.next.Points, p.dropped = nil, nil
	for i, d := range decisions {
		q := p.points[i]
		q.Reasons = reasons(d, &p.policy, p.holds, q.ID)
		// What no manifest has shown yet stays for one: whoever pinned it while
		// it lay behind the manifest is found by the next pass, see resurrect.
		shown := q.Object <= p.base.Anchor.Number || p.broken.eager
		if !d.Keep() && p.frozen == "" && shown {
			p.dropped = append(p.dropped, q)
			continue
		}
		if len(q.Reasons) == 0 {
			q.Reasons = []journal.Reason{{Kind: journal.ByNewest}}
		}
		p.next.Points = append(p.next.Points, q)
	}
	if p.frozen != "" {
		p.report.pause("nothing is thinned or deleted: %s", p.frozen)
	}
	p.report.Dropped = len(p.dropped)
	if len(p.dropped) > 0 {
		p.worked = true
	}
}

// retention is what Retained needs of a point.
func retention(q *journal.Point) Point {
	ok, _ := q.Recoverable()
	return Point{
		ID: q.ID, Time: q.Time, Offered: ok && q.Scope == dr.Group,
		Lasting: q.Tag != "" || q.Kind != dr.CrashConsistent,
		Suspect: q.Suspect != "" && !strings.HasPrefix(q.Suspect, suspectGoesOn),
	}
}

// reasons are all that keep a checkpoint, the strongest first.
func reasons(d Decision, policy *Policy, holds []Hold, id dr.CheckpointID) []journal.Reason {
	var out []journal.Reason
	add := func(kind journal.ReasonKind, name string) {
		if len(name) > maxReasonName {
			name = name[:maxReasonName]
		}
		if r := (journal.Reason{Kind: kind, Name: name}); len(out) < maxPointReasons && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	switch d.Reason {
	case BySlot:
		add(journal.BySchedule, formatSpan(policy.Schedule[d.Tier].Every))
	case ByTag:
		add(journal.ByTag, d.Name)
	case BySafety:
		add(journal.ByHold, "around a suspect checkpoint")
	case ByNewest:
		add(journal.ByNewest, "")
	case ByRead, ByFork, ByHold, Dropped:
	}
	for _, h := range holds {
		if h.Checkpoint != id {
			continue
		}
		switch h.Reason {
		case ByRead:
			add(journal.ByRead, h.Name)
		case ByFork:
			add(journal.ByFork, h.Name)
		case ByTag:
			add(journal.ByTag, h.Name)
		case ByHold:
			add(journal.ByHold, h.Name)
		case Dropped, BySlot, BySafety, ByNewest:
		}
	}
	return out
}

// retained are the seqs a merge keeps versions for. A checkpoint holds what
// lies below its own seq.
func (p *pass) retained() []dr.Seq {
	points := p.points
	if p.broken.eager {
		points = p.next.Points
	}
	if p.broken.greedy && len(points) > 1 {
		points = points[1:]
	}
	out := make([]dr.Seq, 0, len(points))
	for i := range points {
		out = append(out, max(points[i].Seq, 1)-1)
	}
	return out
}

// bury finds what the next manifest refers to no more, and gives each a
// tombstone.
func (p *pass) bury() {
	now := p.began.wall.UTC()
	kept := p.next.Tombstones[:0]
	there := make(map[string]bool)
	for _, t := range p.next.Tombstones {
		if p.mem.deleted[t.Key] {
			p.worked = true
			continue
		}
		kept = append(kept, t)
		there[t.Key] = true
	}
	p.next.Tombstones = kept
	add := func(key string, bytes int64) {
		if !there[key] {
			there[key] = true
			p.next.Tombstones = append(p.next.Tombstones, journal.Tombstone{Key: key, Since: now, Bytes: bytes})
			p.worked = true
		}
	}
	used := make(map[dr.UUID]bool)
	for _, r := range p.next.Runs {
		for _, part := range r.Parts {
			used[part.ID] = true
		}
	}
	for _, r := range p.base.Runs {
		for _, part := range r.Parts {
			if !used[part.ID] {
				add(journal.PartName(part.ID), part.Size)
			}
		}
	}
	p.next.Objects = slices.DeleteFunc(p.next.Objects, func(o journal.ObjectState) bool {
		key := journal.ObjectName(o.ID)
		if o.Live > 0 {
			return false
		}
		if o.ID.Data.IsZero() && p.mem.deleted[key] {
			p.worked = true
			return true
		}
		add(key, o.Size)
		return !o.ID.Data.IsZero() // a journal object stays listed while it may be there
	})
}

// write makes the next manifest. From then on it is what counts.
func (p *pass) write(ctx context.Context) error {
	const op = "maintain.write"
	if took, ok := p.began.since(readClock(p.clock)); !ok || took > passLimit {
		return errs.New(op, errs.Conflict, p.timeline.String(), "the pass took too long, or a clock ran backwards: it begins anew")
	}
	p.next.Created = p.began.wall.UTC()
	p.next.By = p.opts.By
	p.count()
	if err := p.c.WriteManifest(ctx, p.next); err != nil {
		return err
	}
	p.report.Worked = true
	p.report.Generation = p.next.Generation
	clear(p.mem.deleted)
	p.mem.detector, p.mem.suspect = p.detector, p.suspectAt
	if p.report.Full {
		p.mem.full = p.began.wall
		p.mem.oldest, p.mem.kept = oldestPart(p.next.Runs), p.retained()
	}
	return nil
}

// count fills in the next manifest's figures.
func (p *pass) count() {
	s := &p.next.Stats
	s.Stored, s.Live, s.Reclaimable, s.Index, s.Entries = 0, 0, 0, 0, 0
	listed := make(map[string]bool, len(p.next.Objects))
	for _, o := range p.next.Objects {
		s.Stored += o.Size
		s.Live += o.Live
		listed[journal.ObjectName(o.ID)] = true
	}
	for _, r := range p.next.Runs {
		s.Entries += r.Entries
		for _, part := range r.Parts {
			s.Index += part.Size
		}
	}
	s.Stored += s.Index
	for _, t := range p.next.Tombstones {
		s.Reclaimable += t.Bytes
		if !listed[t.Key] {
			s.Stored += t.Bytes
		}
	}
	s.Written += p.report.Written
	took, _ := p.began.since(readClock(p.clock))
	s.Took = max(0, took)
	s.Paused = strings.Join(p.report.Paused, "; ")
	if len(s.Paused) > maxPausedText {
		s.Paused = strings.ToValidUTF8(s.Paused[:maxPausedText], "")
	}
}

// finish completes the report.
func (p *pass) finish() {
	if !p.report.Worked {
		p.report.Generation = p.base.Generation
	}
	m := p.next
	p.report.describe(m, &p.policy)
	p.report.Held = append(p.report.Held, heldBy(m, p.mem.sizes)...)
	p.report.Forecasts = p.mem.sizes
	if limit := p.policy.SizeLimit; limit > 0 && m.Stats.Live > limit {
		p.report.alarm("the history needs %d bytes, its limit is %d", m.Stats.Live, limit)
	}
	if p.report.Backlog > backlogAlarm {
		p.report.alarm("%d journal objects lie behind the newest manifest: maintenance does not keep up", p.report.Backlog)
	}
	if took, ok := p.began.since(readClock(p.clock)); ok {
		p.report.Took = took
	}
}

// objectAt finds the place of an object among the next manifest's.
func (p *pass) objectAt(id index.ObjectID) (int, bool) {
	return slices.BinarySearchFunc(p.next.Objects, id, func(o journal.ObjectState, id index.ObjectID) int {
		return o.ID.Compare(id)
	})
}
