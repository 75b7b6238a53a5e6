package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// Boxes is the Router of a site's enrolled boxes:
//
//	Target, Guests, Ends             the RocVA that has the plan's domain, else the one with the fewest
//	Source                           the RocVA in which a committed recovery of the domain lives, else:
//	  sync, final-sync               the DRVA that says it has the domain
//	  running, cut, retire-vm, …     the host component that says it has the VM; else the one of the
//	                                 host on which the inventory has it; else all of the domain
//	  source-off, clean-domain       all host components that say they have VMs of the domain
//	script on an appliance           that appliance
type Boxes struct {
	Site site.Name // the manager's
}

// class is where a kind is done.
type class int

const (
	atRecovery  class = iota // RocVA
	atPublisher              // DRVA
	atVM                     // host component of the VM
	atHosts                  // host components of the domain
	atNamed                  // the box the input names
)

var classes = map[string]class{
	string(plan.KindSync): atPublisher, string(plan.KindFinalSync): atPublisher,
	Running: atVM, Shutdown: atVM, Cut: atVM, string(plan.KindStartSource): atVM,
	string(plan.KindRetireVM): atVM, string(plan.KindPlaceholder): atVM,
	string(plan.KindSourceOff): atHosts, string(plan.KindCleanDomain): atHosts,
	string(plan.KindWakeHost): atRecovery, string(plan.KindSuspendVM): atRecovery, string(plan.KindResumeVM): atRecovery,
	string(plan.KindFence): atRecovery, string(plan.KindPin): atRecovery, string(plan.KindDisks): atRecovery, string(plan.KindTestNetwork): atRecovery,
	string(plan.KindConfigure): atRecovery, string(plan.KindAddress): atRecovery, string(plan.KindPowerOn): atRecovery,
	AgentUp: atRecovery, PortUp: atRecovery, string(plan.KindScript): atRecovery, string(plan.KindPowerOff): atRecovery,
	string(plan.KindDiscard): atRecovery, string(plan.KindReturn): atRecovery, string(plan.KindPromote): atRecovery,
	string(plan.KindProtect): atRecovery, string(plan.KindReverse): atRecovery, string(plan.KindResync): atRecovery,
}

// AtSource reports whether a kind is done at the protected site; false also for one that
// there is not.
func AtSource(kind string) bool {
	c, ok := classes[kind]
	return ok && c != atRecovery
}

// Route returns the boxes for a command.
func (b *Boxes) Route(ctx context.Context, tx *db.Tx, c *Command) ([]site.Name, error) {
	const op = "command.Route"
	where, ok := classes[c.Kind]
	if !ok {
		return nil, errs.New(op, errs.Invalid, db.Text(c.Kind, maxName), "no box does such a thing").WithRemedy("use managers of one release")
	}
	if c.Kind == string(plan.KindScript) {
		var in plan.ScriptInputs
		if err := json.Unmarshal(c.Input, &in); err != nil {
			return nil, errs.E(op, errs.Invalid, c.Step, err)
		}
		if in.Run == plan.OnAppliance {
			return b.alive(ctx, tx, c, []site.Name{in.Box})
		}
	}
	if where == atRecovery {
		return b.recovers(ctx, tx, c)
	}
	home, err := homes(ctx, tx, c.Domain)
	if err != nil {
		return nil, err
	}
	if names := home.names(func(h home1) bool { return h.lives }); len(names) > 0 {
		return b.alive(ctx, tx, c, names[:1])
	}
	if where == atPublisher {
		names := home.names(func(h home1) bool { return h.role == site.DRVA })
		if len(names) == 0 {
			return nil, nobody(op, c, "no DRVA says that it publishes the domain", "see that its DRVA runs, and has the domain")
		}
		return b.alive(ctx, tx, c, names[:1])
	}
	names, err := b.hosts(ctx, tx, c, home, where)
	if err != nil {
		return nil, err
	}
	return b.alive(ctx, tx, c, names)
}

func nobody(op string, c *Command, words, remedy string) error {
	return errs.New(op, errs.Unavailable, "domain "+string(c.Domain), words).WithRemedy(remedy)
}

