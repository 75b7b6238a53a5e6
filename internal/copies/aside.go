package copies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// hold is what somebody in the copy wants kept: a pin's checkpoint, or the one a
// branch began at.
type hold struct {
	timeline   dr.TimelineID
	checkpoint dr.CheckpointID
	who        string
}

// begin finds out what lies in the copy: once, by listing all of it.
func (m *Copier) begin(ctx context.Context) error {
	w := &m.work
	*w = work{lines: make(map[dr.TimelineID]*line), have: make(map[string]bool)}
	domain, err := m.whole(ctx, m.from, journal.DomainName)
	if err != nil {
		return err
	}
	there, err := m.whole(ctx, m.to, journal.DomainName)
	switch {
	case errors.Is(err, errGone):
	case err != nil:
		return err
	case !bytes.Equal(domain, there):
		return errs.New("copies.begin", errs.Invalid, journal.DomainName, "another container lies in the copy's place").
			WithRemedy("give the copy an empty place of its own")
	default:
		w.whole = true
	}
	if err := m.known(ctx); err != nil || w.whole {
		return err
	}
	return journal.Probe(ctx, m.to) // a store that takes a name twice keeps no fence
}

// known lists what lies in the copy.
func (m *Copier) known(ctx context.Context) error {
	w := &m.work
	return store.Walk(ctx, m.to, "", func(in store.Info) error {
		if strings.Contains(in.Key, "/epoch/") {
			return nil // looked at one by one
		}
		if !w.whole && !journal.KnownName(in.Key) {
			return errs.New("copies.begin", errs.Invalid, in.Key, "the copy's place is not empty, and what it holds is not Holdfast's").
				WithRemedy("give the copy an empty place of its own")
		}
		if w.have[in.Key] = true; len(w.have) > maxKnown {
			return errs.New("copies.begin", errs.Full, m.opts.Name, "the copy has too many objects to look through")
		}
		return nil
	})
}

// lookAside brings over what changes seldom, and finds out who else is in the copy.
// The copy is looked at first: what another Copier brings there meanwhile is in the
// source already.
func (m *Copier) lookAside(ctx context.Context) error {
	if err := m.sourceThere(ctx); err != nil {
		return err
	}
	theirs, err := m.dst.Timelines(ctx)
	if err != nil {
		return err
	}
	ours, err := m.src.Timelines(ctx)
	if err != nil {
		return err
	}
	brought, err := m.bringBack(ctx, theirs, ours)
	if err != nil {
		return err
	}
	if brought {
		if ours, err = m.src.Timelines(ctx); err != nil {
			return err
		}
	}
	if err := m.sort(ctx, ours); err != nil {
		return err
	}
	if err := m.look(ctx); err != nil {
		return err
	}
	if err := m.keys(ctx); err != nil {
		return err
	}
	if err := m.configs(ctx); err != nil {
		return err
	}
	if err := m.pins(ctx); err != nil {
		return err
	}
	for _, l := range m.work.order {
		if l.Dropped != nil && !l.foreign {
			if err := m.ended(ctx, l); err != nil {
				return err
			}
		}
	}
	return m.look(ctx)
}

// sourceThere makes sure that the source is what it was: one that has lost everything
// says nothing about the copy.
func (m *Copier) sourceThere(ctx context.Context) error {
	_, err := m.from.Stat(ctx, journal.DomainName)
	if errs.Is(err, errs.NotFound) {
		return errs.New("copies", errs.Unavailable, journal.DomainName, "the first store has lost its container").
			WithRemedy("the copy is left as it is: recover from it, or restore the first store")
	}
	return err
}

// bringBack carries the heads and ends of test branches that were begun in the copy
// back to the source, whose upkeep then keeps what they need. A branch that is no test
// is a recovery. brought is true when the source has more than before.
func (m *Copier) bringBack(ctx context.Context, theirs, ours []journal.TimelineInfo) (brought bool, err error) {
	for _, t := range theirs {
		i := slices.IndexFunc(ours, func(o journal.TimelineInfo) bool { return o.ID == t.ID })
		if i < 0 && !t.Test && !m.broken.blind {
			return false, m.stop("timeline "+t.ID.String(), fmt.Sprintf("the domain was recovered from the copy: a timeline that the first store does not have was begun there at %s by %s",
				t.Created.UTC().Format(time.RFC3339), t.By))
		}
		if !t.Test {
			continue
		}
		if i < 0 && t.Dropped == nil {
			if err := m.back(ctx, journal.HeadName(t.ID)); err != nil {
				return false, err
			}
			brought = true
		}
		if i >= 0 && t.Dropped != nil && ours[i].Dropped == nil {
			if err := m.back(ctx, journal.DroppedName(t.ID)); err != nil {
				return false, err
			}
			brought = true
		}
	}
	return brought, nil
}

