package maintain

import (
	"cmp"
	"context"
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
	return id.Number+journal.KeepNumbers < p.next.Anchor.Next && (!listed || p.began.wall.Sub(p.next.Objects[i].Created) >= journalAge)
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
		if p.age(e, m.Created, e.infos[i].Modified) >= p.policy.Grace {
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
	m, err := p.c.ReadListedManifest(ctx, p.timeline, in)
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
		m, err := p.c.ReadListedManifest(ctx, t, infos[i])
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
	for _, key := range keys[max(0, len(keys)-journal.KeepNumbers):] {
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
	var due []doomed
	for _, t := range p.next.Tombstones {
		if !p.broken.noGrace && (!was[t.Key] || e.now.Sub(t.Since) < p.policy.Grace) || e.needed[t.Key] {
			continue
		}
		if id, ok := journal.ParseObjectName(t.Key); ok && id.Data.IsZero() && !p.mayDeleteJournal(e, id, t.Key) {
			continue
		}
		due = append(due, doomed{t.Key, t.Bytes})
	}
	return p.deleteAll(ctx, e, due)
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
	return !e.newest[key] && id.Number+journal.KeepNumbers < next && p.age(e, made, in.Modified) >= journalAge
}

// doomed is an object that is to be deleted.
type doomed struct {
	key   string
	bytes int64
}

// deleteAll deletes objects in no order, many with a request. It asks for no
// lock first, which would be a request for each: what a lock holds the store
// refuses to delete.
func (p *pass) deleteAll(ctx context.Context, e *evidence, list []doomed) error {
	list = slices.DeleteFunc(list, func(d doomed) bool { return p.knownHeld(e, d) })
	done := 0
	for batch := range slices.Chunk(list, store.MaxBatch) {
		if e.refused != nil {
			return nil
		}
		p.tell("deleting", int64(done), int64(len(list)), false)
		done += len(batch)
		keys := make([]string, len(batch))
		for i, d := range batch {
			keys[i] = d.key
		}
		var failed error
		for i, err := range store.DeleteAll(ctx, p.c.Store(), keys) {
			failed = cmp.Or(failed, p.deleted(ctx, e, batch[i], err))
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

// delete is deleteAll of one: where the order matters.
func (p *pass) delete(ctx context.Context, e *evidence, key string, bytes int64) error {
	return p.deleteAll(ctx, e, []doomed{{key, bytes}})
}

// knownHeld reports whether a lock was seen on an object that has not run out:
// locks never end earlier than they were seen to.
func (p *pass) knownHeld(e *evidence, d doomed) bool {
	until, ok := p.mem.held[d.key]
	if !ok || !until.After(e.now.Add(-pinSkew)) && !until.After(e.store) {
		delete(p.mem.held, d.key)
		return false
	}
	p.held(d, until)
	return true
}

func (p *pass) held(d doomed, until time.Time) {
	if len(p.report.Held) < maxHeld {
		p.report.Held = append(p.report.Held, Held{Reason: "lock", Name: d.key, Bytes: d.bytes, Until: until})
	}
}

// deleted notes what came of a deletion. What a lock refuses is held; what the
// store refuses for another reason ends deletion in this pass.
func (p *pass) deleted(ctx context.Context, e *evidence, d doomed, err error) error {
	switch {
	case err == nil:
		p.report.Deleted++
		p.report.Freed += d.bytes
	case errs.Is(err, errs.Denied):
		return p.refused(ctx, e, d, err)
	case !errs.Is(err, errs.NotFound):
		return err
	}
	p.mem.deleted[d.key] = true
	return nil
}

// refused finds out whether a refusal is a lock's.
func (p *pass) refused(ctx context.Context, e *evidence, d doomed, refusal error) error {
	if e.refused != nil {
		return nil
	}
	locker, ok := store.AsLocker(p.c.Store())
	if !ok {
		e.refused = refusal
		return nil
	}
	lock, err := locker.ReadLock(ctx, d.key)
	switch {
	case errs.Is(err, errs.NotFound):
		p.mem.deleted[d.key] = true
		return nil
	case err != nil:
		return err
	case lock.Until.After(e.now.Add(-pinSkew)) || lock.Until.After(e.store):
		p.mem.held[d.key] = lock.Until
		p.held(d, lock.Until)
	default:
		e.refused = refusal
	}
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
