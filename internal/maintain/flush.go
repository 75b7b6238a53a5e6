package maintain

import (
	"context"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
)

// flusher gathers what journal objects behind the manifest say into a run.
type flusher struct {
	*pass
	cat    *index.Catalog
	sorter *index.Sorter
	at     journal.Anchor // behind what was gathered
	cell   Cell
	states []journal.ObjectState // of the objects that were taken, and of those they were gathered in
	small  []smallObject         // whose frames the run being made may refer to elsewhere
	held   int                   // bytes of small
}

// flush takes what was published behind the manifest into the index: footers
// become runs, checkpoints become points. Damage ends it, kind Corrupt; what
// came before is taken in.
func (p *pass) flush(ctx context.Context) error {
	f := &flusher{pass: p, at: p.next.Anchor}
	f.reset()
	more, err := p.c.Tail(ctx, p.timeline, p.next.Anchor, flushObjects, func(o journal.TailObject) error {
		if err := f.room(ctx, o.Footer); err != nil {
			return err
		}
		return f.take(&o)
	})
	p.report.Backlog = p.report.Flushed
	if err != nil && !errs.Is(err, errs.Corrupt) {
		return err
	}
	if werr := f.close(ctx); werr != nil {
		return werr
	}
	f.list()
	p.report.More = more
	return err
}

func (f *flusher) reset() {
	f.cat = &index.Catalog{}
	f.sorter = index.NewSorter(f.cat)
	f.small, f.held = nil, 0
}

// room closes the run when the footer's entries may not fit it any more.
func (f *flusher) room(ctx context.Context, footer *segment.Footer) error {
	if footer == nil || f.sorter.Room() >= len(footer.Entries)+3*len(footer.Zeros) {
		return nil
	}
	return f.close(ctx)
}

// take adds one object.
func (f *flusher) take(o *journal.TailObject) error {
	p := f.pass
	f.at = o.After
	p.store = later(p.store, o.Modified)
	p.report.Flushed++
	p.worked = true
	p.tell("taking in", int64(p.report.Flushed), 0, false)
	id := index.ObjectID{Timeline: p.timeline, Number: o.Number}
	state := journal.ObjectState{ID: id, Size: o.Size, Created: o.Created, Print: journal.FingerprintOf(o.Object)}
	if o.Footer != nil {
		live, err := f.entries(id, o.Footer)
		if err != nil {
			return err
		}
		state.Live = live
		p.report.Changed = p.report.Changed || len(o.Footer.Entries)+len(o.Footer.Zeros) > 0
		f.observe(o)
	}
	f.keepSmall(o)
	f.states = append(f.states, state)
	return nil
}

// list adds the objects that were taken in to the manifest's.
func (f *flusher) list() {
	byID := func(a, b journal.ObjectState) int { return a.ID.Compare(b.ID) }
	f.next.Objects = append(f.next.Objects, f.states...)
	slices.SortStableFunc(f.next.Objects, byID)
	f.next.Objects = slices.CompactFunc(f.next.Objects, func(a, b journal.ObjectState) bool { return a.ID == b.ID })
}

// entries adds what a footer says to the run, and returns the frames' bytes.
func (f *flusher) entries(id index.ObjectID, footer *segment.Footer) (live int64, err error) {
	object, err := f.cat.Object(id)
	if err != nil {
		return 0, err
	}
	disks := make([]uint16, len(footer.Disks))
	for i, d := range footer.Disks {
		if disks[i], err = f.cat.Disk(d); err != nil {
			return 0, err
		}
	}
	for i := range footer.Entries {
		e := &footer.Entries[i]
		if err := f.sorter.AddFrame(disks[e.Disk], e.Chunk, e.Mask, e.Seq, object, e.Counter, e.Stored); err != nil {
			return 0, err
		}
		live += int64(e.Stored)
	}
	for _, z := range footer.Zeros {
		if err := f.sorter.AddZeros(disks[z.Disk], z.First, z.Count, z.Seq); err != nil {
			return 0, err
		}
	}
	return live, nil
}

// suspectGoesOn begins the mark of a checkpoint whose episode began before it.
const suspectGoesOn = "as before: "

