package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// A VM of this site that another site's manager names must be of the domain as this site
// knows it, by nothing that the other says:
//
//	our inventory has no VM of this id    it may be named: there is nothing here but what
//	                                      recoveries of the domain make, in records of theirs
//	the domain is at home here, and       a member; that is noted, with what it was listed
//	lists the VM by name or id            as, since its name goes when it is retired
//	it was noted, and is listed so still  a member that was retired
//	a recovery of the domain began here   what was recovered: noted when the recovery began,
//	with it while there was no such VM    as long as it was named in the last ninety days
//	a recovery appliance of ours has it   what was recovered and committed
//	in a committed recovery of the domain
//	a domain that is at home here lists   never
//	it, and it is another one
//
// Lists of a domain that is at home elsewhere do not count for what is here: names mean
// nothing across sites, and ids are in the other's inventory what the other says.

// permit refuses what another site's manager may not have done here. Kinds: Denied,
// Invalid, Unavailable (nothing is known of this site's VMs yet).
func (d *Desk) permit(ctx context.Context, tx *db.Tx, c *Command, p *Peer) error {
	object := "domain " + string(c.Domain)
	here := c.To
	if AtSource(c.Kind) {
		here = c.From
	}
	switch {
	case here != d.Site || c.From == c.To || c.From != p.Site && c.To != p.Site:
		return denied(object, fmt.Sprintf("a step from site %s to %s is nothing that site %s can have done here", c.From, c.To, p.Site), "run the plan where it recovers to")
	case c.Kind == string(plan.KindScript) && !guestScript(c):
		return denied(object, "another site has no scripts run here but in guests of a shared domain", "run the script on an appliance of the site whose manager runs the plan")
	case c.Domain == "" && !siteWide[c.Kind]:
		return denied(object, "another site has nothing done here but steps about a shared domain", "run the plan where it recovers to")
	}
	domains, err := shared(ctx, tx, c, p)
	if err != nil {
		return err
	}
	n, err := names(c)
	if err != nil {
		return err
	}
	for _, name := range n.domains {
		if name != c.Domain {
			return denied(object, fmt.Sprintf("a step of it is about domain %s", db.Text(string(name), maxName)), "use managers of one release")
		}
	}
	known, err := inventory.Known(ctx, tx, d.Site)
	if err != nil {
		return err
	}
	if !known {
		return errs.New("command.Abroad", errs.Unavailable, "site "+string(d.Site), "nothing is known of its VMs yet").WithRemedy("see whether the site's endpoints can be reached")
	}
	m := &members{Desk: d, ctx: ctx, tx: tx, c: c, p: p, domains: domains}
	for i := range n.vms {
		if err := m.vm(&n.vms[i]); err != nil {
			return err
		}
	}
	return m.places(&n)
}

func denied(object, words, remedy string) error {
	return errs.New("command.Abroad", errs.Denied, object, words).WithRemedy(remedy)
}

// members says which VMs are of a command's domain.
type members struct {
	*Desk
	ctx     context.Context
	tx      *db.Tx
	c       *Command
	p       *Peer                   // nil: our own command
	domains []*site.ProtectedDomain // all
}

// domain is the command's; nil: it is of none.
func (m *members) domain() *site.ProtectedDomain {
	i := slices.IndexFunc(m.domains, func(d *site.ProtectedDomain) bool { return d.Name == m.c.Domain })
	if i < 0 {
		return nil
	}
	return m.domains[i]
}

// vm refuses a VM that is not the domain's.
func (m *members) vm(in *plan.VMInputs) error {
	object := "vm " + in.VM.String()
	if in.Site != "" && in.Site != m.Site {
		return denied(object, fmt.Sprintf("it is of site %s, and was named to site %s", db.Text(string(in.Site), maxName), m.Site), "use managers of one release")
	}
	vm, err := m.find(site.Ref(in.VM.String()))
	if err != nil {
		return err
	}
	if vm == nil && in.Name != "" && byName[m.c.Kind] { // boxes go by the name when there is no such id
		object = "vm " + db.Text(string(in.Name), maxName)
		if vm, err = m.find(in.Name); err == nil && vm != nil && vm.PlaceholderFor == in.VM && !in.VM.IsZero() {
			return nil // what keeps its place
		}
	}
	if err != nil || vm == nil {
		return err
	}
	if siteWide[m.c.Kind] {
		return m.suspended(vm)
	}
	ok, err := m.has(vm)
	if err != nil || ok {
		return err
	}
	return denied(object, fmt.Sprintf("this VM of site %s is not in domain %s", m.Site, m.c.Domain), "have both sites list the same VMs in the domain; a VM that was taken out of it here is no more its business")
}

// byName are the kinds whose boxes take a VM's name when they find no VM of the id.
var byName = map[string]bool{
	Running: true, Shutdown: true, Cut: true, string(plan.KindStartSource): true, string(plan.KindRetireVM): true,
	string(plan.KindSuspendVM): true, string(plan.KindResumeVM): true,
}

