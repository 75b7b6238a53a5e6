package libvirt

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"io"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// ID returns the VM's identity.
func (v *vm) ID() dr.VMID { return v.id }

// Name returns the VM's name.
func (v *vm) Name() string { return v.name }

// Status returns the state now.
func (v *vm) Status() hypervisor.Status { return v.life.Status() }

// Serial returns the serial port's socket, or "".
func (v *vm) Serial() string {
	if r := v.record(); r.Serial {
		return serialPath(r.Dir)
	}
	return ""
}

// Monitor returns "": a Platform of the same daemon finds the VM.
func (v *vm) Monitor() string { return "" }

// Events returns the VM's events.
func (v *vm) Events() <-chan hypervisor.Event { return v.life.Events() }

// Wait returns the final status once there is one.
func (v *vm) Wait(ctx context.Context) (hypervisor.Status, error) {
	return v.life.WaitOr(ctx, v.letGone)
}

// alive refuses for a VM that has ended, or is somebody else's by now.
func (v *vm) alive(op string) error {
	if v.isLetGone() {
		return errs.New(op, errs.Unavailable, v.name, "the provider was closed and let go of the VM")
	}
	if s := v.Status(); s.State.Final() {
		return errs.New(op, errs.Conflict, v.name, "the VM is "+s.State.String()+": "+s.Reason)
	}
	return nil
}

// Pause halts the processors.
func (v *vm) Pause(ctx context.Context) error {
	const op = "libvirt.Pause"
	if err := v.alive(op); err != nil || v.Status().State == hypervisor.Paused {
		return err
	}
	err := v.toggle(ctx, op, func(l *golibvirt.Libvirt) error { return l.DomainSuspend(v.ref) })
	return v.unlessOver(op, err)
}

// Resume lets a Paused VM run.
func (v *vm) Resume(ctx context.Context) error {
	const op = "libvirt.Resume"
	if err := v.alive(op); err != nil || v.Status().State != hypervisor.Paused {
		return err
	}
	return v.unlessOver(op, v.goOn(ctx))
}

// unlessOver says that a command failed because the VM ended, when it did.
func (v *vm) unlessOver(op string, err error) error {
	if err == nil {
		return nil
	}
	if over := v.alive(op); over != nil {
		return over
	}
	return err
}

// Stop asks the guest to shut down.
func (v *vm) Stop(ctx context.Context, opt hypervisor.StopOptions) error {
	if v.isLetGone() {
		return v.alive("libvirt.Stop")
	}
	err := v.life.Orderly(ctx, v.name, opt, func(ctx context.Context) error {
		err := tell(ctx, v.p.conn, "libvirt.Stop", v.name, func(l *golibvirt.Libvirt) error {
			return l.DomainShutdownFlags(v.ref, golibvirt.DomainShutdownAcpiPowerBtn)
		})
		if isGone(err) {
			return nil // it may just have ended: the event tells
		}
		return err
	})
	if err != nil && opt.Force && ctx.Err() == nil {
		return v.Kill(ctx)
	}
	return err
}

// Kill ends the VM and waits for it to be gone.
func (v *vm) Kill(ctx context.Context) error {
	const op = "libvirt.Kill"
	if v.isLetGone() {
		return v.alive(op)
	}
	if v.Status().State.Final() {
		return nil
	}
	v.killed.Store(true)
	if err := v.destroy(ctx); err != nil {
		return err
	}
	_, err := v.Wait(ctx)
	return err
}

// destroy has libvirt end the VM.
func (v *vm) destroy(ctx context.Context) error {
	err := tell(ctx, v.p.conn, "libvirt.Kill", v.name, func(l *golibvirt.Libvirt) error {
		return l.DomainDestroyFlags(v.ref, golibvirt.DomainDestroyDefault)
	})
	if isGone(err) {
		return nil
	}
	return err
}

// handle is the live driver's view of the VM.
func (v *vm) handle() *liveVM {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.p.live.handle(v.ref)
}

// targetOf returns libvirt's name of the disk with a device alias, or the alias.
func (v *vm) targetOf(alias string) string {
	ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
	defer cancel()
	if w, err := v.handle().describe(ctx); err == nil {
		for _, x := range w.disks() {
			if x.Alias.Name == alias {
				return x.Target.Dev
			}
		}
	}
	return alias
}

// place finds a disk of the run in libvirt's description and in QEMU.
func (v *vm) place(ctx context.Context, d runDisk) (x *diskXML, nodes map[string]blockNode, err error) {
	h := v.handle()
	w, err := h.describe(ctx)
	if err != nil {
		return nil, nil, err
	}
	if x = w.disk(d.Target); x == nil {
		return nil, nil, errs.New("libvirt.place", errs.NotFound, v.name+" "+d.Name, "libvirt does not know the disk")
	}
	nodes, err = h.blockNodes(ctx)
	return x, nodes, err
}

// slipIn puts the export in front of the image libvirt knows, before the guest
// runs.
func (v *vm) slipIn(ctx context.Context, d runDisk) error {
	x, nodes, err := v.place(ctx, d)
	if err != nil {
		return err
	}
	h := v.handle()
	top, err := h.topNode(ctx, x)
	if err != nil {
		return err
	}
	like := nodes[top]
	if err := h.addExport(ctx, record{Name: d.Target, Socket: d.Socket, Export: d.Export}, like, true, reconnectSeconds); err != nil {
		return err
	}
	return v.put(ctx, x, top, like, ownName(d.Target))
}

