package maintain

import (
	"cmp"
	"context"
	"slices"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
)

// victims are the objects whose live frames the next full merge moves: small
// journal objects that are old enough, objects less than half of which is
// live, and small data objects when there are many.
func (p *pass) victims() []journal.ObjectState {
	v := chooseVictims(p.next.Objects, p.began.wall, p.opts.PackAge, p.ask.full)
	var bytes int64
	for i := range v {
		if bytes += v[i].Live; bytes > packBytes {
			return v[:i]
		}
	}
	return v
}

// chooseVictims is the choice by itself; all makes even little worth moving.
func chooseVictims(objects []journal.ObjectState, now time.Time, packAge time.Duration, all bool) []journal.ObjectState {
	var garbage, small, crowd []journal.ObjectState
	var smallBytes int64
	oldest := time.Duration(0)
	for _, o := range objects {
		age := now.Sub(o.Created)
		isJournal := o.ID.Data.IsZero()
		switch {
		case o.Live == 0 || isJournal && age < packAge:
		case o.Live*2 < o.Size-objectOverhead && (o.Size >= packSize || all && !isJournal && o.Size >= repackLeast):
			garbage = append(garbage, o)
		case isJournal && o.Size < packSize:
			small = append(small, o)
			smallBytes += o.Live
			oldest = max(oldest, age)
		case !isJournal && o.Size < packSize:
			crowd = append(crowd, o)
		}
	}
	out := garbage
	if len(small) > 0 && (all || smallBytes >= packLeast || oldest >= packAge+packWait) {
		out = append(out, small...)
	}
	if len(crowd) >= packCrowd {
		out = append(out, crowd...)
	}
	slices.SortFunc(out, func(a, b journal.ObjectState) int {
		return cmp.Or(a.Created.Compare(b.Created), a.ID.Compare(b.ID))
	})
	return out
}

// moves is where frames were moved to. A nil moves moves nothing.
type moves struct {
	victims []index.ObjectID
	objects []journal.ObjectState // made
	to      map[frameID]frameID

	at      map[uint32]uint32 // catalog number of a victim to its place
	numbers []uint32          // catalog numbers of objects
}

// frameID is a frame by its object's place in a list.
type frameID struct{ object, frame uint32 }

// adopt numbers victims and new objects by a catalog.
func (m *moves) adopt(cat *index.Catalog) error {
	if m == nil {
		return nil
	}
	m.at, m.numbers = make(map[uint32]uint32), nil
	for i, id := range m.victims {
		n, err := cat.Object(id)
		if err != nil {
			return err
		}
		m.at[n] = uint32(i)
	}
	for i := range m.objects {
		n, err := cat.Object(m.objects[i].ID)
		if err != nil {
			return err
		}
		m.numbers = append(m.numbers, n)
	}
	return nil
}

// applyFrame makes an entry point to where its frame was moved, if it has one.
func (m *moves) applyFrame(e *index.Entry) {
	if m == nil || e.Zero {
		return
	}
	victim, ok := m.at[e.Object]
	if !ok {
		return
	}
	if to, ok := m.to[frameID{victim, e.Frame}]; ok {
		e.Object, e.Frame = m.numbers[to.object], to.frame
	}
}

// state describes an object that was made.
func (m *moves) state(id index.ObjectID) journal.ObjectState {
	if m != nil {
		for _, o := range m.objects {
			if o.ID == id {
				return o
			}
		}
	}
	return journal.ObjectState{ID: id} // Check refuses a manifest with it: a run refers to what nobody knows
}

// mover copies the live frames of victims into new data objects.
type mover struct {
	*pass
	states []journal.ObjectState // victims
	order  []frameID             // their live frames, in the order of the index
	out    *moves
	packer *segment.Packer
	failed map[uint32]bool // victims that are damaged
}

// move copies what the next full merge will keep of the victims. Memory: 48
// bytes a frame, batchBytes of victims and one object being made.
func (p *pass) move(ctx context.Context, victims []journal.ObjectState) (*moves, error) {
	if len(victims) == 0 {
		return nil, nil
	}
	m := &mover{pass: p, states: victims, out: &moves{to: make(map[frameID]frameID)}, failed: make(map[uint32]bool)}
	for i := range victims {
		m.out.victims = append(m.out.victims, victims[i].ID)
	}
	if err := m.find(ctx); err != nil {
		return nil, err
	}
	m.packer = p.c.NewPacker()
	var done, total int64
	for i := range victims {
		total += victims[i].Size
	}
	for from := 0; from < len(victims); {
		p.tell("packing", done, total, true)
		to, bytes := from, int64(0)
		for to < len(victims) && (to == from || bytes+victims[to].Size <= batchBytes) {
			bytes += victims[to].Size
			to++
		}
		if err := m.batch(ctx, from, to); err != nil {
			return nil, err
		}
		from, done = to, done+bytes
	}
	p.report.Packed += len(victims) - len(m.failed)
	return m.out, nil
}

