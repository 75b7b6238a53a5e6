package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"holdfast/internal/dr"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// place is where a step is in a runbook.
type place struct{ group, step int }

func (p place) before(o place) bool {
	return p.group < o.group || p.group == o.group && p.step < o.step
}

// disorder says what of a runbook's order is not as the plan wants it; "": nothing.
func disorder(p *plan.Plan, v *plan.View, b *plan.Runbook) string {
	at := map[string]place{}
	steps := map[string]*plan.Step{}
	first, last := map[dr.VMID]string{}, map[dr.VMID]string{}
	for g := range b.Groups {
		for s := range b.Groups[g].Steps {
			st := &b.Groups[g].Steps[s]
			if _, twice := at[st.ID]; twice {
				return "two steps are " + st.ID
			}
			at[st.ID], steps[st.ID] = place{g, s}, st
			if strings.HasPrefix(st.ID, "vm/") {
				if first[st.VM] == "" {
					first[st.VM] = st.ID
				} else if !slices.Contains(st.Needs, last[st.VM]) {
					return st.ID + " does not need the step before"
				}
				last[st.VM] = st.ID
			}
			for _, n := range slices.Concat(st.Needs, st.After) {
				if o, ok := at[n]; !ok || !o.before(place{g, s}) {
					return fmt.Sprintf("%s waits for %s, which does not come before", st.ID, n)
				}
			}
		}
	}
	set := map[site.Ref]*plan.VM{}
	for i := range p.VMs {
		set[p.VMs[i].VM] = &p.VMs[i]
	}
	prio := func(r site.Ref) int {
		if set[r] == nil || set[r].Priority == 0 {
			return plan.DefaultPriority
		}
		return set[r].Priority
	}
	var vms []*site.VM
	for _, d := range p.Domains {
		for _, r := range v.Domains[d].VMs {
			vm, _, _ := v.Protected.VM(r)
			vms = append(vms, vm)
			if first[vm.ID] == "" {
				return string(r) + " is not started"
			}
			if s := steps[first[vm.ID]]; !slices.Contains(s.Needs, "disks/"+string(d)) {
				return string(r) + " does not need its disks"
			}
		}
	}
	group := map[int]int{}
	for _, vm := range vms {
		if g, ok := group[prio(vm.Ref)]; ok && g != at[first[vm.ID]].group {
			return "a priority is in two groups"
		}
		group[prio(vm.Ref)] = at[first[vm.ID]].group
	}
	for a, ga := range group {
		for c, gc := range group {
			if a < c && ga >= gc {
				return fmt.Sprintf("P%d starts after P%d", a, c)
			}
		}
	}
	for _, s := range p.VMs {
		vm, _, _ := v.Protected.VM(s.VM)
		for _, r := range s.After {
			o, _, _ := v.Protected.VM(r)
			if prio(r) == prio(s.VM) && !slices.Contains(steps[first[vm.ID]].After, last[o.ID]) {
				return fmt.Sprintf("%s does not come after %s", s.VM, r)
			}
		}
	}
	return stopDisorder(p, v, at, steps, prio, vms)
}

// stopDisorder is the same for what is shut down at the protected site.
func stopDisorder(p *plan.Plan, v *plan.View, at map[string]place, steps map[string]*plan.Step, prio func(site.Ref) int, vms []*site.VM) string {
	stop := func(vm *site.VM) string { return "shutdown/" + vm.ID.String() }
	for _, x := range vms {
		for _, y := range vms {
			if prio(x.Ref) < prio(y.Ref) && at[stop(x)].group <= at[stop(y)].group {
				return fmt.Sprintf("%s of P%d is shut down before %s of P%d", x.Ref, prio(x.Ref), y.Ref, prio(y.Ref))
			}
		}
	}
	for _, s := range p.VMs {
		vm, _, _ := v.Protected.VM(s.VM)
		for _, r := range s.After {
			o, _, _ := v.Protected.VM(r)
			if prio(r) == prio(s.VM) && !slices.Contains(steps[stop(o)].After, stop(vm)) {
				return fmt.Sprintf("%s is shut down before %s, which uses it", r, s.VM)
			}
		}
	}
	return ""
}

