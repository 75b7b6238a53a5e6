package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// The codes of what a dry run finds besides what objects and mappings have wrong.
const (
	NeverTested     problem.Code = "never-tested"
	TestOld         problem.Code = "test-old"
	TestFailed      problem.Code = "test-failed"
	UntestedPoint   problem.Code = "untested-checkpoint"
	NoPoint         problem.Code = "no-checkpoint"
	RPOMissed       problem.Code = "rpo-missed"
	NotProtected    problem.Code = "not-protected"
	StoreAway       problem.Code = "store-away"
	ApplianceAway   problem.Code = "appliance-away"
	PeerAway        problem.Code = "peer-away"
	PlaceholderBad  problem.Code = "placeholder"
	NotAdopted      problem.Code = "not-adopted"
	DiskUnprotected problem.Code = "disk-unprotected"
	NoCapacity      problem.Code = "no-capacity"
	NotReady        problem.Code = "not-ready"
	EmptyPlan       problem.Code = "no-vms"
	NoAgent         problem.Code = "no-agent"
)

// Facts is what is known of the world besides inventories. Domains, stores and
// appliances that are not in the maps are not known, which counts against the plan.
type Facts struct {
	Now          time.Time
	Standing     Standing
	PeerUp       bool
	LastTest     time.Time // when a test of this plan ended; zero: never
	LastTestOK   bool
	Domains      map[site.Name]DomainFacts
	StoresUp     map[site.Name]bool
	AppliancesUp map[site.Name]bool
	Placeholders []site.Placeholder
	Taken        map[dr.VMID]bool // VMs that are in a domain, besides those of View.Domains
}

// DomainFacts is what is known of a domain's protection.
type DomainFacts struct {
	State  Replication
	Flags  Flags
	Newest time.Time // the newest checkpoint; zero: there is none
	Tested time.Time // the newest checkpoint a test has booted; zero: none
}

// Weight is what problems of one code cost a plan's readiness, in points: each one
// costs Each, all together Most at the most.
type Weight struct {
	Code       problem.Code
	Each, Most int
	Words      string
}

// Weights returns what each code costs. What is not listed costs as otherWeight.
func Weights() []Weight {
	return []Weight{
		{EmptyPlan, 100, 100, "the plan recovers no VM"},
		{NoPoint, 40, 100, "a domain without a checkpoint"},
		{NotProtected, 15, 45, "a domain that is not being protected now"},
		{StoreAway, 30, 60, "a store that does not answer"},
		{Cycle, 50, 50, "VMs that wait for each other"},
		{CrossPriority, 10, 30, "a dependency against the priorities"},
		{mapping.Unmapped, 5, 40, "something that nothing stands for"},
		{mapping.NoTarget, 10, 50, "a target that does not exist"},
		{mapping.Conflict, 10, 40, "an address that two have"},
		{mapping.Outside, 5, 20, "an address outside its subnet"},
		{mapping.Overlap, 5, 20, "subnets that overlap"},
		{mapping.NoRule, 2, 10, "an address that no rule moves"},
		{mapping.TestLive, 5, 15, "a test on a network that is not isolated"},
		{mapping.NoReverse, 2, 10, "a way back that is missing"},
		{mapping.TwoBack, 5, 10, "two ways back"},
		{NeverTested, 20, 20, "the plan was never tested"},
		{TestFailed, 20, 20, "the last test had errors"},
		{TestOld, 10, 10, "the last test is too old"},
		{UntestedPoint, 1, 5, "a domain of which no checkpoint was booted for a month"},
		{RPOMissed, 5, 20, "a domain that misses its RPO target"},
		{ApplianceAway, 10, 30, "an appliance that does not answer"},
		{PeerAway, 5, 5, "the peer does not answer: no planned migration"},
		{DiskUnprotected, 10, 40, "a disk that is not protected"},
		{NotAdopted, 5, 15, "a VM that a rule names and nobody adopted"},
		{PlaceholderBad, 2, 10, "a placeholder that is missing or not as it should be"},
		{NoCapacity, 15, 30, "a pool or datastore with too little room"},
		{NoAgent, 1, 5, "a wait for an agent that the guest does not have"},
		{NotReady, 10, 10, "the plan is in a state from which nothing can be begun"},
	}
}

// otherWeight is of codes that Weights does not list.
var otherWeight = Weight{Each: 10, Most: 40, Words: "any other blocker"}

// A plan with a blocker is at most half ready, one with a warning not quite.
const (
	blockedMost = 49
	warnedMost  = 99
)

