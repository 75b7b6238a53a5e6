package maintain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// evidence is what was looked at again after this pass's manifest was written,
// and what it says about deletion.
type evidence struct {
	now     time.Time // own clock
	store   time.Time // the store's: when it got this pass's manifest
	old     *journal.Manifest
	oldest  uint64                 // generation from which on manifests are needed
	needed  map[string]bool        // keys some manifest refers to
	listed  map[string]store.Info  // journal objects of the timeline
	newest  map[string]bool        // of them those that are never deleted
	states  map[string]time.Time   // of journal objects: when they say they were made
	pins    []journal.PinInfo      // to be tidied up
	others  []journal.TimelineInfo // all timelines
	infos   []journal.ManifestInfo // of this timeline, oldest first
	known   map[string]bool        // keys with a tombstone
	refused error                  // the store refused a deletion: nothing more is tried
}

// dueLater reports whether something will be due for deletion once a manifest
// is written, by what is known before.
func (p *pass) dueLater() bool {
	if p.frozen != "" || p.fresh {
		return false
	}
	now := p.began.wall
	if p.ask.sweep || now.Sub(p.mem.swept) >= sweepEvery || now.Before(p.mem.swept) {
		return true
	}
	if now.Sub(p.mem.removed) < removeEvery && now.After(p.mem.removed) && !p.ask.full {
		return false
	}
	for _, t := range p.next.Tombstones {
		if now.Sub(t.Since) >= p.policy.Grace && p.worthTrying(t.Key) {
			return true
		}
	}
	return false
}

// worthTrying leaves out the journal objects that are kept for being the
// newest or too young: an idle timeline writes no manifests for their sake.
func (p *pass) worthTrying(key string) bool {
	id, ok := journal.ParseObjectName(key)
	if !ok || !id.Data.IsZero() {
		return true
	}
	i, listed := p.objectAt(id)
	return id.Number+keepNewest < p.next.Anchor.Next && (!listed || p.began.wall.Sub(p.next.Objects[i].Created) >= journalAge)
}

// remove deletes what is due. It runs after this pass's manifest was written,
// and looks at everything again: other maintainers, branches and pins may have
// come meanwhile.
func (p *pass) remove(ctx context.Context) error {
	if p.frozen != "" || !p.dueLater() && !p.broken.noGrace {
		return nil
	}
	e := &evidence{now: p.began.wall, needed: make(map[string]bool), known: make(map[string]bool)}
	sweep := p.ask.sweep || p.began.wall.Sub(p.mem.swept) >= sweepEvery
	if err := p.gather(ctx, e, sweep); err != nil {
		return err
	}
	if e.old != nil || p.broken.noGrace {
		if err := p.deleteDue(ctx, e); err != nil {
			return err
		}
	}
	if err := p.deleteManifests(ctx, e); err != nil {
		return err
	}
	if sweep {
		if err := p.sweep(ctx, e); err != nil {
			return err
		}
		if e.refused == nil {
			p.mem.swept = p.began.wall
		}
	}
	p.mem.removed = p.began.wall
	if e.refused != nil {
		p.report.alarm("the store refuses to delete: %v", e.refused)
	}
	return nil
}

// gather looks at everything that may still need something. What a manifest
// refers to counts unless that manifest is older than the grace and not the
// newest of those.
func (p *pass) gather(ctx context.Context, e *evidence, sweep bool) error {
	var err error
	if e.infos, err = p.c.ListManifests(ctx, p.timeline); err != nil {
		return err
	}
	last := len(e.infos) - 1
	if last < 0 || e.infos[last].Generation != p.next.Generation {
		return errs.New("maintain.remove", errs.Conflict, p.timeline.String(), "another maintainer has gone on meanwhile")
	}
	e.store = e.infos[last].Modified
	if p.broken.noBump {
		e.store = e.now
	}
	for i := last; i >= 0; i-- {
		m, err := p.manifest(ctx, e.infos[i])
		if err != nil {
			return err
		}
		if m == nil {
			continue // damaged: what it alone refers to is lost with it
		}
		refer(e.needed, m)
		if p.broken.noGrace {
			break
		}
		if age(e.now, m.Created, e.store, e.infos[i].Modified) >= p.policy.Grace {
			e.old, e.oldest = m, m.Generation
			break
		}
	}
	for _, t := range p.next.Tombstones {
		e.known[t.Key] = true
	}
	if e.others, err = p.c.Timelines(ctx); err != nil {
		return err
	}
	if e.pins, err = p.c.Pins(ctx); err != nil {
		return err
	}
	for _, t := range e.others {
		if t.ID == p.timeline {
			continue
		}
		if err := p.others(ctx, e, t.ID, sweep); err != nil {
			return err
		}
	}
	return p.listJournal(ctx, e)
}

