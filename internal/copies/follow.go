package copies

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/segment"
)

// passed takes a journal object for one that the copy has.
func (l *line) passed(t *journal.TailObject) {
	l.at, l.started = t.After, true
	if c := pointOf(t); c != nil {
		l.newest = c.Time
	}
}

// took takes a manifest for one that the copy has.
func (l *line) took(man *journal.Manifest) {
	if man.Anchor.Number > l.at.Number || !l.started {
		l.at = man.Anchor
	}
	l.started, l.gen, l.anchor = true, man.Generation, man.Anchor
	l.points = make(map[dr.CheckpointID]bool, len(man.Points))
	for i := range man.Points {
		p := &man.Points[i].Checkpoint
		l.points[p.ID] = true
		if ok, _ := p.Recoverable(); ok && p.Scope == dr.Group && p.Time.After(l.newest) {
			l.newest = p.Time
		}
	}
}

// pointOf is the recovery point that an object carries, or nil.
func pointOf(t *journal.TailObject) *dr.Checkpoint {
	if t.Footer == nil || t.Footer.Checkpoint == nil || t.Footer.Checkpoint.Scope != dr.Group {
		return nil
	}
	if ok, _ := t.Footer.Checkpoint.Recoverable(); !ok {
		return nil
	}
	return t.Footer.Checkpoint
}

// follow brings one timeline nearer to the source's.
func (m *Copier) follow(ctx context.Context, l *line) (more bool, err error) {
	if l.foreign || l.idle {
		return false, nil
	}
	if m.broken.domainFirst && !m.work.whole {
		if err := m.copy(ctx, journal.DomainName); err != nil {
			return false, err
		}
	}
	if !l.started {
		if err := m.claims(ctx, l); err != nil || l.foreign {
			return false, err
		}
		more, err = m.manifest(ctx, l)
		if err != nil || more || !l.started {
			return more, err
		}
	}
	if err := m.copy(ctx, journal.HeadName(l.ID)); err != nil {
		return false, err
	}
	if more, err = m.tail(ctx, l); err != nil || more || l.foreign {
		return more, err
	}
	return m.manifest(ctx, l)
}

