package inventory

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// PlaceRow is a placeholder as the manager has it: what it should be, and how it
// stands.
type PlaceRow struct {
	site.Placeholder
	Want  hypervisor.Placeholder
	Used  bool      // a recovered VM is in its place, or about to be
	Due   time.Time // when it is tried again; zero: at once
	tries int64     // how often it failed
}

// PlaceholderID is the id of the placeholder of a VM at a site: the same whoever
// makes it, so that it is made once.
func PlaceholderID(at site.Name, vm dr.VMID) (id dr.VMID) {
	sum := sha256.Sum256([]byte("placeholder/" + string(at) + "/" + vm.String()))
	copy(id.UUID[:], sum[:])
	id.UUID[6], id.UUID[8] = id.UUID[6]&0x0f|0x80, id.UUID[8]&0x3f|0x80 // RFC 9562's version 8
	return id
}

// Wanted returns the placeholders a site should have: for each VM of a domain that is
// recovered there, as mappings and settings place it. It is pure.
func Wanted(at site.Name, objects []site.Object, views map[site.Name]*site.View) (list []PlaceRow) {
	var settings []*site.RecoverySettings
	maps := map[site.Name][]*mapping.Mappings{}
	for _, o := range objects {
		switch o := o.(type) {
		case *site.RecoverySettings:
			settings = append(settings, o)
		case *mapping.Mappings:
			if o.To == at {
				maps[o.From] = append(maps[o.From], o)
			}
		}
	}
	var ignored problem.List // gaps are told where mappings are checked
	resolvers := map[site.Name]*mapping.Resolver{}
	for from, ms := range maps {
		if len(ms) == 1 { // several: which of them counts is a plan's matter
			resolvers[from] = mapping.NewResolver(ms[0], views[from], views[at], settings, &ignored)
		}
	}
	seen := map[dr.VMID]bool{}
	for _, o := range objects {
		d, ok := o.(*site.ProtectedDomain)
		if !ok || d.To != at || d.From == at {
			continue
		}
		for _, vm := range views[d.From].Members(d, problem.For(&ignored, string(d.Name))) {
			if r := resolvers[d.From]; r != nil && !seen[vm.ID] {
				seen[vm.ID] = true
				list = append(list, wanted(d, vm, r.Resolve(vm, mapping.Live, problem.For(&ignored, string(vm.Ref)))))
			}
		}
	}
	slices.SortFunc(list, func(a, b PlaceRow) int { return cmp.Compare(a.VM, b.VM) })
	return list
}

// PlaceholderOf is what keeps a VM's place where the mappings put it, whoever makes it:
// a manager that keeps them, or a box in a plan's step.
func PlaceholderOf(p *mapping.Placement) hypervisor.Placeholder {
	h := hypervisor.Placeholder{
		ID: PlaceholderID(p.Site, p.VM), For: p.VM, Name: string(p.Name), Folder: string(p.Folder), CPUs: p.CPUs, MemoryMiB: p.MemoryMiB,
	}
	for _, n := range p.NICs {
		// A card of an unmapped network would be on none: it has no place to keep.
		if n.Network != "" {
			h.NICs = append(h.NICs, dr.NIC{Network: string(n.Network)})
		}
	}
	return h
}

// wanted is the placeholder of one VM.
func wanted(d *site.ProtectedDomain, vm *site.VM, p mapping.Placement) PlaceRow {
	return PlaceRow{
		Want:        PlaceholderOf(&p),
		Placeholder: site.Placeholder{Domain: d.Name, VM: site.Ref(vm.ID.String()), Site: p.Site, Ref: p.Name, Folder: p.Folder, Pool: p.Pool},
	}
}

// Act is what has to be done about a placeholder.
type Act struct {
	Row    PlaceRow // how it stands now
	Put    bool     // make it, or make it as it should be
	Remove bool     // take it away
	Forget bool     // and its row as well: nobody wants it any more
}

// Decide compares the placeholders that should be with those that are noted, and with
// what the platform has. rows are by VM; each of want and rows that differs from what
// is noted, or that needs something done, gives an Act. It is pure.
func Decide(want []PlaceRow, rows map[site.Ref]PlaceRow, view *site.View, now time.Time) (acts []Act) {
	wanted := map[site.Ref]bool{}
	for _, w := range want {
		wanted[w.VM] = true
		row, noted := rows[w.VM]
		next := w
		next.Used, next.Due, next.Error, next.tries = row.Used, row.Due, row.Error, row.tries
		there, _, _ := view.VM(site.Ref(w.Want.ID.String()))
		act := Act{}
		switch {
		case row.Used:
			next.State = site.PlaceholderUsed
			act.Remove = there != nil && !there.PlaceholderFor.IsZero()
		case there == nil:
			act.Put = true
			if next.State = site.PlaceholderPlanned; noted && row.State != site.PlaceholderPlanned && row.State != site.PlaceholderUsed {
				next.State = site.PlaceholderGone
			}
		case !same(there, &w.Want):
			act.Put, next.State = true, site.PlaceholderDrifted
		default:
			next.State, next.Error, next.tries, next.Due = site.PlaceholderPresent, "", 0, time.Time{}
		}
		act.Row = next
		if act.Put && now.Before(row.Due) && sameWant(row.Want, w.Want) {
			act.Put = false // it failed a moment ago
		}
		if act.Put || act.Remove || !noted || row.State != next.State || row.Error != next.Error || !sameWant(row.Want, w.Want) || row.Domain != w.Domain {
			acts = append(acts, act)
		}
	}
	for vm, row := range rows {
		if !wanted[vm] && !now.Before(row.Due) {
			acts = append(acts, Act{Row: row, Remove: true, Forget: true})
		}
	}
	slices.SortFunc(acts, func(a, b Act) int { return cmp.Compare(a.Row.VM, b.Row.VM) })
	return acts
}

