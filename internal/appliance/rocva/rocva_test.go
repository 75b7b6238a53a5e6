package rocva_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/appliance/rocva"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor/fake"
	"holdfast/internal/journal"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
	"holdfast/internal/segment"
	"holdfast/internal/store/mem"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
}

// source is the protected site: a publisher and the power of two guests.
type source struct {
	t  testing.TB
	mu sync.Mutex

	id    journal.Identity
	st    *mem.Store
	c     *journal.Container
	pub   *journal.Publisher
	vms   []dr.VMConfig
	on    map[dr.VMID]bool
	last  dr.CheckpointID
	when  time.Time
	disks map[dr.DiskID][]byte
}

const diskSize = 128 << 10

func newSource(t testing.TB) *source {
	key, err := journal.NewRecoveryKey()
	check(t, err)
	s := &source{t: t, st: mem.New(), on: map[dr.VMID]bool{}, disks: map[dr.DiskID][]byte{}}
	s.id, err = journal.ParseIdentity(string(key.FileText()))
	check(t, err)
	s.c, err = journal.Create(t.Context(), s.st, journal.CreateOptions{Name: "erp", Recipients: []journal.Recipient{key.Recipient()}})
	check(t, err)
	for i := range 2 {
		disk := dr.DiskID{UUID: dr.NewUUID()}
		vm := dr.VMConfig{ID: dr.VMID{UUID: dr.NewUUID()}, Name: fmt.Sprintf("vm%d", i+1), CPUs: 1, MemoryMiB: 64, Machine: "pc", Firmware: "bios",
			Disks: []dr.VMDisk{{ID: disk, Name: "system", Size: diskSize, Bus: "virtio"}},
			NICs:  []dr.NIC{{MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), Model: "e1000", Network: "lan"}}}
		s.vms, s.on[vm.ID], s.disks[disk] = append(s.vms, vm), true, make([]byte, diskSize)
	}
	s.publisher()
	_, err = s.Checkpoint(t.Context(), "")
	check(t, err)
	return s
}

// publisher begins, or goes on, to publish the current history.
func (s *source) publisher() {
	var err error
	s.pub, err = s.c.OpenPublisher(s.t.Context(), journal.PublisherOptions{})
	check(s.t, err)
	s.t.Cleanup(func() { s.pub.Close() })
	for _, vm := range s.vms {
		check(s.t, s.pub.PutMeta(s.t.Context(), vm.ID, 1, vm))
	}
}

func (s *source) Sync(context.Context) error { return nil }

func (s *source) Running(context.Context) (up []dr.VMID, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, on := range s.on {
		if on {
			up = append(up, id)
		}
	}
	return up, nil
}

func (s *source) set(vm dr.VMID, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on[vm] = on
	return nil
}

func (s *source) Shutdown(_ context.Context, vm dr.VMID) error { return s.set(vm, false) }
func (s *source) Start(_ context.Context, vm dr.VMID) error    { return s.set(vm, true) }
func (s *source) Close() error                                 { return nil }

// Checkpoint writes a block of each disk and publishes a point.
func (s *source) Checkpoint(ctx context.Context, tag string) (dr.CheckpointID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.last + 1
	b := s.c.NewBuilder(segment.BuilderOptions{})
	seq := dr.Seq(10 * next)
	b.SetSeqs(seq, seq)
	var writes []func() // of what is published alone
	cp := dr.Checkpoint{ID: next, Seq: seq + 1, Time: time.Now(), Scope: dr.Group, Tag: tag}
	for _, vm := range s.vms {
		d := vm.Disks[0].ID
		block := bytes.Repeat([]byte(fmt.Sprintf("%s %08d", vm.Name, next)), dr.BlockSize/12+1)[:dr.BlockSize]
		at := int(next) % dr.BlocksPerChunk
		writes = append(writes, func() { copy(s.disks[d][at*dr.BlockSize:], block) })
		if err := b.AddFrame(d, 0, 1<<at, seq, block); err != nil {
			return 0, err
		}
		cp.Disks = append(cp.Disks, dr.CheckpointDisk{ID: d, VM: vm.ID, Size: diskSize, Synced: true})
	}
	b.SetCheckpoint(cp)
	p, err := s.pub.Publish(ctx, b)
	if err == nil {
		err = p.Wait(ctx)
	}
	if err == nil {
		s.last, s.when = next, cp.Time
		for _, write := range writes {
			write()
		}
	}
	return next, err
}

