package plan

import (
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// The codes of what may be wrong with an order.
const (
	Cycle         problem.Code = "dependency-cycle"
	CrossPriority problem.Code = "dependency-across-priorities"
)

// member is a VM of a plan, with all that is said of it.
type member struct {
	vm     *site.VM
	domain site.Name
	set    *VM // nil: the defaults
	prio   int
	after  []*member // resolved, same priority
	index  int
}

// members finds the VMs of the domains and what the plan says of them, in the
// order of the domains.
func (p *Plan) members(v *View, l *problem.List) []*member {
	c := problem.For(l, site.Label(p))
	var list []*member
	byID := map[dr.VMID]*member{}
	for i, name := range p.Domains {
		d := v.Domains[name]
		if d == nil {
			c.Index("domains", i).Block(problem.Unknown, fmt.Sprintf("there is no domain %q", name), "correct the name, or make the domain first")
			continue
		}
		for _, vm := range v.Protected.Members(d, problem.For(l, site.Label(d))) {
			if o := byID[vm.ID]; o != nil {
				c.Index("domains", i).Block(problem.Duplicate, fmt.Sprintf("VM %s is in domain %s as well", vm.Ref, o.domain), "a VM is in one domain")
				continue
			}
			m := &member{vm: vm, domain: name, prio: DefaultPriority, index: len(list)}
			byID[vm.ID] = m
			list = append(list, m)
		}
	}
	p.apply(v, c, byID)
	return list
}

// apply gives each member what the plan says of it.
func (p *Plan) apply(v *View, c problem.Checker, byID map[dr.VMID]*member) {
	find := func(at problem.Checker, ref site.Ref) *member {
		vm, code, why := v.Protected.VM(ref)
		if vm == nil {
			at.Block(code, why, "correct the name, or use the VM's id")
			return nil
		}
		m := byID[vm.ID]
		if m == nil {
			at.Block(problem.Unknown, fmt.Sprintf("VM %s is in no domain of the plan", ref), "add its domain, or remove the VM here")
		}
		return m
	}
	for i := range p.VMs {
		if m := find(c.Index("vms", i).At("vm"), p.VMs[i].VM); m != nil {
			if m.set != nil {
				c.Index("vms", i).Block(problem.Duplicate, fmt.Sprintf("VM %s is there already", p.VMs[i].VM), "keep one of the two")
				continue
			}
			m.set, m.prio = &p.VMs[i], p.VMs[i].priority()
		}
	}
	for i := range p.VMs {
		m := find(problem.For(&problem.List{}, ""), p.VMs[i].VM)
		if m == nil || m.set != &p.VMs[i] {
			continue
		}
		for j, ref := range p.VMs[i].After {
			at := c.Index("vms", i).Index("after", j)
			o := find(at, ref)
			switch {
			case o == nil:
			case o.prio == m.prio:
				m.after = append(m.after, o)
			case o.prio > m.prio:
				at.Block(CrossPriority, fmt.Sprintf("%s (P%d) starts before %s (P%d), and cannot wait for it", m.vm.Ref, m.prio, o.vm.Ref, o.prio),
					"give "+string(o.vm.Ref)+" a higher priority, or remove the dependency")
			default:
				at.Add(problem.Note, CrossPriority, fmt.Sprintf("%s (P%d) has started before %s (P%d) anyway", o.vm.Ref, o.prio, m.vm.Ref, m.prio),
					"the dependency may be removed")
			}
		}
	}
}

// order puts members of one priority behind those they come after, else leaves
// them as they are, and tells cycles. What is on a cycle comes last.
func order(list []*member, c problem.Checker) []*member {
	waits := make(map[*member]int, len(list))
	next := map[*member][]*member{}
	for _, m := range list {
		for _, o := range m.after {
			waits[m]++
			next[o] = append(next[o], m)
		}
	}
	var done, free []*member
	for _, m := range list {
		if waits[m] == 0 {
			free = append(free, m)
		}
	}
	for len(free) > 0 {
		m := free[0]
		free = free[1:]
		done = append(done, m)
		for _, n := range next[m] {
			if waits[n]--; waits[n] == 0 {
				free = append(free, n)
			}
		}
	}
	if len(done) == len(list) {
		return done
	}
	var left []*member
	for _, m := range list {
		if waits[m] > 0 {
			left = append(left, m)
		}
	}
	c.At("vms").Block(Cycle, "VMs wait for each other: "+cycle(left), "remove one of these dependencies")
	return append(done, left...)
}

// cycle names a cycle among members of which each waits for another: "a → b → a"
// reads "a comes after b, which comes after a".
func cycle(left []*member) string {
	in := map[*member]bool{}
	for _, m := range left {
		in[m] = true
	}
	var path []*member
	m := left[0]
	for !slices.Contains(path, m) {
		path = append(path, m)
		i := slices.IndexFunc(m.after, func(o *member) bool { return in[o] })
		if i < 0 {
			return string(m.vm.Ref) // not reached: each of them waits for one of them
		}
		m = m.after[i]
	}
	var names []string
	for _, m := range append(path[slices.Index(path, m):], m) {
		names = append(names, string(m.vm.Ref))
	}
	return strings.Join(names, " → ")
}

// byPriority sorts members into their priorities, each in start order.
func byPriority(list []*member, c problem.Checker) (groups [Priorities][]*member) {
	for _, m := range list {
		if m.prio >= 1 && m.prio <= Priorities {
			groups[m.prio-1] = append(groups[m.prio-1], m)
		}
	}
	for i := range groups {
		groups[i] = order(groups[i], c)
	}
	return groups
}
