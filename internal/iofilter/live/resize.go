package live

import (
	"context"
	"errors"

	"holdfast/internal/errs"
)

// Resize gives a disk of a protected VM more bytes while the VM runs, which
// stands still for it: no write is lost, and none passes unseen. What was added
// is copied. On error the disk is protected as before, or what passed unseen is
// compared. Errors: NotFound (no such protected VM or disk), Invalid (fewer bytes,
// or a disk that cannot grow in this way), Conflict (the disk is not attached),
// Unavailable, Canceled.
func (m *Manager) Resize(ctx context.Context, nameOrID, disk string, size int64) (Report, error) {
	const op = "live.Resize"
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(nameOrID)
	if e == nil || e.disk(disk) == nil {
		return Report{}, errs.New(op, errs.NotFound, nameOrID+" "+disk, "no such disk is protected by this host").
			WithRemedy("see holdfast status for what is")
	}
	d := e.disk(disk)
	if d.exported() {
		return Report{}, errs.New(op, errs.Invalid, nameOrID+" "+disk, "only a raw disk that is captured in path grows while it is protected").
			WithRemedy("unprotect the VM, resize the disk, and protect the VM again")
	}
	vm, info, err := m.look(ctx, e.Config.ID.String())
	if err != nil {
		return Report{}, err
	}
	if !attachedTo(&info, d) {
		return Report{}, errs.New(op, errs.Conflict, nameOrID+" "+disk, "the host component is not in the disk's path now").
			WithRemedy("start the VM, or wait until the disk is attached")
	}
	unseen := false // that the disk may be on its own image has not been said yet
	sw, err := vm.Resize(ctx, d.Name, size, d.attachment(), func(ctx context.Context) error {
		if err := m.cfg.Host.Resize(ctx, d.ID); err != nil {
			return errors.Join(err, m.withhold(d)) // before the guest goes on
		}
		unseen = true
		return nil
	})
	if err != nil {
		// Settle looks where the disk is, and has compared what it wrote there.
		if unseen {
			err = errors.Join(err, m.withhold(d))
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		return Report{}, errors.Join(err, m.settle(ctx, vm, m.cfg.Record.find(e.Config.ID)))
	}
	m.log.Info("disk has another size", "vm", e.Config.Name, "disk", d.Name, "bytes", size, "pause", sw.Pause)
	return Report{VM: e.Config.ID, Name: e.Config.Name, Disks: []DiskReport{{Name: d.Name, ID: d.ID, Route: sw.Route, Pause: sw.Pause}}}, nil
}