// Readiness is what a dry run says.
type Readiness struct {
	Score    int          `json:"score"` // 0 to 100
	Problems problem.List `json:"problems"`
	VMs      int          `json:"vms"`
	Steps    int          `json:"steps"` // of a recovery from a disaster
}

// Dry says how ready a plan is, without doing anything: every problem that a test,
// a migration, a disaster or the way back would meet, and a score.
func Dry(p *Plan, v *View, f *Facts) Readiness {
	var r Readiness
	l := &r.Problems
	c := problem.For(l, site.Label(p))
	book, found, err := Compile(p, Request{Operation: ForcedDisaster}, v)
	l.Merge(withoutPlaces(found))
	if err == nil {
		r.Steps = book.Steps()
	}
	var quiet problem.List
	members := p.members(v, &quiet)
	r.VMs = len(members)
	if len(members) == 0 {
		c.At("domains").Block(EmptyPlan, "the plan recovers no VM", "add VMs to its domains")
	}
	if v.Mappings != nil {
		v.Mappings.Check(l)
		vms := make([]*site.VM, len(members))
		for i, m := range members {
			vms[i] = m.vm
		}
		mapping.NewResolver(v.Mappings, v.Protected, v.Recovery, v.Settings, l).Gaps(vms, l)
	}
	p.tested(f, c)
	p.protection(v, f, l)
	p.vms(members, l)
	capacity(members, v, c)
	for i := range f.Placeholders {
		if h := &f.Placeholders[i]; h.State != site.PlaceholderPresent && slices.Contains(p.Domains, h.Domain) {
			problem.For(l, "placeholder "+string(h.Ref)).Warn(PlaceholderBad, "it is "+either(string(h.State), "not there yet"), "have it repaired")
		}
	}
	if _, _, err := f.Standing.Admit(Disaster); err != nil {
		c.Warn(NotReady, err.Error(), "see the plan's state")
	}
	l.Sort()
	r.Score = score(l)
	return r
}

