package operate_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/operate/fakesite"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

func TestMain(m *testing.M) {
	if os.Getenv(helperURL) != "" {
		helper()
		return
	}
	os.Exit(dbtest.Main(m))
}

// patience ends waits that would hang; conditions end them all.
const patience = 3 * time.Minute

func vmID(n int) dr.VMID {
	var id dr.VMID
	binary.BigEndian.PutUint32(id.UUID[:], uint32(n))
	return id
}

// world is configured objects in memory: sites a and b, domains and plans over them.
type world struct {
	mu      sync.Mutex
	plans   map[site.Name]*plan.Plan
	domains map[site.Name]*site.ProtectedDomain
	a, b    *site.Inventory
}

// newWorld has domains d1, d2, … of so many VMs each.
func newWorld(domains, vms int) *world {
	w := &world{plans: map[site.Name]*plan.Plan{}, domains: map[site.Name]*site.ProtectedDomain{},
		a: &site.Inventory{Site: "a", Networks: []site.Network{{Ref: "lan"}}, Pools: []site.Pool{{Ref: "pool-a"}}},
		b: &site.Inventory{Site: "b", Networks: []site.Network{{Ref: "lan-b"}}, Pools: []site.Pool{{Ref: "pool-b"}}, VMs: []site.VM{{ID: vmID(900000), Ref: "lab"}}}}
	n := 0
	for i := range domains {
		d := &site.ProtectedDomain{Meta: site.Meta{Name: site.Name(fmt.Sprintf("d%d", i+1)), Version: 1}, From: "a", To: "b", Stores: []site.Name{"s"},
			Retention: site.Retention{Schedule: []site.Slot{{For: site.Span(24 * time.Hour)}}}}
		for range vms {
			n++
			ref := site.Ref(fmt.Sprintf("vm%d", n))
			vm := site.VM{ID: vmID(n), Ref: ref, Pool: "pool-a", CPUs: 1, MemoryMiB: 512,
				NICs: []site.VMNIC{{Network: "lan", Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.1.%d.%d/16", n/250, 1+n%250))}}}}
			w.a.VMs = append(w.a.VMs, vm)
			there := vm
			there.Pool, there.NICs = "pool-b", []site.VMNIC{{Network: "lan-b", Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.2.%d.%d/16", n/250, 1+n%250))}}}
			w.b.VMs = append(w.b.VMs, there)
			d.VMs = append(d.VMs, ref)
		}
		w.domains[d.Name] = d
	}
	return w
}

// plan adds a plan over some domains.
func (w *world) plan(name site.Name, domains ...site.Name) *plan.Plan {
	p := &plan.Plan{Meta: site.Meta{Name: name, Version: 1}, From: "a", To: "b", Domains: domains}
	w.plans[name] = p
	return p
}

func (w *world) Plan(_ context.Context, _ *db.Tx, name site.Name) (*plan.Plan, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.plans[name]; p != nil {
		return p, nil
	}
	return nil, errs.New("world", errs.NotFound, string(name), "there is no such plan")
}

func (w *world) Plans(context.Context, *db.Tx) (all []*plan.Plan, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.plans {
		all = append(all, p)
	}
	return all, nil
}

func (w *world) Domain(_ context.Context, _ *db.Tx, name site.Name) (*site.ProtectedDomain, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.domains[name]; d != nil {
		return d, nil
	}
	return nil, errs.New("world", errs.NotFound, string(name), "there is no such domain")
}

func (w *world) View(_ context.Context, _ *db.Tx, _ *plan.Plan, reversed bool) (*plan.View, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rule := func(from, to string) mapping.Rule {
		return mapping.Rule{From: mapping.Subnet{Prefix: netip.MustParsePrefix(from)}, To: mapping.Subnet{Prefix: netip.MustParsePrefix(to)}}
	}
	m := &mapping.Mappings{Meta: site.Meta{Name: "m"}, From: "a", To: "b",
		Networks: []mapping.NetworkPair{{From: "lan", To: "lan-b"}}, Pools: []mapping.Pair{{From: "pool-a", To: "pool-b"}},
		Rules: []mapping.Rule{rule("10.1.0.0/16", "10.2.0.0/16")}}
	v := &plan.View{Domains: map[site.Name]*site.ProtectedDomain{}, Protected: site.NewView(w.a), Recovery: site.NewView(w.b), Mappings: m}
	for n, d := range w.domains {
		v.Domains[n] = d
	}
	if reversed {
		v.Protected, v.Recovery, v.Mappings = v.Recovery, v.Protected, m.Reverse()
	}
	return v, nil
}

// rig is an operator with its database, its world and a fake site.
type rig struct {
	t    testing.TB
	d    *db.DB
	w    *world
	o    *operate.Operator
	site *fakesite.Site

	effects operate.Effects // nil: site
}

func newRig(t testing.TB, url string, w *world) *rig {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	o, err := operate.New(operate.Options{World: w, Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, d: d, w: w, o: o, site: &fakesite.Site{Store: &fakesite.Memory{}}}
	r.power(true)
	return r
}

// power starts, or stops, all VMs of site a.
func (r *rig) power(on bool) {
	for i := range r.w.a.VMs {
		if err := r.site.Power(r.t.Context(), &plan.VMInputs{VM: r.w.a.VMs[i].ID, Site: "a"}, on); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) options() runs.Options {
	effects := r.effects
	if effects == nil {
		effects = r.site
	}
	return runs.Options{Kinds: operate.Kinds(effects, 2*time.Millisecond), Joined: r.o.Joined, Lease: 3 * time.Second, Renew: 200 * time.Millisecond,
		Poll: 5 * time.Millisecond, Crashes: 1000, Parallel: 400}
}

// work has a worker carry runs out until the test ends, or stop is called.
func (r *rig) work(o runs.Options) (stop func()) {
	r.t.Helper()
	w, err := runs.NewWorker(r.d, o)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = w.Run(ctx); close(done) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) tx(f func(ctx context.Context, tx *db.Tx) error) error {
	return r.d.Tx(r.t.Context(), func(tx *db.Tx) error { return f(r.t.Context(), tx) })
}

func (r *rig) must(f func(ctx context.Context, tx *db.Tx) error) {
	r.t.Helper()
	if err := r.tx(f); err != nil {
		r.t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
}

// request is a confirmed request of somebody.
func (r *rig) request(p site.Name, op plan.Operation) operate.Request {
	q := operate.Request{Plan: p, Operation: op, By: "ann"}
	if x := r.w.plans[p]; x != nil {
		q.Confirm = &plan.Confirmation{Plan: p, Version: x.Version, Does: op, Alone: true}
	}
	return q
}

func (r *rig) begin(p site.Name, op plan.Operation) (b *operate.Begun, err error) {
	err = r.tx(func(ctx context.Context, tx *db.Tx) error {
		b, err = r.o.Begin(ctx, tx, r.request(p, op))
		return err
	})
	return b, err
}

// status is how a plan stands.
func (r *rig) status(p site.Name) (s operate.Status) {
	r.t.Helper()
	if err := r.d.View(r.t.Context(), func(tx *db.Tx) (err error) { s, err = r.o.Look(r.t.Context(), tx, p); return err }); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// until waits for a condition on a plan.
func (r *rig) until(p site.Name, what string, ok func(operate.Status) bool) operate.Status {
	r.t.Helper()
	for end := time.Now().Add(patience); ; {
		s := r.status(p)
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			r.t.Fatalf("%s is %s, never %s\n%s", p, s.State, what, r.dump(s.Run))
		}
		time.Sleep(2 * time.Millisecond) // between questions; the answer decides
	}
}

// settled waits until nothing of the plan is under way.
func (r *rig) settled(p site.Name) operate.Status {
	r.t.Helper()
	return r.until(p, "settled", func(s operate.Status) bool { return !s.State.Running() })
}

// does begins an operation and waits for the state it is to lead to.
func (r *rig) does(p site.Name, op plan.Operation, want plan.State) {
	r.t.Helper()
	if _, err := r.begin(p, op); err != nil {
		r.t.Fatalf("%s: %v (%s)", op, err, errs.RemedyOf(err))
	}
	if s := r.settled(p); s.State != want {
		r.t.Fatalf("%s led to %s, want %s\n%s", op, s.State, want, r.dump(s.Run))
	}
}

// failover is where a domain stands.
func (r *rig) failover(name site.Name) (d operate.DomainStatus) {
	r.t.Helper()
	r.must(func(ctx context.Context, tx *db.Tx) (err error) { d, err = operate.Domain(ctx, tx, name); return err })
	return d
}

func (r *rig) dump(run string) (out string) {
	if run == "" {
		return ""
	}
	_ = r.d.View(context.Background(), func(tx *db.Tx) error {
		x, err := runs.Get(context.Background(), tx, run)
		if err != nil {
			return err
		}
		out = fmt.Sprintf("%+v\n", x)
		steps, err := runs.Steps(context.Background(), tx, run)
		for _, s := range steps[:min(len(steps), 80)] {
			out += fmt.Sprintf("  %d %s %s %s attempt %d: %s\n", s.Seq, s.Step.Name, s.Phase, s.Status, s.Attempt, s.Note)
		}
		return err
	})
	return out
}

// well demands that no rule of the world was broken.
func (r *rig) well() {
	r.t.Helper()
	broken, err := r.site.Broken(r.t.Context())
	if err != nil || len(broken) > 0 {
		r.t.Fatalf("%q, %v", broken, err)
	}
}

// state reads the world.
func (r *rig) state() (st fakesite.State) {
	r.t.Helper()
	if err := r.site.Store.Do(r.t.Context(), func(s *fakesite.State) error { st = *s; return nil }); err != nil {
		r.t.Fatal(err)
	}
	return st
}
