package libvirt

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// ProviderOptions are what a Provider is made from. The zero value is the
// system's own daemon.
type ProviderOptions struct {
	Socket string // the daemon's unix socket; "": DefaultSocket
	URI    string // what to open there; "": qemu:///system
	// Probe answers what hypervisor.AutoAccelerator is here; nil: emulation.
	Probe func(context.Context) (hypervisor.Accelerator, error)
	Log   *slog.Logger // nil: nothing is logged
	// DieWithParent has the daemon end VMs that are not kept when the connection
	// ends in whatever way, a restart of the daemon included.
	DieWithParent bool
}

// Provider starts VMs at one libvirt daemon. Each has no definition there, and is
// gone with its end, unless Define gave it one. Make it with NewProvider. Safe for concurrent use; its one
// goroutine hears events.
type Provider struct {
	opt    ProviderOptions // immutable, as the next four
	log    *slog.Logger
	conn   *conn
	live   *Platform // for its view of VMs; it watches nothing
	claims hypervisor.Claims
	nets   sync.Mutex // held over looking who is on isolated networks, and changing those

	stop    context.CancelFunc // ends the goroutine that hears
	stopped chan struct{}      // closed when it has ended

	mu     sync.Mutex
	closed bool            // guarded by mu
	vms    map[dr.VMID]*vm // guarded by mu: VMs that start or run
}

var _ hypervisor.Provider = (*Provider)(nil)

// heard are the events a Provider is told of.
var heard = []golibvirt.DomainEventID{
	golibvirt.DomainEventIDLifecycle, golibvirt.DomainEventIDIoErrorReason, golibvirt.DomainEventIDReboot,
}

// NewProvider returns the provider of a libvirt daemon. Kinds: Unavailable (no
// daemon there), Denied, Canceled.
func NewProvider(ctx context.Context, opt ProviderOptions) (*Provider, error) {
	if opt.Socket == "" {
		opt.Socket = DefaultSocket
	}
	if opt.URI == "" {
		opt.URI = string(golibvirt.QEMUSystem)
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Probe == nil {
		opt.Probe = func(context.Context) (hypervisor.Accelerator, error) { return hypervisor.TCG, nil }
	}
	c := newConn(Options{Socket: opt.Socket, URI: opt.URI})
	p := &Provider{
		opt: opt, log: opt.Log, conn: c, stopped: make(chan struct{}), vms: map[dr.VMID]*vm{},
		live: &Platform{conn: c, log: opt.Log, turns: map[dr.VMID]chan bool{}},
	}
	events, unhear, err := listen(ctx, c, heard)
	if err != nil {
		c.close()
		return nil, err
	}
	hearing, stop := context.WithCancel(context.Background())
	p.stop = stop
	go p.hear(hearing, events, unhear)
	return p, nil
}

// Name returns "libvirt".
func (p *Provider) Name() string { return "libvirt" }

// Capabilities says what libvirt can do on this host.
func (p *Provider) Capabilities() hypervisor.Capabilities {
	_, err := hypervisor.FindFirmware()
	return hypervisor.Capabilities{
		NBD: true, Serial: true, Pause: true, OrderlyStop: true, UEFI: err == nil, NamedNet: true, IOErrors: true,
	}
}

// Start makes a VM of spec and starts it, as hypervisor.Provider promises.
func (p *Provider) Start(ctx context.Context, spec hypervisor.Spec) (hypervisor.VM, error) {
	const op = "libvirt.Start"
	err := spec.Check()
	if err == nil {
		err = spec.CheckSources()
	}
	if err == nil && ctx.Err() != nil {
		err = errs.E(op, errs.Canceled, spec.Config.Name, context.Cause(ctx))
	}
	if err == nil && spec.Accelerator == hypervisor.AutoAccelerator {
		spec.Accelerator, err = p.opt.Probe(ctx)
	}
	if err == nil && spec.Keep {
		err = p.claims.Claim(spec.WorkDir)
	}
	if err != nil {
		return nil, err
	}
	absolute(&spec)
	v := newVM(p, spec.Config.ID, spec.Config.Name)
	if err := p.reserve(v); err != nil {
		return nil, err
	}
	if err := v.launch(ctx, &spec); err != nil {
		v.abandon()
		return nil, err
	}
	if p.isClosed() { // Close came while it started, and waits for this end
		v.abandon()
		return nil, errs.New(op, errs.Canceled, spec.Config.Name, "the provider was closed")
	}
	p.log.Info("vm started", "vm", v.id, "name", v.name)
	return v, nil
}

// absolute makes a spec's paths mean to the daemon what they mean to us.
func absolute(s *hypervisor.Spec) {
	sources := map[dr.DiskID]hypervisor.Source{}
	for id, src := range s.Sources {
		src.Path, src.Socket = abs(src.Path), abs(src.Socket)
		sources[id] = src
	}
	s.Sources, s.SerialLog, s.WorkDir = sources, abs(s.SerialLog), abs(s.WorkDir)
}

func (p *Provider) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// reserve takes a VM's place.
func (p *Provider) reserve(v *vm) error {
	const op = "libvirt.Start"
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errs.New(op, errs.Canceled, v.name, "the provider was closed")
	}
	if p.vms[v.id] != nil {
		return errs.New(op, errs.Exists, v.name, "this VM runs already")
	}
	p.vms[v.id] = v
	return nil
}

// release frees a VM's place.
func (p *Provider) release(v *vm) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vms[v.id] == v {
		delete(p.vms, v.id)
	}
}

// find returns the VM libvirt speaks of, or nil: most are not ours.
func (p *Provider) find(d golibvirt.Domain) *vm {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vms[dr.VMID{UUID: dr.UUID(d.UUID)}]
}