// randomPlan draws priorities, and dependencies on VMs of an own order, so that
// there is no cycle.
func randomPlan(r *rapid.T, n int) (*plan.Plan, *plan.View) {
	p, v := large(n)
	order := rapid.Permutation(p.VMs).Draw(r, "order")
	for i := range order {
		s := &order[i]
		s.Priority = rapid.IntRange(1, 5).Draw(r, "priority")
		s.After, s.Post = nil, nil
	}
	for i := range order {
		for j := range i {
			if order[j].Priority == order[i].Priority && rapid.IntRange(0, 3).Draw(r, "depends") == 0 {
				order[i].After = append(order[i].After, order[j].VM)
			}
		}
	}
	p.VMs = rapid.Permutation(order).Draw(r, "written")
	return p, v
}

func TestOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		p, v := randomPlan(r, rapid.IntRange(1, 12).Draw(r, "vms"))
		b, _, err := plan.Compile(p, plan.Request{Operation: plan.Planned}, v)
		if err != nil {
			r.Fatal(err)
		}
		if bad := disorder(p, v, b); bad != "" {
			r.Fatal(bad)
		}
	})
}

// TestRandomCyclesAreNamed: a dependency that closes a circle is told, with VMs on
// it, each of which comes after the next.
func TestRandomCyclesAreNamed(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(r, "length")
		p, v := large(n)
		after := map[string]string{}
		for i := range n {
			p.VMs[i].Priority = 2
			p.VMs[i].After = []site.Ref{p.VMs[(i+1)%n].VM}
			after[string(p.VMs[i].VM)] = string(p.VMs[(i+1)%n].VM)
		}
		_, l, err := plan.Compile(p, plan.Request{Operation: plan.Test}, v)
		if err == nil || !l.Has(plan.Cycle) {
			r.Fatal("the circle was not noticed")
		}
		_, words, _ := strings.Cut(l.All[0].Words, ": ")
		names := strings.Split(words, " → ")
		if len(names) != n+1 || names[0] != names[n] {
			r.Fatalf("%q names no circle of %d", words, n)
		}
		for i := range n {
			if after[names[i]] != names[i+1] {
				r.Fatalf("%s does not come after %s", names[i], names[i+1])
			}
		}
	})
}

// TestDisorderCatches breaks runbooks in each way that disorder looks for.
func TestDisorderCatches(t *testing.T) {
	starts := func(b *plan.Runbook) (list []int) {
		for i, g := range b.Groups {
			if len(g.Steps) > 0 && strings.HasPrefix(g.Steps[0].ID, "vm/") {
				list = append(list, i)
			}
		}
		return list
	}
	for name, breakIt := range map[string]func(*plan.Runbook){
		"priorities": func(b *plan.Runbook) { s := starts(b); b.Groups[s[0]], b.Groups[s[1]] = b.Groups[s[1]], b.Groups[s[0]] },
		"dependencies": func(b *plan.Runbook) {
			for _, i := range starts(b) {
				for j := range b.Groups[i].Steps {
					b.Groups[i].Steps[j].After = nil
				}
			}
		},
		"chains":       func(b *plan.Runbook) { b.Groups[starts(b)[0]].Steps[1].Needs = nil },
		"disks":        func(b *plan.Runbook) { b.Groups[starts(b)[0]].Steps[0].Needs = nil },
		"ids":          func(b *plan.Runbook) { b.Groups[starts(b)[0]].Steps[1].ID = b.Groups[starts(b)[0]].Steps[0].ID },
		"one left out": func(b *plan.Runbook) { b.Groups = slices.Delete(b.Groups, starts(b)[0], starts(b)[0]+1) },
		"shutdown order": func(b *plan.Runbook) {
			i := slices.IndexFunc(b.Groups, func(g plan.Group) bool { return g.Phase == plan.PhaseShutdown })
			b.Groups[i], b.Groups[i+1] = b.Groups[i+1], b.Groups[i]
		},
		"dependents": func(b *plan.Runbook) {
			for i := range b.Groups {
				for j := range b.Groups[i].Steps {
					if b.Groups[i].Phase == plan.PhaseShutdown {
						b.Groups[i].Steps[j].After = nil
					}
				}
			}
		},
	} {
		p, v := large(12)
		b, _, err := plan.Compile(p, plan.Request{Operation: plan.Planned}, v)
		if err != nil {
			t.Fatal(err)
		}
		breakIt(b)
		if disorder(p, v, b) == "" {
			t.Errorf("%s: not noticed", name)
		}
	}
}