// observe counts what the object changed, and takes its checkpoint.
func (f *flusher) observe(o *journal.TailObject) {
	for _, s := range o.Footer.Stats {
		f.cell.Raw += s.Raw
		f.cell.Stored += s.Stored
		f.cell.Zeroed += s.Zeroed
	}
	cp := o.Footer.Checkpoint
	if cp == nil {
		return
	}
	q := journal.Point{Checkpoint: *cp, Object: o.Number, PublishedAt: o.Created}
	f.cell.To = cp.Time
	if n := len(f.points); n > 0 {
		f.cell.From = f.points[n-1].Time
		if before := &f.points[n-1]; cp.ID <= before.ID || cp.Seq < before.Seq || o.Number <= before.Object {
			f.report.alarm("checkpoint #%d of journal object %d does not come after #%d and is left out", cp.ID, o.Number, before.ID)
			return
		}
	} else {
		f.cell.From = cp.Time
	}
	if why := f.detector.Observe(f.cell); why != "" {
		q.Suspect = f.suspect(cp, why)
	}
	f.cell = Cell{}
	f.points = append(f.points, q)
}

// suspect notes a suspect checkpoint: the first of an episode stops thinning.
func (f *flusher) suspect(cp *dr.Checkpoint, why string) string {
	goesOn := !f.suspectAt.IsZero() && cp.Time.Sub(f.suspectAt).Abs() < suspectBefore
	f.suspectAt = cp.Time
	if goesOn {
		return suspectGoesOn + why
	}
	f.report.alarm("checkpoint #%d is suspect: %s; thinning is paused around it until the mark is cleared", cp.ID, why)
	return why
}

// close writes what was gathered as the newest run.
func (f *flusher) close(ctx context.Context) error {
	p := f.pass
	from := p.first
	if len(p.next.Runs) > 0 {
		from = p.next.Runs[0].Last + 1
	}
	before := p.next.Anchor
	p.next.Anchor = f.at
	switch {
	case f.at.LastSeq == before.LastSeq:
		return nil // fences and heartbeats hold no record
	case f.sorter.Len() == 0 && len(p.next.Runs) > 0:
		p.next.Runs[0].Last = f.at.LastSeq
		return nil
	case f.sorter.Len() == 0 || f.dry:
		f.reset()
		return nil
	}
	run := journal.RunRef{First: from, Last: f.at.LastSeq}
	moved, err := f.gather(ctx)
	if err != nil {
		return err
	}
	w := f.writer(ctx, f.cat, &run, nil)
	if err := copyRun(w, f.sorter.Source(), moved); err != nil {
		return err
	}
	p.next.Runs = slices.Insert(p.next.Runs, 0, run)
	f.reset()
	return nil
}

// copyRun writes a whole run, with frames where they were moved to.
func copyRun(w *index.Writer, src index.Source, moved *moves) error {
	err := eachOf(src, func(e *index.Entry) error {
		moved.applyFrame(e)
		return w.Add(e)
	})
	if err != nil {
		return err
	}
	return w.Finish()
}

// writer returns a Writer whose parts are stored as those of run. look, if not
// nil, sees every entry of them.
func (p *pass) writer(ctx context.Context, cat *index.Catalog, run *journal.RunRef, look func(*index.Entry) error) *index.Writer {
	return index.NewWriter(cat, func(part index.Part) error {
		if look != nil {
			if err := eachEntry(cat, part.Bytes, look); err != nil {
				return err
			}
		}
		ref, err := p.c.WriteRunPart(ctx, p.timeline, part.Bytes, journal.WriteOptions{})
		if err != nil {
			return err
		}
		ref.Entries = uint64(part.Entries)
		ref.First, ref.Last = part.First, part.Last
		run.Parts = append(run.Parts, ref)
		run.Entries += ref.Entries
		p.report.Written += ref.Size
		return ctx.Err()
	}, index.WriterOptions{})
}

// source reads a run part by part.
func (p *pass) source(ctx context.Context, cat *index.Catalog, run *journal.RunRef) index.Source {
	return index.NewRun(cat, len(run.Parts), func(i int) ([]byte, error) {
		if i > 0 {
			p.through += int64(run.Parts[i-1].Entries)
			p.tell(p.stage, p.through, p.toRead, false)
		}
		return p.c.OpenRunPart(ctx, run.Parts[i])
	})
}

// age is the lesser of an object's ages: by our clock since it says it was
// made, by the store's since the store has it.
func age(now, made, storeNow, modified time.Time) time.Duration {
	return min(now.Sub(made), storeNow.Sub(modified))
}
