package fake

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// Behaviour is the script of one VM. The zero value starts at once and obeys.
type Behaviour struct {
	StartErr  error         // Start fails with it
	HangStart bool          // Start waits until its context ends
	Deaf      bool          // the guest ignores the power button
	StopAfter time.Duration // how long the guest takes to shut down
	StuckOn   string        // name of a disk that fails whenever the VM runs; "": none
	// Agent answers for the guest's agent; nil: there is none. It may be called
	// concurrently.
	Agent func(command string, args any) (any, error)
}

// Provider is a scripted hypervisor.Provider. Make it with New. Safe for
// concurrent use.
type Provider struct {
	caps hypervisor.Capabilities // immutable
	kept *kept                   // immutable: what outlives the provider

	mu      sync.Mutex
	closed  bool                  // guarded by mu
	scripts map[dr.VMID]Behaviour // guarded by mu
	vms     map[dr.VMID]*VM       // guarded by mu: VMs that start or run
	specs   []hypervisor.Spec     // guarded by mu: every spec Start accepted
}

// kept are the VMs that outlive the provider that started them.
type kept struct {
	mu   sync.Mutex
	runs map[*run]bool        // guarded by mu
	uses map[string]*Provider // guarded by mu: who claimed a work directory
}

var _ hypervisor.Provider = (*Provider)(nil)

// New returns a provider that can do everything.
func New() *Provider {
	return &Provider{
		caps: hypervisor.Capabilities{
			NBD: true, Serial: true, Pause: true, OrderlyStop: true, UEFI: true, NVMe: true,
			UserNet: true, NamedNet: true, IOErrors: true,
		},
		kept:    &kept{runs: map[*run]bool{}, uses: map[string]*Provider{}},
		scripts: map[dr.VMID]Behaviour{}, vms: map[dr.VMID]*VM{},
	}
}

// Again returns another provider for the same host, as the next process makes
// one, with the same scripts. VMs that are kept can be adopted once p is closed
// or lost.
func (p *Provider) Again() *Provider {
	next := New()
	next.kept = p.kept
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.Copy(next.scripts, p.scripts)
	return next
}

// Lose ends the provider as SIGKILL ends its process: VMs that are not kept run
// on with nobody to end them.
func (p *Provider) Lose() {
	p.mu.Lock()
	p.closed = true
	all := slices.Collect(maps.Values(p.vms))
	p.vms = map[dr.VMID]*VM{}
	p.mu.Unlock()
	for _, vm := range all {
		vm.letGo()
	}
	p.kept.release(p)
}

// claim takes a work directory.
func (k *kept) claim(dir string, p *Provider) error {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return errs.New("fake.Claim", errs.Canceled, dir, "the provider was closed")
	}
	if _, err := os.Stat(dir); err != nil {
		return errs.E("fake.Claim", errs.NotFound, dir, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if by := k.uses[dir]; by != nil && by != p {
		return errs.New("fake.Claim", errs.Conflict, dir, "another provider looks after the VMs of this directory")
	}
	k.uses[dir] = p
	return nil
}

// release gives back what p claimed.
func (k *kept) release(p *Provider) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.uses, func(_ string, by *Provider) bool { return by == p })
}

// under returns the runs kept in a work directory, by name.
func (k *kept) under(dir string) (runs []*run) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for r := range k.runs {
		if r.spec.WorkDir == dir {
			runs = append(runs, r)
		}
	}
	slices.SortFunc(runs, func(a, b *run) int { return strings.Compare(a.spec.Config.Name, b.spec.Config.Name) })
	return runs
}

// Adopt takes over the VMs that are kept under workDir.
func (p *Provider) Adopt(ctx context.Context, workDir string) ([]hypervisor.VM, error) {
	const op = "fake.Adopt"
	if ctx.Err() != nil {
		return nil, errs.E(op, errs.Canceled, workDir, context.Cause(ctx))
	}
	if err := p.kept.claim(workDir, p); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errs.New(op, errs.Canceled, workDir, "the provider was closed")
	}
	var found []hypervisor.VM
	for _, r := range p.kept.under(workDir) {
		if p.vms[r.spec.Config.ID] != nil {
			continue
		}
		vm := newVM(p, r)
		vm.life.Move(r.state(), "adopted")
		p.vms[r.spec.Config.ID] = vm
		found = append(found, vm)
	}
	return found, nil
}

// Name returns "fake".
func (p *Provider) Name() string { return "fake" }

// Capabilities says it can do everything.
func (p *Provider) Capabilities() hypervisor.Capabilities { return p.caps }

// Behave sets the script for the next starts of a VM.
func (p *Provider) Behave(id dr.VMID, b Behaviour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scripts[id] = b
}

// Started returns every spec that Start accepted, in order.
func (p *Provider) Started() []hypervisor.Spec {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]hypervisor.Spec(nil), p.specs...)
}

// Find returns a VM that starts or runs, by its id; nil: there is none.
func (p *Provider) Find(id dr.VMID) *VM {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vms[id]
}

// Start begins a run as the VM's script says.
func (p *Provider) Start(ctx context.Context, spec hypervisor.Spec) (hypervisor.VM, error) {
	const op = "fake.Start"
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, errs.E(op, errs.Canceled, spec.Config.Name, context.Cause(ctx))
	}
	if spec.Keep {
		if err := p.kept.claim(spec.WorkDir, p); err != nil {
			return nil, err
		}
	}
	vm, err := p.reserve(&spec)
	if err != nil {
		return nil, err
	}
	if vm.run.script.HangStart {
		select {
		case <-ctx.Done():
			err = errs.E(op, errs.Canceled, spec.Config.Name, context.Cause(ctx))
		case <-vm.life.Ended():
			err = errs.New(op, errs.Canceled, spec.Config.Name, "the provider was closed")
		}
	}
	if vm.run.script.StartErr != nil {
		err = errs.E(op, errs.Internal, spec.Config.Name, vm.run.script.StartErr)
	}
	if err != nil {
		vm.end(hypervisor.Crashed, "did not start")
		return nil, err
	}
	p.mu.Lock()
	p.specs = append(p.specs, spec)
	p.mu.Unlock()
	if spec.Keep {
		p.kept.mu.Lock()
		p.kept.runs[vm.run] = true
		p.kept.mu.Unlock()
	}
	if spec.Paused {
		vm.move(hypervisor.Paused, "started paused")
	} else {
		vm.goOn()
	}
	return vm, nil
}

// reserve takes the VM's place.
func (p *Provider) reserve(spec *hypervisor.Spec) (*VM, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := spec.Config.ID
	if p.closed {
		return nil, errs.New("fake.Start", errs.Canceled, spec.Config.Name, "the provider was closed")
	}
	if p.vms[id] != nil {
		return nil, errs.New("fake.Start", errs.Exists, spec.Config.Name, "this VM runs already")
	}
	vm := newVM(p, &run{spec: *spec, script: p.scripts[id], switched: map[dr.DiskID]bool{}})
	p.vms[id] = vm
	return vm, nil
}

// Close ends every VM that is not kept.
func (p *Provider) Close() error {
	p.mu.Lock()
	p.closed = true
	var all []*VM
	for _, vm := range p.vms {
		all = append(all, vm)
	}
	p.mu.Unlock()
	for _, vm := range all {
		if vm.run.spec.Keep {
			vm.letGo()
		} else {
			vm.end(hypervisor.Stopped, "killed")
		}
	}
	p.kept.release(p)
	return nil
}
