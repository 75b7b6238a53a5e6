package libvirt

import (
	"context"
	"errors"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// Resize grows a raw disk. QEMU does not grow an NBD node, so while the VM
// stands still an export that is in the path behind libvirt's back is slipped
// out, libvirt grows the image it knows, and the export is slipped in again.
// One that libvirt put there by a block copy would take a pass over the disk,
// out and in, and is refused.
func (v *liveVM) Resize(ctx context.Context, disk string, size int64, a hypervisor.Attachment, serve func(context.Context) error) (hypervisor.Switch, error) {
	c, err := v.begin(ctx, "libvirt.Resize", disk)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	defer c.done()
	if err := c.grows(ctx, size, a); err != nil {
		return hypervisor.Switch{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	begin := time.Now()
	if a.Socket == "" {
		if err := c.enlarge(ctx, size); err != nil {
			return hypervisor.Switch{}, err
		}
		return hypervisor.Switch{Pause: time.Since(begin), Route: routeResize}, serve(ctx)
	}
	if err := c.halt(ctx); err != nil {
		return hypervisor.Switch{}, errors.Join(err, c.unhalt(ctx))
	}
	err = c.regrow(ctx, size, serve)
	if err = errors.Join(err, c.unhalt(ctx)); err != nil {
		return hypervisor.Switch{}, err
	}
	sw := hypervisor.Switch{Pause: time.Since(begin), Route: routeResize}
	v.p.log.Info("disk resized", "vm", v.id, "disk", disk, "bytes", size, "pause", sw.Pause)
	return sw, nil
}

// routeResize is how a disk grew: in Switch alone.
const routeResize = "resize"

// sector is what a disk's size is a multiple of, bytes.
const sector = 512

// grows checks that a disk can be given size bytes, and that a is what is in
// its path.
func (c *change) grows(ctx context.Context, size int64, a hypervisor.Attachment) error {
	if !c.w.active {
		return c.refuse(errs.Conflict, "the VM is powered off").WithRemedy("start it first, or resize its image")
	}
	at := c.w.standing(c.x)
	socket := ""
	if at != alone {
		socket = c.rec.Socket
	}
	switch {
	case c.x.format() != "raw" || c.x.ReadOnly != nil || c.x.Shareable != nil || c.x.problem() != "":
		return c.refuse(errs.Invalid, "only a raw disk of this VM alone grows while it runs")
	case socket != a.Socket:
		return c.refuse(errs.Conflict, "something else is in the disk's path")
	case at != alone && at != behind || a.Capture != hypervisor.InPath:
		return c.refuse(errs.Invalid, "an export that libvirt knows, or mirrors to, cannot follow").
			WithRemedy(`unprotect the VM, resize the disk, and protect the VM again; or use route "monitor"`)
	}
	was, err := c.size(ctx, c.x.Target.Dev)
	if err == nil && (size <= was || size > dr.MaxDiskSize || size%sector != 0) {
		err = c.refuse(errs.Invalid, "a disk grows, by whole sectors")
	}
	return err
}

// halt stops the VM if it runs, and leaves word of it: whoever comes after a
// driver that was killed has the VM go on.
func (c *change) halt(ctx context.Context) error {
	state, err := ask(ctx, c.p.conn, c.op, c.name, func(l *golibvirt.Libvirt) (int32, error) {
		state, _, err := l.DomainGetState(c.ref, 0)
		return state, err
	})
	if err != nil || golibvirt.DomainState(state) != golibvirt.DomainRunning {
		return err
	}
	r := *c.rec
	r.Halted = true
	if err := c.remember(ctx, r); err != nil {
		return err
	}
	return tell(ctx, c.p.conn, c.op, c.name, func(l *golibvirt.Libvirt) error { return l.DomainSuspend(c.ref) })
}

// unhalt lets a VM go on that was halted, by this driver or one before it.
func (c *change) unhalt(ctx context.Context) error {
	if c.rec == nil || !c.rec.Halted {
		return nil
	}
	err := tell(ctx, c.p.conn, c.op, c.name, func(l *golibvirt.Libvirt) error {
		err := l.DomainResume(c.ref)
		if code(err) == golibvirt.ErrOperationInvalid {
			return nil // it runs, or is off
		}
		return err
	})
	if err != nil {
		return err
	}
	r := *c.rec
	r.Halted = false
	return c.remember(ctx, r)
}

// enlarge has libvirt grow the image, and tell the guest.
func (c *change) enlarge(ctx context.Context, size int64) error {
	return tell(ctx, c.p.conn, c.op, c.name+" "+c.x.Target.Dev, func(l *golibvirt.Libvirt) error {
		return l.DomainBlockResize(c.ref, c.x.Target.Dev, uint64(size), golibvirt.DomainBlockResizeBytes)
	})
}

// regrow slips the export out, has image and export grow, and slips it in. The
// VM stands still.
func (c *change) regrow(ctx context.Context, size int64, serve func(context.Context) error) error {
	r := *c.rec
	if _, err := c.slipOut(ctx); err != nil {
		return err
	}
	failed := c.enlarge(ctx, size)
	if failed == nil {
		if err := serve(ctx); err != nil {
			return errors.Join(errs.E(c.op, errs.Internal, c.name+" "+r.Name, err), c.outside(ctx))
		}
		r.Size = size
	}
	if _, err := c.slipIn(ctx, r); err != nil {
		return errors.Join(failed, err, c.outside(ctx))
	}
	return errors.Join(failed, c.remember(ctx, r))
}

// outside lets a VM go on whose export could not be slipped in again, and
// forgets the export.
func (c *change) outside(ctx context.Context) error {
	return errors.Join(c.unhalt(ctx), c.undo(ctx))
}
