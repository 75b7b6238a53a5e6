package live

import (
	"context"
	"errors"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
)

// reached is where an exported disk's content is reached; no socket: nowhere.
type reached struct {
	socket string
	since  time.Time
}

// attach has the platform put the export of a disk that the Filter serves in
// the disk's path, or beside it, and tells the Filter where the content is. On
// error the disk is as it was.
//
//	raw, in path      attach
//	else, in path     prepare ─▶ Reach ─▶ attach    the guest's first request needs the content
//	mirror            prepare ─▶ attach ─▶ Reach    what is read before the mirror stands may be
//	                                                overwritten unseen
func (m *Manager) attach(ctx context.Context, vm hypervisor.LiveVM, d *EntryDisk) (sw hypervisor.Switch, err error) {
	if !d.exported() {
		return vm.Attach(ctx, d.Name, d.attachment())
	}
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		foreign := errs.Is(err, errs.Conflict) // what is attached is somebody else's
		err = errors.Join(err, m.reach(ctx, d, hypervisor.Source{}))
		if !foreign {
			_, undone := vm.Detach(ctx, d.Name) // ends what was prepared, too
			err = errors.Join(err, undone)
		}
	}()
	src, err := vm.Prepare(ctx, d.Name, d.capture())
	if err != nil {
		return sw, err
	}
	if src.Socket == "" {
		return sw, errs.New("live.attach", errs.Invalid, d.Name, "the disk is raw now").
			WithRemedy("unprotect the VM, and protect it again")
	}
	if d.capture() == hypervisor.Mirror {
		if sw, err = vm.Attach(ctx, d.Name, d.attachment()); err != nil {
			return sw, err
		}
		err = m.reach(ctx, d, src)
		return sw, err
	}
	if err = m.reach(ctx, d, src); err != nil {
		return sw, err
	}
	return vm.Attach(ctx, d.Name, d.attachment())
}

// reach tells the Filter where a disk's content is.
func (m *Manager) reach(ctx context.Context, d *EntryDisk, src hypervisor.Source) error {
	if err := m.cfg.Host.Reach(ctx, d.ID, d.source(src)); err != nil {
		return err
	}
	m.sources[d.ID] = reached{src.Socket, time.Now()}
	return nil
}

// away tells the Filter that the content of a VM's exported disks cannot be
// reached: the VM is off.
func (m *Manager) away(ctx context.Context, e *Entry) (all error) {
	for i := range e.Disks {
		if d := &e.Disks[i]; d.exported() && m.sources[d.ID].socket != "" {
			all = errors.Join(all, m.reach(ctx, d, hypervisor.Source{}))
		}
	}
	return all
}

// lostSource reports whether the export of the content of an attached disk has
// ended: asked again, the platform names another one, which has nothing open.
func (m *Manager) lostSource(ctx context.Context, vm hypervisor.LiveVM, d *EntryDisk) (bool, error) {
	if !d.exported() || d.capture() != hypervisor.InPath {
		return false, nil
	}
	src, err := vm.Prepare(ctx, d.Name, d.capture())
	return err == nil && src.Socket != m.sources[d.ID].socket, err
}

// detach takes a disk's export out of its path for a while.
func (m *Manager) detach(ctx context.Context, vm hypervisor.LiveVM, d *EntryDisk) error {
	if err := m.withhold(d); err != nil {
		return err
	}
	_, err := vm.Detach(ctx, d.Name)
	return err
}

// withhold says of a disk that its guest may write unseen from now on: in the
// record, and to the host component, by which no checkpoint counts on the disk
// until a sync of it has begun.
func (m *Manager) withhold(d *EntryDisk) error {
	if err := m.cfg.Record.markUnseen(func(o *EntryDisk) bool { return o.ID == d.ID }); err != nil {
		return err
	}
	err := m.cfg.Host.Hold(iofilter.Target{Disks: []dr.DiskID{d.ID}})
	if errs.Is(err, errs.NotFound) { // it is not served: nothing counts on it
		return nil
	}
	return err
}

// unseen withholds the disks of a running VM that are not in their paths: it was
// started, or taken off, by somebody else. A disk the VM does not have just now
// may be that of one that ends: see dropped.
func (m *Manager) unseen(info *hypervisor.VMInfo, e *Entry) (all error) {
	for i := range e.Disks {
		d := &e.Disks[i]
		if info.Running && liveDisk(info, d.Name) != nil && !attachedTo(info, d) && !d.still(info) {
			all = errors.Join(all, m.withhold(d))
		}
	}
	return all
}

// cleanUp takes exports out of the paths of disks whose content a former
// process of ours reached through the platform: what it had there ended with it.
// A VM that is off, or not known, has none.
func (m *Manager) cleanUp(ctx context.Context, e *Entry) error {
	vm, info, err := m.look(ctx, e.Config.ID.String())
	if errs.Is(err, errs.NotFound) || err == nil && !info.Running {
		return nil
	}
	if err != nil {
		return err
	}
	var all error
	for i := range e.Disks {
		d := &e.Disks[i]
		if !d.exported() || !attachedTo(&info, d) {
			continue
		}
		if err := m.cfg.Record.markUnseen(func(o *EntryDisk) bool { return o.ID == d.ID }); err != nil {
			return errors.Join(all, err)
		}
		_, err := vm.FailOpen(ctx, d.Name)
		all = errors.Join(all, err)
	}
	return all
}

// overtaken reports whether a stall is told that was ended since: a disk tells
// of one with each request that failed.
func (m *Manager) overtaken(c *hypervisor.Change) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.cfg.Record.find(c.VM)
	if e == nil || c.Kind != hypervisor.DiskStalled {
		return false
	}
	d := e.disk(c.Disk)
	return d != nil && d.exported() && !c.Time.After(m.sources[d.ID].since)
}