// alive demands that boxes are enrolled and heard of.
func (b *Boxes) alive(ctx context.Context, tx *db.Tx, _ *Command, names []site.Name) ([]site.Name, error) {
	const op = "command.Route"
	for _, n := range names {
		box, err := enrol.Get(ctx, tx, n)
		object := "appliance " + string(n)
		switch {
		case errs.Is(err, errs.NotFound) || err == nil && box.State != enrol.Enrolled:
			return nil, errs.New(op, errs.Unavailable, object, "it is not enrolled").WithRemedy("invite it, and have it join")
		case err != nil:
			return nil, err
		case box.Health == enrol.Silent || box.Health == enrol.Unseen:
			return nil, errs.New(op, errs.Unavailable, object, "it says nothing").WithRemedy("see that it runs, and reaches its manager")
		}
	}
	return names, nil
}

// home1 is what one box has of a domain.
type home1 struct {
	box   site.Name
	role  site.Role
	lives bool
	vms   string // ids, each with a blank behind
	told  int64
}

type homeList []home1

// homes are those of a domain, the newest first.
func homes(ctx context.Context, tx *db.Tx, domain site.Name) (list homeList, err error) {
	err = tx.Rows(ctx, `SELECT h.box, e.role, h.lives, h.vms, h.told_at FROM command_homes h JOIN enrolments e ON e.name = h.box
		WHERE h.domain = $1 AND e.state = 'enrolled' ORDER BY h.told_at DESC, h.box LIMIT $2`, []any{domain, maxBoxes}, func(scan func(...any) error) error {
		var h home1
		var lives int64
		err := scan(&h.box, &h.role, &lives, &h.vms, &h.told)
		h.lives = lives != 0
		list = append(list, h)
		return err
	})
	return list, err
}

func (l homeList) names(is func(home1) bool) (names []site.Name) {
	for _, h := range l {
		if is(h) {
			names = append(names, h.box)
		}
	}
	return names
}

// hosts are the host components for a command about a VM, or all of the domain's.
func (b *Boxes) hosts(ctx context.Context, tx *db.Tx, c *Command, home homeList, where class) (all []site.Name, err error) {
	all = home.names(func(h home1) bool { return h.role == site.IOFilter })
	if where == atVM && !c.VM.IsZero() {
		names := home.names(func(h home1) bool { return h.role == site.IOFilter && strings.Contains(h.vms, c.VM.String()+" ") })
		if len(names) > 0 {
			return names[:1], nil
		}
		name, err := b.onHost(ctx, tx, c.VM)
		if err != nil {
			return nil, err
		}
		if name != "" {
			return []site.Name{name}, nil
		}
	}
	if len(all) == 0 && c.Kind == string(plan.KindCleanDomain) { // they have let go of it already, and say so
		if all, err = b.heard(ctx, tx, site.IOFilter); err != nil {
			return nil, err
		}
	}
	slices.Sort(all)
	if len(all) == 0 {
		return nil, nobody("command.Route", c, "no host component says that it has VMs of the domain", "see that the host components run, and have the domain")
	}
	return all, nil
}

// heard are boxes of a role that are enrolled and say something.
func (b *Boxes) heard(ctx context.Context, tx *db.Tx, role site.Role) (names []site.Name, err error) {
	for after := site.Name(""); len(names) < maxBoxes; {
		list, err := enrol.List(ctx, tx, after, maxBoxes)
		if err != nil || len(list) == 0 {
			return names, err
		}
		for i := range list {
			if e := &list[i]; e.Role == role && e.State == enrol.Enrolled && e.Health != enrol.Silent && e.Health != enrol.Unseen {
				names = append(names, e.Name)
			}
		}
		after = list[len(list)-1].Name
	}
	return names[:maxBoxes], nil
}

// onHost is the box of the host on which the inventory has a VM; "": it is not known.
func (b *Boxes) onHost(ctx context.Context, tx *db.Tx, id dr.VMID) (site.Name, error) {
	vm, err := inventory.Find(ctx, tx, b.Site, site.Ref(id.String()))
	if errs.Is(err, errs.NotFound) {
		return "", nil
	}
	if err != nil || vm.Host == "" {
		return "", err
	}
	boxes, err := catalog.All(ctx, tx, site.KindBox)
	for _, o := range boxes {
		if a, ok := o.(*site.Appliance); ok && a.Role == site.IOFilter && a.Site == b.Site && a.Host == vm.Host {
			return a.Name, err
		}
	}
	return "", err
}

