package maintain

import (
	"context"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// smallObject is a journal object whose bytes are at hand.
type smallObject struct {
	state int // its place among the flusher's states
	o     *journal.Object
	body  []byte
}

// gathering says when small journal objects are gathered as they come.
type gathering struct {
	least int           // so many of them
	every time.Duration // in no more than this time each
}

// keepSmall notes an object that came whole. Those beyond gatherBytes are
// packed later.
func (f *flusher) keepSmall(o *journal.TailObject) {
	if o.Body == nil || f.held+len(o.Body) > gatherBytes {
		return
	}
	f.small = append(f.small, smallObject{len(f.states), o.Small, o.Body})
	f.held += len(o.Body)
}

// gather copies the frames of many small objects, which came one soon after
// the other, into data objects, and returns where they are now; nil when it is
// not worth it. Nothing refers to what it made but the run being written.
func (f *flusher) gather(ctx context.Context) (*moves, error) {
	if ok, err := f.worthGathering(ctx); !ok {
		return nil, err
	}
	m := &mover{pass: f.pass, out: &moves{to: make(map[frameID]frameID)}, failed: make(map[uint32]bool), packer: f.pass.c.NewPacker()}
	loaded := make(map[uint32]loadedVictim, len(f.small))
	for i, s := range f.small {
		m.states = append(m.states, f.states[s.state])
		m.out.victims = append(m.out.victims, s.o.Ref)
		loaded[uint32(i)] = loadedVictim{s.o, s.body[:s.o.Footer.FramesEnd()]}
	}
	if err := m.out.adopt(f.cat); err != nil {
		return nil, err
	}
	stored := make(map[frameID]int64)
	err := eachOf(f.sorter.Source(), func(e *index.Entry) error {
		if victim, ok := m.out.at[e.Object]; ok && !e.Zero {
			id := frameID{victim, e.Frame}
			m.order = append(m.order, id)
			stored[id] = int64(e.Stored)
		}
		return nil
	})
	if err == nil {
		err = m.copyAll(ctx, loaded)
	}
	if err != nil {
		return nil, err
	}
	for from, to := range m.out.to { // what was live there is live here
		f.states[f.small[from.object].state].Live -= stored[from]
		m.out.objects[to.object].Live += stored[from]
	}
	f.states = append(f.states, m.out.objects...)
	f.report.Packed += len(f.small) - len(m.failed)
	return m.out, m.out.adopt(f.cat)
}

// worthGathering decides by number and density, and refuses where what would
// be made is held against deletion for a shorter time than what there is.
func (f *flusher) worthGathering(ctx context.Context) (bool, error) {
	n := len(f.small)
	if n < f.gathers.least || f.frozen != "" {
		return false, nil
	}
	newest := f.small[n-1].o
	if newest.Header.Created.Sub(f.small[0].o.Header.Created) > time.Duration(n)*f.gathers.every {
		return false, nil
	}
	locker, ok := store.AsLocker(f.pass.c.Store())
	if !ok {
		return true, nil
	}
	lock, err := locker.ReadLock(ctx, newest.Key)
	switch {
	case errs.Is(err, errs.NotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	return lock.IsZero() || !lock.Until.After(f.sealed.Until), nil
}
