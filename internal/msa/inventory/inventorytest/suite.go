package inventorytest

import (
	"context"
	"slices"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/site"
)

// Rig is a platform as the suite needs it. What is nil a platform cannot do.
type Rig struct {
	Provider inventory.Provider
	// First is a VM that is there from the start and runs; its size is that of its
	// first disk, in bytes.
	First string
	Size  int64
	Add   func(t *testing.T, name string)                        // a VM that does not run, or runs
	Drop  func(t *testing.T, name string)                        // it is gone
	Stop  func(t *testing.T, name string)                        // First is powered off
	File  func(t *testing.T, name, folder string, tags []string) // where a VM is filed
	Net   func(t *testing.T, name string, isolated bool)         // a network is made
	Cut   func(t *testing.T) (back func(t *testing.T))           // the platform is away
	Boot  func(t *testing.T, name string) error                  // tries to start a VM
}

// Run runs the suite. Subtests share one platform, in this order.
func Run(t *testing.T, r Rig) {
	f := Follow(t, r.Provider)
	t.Run("first", func(t *testing.T) { r.first(t, f) })
	t.Run("changes", func(t *testing.T) { r.changes(t, f) })
	t.Run("places", func(t *testing.T) { r.places(t, f) })
	t.Run("placeholders", func(t *testing.T) { r.placeholders(t, f) })
	t.Run("away", func(t *testing.T) { r.away(t, f) })
	t.Run("end", func(t *testing.T) { r.end(t, f) })
}

// first: the first update is whole and says what there is.
func (r *Rig) first(t *testing.T, f *Follower) {
	if err := f.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.Wholes != 1 {
		t.Error("the first update is not whole")
	}
	f.Until(t, "the first VM is there", func() bool { vm := f.Named(r.First); return vm != nil && vm.Running })
	vm := f.Named(r.First)
	if len(vm.Disks) == 0 || vm.Disks[0].Size != r.Size || vm.CPUs < 1 || vm.MemoryMiB < 1 {
		t.Errorf("the first VM: %+v", vm)
	}
	if len(f.Places.Hosts) == 0 || vm.Host != f.Places.Hosts[0].Ref || vm.Pool == "" {
		t.Errorf("the first VM is on host %q in pool %q; hosts: %+v", vm.Host, vm.Pool, f.Places.Hosts)
	}
	if !slices.ContainsFunc(f.Places.Datastores, func(d site.Datastore) bool { return d.Ref == vm.Disks[0].Datastore }) {
		t.Errorf("its disk is on datastore %q; there are %+v", vm.Disks[0].Datastore, f.Places.Datastores)
	}
	second := Follow(t, r.Provider)
	second.Until(t, "a second watcher knows it as well", func() bool { return second.Named(r.First) != nil })
}

// changes: what happens is told.
func (r *Rig) changes(t *testing.T, f *Follower) {
	if r.Add != nil {
		r.Add(t, "suite-added")
		f.Until(t, "an added VM is told", func() bool { return f.Named("suite-added") != nil })
	}
	if r.File != nil {
		r.File(t, "suite-added", "erp/prod", []string{"gold", "pci"})
		f.Until(t, "its folder and tags are told", func() bool {
			vm := f.Named("suite-added")
			return vm.Folder == "erp/prod" && slices.Equal(vm.Tags, []string{"gold", "pci"})
		})
	}
	if r.Drop != nil {
		r.Drop(t, "suite-added")
		f.Until(t, "a removed VM is gone", func() bool { return f.Named("suite-added") == nil })
	}
	if r.Stop != nil {
		r.Stop(t, r.First)
		f.Until(t, "it is told that a VM was powered off", func() bool { return !f.Named(r.First).Running })
	}
}

// places: networks and what else there is.
func (r *Rig) places(t *testing.T, f *Follower) {
	if r.Net == nil {
		return
	}
	r.Net(t, "suite-bubble", true)
	r.Net(t, "suite-routed", false)
	g := Follow(t, r.Provider) // a watch that begins sees them; one that goes on within its survey
	find := func(name site.Ref) *site.Network {
		for i := range g.Places.Networks {
			if n := &g.Places.Networks[i]; n.Ref == name {
				return n
			}
		}
		return nil
	}
	g.Until(t, "networks are told", func() bool { return find("suite-bubble") != nil && find("suite-routed") != nil })
	if !find("suite-bubble").Isolated || find("suite-routed").Isolated {
		t.Errorf("which network is isolated is wrong: %+v", g.Places.Networks)
	}
}