// recovers is the RocVA for a command: the one that has the plan's domain, else the one
// with the fewest, which is remembered.
func (b *Boxes) recovers(ctx context.Context, tx *db.Tx, c *Command) ([]site.Name, error) {
	const op = "command.Route"
	load, err := b.load(ctx, tx)
	if err != nil {
		return nil, err
	}
	var placed site.Name
	_, err = tx.Row(ctx, `SELECT box FROM command_places WHERE origin = $1 AND plan = $2 AND (domain = $3 OR $3 = '') ORDER BY domain LIMIT 1`, []any{c.Origin, c.Plan, c.Domain}, &placed)
	if err != nil {
		return nil, err
	}
	if _, there := load[placed]; there { // one that was removed has taken its recoveries along
		return b.alive(ctx, tx, c, []site.Name{placed})
	}
	if len(load) == 0 {
		return nil, errs.New(op, errs.Unavailable, "site "+string(b.Site), "it has no recovery appliance").WithRemedy("enrol one: holdfast appliance invite NAME --role rocva")
	}
	// Of those that answer the one with the fewest domains; if none does, the first is named.
	var names []site.Name
	for n := range load {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b site.Name) int { return cmp.Or(cmp.Compare(load[a], load[b]), cmp.Compare(a, b)) })
	var first error
	for _, n := range names {
		list, err := b.alive(ctx, tx, c, []site.Name{n})
		if errs.Is(err, errs.Unavailable) {
			first = cmp.Or(first, err)
			continue
		}
		if err == nil {
			_, err = tx.Exec(ctx, `INSERT INTO command_places (origin, plan, domain, box) VALUES ($1, $2, $3, $4) ON CONFLICT (origin, plan, domain) DO UPDATE SET box = excluded.box`, c.Origin, c.Plan, c.Domain, n)
		}
		return list, err
	}
	return nil, first
}

// load is how many domains each enrolled RocVA has.
func (b *Boxes) load(ctx context.Context, tx *db.Tx) (map[site.Name]int, error) {
	load := map[site.Name]int{}
	err := tx.Rows(ctx, `SELECT e.name, (SELECT count(*) FROM command_places p WHERE p.box = e.name) + (SELECT count(*) FROM command_homes h WHERE h.box = e.name AND h.lives = 1)
		FROM enrolments e WHERE e.role = $1 AND e.state = 'enrolled'`, []any{site.RocVA}, func(scan func(...any) error) error {
		var name site.Name
		var n int
		err := scan(&name, &n)
		load[name] = n
		return err
	})
	return load, err
}

// forgets drops the place of a domain whose recovery or test was removed.
func forgets(ctx context.Context, tx *db.Tx, r *row) error {
	if r.Kind != string(plan.KindDiscard) || r.outcome.Failure != nil {
		return nil
	}
	_, err := tx.Exec(ctx, `DELETE FROM command_places WHERE origin = $1 AND plan = $2 AND domain = $3 AND box = $4`, r.Origin, r.Plan, r.Domain, r.Box)
	return err
}

// housed enters what a box says that it has of domains, if that has changed.
func housed(ctx context.Context, tx *db.Tx, box site.Name, r *setup.Report) error {
	now := map[site.Name]home1{}
	for i := range r.Domains {
		d := &r.Domains[i]
		var vms strings.Builder
		for _, vm := range d.VMs {
			fmt.Fprintf(&vms, "%s ", vm.ID)
		}
		now[d.Name] = home1{vms: vms.String()}
	}
	for _, name := range r.Lives {
		h := now[name]
		h.lives = true
		now[name] = h
	}
	err := tx.Rows(ctx, `SELECT domain, lives, vms FROM command_homes WHERE box = $1`, []any{box}, func(scan func(...any) error) error {
		var domain site.Name
		var lives int64
		var vms string
		if err := scan(&domain, &lives, &vms); err != nil {
			return err
		}
		h, still := now[domain]
		switch {
		case !still && !r.IsUp(): // it may not have found it yet
		case !still:
			now[domain] = home1{told: -1}
		case h.lives == (lives != 0) && h.vms == vms:
			delete(now, domain)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for domain, h := range now {
		if h.told < 0 {
			_, err = tx.Exec(ctx, `DELETE FROM command_homes WHERE box = $1 AND domain = $2`, box, domain)
		} else if domain.Valid() {
			lives := 0
			if h.lives {
				lives = 1
			}
			_, err = tx.Exec(ctx, `INSERT INTO command_homes (box, domain, lives, vms, told_at) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (box, domain) DO UPDATE SET lives = excluded.lives, vms = excluded.vms, told_at = excluded.told_at`, box, domain, lives, h.vms, tx.Now())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
