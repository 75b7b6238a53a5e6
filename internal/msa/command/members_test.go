package command

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// theirs is a desk of site b, whose peer a asks for things:
//
//	erp   from b to a: erp1, and crm1's twin by id, erp2
//	crm   from a to b: crm1, which was never here
//	own   from b to nowhere: own1
//	bare  in no domain
type theirs struct {
	*rig
	peer                         *Peer
	erp1, erp2, crm1, own1, bare dr.VMID
	lab                          dr.VMID // suspended by a plan of b's
}

func newID() dr.VMID { return dr.VMID{UUID: dr.NewUUID()} }

func newTheirs(t testing.TB, url string) *theirs {
	t.Helper()
	x := &theirs{newRig(t, url), &Peer{Pair: "ab", Site: "a", Fingerprint: "fa"}, newID(), newID(), newID(), newID(), newID(), newID()}
	x.box("drva-b", site.DRVA)
	x.box("host-b", site.IOFilter)
	x.exec(`INSERT INTO command_homes (box, domain, lives, vms, told_at) VALUES ('drva-b', 'erp', 0, '', 0), ('host-b', 'erp', 0, '', 0), ('drva-b', 'crm', 0, '', 0), ('host-b', 'crm', 0, '', 0)`)
	domain := func(name, from, to site.Name, vms ...site.Ref) *site.ProtectedDomain {
		return &site.ProtectedDomain{Meta: site.Meta{Name: name}, From: from, To: to, VMs: vms}
	}
	x.put(domain("erp", "b", "a", "erp1", site.Ref(x.erp2.String())))
	x.put(domain("crm", "a", "b", "crm1", "bare"))
	x.put(domain("own", "b", "", "own1"))
	x.put(&plan.Plan{Meta: site.Meta{Name: "here"}, From: "a", To: "b", Suspend: []site.Ref{"lab"}, TestNetworks: []plan.TestNetwork{{From: "lan-a", To: "test-b"}}})
	x.inventory(site.VM{ID: x.erp1, Ref: "erp1", NICs: []site.VMNIC{{Network: "erp-lan"}}}, site.VM{ID: x.erp2, Ref: "whatever"}, site.VM{ID: x.own1, Ref: "own1"},
		site.VM{ID: x.bare, Ref: "bare"}, site.VM{ID: x.lab, Ref: "lab"})
	return x
}

func (x *theirs) put(o site.Object) {
	x.t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		x.t.Fatal(err)
	}
	x.exec(`INSERT INTO objects (kind, name, id, version, folder, body, changed_at, changed_by) VALUES ($1, $2, $3, 1, '', $4, 0, '') ON CONFLICT (kind, name) DO UPDATE SET body = excluded.body`,
		string(o.Kind()), string(o.Head().Name), dr.NewUUID().String(), string(b))
}

// inventory has site b have just these VMs.
func (x *theirs) inventory(vms ...site.VM) {
	x.t.Helper()
	x.exec(`DELETE FROM inventory_vms`)
	inv := &site.Inventory{Site: "b", VMs: vms, Hosts: []site.Host{{Ref: "node1"}}, Pools: []site.Pool{{Ref: "cluster"}},
		Networks: []site.Network{{Ref: "lan-b"}, {Ref: "erp-lan"}, {Ref: "management"}, {Ref: "test-b"}}}
	x.must(func(tx *db.Tx) error { _, err := inventory.Import(x.t.Context(), tx, inv); return err })
}

// command is one of site a's, about a domain in a direction.
func (x *theirs) command(kind string, domain, from, to site.Name, vm dr.VMID, in any) Command {
	x.t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		x.t.Fatal(err)
	}
	key := dr.NewUUID().String()
	return Command{Kind: kind, Key: key + "/" + kind, StepKey: key, Run: "run", Plan: "p", From: from, To: to, Domain: domain, VM: vm, Step: "s", Seq: 1, Attempt: 1, Epoch: 1, Input: b}
}

func (x *theirs) asks(c Command) error {
	_, err := x.AskFor(x.t.Context(), x.peer, &Abroad{Command: c})
	return err
}

// allowed and refused say how an ask ended, whatever boxes are there.
func (x *theirs) allowed(what string, c Command) {
	x.t.Helper()
	if err := x.asks(c); err != nil {
		x.t.Errorf("%s: %v (%s)", what, err, errs.RemedyOf(err))
	}
}

