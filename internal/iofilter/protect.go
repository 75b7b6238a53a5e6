package iofilter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/wire"
)

// Protect begins to protect a VM, or further disks of one, while the Filter
// runs: when it returns the disks are served on their sockets, and all of them
// are about to be copied. The DRVA is told at once if it is there, and when it
// is if not; until then the disks track. vm.Config takes the place of the VM's
// former one. On error nothing has changed.
//
// Errors: Invalid, with a remedy; Conflict (a disk is still on its way out);
// Full; Unavailable (the Filter does not run); those of nbd.OpenFile and
// nbd.Listen.
func (f *Filter) Protect(_ context.Context, vm VM) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	const op = "iofilter.Protect"
	if err := f.runsLocked(op); err != nil {
		return err
	}
	cfg := f.cfg
	cfg.VMs = withDisks(f.cfg.VMs, vm)
	if err := cfg.Validate(); err != nil {
		return err
	}
	if err := f.out.admits(&vm); err != nil {
		return err
	}
	ports, err := f.prepare(&vm)
	if err != nil {
		return err
	}
	disks := make([]*disk, len(ports))
	for i, p := range ports {
		disks[i] = p.disk
	}
	if err := f.out.join(&vm.Config, disks); err != nil {
		for _, p := range ports {
			err = errors.Join(err, p.close())
		}
		return err
	}
	f.cfg.VMs, f.ports = cfg.VMs, append(f.ports, ports...)
	for _, p := range ports {
		p.keepSidecar(f.own)
		p.start(f.run)
	}
	return nil
}

// runsLocked refuses changes of what is protected before and after Run.
func (f *Filter) runsLocked(op string) error {
	if f.run == nil || f.run.Err() != nil {
		return errs.New(op, errs.Unavailable, f.cfg.Name, "the host component is not running").
			WithRemedy("repeat when it runs")
	}
	return nil
}

// withDisks returns vms with vm, or with its disks added to the VM of its id.
func withDisks(vms []VM, vm VM) []VM {
	vms = slices.Clone(vms)
	i := slices.IndexFunc(vms, func(v VM) bool { return v.Config.ID == vm.Config.ID })
	if i < 0 {
		return append(vms, vm)
	}
	vms[i] = VM{Config: vm.Config, Disks: slices.Concat(vms[i].Disks, vm.Disks)}
	return vms
}

// admits refuses what a Hello could not say.
func (o *outlet) admits(vm *VM) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.helloLocked()
	add := wire.HelloVM{Config: vm.Config}
	for i := range vm.Disks {
		id := vm.Disks[i].ID
		if slices.ContainsFunc(o.disks, func(d *disk) bool { return d.info.ID == id }) {
			return errs.New("iofilter.Protect", errs.Conflict, vm.Config.Name+"/"+vm.Disks[i].Name, "the disk is still being taken out: the DRVA does not know it yet").
				WithRemedy("repeat when the DRVA can be reached")
		}
		add.Disks = append(add.Disks, wire.HelloDisk{Disk: dr.Disk{ID: id, VM: vm.Config.ID, Name: vm.Disks[i].Name, Size: dr.MaxDiskSize}})
	}
	h.VMs = append(h.VMs, add)
	return fits(h)
}

// prepare opens the disks of vm and their sockets: all, or none.
func (f *Filter) prepare(vm *VM) (ports []*port, err error) {
	defer func() {
		if err != nil {
			for _, p := range ports {
				err = errors.Join(err, p.close())
			}
			ports = nil
		}
	}()
	for _, c := range vm.Disks {
		p, err := f.open(vm.Config.ID, c)
		if err != nil {
			return ports, err
		}
		ports = append(ports, p)
		if err := p.listen(); err != nil {
			return ports, err
		}
	}
	return ports, nil
}

// UnprotectOptions say how a disk leaves. The zero value: it is not protected
// any more, and nobody may have it open.
type UnprotectOptions struct {
	// Release hands the disks over to another host: the domain keeps them, and
	// if their copy can be completed before ctx ends, nothing has to be copied
	// there.
	Release bool
	// Force takes the disks away from clients that are still connected.
	Force bool
}

