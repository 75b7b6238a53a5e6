package inventory

import (
	"cmp"
	"slices"
	"strings"

	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/site"
)

// translate renders what a driver tells in the manager's words. A host is a pool of
// its own: these platforms know none that spans hosts.
func translate(info *hypervisor.VMInfo, e hypervisor.Estate) site.VM {
	c := &info.Config
	vm := site.VM{
		ID: c.ID, Ref: site.Ref(c.Name), Host: site.Ref(e.Host.Name), Pool: site.Ref(e.Host.Name), Folder: site.Ref(info.Place.Folder),
		Tags: slices.Clone(info.Place.Tags), CPUs: c.CPUs, MemoryMiB: c.MemoryMiB, Running: info.Running, Agent: info.Agent,
		PlaceholderFor: info.Place.For,
	}
	for _, d := range info.Disks {
		vm.Disks = append(vm.Disks, site.VMDisk{Name: d.Name, Size: d.Size, Datastore: datastoreOf(e, d.Path), Protected: d.Attached})
	}
	for _, n := range c.NICs {
		vm.NICs = append(vm.NICs, site.VMNIC{MAC: strings.ToLower(n.MAC), Network: site.Ref(n.Network)})
	}
	return vm
}

// datastoreOf finds the datastore a path is in: the one with the longest path.
func datastoreOf(e hypervisor.Estate, path string) (ref site.Ref) {
	longest := 0
	for _, d := range e.Datastores {
		inside := d.Path != "" && len(path) > len(d.Path) && strings.HasPrefix(path, d.Path) && (path[len(d.Path)] == '/' || d.Path == "/")
		if inside && len(d.Path) > longest {
			ref, longest = site.Ref(d.Name), len(d.Path)
		}
	}
	return ref
}

// addEstate adds a host's estate. Networks and datastores of one name on several
// hosts are taken for one, reached by all of them.
func addEstate(inv *site.Inventory, e hypervisor.Estate, address string) {
	host := site.Ref(e.Host.Name)
	inv.Hosts = append(inv.Hosts, site.Host{Ref: host, Pool: host, CPUs: e.Host.CPUs, MemoryMiB: e.Host.MemoryMiB, Endpoint: address})
	inv.Pools = append(inv.Pools, site.Pool{Ref: host, CPUs: e.Host.CPUs, MemoryMiB: e.Host.MemoryMiB})
	for _, n := range e.Networks {
		i := slices.IndexFunc(inv.Networks, func(o site.Network) bool { return o.Ref == site.Ref(n.Name) })
		if i < 0 {
			inv.Networks = append(inv.Networks, site.Network{Ref: site.Ref(n.Name), Subnets: n.Subnets, Isolated: n.Isolated})
			continue
		}
		inv.Networks[i].Isolated = inv.Networks[i].Isolated && n.Isolated
		for _, s := range n.Subnets {
			if !slices.Contains(inv.Networks[i].Subnets, s) {
				inv.Networks[i].Subnets = append(inv.Networks[i].Subnets, s)
			}
		}
	}
	for _, d := range e.Datastores {
		free := d.Free
		if grain := d.Size / freeGrain; grain > 0 {
			free -= free % grain
		}
		i := slices.IndexFunc(inv.Datastores, func(o site.Datastore) bool { return o.Ref == site.Ref(d.Name) })
		if i < 0 {
			inv.Datastores = append(inv.Datastores, site.Datastore{Ref: site.Ref(d.Name), Pools: []site.Ref{host}, Size: d.Size, Free: free})
			continue
		}
		had := &inv.Datastores[i]
		had.Pools = append(had.Pools, host)
		had.Size, had.Free = min(had.Size, d.Size), min(had.Free, free) // what each of them can count on
	}
	for _, f := range e.Folders {
		inv.Folders = append(inv.Folders, site.Folder{Ref: site.Ref(f)})
	}
}

// addUsed adds what is known by its use alone: folders that VMs are filed in, with
// those above, and networks that cards are on.
func addUsed(inv *site.Inventory, vms []site.VM) {
	folders, networks := map[site.Ref]bool{}, map[site.Ref]bool{}
	for _, f := range inv.Folders {
		folders[f.Ref] = true
	}
	for _, n := range inv.Networks {
		networks[n.Ref] = true
	}
	for i := range vms {
		for f := vms[i].Folder; f != "" && len(folders) < site.MaxPlaces; f = above(f) {
			if !folders[f] {
				folders[f] = true
				inv.Folders = append(inv.Folders, site.Folder{Ref: f})
			}
		}
		for _, n := range vms[i].NICs {
			if n.Network != "" && !networks[n.Network] && len(networks) < site.MaxPlaces {
				networks[n.Network] = true
				inv.Networks = append(inv.Networks, site.Network{Ref: n.Network})
			}
		}
	}
}

// order puts an inventory in order.
func order(inv *site.Inventory) {
	slices.SortFunc(inv.Hosts, func(a, b site.Host) int { return cmp.Compare(a.Ref, b.Ref) })
	slices.SortFunc(inv.Pools, func(a, b site.Pool) int { return cmp.Compare(a.Ref, b.Ref) })
	slices.SortFunc(inv.Networks, func(a, b site.Network) int { return cmp.Compare(a.Ref, b.Ref) })
	slices.SortFunc(inv.Datastores, func(a, b site.Datastore) int { return cmp.Compare(a.Ref, b.Ref) })
	slices.SortFunc(inv.Folders, func(a, b site.Folder) int { return cmp.Compare(a.Ref, b.Ref) })
	inv.Folders = slices.Compact(inv.Folders)
	slices.SortFunc(inv.VMs, func(a, b site.VM) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
}

// above is the folder a folder is in; empty: it is at the root.
func above(f site.Ref) site.Ref {
	if i := strings.LastIndexByte(string(f), '/'); i > 0 {
		return f[:i]
	}
	return ""
}
