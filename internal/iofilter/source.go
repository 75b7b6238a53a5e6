package iofilter

import (
	"context"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/nbd"
)

// Source is an NBD export of a disk's content on this host: what a disk is
// served from whose format only its hypervisor's tools know. A source that does
// not answer makes guests' operations fail as a broken disk does, after
// sourceRetry or sourceTimeout; nothing waits longer.
type Source struct {
	// Socket is the unix socket of the NBD server. Empty: the content cannot be
	// reached before Filter.Reach says where.
	Socket string `json:"socket,omitempty"`
	Export string `json:"export,omitempty"` // its name; "" is the server's default
	Size   int64  `json:"size"`             // bytes
	// WriteThrough: the server keeps every write it acknowledged, whatever
	// happens to it. Without it the disk is of no use any more after a
	// connection broke before a flush.
	WriteThrough bool `json:"write_through,omitempty"`
}

// validateSource checks what a disk says of where its content is.
func (d *Disk) validateSource(object string) error {
	switch s := d.Source; {
	case s == nil && d.Mirror:
		return invalid(object, "set source", "a mirrored disk is read through an export, and none is named")
	case s == nil:
	case s.Size <= 0 || s.Size > dr.MaxDiskSize:
		return invalid(object, "set source.size to the bytes the guest sees", "%d is no size for a disk", s.Size)
	case len(s.Socket) > maxSocketPath:
		return invalid(object, "choose a shorter directory", "the source's socket has a path longer than %d bytes", maxSocketPath)
	case s.Socket != "" && s.Socket == d.Socket:
		return invalid(object, "name the socket of the disk's content", "the disk's own socket cannot be its source")
	}
	return nil
}

// primary is a disk's content: a nbd.File, or a nbd.Remote.
type primary interface {
	nbd.Disk
	Flush() error
	Close() error
}

// openPrimary opens a disk's content. Errors: those of nbd.OpenFile; Invalid.
func (p *port) openPrimary() (err error) {
	c := &p.conf
	if c.Source == nil {
		if p.file, err = nbd.OpenFile(c.Path, nbd.FileOptions{Direct: c.Direct}); err == nil {
			p.primary = p.file
		}
		return err
	}
	o := nbd.RemoteOptions{Network: "unix", Address: c.Source.Socket, Export: c.Source.Export, Size: c.Source.Size,
		WriteThrough: c.Source.WriteThrough, Retry: sourceRetry, Timeout: sourceTimeout}
	if c.Mirror {
		o.Timeout = mirrorTimeout
	}
	if p.remote, err = nbd.NewRemote(o); err == nil {
		p.primary = p.remote
	}
	return err
}

// Reach says where the content of a disk that has a Source is reached from now
// on, or, with an empty socket, that it cannot be; then nothing of it is copied
// until it can. Another size is taken in as Resize does.
//
// Errors: NotFound; Invalid (the disk has no Source, or the size is none);
// Unavailable, as of Resize.
func (f *Filter) Reach(_ context.Context, id dr.DiskID, s Source) error {
	const op = "iofilter.Reach"
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
	if p.remote == nil {
		return errs.New(op, errs.Invalid, p.conf.Name, "the disk is served from its path")
	}
	c := p.conf
	s.WriteThrough = c.Source.WriteThrough
	c.Source = &s
	if err := c.validateSource(c.Name); err != nil {
		return err
	}
	if s.Size != p.remote.Size() {
		err = f.remeasure(p, func() error {
			p.remote.Move(s.Socket, s.Export)
			return p.remote.Resize(s.Size)
		})
		if err != nil {
			return err
		}
	}
	p.remote.Move(s.Socket, s.Export)
	p.conf = c
	f.cfg.VMs = withSource(f.cfg.VMs, id, &s)
	p.disk.setAway(s.Socket == "")
	return nil
}

// withSource returns vms with a disk's source replaced.
func withSource(vms []VM, id dr.DiskID, s *Source) []VM {
	out := make([]VM, len(vms))
	for i, vm := range vms {
		out[i] = vm
		out[i].Disks = append([]Disk(nil), vm.Disks...)
		for j := range out[i].Disks {
			if d := &out[i].Disks[j]; d.ID == id {
				d.Source = s
			}
		}
	}
	return out
}

// setAway notes whether the disk's content cannot be reached.
func (d *disk) setAway(yes bool) {
	d.out.mu.Lock()
	defer d.out.unlock()
	d.away, d.retryAt, d.readError = yes, 0, nil
	signal(d.out.syncKick)
	d.out.restateLocked()
}

// mirrored stands below the tap of a disk whose hypervisor writes to the disk
// itself, and here besides: what arrives is captured and written nowhere.
//
// That the log ends with what the disk holds rests on one property of QEMU's
// write-blocking mirror (block/mirror.c, bdrv_mirror_top_do_write): a write W
// is on the disk before it is sent here, and overlapping ones go one after the
// other. So, for a block that W touches:
//
//   - W holds the block's range lock from its arrival until it is in the
//     stream, or the block is marked dirty. Nothing is read in between but by W
//     itself.
//   - A read R of the block by the cursor, or by an odd write for its edges,
//     holds that lock too. Either W arrived before R began: then the disk had W
//     when R read, and R holds it. Or W arrives after R is in the stream: then
//     W follows R there, whether R had seen it or not.
//
// In both cases the last record of the block holds W; so it does for the last
// write of all. If R saw a W that had not arrived yet, a cut between the two
// shows a write that was under way, as a crash of the host might.
//
// A write that was on the disk before the mirror began arrives never. So such a
// disk is read only once the mirror stands (Reach), and all of it is copied, or
// compared, from then on. For the same reason it has no sidecar: a write may be
// on the disk before its region could be opened.
//
// QEMU may wait for a write at this export before it answers a read of the
// source, when it drains a disk to pause the VM, and the write waits for that
// read's range: mirrorTimeout ends that; the cursor tries again, and an odd
// write's blocks are marked dirty.
type mirrored struct{ source nbd.Device }

// Submit completes writes as if they were done; reads go to the source.
func (m *mirrored) Submit(op *nbd.Op) {
	switch op.Kind {
	case nbd.Read:
		m.source.Submit(op)
	case nbd.Flush:
		op.Complete(nil) // the hypervisor flushes its own disk
	default:
		if (op.Offset|op.Length)%dr.BlockSize == 0 {
			op.Complete(nil)
			return
		}
		go op.Complete(nil) // its edges are read, which the connection's others need not wait for
	}
}