// find lists the victims' frames that the merge will keep.
func (m *mover) find(ctx context.Context) error {
	p := m.pass
	p.reading("looking through", p.next.Runs)
	cat := &index.Catalog{}
	if err := m.out.adopt(cat); err != nil {
		return err
	}
	var sources []index.Source
	for i := range p.next.Runs {
		sources = append(sources, p.source(ctx, cat, &p.next.Runs[i]))
	}
	w := index.NewWriter(cat, func(part index.Part) error {
		return eachEntry(cat, part.Bytes, func(e *index.Entry) error {
			if e.Zero || len(m.order) == packFrames {
				return nil
			}
			if victim, ok := m.out.at[e.Object]; ok {
				m.order = append(m.order, frameID{victim, e.Frame})
			}
			return nil
		})
	}, index.WriterOptions{Entries: throughEntries})
	rule := p.rule(true)
	rule.Disks = p.disks()
	_, err := index.Merge(w, sources, rule)
	if err == nil {
		err = w.Finish()
	}
	if err != nil {
		return errs.E("maintain.move", errs.Internal, p.timeline.String(), err)
	}
	return nil
}

// loadedVictim is a victim in memory.
type loadedVictim struct {
	object *journal.Object
	body   []byte // header and frames, at least
}

// batch copies the frames of victims from..to.
func (m *mover) batch(ctx context.Context, from, to int) error {
	loaded := make(map[uint32]loadedVictim)
	for i := from; i < to; i++ {
		v, err := m.load(ctx, &m.states[i])
		if errs.Is(err, errs.Corrupt) || errs.Is(err, errs.NotFound) {
			m.failed[uint32(i)] = true
			m.report.alarm("object %s cannot be read and stays as it is: %v", m.states[i].ID, err)
			continue
		} else if err != nil {
			return err
		}
		loaded[uint32(i)] = v
	}
	return m.copyAll(ctx, loaded)
}

// copyAll copies the frames of those victims that are loaded, and stores what
// it made of them: the next batch begins at the first disk again.
func (m *mover) copyAll(ctx context.Context, loaded map[uint32]loadedVictim) error {
	for _, id := range m.order {
		v, ok := loaded[id.object]
		if !ok {
			continue
		}
		err := m.copy(ctx, id, v)
		if errs.Is(err, errs.Corrupt) {
			m.failed[id.object] = true
			m.report.alarm("a frame of object %s is damaged and stays as it is: %v", m.states[id.object].ID, err)
			continue
		} else if err != nil {
			return err
		}
	}
	if m.packer.Frames() > 0 {
		return m.finish(ctx)
	}
	return nil
}

func (m *mover) load(ctx context.Context, state *journal.ObjectState) (loadedVictim, error) {
	if state.Size < packSize {
		o, body, err := m.c.OpenWhole(ctx, state.ID, state.Size)
		return loadedVictim{o, body}, err
	}
	o, err := m.c.OpenSized(ctx, state.ID, state.Size)
	if err != nil {
		return loadedVictim{}, err
	}
	if err := o.Is(state.Print); err != nil {
		return loadedVictim{}, err
	}
	body := make([]byte, o.Footer.FramesEnd())
	return loadedVictim{o, body}, o.ReadAt(ctx, body, 0)
}

// copy adds one frame to the object being made.
func (m *mover) copy(ctx context.Context, id frameID, v loadedVictim) error {
	e, err := v.object.Entry(id.frame)
	if err != nil {
		return err
	}
	c := segment.CopyOf(&v.object.Header, v.object.Footer, e, v.body[e.Offset:][:e.Stored])
	place := uint32(m.packer.Frames())
	err = m.packer.Add(&c)
	if errs.Is(err, errs.Full) && place > 0 {
		if err = m.finish(ctx); err != nil {
			return err
		}
		place, err = 0, m.packer.Add(&c)
	}
	if err != nil {
		return err
	}
	m.out.to[id] = frameID{uint32(len(m.out.objects)), place}
	if m.packer.Size() >= packedSize {
		return m.finish(ctx)
	}
	return nil
}

// finish stores the object being made.
func (m *mover) finish(ctx context.Context) error {
	now := m.began.wall.UTC()
	id, size, err := m.c.FinishPacked(ctx, m.timeline, m.packer, now, journal.WriteOptions{Lock: m.sealed})
	if err != nil {
		return err
	}
	m.out.objects = append(m.out.objects, journal.ObjectState{ID: id, Size: size, Created: now, Retain: m.sealed.Until})
	m.report.Written += size
	return nil
}
