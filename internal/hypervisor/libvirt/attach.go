package libvirt

import (
	"context"
	"errors"
	"fmt"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// change is one change to one disk, under way: the VM's turn is held.
type change struct {
	*liveVM
	op   string
	w    *view
	x    *diskXML
	rec  *record // what was remembered of the disk; nil: nothing
	dead bool    // the export does not answer any more
	done func()  // gives the turn back
}

// begin takes the VM's turn and looks at a disk. On success the caller must
// call done.
func (v *liveVM) begin(ctx context.Context, op, disk string) (*change, error) {
	done, err := v.p.turn(ctx, op, v.id, v.name)
	if err != nil {
		return nil, err
	}
	w, err := v.look(ctx)
	if err != nil {
		done()
		return nil, errs.E(op, errs.Internal, v.name, err)
	}
	x := w.disk(disk)
	if x == nil {
		done()
		return nil, errs.New(op, errs.NotFound, v.name+" "+disk, "the VM has no such disk")
	}
	c := &change{liveVM: v, op: op, w: w, x: x, rec: w.Metadata.Protection.find(disk), done: done}
	if err := c.unhalt(ctx); err != nil { // a driver died in the middle of a resize
		done()
		return nil, err
	}
	return c, nil
}

func (c *change) refuse(kind errs.Kind, format string, args ...any) *errs.Error {
	return errs.E(c.op, kind, c.name+" "+c.x.Target.Dev, fmt.Errorf(format, args...))
}

// remember writes r into the VM's metadata.
func (c *change) remember(ctx context.Context, r record) error {
	if err := c.save(ctx, c.w, c.w.Metadata.Protection.with(r)); err != nil {
		return err
	}
	c.rec = c.w.Metadata.Protection.find(r.Name)
	return nil
}

// forget removes what was remembered of the disk.
func (c *change) forget(ctx context.Context) error {
	c.rec = nil
	return c.save(ctx, c.w, c.w.Metadata.Protection.without(c.x.Target.Dev))
}

// refresh looks again, after libvirt changed the disk.
func (c *change) refresh(ctx context.Context) error {
	w, err := c.look(ctx)
	if err != nil {
		return err
	}
	x := w.disk(c.x.Target.Dev)
	if x == nil {
		return c.refuse(errs.NotFound, "the disk was removed meanwhile")
	}
	c.w, c.x, c.rec = w, x, w.Metadata.Protection.find(x.Target.Dev)
	return nil
}

// Attach puts an export in a disk's path, or beside it.
func (v *liveVM) Attach(ctx context.Context, disk string, a hypervisor.Attachment) (hypervisor.Switch, error) {
	c, err := v.begin(ctx, "libvirt.Attach", disk)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	defer c.done()
	if err := c.suits(a); err != nil {
		return hypervisor.Switch{}, err
	}
	if err := c.clear(ctx); err != nil {
		return hypervisor.Switch{}, err
	}
	if at := c.w.standing(c.x); at != alone && at != opened { // a driver died in the middle of it
		if err := c.undo(ctx); err != nil {
			return hypervisor.Switch{}, err
		}
		if err := c.refresh(ctx); err != nil {
			return hypervisor.Switch{}, err
		}
	}
	r, err := c.record(ctx, a)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	if err := c.remember(ctx, r); err != nil {
		return hypervisor.Switch{}, err
	}
	begin := time.Now()
	sw, err := c.enter(ctx, r)
	if err == nil {
		r.State = attached
		err = c.settleAttached(ctx, r)
	}
	if err != nil {
		undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		return hypervisor.Switch{}, errors.Join(errs.E(c.op, errs.Internal, c.name+" "+disk, err), c.undo(undoing))
	}
	v.p.log.Info("export attached", "vm", v.id, "disk", disk, "route", sw.Route, "pause", sw.Pause, "took", time.Since(begin))
	return sw, nil
}

// suits refuses what cannot be attached, before anything is done.
func (c *change) suits(a hypervisor.Attachment) error {
	switch {
	case a.Socket == "" || len(a.Socket) > maxSocketPath:
		return c.refuse(errs.Invalid, "the export's socket has a path of %d bytes; 1 to %d are possible", len(a.Socket), maxSocketPath)
	case !c.w.active:
		return c.refuse(errs.Conflict, "the VM is powered off").WithRemedy("start it first")
	case c.x.ReadOnly != nil || c.x.Shareable != nil:
		return c.refuse(errs.Invalid, "the disk is read-only, or shared with other VMs")
	case c.w.Metadata.Run.onExport(c.x.Target.Dev):
		return c.refuse(errs.Conflict, "%s", stillRecovering)
	case c.x.problem() != "":
		return c.refuse(errs.Invalid, "%s", c.x.problem())
	}
	if at := c.w.standing(c.x); at != alone && at != opened && c.rec.State != attaching {
		return c.refuse(errs.Conflict, "an export is attached already")
	}
	if a.Capture == hypervisor.InPath {
		return c.suitsInPath()
	}
	return nil
}

// suitsInPath refuses disks an export cannot stand in front of: it reads and
// writes the guest's bytes at their own place.
func (c *change) suitsInPath() error {
	x := c.x
	if c.w.standing(x) == opened {
		return nil // it suited before
	}
	words := ""
	switch {
	case x.format() != "raw":
		words = "its format is " + x.format()
	case x.path() == "":
		words = "it is neither an image nor a block device of this host"
	case x.Source.Encryption != nil || x.Source.Slices != nil || x.Backing.Source != nil:
		words = "it is encrypted, part of a file, or has a backing image"
	default:
		return nil
	}
	return c.refuse(errs.Invalid, "an export cannot stand in front of this disk: %s", words).
		WithRemedy(`protect this VM with capture mode "mirror"`)
}

// clear removes what a driver left that died between two steps. A job of
// somebody else's is a conflict.
func (c *change) clear(ctx context.Context) error {
	if c.x.Mirror != nil {
		if c.rec == nil || c.rec.State != attaching && c.rec.State != detaching {
			return c.refuse(errs.Conflict, "a job of libvirt's uses the disk").
				WithRemedy("see 'virsh blockjob', and wait for it or abort it")
		}
		if err := c.abortJob(ctx, 0); err != nil {
			return err
		}
	}
	if c.rec == nil || c.w.standing(c.x) != alone {
		return nil
	}
	if c.w.nodes[ownName(c.x.Target.Dev)].Name != "" {
		return c.drop(ctx, ownName(c.x.Target.Dev))
	}
	return nil
}

// record describes the attachment to be made.
func (c *change) record(ctx context.Context, a hypervisor.Attachment) (record, error) {
	var r record
	if c.w.standing(c.x) == opened {
		r = *c.rec // it knows what the XML no longer says
	} else {
		size, err := c.size(ctx, c.x.Target.Dev)
		if err != nil {
			return record{}, err
		}
		if r, err = newRecord(c.x, size); err != nil {
			return record{}, err
		}
	}
	r.State, r.Socket, r.Export, r.Route = attaching, a.Socket, a.Export, c.route(a.Capture)
	return r, nil
}

// route decides how the export gets there.
func (c *change) route(k hypervisor.Capture) string {
	switch {
	case k == hypervisor.Mirror:
		return routeMirror
	case c.w.standing(c.x) == opened:
		return routeCopy // the only one that makes the XML true again
	case c.x.unmaps() || c.p.opt.Route == RouteMonitor:
		return routeMonitor
	}
	return routeCopy
}

// enter makes the attachment that r describes.
func (c *change) enter(ctx context.Context, r record) (hypervisor.Switch, error) {
	switch r.Route {
	case routeMirror:
		return c.startMirror(ctx, r)
	case routeMonitor:
		return c.slipIn(ctx, r)
	}
	sw, err := c.copyTo(ctx, "network", exportSource(r.Socket, r.Export))
	if err != nil {
		return sw, err
	}
	if err := c.refresh(ctx); err != nil {
		return sw, err
	}
	return sw, c.harden(ctx, r)
}

// settleAttached makes definition and metadata say what is now.
func (c *change) settleAttached(ctx context.Context, r record) error {
	if r.Route != routeMirror { // whose disk is where it was
		if err := c.defineExport(ctx, c.w, r); err != nil {
			return err
		}
	}
	return c.remember(ctx, r)
}

// undo puts the disk back after a step failed.
func (c *change) undo(ctx context.Context) error {
	if err := c.refresh(ctx); err != nil {
		return err
	}
	if err := c.clear(ctx); err != nil {
		return err
	}
	if c.rec == nil {
		return nil
	}
	switch c.w.standing(c.x) {
	case opened:
		r := *c.rec
		r.State = failedOpen
		return c.remember(ctx, r)
	case alone:
		if err := c.defineOriginal(ctx, c.w, *c.rec); err != nil {
			return err
		}
		return c.forget(ctx)
	}
	_, err := c.leave(ctx)
	return err
}

// Detach takes the export out of a disk's path again.
func (v *liveVM) Detach(ctx context.Context, disk string) (hypervisor.Switch, error) {
	c, err := v.begin(ctx, "libvirt.Detach", disk)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	defer c.done()
	if err := c.clear(ctx); err != nil {
		return hypervisor.Switch{}, err
	}
	defer v.endRead(ctx, disk)
	if c.rec == nil {
		return hypervisor.Switch{Route: "none"}, nil
	}
	sw, err := c.leave(ctx)
	if err != nil {
		return hypervisor.Switch{}, errs.E(c.op, errs.Internal, c.name+" "+disk, err)
	}
	v.p.log.Info("export detached", "vm", v.id, "disk", disk, "route", sw.Route, "pause", sw.Pause)
	return sw, nil
}

// leave takes the guest back to its own disk, from wherever it is.
func (c *change) leave(ctx context.Context) (sw hypervisor.Switch, err error) {
	r := *c.rec
	orig, err := r.original()
	if err != nil {
		return sw, err
	}
	at := c.w.standing(c.x)
	if at != alone && at != opened {
		r.State = detaching
		if err := c.remember(ctx, r); err != nil {
			return sw, err
		}
	}
	switch {
	case !c.w.active || at == alone:
		if c.w.active && r.Route == routeMirror { // the job ended by itself, its node stays
			_, err = c.endMirror(ctx)
		}
		sw.Route = "definition" // that of the next start is all there is to change
	case at == behind:
		sw, err = c.slipOut(ctx)
	case at == mirrored:
		sw, err = c.endMirror(ctx)
	default:
		if sw, err = c.copyTo(ctx, r.Type, r.Source); err == nil && !c.x.stops() {
			err = c.drop(ctx, ownName(r.Name))
		}
	}
	if err != nil {
		return sw, err
	}
	if orig.path() != "" && r.Route != routeMirror {
		if err := c.defineOriginal(ctx, c.w, r); err != nil {
			return sw, err
		}
	}
	return sw, c.forget(ctx)
}

// abortJob ends libvirt's job on the disk, by a pivot if flags say so, and
// returns when it has ended.
func (c *change) abortJob(ctx context.Context, flags golibvirt.DomainBlockJobAbortFlags) error {
	return tell(ctx, c.p.conn, c.op, c.name+" "+c.x.Target.Dev, func(l *golibvirt.Libvirt) error {
		return l.DomainBlockJobAbort(c.ref, c.x.Target.Dev, flags)
	})
}
