package operate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/operate/fakesite"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// direct is a manager that is called without a network, by a box or a paired manager.
type direct struct {
	desk *command.Desk
	box  site.Name
	peer *command.Peer
}

// Post does what the API does.
func (m direct) Post(ctx context.Context, path string, in, out any) (err error) {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var answer any
	switch path {
	case command.ExchangePath:
		var x command.Exchange
		if err := json.Unmarshal(b, &x); err != nil {
			return err
		}
		answer, err = m.desk.Exchange(ctx, m.box, "", &x)
	case command.TellPath:
		var x command.Told
		if err := json.Unmarshal(b, &x); err != nil {
			return err
		}
		err = m.desk.Tell(ctx, m.box, "", &x)
	case command.AbroadPath:
		var x command.Abroad
		if err := json.Unmarshal(b, &x); err != nil {
			return err
		}
		answer, err = m.desk.AskFor(ctx, m.peer, &x)
	}
	if err != nil || out == nil {
		return err
	}
	if b, err = json.Marshal(answer); err != nil {
		return err
	}
	return json.Unmarshal(b, out)
}

// abroad knows one other site.
type abroad struct {
	site site.Name
	direct
}

func (p abroad) Of(_ context.Context, at site.Name) (site.Name, error) {
	if at != p.site {
		return "", errs.New("abroad", errs.Unavailable, string(at), "no such pair")
	}
	return "pair-" + at, nil
}

func (p abroad) Post(ctx context.Context, _ site.Name, path string, in, out any) error {
	return p.direct.Post(ctx, path, in, out)
}

// boxes are those of one site.
var boxes = []struct {
	name string
	role site.Role
}{{"drva", site.DRVA}, {"host", site.IOFilter}, {"rocva", site.RocVA}}

// newDesk makes a site's desk, with its boxes enrolled and alive, and the domains
// configured.
func newDesk(t testing.TB, d *db.DB, w *world, at site.Name) *command.Desk {
	t.Helper()
	err := d.Tx(t.Context(), func(tx *db.Tx) error {
		for _, b := range boxes {
			name := b.name + "-" + string(at)
			if _, err := tx.Exec(t.Context(), `INSERT INTO enrolments (name, role, box, state, generation, addresses, domains, cert, cert_until, cert_before, enrolled_at, changed_at, seen_at, remote, release, skew, capacity)
				VALUES ($1, $2, $3, 'enrolled', 1, '', '', '', 0, '', 0, 0, $4, '', '', 0, '')`, name, b.role, "/"+name, tx.Now()+time.Hour.Milliseconds()); err != nil {
				return err
			}
		}
		for _, x := range w.domains {
			b, err := json.Marshal(x)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(t.Context(), `INSERT INTO objects (kind, name, id, version, folder, body, changed_at, changed_by) VALUES ($1, $2, $4, 1, '', $3, 0, '')`, site.KindDomain, x.Name, string(b), dr.NewUUID().String()); err != nil {
				return err
			}
		}
		inv := w.a
		if at == "b" {
			inv = w.b
		}
		if _, err := inventory.Import(t.Context(), tx, inv); err != nil { // what another site may name is looked up there
			return err
		}
		_, err := catalog.Find[*site.ProtectedDomain](t.Context(), tx, "d1")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return deskOf(d, at)
}

// agentOf is the agent of a box of a site, which has all domains.
func agentOf(dir string, w *world, role site.Role, h command.Handler, p command.Poster) *command.Agent {
	return &command.Agent{Dir: dir, Handler: h, Manager: p, Report: func() *setup.Report {
		r := &setup.Report{Generation: "1"}
		if role == site.RocVA {
			return r
		}
		n := 0
		for i := range len(w.domains) {
			d := setup.DomainReport{Name: site.Name(fmt.Sprintf("d%d", i+1)), State: setup.Protected}
			for range len(w.domains[d.Name].VMs) {
				n++
				d.VMs = append(d.VMs, setup.VMReport{ID: vmID(n)})
			}
			r.Domains = append(r.Domains, d)
		}
		return r
	}}
}

// byCommands has the rig's steps done by boxes of two sites: those of b, whose manager
// the rig's is, and those of a, whose manager is asked.
func (r *rig) byCommands(urlA string) {
	r.t.Helper()
	a, b := r.desks(urlA)
	e := effectsOf(a, b)
	r.effects = e
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = e.Run(ctx) })
	dir := r.t.TempDir()
	wg.Go(func() { serveBoxes(ctx, dir, r.w, r.site, a, b) })
	r.t.Cleanup(func() { cancel(); wg.Wait() })
}

// desks are those of both sites' managers, with their boxes enrolled.
func (r *rig) desks(urlA string) (a, b *command.Desk) {
	r.t.Helper()
	da, err := db.Open(r.t.Context(), urlA)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { da.Close() })
	return newDesk(r.t, da, r.w, "a"), newDesk(r.t, r.d, r.w, "b")
}

