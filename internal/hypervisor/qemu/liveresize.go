package qemu

import (
	"context"
	"errors"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// Resize grows a raw disk. QEMU does not grow an NBD node, so while the VM
// stands still the disk goes back to its own image, which grows, and then to
// the export again, which serves the new size by then.
func (v *LiveVM) Resize(ctx context.Context, disk string, size int64, a hypervisor.Attachment, serve func(context.Context) error) (hypervisor.Switch, error) {
	w, release, err := v.begin(ctx, "qemu.Resize", disk)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	defer release()
	if err := w.grows(size, a); err != nil {
		return hypervisor.Switch{}, err
	}
	defer w.commit()()
	if a.Socket == "" {
		sw, err := w.enlarge(size)
		if err == nil {
			err = serve(w.ctx)
		}
		return sw, err
	}
	begin := time.Now()
	if err := w.halt(); err != nil {
		return hypervisor.Switch{}, err
	}
	err = w.regrow(size, a, serve)
	if err = errors.Join(err, w.endHalt()); err != nil {
		return hypervisor.Switch{}, err
	}
	sw := hypervisor.Switch{Pause: time.Since(begin), Route: routeResize}
	v.p.log.Info("disk resized", "vm", w.s.id, "disk", disk, "bytes", size, "pause", sw.Pause)
	return sw, nil
}

// grows checks that a disk can be given size bytes, and that a is what is in
// its path.
func (w *deal) grows(size int64, a hypervisor.Attachment) error {
	if err := w.suits(a.Capture); err != nil {
		return err
	}
	switch {
	case !w.d.direct() || w.d.mirror != "" || a.Capture != hypervisor.InPath:
		return errs.New(w.op, errs.Invalid, w.d.name, "only a raw disk with the export in its path grows while it is attached").
			WithRemedy("unprotect the VM, resize the disk, and protect the VM again")
	case size <= w.d.size || size > dr.MaxDiskSize || size%sectorSize != 0:
		return w.refuse(errs.Invalid, "a disk grows, by whole sectors")
	case w.d.socket != a.Socket:
		return w.refuse(errs.Conflict, "something else is in the disk's path")
	}
	return nil
}

// enlarge grows the image of a disk that is on it, and tells the guest.
func (w *deal) enlarge(size int64) (hypervisor.Switch, error) {
	begin := time.Now()
	err := w.run("block_resize", object{"node-name": w.d.root.Name, "size": size})
	return hypervisor.Switch{Pause: time.Since(begin), Route: routeResize}, err
}

// regrow takes an attached disk to its image, has both grow, and takes it back.
// The VM stands still.
func (w *deal) regrow(size int64, a hypervisor.Attachment, serve func(context.Context) error) error {
	if _, err := w.detachRaw(); err != nil {
		return err
	}
	own, err := w.anew()
	if err != nil {
		return err
	}
	_, failed := own.enlarge(size)
	if failed == nil {
		if err := serve(w.ctx); err != nil {
			return errs.E(w.op, errs.Internal, w.d.name, err).WithRemedy("the disk has grown, and its export is not in its path any more: attach it again")
		}
	}
	if own, err = w.anew(); err != nil {
		return errors.Join(failed, err)
	}
	if own.slot, err = own.s.freeSlot(); err == nil {
		if err = own.addExport(a); err == nil {
			_, err = own.attachRaw()
		}
	}
	if err != nil {
		own.n.undo()
	}
	return errors.Join(failed, err)
}

// anew looks at the disk again. The commands of what it returns are as
// independent of the caller as w's.
func (w *deal) anew() (*deal, error) { return w.v.deal(w.ctx, w.op, w.d.name) }

// halt stops a VM that runs, and leaves word of it in QEMU: whoever comes after a
// driver that was killed has the VM go on.
func (w *deal) halt() error {
	w.v.halting = true
	if w.s.status != "running" {
		return nil
	}
	err := w.n.add(object{"driver": "null-co", "node-name": haltNode, "size": 0}, "")
	if err == nil {
		err = w.run("stop", nil)
	}
	if err != nil {
		return errors.Join(err, w.endHalt())
	}
	return nil
}

// endHalt lets the VM go on, if it ran.
func (w *deal) endHalt() error {
	w.v.halting = false
	err := w.goOn()
	if w.s.status == "running" {
		w.n.remove(haltNode)
	}
	return err
}

// unhalt has a VM go on that a driver stopped which is gone.
func (v *LiveVM) unhalt(ctx context.Context, q *qmp, s *scan) error {
	if _, halted := s.nodes[haltNode]; !halted || v.halting {
		return nil
	}
	if err := q.execute(ctx, "cont", nil, nil); err != nil {
		return err
	}
	v.p.log.Warn("a VM that a driver had stopped goes on", "vm", s.id)
	s.status = "running"
	delete(s.nodes, haltNode)
	return q.execute(ctx, "blockdev-del", object{"node-name": haltNode}, nil)
}
