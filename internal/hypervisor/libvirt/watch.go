package libvirt

import (
	"context"
	"reflect"
	"slices"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// watcher tells of changes. It takes libvirt's events as a reason to look, and
// tells the difference to what it saw before; so it does not matter that
// events are lost while the daemon restarts, nor which daemon sends which.
// Owned by its goroutine, once run is called.
type watcher struct {
	p      *Platform
	events <-chan any // closed when the connection broke
	unhear context.CancelFunc
	known  map[dr.VMID]hypervisor.VMInfo
}

// watched are the events that are a reason to look.
var watched = []golibvirt.DomainEventID{
	golibvirt.DomainEventIDLifecycle, golibvirt.DomainEventIDIoErrorReason, golibvirt.DomainEventIDBlockJob,
	golibvirt.DomainEventIDDeviceAdded, golibvirt.DomainEventIDDeviceRemoved,
	golibvirt.DomainEventIDMetadataChange, golibvirt.DomainEventIDAgentLifecycle,
}

func newWatcher(p *Platform) *watcher { return &watcher{p: p, known: map[dr.VMID]hypervisor.VMInfo{}} }

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	defer close(w.p.stopped)
	defer func() { w.unhear() }()
	tick := time.NewTicker(w.p.opt.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, more := <-w.events:
			if more {
				w.hear(ctx, e)
				continue
			}
			w.p.log.Warn("the libvirt daemon hung up", "socket", w.p.opt.Socket)
			if !w.again(ctx) {
				return
			}
		case <-tick.C:
			if err := w.lookAll(ctx, true); err != nil {
				w.p.log.Warn("looking at the VMs failed", "err", err)
			}
		}
	}
}

// again connects until that works; false: ctx ended first.
func (w *watcher) again(ctx context.Context) bool {
	wait := time.NewTicker(redialEvery)
	defer wait.Stop()
	for {
		w.unhear()
		if err := w.connect(ctx); err == nil {
			if err = w.lookAll(ctx, true); err == nil {
				return true
			}
		}
		select {
		case <-wait.C:
		case <-ctx.Done():
			return false
		}
	}
}

// subscribe connects, and looks at all VMs without telling of them.
func (w *watcher) subscribe(ctx context.Context) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	err := w.lookAll(ctx, false)
	if err != nil {
		w.unhear()
	}
	return err
}

// connect subscribes to the events of one connection.
func (w *watcher) connect(ctx context.Context) error {
	events, unhear, err := listen(ctx, w.p.conn, watched)
	w.unhear = unhear
	if err == nil {
		w.events = events
	}
	return err
}

// listen subscribes to events of one connection, which come in the order the
// daemon sent them, for each sort. The channel is closed when the connection
// breaks, or by unhear, which is never nil.
func listen(ctx context.Context, c *conn, ids []golibvirt.DomainEventID) (events <-chan any, unhear context.CancelFunc, err error) {
	hearing, unhear := context.WithCancel(context.Background())
	events, err = ask(ctx, c, "libvirt.Connect", c.socket, func(l *golibvirt.Libvirt) (<-chan any, error) {
		merged := make(chan any)
		ended := make(chan struct{}, len(ids))
		for _, id := range ids {
			ch, err := l.SubscribeEvents(hearing, id, nil)
			if err != nil {
				return nil, err
			}
			go func() {
				for e := range ch { // to its end, else the client's own goroutine stays
					select {
					case merged <- e:
					case <-hearing.Done():
					}
				}
				ended <- struct{}{}
			}()
		}
		go func() {
			for range ids {
				<-ended
			}
			close(merged)
		}()
		return merged, nil
	})
	if err != nil {
		unhear()
	}
	return events, unhear, err
}

// states says in words what a lifecycle event means, for those that are a
// change of state.
var states = map[golibvirt.DomainEventType]string{
	golibvirt.DomainEventStarted: "started", golibvirt.DomainEventSuspended: "paused", golibvirt.DomainEventResumed: "resumed",
	golibvirt.DomainEventStopped: "stopped", golibvirt.DomainEventPmsuspended: "asleep", golibvirt.DomainEventCrashed: "crashed",
}

// ioErrorPauses is libvirt's number for a VM that was stopped by an I/O error.
const ioErrorPauses = 1

// hear takes one event.
func (w *watcher) hear(ctx context.Context, e any) {
	var d golibvirt.Domain
	switch e := e.(type) {
	case *golibvirt.DomainEventCallbackLifecycleMsg:
		d = e.Msg.Dom
		kind := golibvirt.DomainEventType(e.Msg.Event)
		if word := states[kind]; word != "" {
			w.moved(d, kind, word)
		}
	case *golibvirt.DomainEventCallbackIOErrorReasonMsg:
		d = e.Msg.Dom
		if e.Msg.Action == ioErrorPauses {
			w.tell(hypervisor.DiskStalled, d, w.diskOf(ctx, d, e.Msg.DevAlias), "the VM stopped on an I/O error "+e.Msg.Reason)
		}
	case *golibvirt.DomainEventCallbackBlockJobMsg:
		d = e.Msg.Dom
	case *golibvirt.DomainEventCallbackDeviceAddedMsg:
		d = e.Dom
	case *golibvirt.DomainEventCallbackDeviceRemovedMsg:
		d = e.Msg.Dom
	case *golibvirt.DomainEventCallbackMetadataChangeMsg:
		d = e.Dom
	case *golibvirt.DomainEventCallbackAgentLifecycleMsg:
		d = e.Dom
	default:
		return
	}
	w.look(ctx, d, true)
}