// tail brings over what lies behind the place where the copy's chain ends.
func (m *Copier) tail(ctx context.Context, l *line) (more bool, err error) {
	var ahead []journal.TailObject
	more, err = m.src.Tail(ctx, l.ID, l.at, tailAhead, func(t journal.TailObject) error {
		t.Small, t.Body = nil, nil // read again: what was kept of it is unverified
		ahead = append(ahead, t)
		return nil
	})
	if l.gone = false; len(ahead) == 0 {
		if errs.Is(err, errs.Corrupt) {
			// Freed at the source while the copy was away; or damaged there.
			l.gone = true
			return false, nil
		}
		return false, err
	}
	l.source = later(l.source, newestOf(ahead))
	m.tellBehind(l, ahead)
	for len(ahead) > 0 {
		n := together(ahead)
		if m.broken.backwards {
			n = len(ahead)
		}
		if err := m.group(ctx, l, ahead[:n]); err != nil || l.foreign {
			return false, err
		}
		ahead = ahead[n:]
		m.tellBehind(l, ahead)
	}
	return more, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// newestOf is the time of the newest recovery point among objects; zero: none.
func newestOf(objects []journal.TailObject) (t time.Time) {
	for i := range objects {
		if c := pointOf(&objects[i]); c != nil {
			t = c.Time
		}
	}
	return t
}

// together is how many objects go at once: those that a publisher might have under
// way beyond the first of them, within bounds, and a fence alone, since what follows
// it needs its claim.
func together(objects []journal.TailObject) int {
	n, bytes := 0, int64(0)
	for i := range objects {
		t := &objects[i]
		if bytes += t.Size; n > 0 && (t.Number >= objects[0].Number+journal.Window || bytes > groupBytes || t.After.Epoch != objects[0].After.Epoch) {
			break
		}
		n++
	}
	return n
}

// group copies some journal objects, and before them what they rest on.
func (m *Copier) group(ctx context.Context, l *line, objects []journal.TailObject) error {
	if objects[0].After.Epoch > l.claimed {
		if err := m.keys(ctx); err != nil {
			return err
		}
		if err := m.claims(ctx, l); err != nil || l.foreign {
			return err
		}
	}
	if err := m.configs(ctx); err != nil {
		return err
	}
	if err := m.look(ctx); err != nil || l.foreign {
		return err
	}
	landed := make([]bool, len(objects))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(journal.Window)
	if m.broken.backwards {
		g.SetLimit(1)
	}
	for i := range objects {
		if m.broken.backwards {
			i = len(objects) - 1 - i
		}
		g.Go(func() error {
			key := journal.ObjectName(objectID(l, &objects[i]))
			body, err := m.sized(gctx, m.from, key, objects[i].Size)
			if err == nil {
				err = m.put(gctx, key, body)
			}
			landed[i] = err == nil
			if err == nil {
				m.copied(int64(len(body)))
			}
			return err
		})
	}
	err := g.Wait()
	for i := 0; i < len(objects) && landed[i]; i++ {
		l.passed(&objects[i])
		m.work.have[journal.ObjectName(objectID(l, &objects[i]))] = true
	}
	if errors.Is(err, errForeign) && l.Test {
		l.foreign = true
		return nil
	}
	return m.foreign(journal.JournalPrefix(l.ID), err)
}

// manifest brings the newest manifest over, after what it names; more is true when it
// is on the way.
func (m *Copier) manifest(ctx context.Context, l *line) (more bool, err error) {
	if now := time.Now(); l.started && !l.gone && now.Sub(l.looked) < m.side && !now.Before(l.looked) {
		return false, nil
	}
	infos, err := m.src.ListManifests(ctx, l.ID)
	if n := len(infos); err != nil || !l.gone && l.started && (n == 0 || infos[n-1].Generation <= l.gen) {
		l.looked = time.Now()
		return false, err
	}
	man, ok, err := m.src.ReadManifest(ctx, l.ID)
	if err != nil {
		return false, err
	}
	switch {
	case !ok && l.gone:
		return false, m.damaged(l)
	case !ok:
		l.started = true // its chain is whole
		return false, nil
	case l.gone && man.Anchor.Number < l.at.Next:
		return false, m.damaged(l)
	case man.Generation <= l.gen && l.started:
		return false, nil
	case l.started && man.Anchor.Number > l.at.Number && !l.gone:
		return false, nil // the chain first: it comes there with the next pass
	}
	if err := m.keys(ctx); err != nil {
		return false, err
	}
	if err := m.claims(ctx, l); err != nil || l.foreign {
		return false, err
	}
	if err := m.configs(ctx); err != nil {
		return false, err
	}
	jumps := l.started && man.Anchor.Number > l.at.Number
	if jumps && m.work.whole && !m.broken.noPlug {
		if err := m.plug(ctx, l); err != nil {
			return false, err
		}
	}
	if m.broken.manifestFirst {
		if err := m.copy(ctx, journal.ManifestName(l.ID, man.Generation)); err != nil {
			return false, err
		}
	}
	missing, behind := m.missing(man)
	m.setBehind(behind)
	begun := time.Now()
	done, err := m.copyAll(ctx, missing, func() bool { return l.started && !jumps && time.Since(begun) >= slice })
	if errors.Is(err, errGone) {
		return m.superseded(ctx, l, man, err)
	} else if err != nil || !done {
		return true, err
	}
	return m.manifestItself(ctx, l, man)
}

// damaged is what is wrong when the source's chain breaks off and no manifest steps
// over it.
func (m *Copier) damaged(l *line) error {
	return errs.New("copies.tail", errs.Corrupt, journal.ObjectName(objectID(l, &journal.TailObject{Number: l.at.Next})), "the first store's history is damaged here, and the copy ends before it").
		WithRemedy("run fsck on the first store")
}

// manifestItself copies a manifest whose objects are there, if it still is the newest
// and the copy's readers can do with it.
func (m *Copier) manifestItself(ctx context.Context, l *line, man *journal.Manifest) (more bool, err error) {
	if more, err := m.superseded(ctx, l, man, nil); err != nil || more {
		return more, err
	}
	if err := m.lookAside(ctx); err != nil || l.foreign {
		return false, err
	}
	if l.blocked = m.forgets(l, man); l.blocked != "" {
		l.looked = time.Now()
		return false, nil
	}
	err = m.copy(ctx, journal.ManifestName(l.ID, man.Generation))
	if errors.Is(err, errGone) {
		return m.superseded(ctx, l, man, err)
	} else if err != nil {
		return false, err
	}
	l.took(man)
	l.looked = time.Now()
	l.source = later(l.source, l.newest)
	m.log.Debug("a manifest was copied", "timeline", l.ID.String(), "generation", man.Generation)
	return false, nil
}

// superseded reports whether the source has a newer manifest meanwhile: what man names
// may be gone then. With gone, and man still the newest, the source is damaged.
func (m *Copier) superseded(ctx context.Context, l *line, man *journal.Manifest, gone error) (bool, error) {
	newest, ok, err := m.src.ReadManifest(ctx, l.ID)
	switch {
	case err != nil:
		return false, err
	case ok && newest.Generation > man.Generation:
		return true, nil
	case gone != nil:
		return false, errs.E("copies.manifest", errs.Corrupt, journal.ManifestName(l.ID, man.Generation), fmt.Errorf("the first store lacks what its newest manifest names: %w", gone)).
			WithRemedy("run fsck on the first store")
	}
	return false, nil
}

// missing are the names that a manifest's readers read and the copy has not: data
// before index.
func (m *Copier) missing(man *journal.Manifest) (out []string, b Behind) {
	lacks := func(key string, size int64) {
		if !m.work.have[key] {
			out = append(out, key)
			b.Objects, b.Bytes = b.Objects+1, b.Bytes+size
		}
	}
	for i := range man.Objects {
		if o := &man.Objects[i]; o.Live > 0 {
			lacks(journal.ObjectName(o.ID), o.Size)
		}
	}
	for _, r := range man.Runs {
		for _, p := range r.Parts {
			lacks(journal.PartName(p.ID), p.Size)
		}
	}
	return out, b
}

// forgets says which checkpoint held in the copy a manifest has not, though the copy
// has it; "": none.
func (m *Copier) forgets(l *line, man *journal.Manifest) string {
	if m.broken.blind {
		return ""
	}
	has := make(map[dr.CheckpointID]bool, len(man.Points))
	newest := dr.CheckpointID(0)
	for i := range man.Points {
		has[man.Points[i].ID] = true
		newest = max(newest, man.Points[i].ID)
	}
	for _, h := range m.work.holds {
		if h.timeline == l.ID && !has[h.checkpoint] && h.checkpoint <= newest && l.points[h.checkpoint] {
			return fmt.Sprintf("%s in the copy holds checkpoint #%d, which the first store has no more", h.who, h.checkpoint)
		}
	}
	return ""
}

// plug takes the first missing number of the copy's chain, so that nobody can fence
// there while the chain is stepped over. It is the timeline's head under a wrong name:
// no journal object, and the same whoever makes it.
func (m *Copier) plug(ctx context.Context, l *line) error {
	body, err := m.whole(ctx, m.from, journal.HeadName(l.ID))
	if err != nil {
		return err
	}
	key := journal.ObjectName(objectID(l, &journal.TailObject{Number: l.at.Next}))
	err = m.to.Create(ctx, key, body)
	if !errs.Is(err, errs.Exists) {
		return err
	}
	there, err := m.whole(ctx, m.to, key)
	if h, perr := segment.ParseHeader(there); perr == nil && h.Kind == segment.Blob {
		return nil // ours, from before
	}
	if err != nil && !errs.Is(err, errs.Corrupt) {
		return err
	}
	return m.stop(key, "the copy's history goes on otherwise than the first store's")
}

func objectID(l *line, t *journal.TailObject) index.ObjectID {
	return index.ObjectID{Timeline: l.ID, Number: t.Number}
}
