package live

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
)

// recordVersion is the form of the record this package writes and reads.
const recordVersion = 1

// Entry is a VM in the record.
type Entry struct {
	Config dr.VMConfig `json:"config"`
	Disks  []EntryDisk `json:"disks"`
}

// EntryDisk is one disk of an Entry: what is served, and what the platform
// calls it.
type EntryDisk struct {
	ID     dr.DiskID `json:"id"`
	Name   string    `json:"name"`   // as the platform and the Filter know it
	Path   string    `json:"path"`   // of the primary, or of the image it is in
	Socket string    `json:"socket"` // of the export
	Direct bool      `json:"direct,omitempty"`
	// Capture is how its writes are captured, in the words of
	// hypervisor.ParseCapture; empty: in its path.
	Capture string `json:"capture,omitempty"`
	// Size is set when the platform exports the disk's content, because the
	// Filter cannot serve it from Path: the bytes the guest sees. Where the
	// export is the platform says anew each time the disk is attached.
	Size int64 `json:"size,omitempty"`
	// Unseen: the guest may write, or have written, without the export in its
	// path since its copy was last known; the copy has to be compared.
	Unseen bool `json:"unseen,omitempty"`
	// Still: the guest has not run since somebody made the disk's sidecar true,
	// and does not before the export is in the disk's path: it is attached with
	// nothing to compare, if it is found to stand still. Gone once it is attached.
	Still bool `json:"still,omitempty"`
}

// still reports whether nothing was written to the disk past its sidecar, as far
// as the VM tells.
func (d *EntryDisk) still(info *hypervisor.VMInfo) bool { return d.Still && !d.Unseen && info.Paused }

// VM is the entry as the Filter takes it, with those of its disks that match.
func (e *Entry) VM(match func(iofilter.Disk) bool) iofilter.VM {
	vm := e.vm()
	vm.Disks = slices.DeleteFunc(vm.Disks, func(d iofilter.Disk) bool { return !match(d) })
	return vm
}

// vm is the entry as the Filter takes it.
func (e *Entry) vm() iofilter.VM {
	vm := iofilter.VM{Config: e.Config}
	for _, d := range e.Disks {
		f := iofilter.Disk{ID: d.ID, Name: d.Name, Path: d.Path, Socket: d.Socket, Direct: d.Direct, Unseen: d.Unseen, Held: d.Unseen}
		if d.exported() {
			s := d.source(hypervisor.Source{})
			f.Source, f.Mirror = &s, d.capture() == hypervisor.Mirror
		}
		vm.Disks = append(vm.Disks, f)
	}
	return vm
}

// exported reports whether the platform exports the disk's content.
func (d *EntryDisk) exported() bool { return d.Size != 0 }

// capture is Capture; a record that was read holds valid words only.
func (d *EntryDisk) capture() hypervisor.Capture {
	c, _ := hypervisor.ParseCapture(d.Capture)
	return c
}

// source is an export of the platform as the Filter takes it. What a platform
// exports for writing keeps every write: hypervisor.LiveVM says so.
func (d *EntryDisk) source(s hypervisor.Source) iofilter.Source {
	return iofilter.Source{Socket: s.Socket, Export: s.Export, Size: d.Size, WriteThrough: d.capture() == hypervisor.InPath}
}

// disk returns the entry's disk of a name, or nil.
func (e *Entry) disk(name string) *EntryDisk {
	i := slices.IndexFunc(e.Disks, func(d EntryDisk) bool { return d.Name == name })
	if i < 0 {
		return nil
	}
	return &e.Disks[i]
}

// clone copies the entry, so that a change of it can be given up.
func (e *Entry) clone() *Entry {
	c := *e
	c.Disks = slices.Clone(e.Disks)
	return &c
}

// attachment is what the platform is to attach for a disk.
func (d *EntryDisk) attachment() hypervisor.Attachment {
	return hypervisor.Attachment{Socket: d.Socket, Export: d.Name, Capture: d.capture()}
}

// target is the disk as the Filter knows it.
func (d *EntryDisk) target(vm dr.VMID) iofilter.Target {
	return iofilter.Target{VM: vm, Disks: []dr.DiskID{d.ID}}
}

// Record is what is protected, in a file. A Manager and, after it has killed
// the Manager's process, a Watchdog use it; not at the same time.
type Record struct {
	fs      durable.FS
	path    string
	entries []*Entry // in order of protection
}

// recordFile is the file's content.
type recordFile struct {
	Version int      `json:"version"`
	VMs     []*Entry `json:"vms"`
}

// OpenRecord reads the record at path; a file that is not there is an empty
// one. Errors: Corrupt, Invalid (of another version), those of
// durable.ReadFile.
func OpenRecord(fs durable.FS, path string) (*Record, error) {
	r := &Record{fs: fs, path: path}
	b, err := durable.ReadFile(fs, path, maxRecord)
	if errs.Is(err, errs.NotFound) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	r.entries, err = parseRecord(b, path)
	return r, err
}

