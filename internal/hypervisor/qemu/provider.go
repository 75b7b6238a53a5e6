package qemu

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// defaultBinary is looked for on PATH.
const defaultBinary = "qemu-system-x86_64"

// Options are what a Provider is made from. The zero value works where QEMU is
// on PATH.
type Options struct {
	Binary        string       // QEMU's program; "": qemu-system-x86_64 on PATH
	CacheDir      string       // where the accelerator probe's outcome is kept; "": the user's cache directory
	Log           *slog.Logger // nil: nothing is logged
	DieWithParent bool         // the kernel kills the VMs when this process ends in whatever way
}

// Provider starts QEMU processes. Safe for concurrent use.
type Provider struct {
	binary        string // immutable, as the next three
	cacheDir      string
	log           *slog.Logger
	dieWithParent bool
	claims        hypervisor.Claims // of work directories

	probing chan struct{} // holds one token: the right to probe
	probed  *probeResult  // guarded by the token of probing

	mu     sync.Mutex
	closed bool               // guarded by mu
	vms    map[dr.VMID]*entry // guarded by mu: VMs that start or run
}

// entry holds a VM's place while it starts and runs.
type entry struct {
	vm   *VM           // nil while it starts
	gone chan struct{} // closed when the place is free again
}

var _ hypervisor.Provider = (*Provider)(nil)

// New returns a provider. Kinds: Unavailable when QEMU is not installed.
func New(opt Options) (*Provider, error) {
	name := opt.Binary
	if name == "" {
		name = defaultBinary
	}
	binary, err := exec.LookPath(name)
	if err != nil {
		return nil, errs.E("qemu.New", errs.Unavailable, name, err).
			WithRemedy("install QEMU: apt-get install qemu-system-x86 (or run 'make deps')")
	}
	p := &Provider{
		binary: binary, cacheDir: opt.CacheDir, log: opt.Log, dieWithParent: opt.DieWithParent,
		probing: make(chan struct{}, 1), vms: map[dr.VMID]*entry{},
	}
	p.probing <- struct{}{}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p, nil
}

// Name returns "qemu".
func (p *Provider) Name() string { return "qemu" }

// Capabilities says what QEMU can do on this host.
func (p *Provider) Capabilities() hypervisor.Capabilities {
	_, err := hypervisor.FindFirmware()
	return hypervisor.Capabilities{
		NBD: true, Serial: true, Pause: true, OrderlyStop: true, UEFI: err == nil, NVMe: true, UserNet: true, IOErrors: true,
	}
}

// Start makes a VM of spec and starts it, as hypervisor.Provider promises.
func (p *Provider) Start(ctx context.Context, spec hypervisor.Spec) (hypervisor.VM, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if spec.Keep {
		if err := p.claims.Claim(spec.WorkDir); err != nil {
			return nil, err
		}
	}
	e, err := p.reserve(spec.Config.ID, spec.Config.Name)
	if err != nil {
		return nil, err
	}
	vm, err := p.start(ctx, spec, func() { p.release(spec.Config.ID, e) })
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	e.vm = vm
	closed := p.closed
	p.mu.Unlock()
	if closed { // Close came while it started, and waits for this end
		vm.kill()
		<-vm.exited
		return nil, errs.New("qemu.Start", errs.Canceled, spec.Config.Name, "the provider was closed")
	}
	p.log.Info("vm started", "vm", spec.Config.ID, "name", spec.Config.Name, "pid", vm.proc.pid())
	return vm, nil
}

// start does the work of Start for a VM whose place is reserved; it sees to it
// that release is called once the place is free.
func (p *Provider) start(ctx context.Context, spec hypervisor.Spec, release func()) (*VM, error) {
	vm, err := p.prepare(ctx, spec)
	if err != nil {
		release()
		return nil, err
	}
	vm.release = release
	if err := vm.launch(ctx, p.binary, p.dieWithParent); err != nil {
		return nil, err
	}
	return vm, nil
}

// prepare makes everything a run needs but the process.
func (p *Provider) prepare(ctx context.Context, spec hypervisor.Spec) (*VM, error) {
	if spec.Accelerator == hypervisor.AutoAccelerator {
		acc, _, err := p.Accelerator(ctx)
		if err != nil {
			return nil, err
		}
		spec.Accelerator = acc
	}
	dir, err := os.MkdirTemp(spec.WorkDir, runPrefix) // mode 0700
	if err != nil {
		return nil, errs.E("qemu.Start", errs.Unavailable, spec.WorkDir, err)
	}
	vm := &VM{
		run: newRun(&spec), dir: dir, paused: spec.Paused, log: p.log.With("vm", spec.Config.ID),
		life: hypervisor.NewLifecycle(time.Now), exited: make(chan struct{}), letGone: make(chan struct{}),
	}
	if err := vm.furnish(&spec); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return vm, nil
}

// furnish puts into the run's directory what the run needs. On success the
// directory's lock is held.
func (v *VM) furnish(spec *hypervisor.Spec) (err error) {
	if v.lock, err = lockRun(v.dir); err != nil {
		return err
	}
	cmd := commandLine{spec: spec, dir: v.dir}
	v.args, err = cmd.build()
	if err == nil {
		err = spec.CheckSources()
	}
	if err == nil && spec.Keep {
		err = v.run.write(v.dir)
	}
	if err != nil {
		v.lock.Close()
	}
	return err
}

// reserve takes the place of VM id.
func (p *Provider) reserve(id dr.VMID, name string) (*entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errs.New("qemu.Start", errs.Canceled, name, "the provider was closed")
	}
	if p.vms[id] != nil {
		return nil, errs.New("qemu.Start", errs.Exists, name, "this VM runs already")
	}
	e := &entry{gone: make(chan struct{})}
	p.vms[id] = e
	return e, nil
}

// release frees a place.
func (p *Provider) release(id dr.VMID, e *entry) {
	p.mu.Lock()
	delete(p.vms, id)
	p.mu.Unlock()
	close(e.gone)
}

// Close kills every VM and returns when all are gone.
func (p *Provider) Close() error {
	p.mu.Lock()
	p.closed = true
	var all []entry // as they are now: Start sees to those that have no VM yet
	for _, e := range p.vms {
		all = append(all, *e)
	}
	p.mu.Unlock()
	for _, e := range all {
		if e.vm == nil {
			continue
		}
		if e.vm.run.Keep {
			e.vm.letGo()
		} else {
			e.vm.kill()
		}
	}
	for _, e := range all {
		<-e.gone
		if e.vm == nil {
			continue
		}
		select {
		case <-e.vm.exited:
		case <-e.vm.letGone:
		}
	}
	p.claims.Release()
	return nil
}
