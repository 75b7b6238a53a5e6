package plan_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/msa/file"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// vmID is the id of the n-th VM of a test.
func vmID(n int) dr.VMID {
	var id dr.VMID
	binary.BigEndian.PutUint32(id.UUID[:], uint32(n))
	return id
}

func vm(n int, name site.Ref, nics ...site.VMNIC) site.VM {
	return site.VM{ID: vmID(n), Ref: name, Folder: "prod/erp", Pool: "cluster-a", CPUs: 2, MemoryMiB: 2048, Agent: true, NICs: nics,
		Disks: []site.VMDisk{{Name: "disk0", Size: 10 << 30, Protected: true}}}
}

func nic(network site.Ref, addresses ...string) site.VMNIC {
	n := site.VMNIC{Network: network}
	for _, a := range addresses {
		n.Addresses = append(n.Addresses, netip.MustParsePrefix(a))
	}
	return n
}

// inventories are those of the sites of testdata/erp.yaml.
func inventories() (a, b *site.Inventory) {
	a = &site.Inventory{Site: "a", VMs: []site.VM{
		vm(1, "db", nic("lan", "10.1.0.10/24")), vm(2, "web", nic("lan", "10.1.0.11/24", "2001:db8:1::11/64"), nic("dmz")),
		vm(3, "batch"), vm(4, "mail", nic("lan", "10.1.0.12/24")), vm(5, "relay", nic("dmz", "198.51.100.9/24")), vm(6, "other"),
	}, Networks: []site.Network{{Ref: "lan"}, {Ref: "dmz"}, {Ref: "bubble-a", Isolated: true}}, Pools: []site.Pool{{Ref: "cluster-a"}},
		Folders: []site.Folder{{Ref: "prod"}}, Datastores: []site.Datastore{{Ref: "fast"}}}
	b = &site.Inventory{Site: "b", VMs: []site.VM{vm(50, "lab")},
		Networks: []site.Network{{Ref: "lan-b", Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24"), netip.MustParsePrefix("2001:db8:2::/64")}},
			{Ref: "dmz-b"}, {Ref: "bubble", Isolated: true}},
		Pools: []site.Pool{{Ref: "cluster-b", MemoryMiB: 64 << 10}}, Folders: []site.Folder{{Ref: "dr/prod"}},
		Datastores: []site.Datastore{{Ref: "fast", Size: 1 << 40, Free: 1 << 39}}}
	return a, b
}

// world is testdata/erp.yaml with its inventories.
func world(t testing.TB) (*plan.Plan, *plan.View) {
	t.Helper()
	b, err := os.ReadFile("testdata/erp.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, _, err := file.Parse("erp.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	ia, ib := inventories()
	v := &plan.View{Domains: map[site.Name]*site.ProtectedDomain{}, Protected: site.NewView(ia), Recovery: site.NewView(ib)}
	var l problem.List
	site.CheckSet(&l, objects, map[site.Name]*site.View{"a": v.Protected, "b": v.Recovery})
	if len(l.All) > 0 {
		t.Fatalf("%v", l.All)
	}
	var p *plan.Plan
	for _, o := range objects {
		switch o := o.(type) {
		case *plan.Plan:
			p = o
		case *site.ProtectedDomain:
			v.Domains[o.Name] = o
		case *mapping.Mappings:
			v.Mappings = o
		case *site.RecoverySettings:
			v.Settings = append(v.Settings, o)
		case *site.Site:
			if o.Name == "b" {
				v.Site = o
			}
		}
	}
	return p, v
}

// large is a plan of n VMs in domains of 100.
func large(n int) (*plan.Plan, *plan.View) {
	inv := &site.Inventory{Site: "a"}
	v := &plan.View{Domains: map[site.Name]*site.ProtectedDomain{}}
	p := &plan.Plan{Meta: site.Meta{Name: "large"}, From: "a", To: "b"}
	retention := site.Retention{Schedule: []site.Slot{{For: site.Span(24 * 3600e9)}}}
	var d *site.ProtectedDomain
	for i := range n {
		if i%100 == 0 {
			d = &site.ProtectedDomain{Meta: site.Meta{Name: site.Name(fmt.Sprintf("d%d", i/100))}, From: "a", To: "b", Stores: []site.Name{"s"}, Retention: retention}
			v.Domains[d.Name] = d
			p.Domains = append(p.Domains, d.Name)
		}
		name := site.Ref(fmt.Sprintf("vm%04d", i))
		inv.VMs = append(inv.VMs, vm(i+1, name, nic("lan", fmt.Sprintf("10.1.%d.%d/16", i/250, 1+i%250))))
		d.VMs = append(d.VMs, name)
		set := plan.VM{VM: name, Priority: 1 + i%5, Post: []plan.Callout{{Name: "post", Run: plan.InGuest, Script: plan.Script{Command: []string{"/bin/true"}}}}}
		if i >= 5 {
			set.After = []site.Ref{site.Ref(fmt.Sprintf("vm%04d", i-5))}
		}
		p.VMs = append(p.VMs, set)
	}
	v.Protected = site.NewView(inv)
	v.Mappings = &mapping.Mappings{Meta: site.Meta{Name: "m"}, From: "a", To: "b",
		Networks: []mapping.NetworkPair{{From: "lan", To: "lan-b"}}, Pools: []mapping.Pair{{From: "cluster-a", To: "cluster-b"}},
		Folders: []mapping.Pair{{From: "prod", To: "dr"}},
		Rules:   []mapping.Rule{{From: mapping.Subnet{Prefix: netip.MustParsePrefix("10.1.0.0/16")}, To: mapping.Subnet{Prefix: netip.MustParsePrefix("10.2.0.0/16")}}}}
	return p, v
}
