package libvirt

import (
	"context"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// liveVM is a handle of one VM; it holds nothing that the daemon does not.
type liveVM struct {
	p    *Platform
	id   dr.VMID
	name string // when the handle was made; for messages
	ref  golibvirt.Domain
}

var _ hypervisor.LiveVM = (*liveVM)(nil)

// view is a VM as it was a moment ago.
type view struct {
	*vmXML
	active     bool // it has a process
	paused     bool // active, and its processors are halted
	persistent bool // it has a definition, which outlives the process
	nodes      map[string]blockNode
	jobs       map[string]bool
}

// Where a disk's guest reads and writes, against what the XML says.
type standing uint8

const (
	alone    standing = iota // on its own disk, as the XML says
	inXML                    // on the export, as the XML says
	behind                   // on the export; the XML shows the disk
	mirrored                 // on its own disk, and QEMU writes to the export as well
	opened                   // on its own disk after a fail-open; the XML shows the export
)

// look asks what the VM is now. Kinds: NotFound, Unavailable, Corrupt, Canceled.
func (v *liveVM) look(ctx context.Context) (*view, error) {
	const op = "libvirt.Info"
	type facts struct {
		xml                string
		active, persistent int32
		state              int32
	}
	f, err := ask(ctx, v.p.conn, op, v.name, func(l *golibvirt.Libvirt) (f facts, err error) {
		if f.active, err = l.DomainIsActive(v.ref); err != nil {
			return f, err
		}
		if f.persistent, err = l.DomainIsPersistent(v.ref); err != nil {
			return f, err
		}
		if f.state, _, err = l.DomainGetState(v.ref, 0); err != nil {
			return f, err
		}
		f.xml, err = l.DomainGetXMLDesc(v.ref, 0)
		return f, err
	})
	if err != nil {
		return nil, err
	}
	d, err := parseVM(f.xml)
	if err != nil {
		return nil, err
	}
	w := &view{vmXML: d, active: f.active != 0, persistent: f.persistent != 0}
	w.paused = w.active && golibvirt.DomainState(f.state) != golibvirt.DomainRunning
	if w.active && w.hidden() {
		// Behind libvirt's back: only QEMU knows. What it is asked taints the
		// VM, so it is asked where we have been before, and nowhere else.
		if w.nodes, err = v.blockNodes(ctx); err == nil {
			w.jobs, err = v.blockJobs(ctx)
		}
	}
	return w, err
}

// hidden reports whether something may have been done to a disk that the XML
// does not show.
func (w *view) hidden() bool {
	p := w.Metadata.Protection
	for _, x := range w.disks() {
		if r := p.find(x.Target.Dev); r != nil && r.Route != routeCopy && x.Source.socket() == "" {
			return true
		}
	}
	return false
}

// standing says where the guest's disk x is.
func (w *view) standing(x *diskXML) standing {
	r := w.Metadata.Protection.find(x.Target.Dev)
	node, socket := ownName(x.Target.Dev), x.Source.socket()
	switch {
	case r == nil:
		return alone
	case socket != "" && w.active && (r.State == failedOpen || socket != r.Socket):
		return opened
	case socket != "":
		return inXML
	case w.jobs[node]:
		return mirrored
	case w.nodes[node].Name != "" && r.Route != routeMirror:
		return behind
	}
	return alone // the VM was started again since, or a step never came to be
}

// Info is what the VM is now.
func (v *liveVM) Info(ctx context.Context) (hypervisor.VMInfo, error) {
	w, err := v.look(ctx)
	if err == nil && w.Metadata.Protection.halted() != "" {
		w, err = v.unhalted(ctx, w)
	}
	if err != nil {
		return hypervisor.VMInfo{}, err
	}
	return v.info(ctx, w)
}

// unhalted has a VM go on that a driver stopped which is gone, and looks again.
// It waits for one that is at work.
func (v *liveVM) unhalted(ctx context.Context, w *view) (*view, error) {
	c, err := v.begin(ctx, "libvirt.Info", w.Metadata.Protection.halted())
	if err != nil {
		return nil, err
	}
	c.done()
	return v.look(ctx)
}

// info completes a view with the sizes of its disks.
func (v *liveVM) info(ctx context.Context, w *view) (hypervisor.VMInfo, error) {
	info := hypervisor.VMInfo{Config: w.config(), Running: w.active, Paused: w.paused, Agent: w.agent(), Place: w.Metadata.Place.place()}
	for i, x := range w.disks() {
		d, err := v.liveDisk(ctx, w, x)
		if err != nil {
			return hypervisor.VMInfo{}, err
		}
		info.Disks = append(info.Disks, d)
		info.Config.Disks[i].Size = d.Size
	}
	return info, nil
}

// liveDisk says what a disk is, as if nothing of ours were in front of it.
func (v *liveVM) liveDisk(ctx context.Context, w *view, x *diskXML) (hypervisor.LiveDisk, error) {
	d := hypervisor.LiveDisk{
		Name: x.Target.Dev, Path: x.path(), Format: x.format(),
		ReadOnly: x.ReadOnly != nil, Shared: x.Shareable != nil, Problem: x.problem(),
	}
	if w.Metadata.Run.onExport(x.Target.Dev) {
		d.Problem = stillRecovering
	}
	r := w.Metadata.Protection.find(x.Target.Dev)
	size, err := v.size(ctx, x.Target.Dev)
	switch {
	case err == nil:
		d.Size = size
	case errs.Is(err, errs.Canceled), errs.Is(err, errs.NotFound):
		return d, err
	case r != nil:
		d.Size = r.Size // an export nobody serves, and a VM that is off
	case d.Problem == "":
		d.Problem = "its size cannot be had: " + err.Error()
	}
	if at := w.standing(x); at != alone {
		orig, err := r.original()
		if err != nil {
			return d, err
		}
		d.Path, d.Format, d.Problem = orig.path(), orig.format(), ""
		if d.Attached = at != opened && r.State != attaching; d.Attached {
			d.Socket = r.Socket
		}
	}
	return d, nil
}

// size returns the bytes a guest sees of a disk.
func (v *liveVM) size(ctx context.Context, disk string) (int64, error) {
	return ask(ctx, v.p.conn, "libvirt.Info", v.name+" "+disk, func(l *golibvirt.Libvirt) (int64, error) {
		_, capacity, _, err := l.DomainGetBlockInfo(v.ref, disk, 0)
		if err == nil && capacity > dr.MaxDiskSize {
			err = errs.New("libvirt.Info", errs.Invalid, disk, "more bytes than a disk can have")
		}
		return int64(min(capacity, dr.MaxDiskSize)), err
	})
}

// save writes what we remember of the VM into its metadata: of the run, of the
// definition, or both, as there are.
func (v *liveVM) save(ctx context.Context, w *view, p *protection) error {
	text := golibvirt.OptString{}
	if s := p.String(); s != "" {
		text = golibvirt.OptString{s}
	}
	err := tell(ctx, v.p.conn, "libvirt.save", v.name, func(l *golibvirt.Libvirt) error {
		return l.DomainSetMetadata(v.ref, int32(golibvirt.DomainMetadataElement), text,
			golibvirt.OptString{metadataKey}, golibvirt.OptString{MetadataURI}, w.impact())
	})
	if errs.Is(err, errs.NotFound) && len(text) == 0 {
		err = nil // it was gone already
	}
	if err == nil {
		w.Metadata.Protection = p
	}
	return err
}

// impact says what of the VM there is to change.
func (w *view) impact() (flags golibvirt.DomainModificationImpact) {
	if w.active {
		flags |= golibvirt.DomainAffectLive
	}
	if w.persistent {
		flags |= golibvirt.DomainAffectConfig
	}
	return flags
}

// define changes one disk in the VM's definition, if it has one: edit gets the
// disk as defined and returns how it shall be. A disk the definition does not
// have is left out.
func (v *liveVM) define(ctx context.Context, w *view, disk string, edit func(*diskXML) (string, error)) error {
	const op = "libvirt.define"
	if !w.persistent {
		return nil
	}
	text, err := ask(ctx, v.p.conn, op, v.name, func(l *golibvirt.Libvirt) (string, error) {
		return l.DomainGetXMLDesc(v.ref, golibvirt.DomainXMLInactive|golibvirt.DomainXMLSecure)
	})
	if err != nil {
		return err
	}
	d, err := parseVM(text)
	if err != nil {
		return err
	}
	x := d.disk(disk)
	if x == nil {
		return nil
	}
	changed, err := edit(x)
	if err != nil {
		return err
	}
	return tell(ctx, v.p.conn, op, v.name+" "+disk, func(l *golibvirt.Libvirt) error {
		return l.DomainUpdateDeviceFlags(v.ref, changed, golibvirt.DomainDeviceModifyConfig)
	})
}

// defineExport makes the next start use the export. A disk that cannot be
// written then stops the VM instead of failing it: what can be helped must not
// reach the guest. And it does not unmap, so that a block copy can take the
// export out again: see mayCopy.
func (v *liveVM) defineExport(ctx context.Context, w *view, r record) error {
	return v.define(ctx, w, r.Name, func(x *diskXML) (string, error) {
		return x.rewrite("network", exportSource(r.Socket, r.Export), policy{WError: "stop", RError: "stop"})
	})
}

// defineOriginal makes the next start use the disk itself, as it was.
func (v *liveVM) defineOriginal(ctx context.Context, w *view, r record) error {
	return v.define(ctx, w, r.Name, func(x *diskXML) (string, error) {
		return x.rewrite(r.Type, r.Source, r.policy)
	})
}
