package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/operate/fakesite"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// commanders are the managers of two sites, paired: a has one replica, b has two. Each
// site has a DRVA, a host component and a recovery appliance over one fake world.
type commanders struct {
	t     *testing.T
	a     *Replica
	b     [2]*Replica
	world *fakesite.Site
	vm    dr.VMID
}

// run opens a replica, and serves until the test ends.
func (c *commanders) run(at site.Name, dir, url string) *Replica {
	c.t.Helper()
	r, err := Open(c.t.Context(), Options{Data: dir, DB: url, Listen: "127.0.0.1:0", Names: []string{"127.0.0.1"}, Site: at, Release: "test"})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	c.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			c.t.Errorf("%s: %v", at, err)
		}
	})
	return r
}

func (c *commanders) tx(r *Replica, f func(tx *db.Tx) error) {
	c.t.Helper()
	if err := r.DB.Tx(c.t.Context(), f); err != nil {
		c.t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
}

func newCommanders(t *testing.T) *commanders {
	c := &commanders{t: t, world: &fakesite.Site{Store: &fakesite.Memory{}, JobPolls: 2}, vm: dr.VMID{UUID: dr.NewUUID()}}
	url, dir := dbtest.Postgres(t), t.TempDir()
	c.a = c.run("a", t.TempDir(), "")
	c.b[0] = c.run("b", dir, url)
	second := t.TempDir()
	key, err := os.ReadFile(filepath.Join(dir, "seal.key"))
	if err == nil {
		err = os.WriteFile(filepath.Join(second, "seal.key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.b[1] = c.run("b", second, url)
	c.pair()
	domain := &site.ProtectedDomain{Meta: site.Meta{Name: "erp", Version: 1}, From: "a", To: "b", Stores: []site.Name{"s"}}
	body, err := json.Marshal(domain)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*Replica{c.a, c.b[0]} {
		c.tx(r, func(tx *db.Tx) error {
			// What another site may name is looked up in what is known of one's own.
			if _, err := inventory.Import(t.Context(), tx, &site.Inventory{Site: r.opts.Site, VMs: []site.VM{{ID: dr.VMID{UUID: dr.NewUUID()}, Ref: "another"}}}); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), `INSERT INTO objects (kind, name, id, version, folder, body, changed_at, changed_by) VALUES ($1, 'erp', $2, 1, '', $3, 0, '')`,
				site.KindDomain, dr.NewUUID().String(), string(body))
			return err
		})
	}
	return c
}

// pair has the sites trust each other: b calls a.
func (c *commanders) pair() {
	c.t.Helper()
	var token string
	c.tx(c.a, func(tx *db.Tx) (err error) {
		token, err = pair.Invite(c.t.Context(), tx, c.a.PKI, "to-b", c.a.Address(), 0, "")
		return err
	})
	accepted, err := pair.Accept(c.t.Context(), c.b[0].PKI, "to-a", token, c.b[0].Address())
	if err != nil {
		c.t.Fatal(err)
	}
	c.tx(c.b[0], func(tx *db.Tx) error { _, err := accepted.Trust(c.t.Context(), tx); return err })
	c.tx(c.a, func(tx *db.Tx) error {
		_, err := pair.Confirm(c.t.Context(), tx, c.a.PKI, "to-b", c.b[0].Fingerprint())
		return err
	})
}

// join enrols a box at a replica, and runs its agent until stop is called.
func (c *commanders) join(r *Replica, name site.Name, role site.Role, id string) (dir string, stop func()) {
	c.t.Helper()
	var token string
	c.tx(r, func(tx *db.Tx) (err error) {
		token, err = enrol.Invite(c.t.Context(), tx, r.PKI, enrol.Invitation{Name: name, Role: role, Manager: r.Address()}, "")
		return err
	})
	dir = filepath.Join(c.t.TempDir(), "tls")
	if _, err := enrol.Join(c.t.Context(), token, dir, id, "test"); err != nil {
		c.t.Fatal(err)
	}
	agent := &command.Agent{Dir: dir, Handler: command.Steps(c.world), Report: func() *setup.Report {
		if role == site.RocVA {
			return &setup.Report{Generation: "1"}
		}
		return &setup.Report{Generation: "1", Domains: []setup.DomainReport{{Name: "erp", State: setup.Protected, VMs: []setup.VMReport{{ID: c.vm}}}}}
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("%s: %v", name, err)
		}
	})
	c.t.Cleanup(stop)
	return dir, stop
}

// boxes joins all, and waits until the managers know what they have.
func (c *commanders) boxes() {
	c.t.Helper()
	c.join(c.a, "drva-a", site.DRVA, "")
	c.join(c.a, "host-a", site.IOFilter, dr.NewUUID().String())
	c.join(c.b[1], "rocva-b", site.RocVA, "")
	c.await(c.a, "boxes that tell of domains", `SELECT count(*) FROM command_homes`, 2)
	c.await(c.b[0], "a box that lives", `SELECT count(*) FROM enrolments WHERE seen_at > 0`, 1)
}

// await waits until a count is as it is to be.
func (c *commanders) await(r *Replica, what, query string, want int) {
	c.t.Helper()
	for end := time.Now().Add(3 * time.Minute); ; {
		var n int
		if err := r.DB.View(c.t.Context(), func(tx *db.Tx) error { _, err := tx.Row(c.t.Context(), query, nil, &n); return err }); err != nil {
			c.t.Fatal(err)
		}
		if n == want {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%s: %d, want %d", what, n, want)
		}
		time.Sleep(5 * time.Millisecond) // between questions; the answer decides
	}
}

// carry has steps carried out by b's replicas, and returns how the run ended.
func (c *commanders) carry(key string, steps ...runs.Step) runs.State {
	c.t.Helper()
	for i := range steps {
		steps[i].Group = i + 1 // one after the other
	}
	var id string
	c.tx(c.b[0], func(tx *db.Tx) (err error) {
		id, _, err = runs.Start(c.t.Context(), tx, runs.Request{Key: key, Subject: "test", Operation: key, By: "ann", Snapshot: runs.Snapshot{Steps: steps}})
		return err
	})
	c.b[0].Worker.Wake()
	c.await(c.b[0], "the run's end", fmt.Sprintf(`SELECT count(*) FROM runs WHERE id = '%s' AND state NOT IN ('active', 'parked')`, id), 1)
	var run runs.Run
	if err := c.b[0].DB.View(c.t.Context(), func(tx *db.Tx) (err error) {
		if run, err = runs.Get(c.t.Context(), tx, id); err != nil {
			return err
		}
		list, err := runs.Steps(c.t.Context(), tx, id)
		for _, s := range list {
			c.t.Logf("%s: %s %s", s.Step.Name, s.Status, s.Note)
		}
		return err
	}); err != nil {
		c.t.Fatal(err)
	}
	return run.State
}

// step is one of a plan's.
func (c *commanders) step(kind plan.Kind, inputs any) runs.Step {
	c.t.Helper()
	in, err := json.Marshal(map[string]any{"plan": "p", "from": "a", "to": "b", "domain": "erp", "inputs": inputs})
	if err != nil {
		c.t.Fatal(err)
	}
	return runs.Step{Name: string(kind), Kind: string(kind), Version: plan.StepVersion, Input: in, OnError: runs.Stop}
}

// TestCommands: a run of b's two replicas has steps done by a DRVA and a host component
// of site a, which a's manager commands, and by a recovery appliance that one replica
// of b knows; all by TLS, with certificates. A box that is revoked, and a site that is
// un-paired, do nothing more.
func TestCommands(t *testing.T) {
	c := newCommanders(t)
	c.boxes()
	old := plan.VMInputs{VM: c.vm, Name: "vm1", Site: "a"}
	if err := c.world.Power(t.Context(), &old, true); err != nil {
		t.Fatal(err)
	}
	domain := plan.DomainInputs{Domain: "erp", VMs: []dr.VMID{c.vm}}
	if got := c.carry("all", c.step(plan.KindSync, domain), c.step(plan.KindShutdownVM, plan.ShutdownInputs{VMInputs: old, Timeout: time.Minute}),
		c.step(plan.KindSourceOff, domain), c.step(plan.KindFence, plan.PinInputs{Domain: "erp", VMs: domain.VMs}), c.step(plan.KindDisks, plan.DisksInputs{DomainInputs: domain})); got != runs.Succeeded {
		t.Fatalf("the run has %s", got)
	}
	var st fakesite.State
	if err := c.world.Store.Do(t.Context(), func(s *fakesite.State) error { st = *s; return nil }); err != nil {
		t.Fatal(err)
	}
	if d := st.Domains["erp"]; d.Synced != 1 || d.Fenced != "p" || !d.Disks || st.VMs["a/"+c.vm.String()].Running || len(st.Broken) > 0 {
		t.Errorf("%+v %v", d, st.Broken)
	}
	var noted []string
	if err := c.a.DB.View(t.Context(), func(tx *db.Tx) error {
		return tx.Rows(t.Context(), `SELECT done_by, operation, object FROM audit WHERE operation LIKE 'command-%' ORDER BY seq`, nil, func(scan func(...any) error) error {
			var by, op, object string
			err := scan(&by, &op, &object)
			noted = append(noted, by+" "+op+" "+object)
			return err
		})
	}); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(noted) != "[peer/to-b command-sync domain erp peer/to-b command-shutdown domain erp peer/to-b command-source-off domain erp]" {
		t.Errorf("a's audit log has %q", noted)
	}
	if _, err := audit.Verify(t.Context(), c.a.DB); err != nil {
		t.Error(err)
	}
	// Nobody's box, then nobody's manager.
	c.tx(c.a, func(tx *db.Tx) error { return enrol.Revoke(t.Context(), tx, "drva-a") })
	if got := c.carry("revoked", c.step(plan.KindSync, domain)); got != runs.Failed {
		t.Errorf("with a revoked box the run has %s", got)
	}
	c.tx(c.a, func(tx *db.Tx) error { return pair.Remove(t.Context(), tx, "to-b") })
	if got := c.carry("unpaired", c.step(plan.KindSourceOff, domain)); got != runs.Failed {
		t.Errorf("with an un-paired site the run has %s", got)
	}
	if err := c.world.Store.Do(t.Context(), func(s *fakesite.State) error { st = *s; return nil }); err != nil {
		t.Fatal(err)
	}
	if st.Domains["erp"].Synced != 1 {
		t.Error("a revoked box has synced")
	}
}
