package mapping

import (
	"fmt"
	"net/netip"

	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

func (m *Mappings) checkRules(c problem.Checker) {
	c.Count("rules", len(m.Rules), MaxRules)
	if len(m.Rules) > MaxRules {
		return // pairs are compared below
	}
	for i := range m.Rules {
		m.Rules[i].check(c.Index("rules", i))
	}
	for i := range m.Rules {
		for j := range i {
			overlap(c.Index("rules", i), &m.Rules[i], &m.Rules[j], j)
		}
	}
}

func (r *Rule) check(c problem.Checker) {
	problem.OneOf(c, "use", r.Use, Both, Live, Test)
	c.Text("network", string(r.Network), site.MaxRef)
	from, to := r.From.Prefix, r.To.Prefix
	ok := true
	for _, s := range []struct {
		field  string
		subnet *Subnet
	}{{"from", &r.From}, {"to", &r.To}} {
		ok = s.subnet.check(c.At(s.field)) && ok
	}
	if !ok {
		return
	}
	switch {
	case from.Addr().Is4() != to.Addr().Is4():
		c.Block(problem.Contrary, "a v4 subnet and a v6 subnet", "write one rule for each family")
	case from.Bits() != to.Bits():
		c.At("to").Block(problem.Contrary, fmt.Sprintf("%s has %d bits, %s has %d", from, from.Bits(), to, to.Bits()),
			"use prefixes of one length: the host's part stays as it is")
	}
	if len(r.To.Gateways) > 0 && len(r.From.Gateways) == 0 {
		c.At("from").Warn(NoReverse, "failback will set no gateway", "give the gateway of "+from.String()+" as well")
	}
}

// check reports whether the subnet is one.
func (s *Subnet) check(c problem.Checker) bool {
	p := s.Prefix
	if !p.IsValid() || p.Addr().Is4In6() {
		c.At("prefix").Block(problem.Form, "it is not a subnet", "write it as 10.1.0.0/24 or 2001:db8:1::/64")
		return false
	}
	if p != p.Masked() {
		c.At("prefix").Block(problem.Form, p.String()+" is an address, not a subnet", "write "+p.Masked().String())
		return false
	}
	if p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
		c.At("prefix").Block(problem.Form, "hosts have no address in "+p.String()+" that could be moved", "remove the rule")
		return false
	}
	c.Count("gateways", len(s.Gateways), MaxSubnetHosts)
	c.Count("dns", len(s.DNS), MaxSubnetHosts)
	c.Count("suffixes", len(s.Suffixes), MaxSubnetHosts)
	for i, x := range s.Suffixes {
		c.NeedText(fmt.Sprintf("suffixes[%d]", i), x, site.MaxRef)
	}
	for i, d := range s.DNS {
		if !d.IsValid() || d.IsUnspecified() || d.IsMulticast() {
			c.Index("dns", i).Block(problem.Form, d.String()+" is no server's address", "give the server's address")
		}
	}
	for i, g := range s.Gateways {
		if !p.Contains(g) && (!g.Is6() || !g.IsLinkLocalUnicast()) {
			c.Index("gateways", i).Block(Outside, fmt.Sprintf("%s is not in %s", g, p), "correct the gateway, or the prefix")
		}
	}
	return true
}

// overlap adds what is wrong between a rule and an earlier one.
func overlap(c problem.Checker, r, o *Rule, n int) {
	if r.Use != Both && o.Use != Both && r.Use != o.Use {
		return
	}
	from, to := r.From.Prefix.Overlaps(o.From.Prefix), r.To.Prefix.Overlaps(o.To.Prefix)
	sameScope := r.Network == o.Network && r.Use == o.Use
	switch {
	case from && sameScope && r.From.Prefix == o.From.Prefix:
		c.At("from").Block(Overlap, fmt.Sprintf("%s is in rule %d as well", r.From.Prefix, n+1), "keep one of the two")
	case from && sameScope:
		c.At("from").Warn(Overlap, fmt.Sprintf("%s and %s of rule %d overlap: the longer prefix wins", r.From.Prefix, o.From.Prefix, n+1),
			"make sure that this is meant")
	case to && !from && r.Network == o.Network:
		c.At("to").Block(Overlap, fmt.Sprintf("%s and %s of rule %d overlap, and hosts of different subnets would meet there", r.To.Prefix, o.To.Prefix, n+1),
			"move them to subnets that do not overlap")
	}
}

// holds reports whether the rule is for an address, on a network, in a use.
func (r *Rule) holds(network site.Ref, a netip.Addr, use Use) bool {
	return (r.Use == Both || r.Use == use) && (r.Network == "" || r.Network == network) && r.From.Prefix.Contains(a)
}

// narrower reports whether r goes before o: the longer prefix, then the one for
// this use or network alone.
func (r *Rule) narrower(o *Rule) bool {
	if o == nil || r.From.Prefix.Bits() != o.From.Prefix.Bits() {
		return o == nil || r.From.Prefix.Bits() > o.From.Prefix.Bits()
	}
	if (r.Use != Both) != (o.Use != Both) {
		return r.Use != Both
	}
	return r.Network != "" && o.Network == ""
}

// rule returns the rule for an address, or nil.
func (m *Mappings) rule(network site.Ref, a netip.Addr, use Use) *Rule {
	var best *Rule
	for i := range m.Rules {
		if r := &m.Rules[i]; r.holds(network, a, use) && r.narrower(best) {
			best = r
		}
	}
	return best
}

// move returns what an address of the From subnet is in the To subnet. The rule
// was checked: both are of one family and length.
func (r *Rule) move(a netip.Addr) netip.Prefix {
	to := r.To.Prefix
	base, host := to.Masked().Addr().AsSlice(), a.AsSlice()
	if len(base) != len(host) {
		return netip.Prefix{}
	}
	for i := range base {
		keep := byte(0xff) // bits of the host's part in this byte
		if n := to.Bits() - 8*i; n >= 8 {
			keep = 0
		} else if n > 0 {
			keep >>= n
		}
		base[i] |= host[i] & keep
	}
	moved, _ := netip.AddrFromSlice(base)
	return netip.PrefixFrom(moved, to.Bits())
}
