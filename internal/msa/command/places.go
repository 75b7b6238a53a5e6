package command

import (
	"fmt"

	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// places refuses hosts, networks, folders, pools, policies and datastores of this site
// that another site's manager has no reason to name: where this site has mappings with
// it, what they, recovery settings and plans name on our side, and what the VM has now.
// Where it has none, and of a kind of which they say nothing, what its inventory has; but
// mappings that name no network leave VMs on none. A platform's default is empty.
func (m *members) places(n *named) error {
	if n.places == nil && n.host == "" {
		return nil
	}
	inv, err := inventory.Places(m.ctx, m.tx, m.Site)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	g := ground{}
	g.hosts(inv)
	if n.host != "" {
		return g.check("host", n.host)
	}
	if err := g.ours(m, n.places, inv); err != nil {
		return err
	}
	p := n.places
	for what, ref := range map[string]site.Ref{"host": p.Host, "folder": p.Folder, "pool": p.Pool, "policy": p.Policy, "datastore": p.Datastore} {
		if err := g.check(what, ref); err != nil {
			return err
		}
	}
	for i := range p.NICs {
		if err := g.check("network", p.NICs[i].Network); err != nil {
			return err
		}
	}
	return nil
}

// ground is what may be named of this site: kind and name.
type ground map[string]map[site.Ref]bool

func (g ground) add(what string, refs ...site.Ref) {
	if g[what] == nil {
		g[what] = map[site.Ref]bool{"": true}
	}
	for _, r := range refs {
		g[what][r] = true
	}
}

func (g ground) check(what string, ref site.Ref) error {
	if ref == "" || g[what][ref] {
		return nil
	}
	return denied(what+" "+string(ref), "nothing that this site has set up for the other one leads there", "name it in this site's mappings with the other site, or correct the other's")
}

func (g ground) hosts(inv *site.Inventory) {
	if inv == nil {
		return
	}
	for i := range inv.Hosts {
		g.add("host", inv.Hosts[i].Ref)
	}
}

// ours gathers what this site has set up for the other.
func (g ground) ours(m *members, p *mapping.Placement, inv *site.Inventory) error {
	objects, err := catalog.All(m.ctx, m.tx, site.KindMappings, site.KindSettings, site.KindPlan)
	if err != nil {
		return err
	}
	mapped := false
	for _, o := range objects {
		if o, ok := o.(*mapping.Mappings); ok {
			mapped = g.mappings(m, o) || mapped
		}
	}
	for _, what := range []string{"network", "folder", "pool", "policy", "datastore"} {
		if !mapped || what != "network" && !g.says(what) {
			g.all(what, inv)
		}
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *site.RecoverySettings:
			if o.Site == m.Site {
				g.settings(o)
			}
		case *plan.Plan:
			if o.To == m.Site {
				for _, t := range o.TestNetworks {
					g.add("network", t.To)
				}
			}
		}
	}
	vm, err := m.find(site.Ref(p.VM.String()))
	if err != nil {
		return err
	}
	if vm != nil { // where it is it may be again
		g.add("folder", vm.Folder)
		g.add("pool", vm.Pool)
		g.add("policy", vm.Policy)
		for i := range vm.NICs {
			g.add("network", vm.NICs[i].Network)
		}
		for i := range vm.Disks {
			g.add("datastore", vm.Disks[i].Datastore)
		}
	}
	return nil
}

// says reports whether anything of a kind is named.
func (g ground) says(what string) bool {
	for ref := range g[what] {
		if ref != "" {
			return true
		}
	}
	return false
}

// mappings adds our side of mappings, if they are with the other site.
func (g ground) mappings(m *members, o *mapping.Mappings) bool {
	to := o.To == m.Site && o.From == m.p.Site
	if !to && (o.From != m.Site || o.To != m.p.Site) {
		return false
	}
	side := func(x mapping.Pair) []site.Ref {
		if to {
			return []site.Ref{x.To}
		}
		return []site.Ref{x.From, x.ReverseTo}
	}
	for _, x := range o.Networks {
		if to {
			g.add("network", x.To, x.Test)
		} else {
			g.add("network", x.From, x.ReverseTo, x.ReverseTest)
		}
	}
	for what, pairs := range map[string][]mapping.Pair{"folder": o.Folders, "pool": o.Pools, "policy": o.Policies} {
		for _, x := range pairs {
			g.add(what, side(x)...)
		}
	}
	if to {
		g.add("network", o.Default.Network)
		g.add("folder", o.Default.Folder)
		g.add("pool", o.Default.Pool)
		g.add("policy", o.Default.Policy)
		g.add("datastore", o.Default.Datastore)
	}
	return true
}

func (g ground) settings(o *site.RecoverySettings) {
	g.add("folder", o.TargetFolder)
	g.add("pool", o.Pool)
	g.add("policy", o.Policy)
	g.add("datastore", o.Datastore)
	for i := range o.NICs {
		g.add("network", o.NICs[i].Network, o.NICs[i].Test)
	}
}

// all adds what the inventory has of a kind.
func (g ground) all(what string, inv *site.Inventory) {
	if inv == nil {
		return
	}
	switch what {
	case "network":
		for i := range inv.Networks {
			g.add(what, inv.Networks[i].Ref)
		}
	case "folder":
		for i := range inv.Folders {
			g.add(what, inv.Folders[i].Ref)
		}
	case "pool":
		for i := range inv.Pools {
			g.add(what, inv.Pools[i].Ref)
		}
	case "datastore":
		for i := range inv.Datastores {
			g.add(what, inv.Datastores[i].Ref)
		}
	case "policy":
		g.add(what, inv.Policies...)
	}
}

// where says how a refusal is noted.
func where(c *Command) string {
	return fmt.Sprintf("plan %s, run %s, step %s", c.Plan, c.Run, c.Step)
}