// same reports whether a placeholder is as it should be. MACs are the platform's.
func same(vm *site.VM, h *hypervisor.Placeholder) bool {
	if vm.Ref != site.Ref(h.Name) || vm.Folder != site.Ref(h.Folder) || vm.PlaceholderFor != h.For || len(vm.NICs) != len(h.NICs) ||
		vm.CPUs != max(1, h.CPUs) || vm.MemoryMiB != max(hypervisor.MinMemoryMiB, h.MemoryMiB) {
		return false
	}
	for i := range vm.NICs {
		if vm.NICs[i].Network != site.Ref(h.NICs[i].Network) {
			return false
		}
	}
	return true
}

func sameWant(a, b hypervisor.Placeholder) bool {
	return a.ID == b.ID && a.For == b.For && a.Name == b.Name && a.Folder == b.Folder && a.CPUs == b.CPUs && a.MemoryMiB == b.MemoryMiB && slices.Equal(a.NICs, b.NICs)
}

// Placeholders returns a site's placeholders, or those of one domain at all sites, by
// VM; empty names do not filter.
func Placeholders(ctx context.Context, tx *db.Tx, at, domain site.Name) (list []PlaceRow, err error) {
	err = tx.Rows(ctx, `SELECT site, vm, domain, ref, state, error, used, doc, due_at, tries FROM placeholders
		WHERE ($1 = '' OR site = $1) AND ($2 = '' OR domain = $2) ORDER BY site, vm LIMIT $3`, []any{string(at), string(domain), site.MaxVMs},
		func(scan func(...any) error) error {
			var r PlaceRow
			var doc string
			var due, used int64
			if err := scan(&r.Site, &r.VM, &r.Domain, &r.Ref, &r.State, &r.Error, &used, &doc, &due, &r.tries); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(doc), &r.Want); err != nil {
				return errs.E("inventory.Placeholders", errs.Corrupt, string(r.VM), err)
			}
			r.Used, r.Due, r.Folder = used == 1, db.Time(due), site.Ref(r.Want.Folder)
			list = append(list, r)
			return nil
		})
	return list, err
}

