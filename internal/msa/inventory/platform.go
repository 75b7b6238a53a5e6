package inventory

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/site"
)

// Endpoint is one hypervisor host of a site.
type Endpoint struct {
	Name string // for messages: its address
	// Address is the site's endpoint, as it is told of the host; "": none was named.
	Address string
	// Open connects. It is called again, with pauses, until it succeeds.
	Open func(context.Context) (hypervisor.Platform, error)
}

// Platform is the Provider of sites whose hosts have drivers of package hypervisor:
// it joins what they tell. Make it with NewPlatform. It owns one goroutine for each
// endpoint, until Close.
type Platform struct {
	kind    string // immutable, as the next four
	site    site.Name
	log     *slog.Logger
	members []*member
	stop    context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	closed   bool               // guarded by mu
	watchers map[*watch]bool    // guarded by mu
	at       map[dr.VMID]string // guarded by mu: the endpoint a VM was seen at last
}

var _ Provider = (*Platform)(nil)

// member is one endpoint.
type member struct {
	Endpoint
	tried chan struct{} // closed after the first attempt to open it

	mu     sync.Mutex
	hv     hypervisor.Platform // guarded by mu; nil: not reached
	why    error               // guarded by mu: why not
	estate hypervisor.Estate   // guarded by mu: as last surveyed
}

// NewPlatform begins to connect to every endpoint and returns at once. kind is the
// platform's name. A nil log is none.
func NewPlatform(kind string, of site.Name, endpoints []Endpoint, log *slog.Logger) *Platform {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Platform{kind: kind, site: of, log: log, stop: stop, watchers: map[*watch]bool{}, at: map[dr.VMID]string{}}
	for _, e := range endpoints {
		m := &member{Endpoint: e, tried: make(chan struct{})}
		p.members = append(p.members, m)
		p.running.Go(func() { p.attend(ctx, m) })
	}
	return p
}

// Name returns the platform's name.
func (p *Platform) Name() string { return p.kind }

// Close ends all watchers and lets go of every host.
func (p *Platform) Close() error {
	p.mu.Lock()
	p.closed = true
	for w := range p.watchers {
		w.Gather.Close()
	}
	p.mu.Unlock()
	p.stop()
	p.running.Wait()
	return nil
}

// attend connects to a host and hears its changes until ctx ends. Drivers connect
// again by themselves once they were connected.
func (p *Platform) attend(ctx context.Context, m *member) {
	hv := p.open(ctx, m)
	if hv == nil {
		return
	}
	defer hv.Close()
	p.tell(func(w *watch) { w.All() })
	for {
		select {
		case <-ctx.Done():
			return
		case c, more := <-hv.Changes():
			if !more {
				return
			}
			p.tell(func(w *watch) {
				w.Note(c.VM)
				if c.Lost > 0 {
					w.All()
				}
			})
		}
	}
}