func (x *theirs) refused(what string, c Command) {
	x.t.Helper()
	before := x.denials()
	if err := x.asks(c); !errs.Is(err, errs.Denied) || errs.RemedyOf(err) == "" {
		x.t.Errorf("%s: %v", what, err)
	}
	var n int
	x.must(func(tx *db.Tx) error {
		_, err := tx.Row(x.t.Context(), `SELECT count(*) FROM commands WHERE key = $1`, []any{c.Key}, &n)
		return err
	})
	if n > 0 {
		x.t.Errorf("%s: it was entered", what)
	}
	if after := x.denials(); len(after) != len(before)+1 || !strings.Contains(after[0].Detail, "plan p, run run, step s") || after[0].By != "peer/ab" || after[0].Operation != "command-"+c.Kind {
		x.t.Errorf("%s: the audit log does not have it: %+v", what, after)
	}
}

// denials are what the audit log has of refusals, the newest first.
func (x *theirs) denials() (list []audit.Entry) {
	x.t.Helper()
	x.must(func(tx *db.Tx) error {
		all, err := audit.List(x.t.Context(), tx, audit.Filter{}, 0, 1000)
		list = slices.DeleteFunc(all, func(e audit.Entry) bool { return e.Outcome != audit.Refused })
		return err
	})
	return list
}

// inputOf is the input of a kind, about a domain and a VM here.
func inputOf(kind string, domain site.Name, vm dr.VMID) any {
	in := plan.VMInputs{VM: vm, Site: "b"}
	switch plan.Kind(kind) {
	case plan.KindFence, plan.KindPin:
		return plan.PinInputs{Domain: domain, VMs: []dr.VMID{vm}}
	case plan.KindDisks:
		return plan.DisksInputs{DomainInputs: plan.DomainInputs{Domain: domain, VMs: []dr.VMID{vm}}}
	case plan.KindConfigure, plan.KindAddress, plan.KindPlaceholder:
		return plan.ConfigureInputs{Domain: domain, Placement: mapping.Placement{VM: vm, Name: "n", Site: "b"}}
	case plan.KindStartSource, plan.KindSuspendVM, plan.KindResumeVM, plan.KindPowerOn, plan.KindPowerOff, plan.KindRetireVM, Running, AgentUp, Shutdown, Cut:
		return in
	case PortUp:
		return plan.WaitInputs{VMInputs: in, Port: 22}
	case plan.KindScript:
		return plan.ScriptInputs{Name: "x", Run: plan.InGuest, Command: []string{"/bin/true"}, VM: &in}
	case plan.KindWakeHost:
		return plan.HostInputs{Host: "node1"}
	case plan.KindTestNetwork:
		return plan.NetworkInputs{Isolated: "lan-a"}
	}
	return plan.DomainInputs{Domain: domain, VMs: []dr.VMID{vm}}
}

// way is the direction in which a kind is done at site b.
func way(kind string) (from, to site.Name) {
	if AtSource(kind) {
		return "b", "a"
	}
	return "a", "b"
}

// TestStrangers: another site's manager names, in each kind of command, a VM of this site
// that is in no domain, in one that is not shared, or in another one that is; it is
// denied, and the audit log says so. The domain's own VM may be named in each kind.
func TestStrangers(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		x := newTheirs(t, url)
		for kind := range classes {
			from, to := way(kind)
			if siteWide[kind] {
				continue // TestSiteWide
			}
			for what, vm := range map[string]dr.VMID{"in no domain": x.bare, "in one that is not shared": x.own1} {
				x.refused(kind+" of a VM "+what, x.command(kind, "erp", from, to, vm, inputOf(kind, "erp", vm)))
				x.refused(kind+" for a VM "+what+", beside the input", x.command(kind, "erp", from, to, vm, inputOf(kind, "erp", x.erp1)))
			}
			x.refused(kind+" of another domain's VM", x.command(kind, "crm", from, to, x.erp1, inputOf(kind, "crm", x.erp1)))
			// That its domain is at home elsewhere, and lists a VM of this name, is nothing.
			x.refused(kind+" of a VM that the other's domain lists", x.command(kind, "crm", from, to, x.bare, inputOf(kind, "crm", x.bare)))
			x.allowed(kind, x.command(kind, "erp", from, to, x.erp1, inputOf(kind, "erp", x.erp1)))
			x.allowed(kind+", listed by id", x.command(kind, "erp", from, to, dr.VMID{}, inputOf(kind, "erp", x.erp2)))
		}
	})
}