// Unprotected says how disks left.
type Unprotected struct {
	Told  bool `json:"told"`  // the DRVA knows; if not, it is told as soon as it can be reached
	Clean bool `json:"clean"` // Release: the DRVA holds all of the disks
}

// Unprotect ends the protection of a VM's disks, or of all of them (disks is
// empty), whose guest has been detached from their sockets: what the stream
// holds of them still goes to the DRVA, then a record that says so. When it
// returns the sockets are gone and the primaries closed. It waits for the DRVA
// a few seconds at most, and for the copy of disks to be released until ctx
// ends, or the DRVA has been away for a while: it may be that nobody publishes
// the domain any more.
//
// Errors: NotFound; Conflict (a client is connected, or the disk is on its way
// out); Unavailable (the Filter does not run, or operations in flight did not
// complete: then the primary stays open).
func (f *Filter) Unprotect(ctx context.Context, vm dr.VMID, disks []dr.DiskID, o UnprotectOptions) (Unprotected, error) {
	ports, err := f.take(vm, disks, o.Force)
	if err != nil {
		return Unprotected{}, err
	}
	f.forgetPauses(ports)
	failed := stopAll(ports)
	for _, p := range ports {
		if o.Release {
			if p.remote == nil { // a source ends when the guest is detached
				p.disk.awaitComplete(ctx)
			}
			settled, cancel := context.WithTimeout(ctx, drainLimit) // a DRVA that is gone takes nothing more
			p.disk.keep.closeAll(settled)
			cancel()
		} else if err := p.disk.keep.forget(); err != nil {
			p.log.Warn("the disk's sidecar cannot be voided", "err", err)
		}
	}
	op := leaveRemove
	if o.Release {
		op = leaveRelease
	}
	result := Unprotected{Told: true, Clean: o.Release}
	ways := make([]*leaving, len(ports))
	for i, p := range ports {
		ways[i] = f.out.leave(p.disk, op)
		result.Clean = result.Clean && ways[i].op == leaveRelease
	}
	limit := time.NewTimer(drainLimit)
	defer limit.Stop()
	for _, w := range ways {
		select {
		case <-w.done:
			continue
		case <-limit.C:
			limit.Reset(0) // nor for the others
		case <-ctx.Done():
		}
		result.Told = false
	}
	if failed != nil {
		return result, failed
	}
	for i, p := range ports {
		if ways[i].op == leaveRelease && result.Told {
			p.disk.keep.clean()
		}
		failed = errors.Join(failed, p.close())
	}
	return result, failed
}

// take takes ports out of the Filter, to be taken down by the caller.
func (f *Filter) take(vm dr.VMID, disks []dr.DiskID, force bool) ([]*port, error) {
	const op = "iofilter.Unprotect"
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.runsLocked(op); err != nil {
		return nil, err
	}
	ports, err := f.findLocked(op, Target{VM: vm, Disks: disks})
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		if n := p.disk.used(); n > 0 && !force {
			return nil, errs.E(op, errs.Conflict, p.conf.Name, fmt.Errorf("%d client(s) have the disk open", n)).
				WithRemedy("detach the VM from " + p.conf.Socket + " first, or shut it down")
		}
	}
	f.ports = slices.DeleteFunc(f.ports, func(p *port) bool { return slices.Contains(ports, p) })
	f.cfg.VMs = withoutDisks(f.cfg.VMs, ports)
	return ports, nil
}

// withoutDisks returns vms without the disks of ports, and without VMs that
// have none then.
func withoutDisks(vms []VM, ports []*port) []VM {
	var out []VM
	for _, vm := range vms {
		vm.Disks = slices.DeleteFunc(slices.Clone(vm.Disks), func(d Disk) bool {
			return slices.ContainsFunc(ports, func(p *port) bool { return p.conf.ID == d.ID })
		})
		if len(vm.Disks) > 0 {
			out = append(out, vm)
		}
	}
	return out
}

// used is how many clients have the disk open.
func (d *disk) used() int {
	d.out.mu.Lock()
	defer d.out.mu.Unlock()
	return d.clients
}