// manifest reads a manifest again, or takes this pass's own.
func (p *pass) manifest(ctx context.Context, in journal.ManifestInfo) (*journal.Manifest, error) {
	if in.Generation == p.next.Generation {
		return p.next, nil
	}
	if in.Generation == p.base.Generation {
		return p.base, nil
	}
	m, err := p.c.ReadManifestAt(ctx, p.timeline, in.Generation)
	if errs.Is(err, errs.Corrupt) || errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	return m, err
}

// others counts what the manifests of another timeline refer to: the newest,
// and with all every one there is.
func (p *pass) others(ctx context.Context, e *evidence, t dr.TimelineID, all bool) error {
	infos, err := p.c.ListManifests(ctx, t)
	if err != nil {
		return err
	}
	for i := len(infos) - 1; i >= 0; i-- {
		m, err := p.c.ReadManifestAt(ctx, t, infos[i].Generation)
		switch {
		case errs.Is(err, errs.Corrupt) || errs.Is(err, errs.NotFound):
			continue
		case err != nil:
			return err
		}
		refer(e.needed, m)
		if all {
			for _, tomb := range m.Tombstones {
				e.known[tomb.Key] = true
			}
			continue
		}
		break
	}
	return nil
}

// refer notes what a manifest's readers read.
func refer(needed map[string]bool, m *journal.Manifest) {
	for _, o := range m.Objects {
		if o.Live > 0 {
			needed[journal.ObjectName(o.ID)] = true
		}
	}
	for _, r := range m.Runs {
		for _, part := range r.Parts {
			needed[journal.PartName(part.ID)] = true
		}
	}
}

