package fake

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// Platform is a scripted hypervisor.Platform: its VMs are what the test adds,
// and do what the test tells them. Make it with NewPlatform. Safe for
// concurrent use; its only goroutines are timers that end a freeze.
type Platform struct {
	host    *Host // immutable
	changes *hypervisor.ChangeQueue

	mu     sync.Mutex
	closed bool // guarded by mu
}

// Host is what stays when a Platform is closed: the VMs themselves. The zero
// value has none.
type Host struct {
	mu        sync.Mutex
	vms       map[string]*LiveVM // guarded by mu, by name
	listening map[string]bool    // guarded by mu: sockets with a server
	open      []*Platform        // guarded by mu: who hears of changes
	estate    hypervisor.Estate  // guarded by mu: what Survey tells
	away      error              // guarded by mu: why nothing is answered; nil: it is
}

var (
	_ hypervisor.Platform = (*Platform)(nil)
	_ hypervisor.LiveVM   = (*liveHandle)(nil)
)

// LiveVM is a scripted VM. All access is under its host's mu.
type LiveVM struct {
	host     *Host
	info     hypervisor.VMInfo
	attached map[string]hypervisor.Attachment // by disk
	agent    int                              // file systems the guest's agent freezes; <0: no agent
	frozen   bool
	thaw     *time.Timer // ends the freeze
	broken   error       // what Attach, Detach and FailOpen answer; nil: they work
	stalls   time.Duration
	deaf     bool // it takes no notice of its power button
}

// NewPlatform returns a driver for host.
func NewPlatform(host *Host) *Platform {
	p := &Platform{host: host, changes: hypervisor.NewChangeQueue(time.Now)}
	host.mu.Lock()
	defer host.mu.Unlock()
	host.open = append(host.open, p)
	return p
}

// Add defines a VM. agent is how many file systems its agent freezes; below 0
// there is no agent.
func (h *Host) Add(info hypervisor.VMInfo, agent int) *LiveVM {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := &LiveVM{host: h, info: info, agent: agent, attached: map[string]hypervisor.Attachment{}}
	if h.vms == nil {
		h.vms = map[string]*LiveVM{}
	}
	h.vms[info.Config.Name] = v
	h.tellLocked(v, hypervisor.Change{Kind: hypervisor.VMAppeared})
	return v
}

// Listen says that an NBD server answers on socket, or no more.
func (h *Host) Listen(socket string, yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listening == nil {
		h.listening = map[string]bool{}
	}
	h.listening[socket] = yes
}

// tellLocked queues a change of v for every open driver.
func (h *Host) tellLocked(v *LiveVM, c hypervisor.Change) {
	c.VM, c.Name = v.info.Config.ID, v.info.Config.Name
	for _, p := range h.open {
		p.changes.Put(c)
	}
}

// Change does something to the VM and tells of it, as kind.
func (v *LiveVM) Change(kind hypervisor.ChangeKind, disk string, do func(*hypervisor.VMInfo)) {
	v.host.mu.Lock()
	defer v.host.mu.Unlock()
	if do != nil {
		do(&v.info)
	}
	v.host.tellLocked(v, hypervisor.Change{Kind: kind, Disk: disk})
}

// Fail makes Attach, Detach and FailOpen answer err; nil: they work again.
func (v *LiveVM) Fail(err error) {
	v.host.mu.Lock()
	defer v.host.mu.Unlock()
	v.broken = err
}

// Pauses sets what Attach, Detach and FailOpen report as pause.
func (v *LiveVM) Pauses(d time.Duration) {
	v.host.mu.Lock()
	defer v.host.mu.Unlock()
	v.stalls = d
}

// Frozen reports whether the guest's file systems are frozen.
func (v *LiveVM) Frozen() bool {
	v.host.mu.Lock()
	defer v.host.mu.Unlock()
	return v.frozen
}

// Attachment returns what is attached to a disk.
func (v *LiveVM) Attachment(disk string) (a hypervisor.Attachment, ok bool) {
	v.host.mu.Lock()
	defer v.host.mu.Unlock()
	a, ok = v.attached[disk]
	return a, ok
}

// Name returns "fake".
func (p *Platform) Name() string { return "fake" }

// Changes returns the changes of all VMs.
func (p *Platform) Changes() <-chan hypervisor.Change { return p.changes.Changes() }

// Close ends the driver; the host's VMs stay.
func (p *Platform) Close() error {
	p.host.mu.Lock()
	p.host.open = slices.DeleteFunc(p.host.open, func(o *Platform) bool { return o == p })
	p.host.mu.Unlock()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.changes.Close()
	return nil
}