// withoutPlaces leaves out what Gaps tells as well.
func withoutPlaces(found problem.List) problem.List {
	l := problem.List{More: found.More}
	for _, p := range found.All {
		if len(p.Object) < 3 || p.Object[:3] != "VM " {
			l.Add(p)
		}
	}
	return l
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// tested tells what is to say about the last test.
func (p *Plan) tested(f *Facts, c problem.Checker) {
	switch {
	case f.LastTest.IsZero():
		c.Warn(NeverTested, "the plan was never tested", "test it: a test does not disturb production")
	case !f.LastTestOK:
		c.Warn(TestFailed, "the last test had errors", "see its report, and test again")
	case p.TestEvery != 0 && f.Now.Sub(f.LastTest) > p.TestEvery.D():
		c.Warn(TestOld, "the last test was on "+f.LastTest.UTC().Format(time.DateOnly), "test it: it is due every "+p.TestEvery.String())
	}
	if !f.PeerUp {
		c.Warn(PeerAway, "the peer does not answer", "see to the pairing; a recovery from a disaster does not need it")
	}
}

// untestedAfter is how old the newest booted checkpoint may be.
const untestedAfter = 31 * 24 * time.Hour

// protection tells what is to say about the domains' protection.
func (p *Plan) protection(v *View, f *Facts, l *problem.List) {
	stores := map[site.Name]bool{}
	for _, name := range p.Domains {
		d := v.Domains[name]
		if d == nil {
			continue
		}
		c := problem.For(l, site.Label(d))
		at, known := f.Domains[name]
		switch {
		case !known || at.Newest.IsZero():
			c.Block(NoPoint, "there is no checkpoint to recover", "wait for the first copy, or see why it does not end")
		case at.State != Protected && at.State != DeltaSync && at.State != Backpressure:
			c.Warn(NotProtected, "its protection is "+string(at.State), "see the domain's status")
		}
		if d.RPOTarget != 0 && !at.Newest.IsZero() && f.Now.Sub(at.Newest) > d.RPOTarget.D() || at.Flags.RPOMissed {
			c.Warn(RPOMissed, fmt.Sprintf("the newest checkpoint is %s old", site.Span(f.Now.Sub(at.Newest).Round(time.Second))), "see the domain's status")
		}
		if !at.Newest.IsZero() && f.Now.Sub(at.Tested) > untestedAfter {
			c.Add(problem.Note, UntestedPoint, "no checkpoint of the last month was booted in a test", "test a plan of it")
		}
		if d.Appliance != "" && !f.AppliancesUp[d.Appliance] {
			c.At("appliance").Warn(ApplianceAway, string(d.Appliance)+" does not answer", "see to the appliance")
		}
		for i, s := range d.Stores {
			if !f.StoresUp[s] && !stores[s] {
				stores[s] = true
				sev := problem.Warning
				if len(d.Stores) == 1 {
					sev = problem.Blocker
				}
				c.Index("stores", i).Add(sev, StoreAway, string(s)+" does not answer", "see to the store: recovery reads from it")
			}
		}
		p.unadopted(v, f, d, c)
	}
}

// unadopted tells which VMs a domain's rules name and no domain has.
func (p *Plan) unadopted(v *View, f *Facts, d *site.ProtectedDomain, c problem.Checker) {
	if len(d.Adopt) == 0 {
		return
	}
	taken := map[dr.VMID]bool{}
	maps.Copy(taken, f.Taken)
	for _, o := range v.Domains {
		for _, vm := range v.Protected.Members(o, problem.For(&problem.List{}, "")) {
			taken[vm.ID] = true
		}
	}
	for _, vm := range v.Protected.Adoptable(d, func(id dr.VMID) bool { return taken[id] }) {
		c.At("adopt").Warn(NotAdopted, fmt.Sprintf("VM %s is to be adopted, and is not protected yet", vm.Ref), "wait, or add it")
	}
}

// vms tells what is to say about the VMs themselves.
func (p *Plan) vms(members []*member, l *problem.List) {
	for _, m := range members {
		c := problem.For(l, "VM "+string(m.vm.Ref))
		for i, d := range m.vm.Disks {
			if !d.Protected {
				c.Index("disks", i).Warn(DiskUnprotected, fmt.Sprintf("disk %s is not protected", d.Name), "protect it, or detach it")
			}
		}
		if m.set != nil && m.set.Agent != nil && *m.set.Agent > 0 && !m.vm.Agent {
			c.Warn(NoAgent, "the plan waits for its agent, which was never seen", "install the agent, or set agent: 0s")
		}
	}
}

// capacity tells which pools and datastores are too small for all VMs at once.
func capacity(members []*member, v *View, c problem.Checker) {
	if v.Mappings == nil || v.Recovery == nil {
		return
	}
	r := mapping.NewResolver(v.Mappings, v.Protected, v.Recovery, v.Settings, &problem.List{})
	memory, disk := map[site.Ref]int64{}, map[site.Ref]int64{}
	for _, m := range members {
		at := r.Resolve(m.vm, mapping.Live, problem.For(&problem.List{}, ""))
		memory[at.Pool] += at.MemoryMiB
		for _, d := range m.vm.Disks {
			disk[at.Datastore] += d.Size
		}
	}
	for _, pool := range sorted(memory) {
		if at := v.Recovery.Pools[pool]; at != nil && at.MemoryMiB > 0 && memory[pool] > at.MemoryMiB {
			c.Warn(NoCapacity, fmt.Sprintf("the VMs have %d MiB of memory, pool %q has %d", memory[pool], pool, at.MemoryMiB), "add hosts, suspend VMs, or move some to another pool")
		}
	}
	for _, ds := range sorted(disk) {
		if at := v.Recovery.Datastores[ds]; at != nil && at.Size > 0 && disk[ds] > at.Free {
			c.Warn(NoCapacity, fmt.Sprintf("the disks have %d bytes, datastore %q has %d free", disk[ds], ds, at.Free), "make room, or choose another datastore")
		}
	}
}

func sorted(m map[site.Ref]int64) (keys []site.Ref) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// score makes 0 to 100 of problems. Notes of a code without a weight cost nothing.
func score(l *problem.List) int {
	weights := map[problem.Code]Weight{}
	for _, w := range Weights() {
		weights[w.Code] = w
	}
	spent := map[problem.Code]int{}
	most := 100
	for _, p := range l.All {
		w, known := weights[p.Code]
		switch {
		case !known && p.Severity == problem.Note:
			continue
		case !known:
			w = otherWeight
		}
		spent[p.Code] = min(spent[p.Code]+w.Each, w.Most)
		switch p.Severity {
		case problem.Blocker:
			most = min(most, blockedMost)
		case problem.Warning:
			most = min(most, warnedMost)
		case problem.Note:
		}
	}
	total := 100
	for _, n := range spent {
		total -= n
	}
	if l.More > 0 {
		most = 0
	}
	return max(0, min(total, most))
}