// TestOneField: of what is allowed, each field that names something is changed.
func TestOneField(t *testing.T) {
	x := newTheirs(t, dbtest.SQLite(t))
	for kind := range classes {
		if b, _ := json.Marshal(inputOf(kind, "crm", x.erp1)); strings.Contains(string(b), `"crm"`) {
			from, to := way(kind)
			x.refused(kind+" about one domain, as a step of another", x.command(kind, "erp", from, to, x.erp1, inputOf(kind, "crm", x.erp1)))
		}
	}
	x.refused("a VM of another site", x.command(Cut, "erp", "b", "a", x.erp1, plan.VMInputs{VM: x.erp1, Site: "a"}))
	for kind := range byName {
		if !siteWide[kind] {
			x.refused(kind+" of a stranger by its name", x.command(kind, "erp", "b", "a", newID(), plan.VMInputs{VM: newID(), Name: "own1"}))
			x.allowed(kind+" of a member by its name", x.command(kind, "erp", "b", "a", dr.VMID{}, plan.VMInputs{VM: newID(), Name: "erp1"}))
		}
	}
	bad := x.command(Cut, "erp", "b", "a", x.erp1, nil)
	bad.Input = json.RawMessage(fmt.Sprintf(`{"vm":%q,"name":"erp1","site":"b","also":%q}`, x.erp1, x.bare))
	if err := x.asks(bad); !errs.Is(err, errs.Invalid) {
		t.Errorf("a field that nobody reads: %v", err)
	}
	script := plan.ScriptInputs{Name: "x", Run: plan.OnAppliance, Command: []string{"/bin/sh"}, Box: "host-b"}
	x.refused("a script on an appliance", x.command(string(plan.KindScript), "erp", "a", "b", dr.VMID{}, script))
}

// TestSiteWide: of what is of no domain, another site has VMs suspended that a plan here
// has suspended, and hosts woken that there are.
func TestSiteWide(t *testing.T) {
	x := newTheirs(t, dbtest.SQLite(t))
	for _, kind := range []string{string(plan.KindSuspendVM), string(plan.KindResumeVM)} {
		for _, in := range []plan.VMInputs{{VM: x.bare}, {VM: x.erp1}, {Name: "own1"}, {VM: newID(), Name: "bare"}} {
			x.refused(fmt.Sprint(kind, in), x.command(kind, "", "a", "b", in.VM, in))
		}
		x.allowed(kind, x.command(kind, "", "a", "b", x.lab, plan.VMInputs{VM: x.lab, Name: "lab", Site: "b"}))
		x.allowed(kind, x.command(kind, "", "a", "b", dr.VMID{}, plan.VMInputs{Name: "lab"}))
	}
	wake := string(plan.KindWakeHost)
	x.allowed(wake, x.command(wake, "", "a", "b", dr.VMID{}, plan.HostInputs{Host: "node1"}))
	x.refused(wake, x.command(wake, "", "a", "b", dr.VMID{}, plan.HostInputs{Host: "another"}))
	x.allowed("network", x.command(string(plan.KindTestNetwork), "", "a", "b", dr.VMID{}, plan.NetworkInputs{Isolated: "lan-a"}))
}

// TestMembersThatChange: a member is one still when it has lost its name, until it is
// taken out of the domain; what a recovery makes here is the domain's.
func TestMembersThatChange(t *testing.T) {
	x := newTheirs(t, dbtest.SQLite(t))
	retire := func(vm dr.VMID) Command {
		return x.command(string(plan.KindRetireVM), "erp", "b", "a", vm, plan.VMInputs{VM: vm, Name: "erp1", Site: "b"})
	}
	x.allowed("retire", retire(x.erp1))
	retired := site.VM{ID: x.erp1, Ref: "erp1-retired"}
	x.inventory(retired, site.VM{ID: newID(), Ref: "erp1", PlaceholderFor: x.erp1}, site.VM{ID: x.bare, Ref: "bare"})
	x.allowed("placeholder", x.command(string(plan.KindPlaceholder), "erp", "b", "a", x.erp1, inputOf(string(plan.KindPlaceholder), "erp", x.erp1)))
	x.allowed("the way back", x.command(string(plan.KindFence), "erp", "a", "b", dr.VMID{}, inputOf(string(plan.KindFence), "erp", x.erp1)))
	x.put(&site.ProtectedDomain{Meta: site.Meta{Name: "erp"}, From: "b", To: "a", VMs: []site.Ref{"erp3"}})
	x.refused("it was taken out", retire(x.erp1))
	x.put(&site.ProtectedDomain{Meta: site.Meta{Name: "erp"}, From: "b", To: "a", VMs: []site.Ref{"erp1"}})
	x.put(&site.ProtectedDomain{Meta: site.Meta{Name: "own"}, From: "b", VMs: []site.Ref{"erp1-retired"}})
	x.refused("it is another domain's", retire(x.erp1))

	// A recovery of a's domain here: nothing of it is there, then its VM.
	power := func(kind string, vm dr.VMID) Command {
		return x.command(kind, "crm", "a", "b", vm, inputOf(kind, "crm", vm))
	}
	cut := func() Command {
		return x.command(Cut, "crm", "b", "a", x.crm1, plan.VMInputs{VM: x.crm1, Name: "crm1"})
	}
	x.allowed("fence", power(string(plan.KindFence), x.crm1))
	x.inventory(site.VM{ID: x.crm1, Ref: "crm1"}, site.VM{ID: x.bare, Ref: "bare"})
	x.allowed("start", power(string(plan.KindPowerOn), x.crm1))
	x.allowed("its agent", power(AgentUp, x.crm1))
	x.allowed("the way back", cut())
	x.exec(`UPDATE command_members SET named_at = named_at - $1`, (memberFor + time.Hour).Milliseconds())
	x.refused("nobody has named it for long", cut())
	x.must(func(tx *db.Tx) error { _, err := Prune(t.Context(), tx); return err })
	x.exec(`INSERT INTO command_homes (box, domain, lives, vms, told_at) VALUES ('rocva-1', 'crm', 1, $1, 0)`, x.crm1.String()+" ")
	x.allowed("a committed recovery has it", cut())
	x.refused("which has not another", x.command(Cut, "crm", "b", "a", x.bare, plan.VMInputs{VM: x.bare}))
}

