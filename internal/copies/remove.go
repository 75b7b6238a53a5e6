package copies

import (
	"context"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// survey is what was looked at to decide what may be deleted.
type survey struct {
	now    time.Time             // the copy's: when it got its newest object
	there  map[string]store.Info // what lies in the copy and not in the source
	needed map[string]bool       // names that a manifest of the copy refers to
	oldest map[dr.TimelineID]*journal.Manifest
	pins   map[dr.UUID]*journal.PinInfo
}

// deleteDue deletes from the copy what the upkeep has freed at the source and nobody
// in the copy needs.
func (m *Copier) deleteDue(ctx context.Context) error {
	if err := m.lookAside(ctx); err != nil {
		return err
	}
	if m.inTheWay() != "" {
		return nil
	}
	s := &survey{there: make(map[string]store.Info), needed: make(map[string]bool), oldest: make(map[dr.TimelineID]*journal.Manifest), pins: make(map[dr.UUID]*journal.PinInfo)}
	if err := m.survey(ctx, s); err != nil {
		return err
	}
	var due []string
	for key, in := range s.there {
		if m.due(s, key, in) {
			due = append(due, key)
		}
	}
	return m.deleteAll(ctx, due)
}

// inTheWay says why nothing of the copy may be deleted; "": it may. Whoever holds a
// checkpoint that the copy's manifest has not reads by an older one.
func (m *Copier) inTheWay() string {
	for _, h := range m.work.holds {
		l := m.work.lines[h.timeline]
		switch {
		case l == nil || l.foreign:
			continue // of a test's branch: it has manifests of its own
		case l.blocked != "":
			return l.blocked
		case l.gen > 0 && !l.points[h.checkpoint] && h.checkpoint <= l.newestPoint():
			return h.who + " in the copy holds a checkpoint that is retained no more"
		}
	}
	return ""
}

// newestPoint is the newest checkpoint that the copy's manifest speaks of.
func (l *line) newestPoint() (id dr.CheckpointID) {
	for p := range l.points {
		id = max(id, p)
	}
	return id
}

// survey lists both stores, the copy first: what lies in both, or came to the source
// later, stays.
func (m *Copier) survey(ctx context.Context, s *survey) error {
	known := make(map[string]bool)
	if err := store.Walk(ctx, m.to, "", func(in store.Info) error {
		s.there[in.Key] = in
		s.now = later(s.now, in.Modified)
		if !strings.Contains(in.Key, "/epoch/") {
			known[in.Key] = true
		}
		if len(s.there) > maxKnown {
			return errs.New("copies.remove", errs.Full, m.opts.Name, "the copy has too many objects to look through")
		}
		return nil
	}); err != nil {
		return err
	}
	m.work.have = known
	if err := store.Walk(ctx, m.from, "", func(in store.Info) error { delete(s.there, in.Key); return nil }); err != nil {
		return err
	}
	pins, err := m.dst.Pins(ctx)
	if err != nil {
		return err
	}
	for i := range pins {
		s.pins[pins[i].ID] = &pins[i]
	}
	lines, err := m.dst.Timelines(ctx)
	if err != nil {
		return err
	}
	for _, t := range lines {
		if err := m.surveyLine(ctx, s, t.ID); err != nil {
			return err
		}
	}
	return m.sourceThere(ctx) // what was not listed there was not for having lost everything
}

// surveyLine notes what a timeline's manifests in the copy refer to: those younger than
// the grace, and the newest that is not.
func (m *Copier) surveyLine(ctx context.Context, s *survey, t dr.TimelineID) error {
	infos, err := m.dst.ListManifests(ctx, t)
	if err != nil {
		return err
	}
	for i := len(infos) - 1; i >= 0; i-- {
		man, err := m.dst.ReadListedManifest(ctx, t, infos[i])
		if errs.Is(err, errs.Corrupt) || errs.Is(err, errs.NotFound) {
			continue
		} else if err != nil {
			return err
		}
		for j := range man.Objects {
			if o := &man.Objects[j]; o.Live > 0 {
				s.needed[journal.ObjectName(o.ID)] = true
			}
		}
		for _, r := range man.Runs {
			for _, p := range r.Parts {
				s.needed[journal.PartName(p.ID)] = true
			}
		}
		if s.now.Sub(infos[i].Modified) >= man.Policy.Grace {
			s.oldest[t] = man
			break
		}
	}
	return nil
}

// due reports whether an object that the source has no more may be deleted.
func (m *Copier) due(s *survey, key string, in store.Info) bool {
	if m.broken.eager {
		return !strings.HasPrefix(key, journal.KeysPrefix)
	}
	age := s.now.Sub(in.Modified)
	if s.needed[key] || age < keepAge {
		return false
	}
	if journal.IsAdvice(key) {
		return age >= adviceAge
	}
	if id, release, ok := journal.ParsePinName(key); ok {
		p := s.pins[id]
		return age >= adviceAge && (p == nil && release || p != nil && !p.Active(s.now))
	}
	if strings.HasPrefix(key, journal.DataPrefix) || strings.HasPrefix(key, journal.PartPrefix) {
		return m.ripe(s)
	}
	for _, l := range m.work.order {
		if !l.foreign && s.dueOf(l, key) {
			return true
		}
	}
	return false
}

// ripe reports whether every timeline that has manifests in the copy has one older than
// the grace: before that, who reads by what came before may still be at it. Branches of
// tests hold theirs by their own manifests, and what these wrote before they had any is
// not in the source and not ours to judge.
func (m *Copier) ripe(s *survey) bool {
	for _, l := range m.work.order {
		if !l.idle && (l.foreign || l.gen > 0 && s.oldest[l.ID] == nil) {
			return false
		}
	}
	return true
}

// dueOf reports whether a journal object or a manifest of a timeline may be deleted.
func (s *survey) dueOf(l *line, key string) bool {
	old := s.oldest[l.ID]
	if old == nil {
		return false
	}
	if id, ok := journal.ParseObjectName(key); ok && id.Data.IsZero() {
		return id.Timeline == l.ID && id.Number <= old.Anchor.Number && id.Number+journal.KeepNumbers < l.at.Next
	}
	g, ok := journal.ParseManifestName(l.ID, key)
	return ok && g < old.Generation && g+keepManifests < l.gen
}

// deleteAll deletes objects. What a lock holds, or the store refuses, stays.
func (m *Copier) deleteAll(ctx context.Context, keys []string) error {
	held := 0
	var failed error
	for i, err := range store.DeleteAll(ctx, m.to, keys) {
		switch {
		case err == nil || errs.Is(err, errs.NotFound):
			delete(m.work.have, keys[i])
			m.deleted()
		case errs.Is(err, errs.Denied):
			held++
		case failed == nil:
			failed = err
		}
	}
	m.mu.Lock()
	m.state.Held = held
	m.mu.Unlock()
	return failed
}
