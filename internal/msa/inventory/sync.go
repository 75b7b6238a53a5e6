package inventory

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// ledger is what a keeper knows of its site's rows. They are its own as long as it
// holds the lease; it is read anew whenever the outcome of a transaction is unknown.
// Of one goroutine.
type ledger struct {
	site   site.Name
	vms    map[dr.VMID]vmRow
	places map[placeKey]string
	told   *site.Inventory // places as the provider tells them
}

// vmRow is a row of inventory_vms.
type vmRow struct {
	vm  site.VM
	doc string
}

// delta is what has to be written.
type delta struct {
	put        map[dr.VMID]vmRow
	fresh      map[dr.VMID]bool // those of put that there was no row of
	drop       []dr.VMID
	putPlaces  map[placeKey]string
	dropPlaces []placeKey
	told       *site.Inventory
	words      string // what was left out, and why
}

func (d *delta) empty() bool {
	return len(d.put) == 0 && len(d.drop) == 0 && len(d.putPlaces) == 0 && len(d.dropPlaces) == 0
}

// readLedger reads a site's rows.
func readLedger(ctx context.Context, tx *db.Tx, of site.Name) (*ledger, error) {
	inv, err := Load(ctx, tx, of)
	if err != nil {
		return nil, err
	}
	l := &ledger{site: of, vms: make(map[dr.VMID]vmRow, len(inv.VMs)), told: withoutVMs(inv)}
	for _, vm := range inv.VMs {
		row, err := rowOf(vm)
		if err != nil {
			return nil, err
		}
		l.vms[vm.ID] = row
	}
	l.places, err = placesOf(inv)
	return l, err
}

func rowOf(vm site.VM) (vmRow, error) {
	b, err := json.Marshal(vm)
	if err != nil {
		return vmRow{}, errs.E("inventory.Keeper", errs.Internal, string(vm.Ref), err)
	}
	return vmRow{vm, string(b)}, nil
}

// compare says what an update changes. It is pure.
func (l *ledger) compare(u Update) (*delta, error) {
	d := &delta{put: map[dr.VMID]vmRow{}, fresh: map[dr.VMID]bool{}, putPlaces: map[placeKey]string{}, told: l.told}
	changed, gone := u.VMs, map[dr.VMID]bool{}
	for _, id := range u.Gone {
		gone[id] = true
	}
	if u.Whole != nil {
		changed, d.told = u.Whole.VMs, withoutVMs(u.Whole)
		gone = map[dr.VMID]bool{}
		if u.Missing == nil {
			for id := range l.vms {
				gone[id] = true
			}
		} else {
			d.told = l.merged(u.Whole)
		}
	}
	if u.Places != nil {
		d.told = withoutVMs(u.Places)
	}
	var out []string
	for _, vm := range changed {
		delete(gone, vm.ID)
		had, known := l.vms[vm.ID]
		keepAddresses(&vm, &had.vm)
		if words := unfit(&vm); words != "" {
			out = append(out, words)
			if known { // what is there is not this VM any more
				gone[vm.ID] = true
			}
			continue
		}
		row, err := rowOf(vm)
		if err != nil {
			return nil, err
		}
		if row.doc != had.doc {
			d.put[vm.ID], d.fresh[vm.ID] = row, !known
		}
	}
	for id := range gone {
		if _, known := l.vms[id]; known {
			d.drop = append(d.drop, id)
		}
	}
	slices.SortFunc(d.drop, compareIDs)
	d.words = db.Text(strings.Join(out, "; "), maxWords)
	return d, l.comparePlaces(d)
}

// comparePlaces completes a delta with what changes besides VMs.
func (l *ledger) comparePlaces(d *delta) error {
	all := maps.Clone(l.vms)
	for _, id := range d.drop {
		delete(all, id)
	}
	maps.Copy(all, d.put)
	vms := make([]site.VM, 0, len(all))
	for _, row := range all {
		vms = append(vms, row.vm)
	}
	inv := *d.told
	inv.Folders, inv.Networks = slices.Clone(inv.Folders), slices.Clone(inv.Networks)
	addUsed(&inv, vms)
	want, err := placesOf(&inv)
	if err != nil {
		return err
	}
	for k, doc := range want {
		if l.places[k] != doc {
			d.putPlaces[k] = doc
		}
	}
	for k := range l.places {
		if _, ok := want[k]; !ok {
			d.dropPlaces = append(d.dropPlaces, k)
		}
	}
	return nil
}

// merged adds what was told before to an inventory of which a part is missing.
func (l *ledger) merged(whole *site.Inventory) *site.Inventory {
	inv := withoutVMs(whole)
	inv.Hosts = union(inv.Hosts, l.told.Hosts, func(h site.Host) site.Ref { return h.Ref })
	inv.Networks = union(inv.Networks, l.told.Networks, func(n site.Network) site.Ref { return n.Ref })
	inv.Folders = union(inv.Folders, l.told.Folders, func(f site.Folder) site.Ref { return f.Ref })
	inv.Pools = union(inv.Pools, l.told.Pools, func(p site.Pool) site.Ref { return p.Ref })
	inv.Datastores = union(inv.Datastores, l.told.Datastores, func(d site.Datastore) site.Ref { return d.Ref })
	return inv
}

// union is a with what b has besides.
func union[T any](a, b []T, ref func(T) site.Ref) []T {
	has := map[site.Ref]bool{}
	for _, v := range a {
		has[ref(v)] = true
	}
	a = slices.Clone(a)
	for _, v := range b {
		if !has[ref(v)] {
			a = append(a, v)
		}
	}
	return a
}