// usable refuses after Close and for a ctx that has ended.
func (p *Platform) usable(ctx context.Context, op, object string) error {
	p.host.mu.Lock()
	away := p.host.away
	p.host.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case away != nil:
		return errs.E(op, errs.Unavailable, object, away)
	case p.closed:
		return errs.New(op, errs.Unavailable, object, "the driver was closed")
	case ctx.Err() != nil:
		return errs.E(op, errs.Canceled, object, context.Cause(ctx))
	}
	return nil
}

// VMs lists the VMs in order of name.
func (p *Platform) VMs(ctx context.Context) ([]hypervisor.LiveVM, error) {
	if err := p.usable(ctx, "fake.VMs", ""); err != nil {
		return nil, err
	}
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	var names []string
	for name := range p.host.vms {
		names = append(names, name)
	}
	slices.Sort(names)
	var all []hypervisor.LiveVM
	for _, name := range names {
		all = append(all, &liveHandle{p, p.host.vms[name]})
	}
	return all, nil
}

// VM finds one by name or UUID.
func (p *Platform) VM(ctx context.Context, nameOrID string) (hypervisor.LiveVM, error) {
	if err := p.usable(ctx, "fake.VM", nameOrID); err != nil {
		return nil, err
	}
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	for name, v := range p.host.vms {
		if name == nameOrID || v.info.Config.ID.String() == nameOrID {
			return &liveHandle{p, v}, nil
		}
	}
	return nil, errs.New("fake.VM", errs.NotFound, nameOrID, "no such VM")
}

// liveHandle is a VM as one driver sees it.
type liveHandle struct {
	p  *Platform
	vm *LiveVM
}

// Info returns the scripted VM.
func (h *liveHandle) Info(ctx context.Context) (hypervisor.VMInfo, error) {
	if err := h.p.usable(ctx, "fake.Info", ""); err != nil {
		return hypervisor.VMInfo{}, err
	}
	h.p.host.mu.Lock()
	defer h.p.host.mu.Unlock()
	info := h.vm.info
	info.Config.Disks = slices.Clone(info.Config.Disks)
	info.Config.NICs = slices.Clone(info.Config.NICs)
	info.Disks = slices.Clone(info.Disks)
	info.Agent = h.vm.agent >= 0
	for i := range info.Disks {
		if a, ok := h.vm.attached[info.Disks[i].Name]; ok {
			info.Disks[i].Attached, info.Disks[i].Socket = true, a.Socket
		}
	}
	return info, nil
}

// find checks what every command on a disk checks; the caller holds mu.
func (h *liveHandle) findLocked(op, disk string) (hypervisor.LiveDisk, error) {
	v := h.vm
	i := slices.IndexFunc(v.info.Disks, func(d hypervisor.LiveDisk) bool { return d.Name == disk })
	switch {
	case i < 0:
		return hypervisor.LiveDisk{}, errs.New(op, errs.NotFound, disk, "no such disk")
	case !v.info.Running:
		return hypervisor.LiveDisk{}, errs.New(op, errs.Conflict, v.info.Config.Name, "the VM is powered off")
	case v.broken != nil:
		return hypervisor.LiveDisk{}, errs.E(op, errs.Internal, disk, v.broken)
	}
	return v.info.Disks[i], nil
}

// Prepare names the disk's path, or for a mirror a socket beside it.
func (h *liveHandle) Prepare(ctx context.Context, disk string, c hypervisor.Capture) (hypervisor.Source, error) {
	const op = "fake.Prepare"
	if err := h.p.usable(ctx, op, disk); err != nil {
		return hypervisor.Source{}, err
	}
	h.p.host.mu.Lock()
	defer h.p.host.mu.Unlock()
	d, err := h.findLocked(op, disk)
	switch {
	case err != nil:
		return hypervisor.Source{}, err
	case d.Problem != "" || d.ReadOnly:
		return hypervisor.Source{}, errs.New(op, errs.Invalid, disk, "cannot be captured: "+d.Problem)
	case c == hypervisor.Mirror || d.Format != "raw":
		return hypervisor.Source{Socket: filepath.Join("/nowhere", h.vm.info.Config.ID.String(), disk), Export: disk}, nil
	}
	return hypervisor.Source{Path: d.Path}, nil
}

// Attach notes the export.
func (h *liveHandle) Attach(ctx context.Context, disk string, a hypervisor.Attachment) (hypervisor.Switch, error) {
	const op = "fake.Attach"
	if err := h.p.usable(ctx, op, disk); err != nil {
		return hypervisor.Switch{}, err
	}
	h.p.host.mu.Lock()
	defer h.p.host.mu.Unlock()
	d, err := h.findLocked(op, disk)
	switch {
	case err != nil:
		return hypervisor.Switch{}, err
	case a.Socket == "":
		return hypervisor.Switch{}, errs.New(op, errs.Invalid, disk, "no socket to attach")
	case d.Problem != "" || d.ReadOnly:
		return hypervisor.Switch{}, errs.New(op, errs.Invalid, disk, "cannot be captured: "+d.Problem)
	}
	if _, ok := h.vm.attached[disk]; ok {
		return hypervisor.Switch{}, errs.New(op, errs.Conflict, disk, "is attached already")
	}
	if !h.p.host.listening[a.Socket] {
		return hypervisor.Switch{}, errs.New(op, errs.Unavailable, a.Socket, "nobody listens")
	}
	h.vm.attached[disk] = a
	return hypervisor.Switch{Pause: h.vm.stalls, Route: "fake"}, nil
}

