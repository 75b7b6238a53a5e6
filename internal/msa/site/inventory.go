package site

import (
	"fmt"
	"net/netip"

	"holdfast/internal/dr"
	"holdfast/internal/msa/problem"
)

// Inventory is what a site's platform has, as its provider last told. It is plain
// data; a View of it answers questions.
type Inventory struct {
	Site       Name        `json:"site"`
	Hosts      []Host      `json:"hosts,omitempty"`
	VMs        []VM        `json:"vms,omitempty"`
	Networks   []Network   `json:"networks,omitempty"`
	Folders    []Folder    `json:"folders,omitempty"`
	Pools      []Pool      `json:"pools,omitempty"`
	Datastores []Datastore `json:"datastores,omitempty"`
	Policies   []Ref       `json:"policies,omitempty"` // storage policies
}

// Host is a hypervisor host.
type Host struct {
	Ref         Ref       `json:"ref"`
	ID          dr.HostID `json:"id,omitzero"` // of its host component; zero: it has none
	Pool        Ref       `json:"pool,omitempty"`
	CPUs        int       `json:"cpus,omitempty"`
	MemoryMiB   int64     `json:"memory_mib,omitempty"`
	Maintenance bool      `json:"maintenance,omitempty"`
	Standby     bool      `json:"standby,omitempty"` // powered down to save energy; a recovery wakes it
	// Endpoint is the one of its site that reached it, as the site has it; empty: the
	// platform's default, or one that reaches all hosts.
	Endpoint string `json:"endpoint,omitempty"`
}

// VM is a virtual machine as the platform has it.
type VM struct {
	ID        dr.VMID  `json:"id"`
	Ref       Ref      `json:"ref"` // its name
	Host      Ref      `json:"host,omitempty"`
	Folder    Ref      `json:"folder,omitempty"`
	Pool      Ref      `json:"pool,omitempty"`
	Policy    Ref      `json:"policy,omitempty"` // storage policy
	Tags      []string `json:"tags,omitempty"`
	CPUs      int      `json:"cpus,omitempty"`
	MemoryMiB int64    `json:"memory_mib,omitempty"`
	Running   bool     `json:"running,omitempty"`
	Agent     bool     `json:"agent,omitempty"` // a guest agent has answered
	Disks     []VMDisk `json:"disks,omitempty"`
	NICs      []VMNIC  `json:"nics,omitempty"`
	// PlaceholderFor is set of a placeholder alone: the protected VM it stands for.
	PlaceholderFor dr.VMID `json:"placeholder_for,omitzero"`
}

// VMDisk is a disk of a VM.
type VMDisk struct {
	Name      string `json:"name"`
	Size      int64  `json:"size"` // bytes
	Datastore Ref    `json:"datastore,omitempty"`
	Protected bool   `json:"protected,omitempty"`
}

// VMNIC is a network card of a VM, with the addresses its guest has told.
type VMNIC struct {
	MAC       string         `json:"mac,omitempty"`
	Network   Ref            `json:"network"`
	Addresses []netip.Prefix `json:"addresses,omitempty"` // as 10.1.0.12/24
}

// Network is a network VMs can be on.
type Network struct {
	Ref      Ref            `json:"ref"`
	Subnets  []netip.Prefix `json:"subnets,omitempty"`  // that are known to be on it
	Isolated bool           `json:"isolated,omitempty"` // reaches nothing else: fit for tests
}

// Folder is where a platform files VMs: a path with slashes.
type Folder struct {
	Ref Ref `json:"ref"`
}

// Pool is where VMs run: a cluster, resource pool or host group.
type Pool struct {
	Ref       Ref   `json:"ref"`
	CPUs      int   `json:"cpus,omitempty"`       // of its hosts; 0: not known
	MemoryMiB int64 `json:"memory_mib,omitempty"` // 0: not known
}

// Datastore is where VMs' disks lie.
type Datastore struct {
	Ref   Ref   `json:"ref"`
	Pools []Ref `json:"pools,omitempty"` // whose hosts reach it; empty: all
	Size  int64 `json:"size,omitempty"`  // bytes; 0: not known
	Free  int64 `json:"free,omitempty"`  // bytes
}

// Check adds every problem an inventory has by itself: what a provider says is
// bounded and checked as what people write is.
func (inv *Inventory) Check(l *problem.List) {
	c := problem.For(l, "inventory of "+string(inv.Site))
	needName(c, "site", inv.Site, "site")
	for _, n := range []struct {
		field   string
		n, most int
	}{
		{"hosts", len(inv.Hosts), MaxHosts}, {"vms", len(inv.VMs), MaxVMs}, {"networks", len(inv.Networks), MaxPlaces},
		{"folders", len(inv.Folders), MaxPlaces}, {"pools", len(inv.Pools), MaxPlaces},
		{"datastores", len(inv.Datastores), MaxPlaces}, {"policies", len(inv.Policies), MaxPlaces},
	} {
		c.Count(n.field, n.n, n.most)
	}
	problem.Unique(c, "networks", inv.Networks, func(n Network) string { return string(n.Ref) })
	problem.Unique(c, "vms", inv.VMs, func(v VM) string { return v.ID.String() })
	for i := range inv.VMs {
		inv.VMs[i].check(c.Index("vms", i))
	}
	for i, n := range inv.Networks {
		c.Index("networks", i).NeedText("ref", string(n.Ref), MaxRef)
	}
}

