package maintain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

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
	if err := p.sweepSuperseded(ctx, e); err != nil {
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

// age is the lesser of an object's ages by our clock and by the store's.
func (p *pass) age(e *evidence, made, modified time.Time) time.Duration {
	if p.broken.storeClock {
		return e.store.Sub(modified)
	}
	return age(e.now, made, e.store, modified)
}

// old reports whether an object that says nothing of itself is old enough to
// be an orphan, by both clocks.
func (p *pass) old(e *evidence, in store.Info) bool {
	return p.broken.young || p.age(e, in.Modified, in.Modified) >= orphanAge
}

func (p *pass) sweepPrefix(ctx context.Context, e *evidence, prefix string) error {
	var orphans []doomed
	err := store.Walk(ctx, p.c.Store(), prefix, func(in store.Info) error {
		if e.needed[in.Key] || e.known[in.Key] || !p.old(e, in) {
			return nil
		}
		ours, err := p.sweepable(ctx, e, in)
		if err != nil || !ours {
			return err
		}
		orphans = append(orphans, doomed{in.Key, in.Size})
		if len(orphans) < store.MaxBatch {
			return nil
		}
		p.report.Swept += len(orphans)
		err = p.deleteAll(ctx, e, orphans)
		orphans = orphans[:0]
		if err == nil && e.refused != nil {
			err = errStop
		}
		return err
	})
	if err != nil && !errors.Is(err, errStop) {
		return err
	}
	p.report.Swept += len(orphans)
	return p.deleteAll(ctx, e, orphans)
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
	var orphans []doomed
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
		orphans = append(orphans, doomed{key, in.Size})
	}
	return p.deleteAll(ctx, e, orphans)
}

// sweepSuperseded deletes what newer ones of its kind have followed: boot traces of a
// VM, settings of managers. Nobody reads the old ones.
func (p *pass) sweepSuperseded(ctx context.Context, e *evidence) error {
	all, err := p.c.Superseded(ctx)
	if err != nil {
		return err
	}
	var gone []doomed
	for _, in := range all {
		if p.old(e, in) {
			gone = append(gone, doomed{in.Key, in.Size})
		}
	}
	p.report.Swept += len(gone)
	return p.deleteAll(ctx, e, gone)
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
	if wait := max(p.policy.Grace, journalAge); p.age(e, *t.Dropped, end.Modified) < wait {
		return nil
	}
	infos, err := p.c.ListManifests(ctx, t.ID)
	if err != nil {
		return err
	}
	for i, in := range infos { // the oldest first: what is left can always be read on
		m, err := p.c.ReadListedManifest(ctx, t.ID, in)
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
	var gone []doomed
	for _, key := range slices.Sorted(maps.Keys(mine)) {
		id, isObject := journal.ParseObjectName(key)
		if e.refused != nil || own[key] || isObject && id.Data.IsZero() {
			continue
		}
		gone = append(gone, doomed{key, 0})
	}
	return p.deleteAll(ctx, e, gone)
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
	var gone []doomed
	for _, in := range keys[:max(0, len(keys)-journal.KeepNumbers)] {
		if e.store.Sub(in.Modified) >= journalAge {
			gone = append(gone, doomed{in.Key, in.Size})
		}
	}
	return p.deleteAll(ctx, e, gone)
}
