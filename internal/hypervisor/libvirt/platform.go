package libvirt

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// DefaultSocket is where a system's libvirt daemon listens.
const DefaultSocket = "/run/libvirt/libvirt-sock"

// Route says which way an export gets into a disk's path; doc.go tells them
// apart. The zero value is RouteCopy where that is safe, else RouteMonitor.
type Route string

// The routes one may ask for.
const (
	RouteAuto    Route = ""
	RouteCopy    Route = routeCopy
	RouteMonitor Route = routeMonitor
)

// Progress is how far a block copy is.
type Progress struct {
	VM, Disk   string
	Done, Size int64 // bytes
}

// Options are what a Platform is made from. The zero value is the system's own
// daemon.
type Options struct {
	Socket   string         // the daemon's unix socket; "": DefaultSocket
	URI      string         // what to open there; "": qemu:///system
	Route    Route          // how exports get in path
	CopyRate int64          // most bytes a second of a block copy; 0: as fast as it goes
	Progress func(Progress) // called during a block copy, by Attach's caller; may be nil
	RunDir   string         // where QEMU makes the sockets of Prepare; its user must be able to write there
	Poll     time.Duration  // how often every VM is looked at, for what there is no event of; 0: 10 s
	Log      *slog.Logger   // nil: nothing is logged
}

// Platform is the VMs of one libvirt daemon. Make it with Connect. Safe for
// concurrent use.
type Platform struct {
	opt     Options // immutable, as the next three
	conn    *conn
	log     *slog.Logger
	changes *hypervisor.ChangeQueue

	stop    context.CancelFunc // ends the goroutine that watches
	stopped chan struct{}      // closed when it has ended

	mu     sync.Mutex
	closed bool                  // guarded by mu
	turns  map[dr.VMID]chan bool // guarded by mu; each holds one token: the right to change the VM; one for each VM ever changed
	frozen map[dr.VMID]*freeze   // guarded by mu: guests we froze
	reads  map[string]exported   // guarded by mu: exports of Prepare, by VM and disk
}

var _ hypervisor.Platform = (*Platform)(nil)

// Connect returns the driver of a libvirt daemon. Kinds: Unavailable (no daemon
// there), Denied, Invalid (options), Canceled.
func Connect(ctx context.Context, opt Options) (*Platform, error) {
	if opt.Socket == "" {
		opt.Socket = DefaultSocket
	}
	if opt.URI == "" {
		opt.URI = string(golibvirt.QEMUSystem)
	}
	if opt.RunDir == "" {
		opt.RunDir = filepath.Dir(opt.Socket)
	}
	if opt.Poll <= 0 {
		opt.Poll = pollEvery
	}
	if !slices.Contains([]Route{RouteAuto, RouteCopy, RouteMonitor}, opt.Route) || opt.CopyRate < 0 {
		return nil, errs.New("libvirt.Connect", errs.Invalid, string(opt.Route), "no such route, or a negative rate")
	}
	p := &Platform{
		opt: opt, conn: newConn(opt), log: opt.Log, changes: hypervisor.NewChangeQueue(time.Now), stopped: make(chan struct{}),
		turns: map[dr.VMID]chan bool{}, frozen: map[dr.VMID]*freeze{}, reads: map[string]exported{},
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	watching, stop := context.WithCancel(context.Background())
	p.stop = stop
	w := newWatcher(p)
	if err := w.subscribe(ctx); err != nil { // before anybody lists: nothing falls in between
		stop()
		p.conn.close()
		return nil, err
	}
	go w.run(watching)
	return p, nil
}

// Name returns "libvirt".
func (p *Platform) Name() string { return "libvirt" }

// Changes returns what happens to VMs.
func (p *Platform) Changes() <-chan hypervisor.Change { return p.changes.Changes() }

// Close thaws what is frozen, ends the exports of Prepare and hangs up. Disks
// that are attached stay so.
func (p *Platform) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.stopped
		return nil
	}
	p.closed = true
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	p.thawAll(ctx)
	p.endReads(ctx)
	p.stop()
	p.conn.close()
	<-p.stopped
	p.changes.Close()
	return nil
}

// VMs lists the VMs of the daemon.
func (p *Platform) VMs(ctx context.Context) ([]hypervisor.LiveVM, error) {
	refs, err := p.list(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(refs, func(a, b golibvirt.Domain) int { return strings.Compare(a.Name, b.Name) })
	var all []hypervisor.LiveVM
	for _, d := range refs {
		all = append(all, p.handle(d))
	}
	return all, nil
}

// list returns the daemon's VMs.
func (p *Platform) list(ctx context.Context) ([]golibvirt.Domain, error) {
	const op = "libvirt.VMs"
	refs, err := ask(ctx, p.conn, op, p.opt.Socket, func(l *golibvirt.Libvirt) ([]golibvirt.Domain, error) {
		all, _, err := l.ConnectListAllDomains(1, golibvirt.ConnectListDomainsActive|golibvirt.ConnectListDomainsInactive)
		return all, err
	})
	if err == nil && len(refs) > maxVMs {
		return nil, errs.New(op, errs.Full, p.opt.Socket, "more VMs than a host can have")
	}
	return refs, err
}

// VM finds a VM by name or UUID.
func (p *Platform) VM(ctx context.Context, nameOrID string) (hypervisor.LiveVM, error) {
	d, err := ask(ctx, p.conn, "libvirt.VM", nameOrID, func(l *golibvirt.Libvirt) (golibvirt.Domain, error) {
		d, err := l.DomainLookupByName(nameOrID)
		if err == nil || !golibvirt.IsNotFound(err) {
			return d, err
		}
		u, bad := dr.ParseUUID(nameOrID)
		if bad != nil {
			return d, err
		}
		return l.DomainLookupByUUID(golibvirt.UUID(u))
	})
	if err != nil {
		return nil, err
	}
	return p.handle(d), nil
}

// handle returns the VM that d names.
func (p *Platform) handle(d golibvirt.Domain) *liveVM {
	return &liveVM{p: p, id: dr.VMID{UUID: dr.UUID(d.UUID)}, name: d.Name, ref: d}
}

// turn waits for the right to change a VM and returns how to give it back.
func (p *Platform) turn(ctx context.Context, op string, id dr.VMID, name string) (func(), error) {
	if ctx.Err() != nil {
		return nil, errs.E(op, errs.Canceled, name, context.Cause(ctx))
	}
	p.mu.Lock()
	ch := p.turns[id]
	if ch == nil {
		ch = make(chan bool, 1)
		ch <- true
		p.turns[id] = ch
	}
	p.mu.Unlock()
	select {
	case <-ch:
		return func() { ch <- true }, nil
	case <-ctx.Done():
		return nil, errs.E(op, errs.Canceled, name, context.Cause(ctx))
	}
}