// world has a plan over one domain of the source's VMs.
type world struct {
	p *plan.Plan
	d *site.ProtectedDomain
	v [2]*plan.View // there, and back
}

func (w *world) Plan(context.Context, *db.Tx, site.Name) (*plan.Plan, error) { return w.p, nil }
func (w *world) Plans(context.Context, *db.Tx) ([]*plan.Plan, error)         { return []*plan.Plan{w.p}, nil }
func (w *world) Domain(context.Context, *db.Tx, site.Name) (*site.ProtectedDomain, error) {
	return w.d, nil
}
func (w *world) View(_ context.Context, _ *db.Tx, _ *plan.Plan, back bool) (*plan.View, error) {
	if back {
		return w.v[1], nil
	}
	return w.v[0], nil
}

func newWorld(s *source) *world {
	zero := site.Span(0)
	w := &world{p: &plan.Plan{Meta: site.Meta{Name: "p", Version: 1}, From: "a", To: "b", Domains: []site.Name{"erp"}, Disks: plan.DisksFull},
		d: &site.ProtectedDomain{Meta: site.Meta{Name: "erp", Version: 1}, From: "a", To: "b", Stores: []site.Name{"s"},
			Retention: site.Retention{Schedule: []site.Slot{{For: site.Span(24 * time.Hour)}}}}}
	a := &site.Inventory{Site: "a", Networks: []site.Network{{Ref: "lan"}}}
	b := &site.Inventory{Site: "b", Networks: []site.Network{{Ref: "lan-b"}}}
	for i, vm := range s.vms {
		for _, at := range []struct {
			inv *site.Inventory
			net site.Ref
		}{{a, "lan"}, {b, "lan-b"}} {
			at.inv.VMs = append(at.inv.VMs, site.VM{ID: vm.ID, Ref: site.Ref(vm.Name), CPUs: 1, MemoryMiB: 64,
				NICs: []site.VMNIC{{Network: at.net, MAC: vm.NICs[0].MAC, Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.1.0.%d/24", i+1))}}}})
		}
		w.d.VMs = append(w.d.VMs, site.Ref(vm.Name))
		w.p.VMs = append(w.p.VMs, plan.VM{VM: site.Ref(vm.Name), Priority: i + 1, Agent: &zero,
			Post: []plan.Callout{{Name: "said", Run: plan.OnManager, Script: plan.Script{Command: []string{"/bin/sh", "-c", "echo $HOLDFAST_VM is up"}}}}})
	}
	domains := map[site.Name]*site.ProtectedDomain{"erp": w.d}
	there := &mapping.Mappings{Meta: site.Meta{Name: "m"}, From: "a", To: "b", Networks: []mapping.NetworkPair{{From: "lan", To: "lan-b"}}}
	back := &mapping.Mappings{Meta: site.Meta{Name: "n"}, From: "b", To: "a", Networks: []mapping.NetworkPair{{From: "lan-b", To: "lan"}}}
	onlyA, onlyB := &site.Inventory{Site: "a", Networks: a.Networks}, &site.Inventory{Site: "b", Networks: b.Networks}
	w.v[0] = &plan.View{Domains: domains, Protected: site.NewView(a), Recovery: site.NewView(onlyB), Mappings: there}
	w.v[1] = &plan.View{Domains: domains, Protected: site.NewView(b), Recovery: site.NewView(onlyA), Mappings: back}
	return w
}

// ends are what a manager finds at two sites: an appliance at each, and the boxes of the
// protected site at a until the domain lives in an appliance; scripts of its own it runs
// itself.
type ends struct {
	operate.Ends
	operate.Guests
	at  map[site.Name]*rocva.Appliance
	src *source
}

// target is the appliance of the site a run goes to.
func (e ends) target(a *operate.Act) *rocva.Appliance { return e.at[a.To] }

// lives returns the appliance a domain lives in at the site a run comes from, or nil.
func (e ends) lives(a *operate.Act) *rocva.Appliance {
	if at := e.at[a.From]; slices.Contains(at.Lives(), a.Domain) {
		return at
	}
	return nil
}

func (e ends) Sync(ctx context.Context, a *operate.Act, in *plan.DomainInputs, final bool) (runs.Result, error) {
	if at := e.lives(a); at != nil {
		return at.Sync(ctx, a, in, final)
	}
	_, err := e.src.Checkpoint(ctx, "")
	return runs.Result{}, err
}

func (e ends) Running(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (bool, error) {
	if at := e.lives(a); at != nil {
		return at.Running(ctx, a, vm)
	}
	up, err := e.src.Running(ctx)
	return slices.Contains(up, vm.VM), err
}

func (e ends) Shutdown(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	if at := e.lives(a); at != nil {
		return at.Shutdown(ctx, a, vm)
	}
	return e.src.Shutdown(ctx, vm.VM)
}

func (e ends) Cut(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	return e.lives(a).Cut(ctx, a, vm)
}

func (e ends) SourceOff(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	if at := e.lives(a); at != nil {
		return at.SourceOff(ctx, a, in)
	}
	return runs.Result{}, nil
}

func (e ends) StartSource(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	if at := e.lives(a); at != nil {
		return at.StartSource(ctx, a, vm)
	}
	return runs.Result{}, e.src.Start(ctx, vm.VM)
}

func (e ends) WakeHost(ctx context.Context, a *operate.Act, in *plan.HostInputs) (runs.Result, error) {
	return e.target(a).WakeHost(ctx, a, in)
}

func (e ends) Suspend(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.target(a).Suspend(ctx, a, vm)
}

func (e ends) Resume(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.target(a).Resume(ctx, a, vm)
}

func (e ends) Fence(ctx context.Context, a *operate.Act, in *plan.PinInputs) (runs.Result, error) {
	return e.target(a).Fence(ctx, a, in)
}

func (e ends) Pin(ctx context.Context, a *operate.Act, in *plan.PinInputs) (runs.Result, error) {
	return e.target(a).Pin(ctx, a, in)
}

func (e ends) Disks(ctx context.Context, a *operate.Act, in *plan.DisksInputs) (runs.Result, error) {
	return e.target(a).Disks(ctx, a, in)
}

func (e ends) TestNetwork(ctx context.Context, a *operate.Act, in *plan.NetworkInputs) (runs.Result, error) {
	return e.target(a).TestNetwork(ctx, a, in)
}

func (e ends) Configure(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	return e.target(a).Configure(ctx, a, in)
}

func (e ends) Address(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	return e.target(a).Address(ctx, a, in)
}

func (e ends) PowerOn(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.target(a).PowerOn(ctx, a, vm)
}

func (e ends) AgentUp(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (bool, error) {
	return e.target(a).AgentUp(ctx, a, vm)
}

func (e ends) PortUp(ctx context.Context, a *operate.Act, vm *plan.VMInputs, port int) (bool, error) {
	return e.target(a).PortUp(ctx, a, vm, port)
}

func (e ends) Script(ctx context.Context, a *operate.Act, in *plan.ScriptInputs) (runs.Result, error) {
	if in.Run == plan.InGuest {
		return e.target(a).Script(ctx, a, in)
	}
	_, err := fmt.Fprintf(a.Output(), "%s is up\n", in.VM.Name)
	return runs.Result{}, err
}

func (e ends) PowerOff(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.target(a).PowerOff(ctx, a, vm)
}

func (e ends) Discard(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(a).Discard(ctx, a, in)
}

func (e ends) Return(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(a).Return(ctx, a, in)
}

func (e ends) Promote(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(a).Promote(ctx, a, in)
}

func (e ends) Protect(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(a).Protect(ctx, a, in)
}

func (e ends) Reverse(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(a).Reverse(ctx, a, in)
}

func (e ends) Resync(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.target(a).Resync(ctx, a, in)
}

func (e ends) Retire(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return e.at[a.From].Retire(ctx, a, vm)
}

func (e ends) Placeholder(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	return e.at[a.From].Placeholder(ctx, a, in)
}

func (e ends) Clean(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return e.at[a.From].Clean(ctx, a, in)
}

var _ operate.Effects = ends{}

// place is a site: a host with VMs that are no recovery's, and an appliance.
type place struct {
	dir  string
	prov *fake.Provider
	host *fake.Host
	box  *rocva.Appliance
}

// rig is a manager over two sites with fake hypervisors.
type rig struct {
	t     testing.TB
	src   *source
	d     *db.DB
	o     *operate.Operator
	at    map[site.Name]*place
	mode  site.Mode
	most  int // VMs that start at once at a site
	given []site.DiskSeed
	world *world
	prot  *protectors      // nil: what is recovered is not protected
	now   func() time.Time // of the appliances; nil: the system's
	stop  func()

	lost   atomic.Bool           // the first store does not answer
	copies map[string]*mem.Store // further ones by address
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, src: newSource(t), at: map[site.Name]*place{}}
	for _, name := range []site.Name{"a", "b"} {
		// Names of sockets are short.
		dir, err := os.MkdirTemp("", "hfrs")
		check(t, err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		r.at[name] = &place{dir: dir, prov: fake.New(), host: &fake.Host{}}
	}
	var err error
	r.d, err = db.Open(t.Context(), dbtest.SQLite(t))
	check(t, err)
	t.Cleanup(func() { r.d.Close() })
	r.world = newWorld(r.src)
	r.o, err = operate.New(operate.Options{World: r.world, Pause: time.Millisecond})
	check(t, err)
	return r
}

// begin starts the processes of the manager and of both appliances.
func (r *rig) begin() {
	r.t.Helper()
	r.start()
	r.t.Cleanup(func() {
		r.stop()
		for _, p := range r.at {
			p.prov.Close()
		}
	})
}

func (r *rig) start() {
	r.t.Helper()
	e := ends{at: map[site.Name]*rocva.Appliance{}, src: r.src}
	boxes, end := context.WithCancel(context.Background())
	var g sync.WaitGroup
	for name, p := range r.at {
		p.box = r.appliance(name, p)
		e.at[name] = p.box
		g.Go(func() {
			if err := p.box.Run(boxes); err != nil {
				r.t.Error(err)
			}
		})
	}
	w, err := runs.NewWorker(r.d, runs.Options{Kinds: operate.Kinds(e, 2*time.Millisecond), Joined: r.o.Joined,
		Lease: 3 * time.Second, Renew: 200 * time.Millisecond, Poll: 5 * time.Millisecond})
	check(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var steps sync.WaitGroup
	steps.Go(func() { _ = w.Run(ctx) })
	r.stop = sync.OnceFunc(func() {
		cancel()
		steps.Wait()
		end()
		g.Wait()
		for name, box := range e.at {
			if rep := box.Report(); rep.IsUp() { // else its manager takes it that nothing lives there
				r.t.Errorf("%s's appliance has ended, and tells what is in it: %v", name, rep.Lives)
			}
		}
	})
}

// appliance makes one that knows what it is to be.
func (r *rig) appliance(name site.Name, p *place) *rocva.Appliance {
	r.t.Helper()
	open := func(ctx context.Context, url string, _ map[string]string) (*journal.Container, error) {
		if st := r.copies[url]; st != nil {
			return journal.Open(ctx, st, r.src.id)
		}
		if r.lost.Load() {
			return nil, errs.New("test.store", errs.Unavailable, url, "nobody answers")
		}
		return journal.Open(ctx, r.src.st, r.src.id)
	}
	o := recovery.Options{Provider: p.prov, Open: open}
	if r.prot != nil {
		o.Site = r.prot.site()
	}
	there := fake.NewPlatform(p.host)
	box, err := rocva.New(rocva.Options{Dir: p.dir, Name: "rocva-" + string(name), Begin: func(context.Context, site.Platform, []string) (*rocva.Parts, error) {
		return &rocva.Parts{Service: recovery.New(o), Open: open, Site: there, Close: there.Close}, nil
	}})
	check(r.t, err)
	if r.now != nil {
		box.SetNow(r.now)
	}
	check(r.t, box.Setup(r.t.Context(), &setup.Setup{Generation: "g", Role: site.RocVA, Site: name, Platform: site.QEMU, RocVA: &setup.RocVA{
		Domains:  []setup.Domain{{Name: "erp", ID: r.src.c.Domain().ID, Container: "mem://erp", Identity: "unused", Mode: r.mode, Preseed: r.given, Copies: r.further()}},
		Networks: []site.Network{{Ref: map[site.Name]site.Ref{"a": "lan", "b": "lan-b"}[name]}}, MaxBoots: r.most,
	}}))
	return box
}

// further are the domain's further stores.
func (r *rig) further() (out []setup.Copy) {
	for _, url := range slices.Sorted(maps.Keys(r.copies)) {
		out = append(out, setup.Copy{Store: site.Name(strings.TrimPrefix(url, "mem://")), Container: url})
	}
	return out
}

// restart ends the processes and begins others; VMs go on.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	for _, p := range r.at {
		next := p.prov.Again()
		check(r.t, p.prov.Close())
		p.prov = next
	}
	r.start()
}

func (r *rig) does(op plan.Operation, want plan.State) {
	r.t.Helper()
	r.asks(op)
	if s := r.awaitEnd(op); s.State != want {
		r.t.Fatalf("%s led to %s, want %s\n%s", op, s.State, want, r.dump(s.Run))
	}
}

// asks begins an operation of the plan.
func (r *rig) asks(op plan.Operation) (run string) {
	r.t.Helper()
	check(r.t, r.d.Tx(r.t.Context(), func(tx *db.Tx) error {
		begun, err := r.o.Begin(r.t.Context(), tx, operate.Request{Plan: "p", Operation: op, By: "ann",
			Confirm: &plan.Confirmation{Plan: "p", Version: 1, Does: op, Alone: true}})
		if err == nil {
			run = begun.Run
		}
		return err
	}))
	return run
}

// awaitEnd waits until an operation has ended.
func (r *rig) awaitEnd(op plan.Operation) (s operate.Status) {
	r.t.Helper()
	r.await(func() bool {
		check(r.t, r.d.View(r.t.Context(), func(tx *db.Tx) (err error) { s, err = r.o.Look(r.t.Context(), tx, "p"); return err }))
		return !s.State.Running()
	}, func() string { return fmt.Sprintf("%s is %s\n%s", op, s.State, r.dump(s.Run)) })
	return s
}

// awaitAttempt waits until one of a run's steps has been begun so often.
func (r *rig) awaitAttempt(run, step string, n int) {
	r.t.Helper()
	r.await(func() (found bool) {
		check(r.t, r.d.View(r.t.Context(), func(tx *db.Tx) error {
			steps, err := runs.Steps(r.t.Context(), tx, run)
			found = slices.ContainsFunc(steps, func(s runs.StepState) bool { return strings.HasSuffix(s.Step.Name, step) && s.Attempt >= n })
			return err
		}))
		return found
	}, func() string { return r.dump(run) })
}

// await asks until ok says so.
func (r *rig) await(ok func() bool, otherwise func() string) {
	r.t.Helper()
	for end := time.Now().Add(3 * time.Minute); !ok(); {
		if time.Now().After(end) {
			r.t.Fatal(otherwise())
		}
		time.Sleep(2 * time.Millisecond) // between questions; the answer decides
	}
}

func (r *rig) dump(id string) (out string) {
	_ = r.d.View(context.Background(), func(tx *db.Tx) error {
		steps, err := runs.Steps(context.Background(), tx, id)
		for _, s := range steps {
			out += fmt.Sprintf("  %s %s attempt %d: %s %s\n", s.Step.Name, s.Status, s.Attempt, s.Note, s.Output)
		}
		return err
	})
	return out
}

// disks compares the disks below a directory with the source's.
func (r *rig) disks(run string) {
	r.t.Helper()
	found, err := filepath.Glob(filepath.Join(r.at["b"].dir, "r", "p", "erp", run, "disks", "*", "*.raw"))
	check(r.t, err)
	if len(found) != len(r.src.vms) {
		r.t.Fatalf("disks: %q", found)
	}
	for _, path := range found {
		b, err := os.ReadFile(path)
		check(r.t, err)
		if !slices.ContainsFunc(r.src.vms, func(vm dr.VMConfig) bool { return bytes.Equal(b, r.src.disks[vm.Disks[0].ID]) }) {
			r.t.Errorf("%s is no disk as it was at the point", path)
		}
	}
}

// up counts the recovered VMs that run at b.
func (r *rig) up(run string) int {
	r.t.Helper()
	n := 0
	list, err := recovery.New(recovery.Options{Provider: r.at["b"].prov}).List(r.t.Context(), filepath.Join(r.at["b"].dir, "r", "p", "erp"))
	check(r.t, err)
	for _, st := range list {
		if filepath.Base(st.Dir) != run {
			continue
		}
		for _, v := range st.VMs {
			if v.State == "running" {
				n++
			}
		}
	}
	return n
}

// TestPlan tests, migrates, rolls back, migrates again and commits a domain whose disks
// come from a real container, while the manager's process is replaced between.
func TestPlan(t *testing.T) {
	r := newRig(t)
	r.begin()
	r.does(plan.Test, plan.TestComplete)
	r.disks("test1")
	if n := r.up("test1"); n != 2 {
		t.Errorf("%d VMs run in the test", n)
	}
	if up, _ := r.src.Running(t.Context()); len(up) != 2 {
		t.Errorf("a test stopped the source's VMs: %d run", len(up))
	}
	r.restart()
	r.does(plan.Cleanup, plan.Ready)
	r.does(plan.Planned, plan.BeforeCommit)
	r.disks("1")
	if up, _ := r.src.Running(t.Context()); len(up) != 0 || r.up("1") != 2 {
		t.Errorf("%d VMs run at the source, %d here", len(up), r.up("1"))
	}
	if _, err := r.src.Checkpoint(t.Context(), ""); !errs.Is(err, errs.Fenced) {
		t.Errorf("the source still publishes: %v", err)
	}
	r.restart()
	r.does(plan.Rollback, plan.Ready)
	if up, _ := r.src.Running(t.Context()); len(up) != 2 {
		t.Errorf("after the rollback %d VMs run at the source", len(up))
	}
	r.src.publisher()
	if _, err := r.src.Checkpoint(t.Context(), ""); err != nil {
		t.Errorf("after the rollback the source does not publish: %v", err)
	}
	r.does(plan.Planned, plan.BeforeCommit)
	r.disks("2")
	r.does(plan.CommitRun, plan.RecoveryComplete)
	rep := r.report()
	if len(rep) != 2 || rep[0] != "vm1 is up\n" {
		t.Errorf("scripts said %q", rep)
	}
}

// report is what the scripts of the newest planned migration said.
func (r *rig) report() (said []string) {
	r.t.Helper()
	check(r.t, r.d.View(r.t.Context(), func(tx *db.Tx) error {
		list, err := operate.History(r.t.Context(), tx, "p", 0, 100)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(e operate.Entry) bool { return e.Operation == plan.Planned })
		rep, err := operate.Report(r.t.Context(), tx, list[i].Run)
		for _, s := range rep.Steps {
			if s.Output != "" {
				said = append(said, s.Output)
			}
		}
		if d := rep.Domains[0]; d.Checkpoint == 0 || d.Up != 2 {
			r.t.Errorf("%+v", d)
		}
		return err
	}))
	return said
}
