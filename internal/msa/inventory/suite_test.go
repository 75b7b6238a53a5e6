package inventory_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/hypervisor"
	hvfake "holdfast/internal/hypervisor/fake"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/fake"
	"holdfast/internal/msa/inventory/inventorytest"
	"holdfast/internal/msa/site"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// TestFake: the scripted provider is one.
func TestFake(t *testing.T) {
	p := fake.Filled("a", 50)
	id := func(name string) dr.VMID { return fake.ID("a", name) }
	inventorytest.Run(t, inventorytest.Rig{
		Provider: p, First: "vm-00000", Size: 40 << 30,
		Add:  func(_ *testing.T, name string) { p.Put(site.VM{ID: id(name), Ref: site.Ref(name)}) },
		Drop: func(_ *testing.T, name string) { p.Remove(id(name)) },
		Stop: func(_ *testing.T, name string) { p.Change(id(name), func(vm *site.VM) { vm.Running = false }) },
		File: func(_ *testing.T, name, folder string, tags []string) {
			p.Change(id(name), func(vm *site.VM) { vm.Folder, vm.Tags = site.Ref(folder), tags })
		},
		Net: func(_ *testing.T, name string, isolated bool) {
			inv := *p.Has()
			inv.Networks = append(inv.Networks, site.Network{Ref: site.Ref(name), Isolated: isolated})
			p.Furnish(inv)
		},
		Cut: func(*testing.T) func(*testing.T) {
			p.Cut(errors.New("the cable is out"))
			return func(*testing.T) { p.Cut(nil) }
		},
	})
}

// driver is a host of package hypervisor's fake with one VM that runs.
func driver(name string) (*hvfake.Host, inventory.Endpoint) {
	h := &hvfake.Host{}
	h.Furnish(hypervisor.Estate{
		Host:       hypervisor.EstateHost{Name: name, CPUs: 8, MemoryMiB: 32 << 10},
		Networks:   []hypervisor.EstateNetwork{{Name: "default"}},
		Datastores: []hypervisor.EstateDatastore{{Name: "root", Path: "/"}, {Name: "images", Path: "/images", Size: 1 << 40, Free: 1 << 39}},
	})
	return h, inventory.Endpoint{Name: name, Open: func(context.Context) (hypervisor.Platform, error) { return hvfake.NewPlatform(h), nil }}
}

func guest(name string) hypervisor.VMInfo {
	return hypervisor.VMInfo{
		Running: true, Config: dr.VMConfig{ID: fake.ID("hv", name), Name: name, CPUs: 2, MemoryMiB: 1024, NICs: []dr.NIC{{MAC: "52:54:00:AA:00:01", Network: "default"}}},
		Disks: []hypervisor.LiveDisk{{Name: "vda", Path: "/images/" + name, Size: 1 << 30}},
	}
}

// TestPlatform: drivers of package hypervisor, joined, are a provider.
func TestPlatform(t *testing.T) {
	h, e := driver("node1")
	_, e2 := driver("node2")
	vms := map[string]*hvfake.LiveVM{"first": h.Add(guest("first"), 1)}
	p := inventory.NewPlatform("fake", "a", []inventory.Endpoint{e, e2}, nil)
	inventorytest.Run(t, inventorytest.Rig{
		Provider: p, First: "first", Size: 1 << 30,
		Add:  func(_ *testing.T, name string) { vms[name] = h.Add(guest(name), -1) },
		Drop: func(_ *testing.T, name string) { h.Drop(name) },
		Stop: func(_ *testing.T, name string) {
			vms[name].Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Running = false })
		},
		File: func(_ *testing.T, name, folder string, tags []string) {
			vms[name].Change(hypervisor.ChangedConfig, "", func(i *hypervisor.VMInfo) { i.Place = hypervisor.Place{Folder: folder, Tags: tags} })
		},
	})
}