// back carries an object from the copy to the source. What is gone meanwhile, or lies
// there already, is as good.
func (m *Copier) back(ctx context.Context, key string) error {
	body, err := m.whole(ctx, m.to, key)
	if errors.Is(err, errGone) || errs.Is(err, errs.Corrupt) || errs.Is(err, errs.Invalid) {
		return nil // of no use to anybody
	}
	if err == nil {
		err = create(ctx, m.src, key, body)
	}
	if errors.Is(err, errForeign) {
		return nil
	}
	return err
}

// sort puts the timelines of the source in their order, parents first.
func (m *Copier) sort(ctx context.Context, ours []journal.TimelineInfo) error {
	w := &m.work
	order := make([]*line, 0, len(ours)) // who goes over the old one goes on
	for _, info := range ours {          // oldest first, and a branch is younger than its parent
		l := w.lines[info.ID]
		if l == nil {
			l = &line{TimelineInfo: info}
			if err := m.resume(ctx, l); err != nil {
				return err
			}
			w.lines[info.ID] = l
		}
		l.TimelineInfo = info
		l.idle = info.Dropped != nil && !needed(ours, info.ID, 0)
		order = append(order, l)
	}
	w.order = order
	return nil
}

// needed reports whether a timeline has a branch that was not given up.
func needed(all []journal.TimelineInfo, id dr.TimelineID, depth int) bool {
	return depth < 64 && slices.ContainsFunc(all, func(t journal.TimelineInfo) bool {
		return t.Parent == id && (t.Dropped == nil || needed(all, t.ID, depth+1))
	})
}

// resume finds out how far the copy has a timeline, and whether by our doing.
func (m *Copier) resume(ctx context.Context, l *line) error {
	if err := m.claimedUpTo(ctx, l); err != nil || l.foreign {
		return err
	}
	man, ok, err := m.dst.ReadManifest(ctx, l.ID)
	if err != nil {
		return err
	}
	if ok {
		l.took(man)
	}
	if _, err = m.dst.Tail(ctx, l.ID, l.at, maxKnown, func(t journal.TailObject) error {
		l.passed(&t)
		return nil
	}); errs.Is(err, errs.Corrupt) {
		// A plug, or damage: the next object to go tells.
		m.log.Debug("the copy's chain ends early", "timeline", l.ID.String(), "err", err)
		err = nil
	}
	return err
}

// claimedUpTo finds the highest claim in the copy and looks whose it is. Claims there
// are made in ascending order, ours only above one that is the same in both: so where
// the highest is, all are.
func (m *Copier) claimedUpTo(ctx context.Context, l *line) error {
	var keys []string
	if err := store.Walk(ctx, m.to, journal.EpochPrefix(l.ID), func(in store.Info) error {
		keys = append(keys, in.Key)
		return nil
	}); err != nil || len(keys) == 0 {
		return err
	}
	last := keys[len(keys)-1]
	same, err := m.same(ctx, last)
	if err == nil && !same {
		return m.claimed(l, last)
	}
	l.claimed, _ = journal.ParseEpochName(l.ID, last)
	return err
}

// claimed judges a claim in the copy that the source has not: of a test's branch it is
// the test's, of any other a recovery.
func (m *Copier) claimed(l *line, key string) error {
	if l.Test {
		l.foreign = true
		return nil
	}
	return m.stop(key, "another appliance has taken the domain over in the copy: this claim is not in the first store")
}

// same reports whether an object is the same in both stores.
func (m *Copier) same(ctx context.Context, key string) (bool, error) {
	there, err := m.whole(ctx, m.to, key)
	if errors.Is(err, errGone) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	ours, err := m.whole(ctx, m.from, key)
	if errors.Is(err, errGone) {
		return false, nil
	}
	return bytes.Equal(ours, there), err
}

// look asks whether anybody claimed a timeline in the copy: one small list each.
func (m *Copier) look(ctx context.Context) error {
	if m.broken.blind {
		return nil
	}
	for _, l := range m.work.order {
		if l.foreign {
			continue
		}
		page, err := m.to.List(ctx, journal.EpochPrefix(l.ID), journal.EpochName(l.ID, l.claimed), 1)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			continue
		}
		if same, err := m.same(ctx, page[0].Key); err != nil {
			return err
		} else if !same {
			if err := m.claimed(l, page[0].Key); err != nil {
				return err
			}
		}
	}
	return nil
}

