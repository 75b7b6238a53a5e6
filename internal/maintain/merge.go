package maintain

import (
	"context"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/journal"
)

// class is the size class of a run: 0 up to tierLeast entries, and one more
// for each factor of tierRuns.
func class(entries uint64) int {
	c := 0
	for limit := uint64(tierLeast); entries > limit; limit *= tierRuns {
		c++
	}
	return c
}

// tier finds how many of the newest runs to merge into one: those up to some
// size class, when there are tierRuns of them; 0 for none. So there are never
// more than tierRuns runs of a class, and an entry is merged once in each
// class.
func tier(runs []journal.RunRef) int {
	n, most := 0, 0
	for n < len(runs) {
		c := max(most, class(runs[n].Entries))
		end := n
		for end < len(runs) && class(runs[end].Entries) <= c {
			end++
		}
		if end >= tierRuns {
			return end
		}
		n, most = end, c+1
	}
	return 0
}

// fullDue decides whether all runs are merged into one: when it would change
// anything, and it was asked for or the time has come.
func (p *pass) fullDue(victims int) bool {
	if len(p.next.Runs) == 0 {
		return false
	}
	if p.ask.full && (len(p.next.Runs) > 1 || p.mem.sizes == nil) {
		return true
	}
	if !p.thinned() && victims == 0 && !p.overLimit() {
		return false
	}
	if p.ask.full {
		return true
	}
	var above uint64
	for _, r := range p.next.Runs[:len(p.next.Runs)-1] {
		above += r.Entries
	}
	since := p.began.wall.Sub(p.mem.full)
	total := above + p.next.Runs[len(p.next.Runs)-1].Entries
	return since >= fullRest || since < 0 || since >= fullEvery && (above*fullShare >= total || p.overLimit())
}

// thinned reports whether the oldest run may hold versions that no retained
// checkpoint sees any more: a checkpoint it was made for is gone, or nobody
// knows what it was made for.
func (p *pass) thinned() bool {
	if p.mem.kept == nil || oldestPart(p.next.Runs) != p.mem.oldest {
		return true
	}
	now := p.retained()
	i := 0
	for _, s := range p.mem.kept {
		for i < len(now) && now[i] < s {
			i++
		}
		if i == len(now) || now[i] != s {
			return true
		}
	}
	return false
}

func (p *pass) overLimit() bool {
	return p.policy.SizeLimit > 0 && p.base.Stats.Live > p.policy.SizeLimit && p.policy.Limit == Shorten
}

// merge makes fewer and smaller runs.
func (p *pass) merge(ctx context.Context) error {
	for {
		n := tier(p.next.Runs)
		if n < 2 || n == len(p.next.Runs) && p.fullDue(0) {
			break
		}
		if err := p.mergeRuns(ctx, n); err != nil {
			return err
		}
	}
	victims := p.victims()
	if !p.fullDue(len(victims)) || p.frozen != "" {
		return nil
	}
	moved, err := p.move(ctx, victims)
	if err != nil {
		return err
	}
	return p.mergeAll(ctx, moved)
}

// rule is what is kept. Of the oldest run of a timeline without parent nothing
// lies below.
func (p *pass) rule(oldest bool) index.Rule {
	return index.Rule{Retained: p.retained(), Bottom: oldest && p.bottom}
}

// mergeRuns merges the n newest runs into one.
func (p *pass) mergeRuns(ctx context.Context, n int) error {
	cat := &index.Catalog{}
	runs := p.next.Runs[:n]
	p.reading("merging", runs)
	out := journal.RunRef{First: runs[n-1].First, Last: runs[0].Last}
	var sources []index.Source
	for i := range runs {
		sources = append(sources, p.source(ctx, cat, &runs[i]))
	}
	w := p.writer(ctx, cat, &out, nil)
	done, err := index.Merge(w, sources, p.rule(n == len(p.next.Runs)))
	if err == nil {
		err = w.Finish()
	}
	if err != nil {
		return errs.E("maintain.merge", errs.Internal, p.timeline.String(), err)
	}
	for i, tally := range done.Objects {
		if tally.DroppedBytes == 0 {
			continue
		}
		if at, ok := p.objectAt(cat.Objects()[i]); ok {
			p.next.Objects[at].Live = max(0, p.next.Objects[at].Live-int64(tally.DroppedBytes))
		}
	}
	p.report.Merged += n
	p.worked = true
	p.next.Runs = slices.Concat([]journal.RunRef{out}, p.next.Runs[n:])
	return nil
}