// placeholders: made, repaired, removed, and nothing else touched.
func (r *Rig) placeholders(t *testing.T, f *Follower) {
	keeper := r.Provider.Places()
	if keeper == nil {
		return
	}
	ctx := t.Context()
	first := f.Named(r.First)
	h := hypervisor.Placeholder{ID: dr.VMID{UUID: dr.NewUUID()}, For: dr.VMID{UUID: dr.NewUUID()}, Name: "suite-place", Folder: "dr/a&b", CPUs: 2, MemoryMiB: 512}
	for range 2 { // the second finds it
		if err := keeper.PutPlaceholder(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	f.Until(t, "a placeholder is there", func() bool { return f.Named(h.Name) != nil })
	if vm := f.Named(h.Name); vm.ID != h.ID || vm.PlaceholderFor != h.For || vm.Running || len(vm.Disks) != 0 || vm.Folder != "dr/a&b" || vm.CPUs != 2 || vm.MemoryMiB != 512 {
		t.Errorf("the placeholder: %+v", vm)
	}
	if r.Boot != nil {
		if err := r.Boot(t, h.Name); err == nil {
			t.Error("a placeholder was started")
		}
	}
	h.Name, h.CPUs = "suite-renamed", 3
	if err := keeper.PutPlaceholder(ctx, h); err != nil {
		t.Fatal(err)
	}
	f.Until(t, "a placeholder is repaired", func() bool { vm := f.Named(h.Name); return vm != nil && vm.CPUs == 3 && f.Named("suite-place") == nil })
	other := h
	other.ID = dr.VMID{UUID: dr.NewUUID()}
	if err := keeper.PutPlaceholder(ctx, other); !errs.Is(err, errs.Exists) || errs.RemedyOf(err) == "" {
		t.Errorf("a second placeholder of the same name: %v", err)
	}
	other.ID = first.ID
	other.Name = "suite-thief"
	if err := keeper.PutPlaceholder(ctx, other); !errs.Is(err, errs.Exists) && !errs.Is(err, errs.Conflict) {
		t.Errorf("a placeholder with a VM's id: %v", err)
	}
	if err := keeper.RemovePlaceholder(ctx, first.ID); !errs.Is(err, errs.Conflict) {
		t.Errorf("a VM was removed as a placeholder: %v", err)
	}
	if err := keeper.PutPlaceholder(ctx, hypervisor.Placeholder{Name: "x"}); !errs.Is(err, errs.Invalid) {
		t.Errorf("a placeholder without id: %v", err)
	}
	for range 2 { // the second finds none
		if err := keeper.RemovePlaceholder(ctx, h.ID); err != nil {
			t.Fatal(err)
		}
	}
	f.Until(t, "a placeholder is gone", func() bool { return f.Named(h.Name) == nil })
	if f.Named(r.First) == nil {
		t.Error("a VM went with a placeholder")
	}
}

// away: a platform that cannot be reached is Unavailable, not empty, and is whole
// again when it is back.
func (r *Rig) away(t *testing.T, f *Follower) {
	if r.Cut == nil {
		return
	}
	back := r.Cut(t)
	g := Follow(t, r.Provider)
	if err := g.Step(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("an update of a platform that is away: %v", err)
	}
	back(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for g.Wholes == 0 {
		if err := g.Step(ctx); err != nil && !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
	}
	if g.Named(r.First) == nil {
		t.Error("the first VM is not there any more")
	}
}

// end: whoever waits is told of the end.
func (r *Rig) end(t *testing.T, f *Follower) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Provider.Watch(gone); !errs.Is(err, errs.Canceled) {
		t.Errorf("a watch that was given up: %v", err)
	}
	waits := make(chan error, 1)
	go func() {
		for {
			if err := f.Step(t.Context()); err != nil {
				waits <- err
				return
			}
		}
	}()
	if err := r.Provider.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waits; !errs.Is(err, errs.Unavailable) {
		t.Errorf("an update of a provider that was closed: %v", err)
	}
	if _, err := r.Provider.Watch(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a watch of a provider that was closed: %v", err)
	}
}