// claims brings a timeline's claims over, in ascending order.
func (m *Copier) claims(ctx context.Context, l *line) error {
	var keys []string
	if err := store.Walk(ctx, m.from, journal.EpochPrefix(l.ID), func(in store.Info) error {
		if e, ok := journal.ParseEpochName(l.ID, in.Key); ok && e > l.claimed {
			keys = append(keys, in.Key)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, key := range keys {
		body, err := m.whole(ctx, m.from, key)
		if err == nil {
			err = m.put(ctx, key, body)
		}
		if errors.Is(err, errForeign) {
			return m.claimed(l, key)
		} else if err != nil {
			return err
		}
		l.claimed, _ = journal.ParseEpochName(l.ID, key)
	}
	return nil
}

// keys brings wrapped keys over, a rotation's end after them. What the source has no
// more stays: a store that loses its keys must not take the copy's along.
func (m *Copier) keys(ctx context.Context) error {
	return m.bring(ctx, journal.KeysPrefix, func(a, b string) int {
		return ordered(journal.KeyCompletes(a), journal.KeyCompletes(b))
	})
}

// configs brings VMs' configurations over, and what else lies beside them.
func (m *Copier) configs(ctx context.Context) error {
	return m.bring(ctx, journal.MetaPrefix, func(string, string) int { return 0 })
}

// ordered puts what is not before what is.
func ordered(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// bring copies what the copy lacks below a prefix.
func (m *Copier) bring(ctx context.Context, prefix string, order func(a, b string) int) error {
	var keys []string
	if err := store.Walk(ctx, m.from, prefix, func(in store.Info) error {
		if !m.work.have[in.Key] {
			keys = append(keys, in.Key)
		}
		return nil
	}); err != nil {
		return err
	}
	slices.SortStableFunc(keys, order)
	for _, key := range keys {
		if err := m.copy(ctx, key); err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	return nil
}

// pins brings pins and their releases over, both ways: a reader of the copy pins there,
// and what it pins the source's upkeep must keep.
func (m *Copier) pins(ctx context.Context) error {
	releases := func(key string) bool { _, off, _ := journal.ParsePinName(key); return off }
	theirs, err := m.dst.Pins(ctx)
	if err != nil {
		return err
	}
	if err := m.bring(ctx, journal.PinPrefix, func(a, b string) int { return ordered(releases(a), releases(b)) }); err != nil {
		return err
	}
	ours := make(map[string]bool)
	if err := store.Walk(ctx, m.from, journal.PinPrefix, func(in store.Info) error {
		ours[in.Key] = true
		return nil
	}); err != nil {
		return err
	}
	now := time.Now()
	for i := range theirs {
		p := &theirs[i]
		pin, off := journal.PinNames(p.ID)
		switch {
		case p.Damaged != "":
		case p.Active(now) && !ours[pin]:
			err = m.back(ctx, pin)
		case p.Released && ours[pin] && !ours[off]:
			err = m.back(ctx, off)
		}
		if err != nil {
			return err
		}
	}
	return m.held(ctx)
}

// held finds what is held in the copy now.
func (m *Copier) held(ctx context.Context) error {
	pins, err := m.dst.Pins(ctx)
	if err != nil {
		return err
	}
	lines, err := m.dst.Timelines(ctx)
	if err != nil {
		return err
	}
	m.work.holds = nil
	now := time.Now()
	for i := range pins {
		p := &pins[i]
		if p.Active(now) {
			m.work.holds = append(m.work.holds, hold{p.Timeline, p.Checkpoint, "pin " + p.ID.String()})
		}
	}
	for _, t := range lines {
		if t.Dropped == nil && t.Fork != nil {
			m.work.holds = append(m.work.holds, hold{t.Parent, t.Fork.ID, "branch " + t.ID.String()})
		}
	}
	return nil
}

// ended brings over that a timeline is given up: before its head, where that is not
// there yet, so that nobody takes it for the current one.
func (m *Copier) ended(ctx context.Context, l *line) error {
	err := m.copy(ctx, journal.DroppedName(l.ID))
	if err == nil && l.idle {
		if err = m.claims(ctx, l); err == nil {
			err = m.copy(ctx, journal.HeadName(l.ID))
		}
	}
	return err
}