// put puts the guest's disk on a node: by way of libvirt's format node, or of
// the device where libvirt leaves out nodes of format raw.
func (v *vm) put(ctx context.Context, x *diskXML, top string, like blockNode, node string) error {
	if top == x.formatNode() {
		return v.handle().reopen(ctx, like, node, true)
	}
	return v.handle().plug(ctx, x, node)
}

// SwitchDisk moves a disk from its export to its image, as hypervisor.VM
// promises: QEMU has had the image open all the while, and libvirt has known no
// other.
func (v *vm) SwitchDisk(ctx context.Context, disk dr.DiskID) (hypervisor.Switch, error) {
	const op = "libvirt.SwitchDisk"
	select {
	case <-v.turn:
		defer func() { v.turn <- struct{}{} }()
	case <-ctx.Done():
		return hypervisor.Switch{}, errs.E(op, errs.Canceled, v.name, context.Cause(ctx))
	}
	found := v.record().disk(disk)
	if found == nil {
		return hypervisor.Switch{}, errs.New(op, errs.NotFound, v.name+" "+disk.String(), "the VM has no such disk")
	}
	d := *found
	if err := v.alive(op); err != nil {
		return hypervisor.Switch{}, err
	}
	switch {
	case ctx.Err() != nil:
		return hypervisor.Switch{}, errs.E(op, errs.Canceled, v.name, context.Cause(ctx))
	case d.State == onImage:
		return hypervisor.Switch{Route: "none"}, nil
	case d.Path == "":
		return hypervisor.Switch{}, errs.New(op, errs.Conflict, v.name+" "+d.Name, "the disk has no image besides its export")
	}
	if err := hypervisor.CheckImage(d.Path, d.Name, d.Size); err != nil {
		return hypervisor.Switch{}, err
	}
	sw, err := v.slipOut(ctx, d)
	if err != nil {
		return hypervisor.Switch{}, errs.E(op, errs.Internal, v.name+" "+d.Name, err)
	}
	v.log.Info("disk switched to its image", "disk", d.Name, "pause", sw.Pause)
	return sw, nil
}

// slipOut takes the export away again. Each step may find itself done by a
// provider that was killed behind it.
func (v *vm) slipOut(ctx context.Context, d runDisk) (sw hypervisor.Switch, err error) {
	x, nodes, err := v.place(ctx, d)
	if err != nil {
		return sw, err
	}
	top, err := v.handle().topNode(ctx, x)
	if err != nil {
		return sw, err
	}
	// From here on it is finished, or undone, whatever the caller does.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	sw.Route = "none"
	if nodes[ownName(d.Target)].Name != "" {
		begin := time.Now()
		if err := v.put(ctx, x, top, nodes[top], x.storageNode()); err != nil {
			return sw, err
		}
		sw.Pause, sw.Route = time.Since(begin), "reopen"
		if top != x.formatNode() {
			sw.Route = "qom-set"
		}
		if err := v.handle().drop(ctx, ownName(d.Target)); err != nil {
			return sw, err
		}
	}
	next := *v.record()
	next.Disks = append([]runDisk(nil), next.Disks...)
	for i := range next.Disks {
		if next.Disks[i].Target == d.Target {
			next.Disks[i].State = onImage
		}
	}
	return sw, v.write(ctx, &next)
}

// Screenshot returns what the guest shows, as hypervisor.VM promises.
func (v *vm) Screenshot(ctx context.Context) ([]byte, error) {
	const op = "libvirt.Screenshot"
	if err := v.alive(op); err != nil {
		return nil, err
	}
	if !v.record().Screen {
		return nil, errs.New(op, errs.Conflict, v.name, "the VM was started without a screen")
	}
	// On a connection of its own: the client leaves a stream open at the daemon,
	// and one that is broken off confuses what follows.
	c := newConn(Options{Socket: v.p.opt.Socket, URI: v.p.opt.URI})
	defer c.close()
	b, err := ask(ctx, c, op, v.name, func(l *golibvirt.Libvirt) ([]byte, error) {
		picture := &bounded{left: hypervisor.MaxScreenshot}
		_, err := l.DomainScreenshot(v.ref, picture, 0, 0)
		if code(err) == 0 && picture.Len() > 0 {
			// The client looks for the answer's words, the picture's sort, behind the
			// stream, where there are none. Whether all of the picture came, the
			// picture tells.
			err = nil
		}
		return picture.Bytes(), err
	})
	if err == nil {
		b, err = asPNG(b)
	}
	if err != nil {
		return nil, v.unlessOver(op, errs.E(op, errs.Unavailable, v.name, err))
	}
	return b, nil
}

// bounded keeps what is written to it, up to a bound.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, io.ErrShortBuffer
	}
	return b.Buffer.Write(p)
}

// asPNG returns a picture that libvirt sent, a PNG or a PPM, as a PNG.
func asPNG(b []byte) ([]byte, error) {
	c, err := png.DecodeConfig(bytes.NewReader(b))
	if err == nil {
		if c.Width < 1 || c.Height < 1 || c.Height > hypervisor.MaxScreenshot/4/c.Width {
			return nil, fmt.Errorf("a picture of %d by %d", c.Width, c.Height)
		}
		_, err = png.Decode(bytes.NewReader(b)) // it may have been cut short
		return b, err
	}
	picture, err := decodePPM(b)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = png.Encode(&out, picture)
	return out.Bytes(), err
}