// all returns the VMs that start or run.
func (p *Provider) all() (list []*vm) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range p.vms {
		list = append(list, v)
	}
	return list
}

// Close kills VMs that are not kept, and lets go of the others.
func (p *Provider) Close() error {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.mu.Unlock()
	if closed {
		<-p.stopped
		return nil
	}
	var wg sync.WaitGroup
	for _, v := range p.all() {
		wg.Go(v.closeDown)
	}
	wg.Wait()
	p.stop()
	p.conn.close()
	<-p.stopped
	p.claims.Release()
	return nil
}

// hear takes events to VMs until ctx ends, and connects again when the daemon
// hangs up.
func (p *Provider) hear(ctx context.Context, events <-chan any, unhear context.CancelFunc) {
	defer close(p.stopped)
	for {
		select {
		case <-ctx.Done():
			unhear()
			return
		case e, more := <-events:
			if more {
				p.dispatch(e)
				continue
			}
		}
		p.log.Warn("the libvirt daemon hung up", "socket", p.opt.Socket)
		unhear()
		if events, unhear = p.again(ctx); events == nil {
			return
		}
		for _, v := range p.all() {
			v.sync(ctx)
		}
	}
}

// again connects until that works; no events: ctx ended first.
func (p *Provider) again(ctx context.Context) (<-chan any, context.CancelFunc) {
	wait := time.NewTicker(redialEvery)
	defer wait.Stop()
	for {
		if events, unhear, err := listen(ctx, p.conn, heard); err == nil {
			return events, unhear
		}
		select {
		case <-wait.C:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// dispatch takes one event to its VM.
func (p *Provider) dispatch(e any) {
	switch e := e.(type) {
	case *golibvirt.DomainEventCallbackLifecycleMsg:
		if v := p.find(e.Msg.Dom); v != nil {
			v.moved(golibvirt.DomainEventType(e.Msg.Event), e.Msg.Detail)
		}
	case *golibvirt.DomainEventCallbackIOErrorReasonMsg:
		if v := p.find(e.Msg.Dom); v != nil {
			v.ioError(e.Msg)
		}
	case *golibvirt.DomainEventCallbackRebootMsg:
		if v := p.find(e.Msg.Dom); v != nil {
			v.life.Emit(hypervisor.Event{Kind: hypervisor.GuestReset})
		}
	}
}

// Adopt takes over VMs that are kept, as hypervisor.Provider promises.
func (p *Provider) Adopt(ctx context.Context, dir string) ([]hypervisor.VM, error) {
	const op = "libvirt.Adopt"
	if ctx.Err() != nil {
		return nil, errs.E(op, errs.Canceled, dir, context.Cause(ctx))
	}
	if err := p.claims.Claim(dir); err != nil {
		return nil, err
	}
	dir = abs(dir)
	runs, kept, err := p.runs(ctx, dir)
	if err != nil {
		return nil, err
	}
	inUse := map[string]bool{}
	for _, d := range kept {
		inUse[d] = true
	}
	for _, v := range p.all() {
		inUse[v.dirNow()] = true
	}
	var found []hypervisor.VM
	var fail []error
	for _, v := range runs {
		inUse[v.rec.Dir] = true
		if !v.rec.Keep || p.reserve(v) != nil {
			continue // not for us, or ours already
		}
		switch up, err := v.meet(ctx); {
		case err != nil:
			fail = append(fail, err)
		case up && p.isClosed():
			v.letGo()
			fail = append(fail, errs.New(op, errs.Canceled, v.name, "the provider was closed"))
		case up:
			found = append(found, v)
			p.log.Info("vm adopted", "vm", v.id, "name", v.name)
		}
	}
	slices.SortFunc(found, func(a, b hypervisor.VM) int { return strings.Compare(a.Name(), b.Name()) })
	return found, errors.Join(append(fail, sweepRuns(dir, inUse), p.deflate(ctx, scopeOf(dir)))...)
}

// runs returns the VMs of the daemon that run and that a provider started under
// workDir, and the directories of those that are defined.
func (p *Provider) runs(ctx context.Context, workDir string) (list []*vm, kept []string, err error) {
	refs, err := p.live.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, ref := range refs {
		active, all, err := p.live.handle(ref).described(ctx)
		if err != nil {
			return nil, nil, err
		}
		for i, w := range all {
			r := w.Metadata.Run
			switch {
			case r == nil || r.WorkDir != workDir:
			case i == 0 && active:
				v := newVM(p, w.id(), w.Name)
				v.ref, v.rec = ref, r
				list = append(list, v)
			default:
				kept = append(kept, r.Dir)
			}
		}
	}
	return list, kept, nil
}

// describe asks for the VM's description, and for nothing of QEMU.
func (v *liveVM) describe(ctx context.Context) (*vmXML, error) {
	text, err := ask(ctx, v.p.conn, "libvirt.Adopt", v.name, func(l *golibvirt.Libvirt) (string, error) {
		return l.DomainGetXMLDesc(v.ref, 0)
	})
	if err != nil {
		return nil, err
	}
	return parseVM(text)
}

// makeDir makes a run's own directory. QEMU's user has to reach what it opens
// there itself: a variable store.
func makeDir(spec *hypervisor.Spec) (string, error) {
	dir, err := os.MkdirTemp(spec.WorkDir, runPrefix) // mode 0700
	if err == nil && spec.Config.Firmware == "uefi" {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		return "", errs.E("libvirt.Start", errs.Unavailable, spec.WorkDir, err)
	}
	return dir, nil
}