// TestOwnRecovery: what this site's manager has recovered may be named by the other's.
func TestOwnRecovery(t *testing.T) {
	x := newTheirs(t, dbtest.SQLite(t))
	c := x.command(string(plan.KindFence), "crm", "a", "b", dr.VMID{}, plan.PinInputs{Domain: "crm", VMs: []dr.VMID{x.crm1, x.bare}})
	c.Origin = "fb"
	x.ask(&c)
	x.inventory(site.VM{ID: x.crm1, Ref: "crm1"}, site.VM{ID: x.bare, Ref: "bare"})
	x.allowed("what came into being", x.command(Cut, "crm", "b", "a", x.crm1, plan.VMInputs{VM: x.crm1}))
	x.refused("what was here before", x.command(Cut, "crm", "b", "a", x.bare, plan.VMInputs{VM: x.bare}))
}

// TestGround: a place is named if this site's mappings with the other lead there, or the
// VM is there; without mappings, if it is there at all.
func TestGround(t *testing.T) {
	x := newTheirs(t, dbtest.SQLite(t))
	on := func(n site.Ref, also func(*mapping.Placement)) Command {
		p := mapping.Placement{VM: x.erp1, Name: "erp1", Site: "b", NICs: []mapping.NIC{{Network: n}}}
		if also != nil {
			also(&p)
		}
		return x.command(string(plan.KindConfigure), "erp", "a", "b", x.erp1, plan.ConfigureInputs{Domain: "erp", Placement: p})
	}
	for _, n := range []site.Ref{"", "lan-b", "management", "test-b"} {
		x.allowed("without mappings "+string(n), on(n, nil))
	}
	x.refused("no such network", on("elsewhere", nil))
	x.put(&mapping.Mappings{Meta: site.Meta{Name: "there"}, From: "b", To: "a", Networks: []mapping.NetworkPair{{From: "lan-b", To: "lan-a"}}, Folders: []mapping.Pair{{From: "/f", To: "/g"}}})
	for _, n := range []site.Ref{"", "lan-b", "test-b", "erp-lan"} {
		x.allowed("mapped "+string(n), on(n, nil))
	}
	x.refused("a network that nothing leads to", on("management", nil))
	x.allowed("a pool, of which the mappings say nothing", on("", func(p *mapping.Placement) { p.Pool = "cluster" }))
	x.allowed("a folder", on("", func(p *mapping.Placement) { p.Folder, p.Host = "/f", "node1" }))
	for what, f := range map[string]func(*mapping.Placement){
		"folder": func(p *mapping.Placement) { p.Folder = "/g" }, "pool": func(p *mapping.Placement) { p.Pool = "x" }, "host": func(p *mapping.Placement) { p.Host = "x" },
		"policy": func(p *mapping.Placement) { p.Policy = "x" }, "datastore": func(p *mapping.Placement) { p.Datastore = "x" }, "site": func(p *mapping.Placement) { p.Site = "a" },
	} {
		x.refused(what, on("", f))
	}
	x.exec(`DELETE FROM inventory_sites`)
	if err := x.asks(on("", nil)); !errs.Is(err, errs.Unavailable) {
		t.Errorf("nothing is known of the site: %v", err)
	}
}
