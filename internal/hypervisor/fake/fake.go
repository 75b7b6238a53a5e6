package fake

import (
	"context"
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
}

// Provider is a scripted hypervisor.Provider. Make it with New. Safe for
// concurrent use.
type Provider struct {
	caps hypervisor.Capabilities // immutable

	mu      sync.Mutex
	closed  bool                  // guarded by mu
	scripts map[dr.VMID]Behaviour // guarded by mu
	vms     map[dr.VMID]*VM       // guarded by mu: VMs that start or run
	specs   []hypervisor.Spec     // guarded by mu: every spec Start accepted
}

var _ hypervisor.Provider = (*Provider)(nil)

// New returns a provider that can do everything.
func New() *Provider {
	return &Provider{
		caps: hypervisor.Capabilities{
			NBD: true, Serial: true, Pause: true, OrderlyStop: true, UEFI: true, IOErrors: true,
		},
		scripts: map[dr.VMID]Behaviour{}, vms: map[dr.VMID]*VM{},
	}
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

// Start begins a run as the VM's script says.
func (p *Provider) Start(ctx context.Context, spec hypervisor.Spec) (hypervisor.VM, error) {
	const op = "fake.Start"
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, errs.E(op, errs.Canceled, spec.Config.Name, context.Cause(ctx))
	}
	vm, err := p.reserve(&spec)
	if err != nil {
		return nil, err
	}
	if vm.script.HangStart {
		select {
		case <-ctx.Done():
			err = errs.E(op, errs.Canceled, spec.Config.Name, context.Cause(ctx))
		case <-vm.life.Ended():
			err = errs.New(op, errs.Canceled, spec.Config.Name, "the provider was closed")
		}
	}
	if vm.script.StartErr != nil {
		err = errs.E(op, errs.Internal, spec.Config.Name, vm.script.StartErr)
	}
	if err != nil {
		vm.end(hypervisor.Crashed, "did not start")
		return nil, err
	}
	p.mu.Lock()
	p.specs = append(p.specs, spec)
	p.mu.Unlock()
	if spec.Paused {
		vm.life.Move(hypervisor.Paused, "started paused")
	} else {
		vm.run()
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
	vm := &VM{provider: p, id: id, name: spec.Config.Name, script: p.scripts[id],
		life: hypervisor.NewLifecycle(time.Now)}
	if spec.Serial {
		vm.serial = "/nowhere/" + id.String()
	}
	p.vms[id] = vm
	return vm, nil
}

// Close ends every VM.
func (p *Provider) Close() error {
	p.mu.Lock()
	p.closed = true
	var all []*VM
	for _, vm := range p.vms {
		all = append(all, vm)
	}
	p.mu.Unlock()
	for _, vm := range all {
		vm.end(hypervisor.Stopped, "killed")
	}
	return nil
}