// moved tells of a change of state, and remembers it, so that the look that
// follows does not tell it again.
func (w *watcher) moved(d golibvirt.Domain, kind golibvirt.DomainEventType, word string) {
	id := dr.VMID{UUID: dr.UUID(d.UUID)}
	info, known := w.known[id]
	if !known {
		return // the look tells that it appeared
	}
	info.Running = kind != golibvirt.DomainEventStopped && kind != golibvirt.DomainEventCrashed
	w.known[id] = info
	w.tell(hypervisor.ChangedState, d, "", word)
}

// diskOf finds the disk with a device alias.
func (w *watcher) diskOf(ctx context.Context, d golibvirt.Domain, alias string) string {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	if now, err := w.p.handle(d).look(ctx); err == nil {
		for _, x := range now.disks() {
			if x.Alias.Name == alias {
				return x.Target.Dev
			}
		}
	}
	return alias
}

func (w *watcher) tell(kind hypervisor.ChangeKind, d golibvirt.Domain, disk, detail string) {
	w.p.changes.Put(hypervisor.Change{Kind: kind, VM: dr.VMID{UUID: dr.UUID(d.UUID)}, Name: d.Name, Disk: disk, Detail: detail})
}

// lookAll looks at every VM, and for those that are gone.
func (w *watcher) lookAll(ctx context.Context, loud bool) error {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	refs, err := w.p.list(ctx)
	if err != nil {
		return err
	}
	gone := map[dr.VMID]bool{}
	for id := range w.known {
		gone[id] = true
	}
	for _, d := range refs {
		delete(gone, dr.VMID{UUID: dr.UUID(d.UUID)})
		w.look(ctx, d, loud)
	}
	for id := range gone {
		w.lose(golibvirt.Domain{Name: w.known[id].Config.Name, UUID: golibvirt.UUID(id.UUID)})
	}
	return nil
}

// lose tells that a VM is gone.
func (w *watcher) lose(d golibvirt.Domain) {
	id := dr.VMID{UUID: dr.UUID(d.UUID)}
	if _, known := w.known[id]; known {
		delete(w.known, id)
		w.tell(hypervisor.VMGone, d, "", "")
	}
}

// look looks at one VM and tells what is different.
func (w *watcher) look(ctx context.Context, d golibvirt.Domain, loud bool) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	now, err := w.p.handle(d).Info(ctx)
	if errs.Is(err, errs.NotFound) {
		w.lose(d)
		return
	}
	if err != nil {
		w.p.log.Debug("looking at a VM failed", "vm", d.Name, "err", err) // the next look comes
		return
	}
	d.Name = now.Config.Name
	before, known := w.known[now.Config.ID]
	keepSizes(&now, before)
	w.known[now.Config.ID] = now
	switch {
	case !loud:
	case !known:
		w.tell(hypervisor.VMAppeared, d, "", "")
	default:
		w.compare(d, before, now)
	}
}

// keepSizes fills in what could not be had this time.
func keepSizes(now *hypervisor.VMInfo, before hypervisor.VMInfo) {
	for i := range now.Disks {
		n := &now.Disks[i]
		if j := slices.IndexFunc(before.Disks, func(b hypervisor.LiveDisk) bool { return b.Name == n.Name }); j >= 0 && n.Size == 0 {
			n.Size = before.Disks[j].Size
			now.Config.Disks[i].Size = n.Size
		}
	}
}

// compare tells of the differences between two looks at a VM.
func (w *watcher) compare(d golibvirt.Domain, before, now hypervisor.VMInfo) {
	if before.Running != now.Running {
		w.tell(hypervisor.ChangedState, d, "", map[bool]string{true: "started", false: "stopped"}[now.Running])
	}
	a, b := before.Config, now.Config
	a.Disks, b.Disks = nil, nil
	if !reflect.DeepEqual(a, b) || !reflect.DeepEqual(before.Place, now.Place) || before.Agent != now.Agent {
		w.tell(hypervisor.ChangedConfig, d, "", "")
	}
	for _, n := range now.Disks {
		i := slices.IndexFunc(before.Disks, func(b hypervisor.LiveDisk) bool { return b.Name == n.Name })
		switch {
		case i < 0:
			w.tell(hypervisor.ChangedDisks, d, n.Name, "added")
		case before.Disks[i].Size != n.Size:
			w.tell(hypervisor.ChangedDisks, d, n.Name, "resized")
		case before.Disks[i].Path != n.Path || before.Disks[i].Format != n.Format:
			w.tell(hypervisor.ChangedChain, d, n.Name, "now "+n.Format+" "+n.Path)
		}
	}
	for _, b := range before.Disks {
		if !slices.ContainsFunc(now.Disks, func(n hypervisor.LiveDisk) bool { return n.Name == b.Name }) {
			w.tell(hypervisor.ChangedDisks, d, b.Name, "removed")
		}
	}
}
