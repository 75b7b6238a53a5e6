package inventory

import (
	"context"
	"reflect"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/site"
)

// watch is one watch of a Platform.
type watch struct {
	*Gather
	p      *Platform
	survey *time.Timer // fires when places are to be looked at
	later  *time.Timer // fires when the first of again is due

	// What Next told last; of its goroutine.
	told  *site.Inventory // places
	ids   []dr.VMID       // VMs, in order
	place int             // where among them the next glance begins
	again []repeat        // the first one due first
}

// repeat is a VM that is looked at once more.
type repeat struct {
	vm dr.VMID
	at time.Time
}

// Watch begins to watch.
func (p *Platform) Watch(ctx context.Context) (Watcher, error) {
	const op = "inventory.Watch"
	if ctx.Err() != nil {
		return nil, errs.E(op, errs.Canceled, string(p.site), context.Cause(ctx))
	}
	w := &watch{p: p, Gather: NewGather(), survey: time.NewTimer(surveyEvery), later: time.NewTimer(surveyEvery)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errs.New(op, errs.Unavailable, string(p.site), "the provider was closed")
	}
	p.watchers[w] = true
	return w, nil
}

// Close ends the watch.
func (w *watch) Close() {
	w.survey.Stop()
	w.later.Stop()
	w.p.mu.Lock()
	delete(w.p.watchers, w)
	w.p.mu.Unlock()
	w.Gather.Close()
}

// Next waits for something that is different.
func (w *watch) Next(ctx context.Context) (Update, error) {
	for {
		surveying := false
		select {
		case <-ctx.Done():
			return Update{}, errs.E("inventory.Next", errs.Canceled, string(w.p.site), context.Cause(ctx))
		case <-w.survey.C:
			surveying = true
			w.survey.Reset(surveyEvery)
		case <-w.later.C:
		case <-w.Woken():
		}
		all, ids, open := w.Take()
		if !open {
			return Update{}, errs.New("inventory.Next", errs.Unavailable, string(w.p.site), "the watch was closed")
		}
		u, err := w.look(ctx, all, w.due(time.Now(), ids), surveying)
		if err != nil {
			w.All() // what was taken was not told
			return Update{}, err
		}
		w.repeat(time.Now(), ids)
		if !u.Empty() {
			return u, nil
		}
	}
}

// look looks at what is to be looked at.
func (w *watch) look(ctx context.Context, all bool, ids []dr.VMID, surveying bool) (Update, error) {
	if all {
		u, err := w.p.whole(ctx)
		if err != nil {
			return u, err
		}
		w.ids = nil
		for i := range u.Whole.VMs {
			w.ids = append(w.ids, u.Whole.VMs[i].ID)
		}
		w.told = withoutVMs(u.Whole)
		return u, nil
	}
	if surveying {
		ids = append(ids, w.glance()...)
	}
	u, stray, err := w.p.changed(ctx, ids)
	if err != nil {
		return u, err
	}
	if surveying || stray {
		if now := w.p.places(ctx); now != nil && !reflect.DeepEqual(now, w.told) {
			w.told, u.Places = now, now
			if stray { // a disk in a new datastore: now it has a name
				again, _, err := w.p.changed(ctx, ids)
				if err != nil {
					return u, err
				}
				u.VMs, u.Gone = again.VMs, again.Gone
			}
		}
	}
	for i := range u.VMs {
		if !slices.Contains(w.ids, u.VMs[i].ID) {
			w.ids = append(w.ids, u.VMs[i].ID)
		}
	}
	w.ids = slices.DeleteFunc(w.ids, func(id dr.VMID) bool { return slices.Contains(u.Gone, id) })
	return u, nil
}

// due adds the VMs whose turn has come.
func (w *watch) due(now time.Time, ids []dr.VMID) []dr.VMID {
	ids, n := slices.Clone(ids), 0
	for ; n < len(w.again) && !w.again[n].at.After(now); n++ {
		if id := w.again[n].vm; !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	w.again = slices.Delete(w.again, 0, n)
	w.setLater(now)
	return ids
}

// repeat has VMs that something happened to looked at again.
func (w *watch) repeat(now time.Time, ids []dr.VMID) {
	for _, id := range ids {
		w.again = slices.DeleteFunc(w.again, func(r repeat) bool { return r.vm == id })
		for _, after := range againAfter {
			w.again = append(w.again, repeat{id, now.Add(after)})
		}
	}
	slices.SortStableFunc(w.again, func(a, b repeat) int { return a.at.Compare(b.at) })
	if len(w.again) > maxAgain { // the others have their turn at a glance
		w.again = w.again[:maxAgain]
	}
	w.setLater(now)
}

func (w *watch) setLater(now time.Time) {
	if len(w.again) > 0 {
		w.later.Reset(w.again[0].at.Sub(now))
	}
}

// glance returns the next VMs that are looked at without a reason.
func (w *watch) glance() (ids []dr.VMID) {
	for range min(glance, len(w.ids)) {
		w.place = (w.place + 1) % len(w.ids)
		ids = append(ids, w.ids[w.place])
	}
	return ids
}

// withoutVMs returns an inventory's places.
func withoutVMs(inv *site.Inventory) *site.Inventory {
	c := *inv
	c.VMs = nil
	return &c
}

// places keeps placeholders at the hosts of a Platform.
type places struct{ p *Platform }

// Places returns a keeper if the drivers keep books.
func (p *Platform) Places() hypervisor.PlaceKeeper {
	for _, m := range p.members {
		if hv, err := m.driver(); err == nil {
			if _, ok := hv.(hypervisor.PlaceKeeper); ok {
				return places{p}
			}
		}
	}
	return nil
}

// keepers returns the hosts that keep placeholders, that of a VM first.
func (k places) keepers(id dr.VMID) (list []hypervisor.PlaceKeeper, err error) {
	k.p.mu.Lock()
	at := k.p.at[id]
	k.p.mu.Unlock()
	for _, m := range k.p.members {
		hv, derr := m.driver()
		if derr != nil {
			err = derr
			continue
		}
		keeper, ok := hv.(hypervisor.PlaceKeeper)
		switch {
		case !ok:
		case m.Name == at:
			list = append([]hypervisor.PlaceKeeper{keeper}, list...)
		default:
			list = append(list, keeper)
		}
	}
	if len(list) == 0 && err == nil {
		err = errs.New("inventory.Places", errs.Unavailable, string(k.p.site), "no host keeps placeholders")
	}
	return list, err
}

// PutPlaceholder makes it where it is, or else at the first host.
func (k places) PutPlaceholder(ctx context.Context, h hypervisor.Placeholder) error {
	list, err := k.keepers(h.ID)
	if len(list) == 0 {
		return err
	}
	return list[0].PutPlaceholder(ctx, h)
}

// RemovePlaceholder removes it wherever it is.
func (k places) RemovePlaceholder(ctx context.Context, id dr.VMID) error {
	list, err := k.keepers(id)
	for _, keeper := range list {
		if rerr := keeper.RemovePlaceholder(ctx, id); rerr != nil {
			err = rerr
		}
	}
	return err
}