// Vacate notes that a recovered VM takes a placeholder's place, and takes the
// placeholder away: when it returns its name is free. It stays so until Restore. No
// effect without a placeholder. Kinds: Unavailable, Canceled.
func (k *Keeper) Vacate(ctx context.Context, vm dr.VMID) error {
	err := k.DB.Tx(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE placeholders SET used = 1, state = $3, error = '' WHERE site = $1 AND vm = $2`, string(k.Site), vm.String(), string(site.PlaceholderUsed))
		return err
	})
	keeper := k.Provider.Places()
	if err != nil || keeper == nil {
		return err
	}
	return keeper.RemovePlaceholder(ctx, PlaceholderID(k.Site, vm))
}

// Kept reports whether a VM of a domain has a placeholder at a site that nobody has taken
// the place of.
func Kept(ctx context.Context, tx *db.Tx, at, domain site.Name, vm dr.VMID) (bool, error) {
	var n int64
	_, err := tx.Row(ctx, `SELECT count(*) FROM placeholders WHERE site = $1 AND domain = $2 AND vm = $3 AND used = 0`, []any{string(at), string(domain), vm.String()}, &n)
	return n > 0, err
}

// Restore notes that no VM is in the placeholder's place any more: the keeper puts it
// back.
func Restore(ctx context.Context, tx *db.Tx, at site.Name, vm dr.VMID) error {
	_, err := tx.Exec(ctx, `UPDATE placeholders SET used = 0, state = $3, due_at = 0 WHERE site = $1 AND vm = $2 AND used = 1`, string(at), vm.String(), string(site.PlaceholderPlanned))
	return err
}

// Repair has placeholders that failed tried again at once: those of a domain, or all.
// It returns how many there are.
func Repair(ctx context.Context, tx *db.Tx, at, domain site.Name) (int64, error) {
	return tx.Exec(ctx, `UPDATE placeholders SET due_at = 0 WHERE site = $1 AND ($2 = '' OR domain = $2)`, string(at), string(domain))
}

// attend makes the site's placeholders what they should be, a bounded number at once;
// more says that there are others.
func (k *Keeper) attend(ctx context.Context, h hold) (more bool, err error) {
	keeper := k.Provider.Places()
	if keeper == nil {
		return false, nil
	}
	var acts []Act
	err = k.DB.View(ctx, func(tx *db.Tx) error {
		objects, err := catalog.All(ctx, tx, site.KindDomain, site.KindMappings, site.KindSettings)
		if err != nil {
			return err
		}
		views, err := k.Store.Views(ctx, tx)
		if err != nil {
			return err
		}
		noted, err := Placeholders(ctx, tx, k.Site, "")
		if err != nil {
			return err
		}
		rows := map[site.Ref]PlaceRow{}
		for _, r := range noted {
			rows[r.VM] = r
		}
		acts = Decide(Wanted(k.Site, objects, views), rows, views[k.Site], db.Time(tx.Now()))
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, a := range acts[:min(len(acts), placeTries)] {
		if err := k.carryOut(ctx, h, keeper, a); err != nil {
			return false, err
		}
	}
	return len(acts) > placeTries, nil
}

// carryOut does one act. The row is there before the placeholder is, and goes after
// it: no placeholder is without one. A VM that takes its place meanwhile (Vacate) has
// it taken away again.
func (k *Keeper) carryOut(ctx context.Context, h hold, keeper hypervisor.PlaceKeeper, a Act) error {
	used := false
	isUsed := func(tx *db.Tx) error {
		var n int64
		_, err := tx.Row(ctx, `SELECT used FROM placeholders WHERE site = $1 AND vm = $2`, []any{string(k.Site), string(a.Row.VM)}, &n)
		used = n == 1
		return err
	}
	if err := k.DB.Tx(ctx, func(tx *db.Tx) error {
		if _, err := h.guard(ctx, tx); err != nil {
			return err
		}
		if err := a.Row.write(ctx, tx); err != nil {
			return err
		}
		return isUsed(tx)
	}); err != nil {
		return err
	}
	var failed error
	switch {
	case a.Put && used:
		return nil
	case a.Put:
		if failed = keeper.PutPlaceholder(ctx, a.Row.Want); failed == nil {
			if err := k.DB.View(ctx, isUsed); err != nil {
				return err
			}
			if used {
				failed = keeper.RemovePlaceholder(ctx, a.Row.Want.ID)
			}
		}
	case a.Remove:
		failed = keeper.RemovePlaceholder(ctx, a.Row.Want.ID)
	default:
		return nil
	}
	if ctx.Err() != nil {
		return nil
	}
	return k.DB.Tx(ctx, func(tx *db.Tx) error {
		if _, err := h.guard(ctx, tx); err != nil {
			return err
		}
		return a.done(ctx, tx, failed)
	})
}

// done notes how an act went. That a placeholder is present is noted when the
// platform tells of it.
func (a *Act) done(ctx context.Context, tx *db.Tx, failed error) error {
	r, object := &a.Row, fmt.Sprintf("%s/%s", a.Row.Site, a.Row.VM)
	if failed == nil && a.Forget {
		if _, err := tx.Exec(ctx, `DELETE FROM placeholders WHERE site = $1 AND vm = $2`, string(r.Site), string(r.VM)); err != nil {
			return err
		}
	} else {
		r.tries, r.Error, r.Due = 0, "", time.Time{}
		if failed != nil {
			r.tries = a.Row.tries + 1
			r.Error = strings.Join(strings.Fields(db.Text(failed.Error(), maxWords)), " ")
			r.Due = db.Time(tx.Now()).Add(min(reopenMost, reopenFirst<<min(r.tries, 10)))
		}
		if err := r.write(ctx, tx); err != nil {
			return err
		}
	}
	if err := alarm.Set(ctx, tx, alarm.PlaceholderFails, object, failed != nil, r.Error); err != nil {
		return err
	}
	return catalog.Note(ctx, tx, "placeholder", object, "change", "")
}

// write stores the row. Whether it is used is Vacate's and Restore's to say.
func (r *PlaceRow) write(ctx context.Context, tx *db.Tx) error {
	doc, err := json.Marshal(r.Want)
	if err != nil {
		return errs.E("inventory.Placeholders", errs.Internal, string(r.VM), err)
	}
	due := int64(0)
	if !r.Due.IsZero() {
		due = r.Due.UnixMilli()
	}
	_, err = tx.Exec(ctx, `INSERT INTO placeholders (site, vm, domain, id, ref, state, error, used, doc, due_at, tries)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10)
		ON CONFLICT (site, vm) DO UPDATE SET domain = excluded.domain, id = excluded.id, ref = excluded.ref, error = excluded.error, doc = excluded.doc,
		due_at = excluded.due_at, tries = excluded.tries, state = CASE WHEN placeholders.used = 1 THEN placeholders.state ELSE excluded.state END`,
		string(r.Site), string(r.VM), string(r.Domain), r.Want.ID.String(), db.Text(string(r.Ref), site.MaxRef), string(r.State), r.Error, string(doc), due, r.tries)
	return err
}