// listJournal lists the timeline's journal objects and finds the newest, which
// are never deleted.
func (p *pass) listJournal(ctx context.Context, e *evidence) error {
	e.listed, e.newest, e.states = make(map[string]store.Info), make(map[string]bool), make(map[string]time.Time)
	var keys []string
	err := store.Walk(ctx, p.c.Store(), journal.JournalPrefix(p.timeline), func(in store.Info) error {
		e.listed[in.Key] = in
		keys = append(keys, in.Key)
		if len(keys) > maxListed {
			return errs.New("maintain.remove", errs.Full, p.timeline.String(), "the timeline has too many journal objects to look through")
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range keys[max(0, len(keys)-keepNewest):] {
		e.newest[key] = true
	}
	for _, o := range p.next.Objects {
		e.states[journal.ObjectName(o.ID)] = o.Created
	}
	return nil
}

// deleteDue deletes what had a tombstone in a manifest older than the grace.
func (p *pass) deleteDue(ctx context.Context, e *evidence) error {
	was := make(map[string]bool)
	if e.old != nil {
		for _, t := range e.old.Tombstones {
			was[t.Key] = true
		}
	}
	for i, t := range p.next.Tombstones {
		if e.refused != nil {
			return nil
		}
		p.tell("deleting", int64(i), int64(len(p.next.Tombstones)), false)
		if !p.broken.noGrace && (!was[t.Key] || e.now.Sub(t.Since) < p.policy.Grace) || e.needed[t.Key] {
			continue
		}
		if id, ok := journal.ParseObjectName(t.Key); ok && id.Data.IsZero() && !p.mayDeleteJournal(e, id, t.Key) {
			continue
		}
		if err := p.delete(ctx, e, t.Key, t.Bytes); err != nil {
			return err
		}
	}
	return nil
}

// mayDeleteJournal applies what holds for journal objects alone: contained in
// the manifest, not among the newest, and old enough by every clock.
func (p *pass) mayDeleteJournal(e *evidence, id index.ObjectID, key string) bool {
	if id.Timeline != p.timeline || id.Number > p.next.Anchor.Number {
		return false
	}
	if p.broken.keepFew {
		return true
	}
	in, there := e.listed[key]
	if !there {
		return true // gone already: deleting it again tells so
	}
	made, ok := e.states[key]
	if !ok {
		made = in.Modified
	}
	next := p.next.Anchor.Next
	return !e.newest[key] && id.Number+keepNewest < next && age(e.now, made, e.store, in.Modified) >= journalAge
}

// delete deletes one object unless a lock holds it. What the store refuses is
// noted, and ends deletion in this pass.
func (p *pass) delete(ctx context.Context, e *evidence, key string, bytes int64) error {
	if locker, ok := store.AsLocker(p.c.Store()); ok {
		lock, err := locker.ReadLock(ctx, key)
		switch {
		case errs.Is(err, errs.NotFound):
			p.mem.deleted[key] = true
			return nil
		case err != nil:
			return err
		case lock.Until.After(e.now.Add(-pinSkew)) || lock.Until.After(e.store):
			if len(p.report.Held) < maxHeld {
				p.report.Held = append(p.report.Held, Held{Reason: "lock", Name: key, Bytes: bytes, Until: lock.Until})
			}
			return nil
		}
	}
	err := p.c.Store().Delete(ctx, key)
	switch {
	case errs.Is(err, errs.Denied):
		e.refused = err
		return nil
	case err != nil && !errs.Is(err, errs.NotFound):
		return err
	}
	p.mem.deleted[key] = true
	p.report.Deleted++
	p.report.Freed += bytes
	return nil
}

// deleteManifests deletes, oldest first, the manifests before the newest that
// is older than the grace, but never one of the keepManifests newest: a zombie
// that knows no newer one finds every name from there on taken.
func (p *pass) deleteManifests(ctx context.Context, e *evidence) error {
	for i, in := range e.infos {
		if e.refused != nil || in.Generation >= e.oldest || i >= len(e.infos)-keepManifests {
			return nil
		}
		if err := p.delete(ctx, e, in.Key, in.Size); err != nil {
			return err
		}
	}
	return nil
}

// deleteEarly is a broken rule for the tests: deletion before the manifest.
func (p *pass) deleteEarly(ctx context.Context) {
	for _, t := range p.next.Tombstones {
		if id, ok := journal.ParseObjectName(t.Key); !ok || !id.Data.IsZero() {
			_ = p.c.Store().Delete(ctx, t.Key) // a broken rule handles no errors
		}
	}
}

var errStop = errors.New("enough")

// sweep deletes what no manifest of any timeline knows: what crashes and lost
// races left, and everything of timelines that were given up.
func (p *pass) sweep(ctx context.Context, e *evidence) error {
	for _, prefix := range []string{journal.DataPrefix, journal.PartPrefix} {
		if err := p.sweepPrefix(ctx, e, prefix); err != nil {
			return err
		}
	}
	if err := p.sweepJournal(ctx, e); err != nil {
		return err
	}
	if err := p.sweepPins(ctx, e); err != nil {
		return err
	}
	for i := range e.others {
		t := &e.others[i]
		if t.ID != p.timeline && t.Dropped != nil && !needed(e.others, t, 0) {
			if err := p.clearDropped(ctx, e, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// old reports whether an object that says nothing of itself is old enough to
// be an orphan, by both clocks.
func (p *pass) old(e *evidence, in store.Info) bool {
	return p.broken.young || age(e.now, in.Modified, e.store, in.Modified) >= orphanAge
}

func (p *pass) sweepPrefix(ctx context.Context, e *evidence, prefix string) error {
	err := store.Walk(ctx, p.c.Store(), prefix, func(in store.Info) error {
		if e.refused != nil {
			return errStop
		}
		if e.needed[in.Key] || e.known[in.Key] || !p.old(e, in) {
			return nil
		}
		ours, err := p.sweepable(ctx, e, in)
		if err != nil || !ours {
			return err
		}
		p.report.Swept++
		return p.delete(ctx, e, in.Key, in.Size)
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// sweepable reports whether an orphan is of this timeline, or of one that was
// given up. Those of others are for their own maintainers, whose manifests
// alone keep a slower maintainer of theirs from referring to them yet.
func (p *pass) sweepable(ctx context.Context, e *evidence, in store.Info) (bool, error) {
	h, err := p.c.ReadHeader(ctx, in.Key)
	switch {
	case errs.Is(err, errs.NotFound):
		return false, nil
	case errs.Is(err, errs.Corrupt) || errs.Is(err, errs.Invalid):
		p.report.alarm("%s is in no manifest and cannot be read: it is left for somebody to look at", in.Key)
		return false, nil
	case err != nil:
		return false, err
	}
	if h.Timeline == p.timeline {
		return true, nil
	}
	i := slices.IndexFunc(e.others, func(t journal.TimelineInfo) bool { return t.ID == h.Timeline })
	return i >= 0 && e.others[i].Dropped != nil && !needed(e.others, &e.others[i], 0), nil
}

// sweepJournal deletes journal objects below the anchor that no manifest
// lists: names a FENCE made dead, and what landed late on names deleted before.
func (p *pass) sweepJournal(ctx context.Context, e *evidence) error {
	for _, key := range slices.Sorted(maps.Keys(e.listed)) {
		in := e.listed[key]
		id, ok := journal.ParseObjectName(key)
		if _, ours := e.states[key]; !ok || ours || e.known[key] || e.needed[key] || e.refused != nil || !p.old(e, in) {
			continue
		}
		if !p.mayDeleteJournal(e, id, key) {
			continue
		}
		p.report.Swept++
		if err := p.delete(ctx, e, key, in.Size); err != nil {
			return err
		}
	}
	return nil
}

// sweepPins tidies up pins that hold nothing any more.
func (p *pass) sweepPins(ctx context.Context, e *evidence) error {
	for i := range e.pins {
		pin := &e.pins[i]
		ended := pin.Created
		if !pin.Released {
			ended = later(ended, pin.Expires)
		}
		if e.refused != nil || pin.Active(e.now) || e.now.Sub(ended) < orphanAge {
			continue
		}
		key, release := journal.PinNames(pin.ID)
		if err := p.delete(ctx, e, key, 0); err != nil {
			return err
		}
		if !pin.Released {
			continue
		}
		if err := p.delete(ctx, e, release, 0); err != nil { // the pin first: a release alone releases nothing
			return err
		}
	}
	return nil
}

// clearDropped deletes what a timeline that was given up held, once its end is
// older than the grace. Its head, its end and its claims stay: its name is
// never used again, and whoever still publishes there must find out.
func (p *pass) clearDropped(ctx context.Context, e *evidence, t *journal.TimelineInfo) error {
	for i := range e.pins {
		if e.pins[i].Timeline == t.ID && e.pins[i].Active(e.now.Add(-pinSkew)) || e.pins[i].Damaged != "" {
			return nil
		}
	}
	end, err := p.c.Store().Stat(ctx, journal.DroppedName(t.ID))
	if err != nil {
		return err
	}
	if wait := max(p.policy.Grace, journalAge); age(e.now, *t.Dropped, e.store, end.Modified) < wait {
		return nil
	}
	infos, err := p.c.ListManifests(ctx, t.ID)
	if err != nil {
		return err
	}
	for i, in := range infos { // the oldest first: what is left can always be read on
		m, err := p.c.ReadManifestAt(ctx, t.ID, in.Generation)
		if err == nil {
			err = p.deleteReferred(ctx, e, m)
		}
		if err != nil && !errs.Is(err, errs.Corrupt) && !errs.Is(err, errs.NotFound) {
			return err
		}
		if i < len(infos)-1 && e.refused == nil {
			if err := p.delete(ctx, e, in.Key, in.Size); err != nil {
				return err
			}
		}
	}
	return p.clearJournal(ctx, e, t)
}

// deleteReferred deletes what a dropped timeline's manifest refers to.
func (p *pass) deleteReferred(ctx context.Context, e *evidence, m *journal.Manifest) error {
	mine := make(map[string]bool)
	refer(mine, m)
	for _, t := range m.Tombstones {
		mine[t.Key] = true
	}
	own := make(map[string]bool)
	refer(own, p.next)
	for _, key := range slices.Sorted(maps.Keys(mine)) {
		id, isObject := journal.ParseObjectName(key)
		if e.refused != nil || own[key] || isObject && id.Data.IsZero() {
			continue
		}
		if err := p.delete(ctx, e, key, 0); err != nil {
			return err
		}
	}
	return nil
}

func (p *pass) clearJournal(ctx context.Context, e *evidence, t *journal.TimelineInfo) error {
	var keys []store.Info
	err := store.Walk(ctx, p.c.Store(), journal.JournalPrefix(t.ID), func(in store.Info) error {
		keys = append(keys, in)
		if len(keys) > maxListed {
			return errs.E("maintain.remove", errs.Full, t.ID.String(), fmt.Errorf("more than %d journal objects", maxListed))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, in := range keys[:max(0, len(keys)-keepNewest)] {
		if e.refused != nil || e.store.Sub(in.Modified) < journalAge {
			continue
		}
		if err := p.delete(ctx, e, in.Key, in.Size); err != nil {
			return err
		}
	}
	return nil
}