// TestPlatformAlone: as TestPlatform, with one host, which can be away.
func TestPlatformAlone(t *testing.T) {
	h, e := driver("node1")
	h.Add(guest("first"), -1)
	inventorytest.Run(t, inventorytest.Rig{
		Provider: inventory.NewPlatform("fake", "a", []inventory.Endpoint{e}, nil), First: "first", Size: 1 << 30,
		Cut: func(*testing.T) func(*testing.T) {
			h.Cut(errors.New("the daemon is dead"))
			return func(*testing.T) { h.Cut(nil) }
		},
	})
}

// TestEndpoints: each host has the endpoint that reached it.
func TestEndpoints(t *testing.T) {
	one, e1 := driver("node1")
	_, e2 := driver("node2")
	e1.Address, e2.Address = "unix:///run/2.sock", "unix:///run/1.sock"
	one.Add(guest("first"), -1)
	p := inventory.NewPlatform("fake", "a", []inventory.Endpoint{e2, e1}, nil)
	t.Cleanup(func() { p.Close() })
	f := inventorytest.Follow(t, p)
	want := map[site.Ref]string{"node1": "unix:///run/2.sock", "node2": "unix:///run/1.sock"}
	f.Until(t, "both are told with their endpoints", func() bool {
		for _, h := range f.Places.Hosts {
			if h.Endpoint != want[h.Ref] {
				return false
			}
		}
		return len(f.Places.Hosts) == 2
	})
}

// TestHostAway: what is on a host that is away is not gone, a VM that migrated is
// where it runs, and a host that could not be reached at first comes in later.
func TestHostAway(t *testing.T) {
	one, e1 := driver("node1")
	two, e2 := driver("node2")
	late := make(chan struct{})
	open := e2.Open
	e2.Open = func(ctx context.Context) (hypervisor.Platform, error) {
		select {
		case <-late:
			return open(ctx)
		default:
			return nil, errors.New("not yet")
		}
	}
	a, moving := one.Add(guest("stays"), -1), one.Add(guest("moves"), -1)
	two.Add(guest("other"), -1)
	p := inventory.NewPlatform("fake", "a", []inventory.Endpoint{e1, e2}, nil)
	t.Cleanup(func() { p.Close() })
	f := inventorytest.Follow(t, p)
	f.Until(t, "the host that is there is told", func() bool { return len(f.VMs) == 2 })
	close(late)
	f.Until(t, "the late host comes in", func() bool { return len(f.VMs) == 3 && len(f.Places.Hosts) == 2 })
	two.Add(guest("moves"), -1)
	moving.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Running = false })
	f.Until(t, "the VM has moved", func() bool { return f.Named("moves").Host == "node2" })
	one.Drop("moves")
	two.Cut(errors.New("away"))
	a.Change(hypervisor.ChangedConfig, "", func(i *hypervisor.VMInfo) { i.Config.CPUs = 7 })
	f.Until(t, "the other host's changes go on", func() bool { return f.Named("stays").CPUs == 7 })
	if len(f.VMs) != 3 {
		t.Errorf("VMs of a host that is away are gone: %v", f.VMs)
	}
}

// TestGather: too many changes are all, and nothing is lost.
func TestGather(t *testing.T) {
	g := inventory.NewGather()
	if all, _, open := g.Take(); !all || !open {
		t.Error("the first look is not at everything")
	}
	for i := range 100 {
		g.Note(fake.ID("a", fmt.Sprint(i%10)))
	}
	if all, ids, _ := g.Take(); all || len(ids) != 10 {
		t.Errorf("all %v, %d ids", all, len(ids))
	}
	for i := range 1000 {
		g.Note(fake.ID("a", fmt.Sprint(i)))
	}
	if all, _, _ := g.Take(); !all {
		t.Error("a storm of changes is not everything")
	}
	g.Close()
	if _, _, open := g.Take(); open {
		t.Error("open after its end")
	}
}
