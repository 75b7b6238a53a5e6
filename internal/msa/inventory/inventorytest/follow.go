package inventorytest

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// patience ends a wait for what does not come.
const patience = 3 * time.Minute

// Follower keeps an inventory by updates. Not safe for concurrent use.
type Follower struct {
	Places site.Inventory        // all but VMs
	VMs    map[dr.VMID]site.VM   // by id
	Wholes int                   // updates that were Whole
	w      inventory.Watcher     // what it follows
	seen   map[dr.VMID][]site.VM // every state of each VM that was told
}

// Follow watches a provider until the test ends.
func Follow(t testing.TB, p inventory.Provider) *Follower {
	t.Helper()
	w, err := p.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return &Follower{w: w, VMs: map[dr.VMID]site.VM{}, seen: map[dr.VMID][]site.VM{}}
}

// Step takes one update.
func (f *Follower) Step(ctx context.Context) error {
	u, err := f.w.Next(ctx)
	if err != nil {
		return err
	}
	f.Apply(u)
	return nil
}

// Apply brings an update in.
func (f *Follower) Apply(u inventory.Update) {
	if u.Whole != nil {
		f.Wholes++
		if u.Missing == nil {
			clear(f.VMs)
		}
		f.Places = *u.Whole
		f.Places.VMs = nil
		f.add(u.Whole.VMs)
	}
	if u.Places != nil {
		f.Places = *u.Places
	}
	f.add(u.VMs)
	for _, id := range u.Gone {
		delete(f.VMs, id)
	}
}

func (f *Follower) add(vms []site.VM) {
	for _, vm := range vms {
		f.VMs[vm.ID] = vm
		f.seen[vm.ID] = append(f.seen[vm.ID], vm)
	}
}

// Inventory is what is known, in order of id.
func (f *Follower) Inventory() *site.Inventory {
	inv := f.Places
	for _, vm := range f.VMs {
		inv.VMs = append(inv.VMs, vm)
	}
	slices.SortFunc(inv.VMs, func(a, b site.VM) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return &inv
}

// Until takes updates until ok, and checks that what is known has no problem.
func (f *Follower) Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !ok() {
		if err := f.Step(ctx); err != nil {
			t.Fatalf("waiting until %s: %v; known: %+v", what, err, f.Inventory())
		}
		var l problem.List
		if f.Inventory().Check(&l); len(l.All) > 0 {
			t.Fatalf("the inventory has problems: %v", l.All)
		}
	}
}

// Named returns the VM of a name, or nil.
func (f *Follower) Named(name string) *site.VM {
	for _, vm := range f.VMs {
		if vm.Ref == site.Ref(name) {
			return &vm
		}
	}
	return nil
}