func (v *VM) check(c problem.Checker) {
	c.NeedText("ref", string(v.Ref), MaxRef)
	if v.ID.IsZero() {
		c.At("id").Block(problem.Missing, "the VM has no id", "read the inventory again")
	}
	c.Count("disks", len(v.Disks), MaxDisks)
	c.Count("nics", len(v.NICs), MaxNICs)
	c.Count("tags", len(v.Tags), MaxTags)
	for i, n := range v.NICs {
		c.Index("nics", i).Count("addresses", len(n.Addresses), MaxAddresses)
	}
}

// View answers questions about an inventory in constant time. It is made once
// and only read, by anyone. A nil View is of an empty inventory.
type View struct {
	Site       Name
	Networks   map[Ref]*Network
	Folders    map[Ref]bool
	Pools      map[Ref]*Pool
	Datastores map[Ref]*Datastore
	Policies   map[Ref]bool
	vms        map[Ref][]*VM // by name and by id
	all        []*VM
}

// NewView returns a view of inv, which must not change any more.
func NewView(inv *Inventory) *View {
	v := &View{
		Site: inv.Site, Networks: map[Ref]*Network{}, Folders: map[Ref]bool{}, Pools: map[Ref]*Pool{},
		Datastores: map[Ref]*Datastore{}, Policies: map[Ref]bool{}, vms: make(map[Ref][]*VM, 2*len(inv.VMs)),
	}
	for i := range inv.Networks {
		v.Networks[inv.Networks[i].Ref] = &inv.Networks[i]
	}
	for _, f := range inv.Folders {
		v.Folders[f.Ref] = true
	}
	for i := range inv.Pools {
		v.Pools[inv.Pools[i].Ref] = &inv.Pools[i]
	}
	for i := range inv.Datastores {
		v.Datastores[inv.Datastores[i].Ref] = &inv.Datastores[i]
	}
	for _, p := range inv.Policies {
		v.Policies[p] = true
	}
	for i := range inv.VMs {
		vm := &inv.VMs[i]
		v.all = append(v.all, vm)
		v.vms[vm.Ref] = append(v.vms[vm.Ref], vm)
		if id := Ref(vm.ID.String()); id != vm.Ref {
			v.vms[id] = append(v.vms[id], vm)
		}
	}
	return v
}

// All returns every VM, in the inventory's order.
func (v *View) All() []*VM {
	if v == nil {
		return nil
	}
	return v.all
}

// VM finds a VM by name or id. None or several: nil, with why.
func (v *View) VM(ref Ref) (vm *VM, code problem.Code, why string) {
	if v == nil {
		return nil, problem.Unknown, "the inventory is not known"
	}
	found := v.vms[ref]
	switch len(found) {
	case 0:
		return nil, problem.Unknown, fmt.Sprintf("no VM at %s is called %q", v.Site, ref)
	case 1:
		return found[0], "", ""
	}
	return nil, problem.Ambiguous, fmt.Sprintf("%d VMs at %s are called %q: %s and %s among them", len(found), v.Site, ref, found[0].ID, found[1].ID)
}

// Members returns the VMs that a domain names, each once. What cannot be found is
// told to c. Those its rules match are not members until they are adopted.
func (v *View) Members(d *ProtectedDomain, c problem.Checker) []*VM {
	var list []*VM
	seen := make(map[dr.VMID]bool, len(d.VMs))
	for i, ref := range d.VMs {
		vm, code, why := v.VM(ref)
		switch {
		case vm == nil:
			c.Index("vms", i).Block(code, why, "correct the name, or use the VM's id")
		case seen[vm.ID]:
			c.Index("vms", i).Block(problem.Duplicate, fmt.Sprintf("%q is VM %s, which is named before", ref, vm.ID), "name each VM once")
		default:
			seen[vm.ID] = true
			list = append(list, vm)
		}
	}
	return list
}

// Adoptable returns the VMs that a domain's rules match and that are in no domain:
// whoever adopts them adds their ids to the domain. taken says which VMs are in
// one, this domain among them. Placeholders are never adopted.
func (v *View) Adoptable(d *ProtectedDomain, taken func(dr.VMID) bool) []*VM {
	var list []*VM
	for _, vm := range v.All() {
		for _, r := range d.Adopt {
			if r.Matches(vm) && vm.PlaceholderFor.IsZero() && !taken(vm.ID) {
				list = append(list, vm)
				break
			}
		}
	}
	return list
}
