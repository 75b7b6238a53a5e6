package fake

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/site"
)

// Provider is a scripted inventory.Provider. Make it with New. Safe for concurrent
// use; it starts no goroutine.
type Provider struct {
	site site.Name // immutable

	mu       sync.Mutex
	places   site.Inventory      // guarded by mu, without VMs
	vms      map[dr.VMID]site.VM // guarded by mu
	watchers map[*watch]bool     // guarded by mu
	away     error               // guarded by mu: why the platform is not reached; nil: it is
	refuse   map[site.Ref]error  // guarded by mu: why placeholders of a name are refused
	looks    int                 // guarded by mu: VMs that were looked at
	closed   bool                // guarded by mu
}

var _ inventory.Provider = (*Provider)(nil)

// New returns an empty site.
func New(of site.Name) *Provider {
	return &Provider{
		site: of, places: site.Inventory{Site: of}, vms: map[dr.VMID]site.VM{}, watchers: map[*watch]bool{}, refuse: map[site.Ref]error{},
	}
}

// Furnish sets hosts, networks, folders, pools, datastores and policies; VMs stay.
func (p *Provider) Furnish(inv site.Inventory) {
	p.mu.Lock()
	defer p.mu.Unlock()
	inv.Site, inv.VMs = p.site, nil
	p.places = inv
	for w := range p.watchers {
		w.furnished()
	}
}

// Put adds VMs, or changes those with the same id.
func (p *Provider) Put(vms ...site.VM) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, vm := range vms {
		p.vms[vm.ID] = vm
		p.tellLocked(vm.ID)
	}
}

// Change changes a VM, if there is one.
func (p *Provider) Change(id dr.VMID, do func(*site.VM)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if vm, ok := p.vms[id]; ok {
		vm.Tags, vm.Disks, vm.NICs = slices.Clone(vm.Tags), slices.Clone(vm.Disks), slices.Clone(vm.NICs)
		do(&vm)
		p.vms[id] = vm
		p.tellLocked(id)
	}
}

// Remove removes VMs.
func (p *Provider) Remove(ids ...dr.VMID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		delete(p.vms, id)
		p.tellLocked(id)
	}
}

// Cut makes the platform unreachable for a reason; nil: it is back.
func (p *Provider) Cut(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = why
	for w := range p.watchers {
		w.All()
	}
}

// Refuse makes placeholders of a name fail; nil: they work again.
func (p *Provider) Refuse(name site.Ref, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse[name] = why
}

// Has returns all there is now.
func (p *Provider) Has() *site.Inventory {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wholeLocked()
}

// Looks returns how many VMs were looked at so far.
func (p *Provider) Looks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.looks
}

func (p *Provider) tellLocked(id dr.VMID) {
	for w := range p.watchers {
		w.Note(id)
	}
}

func (p *Provider) wholeLocked() *site.Inventory {
	inv := p.places
	for _, vm := range p.vms {
		inv.VMs = append(inv.VMs, vm)
	}
	slices.SortFunc(inv.VMs, func(a, b site.VM) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return &inv
}

// Name returns "fake".
func (p *Provider) Name() string { return string(site.Fake) }

// Places returns the provider itself: it keeps placeholders.
func (p *Provider) Places() hypervisor.PlaceKeeper { return p }

// Close ends all watchers.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for w := range p.watchers {
		w.Gather.Close()
	}
	return nil
}

// watch is one watch.
type watch struct {
	*inventory.Gather
	p         *Provider
	refurnish bool // guarded by p.mu: places changed
}

func (w *watch) furnished() {
	w.refurnish = true
	w.Wake()
}