// parseRecord decodes and validates a record.
func parseRecord(b []byte, path string) ([]*Entry, error) {
	const op = "live.OpenRecord"
	bad := func(k errs.Kind, err error) ([]*Entry, error) {
		return nil, errs.E(op, k, path, err).WithRemedy("remove the file and protect the VMs again")
	}
	var f recordFile
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&f); err != nil {
		return bad(errs.Corrupt, err)
	}
	if f.Version != recordVersion {
		return bad(errs.Invalid, fmt.Errorf("the record has version %d, not %d", f.Version, recordVersion))
	}
	vms, disks := map[dr.VMID]bool{}, map[dr.DiskID]bool{}
	for _, e := range f.VMs {
		if e == nil || e.Config.ID.IsZero() || vms[e.Config.ID] || len(e.Disks) == 0 {
			return bad(errs.Corrupt, errors.New("a VM without id or disks, or twice"))
		}
		vms[e.Config.ID] = true
		for _, d := range e.Disks {
			if d.ID.IsZero() || disks[d.ID] || d.Name == "" || d.Path == "" || d.Socket == "" {
				return bad(errs.Corrupt, errors.New("a disk without id, name, path or socket, or twice"))
			}
			c, known := hypervisor.ParseCapture(d.Capture)
			if !known || d.Size < 0 || d.Size > dr.MaxDiskSize || c == hypervisor.Mirror && !d.exported() {
				return bad(errs.Corrupt, errors.New("a disk with an unknown way of capture, or no size"))
			}
			disks[d.ID] = true
		}
	}
	return f.VMs, nil
}

// Entries returns the record's VMs.
func (r *Record) Entries() []Entry {
	var out []Entry
	for _, e := range r.entries {
		out = append(out, *e.clone())
	}
	return out
}

// find returns the entry of a VM, or nil.
func (r *Record) find(id dr.VMID) *Entry {
	i := slices.IndexFunc(r.entries, func(e *Entry) bool { return e.Config.ID == id })
	if i < 0 {
		return nil
	}
	return r.entries[i]
}

// put sets a VM's entry, or drops it when it has no disks; the file has it
// durably on return. On error the record is as it was.
func (r *Record) put(e *Entry) error {
	next := slices.DeleteFunc(slices.Clone(r.entries), func(o *Entry) bool { return o.Config.ID == e.Config.ID })
	if len(e.Disks) > 0 {
		next = append(next, e.clone())
	}
	return r.save(next)
}

func (r *Record) save(next []*Entry) error {
	b, err := json.MarshalIndent(recordFile{recordVersion, next}, "", "  ")
	if err != nil {
		return errs.E("live.Record", errs.Internal, r.path, err)
	}
	if len(b) > maxRecord {
		return errs.New("live.Record", errs.Full, r.path, "too many VMs for one host").WithRemedy("protect fewer")
	}
	if err := durable.WriteFile(r.fs, r.path, b); err != nil {
		return err
	}
	r.entries = next
	return nil
}

// markUnseen notes of all disks that match that their guests may write unseen
// from now on.
func (r *Record) markUnseen(match func(*EntryDisk) bool) error {
	changed := false
	next := make([]*Entry, len(r.entries))
	for i, e := range r.entries {
		next[i] = e.clone()
		for j := range next[i].Disks {
			if d := &next[i].Disks[j]; !d.Unseen && match(d) {
				d.Unseen, changed = true, true
			}
		}
	}
	if !changed {
		return nil
	}
	return r.save(next)
}

// change changes one disk of the record; one that is not there is left so.
func (r *Record) change(id dr.DiskID, do func(*EntryDisk)) error {
	for _, e := range r.entries {
		for i := range e.Disks {
			if e.Disks[i].ID == id {
				next := e.clone()
				do(&next.Disks[i])
				return r.put(next)
			}
		}
	}
	return nil
}

// Settled reports whether every disk of the record has been attached at least
// once, as those that are Still wait for. Safe beside the Manager that owns the
// file. Errors: those of OpenRecord.
func Settled(fs durable.FS, path string) (bool, error) {
	r, err := OpenRecord(fs, path)
	if err != nil {
		return false, err
	}
	for _, e := range r.entries {
		for _, d := range e.Disks {
			if d.Still || d.Unseen {
				return false, nil
			}
		}
	}
	return true, nil
}

// WriteRecord makes the record at path hold entries, for a host component that
// is started on VMs it has not protected before: what they hold is compared
// then. Durable on return. Errors: Corrupt when OpenRecord would refuse it, those
// of durable.WriteFile.
func WriteRecord(fs durable.FS, path string, entries []Entry) error {
	r := &Record{fs: fs, path: path}
	var next []*Entry
	for i := range entries {
		next = append(next, entries[i].clone())
	}
	if err := r.save(next); err != nil {
		return err
	}
	_, err := OpenRecord(fs, path)
	return err
}
