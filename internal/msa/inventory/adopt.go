package inventory

import (
	"cmp"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// Adoption is VMs that a domain's rules take in.
type Adoption struct {
	Domain site.Name
	VMs    []*site.VM // in order of id
}

// Refusal is a VM that rules match and that nobody adopts.
type Refusal struct {
	VM      *site.VM
	Domains []site.Name // whose rules match, in order
	Why     string
}

// Adoptions decides which VMs of a site the rules of domains take in: those that are
// in no domain, and that the rules of one domain match. What two domains want is
// nobody's, and so is what a domain has no room for. A VM that was recovered here is
// still in the domain it was protected by, wherever that is: views are of all sites.
// It is pure.
func Adoptions(of site.Name, views map[site.Name]*site.View, domains []*site.ProtectedDomain) (list []Adoption, refused []Refusal) {
	taken := members(views, domains)
	wants := map[dr.VMID][]*site.ProtectedDomain{}
	vms := map[dr.VMID]*site.VM{}
	for _, d := range domains {
		if d.From != of || len(d.Adopt) == 0 {
			continue
		}
		for _, vm := range views[of].Adoptable(d, func(id dr.VMID) bool { return taken[id] }) {
			wants[vm.ID], vms[vm.ID] = append(wants[vm.ID], d), vm
		}
	}
	by := map[site.Name][]*site.VM{}
	for id, ds := range wants {
		if len(ds) > 1 {
			r := Refusal{VM: vms[id], Why: "the rules of several domains match it"}
			for _, d := range ds {
				r.Domains = append(r.Domains, d.Name)
			}
			slices.Sort(r.Domains)
			refused = append(refused, r)
			continue
		}
		by[ds[0].Name] = append(by[ds[0].Name], vms[id])
	}
	for _, d := range domains {
		found := by[d.Name]
		slices.SortFunc(found, func(a, b *site.VM) int { return compareIDs(a.ID, b.ID) })
		room := max(0, site.MaxDomainVMs-len(d.VMs))
		for _, vm := range found[min(room, len(found)):] {
			refused = append(refused, Refusal{VM: vm, Domains: []site.Name{d.Name}, Why: "the domain has as many VMs as it may have"})
		}
		if found = found[:min(room, len(found))]; len(found) > 0 {
			list = append(list, Adoption{d.Name, found})
		}
	}
	slices.SortFunc(list, func(a, b Adoption) int { return cmp.Compare(a.Domain, b.Domain) })
	slices.SortFunc(refused, func(a, b Refusal) int { return compareIDs(a.VM.ID, b.VM.ID) })
	return list, refused
}

// members returns every VM that is in a domain: by the inventory of the site that
// protects it, and by the ids that domains name.
func members(views map[site.Name]*site.View, domains []*site.ProtectedDomain) map[dr.VMID]bool {
	taken := map[dr.VMID]bool{}
	for _, d := range domains {
		var ignored problem.List // what cannot be found is told when the domain is checked
		for _, vm := range views[d.From].Members(d, problem.For(&ignored, string(d.Name))) {
			taken[vm.ID] = true
		}
		for _, ref := range d.VMs {
			if u, err := dr.ParseUUID(string(ref)); err == nil {
				taken[dr.VMID{UUID: u}] = true
			}
		}
	}
	return taken
}
