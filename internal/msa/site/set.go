package site

import (
	"cmp"
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/msa/problem"
)

// CheckSet adds what is wrong between objects: names that are twice or lead
// nowhere, and VMs in two domains. views are by site; a site without one is not
// looked into. Each object's own Check is called as well.
func CheckSet(l *problem.List, objects []Object, views map[Name]*View) {
	names := map[string]Object{}
	for _, o := range objects {
		o.Check(l)
		label := Label(o)
		if _, twice := names[label]; twice {
			problem.For(l, label).At("name").Block(problem.Duplicate, "two objects have this name", "rename one")
		}
		names[label] = o
	}
	has := func(k Kind, n Name) bool { _, ok := names[string(k)+" "+string(n)]; return ok }
	for _, o := range objects {
		c := problem.For(l, Label(o))
		for _, r := range References(o) {
			if r.Name != "" && !has(r.Kind, r.Name) {
				c.At(r.Field).Block(problem.Unknown, fmt.Sprintf("there is no %s %q", r.Kind, r.Name), "correct the name, or make it first")
			}
		}
	}
	checkMembership(l, objects, views)
	checkRoles(l, objects, names)
}

// Reference is a name in one object that another object has.
type Reference struct {
	Field string
	Kind  Kind
	Name  Name
}

// Referrer is what an object of another package does that refers to objects.
type Referrer interface {
	// References lists the names in it.
	References() []Reference
}

// References lists the names of other objects in o.
func References(o Object) []Reference {
	switch o := o.(type) {
	case *SitePair:
		// The peer is described here or at the peer itself.
		return []Reference{{"local", KindSite, o.Local}, {"peer", KindSite, o.Peer}}
	case *Store:
		return []Reference{{"site", KindSite, o.Site}}
	case *Appliance:
		return []Reference{{"site", KindSite, o.Site}}
	case *ProtectedDomain:
		refs := []Reference{{"from", KindSite, o.From}, {"to", KindSite, o.To}, {"appliance", KindBox, o.Appliance}}
		for i, s := range o.Stores {
			refs = append(refs, Reference{fmt.Sprintf("stores[%d]", i), KindStore, s})
		}
		return refs
	case *RecoverySettings:
		return []Reference{{"site", KindSite, o.Site}}
	case Referrer:
		return o.References()
	}
	return nil
}

// checkMembership finds VMs in two domains, and members that are nowhere.
func checkMembership(l *problem.List, objects []Object, views map[Name]*View) {
	owner := map[dr.VMID]Name{}
	named := map[string]Name{} // by site and name, where no inventory is known
	for _, o := range objects {
		d, ok := o.(*ProtectedDomain)
		if !ok {
			continue
		}
		c := problem.For(l, Label(d))
		twice := func(vm string, first Name) {
			c.At("vms").Block(problem.Duplicate, fmt.Sprintf("VM %s is in domain %s as well", vm, first), "a VM is in one domain: remove it from one of the two")
		}
		view := views[d.From]
		if view == nil {
			for _, ref := range d.VMs {
				key := string(d.From) + "/" + string(ref)
				if first, ok := named[key]; ok && first != d.Name {
					twice(string(ref), first)
				}
				named[key] = d.Name
			}
			continue
		}
		for _, vm := range view.Members(d, c) {
			if first, ok := owner[vm.ID]; ok {
				twice(string(vm.Ref), first)
				continue
			}
			owner[vm.ID] = d.Name
		}
	}
}

// checkRoles finds domains on appliances that are no DRVA, or at another site, and
// stores that nothing can be published to.
func checkRoles(l *problem.List, objects []Object, names map[string]Object) {
	for _, o := range objects {
		d, ok := o.(*ProtectedDomain)
		if !ok {
			continue
		}
		c := problem.For(l, Label(d))
		if a, ok := names[string(KindBox)+" "+string(d.Appliance)].(*Appliance); ok {
			if a.Role != DRVA {
				c.At("appliance").Block(problem.Contrary, fmt.Sprintf("%s is a %s", a.Name, a.Role), "name a DRVA")
			} else if a.Site != d.From {
				c.At("appliance").Warn(problem.Contrary, fmt.Sprintf("%s is at %s, the domain at %s", a.Name, a.Site, d.From), "choose a DRVA near the VMs: every write goes there")
			}
		}
		for i, n := range d.Stores {
			s, ok := names[string(KindStore)+" "+string(n)].(*Store)
			if !ok {
				continue
			}
			if s.ReadOnly {
				c.Index("stores", i).Block(problem.Contrary, "the store is for recovery alone", "name a store that can be published to")
			}
			if s.Site == d.From && len(d.Stores) == 1 {
				c.Index("stores", i).Warn(problem.Contrary, "the domain's only store is lost together with its site", "add a store elsewhere")
			}
		}
	}
}

// SortObjects puts objects in the order in which they are applied, by kind and
// then by name.
func SortObjects(objects []Object) {
	order := Kinds()
	slices.SortStableFunc(objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind()), slices.Index(order, b.Kind())), cmp.Compare(a.Head().Name, b.Head().Name))
	})
}