// mergeAll merges all runs into one by the exact rule, with frames where they
// were moved to, and counts every object's live bytes anew.
func (p *pass) mergeAll(ctx context.Context, moved *moves) error {
	cat := &index.Catalog{}
	runs := p.next.Runs
	n := len(runs)
	p.reading("merging", runs)
	out := journal.RunRef{First: runs[n-1].First, Last: runs[0].Last}
	var sources []index.Source
	for i := range runs {
		sources = append(sources, p.source(ctx, cat, &runs[i]))
	}
	s := newSizer(cat, p.points, p.next.Stats.LastRun)
	live, err := p.mergeInto(ctx, cat, sources, &out, moved, s)
	if err != nil {
		return errs.E("maintain.merge", errs.Internal, p.timeline.String(), err)
	}
	p.recount(cat, live, moved)
	p.mem.sizes = s.finish()
	p.mem.sizes.Made = p.began.wall.UTC()
	p.next.Counted = p.mem.sizes.stored()
	p.next.Runs = []journal.RunRef{out}
	p.report.Merged += n
	p.report.Full, p.worked = true, true
	p.shorten()
	return nil
}

// mergeInto merges sources into the parts of out and counts each object's live
// bytes, by its catalog number. Where frames were moved, what is merged goes
// through a second writer, which coding it costs twice.
func (p *pass) mergeInto(ctx context.Context, cat *index.Catalog, sources []index.Source, out *journal.RunRef, moved *moves, s *sizer) ([]int64, error) {
	if err := moved.adopt(cat); err != nil {
		return nil, err
	}
	var live []int64
	look := func(e *index.Entry) error {
		s.add(e)
		if e.Zero {
			return nil
		}
		if n := int(e.Object) + 1 - len(live); n > 0 {
			live = append(live, make([]int64, max(n, len(cat.Objects())-len(live)))...)
		}
		live[e.Object] += int64(e.Stored)
		return nil
	}
	final := p.writer(ctx, cat, out, look)
	dst := final
	if moved != nil {
		dst = index.NewWriter(cat, func(part index.Part) error {
			return eachEntry(cat, part.Bytes, func(e *index.Entry) error {
				moved.applyFrame(e)
				return final.Add(e)
			})
		}, index.WriterOptions{Entries: throughEntries})
	}
	rule := p.rule(true)
	rule.Disks = p.disks()
	_, err := index.Merge(dst, sources, rule)
	if err == nil {
		err = dst.Finish()
	}
	if err == nil {
		err = final.Finish()
	}
	return live, err
}

// disks are those the head or a retained checkpoint has; nil when records
// behind the newest checkpoint may have brought others.
func (p *pass) disks() map[dr.DiskID]bool {
	n := len(p.points)
	if n == 0 || p.points[n-1].Object != p.next.Anchor.Number && p.points[n-1].Seq <= p.next.Anchor.LastSeq {
		return nil
	}
	out := make(map[dr.DiskID]bool)
	for i := range p.points {
		for _, d := range p.points[i].Disks {
			out[d.ID] = true
		}
	}
	return out
}

// eachEntry calls f for a part's entries.
func eachEntry(cat *index.Catalog, part []byte, f func(*index.Entry) error) error {
	r, err := index.NewReader(cat, part)
	if err != nil {
		return err
	}
	return eachOf(r, f)
}

// recount sets the live bytes of all objects.
func (p *pass) recount(cat *index.Catalog, live []int64, moved *moves) {
	for i := range p.next.Objects {
		p.next.Objects[i].Live = 0
	}
	for n, id := range cat.Objects() {
		if n >= len(live) || live[n] == 0 {
			continue
		}
		at, ok := p.objectAt(id)
		if !ok {
			state := moved.state(id)
			p.next.Objects = slices.Insert(p.next.Objects, at, state) // few: what this pass has made
		}
		p.next.Objects[at].Live = live[n]
	}
}

// shorten gives up the oldest checkpoints of a history that is too large. Their
// versions leave with the next full merge.
func (p *pass) shorten() {
	limit := p.policy.SizeLimit
	if limit == 0 || p.policy.Limit == AlarmOnly || p.frozen != "" || p.mem.sizes == nil {
		return
	}
	points := make([]Point, len(p.points))
	for i := range p.points {
		points[i] = retention(&p.points[i])
	}
	now := p.next.Stats.LastRun
	decisions := Retained(points, now, Rules{Schedule: p.policy.Schedule, TagFor: p.policy.TagFor, Holds: p.holds})
	drop, fits := Shortened(points, decisions, p.mem.sizes, now, limit)
	if !fits {
		p.report.alarm("the history does not fit its limit of %d bytes: what may be given up is given up", limit)
	}
	p.next.Points = slices.DeleteFunc(p.next.Points, func(q journal.Point) bool {
		i, ok := findPoint(p.points, q.ID)
		if ok && drop[i] {
			p.dropped = append(p.dropped, q)
			p.report.Dropped++
		}
		return ok && drop[i]
	})
	if len(p.next.Points) > 0 {
		if reach := now.Sub(p.next.Points[0].Time); reach < p.policy.Schedule.Span() && slices.Contains(drop, true) {
			p.report.alarm("the size limit shortens the history to %v; the schedule promises %v", reach.Round(time.Minute), p.policy.Schedule.Span())
		}
	}
}
