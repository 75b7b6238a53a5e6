package mapping

import (
	"fmt"
	"net/netip"
	"strings"

	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// Gaps adds all that would go wrong in a recovery of VMs by the resolver's
// mappings, live and in a test, and on the way back.
func (r *Resolver) Gaps(vms []*site.VM, l *problem.List) {
	for _, use := range []Use{Live, Test} {
		seen := newNeighbours(r, use)
		if use == Live {
			seen.settle(vms)
		}
		for _, vm := range vms {
			c := problem.For(l, fmt.Sprintf("VM %s (%s)", vm.Ref, use))
			var found problem.List
			p := r.Resolve(vm, use, problem.For(&found, c.Object()))
			if use == Test {
				found = onlyTest(found)
			}
			l.Merge(found)
			r.addresses(&p, use, c)
			seen.add(&p, c)
		}
	}
	r.wayBack(vms, l)
}

// onlyTest leaves out what was told for the live recovery already.
func onlyTest(found problem.List) problem.List {
	var l problem.List
	for _, p := range found.All {
		if strings.HasPrefix(p.Field, "nics") {
			l.Add(p)
		}
	}
	l.More = found.More
	return l
}

// addresses tells which addresses are not in the subnets of their network.
func (r *Resolver) addresses(p *Placement, use Use, c problem.Checker) {
	for i := range p.NICs {
		n := &p.NICs[i]
		if use == Test && n.Network == "" || r.to == nil {
			continue
		}
		at := r.to.Networks[n.Network]
		if at == nil || len(at.Subnets) == 0 {
			continue
		}
		for _, a := range n.Config.Addresses {
			if !within(a, at.Subnets) {
				c.Index("nics", n.Index).Warn(Outside, fmt.Sprintf("%s is in no subnet of %q", a, n.Network), "correct the rule or the card's setting")
			}
		}
	}
}

// within reports whether an address is in one of some subnets, with its prefix.
func within(a netip.Prefix, subnets []netip.Prefix) bool {
	for _, s := range subnets {
		if s.Contains(a.Addr()) && s.Bits() == a.Bits() {
			return true
		}
	}
	return false
}

// neighbours is who has which address, on which network.
type neighbours struct {
	r     *Resolver
	use   Use
	owner map[string]string
}

func newNeighbours(r *Resolver, use Use) *neighbours {
	return &neighbours{r, use, map[string]string{}}
}

// settle enters the addresses that VMs at the recovery site have now, but for
// those that are recovered: they may be there already, from a recovery before.
func (s *neighbours) settle(recovered []*site.VM) {
	skip := map[string]bool{}
	for _, vm := range recovered {
		skip[vm.ID.String()] = true
	}
	for _, vm := range s.r.to.All() {
		if skip[vm.ID.String()] {
			continue
		}
		for _, n := range vm.NICs {
			for _, a := range n.Addresses {
				if site.Unusable(a) == "" {
					s.owner["net "+string(n.Network)+" "+a.Addr().String()] = "VM " + string(vm.Ref) + ", which is there now,"
				}
			}
			if n.MAC != "" {
				s.owner["net "+string(n.Network)+" "+n.MAC] = "VM " + string(vm.Ref) + ", which is there now,"
			}
		}
	}
}

// add tells whose addresses a placement has as well, and enters its own.
func (s *neighbours) add(p *Placement, c problem.Checker) {
	who := "VM " + string(p.Name)
	for i := range p.NICs {
		n := &p.NICs[i]
		net := "net " + string(n.Network) + " "
		if n.Network == "" {
			net = "isolated " + string(n.Isolated) + " "
		}
		keys := []string{}
		for _, a := range n.Config.Addresses {
			keys = append(keys, a.Addr().String())
		}
		if n.MAC != "" {
			keys = append(keys, n.MAC)
		}
		for _, k := range keys {
			if o, taken := s.owner[net+k]; taken {
				c.Index("nics", n.Index).Block(Conflict, fmt.Sprintf("%s has %s as well", o, k), "give one of the two another")
				continue
			}
			s.owner[net+k] = who
		}
		for _, a := range n.Config.Addresses {
			for _, g := range n.Config.Gateways {
				if a.Addr() == g {
					c.Index("nics", n.Index).Block(Conflict, fmt.Sprintf("%s is the gateway's address", g), "give the VM another")
				}
			}
		}
	}
}

// wayBack tells what of the VMs' places has no way back, once for each place.
func (r *Resolver) wayBack(vms []*site.VM, l *problem.List) {
	c := problem.For(l, site.Label(r.m))
	told := map[string]bool{}
	tell := func(field string, p *Pair) {
		if p == nil || p.back() != "" || told[field+string(p.From)] {
			return
		}
		told[field+string(p.From)] = true
		c.At(field).Warn(NoReverse, fmt.Sprintf("there is no way back from %q, to which %q is mapped", p.To, p.From),
			"set reverse: yes, or different with a place; else reprotect and failback have none")
	}
	for _, vm := range vms {
		tell("folders", r.folders[vm.Folder])
		tell("pools", r.pools[vm.Pool])
		tell("policies", r.policies[vm.Policy])
		for _, n := range vm.NICs {
			if pair := r.networks[n.Network]; pair != nil {
				p := pair.pair()
				tell("networks", &p)
			}
		}
	}
}