// find looks for a VM of this site; nil: there is none. Kind Denied: several are called so.
func (m *members) find(ref site.Ref) (*site.VM, error) {
	vm, err := inventory.Find(m.ctx, m.tx, m.Site, ref)
	switch {
	case errs.Is(err, errs.NotFound):
		return nil, nil
	case errs.Is(err, errs.Conflict):
		return nil, denied("vm "+db.Text(string(ref), maxName), fmt.Sprintf("several VMs of site %s are called so", m.Site), "give each VM a name of its own")
	}
	return &vm, err
}

// has reports whether a VM of this site is the domain's.
func (m *members) has(vm *site.VM) (bool, error) {
	if !vm.PlaceholderFor.IsZero() {
		return false, nil // no step is about one
	}
	own := m.domain()
	for _, d := range m.domains {
		if d.From == m.Site && lists(d, vm) {
			return own == d, nil
		}
	}
	if own == nil {
		return false, nil
	}
	var ref site.Ref
	var at int64
	found, err := m.tx.Row(m.ctx, `SELECT ref, named_at FROM command_members WHERE domain = $1 AND vm = $2`, []any{own.Name, vm.ID.String()}, &ref, &at)
	if err != nil {
		return false, err
	}
	if found && (ref == "" && m.tx.Now()-at < memberFor.Milliseconds() || ref != "" && own.From == m.Site && slices.Contains(own.VMs, ref)) {
		return true, nil
	}
	home, err := homes(m.ctx, m.tx, own.Name)
	return slices.ContainsFunc(home, func(h home1) bool {
		return h.role == site.RocVA && h.lives && strings.Contains(h.vms, vm.ID.String()+" ")
	}), err
}

// lists reports whether a domain names a VM.
func lists(d *site.ProtectedDomain, vm *site.VM) bool {
	return slices.Contains(d.VMs, vm.Ref) || slices.Contains(d.VMs, site.Ref(vm.ID.String()))
}

// suspended refuses a VM that no plan of this site has suspended for others: it is of no
// shared domain.
func (m *members) suspended(vm *site.VM) error {
	plans, err := catalog.All(m.ctx, m.tx, site.KindPlan)
	if err != nil {
		return err
	}
	for _, o := range plans {
		p, ok := o.(*plan.Plan)
		if ok && (p.From == m.c.From && p.To == m.c.To || p.From == m.c.To && p.To == m.c.From) &&
			(slices.Contains(p.Suspend, vm.Ref) || slices.Contains(p.Suspend, site.Ref(vm.ID.String()))) {
			return nil
		}
	}
	return denied("vm "+vm.ID.String(), fmt.Sprintf("no plan that site %s knows has it suspended", m.Site), "have a plan between both sites at this site's manager name it in `suspend`, or leave it out")
}

// remember notes what a new command says of its domain's VMs, whoever asked for it.
func (d *Desk) remember(ctx context.Context, tx *db.Tx, c *Command, by *Peer) error {
	if c.Domain == "" || c.Question() {
		return nil
	}
	own, err := catalog.Find[*site.ProtectedDomain](ctx, tx, c.Domain)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return (&members{Desk: d, ctx: ctx, tx: tx, c: c, p: by}).remember(own)
}

// remember notes the VMs of a command that are its domain's: what a recovery begins to
// make here, and under which name the domain lists one that may lose it.
func (m *members) remember(own *site.ProtectedDomain) error {
	n, err := names(m.c)
	if err != nil {
		return nil // our own manager's; the box says what it does not know
	}
	done := map[dr.VMID]bool{}
	for i := range n.vms {
		id := n.vms[i].VM
		if id.IsZero() || done[id] {
			continue
		}
		done[id] = true
		if err := m.note(own, id); err != nil {
			return err
		}
	}
	return nil
}

func (m *members) note(own *site.ProtectedDomain, id dr.VMID) error {
	vm, err := m.find(site.Ref(id.String()))
	if errs.Is(err, errs.Denied) { // it is nobody's to be sure of
		return nil
	}
	if err != nil {
		return err
	}
	ref := site.Ref("")
	switch {
	case vm == nil && (AtSource(m.c.Kind) || m.c.To != m.Site):
		return nil
	case vm == nil: // a recovery makes it
		taken := 0 // by another domain, here
		if _, err := m.tx.Row(m.ctx, `SELECT count(*) FROM command_members WHERE vm = $1 AND domain <> $2 AND ref <> ''`, []any{id.String(), own.Name}, &taken); err != nil || taken > 0 {
			return err
		}
	case own.From == m.Site && slices.Contains(own.VMs, vm.Ref):
		ref = vm.Ref
	case own.From == m.Site && slices.Contains(own.VMs, site.Ref(id.String())):
		return nil // it is listed by what never changes
	default: // what was noted is named again
		_, err := m.tx.Exec(m.ctx, `UPDATE command_members SET named_at = $3 WHERE domain = $1 AND vm = $2`, own.Name, id.String(), m.tx.Now())
		return err
	}
	_, err = m.tx.Exec(m.ctx, `INSERT INTO command_members (domain, vm, ref, named_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (domain, vm) DO UPDATE SET named_at = excluded.named_at, ref = CASE WHEN excluded.ref <> '' THEN excluded.ref ELSE command_members.ref END`,
		own.Name, id.String(), string(ref), m.tx.Now())
	return err
}