// Watch begins to watch.
func (p *Provider) Watch(ctx context.Context) (inventory.Watcher, error) {
	const op = "fake.Watch"
	if ctx.Err() != nil {
		return nil, errs.E(op, errs.Canceled, string(p.site), context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errs.New(op, errs.Unavailable, string(p.site), "the provider was closed")
	}
	w := &watch{Gather: inventory.NewGather(), p: p}
	p.watchers[w] = true
	return w, nil
}

// Close ends the watch.
func (w *watch) Close() {
	w.p.mu.Lock()
	delete(w.p.watchers, w)
	w.p.mu.Unlock()
	w.Gather.Close()
}

// Next waits for something that is different.
func (w *watch) Next(ctx context.Context) (inventory.Update, error) {
	const op = "fake.Next"
	for {
		select {
		case <-ctx.Done():
			return inventory.Update{}, errs.E(op, errs.Canceled, string(w.p.site), context.Cause(ctx))
		case <-w.Woken():
		}
		all, ids, open := w.Take()
		if !open {
			return inventory.Update{}, errs.New(op, errs.Unavailable, string(w.p.site), "the watch was closed")
		}
		u, err := w.p.look(w, all, ids)
		if err != nil {
			w.All()
			return u, err
		}
		if !u.Empty() {
			return u, nil
		}
	}
}

func (p *Provider) look(w *watch, all bool, ids []dr.VMID) (u inventory.Update, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away != nil {
		return u, errs.E("fake.Next", errs.Unavailable, string(p.site), p.away)
	}
	refurnish := w.refurnish
	w.refurnish = false
	if all {
		p.looks += len(p.vms)
		return inventory.Update{Whole: p.wholeLocked()}, nil
	}
	if refurnish {
		places := p.places
		u.Places = &places
	}
	for _, id := range ids {
		p.looks++
		if vm, ok := p.vms[id]; ok {
			u.VMs = append(u.VMs, vm)
		} else {
			u.Gone = append(u.Gone, id)
		}
	}
	return u, nil
}

// PutPlaceholder makes a placeholder, or makes it what h says.
func (p *Provider) PutPlaceholder(ctx context.Context, h hypervisor.Placeholder) error {
	const op = "fake.PutPlaceholder"
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.usableLocked(ctx, op, h.Name); err != nil {
		return err
	}
	if h.ID.IsZero() || h.For.IsZero() || h.ID == h.For || h.Name == "" {
		return errs.New(op, errs.Invalid, h.Name, "a placeholder needs a name, an id of its own, and that of the VM it stands for")
	}
	for id, vm := range p.vms {
		if id == h.ID && vm.PlaceholderFor.IsZero() || id != h.ID && vm.Ref == site.Ref(h.Name) {
			return errs.New(op, errs.Exists, h.Name, "another VM has the name or the id").
				WithRemedy("rename that VM, or give the placeholder another name in the VM's recovery settings")
		}
	}
	vm := site.VM{
		ID: h.ID, Ref: site.Ref(h.Name), Folder: site.Ref(h.Folder), CPUs: h.CPUs, MemoryMiB: h.MemoryMiB, PlaceholderFor: h.For,
	}
	for _, n := range h.NICs {
		vm.NICs = append(vm.NICs, site.VMNIC{MAC: n.MAC, Network: site.Ref(n.Network)})
	}
	p.vms[h.ID] = vm
	p.tellLocked(h.ID)
	return nil
}

// RemovePlaceholder removes one.
func (p *Provider) RemovePlaceholder(ctx context.Context, id dr.VMID) error {
	const op = "fake.RemovePlaceholder"
	p.mu.Lock()
	defer p.mu.Unlock()
	vm, ok := p.vms[id]
	if err := p.usableLocked(ctx, op, string(vm.Ref)); err != nil {
		return err
	}
	if ok && vm.PlaceholderFor.IsZero() {
		return errs.New(op, errs.Conflict, string(vm.Ref), "the VM is no placeholder")
	}
	delete(p.vms, id)
	p.tellLocked(id)
	return nil
}

func (p *Provider) usableLocked(ctx context.Context, op, object string) error {
	switch {
	case ctx.Err() != nil:
		return errs.E(op, errs.Canceled, object, context.Cause(ctx))
	case p.closed:
		return errs.New(op, errs.Unavailable, object, "the provider was closed")
	case p.away != nil:
		return errs.E(op, errs.Unavailable, object, p.away)
	case p.refuse[site.Ref(object)] != nil:
		return errs.E(op, errs.Unavailable, object, p.refuse[site.Ref(object)])
	}
	return nil
}

// Estate returns a site of n VMs on hosts of 40 each: VM n is vm-0000n, filed in
// erp/, web/ or lab/, every tenth tagged gold. The same arguments give the same.
func Estate(of site.Name, n int) site.Inventory {
	inv := site.Inventory{
		Site:       of,
		Networks:   []site.Network{{Ref: "isolated", Isolated: true}, {Ref: "prod", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/16")}}},
		Datastores: []site.Datastore{{Ref: "flash", Size: 100 << 40, Free: 60 << 40}},
		Pools:      []site.Pool{{Ref: "cluster", CPUs: 64 * (n/40 + 1), MemoryMiB: int64(n/40+1) << 20}},
	}
	for h := range n/40 + 1 {
		inv.Hosts = append(inv.Hosts, site.Host{Ref: site.Ref(fmt.Sprintf("host-%03d", h)), Pool: "cluster", CPUs: 64, MemoryMiB: 1 << 20})
	}
	folders := []site.Ref{"erp", "lab", "web"}
	for _, f := range folders {
		inv.Folders = append(inv.Folders, site.Folder{Ref: f})
	}
	for i := range n {
		name := fmt.Sprintf("vm-%05d", i)
		vm := site.VM{
			ID: ID(of, name), Ref: site.Ref(name), Host: site.Ref(fmt.Sprintf("host-%03d", i/40)), Pool: "cluster", Folder: folders[i%3],
			CPUs: 2, MemoryMiB: 4096, Running: true, Agent: i%2 == 0,
			Disks: []site.VMDisk{{Name: "vda", Size: 40 << 30, Datastore: "flash"}, {Name: "vdb", Size: 200 << 30, Datastore: "flash"}},
			NICs: []site.VMNIC{{
				MAC: fmt.Sprintf("52:54:00:%02x:%02x:01", i>>8&0xff, i&0xff), Network: "prod",
				Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i/250 + 1), byte(i%250 + 2)}), 16)},
			}},
		}
		if i%10 == 0 {
			vm.Tags = []string{"gold"}
		}
		inv.VMs = append(inv.VMs, vm)
	}
	slices.SortFunc(inv.VMs, func(a, b site.VM) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return inv
}

// Filled returns a provider of Estate.
func Filled(of site.Name, n int) *Provider {
	p, inv := New(of), Estate(of, n)
	p.Furnish(inv)
	p.Put(inv.VMs...)
	return p
}

// ID is the id of a VM by its name: the same in every process.
func ID(of site.Name, name string) (id dr.VMID) {
	sum := sha256.Sum256([]byte(string(of) + "/" + name))
	copy(id.UUID[:], sum[:])
	return id
}

// IDs returns the ids of all VMs, in order.
func (p *Provider) IDs() []dr.VMID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Keys(p.vms), func(a, b dr.VMID) int { return cmp.Compare(a.String(), b.String()) })
}
