package libvirt

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// FailOpen takes the guest back to its own disk when the export is dead.
//
// QEMU will not take a dead node out of a path by any command that flushes it
// first, nor by any other while requests wait there. Where the disk says
// error_policy='stop' they do not wait: they failed and stopped the VM. The
// device is put on a fresh node for the disk, which asks nothing of the dead
// one, and the VM goes on and repeats them there. Elsewhere their failure would
// reach the guest, so another server answers them first, in the dead one's
// place. Then, with the guest running, libvirt's own nodes are made again over
// the disk under their old names, for whatever libvirt does next.
func (v *liveVM) FailOpen(ctx context.Context, disk string) (hypervisor.Switch, error) {
	c, err := v.begin(ctx, "libvirt.FailOpen", disk)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	defer c.done()
	defer v.endRead(ctx, disk)
	c.dead = true
	if c.rec == nil {
		return hypervisor.Switch{Route: "none"}, nil
	}
	var sw hypervisor.Switch
	switch at := c.w.standing(c.x); {
	case !c.w.active || at == alone || at == mirrored:
		sw, err = c.leave(ctx)
	case at == opened:
		return hypervisor.Switch{Route: "none"}, nil
	default:
		sw, err = c.open(ctx, at)
	}
	if err != nil {
		return hypervisor.Switch{}, errs.E(c.op, errs.Internal, c.name+" "+disk, err)
	}
	v.p.log.Warn("failed open", "vm", v.id, "disk", disk, "route", sw.Route, "pause", sw.Pause)
	return sw, nil
}

// open takes the guest past a dead export.
func (c *change) open(ctx context.Context, at standing) (hypervisor.Switch, error) {
	r := *c.rec
	orig, err := r.original()
	if err != nil {
		return hypervisor.Switch{}, err
	}
	top, like, err := c.top(ctx)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	sw := hypervisor.Switch{Route: "qom-set"}
	if !c.x.stops() {
		sw.Route = "stand-in"
	}
	begin := time.Now()
	bridge := ownName(r.Name) + "-open"
	if top != bridge { // else an earlier try came this far
		if err := c.bridge(ctx, orig, like, bridge); err != nil {
			return sw, err
		}
	}
	if err := c.goOn(ctx); err != nil {
		return sw, err
	}
	sw.Pause = time.Since(begin)
	// The guest runs. A caller that goes away now must not leave the rest.
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if err := c.rebuild(rest, at, orig, like, bridge); err != nil {
		return sw, err
	}
	if err := c.defineOriginal(rest, c.w, r); err != nil {
		return sw, err
	}
	if at == behind { // the XML showed the disk all the time
		return sw, c.forget(rest)
	}
	r.State = failedOpen
	return sw, c.remember(rest, r)
}

// bridge puts the device on fresh nodes for the disk.
func (c *change) bridge(ctx context.Context, orig *diskXML, like blockNode, name string) error {
	for _, left := range []string{name, name + "-file"} { // of an earlier try
		if err := c.drop(ctx, left); err != nil {
			return err
		}
	}
	if err := c.addLocal(ctx, name+"-file", orig, like, c.x.Driver.IO); err != nil {
		return err
	}
	if err := c.qmp(ctx, "blockdev-add", like.raw(name, name+"-file", c.x.unmaps()), nil); err != nil {
		return err
	}
	if !c.x.stops() && hypervisor.Greeted(ctx, c.rec.Socket) != nil {
		end, err := c.standIn(ctx, orig)
		if err != nil {
			return err
		}
		defer end()
		return c.plug(ctx, c.x, name)
	}
	if c.x.stops() { // else another server answers there already
		if err := c.yank(ctx); err != nil {
			return err
		}
	}
	return c.plug(ctx, c.x, name)
}

// standIn answers in the dead export's place, with the disk itself, until end
// is called. QEMU tries the socket again after 1, 2, 4… seconds.
func (c *change) standIn(ctx context.Context, orig *diskXML) (end func(), err error) {
	driver := "file"
	if orig.Type == "block" {
		driver = "host_device"
	}
	if err := os.Remove(c.rec.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errs.E(c.op, errs.Unavailable, c.rec.Socket, err)
	}
	image := "driver=raw,file.driver=" + driver + ",file.locking=off,file.cache.direct=on,file.filename=" +
		strings.ReplaceAll(orig.path(), ",", ",,")
	cmd := exec.CommandContext(ctx, "qemu-nbd", "--persistent", "--socket", c.rec.Socket, "--export-name", c.rec.Export,
		"--image-opts", image)
	if err := cmd.Start(); err != nil {
		return nil, errs.E(c.op, errs.Unavailable, "qemu-nbd", err).WithRemedy("install it: apt-get install qemu-utils")
	}
	return func() {
		_ = cmd.Process.Kill() // it has ended, or does now
		_ = cmd.Wait()
		_ = os.Remove(c.rec.Socket) // of nobody
	}, nil
}

// yank cuts the connection of a server that hangs: both our node's and
// libvirt's, of which one is in use.
func (c *change) yank(ctx context.Context) error {
	nodes, err := c.blockNodes(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{ownName(c.x.Target.Dev), c.x.storageNode()} {
		if nodes[name].Driver != "nbd" {
			continue
		}
		instance := object{"type": "block-node", "node-name": name}
		if err := c.qmp(ctx, "yank", object{"instances": []object{instance}}, nil); err != nil {
			return err
		}
	}
	return nil
}

// goOn lets a VM run that had stopped on its disk's errors. One that somebody
// else paused stays so.
func (c *change) goOn(ctx context.Context) error {
	tick := time.NewTicker(resumeTick)
	defer tick.Stop()
	for {
		var s struct {
			Status string `json:"status"`
		}
		if err := c.qmp(ctx, "query-status", nil, &s); err != nil {
			return err
		}
		if s.Status != "io-error" {
			return nil
		}
		err := tell(ctx, c.p.conn, c.op, c.name, func(l *golibvirt.Libvirt) error { return l.DomainResume(c.ref) })
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errs.E(c.op, errs.Canceled, c.name, context.Cause(ctx))
		}
	}
}

// rebuild makes libvirt's own nodes again, over the disk, and puts the device
// on them. Where the XML shows the disk its storage node is still there, and
// right.
func (c *change) rebuild(ctx context.Context, at standing, orig *diskXML, like blockNode, bridge string) error {
	format, storage := c.x.formatNode(), c.x.storageNode()
	nodes, err := c.blockNodes(ctx)
	if err != nil {
		return err
	}
	// Nothing waits at the dead export any more: QEMU need not be patient with
	// it while its nodes are closed.
	if err := c.yank(ctx); err != nil {
		return err
	}
	hasFormat := nodes[format].Name != ""
	if hasFormat {
		if err := c.drop(ctx, format); err != nil {
			return err
		}
	}
	if err := c.drop(ctx, ownName(c.x.Target.Dev)); err != nil {
		return err
	}
	if at == inXML {
		if err := c.drop(ctx, storage); err != nil {
			return err
		}
		if err := c.addLocal(ctx, storage, orig, like, c.x.Driver.IO); err != nil {
			return err
		}
	}
	top := storage
	if hasFormat {
		top = format
		if err := c.qmp(ctx, "blockdev-add", like.raw(format, storage, c.x.unmaps()), nil); err != nil {
			return err
		}
	}
	if err := c.plug(ctx, c.x, top); err != nil {
		return err
	}
	if err := c.drop(ctx, bridge); err != nil {
		return err
	}
	return c.drop(ctx, bridge+"-file")
}
