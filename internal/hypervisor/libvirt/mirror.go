package libvirt

import (
	"context"
	"path/filepath"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// exported is an export of a disk's content that Prepare had QEMU make.
type exported struct {
	vm     *liveVM
	disk   string
	source hypervisor.Source
}

// Prepare says where an export gets a disk's content.
func (v *liveVM) Prepare(ctx context.Context, disk string, k hypervisor.Capture) (hypervisor.Source, error) {
	c, err := v.begin(ctx, "libvirt.Prepare", disk)
	if err != nil {
		return hypervisor.Source{}, err
	}
	defer c.done()
	if words := c.x.problem(); words != "" && c.w.standing(c.x) == alone {
		return hypervisor.Source{}, c.refuse(errs.Invalid, "%s", words)
	}
	if k == hypervisor.Mirror {
		return c.export(ctx)
	}
	if c.w.standing(c.x) != alone {
		orig, err := c.rec.original()
		if err != nil {
			return hypervisor.Source{}, err
		}
		return hypervisor.Source{Path: orig.path()}, nil
	}
	if err := c.suitsInPath(); err != nil {
		return hypervisor.Source{}, err
	}
	return hypervisor.Source{Path: c.x.path()}, nil
}

// export has the VM's own QEMU serve the disk's content, for reading: nobody
// else can read an image while the guest writes it.
func (c *change) export(ctx context.Context) (hypervisor.Source, error) {
	name := c.x.Target.Dev
	key := c.id.String() + "/" + name
	c.p.mu.Lock()
	e, known := c.p.reads[key]
	c.p.mu.Unlock()
	if known {
		if on, err := c.exports(ctx); err == nil && on[ownName(name)] {
			return e.source, nil
		}
	}
	if !c.w.active {
		return hypervisor.Source{}, c.refuse(errs.Conflict, "the VM is powered off").WithRemedy("start it first")
	}
	top, _, err := c.top(ctx)
	if err != nil {
		return hypervisor.Source{}, err
	}
	e = exported{vm: c.liveVM, disk: name, source: hypervisor.Source{Socket: c.readSocket(), Export: name}}
	if len(e.source.Socket) > maxSocketPath {
		return hypervisor.Source{}, c.refuse(errs.Invalid, "%s is too long for a unix socket's path", e.source.Socket).
			WithRemedy("choose a run directory with a shorter path")
	}
	if err := c.serve(ctx, e, top); err != nil {
		return hypervisor.Source{}, errs.E(c.op, errs.Internal, c.name+" "+name, err)
	}
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.p.reads[key] = e
	return e.source, nil
}

// readSocket is where a VM's QEMU serves its disks.
func (v *liveVM) readSocket() string { return filepath.Join(v.p.opt.RunDir, v.id.String()+".nbd") }

// serve starts QEMU's NBD server, of which there is one a VM, and the export.
func (c *change) serve(ctx context.Context, e exported, node string) error {
	on, err := c.exports(ctx)
	if err != nil {
		return err
	}
	if on[ownName(e.disk)] {
		return nil // of a driver that died
	}
	if len(on) == 0 {
		addr := object{"type": "unix", "data": object{"path": e.source.Socket}}
		err := c.qmp(ctx, "nbd-server-start", object{"addr": addr}, nil)
		if err != nil { // a server without exports, of a driver that died; or libvirt's own, which then has it
			if e := c.qmp(ctx, "nbd-server-stop", nil, nil); e != nil {
				return err
			}
			if err = c.qmp(ctx, "nbd-server-start", object{"addr": addr}, nil); err != nil {
				return err
			}
		}
	}
	return c.qmp(ctx, "block-export-add", object{
		"type": "nbd", "id": ownName(e.disk), "node-name": node, "name": e.disk, "writable": false,
	}, nil)
}

// exports returns the names of what QEMU serves.
func (v *liveVM) exports(ctx context.Context) (map[string]bool, error) {
	var list []struct {
		ID string `json:"id"`
	}
	if err := v.qmp(ctx, "query-block-exports", nil, &list); err != nil {
		return nil, err
	}
	on := map[string]bool{}
	for _, e := range list {
		on[e.ID] = true
	}
	return on, nil
}

// endRead ends what Prepare started for a disk, if it did. A failure is only
// told of: the export is for reading, and goes with the VM.
func (v *liveVM) endRead(ctx context.Context, disk string) {
	key := v.id.String() + "/" + disk
	v.p.mu.Lock()
	_, known := v.p.reads[key]
	delete(v.p.reads, key)
	v.p.mu.Unlock()
	if !known {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	err := v.qmp(ctx, "block-export-del", object{"id": ownName(disk), "mode": "hard"}, nil)
	if err == nil {
		var on map[string]bool
		if on, err = v.exports(ctx); err == nil && len(on) == 0 {
			err = v.qmp(ctx, "nbd-server-stop", nil, nil)
		}
	}
	if err != nil && !errs.Is(err, errs.NotFound) {
		v.p.log.Warn("export for reading not ended", "vm", v.id, "disk", disk, "err", err)
	}
}

// endReads ends all that Prepare started.
func (p *Platform) endReads(ctx context.Context) {
	p.mu.Lock()
	var all []exported
	for _, e := range p.reads {
		all = append(all, e)
	}
	p.mu.Unlock()
	for _, e := range all {
		e.vm.endRead(ctx, e.disk)
	}
}

// startMirror has QEMU write to the export whatever the guest writes, before
// the guest is answered. The job is QEMU's alone: libvirt would end one of its
// own, and shows and stops none that it did not start.
func (c *change) startMirror(ctx context.Context, r record) (hypervisor.Switch, error) {
	top, like, err := c.top(ctx)
	if err != nil {
		return hypervisor.Switch{}, err
	}
	// No waiting for an export that is away: the job ends, and the guest goes on.
	if err := c.addExport(ctx, r, like, false, 0); err != nil {
		return hypervisor.Switch{}, err
	}
	begin := time.Now()
	err = c.qmp(ctx, "blockdev-mirror", object{
		"job-id": ownName(r.Name), "device": top, "target": ownName(r.Name), "filter-node-name": ownName(r.Name) + "-tap",
		"sync": "none", "copy-mode": "write-blocking", "auto-dismiss": true,
	}, nil)
	return hypervisor.Switch{Pause: time.Since(begin), Route: routeMirror}, err
}

// endMirror ends the job, if it still runs, and waits for its end.
func (c *change) endMirror(ctx context.Context) (hypervisor.Switch, error) {
	node := ownName(c.x.Target.Dev)
	if err := c.yankMirror(ctx, node); err != nil {
		return hypervisor.Switch{}, err
	}
	begin := time.Now()
	// Not by force, but where the export is dead: a job that is level ends in
	// its orderly way when it is cancelled, and the disk stays where it is.
	err := c.qmp(ctx, "block-job-cancel", object{"device": node, "force": c.dead}, nil)
	tick := time.NewTicker(resumeTick)
	defer tick.Stop()
	for {
		jobs, e := c.blockJobs(ctx)
		if e != nil {
			return hypervisor.Switch{}, e
		}
		if !jobs[node] {
			break
		}
		if err != nil { // it runs and cannot be ended
			return hypervisor.Switch{}, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return hypervisor.Switch{}, errs.E(c.op, errs.Canceled, c.name, context.Cause(ctx))
		}
	}
	return hypervisor.Switch{Pause: time.Since(begin), Route: routeMirror}, c.drop(ctx, node)
}

// yankMirror cuts the job's connection after a fail-open, so that writes under
// way end.
func (c *change) yankMirror(ctx context.Context, node string) error {
	if !c.dead {
		return nil
	}
	instance := object{"type": "block-node", "node-name": node}
	err := c.qmp(ctx, "yank", object{"instances": []object{instance}}, nil)
	if errs.Is(err, errs.Conflict) {
		err = nil // it is closed already
	}
	return err
}
