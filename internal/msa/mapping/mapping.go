package mapping

import (
	"fmt"
	"net/netip"

	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// The codes of gaps.
const (
	Unmapped  problem.Code = "unmapped"         // nothing stands for it at the recovery site
	NoTarget  problem.Code = "no-target"        // what stands for it does not exist
	NoReverse problem.Code = "no-reverse"       // there is no way back
	TwoBack   problem.Code = "two-ways-back"    // several ways back from one place
	Overlap   problem.Code = "overlap"          // subnets that overlap
	Outside   problem.Code = "outside-subnet"   // an address that is not in its network's subnet
	Conflict  problem.Code = "address-conflict" // two VMs with one address, or one MAC
	NoRule    problem.Code = "no-ip-rule"       // an address that no rule changes, though others' are
	TestLive  problem.Code = "test-on-live"     // a test would be on a network that is not isolated
)

// Way says what happens on the way back. The zero value is Yes.
type Way string

// The ways.
const (
	Yes       Way = ""          // back to where it came from
	Different Way = "different" // back to ReverseTo
	No        Way = "no"        // nothing: reprotect will ask
	yes       Way = "yes"       // Yes, written out
)

// Pair maps a folder, pool or policy.
type Pair struct {
	From      site.Ref `json:"from"`
	To        site.Ref `json:"to"`
	Reverse   Way      `json:"reverse,omitempty"`
	ReverseTo site.Ref `json:"reverse_to,omitempty"` // of Different
}

// NetworkPair maps a network, and says which one a test uses.
type NetworkPair struct {
	From        site.Ref `json:"from"`
	To          site.Ref `json:"to"`
	Test        site.Ref `json:"test,omitempty"` // at the To site; empty: an isolated network
	Reverse     Way      `json:"reverse,omitempty"`
	ReverseTo   site.Ref `json:"reverse_to,omitempty"`
	ReverseTest site.Ref `json:"reverse_test,omitempty"` // at the From site, for the way back
}

func (n NetworkPair) pair() Pair { return Pair{n.From, n.To, n.Reverse, n.ReverseTo} }

// Use says for which recoveries a rule holds. The zero value is both.
type Use string

// The uses.
const (
	Both Use = ""
	Live Use = "live"
	Test Use = "test"
)

// Subnet is one side of a rule.
type Subnet struct {
	Prefix   netip.Prefix `json:"prefix"`
	Gateways []netip.Addr `json:"gateways,omitempty"`
	DNS      []netip.Addr `json:"dns,omitempty"`
	Suffixes []string     `json:"suffixes,omitempty"`
}

// Rule moves addresses from one subnet to another; the host's part stays.
type Rule struct {
	Network site.Ref `json:"network,omitempty"` // at the From site; empty: on any
	From    Subnet   `json:"from"`
	To      Subnet   `json:"to"`
	Use     Use      `json:"use,omitempty"`
}

// Default says what becomes of what is not mapped.
type Default struct {
	Network   site.Ref `json:"network,omitempty"` // empty: an isolated network, or refused
	Refuse    bool     `json:"refuse,omitempty"`  // an unmapped network is a blocker
	Folder    site.Ref `json:"folder,omitempty"`
	Pool      site.Ref `json:"pool,omitempty"`
	Policy    site.Ref `json:"policy,omitempty"`
	Datastore site.Ref `json:"datastore,omitempty"` // of recovered disks and placeholders
}

// Mappings says what at one site stands for what at another.
type Mappings struct {
	site.Meta
	From     site.Name     `json:"from"`
	To       site.Name     `json:"to"`
	Networks []NetworkPair `json:"networks,omitempty"`
	Folders  []Pair        `json:"folders,omitempty"`
	Pools    []Pair        `json:"pools,omitempty"`
	Policies []Pair        `json:"policies,omitempty"`
	Rules    []Rule        `json:"rules,omitempty"`
	Default  Default       `json:"default,omitzero"`
}

// Kind is site.KindMappings.
func (*Mappings) Kind() site.Kind { return site.KindMappings }

// References lists the sites.
func (m *Mappings) References() []site.Reference {
	return []site.Reference{{Field: "from", Kind: site.KindSite, Name: m.From}, {Field: "to", Kind: site.KindSite, Name: m.To}}
}

// lists names each list of pairs.
func (m *Mappings) lists() []struct {
	field string
	pairs []Pair
} {
	networks := make([]Pair, len(m.Networks))
	for i, n := range m.Networks {
		networks[i] = n.pair()
	}
	return []struct {
		field string
		pairs []Pair
	}{{"networks", networks}, {"folders", m.Folders}, {"pools", m.Pools}, {"policies", m.Policies}}
}

// Check adds every problem the mappings have by themselves.
func (m *Mappings) Check(l *problem.List) {
	c := site.CheckHead(l, m)
	if !m.From.Valid() || !m.To.Valid() || m.From == m.To {
		c.Block(problem.Missing, "mappings are from one site to another", "name two sites, in from and to")
	}
	for _, list := range m.lists() {
		c.Count(list.field, len(list.pairs), MaxPairs)
		problem.Unique(c, list.field, list.pairs, func(p Pair) string { return string(p.From) })
		for i, p := range list.pairs {
			p.check(c.Index(list.field, i))
		}
		twoBack(c, list.field, list.pairs)
	}
	for i, n := range m.Networks {
		c.Index("networks", i).Text("test", string(n.Test), site.MaxRef)
		c.Index("networks", i).Text("reverse_test", string(n.ReverseTest), site.MaxRef)
	}
	d := c.At("default")
	for _, r := range []site.Ref{m.Default.Network, m.Default.Folder, m.Default.Pool, m.Default.Policy, m.Default.Datastore} {
		d.Text("", string(r), site.MaxRef)
	}
	if m.Default.Refuse && m.Default.Network != "" {
		d.At("refuse").Block(problem.Contrary, "unmapped networks are both refused and mapped", "choose one")
	}
	m.checkRules(c)
}

func (p Pair) check(c problem.Checker) {
	c.NeedText("from", string(p.From), site.MaxRef)
	c.NeedText("to", string(p.To), site.MaxRef)
	c.Text("reverse_to", string(p.ReverseTo), site.MaxRef)
	problem.OneOf(c, "reverse", p.Reverse, Yes, yes, Different, No)
	if (p.Reverse == Different) != (p.ReverseTo != "") {
		c.At("reverse_to").Block(problem.Contrary, "a different way back needs a place, and no other has one", "set reverse: different and reverse_to together")
	}
}

// back is where a pair leads on the way back; "": nowhere.
func (p Pair) back() site.Ref {
	switch p.Reverse {
	case Different:
		return p.ReverseTo
	case No:
		return ""
	case Yes, yes:
	}
	return p.From
}

// twoBack finds places from which several ways lead back.
func twoBack(c problem.Checker, field string, pairs []Pair) {
	first := map[site.Ref]Pair{}
	for i, p := range pairs {
		if p.back() == "" {
			continue
		}
		if o, ok := first[p.To]; ok && o.back() != p.back() {
			c.Index(field, i).Block(TwoBack, fmt.Sprintf("from %q, back leads to %q and to %q", p.To, o.back(), p.back()),
				"set reverse: no on all but one of them")
			continue
		}
		first[p.To] = p
	}
}

// Reverse returns the mappings of the way back. Where several ways lead back from
// one place, which Check refuses, the first is taken.
func (m *Mappings) Reverse() *Mappings {
	r := &Mappings{Meta: m.Meta, From: m.To, To: m.From}
	r.Title = "the way back of " + string(m.Name)
	seen := map[site.Ref]bool{}
	for _, n := range m.Networks {
		if to := n.pair().back(); to != "" && !seen[n.To] {
			seen[n.To] = true
			r.Networks = append(r.Networks, NetworkPair{From: n.To, To: to, Test: n.ReverseTest, ReverseTest: n.Test})
		}
	}
	r.Folders, r.Pools, r.Policies = reverse(m.Folders), reverse(m.Pools), reverse(m.Policies)
	for _, rule := range m.Rules {
		back := Rule{From: rule.To, To: rule.From, Use: rule.Use}
		if n := m.network(rule.Network); n != nil {
			back.Network = n.To
		}
		r.Rules = append(r.Rules, back)
	}
	return r
}

func reverse(pairs []Pair) (back []Pair) {
	seen := map[site.Ref]bool{}
	for _, p := range pairs {
		if to := p.back(); to != "" && !seen[p.To] {
			seen[p.To] = true
			back = append(back, Pair{From: p.To, To: to})
		}
	}
	return back
}

func (m *Mappings) network(ref site.Ref) *NetworkPair {
	for i := range m.Networks {
		if m.Networks[i].From == ref {
			return &m.Networks[i]
		}
	}
	return nil
}