// Detach forgets the export.
func (h *liveHandle) Detach(ctx context.Context, disk string) (hypervisor.Switch, error) {
	return h.let(ctx, "fake.Detach", disk)
}

// FailOpen forgets the export.
func (h *liveHandle) FailOpen(ctx context.Context, disk string) (hypervisor.Switch, error) {
	return h.let(ctx, "fake.FailOpen", disk)
}

// Resize changes a disk's size.
func (h *liveHandle) Resize(ctx context.Context, disk string, size int64, a hypervisor.Attachment, serve func(context.Context) error) (hypervisor.Switch, error) {
	const op = "fake.Resize"
	if err := h.p.usable(ctx, op, disk); err != nil {
		return hypervisor.Switch{}, err
	}
	d, err := h.grow(op, disk, size, a)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	if err := serve(ctx); err != nil {
		return hypervisor.Switch{}, errs.E(op, errs.Internal, disk, err)
	}
	if a.Socket != "" {
		if _, err := h.Attach(ctx, disk, a); err != nil {
			return hypervisor.Switch{}, err
		}
	}
	h.vm.Change(hypervisor.ChangedDisks, d.Name, func(*hypervisor.VMInfo) {})
	return hypervisor.Switch{Pause: h.vm.stalls, Route: "fake"}, nil
}

// grow takes a disk out of its export's path and changes its size.
func (h *liveHandle) grow(op, disk string, size int64, a hypervisor.Attachment) (hypervisor.LiveDisk, error) {
	h.p.host.mu.Lock()
	defer h.p.host.mu.Unlock()
	d, err := h.findLocked(op, disk)
	switch {
	case err != nil:
		return d, err
	case h.vm.broken != nil:
		return d, errs.E(op, errs.Internal, disk, h.vm.broken)
	case size < d.Size || d.Format != "raw":
		return d, errs.New(op, errs.Invalid, disk, "cannot get this size")
	case h.vm.attached[disk] != a:
		return d, errs.New(op, errs.Conflict, disk, "something else is attached")
	}
	delete(h.vm.attached, disk)
	for i := range h.vm.info.Disks {
		if h.vm.info.Disks[i].Name == disk {
			h.vm.info.Disks[i].Size, h.vm.info.Config.Disks[i].Size = size, size
		}
	}
	return d, nil
}

func (h *liveHandle) let(ctx context.Context, op, disk string) (hypervisor.Switch, error) {
	if err := h.p.usable(ctx, op, disk); err != nil {
		return hypervisor.Switch{}, err
	}
	h.p.host.mu.Lock()
	defer h.p.host.mu.Unlock()
	if _, err := h.findLocked(op, disk); err != nil {
		return hypervisor.Switch{}, err
	}
	delete(h.vm.attached, disk)
	return hypervisor.Switch{Pause: h.vm.stalls, Route: "fake"}, nil
}

// Freeze freezes the scripted guest.
func (h *liveHandle) Freeze(ctx context.Context, limit time.Duration) (int, error) {
	const op = "fake.Freeze"
	if err := h.p.usable(ctx, op, ""); err != nil {
		return 0, err
	}
	if limit <= 0 {
		limit = hypervisor.DefaultFreezeLimit
	}
	v := h.vm
	v.host.mu.Lock()
	defer v.host.mu.Unlock()
	switch {
	case v.agent < 0 || !v.info.Running:
		return 0, errs.New(op, errs.Unavailable, v.info.Config.Name, "no agent answers in the guest")
	case v.frozen:
		return 0, errs.New(op, errs.Conflict, v.info.Config.Name, "the guest is frozen already")
	}
	v.frozen = true
	v.thaw = time.AfterFunc(limit, func() {
		v.host.mu.Lock()
		v.frozen = false
		v.host.mu.Unlock()
	})
	return v.agent, nil
}

// Thaw thaws the scripted guest.
func (h *liveHandle) Thaw(ctx context.Context) (int, error) {
	if err := h.p.usable(ctx, "fake.Thaw", ""); err != nil {
		return 0, err
	}
	v := h.vm
	v.host.mu.Lock()
	defer v.host.mu.Unlock()
	if !v.frozen {
		return 0, nil
	}
	v.thaw.Stop()
	v.frozen = false
	return v.agent, nil
}