func deskOf(d *db.DB, at site.Name) *command.Desk {
	return &command.Desk{DB: d, Site: at, Router: &command.Boxes{Site: at}}
}

// effectsOf are those of site b's manager.
func effectsOf(a, b *command.Desk) *command.Effects {
	peer := &command.Peer{Pair: "to-b", Site: "b", Fingerprint: "fb"}
	return &command.Effects{Desk: b, Site: "b", Origin: "fb", Peers: abroad{"a", direct{desk: a, peer: peer}}}
}

// serveBoxes runs the agents of all boxes until ctx ends.
func serveBoxes(ctx context.Context, dir string, w *world, s *fakesite.Site, desks ...*command.Desk) {
	var wg sync.WaitGroup
	for _, d := range desks {
		for _, x := range boxes {
			name := x.name + "-" + string(d.Site)
			agent := agentOf(filepath.Join(dir, name), w, x.role, command.Steps(s), direct{desk: d, box: site.Name(name)})
			wg.Go(func() {
				if err := errors.Join(os.MkdirAll(agent.Dir, 0o700), agent.Run(ctx)); err != nil {
					panic(err)
				}
			})
		}
	}
	wg.Wait()
}

// another is a database of the same engine.
func another(t testing.TB, url string) string {
	if strings.HasPrefix(url, "postgres") {
		return dbtest.Postgres(t)
	}
	return dbtest.SQLite(t)
}

// TestStoryByCommands is TestStory with every effect a command to a box. The other
// database has TestKilledByCommands.
func TestStoryByCommands(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t), storyPlan())
	r.byCommands(dbtest.SQLite(t))
	r.story()
}

// commanded is a process of TestKilledByCommands: all boxes, or a manager.
func commanded(ctx context.Context, d *db.DB, o *operate.Operator, s *fakesite.Site) error {
	da, err := db.Open(ctx, os.Getenv(helperURLA))
	if err != nil {
		return err
	}
	a, b := deskOf(da, "a"), deskOf(d, "b")
	if os.Getenv(helperPart) == "boxes" {
		serveBoxes(ctx, os.Getenv(helperBoxes), storyWorld(), s, a, b)
		return nil
	}
	e := effectsOf(a, b)
	go func() { _ = e.Run(ctx) }()
	kinds := operate.Kinds(e, 2*time.Millisecond)
	for k, do := range kinds {
		kinds[k] = dying{d, do}
	}
	w, err := runs.NewWorker(d, runs.Options{Kinds: kinds, Joined: o.Joined,
		Lease: 500 * time.Millisecond, Renew: 80 * time.Millisecond, Poll: 10 * time.Millisecond, Crashes: 100000})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// dying ends a manager before a step, while its command is under way, and after it.
type dying struct {
	d  *db.DB
	do runs.Doer
}

func (x dying) Do(ctx context.Context, c *runs.Call) (runs.Result, error) {
	a := &operate.Act{Call: c}
	dieAt(x.d, "manager before", plan.Kind(c.Step.Kind), a)
	under, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-time.After(3 * time.Millisecond): // the command is on its way: it does not matter how far
			dieAt(x.d, "manager in", plan.Kind(c.Step.Kind), a)
		case <-under.Done():
		}
	}()
	r, err := x.do.Do(ctx, c)
	dieAt(x.d, "manager after", plan.Kind(c.Step.Kind), a)
	return r, err
}

// TestKilledByCommands is TestKilledEverywhere with managers that command boxes of two
// sites: managers and boxes are killed before, in and after each command.
func TestKilledByCommands(t *testing.T) {
	one, seed := killing()
	legs := wholeLife
	if os.Getenv("HOLDFAST_RUNS_KILLS") == "" { // each kind of command once at least
		one, legs = "25", []leg{{plan.Test, plan.TestComplete}, {plan.Cleanup, plan.Ready}, {plan.Planned, plan.BeforeCommit}, {plan.CommitRun, plan.RecoveryComplete},
			{plan.Reprotect, plan.Ready}, {plan.Disaster, plan.BeforeCommit}, {plan.Rollback, plan.Ready}}
	}
	kills := func(t *testing.T, url string) {
		r := newRig(t, url, storyWorld())
		r.outlives()
		urlA := another(t, url)
		r.desks(urlA)
		t.Logf("seed %s, one in %s", seed, one)
		env := []string{helperSeed + "=" + seed, helperOne + "=" + one, helperBoxes + "=" + t.TempDir(), helperURLA + "=" + urlA}
		replicas(t, url, 2, append(env, helperPart+"=manager")...)
		replicas(t, url, 1, append(env, helperPart+"=boxes")...)
		r.life(legs)
	}
	if os.Getenv("HOLDFAST_RUNS_KILLS") == "" { // TestKilledEverywhere is on both
		kills(t, dbtest.SQLite(t))
		return
	}
	dbtest.Each(t, kills)
}