// awaitComplete waits until the DRVA has, or is about to get, all of the disk,
// or its copy is not being made any more, or ctx ends.
func (d *disk) awaitComplete(ctx context.Context) {
	d.out.mu.Lock()
	calm := make(chan struct{})
	d.calm = calm
	d.out.restateLocked()
	d.out.mu.Unlock()
	look := time.NewTicker(releaseLook)
	defer look.Stop()
	for {
		select {
		case <-calm:
			return
		case <-ctx.Done():
			return
		case <-look.C:
		}
		d.out.mu.Lock()
		l := &d.out.link
		away := !l.up && d.out.now()-l.lost > releaseLost
		d.out.mu.Unlock()
		if away {
			return
		}
	}
}

// Resize takes in that a disk's primary has been grown or shrunk: connections
// are closed, and clients that connect again see the new size. The DRVA is told
// of it before any record reaches it that needs it; until then the disk tracks.
// What was added is copied.
//
// Errors: NotFound; Invalid; Unavailable (the Filter does not run, or
// operations in flight did not complete). On error the disk has its former
// size.
func (f *Filter) Resize(_ context.Context, id dr.DiskID) error {
	const op = "iofilter.Resize"
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.runsLocked(op); err != nil {
		return err
	}
	ports, err := f.findLocked(op, Target{Disks: []dr.DiskID{id}})
	if err != nil {
		return err
	}
	p := ports[0]
	if p.file == nil {
		return errs.New(op, errs.Invalid, p.conf.Name, "the size of the disk is its source's: see Reach")
	}
	return f.remeasure(p, func() error {
		return p.file.Refresh(func(size int64) error { return sane(p.conf.Path, size) })
	})
}

// remeasure stops serving a disk, has measure learn its primary's size, and
// goes on with that.
func (f *Filter) remeasure(p *port, measure func() error) error {
	if err := p.halt(); err != nil {
		return err // the port stays down: what is in flight may still arrive at the disk
	}
	defer p.start(f.run)
	old := p.disk
	was := old.size
	old.rest(true)
	old.work.Lock() // the cursor has let go
	err := measure()
	old.work.Unlock()
	if err != nil || p.primary.Size() == was {
		old.rest(false)
		return err
	}
	f.measured(p, old)
	return nil
}

// measured puts a disk of the primary's present size in the place of old, with
// a sidecar of that size.
func (f *Filter) measured(p *port, old *disk) {
	p.keep()
	if err := errors.Join(old.keep.forget(), old.keep.end()); err != nil {
		p.log.Warn("the former sidecar cannot be ended", "err", err)
	}
	info := old.info
	info.Size = p.primary.Size()
	p.disk = f.out.newDisk(info, p.primary)
	p.disk.away = old.away
	p.watch()
	p.remember(&f.cfg, f.fs, true)
	p.disk.dirty = newDirtyMap(info.Size) // what is dirty replace knows
	if p.disk.keep != nil {
		p.disk.keep.fresh = true
	}
	f.out.replace(old, p.disk)
	p.keepSidecar(f.own)
}

// rest keeps everything of the disk out of the stream while its primary
// changes, or ends that.
func (d *disk) rest(begins bool) {
	d.out.mu.Lock()
	defer d.out.mu.Unlock()
	d.member.retired = begins
	signal(d.out.syncKick)
}

// Reconfigure takes in that a VM's name, processors, memory or cards are
// others now; recovery builds it so from the checkpoints that follow. Errors:
// Invalid; NotFound; Unavailable (the Filter does not run).
func (f *Filter) Reconfigure(c dr.VMConfig) error {
	const op = "iofilter.Reconfigure"
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.runsLocked(op); err != nil {
		return err
	}
	i := slices.IndexFunc(f.cfg.VMs, func(v VM) bool { return v.Config.ID == c.ID })
	switch {
	case i < 0:
		return errs.New(op, errs.NotFound, c.Name, "this host does not protect the VM").WithRemedy("protect it first")
	case c.Name == "" || len(c.Name) > maxName:
		return invalid(c.ID.String(), "set name", "the name of a VM must have 1 to %d bytes", maxName)
	}
	if err := f.out.reconfigure(&c); err != nil {
		return err
	}
	f.cfg.VMs = slices.Clone(f.cfg.VMs)
	f.cfg.VMs[i].Config = c
	return nil
}

// Protected returns what is protected now, in the form of the configuration.
func (f *Filter) Protected() []VM {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.cfg.VMs)
}