// open tries until it succeeds; nil: ctx ended first.
func (p *Platform) open(ctx context.Context, m *member) hypervisor.Platform {
	for pause := reopenFirst; ; pause = min(2*pause, reopenMost) {
		hv, err := m.Open(ctx)
		m.mu.Lock()
		m.hv, m.why = hv, err
		m.mu.Unlock()
		select {
		case <-m.tried:
		default:
			close(m.tried)
		}
		if err == nil {
			return hv
		}
		p.log.Warn("a host is not reached", "site", p.site, "host", m.Name, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// driver returns the member's driver, or why there is none.
func (m *member) driver() (hypervisor.Platform, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hv == nil {
		return nil, errs.E("inventory.Platform", errs.Unavailable, m.Name, m.why)
	}
	return m.hv, nil
}

// tell tells all watchers.
func (p *Platform) tell(do func(*watch)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.watchers {
		do(w)
	}
}

// survey asks a host for all but VMs and remembers it.
func (m *member) survey(ctx context.Context) (hypervisor.Estate, error) {
	hv, err := m.driver()
	if err != nil {
		return hypervisor.Estate{}, err
	}
	s, ok := hv.(hypervisor.Surveyor)
	if !ok {
		return hypervisor.Estate{}, errs.New("inventory.Platform", errs.Invalid, m.Name, "this driver tells no inventory")
	}
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	e, err := s.Survey(ctx)
	if err != nil {
		return e, err
	}
	m.mu.Lock()
	m.estate = e
	m.mu.Unlock()
	return e, nil
}

// whole reads everything of every host that can be reached.
func (p *Platform) whole(ctx context.Context) (Update, error) {
	inv, vms := &site.Inventory{Site: p.site}, map[dr.VMID]site.VM{}
	var missing error
	for _, m := range p.members {
		select {
		case <-m.tried:
		case <-ctx.Done():
			return Update{}, errs.E("inventory.Next", errs.Canceled, string(p.site), context.Cause(ctx))
		}
		e, err := m.survey(ctx)
		var found []site.VM
		if err == nil {
			found, err = p.listed(ctx, m, e)
		}
		if err != nil {
			if ctx.Err() != nil || len(p.members) == 1 {
				return Update{}, err
			}
			missing = errors.Join(missing, err)
			continue
		}
		addEstate(inv, e, m.Address)
		for _, vm := range found {
			keepBest(vms, vm)
			p.seen(vm.ID, m.Name)
		}
	}
	for _, vm := range vms {
		inv.VMs = append(inv.VMs, vm)
	}
	if len(inv.Hosts) == 0 && missing != nil {
		return Update{}, errs.E("inventory.Next", errs.Unavailable, string(p.site), missing)
	}
	order(inv)
	return Update{Whole: inv, Missing: missing}, nil
}

func (p *Platform) seen(id dr.VMID, at string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[id] = at
}

// keepBest enters a VM that two hosts may have while it migrates: the running one
// counts.
func keepBest(vms map[dr.VMID]site.VM, vm site.VM) {
	if had, ok := vms[vm.ID]; !ok || !had.Running {
		vms[vm.ID] = vm
	}
}

// listed looks at all VMs of a host.
func (p *Platform) listed(ctx context.Context, m *member, e hypervisor.Estate) ([]site.VM, error) {
	hv, err := m.driver()
	if err != nil {
		return nil, err
	}
	all, err := hv.VMs(ctx)
	if err != nil {
		return nil, err
	}
	if len(all) > site.MaxVMs {
		return nil, errs.New("inventory.Next", errs.Full, m.Name, "more VMs than a site may have")
	}
	found := make([]*site.VM, len(all))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(lookers)
	for i, v := range all {
		g.Go(func() (err error) {
			found[i], _, err = look(ctx, v, e)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var list []site.VM
	for _, vm := range found {
		if vm != nil {
			list = append(list, *vm)
		}
	}
	return list, nil
}

// look looks at one VM; nil: it is gone. stray reports that a disk of it lies in no
// datastore that is known.
func look(ctx context.Context, v hypervisor.LiveVM, e hypervisor.Estate) (of *site.VM, stray bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	info, err := v.Info(ctx)
	if errs.Is(err, errs.NotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	vm := translate(&info, e)
	for i, d := range info.Disks {
		stray = stray || d.Path != "" && vm.Disks[i].Datastore == ""
	}
	if a, ok := v.(hypervisor.Addressed); ok && info.Running {
		asking, cancel := context.WithTimeout(ctx, addressFor)
		defer cancel()
		// Without an answer the addresses known before stay: see Store.
		if known, err := a.Addresses(asking, info.Agent); err == nil {
			for i := range vm.NICs {
				vm.NICs[i].Addresses = known[vm.NICs[i].MAC]
			}
		}
	}
	return &vm, stray, nil
}

// changed looks at the VMs that were told of; stray is as of look. Without an answer of one host, what
// is on no other is left as it was: it may be there.
func (p *Platform) changed(ctx context.Context, ids []dr.VMID) (u Update, stray bool, err error) {
	vms, all := map[dr.VMID]site.VM{}, true
	for _, m := range p.members {
		s, err := p.found(ctx, m, ids, vms)
		if err != nil && (len(p.members) == 1 || !errs.Is(err, errs.Unavailable)) {
			return Update{}, false, err
		}
		all, stray = all && err == nil, stray || s
	}
	for _, id := range ids {
		if vm, ok := vms[id]; ok {
			u.VMs = append(u.VMs, vm)
		} else if all {
			u.Gone = append(u.Gone, id)
		}
	}
	return u, stray, nil
}

// found enters those of the VMs that a host has.
func (p *Platform) found(ctx context.Context, m *member, ids []dr.VMID, vms map[dr.VMID]site.VM) (stray bool, err error) {
	hv, err := m.driver()
	if err != nil {
		return false, err
	}
	m.mu.Lock()
	e := m.estate
	m.mu.Unlock()
	for _, id := range ids {
		v, err := hv.VM(ctx, id.String())
		if errs.Is(err, errs.NotFound) {
			continue
		}
		var vm *site.VM
		lost := false
		if err == nil {
			vm, lost, err = look(ctx, v, e)
		}
		if err != nil {
			return false, err
		}
		stray = stray || lost
		if vm != nil {
			keepBest(vms, *vm)
			p.seen(id, m.Name)
		}
	}
	return stray, nil
}

// places surveys every host that can be reached; nil: one was not, and what is known
// stays.
func (p *Platform) places(ctx context.Context) *site.Inventory {
	inv := &site.Inventory{Site: p.site}
	for _, m := range p.members {
		e, err := m.survey(ctx)
		if err != nil {
			return nil
		}
		addEstate(inv, e, m.Address)
	}
	order(inv)
	return inv
}