// keepAddresses keeps what a guest has told of a card until it tells something else:
// an address rule is of most use when the guest cannot be asked any more.
func keepAddresses(vm, had *site.VM) {
	for i := range vm.NICs {
		n := &vm.NICs[i]
		j := slices.IndexFunc(had.NICs, func(o site.VMNIC) bool { return o.MAC == n.MAC && n.MAC != "" && o.Network == n.Network })
		if len(n.Addresses) == 0 && j >= 0 {
			n.Addresses = had.NICs[j].Addresses
		}
	}
}

// unfit says why a VM cannot be stored; empty: it can.
func unfit(vm *site.VM) string {
	var l problem.List
	(&site.Inventory{Site: "x", VMs: []site.VM{*vm}}).Check(&l)
	b, err := json.Marshal(vm)
	if err == nil && len(b) > maxDoc {
		return fmt.Sprintf("VM %s is left out: it has %d bytes", vm.ID, len(b))
	}
	if len(l.All) == 0 {
		return ""
	}
	return fmt.Sprintf("VM %s is left out: %s", vm.ID, l.All[0].Words)
}

// commit brings a delta that was stored into the ledger.
func (l *ledger) commit(d *delta) {
	maps.Copy(l.vms, d.put)
	for _, id := range d.drop {
		delete(l.vms, id)
	}
	maps.Copy(l.places, d.putPlaces)
	for _, k := range d.dropPlaces {
		delete(l.places, k)
	}
	l.told = d.told
}

// nameOf is a VM's name as its column has it.
func nameOf(vm *site.VM) string { return db.Text(string(vm.Ref), site.MaxRef) }

// write stores a delta, a few statements for many rows.
func (l *ledger) write(ctx context.Context, tx *db.Tx, d *delta) error {
	var rows [][]any
	for _, id := range slices.SortedFunc(maps.Keys(d.put), compareIDs) {
		row := d.put[id]
		running, stands := 0, ""
		if row.vm.Running {
			running = 1
		}
		if !row.vm.PlaceholderFor.IsZero() {
			stands = row.vm.PlaceholderFor.String()
		}
		rows = append(rows, []any{string(l.site), id.String(), nameOf(&row.vm), db.Text(string(row.vm.Host), site.MaxRef),
			db.Text(string(row.vm.Folder), site.MaxRef), running, stands, row.doc})
	}
	if err := insert(ctx, tx, `INSERT INTO inventory_vms (site, id, name, host, folder, running, stands_for, doc) VALUES`,
		` ON CONFLICT (site, id) DO UPDATE SET name = excluded.name, host = excluded.host, folder = excluded.folder,
		running = excluded.running, stands_for = excluded.stands_for, doc = excluded.doc`, rows); err != nil {
		return err
	}
	for _, id := range d.drop {
		if _, err := tx.Exec(ctx, `DELETE FROM inventory_vms WHERE site = $1 AND id = $2`, string(l.site), id.String()); err != nil {
			return err
		}
	}
	rows = nil
	for k, doc := range d.putPlaces {
		rows = append(rows, []any{string(l.site), k.kind, k.ref, doc})
	}
	if err := insert(ctx, tx, `INSERT INTO inventory_places (site, kind, ref, doc) VALUES`,
		` ON CONFLICT (site, kind, ref) DO UPDATE SET doc = excluded.doc`, rows); err != nil {
		return err
	}
	for _, k := range d.dropPlaces {
		if _, err := tx.Exec(ctx, `DELETE FROM inventory_places WHERE site = $1 AND kind = $2 AND ref = $3`, string(l.site), k.kind, k.ref); err != nil {
			return err
		}
	}
	return nil
}

// insert runs one statement for each batch of rows.
func insert(ctx context.Context, tx *db.Tx, head, tail string, rows [][]any) error {
	for part := range slices.Chunk(rows, batch) {
		var text strings.Builder
		text.WriteString(head)
		var args []any
		for i, row := range part {
			text.WriteString([]string{" (", ", ("}[min(i, 1)])
			for j, v := range row {
				args = append(args, v)
				fmt.Fprintf(&text, "%s$%d", []string{"", ", "}[min(j, 1)], len(args))
			}
			text.WriteString(")")
		}
		text.WriteString(tail)
		if _, err := tx.Exec(ctx, text.String(), args...); err != nil {
			return err
		}
	}
	return nil
}

// lines are the entries of the change feed for a delta: one for each VM, or one for
// the site when there are many.
func (l *ledger) lines(d *delta) []catalog.Change {
	if n := len(d.put) + len(d.drop); n > maxNotes || n == 0 {
		return []catalog.Change{{Kind: "inventory", Name: string(l.site), Action: "change"}}
	}
	var list []catalog.Change
	for _, id := range slices.SortedFunc(maps.Keys(d.put), compareIDs) {
		action := "change"
		if d.fresh[id] {
			action = "create"
		}
		list = append(list, catalog.Change{Kind: "vm", Name: string(l.site) + "/" + id.String(), Folder: d.put[id].vm.Folder, Action: action})
	}
	for _, id := range d.drop {
		list = append(list, catalog.Change{Kind: "vm", Name: string(l.site) + "/" + id.String(), Folder: l.vms[id].vm.Folder, Action: "delete"})
	}
	return list
}

func compareIDs(a, b dr.VMID) int { return strings.Compare(a.String(), b.String()) }
