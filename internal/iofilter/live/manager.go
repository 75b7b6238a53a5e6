package live

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
)

// Host is what a Manager needs of the host component; iofilter.Filter is one.
type Host interface {
	Protect(ctx context.Context, vm iofilter.VM) error
	Unprotect(ctx context.Context, vm dr.VMID, disks []dr.DiskID, o iofilter.UnprotectOptions) (iofilter.Unprotected, error)
	Resize(ctx context.Context, disk dr.DiskID) error
	Reach(ctx context.Context, disk dr.DiskID, s iofilter.Source) error
	Hold(t iofilter.Target) error
	Reconfigure(c dr.VMConfig) error
	Vouch(t iofilter.Target, mode iofilter.SyncMode) error
	Status() iofilter.Status
}

// Config configures a Manager.
type Config struct {
	Platform hypervisor.Platform
	Host     Host
	Record   *Record
	Sockets  string // directory of the exports' sockets; the hypervisor must reach it
	Direct   bool   // primaries are opened past the page cache
	// LeaveNew keeps disks that are added to a protected VM out of protection;
	// by default they are protected when they appear.
	LeaveNew bool
	// Capture is how disks are captured of which Options say nothing.
	Capture hypervisor.Capture
	Logger  *slog.Logger // nil discards
}

// Manager protects running VMs. Make it with New and run it once. Safe for
// concurrent use; changes go one after the other.
type Manager struct {
	cfg Config
	log *slog.Logger
	mu  sync.Mutex // guards all below and cfg.Record, and orders all changes

	met     bool                  // the platform has had the time to reach all VMs that run
	sources map[dr.DiskID]reached // of exported disks
}

// New returns a Manager; nothing happens before Run.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, log: cfg.Logger, sources: map[dr.DiskID]reached{}}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	return m
}

// Options say how a VM is protected. The zero value protects all its disks.
type Options struct {
	Skip []string `json:"skip,omitempty"` // disks to leave out, by name
	// Capture is how the disks' writes are captured, in the words of
	// hypervisor.ParseCapture; empty: as Config.Capture says.
	Capture string `json:"capture,omitempty"`
}

// Report says what was done with a VM.
type Report struct {
	VM    dr.VMID      `json:"vm"`
	Name  string       `json:"name"`
	Disks []DiskReport `json:"disks"`
}

// DiskReport is one disk of a Report.
type DiskReport struct {
	Name    string        `json:"name"`
	ID      dr.DiskID     `json:"id,omitzero"`
	Skipped string        `json:"skipped,omitempty"` // why it is not protected
	Off     bool          `json:"off,omitempty"`     // the VM is powered off: attached when it starts
	Route   string        `json:"route,omitempty"`
	Pause   time.Duration `json:"pause_ns,omitempty"` // how long the guest's I/O stood still
}

// Protect begins to protect a VM of the platform, by name or UUID, or those of
// its disks that are not protected yet. When it returns every write of the
// guest passes the host component, and the first copy is under way; a VM that
// is powered off is attached when it starts. On error everything is as it was.
//
// Errors: NotFound; Conflict (it is protected already); Invalid (a disk cannot
// be captured: skip it, or do what the remedy says); those of the platform and
// of Filter.Protect.
func (m *Manager) Protect(ctx context.Context, nameOrID string, o Options) (Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	capture, known := hypervisor.ParseCapture(o.Capture)
	if !known {
		return Report{}, errs.New("live.Protect", errs.Invalid, o.Capture, "unknown way of capture").
			WithRemedy("use in-path or mirror")
	}
	if o.Capture == "" {
		capture = m.cfg.Capture
	}
	vm, info, err := m.look(ctx, nameOrID)
	if err != nil {
		return Report{}, err
	}
	p, err := m.plan(ctx, vm, info, o.Skip, capture)
	if err != nil {
		return Report{}, err
	}
	if len(p.fresh.Disks) == 0 {
		return p.report, errs.New("live.Protect", errs.Conflict, info.Config.Name, "the VM has no disk that is not protected already or left out").
			WithRemedy("see holdfast status")
	}
	return m.carryOut(ctx, vm, p)
}

func (m *Manager) look(ctx context.Context, nameOrID string) (hypervisor.LiveVM, hypervisor.VMInfo, error) {
	vm, err := m.cfg.Platform.VM(ctx, nameOrID)
	if err != nil {
		return nil, hypervisor.VMInfo{}, err
	}
	info, err := vm.Info(ctx)
	return vm, info, err
}

// plan is what is going to be protected.
type plan struct {
	whole  *Entry // the record's entry afterwards
	fresh  Entry  // the disks that are added
	report Report
	runs   bool
}

// plan decides about each disk of a VM. Nothing is changed.
func (m *Manager) plan(ctx context.Context, vm hypervisor.LiveVM, info hypervisor.VMInfo, skip []string, c hypervisor.Capture) (*plan, error) {
	p := &plan{whole: &Entry{Config: info.Config}, runs: info.Running, report: Report{VM: info.Config.ID, Name: info.Config.Name}}
	if known := m.cfg.Record.find(info.Config.ID); known != nil {
		p.whole.Disks = known.clone().Disks
	}
	p.fresh.Config = info.Config
	for _, d := range info.Disks {
		if p.whole.disk(d.Name) != nil {
			continue
		}
		why, err := m.judge(&d, skip)
		if err != nil {
			return nil, err
		}
		if why != "" {
			p.report.Disks = append(p.report.Disks, DiskReport{Name: d.Name, Skipped: why})
			continue
		}
		e, err := m.prepare(ctx, vm, &d, info.Config.ID, info.Running, c)
		if err != nil {
			return nil, err
		}
		p.fresh.Disks = append(p.fresh.Disks, e)
		p.whole.Disks = append(p.whole.Disks, e)
	}
	p.whole.Config = named(info.Config, p.whole)
	p.fresh.Config = p.whole.Config
	return p, nil
}

// named gives a configuration the ids by which protection knows the disks;
// disks that are not protected are left out of it.
func named(c dr.VMConfig, e *Entry) dr.VMConfig {
	var disks []dr.VMDisk
	for _, d := range c.Disks {
		if known := e.disk(d.Name); known != nil {
			d.ID = known.ID
			disks = append(disks, d)
		}
	}
	c.Disks = disks
	return c
}

// judge says why a disk is left out, or that it cannot be captured.
func (m *Manager) judge(d *hypervisor.LiveDisk, skip []string) (why string, err error) {
	const op = "live.Protect"
	for _, s := range skip {
		if s == d.Name {
			return "left out by the user", nil
		}
	}
	switch {
	case d.ReadOnly:
		return "read-only: there is nothing to capture", nil
	case d.Problem != "":
		return "", errs.New(op, errs.Invalid, d.Name, "the disk cannot be captured: "+d.Problem).
			WithRemedy("mend that, or leave the disk out with --skip " + d.Name)
	case d.Shared:
		return "", errs.New(op, errs.Invalid, d.Name, "several VMs may write to the disk").
			WithRemedy("give each VM its own disk, or leave it out with --skip " + d.Name)
	case d.Attached:
		return "", errs.New(op, errs.Conflict, d.Name, "something is attached to the disk already: "+d.Socket).
			WithRemedy("end what is attached, or leave the disk out with --skip " + d.Name)
	}
	return "", nil
}

// prepare gives a disk an id and a socket. Where the content of one is that the
// Filter cannot open itself, the platform is asked when it is attached. A
// powered off VM cannot be asked.
func (m *Manager) prepare(ctx context.Context, vm hypervisor.LiveVM, d *hypervisor.LiveDisk, id dr.VMID, running bool, c hypervisor.Capture) (EntryDisk, error) {
	const op = "live.Protect"
	if d.Path == "" {
		return EntryDisk{}, errs.New(op, errs.Invalid, d.Name, "the disk is not on a path of this host").
			WithRemedy("move it to a file or block device, or leave it out with --skip " + d.Name)
	}
	e := EntryDisk{ID: diskID(id, d.Name), Name: d.Name, Path: d.Path, Unseen: true}
	switch {
	case c == hypervisor.Mirror:
		e.Capture, e.Size = c.String(), d.Size
	case d.Format != "raw":
		e.Size = d.Size
	case running:
		src, err := vm.Prepare(ctx, d.Name, c)
		if err != nil {
			return EntryDisk{}, err
		}
		e.Path, e.Direct = src.Path, m.cfg.Direct
	default:
		e.Direct = m.cfg.Direct
	}
	if (c == hypervisor.Mirror || d.Format != "raw") && d.Size <= 0 {
		return EntryDisk{}, errs.New(op, errs.Invalid, d.Name, "the disk's size is not known while the VM is off").
			WithRemedy("start the VM, and protect it then")
	}
	e.Socket = filepath.Join(m.cfg.Sockets, e.ID.String()[:13]+".sock")
	if len(e.Socket) > maxSocketPath {
		return EntryDisk{}, errs.New(op, errs.Invalid, m.cfg.Sockets, "the directory for sockets has too long a name").
			WithRemedy("choose a shorter one")
	}
	return e, nil
}

// diskID is by what protection knows a VM's disk of a name: the same whenever
// and on whatever host it is protected, so that a copy that is there is
// compared, and not made again. It is a UUID of version 8: a hash of both.
func diskID(vm dr.VMID, name string) (id dr.DiskID) {
	h := sha256.Sum256(append(vm.UUID[:], "disk "+name...))
	copy(id.UUID[:], h[:])
	id.UUID[6], id.UUID[8] = id.UUID[6]&0x0f|0x80, id.UUID[8]&0x3f|0x80
	return id
}

// carryOut makes a plan true: record, Filter, attach. On error it undoes what
// it did, even if ctx has ended.
func (m *Manager) carryOut(ctx context.Context, vm hypervisor.LiveVM, p *plan) (_ Report, err error) {
	var undo []func(context.Context) error
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i](ctx))
		}
	}()
	before := m.cfg.Record.find(p.whole.Config.ID)
	if before == nil {
		before = &Entry{Config: p.whole.Config}
	}
	before = before.clone()
	if err := m.cfg.Record.put(p.whole); err != nil {
		return p.report, err
	}
	undo = append(undo, func(context.Context) error { return m.cfg.Record.put(before) })
	// What a running guest writes between a copy's begin and the attach would be
	// missing from it: nothing is copied before.
	serve := p.fresh.vm()
	for i := range serve.Disks {
		serve.Disks[i].Held = p.runs
	}
	if err := m.cfg.Host.Protect(ctx, serve); err != nil {
		return p.report, err
	}
	undo = append(undo, func(ctx context.Context) error {
		_, err := m.cfg.Host.Unprotect(ctx, p.fresh.Config.ID, idsOf(p.fresh.Disks), iofilter.UnprotectOptions{Force: true})
		return err
	})
	for i := range p.fresh.Disks {
		d := &p.fresh.Disks[i]
		r := DiskReport{Name: d.Name, ID: d.ID, Off: !p.runs}
		if p.runs {
			sw, err := m.attach(ctx, vm, d)
			if err != nil {
				return p.report, err
			}
			undo = append(undo, func(ctx context.Context) error { _, err := vm.Detach(ctx, d.Name); return err })
			r.Route, r.Pause = sw.Route, sw.Pause
			if err := m.copies(p.whole.Config.ID, d, iofilter.SyncBitmap); err != nil { // all of it is to be copied anyway
				return p.report, err
			}
		}
		p.report.Disks = append(p.report.Disks, r)
		m.log.Info("disk is protected", "vm", p.report.Name, "disk", d.Name, "route", r.Route, "pause", r.Pause)
	}
	return p.report, nil
}

func idsOf(disks []EntryDisk) (ids []dr.DiskID) {
	for _, d := range disks {
		ids = append(ids, d.ID)
	}
	return ids
}

// Unprotect ends the protection of a VM, by name or UUID: its guest goes on with
// its own disks alone. On error those of its disks that are still attached stay
// protected, and so do the others, which are attached again.
//
// Errors: NotFound; those of the platform and of Filter.Unprotect.
func (m *Manager) Unprotect(ctx context.Context, nameOrID string, o iofilter.UnprotectOptions) (Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(nameOrID)
	if e == nil {
		return Report{}, errs.New("live.Unprotect", errs.NotFound, nameOrID, "the VM is not protected by this host").
			WithRemedy("see holdfast status for what is")
	}
	report := Report{VM: e.Config.ID, Name: e.Config.Name}
	vm, info, err := m.look(ctx, e.Config.ID.String())
	switch {
	case errs.Is(err, errs.NotFound):
		info.Running = false
	case err != nil:
		return report, err
	}
	if report.Disks, err = m.detachAll(ctx, vm, &info, e); err != nil {
		return report, err
	}
	o.Force = o.Force || !info.Running
	return report, m.letGo(ctx, e, e.Disks, o)
}

// entry finds what a person names in the record.
func (m *Manager) entry(nameOrID string) *Entry {
	for _, e := range m.cfg.Record.entries {
		if e.Config.Name == nameOrID || e.Config.ID.String() == nameOrID {
			return e.clone()
		}
	}
	return nil
}

// detachAll takes the exports of a running VM out of its disks' paths; all, or
// none.
func (m *Manager) detachAll(ctx context.Context, vm hypervisor.LiveVM, info *hypervisor.VMInfo, e *Entry) (done []DiskReport, err error) {
	if !info.Running {
		return nil, nil
	}
	ours := func(d *EntryDisk) bool { return e.disk(d.Name) != nil && e.disk(d.Name).ID == d.ID }
	if err := m.cfg.Record.markUnseen(ours); err != nil { // all at once
		return nil, err
	}
	for i := range e.Disks {
		if err := m.withhold(&e.Disks[i]); err != nil {
			return nil, err
		}
	}
	for i := range e.Disks {
		d := &e.Disks[i]
		if !attachedTo(info, d) {
			continue
		}
		sw, err := vm.Detach(ctx, d.Name)
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
			defer cancel()
			return nil, errors.Join(err, m.settle(ctx, vm, m.cfg.Record.find(e.Config.ID)))
		}
		done = append(done, DiskReport{Name: d.Name, ID: d.ID, Route: sw.Route, Pause: sw.Pause})
	}
	return done, nil
}

// attachedTo reports whether the guest's disk is our export.
func attachedTo(info *hypervisor.VMInfo, d *EntryDisk) bool {
	for i := range info.Disks {
		if l := &info.Disks[i]; l.Name == d.Name {
			return l.Attached && l.Socket == d.Socket
		}
	}
	return false
}

// letGo ends the Filter's part for some disks, and takes them out of the record.
func (m *Manager) letGo(ctx context.Context, e *Entry, disks []EntryDisk, o iofilter.UnprotectOptions) error {
	// QEMU may close its connection a moment after it let go of the export.
	o.Force = true
	if _, err := m.cfg.Host.Unprotect(ctx, e.Config.ID, idsOf(disks), o); err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	left := e.clone()
	left.Disks = nil
	for _, d := range e.Disks {
		gone := false
		for _, g := range disks {
			gone = gone || g.ID == d.ID
		}
		if !gone {
			left.Disks = append(left.Disks, d)
		}
	}
	for _, d := range disks {
		delete(m.sources, d.ID)
		m.log.Info("disk is not protected any more", "vm", e.Config.Name, "disk", d.Name)
	}
	return m.cfg.Record.put(left)
}

// settle attaches what of a running VM is served and not attached, and has the
// disks that were written unseen compared. It goes on past a disk that fails.
func (m *Manager) settle(ctx context.Context, vm hypervisor.LiveVM, e *Entry) error {
	info, err := vm.Info(ctx)
	if err != nil {
		return err
	}
	if !info.Running {
		return errors.Join(m.away(ctx, e), m.idle(e))
	}
	var all error
	e = e.clone()
	for i := range e.Disks {
		d := &e.Disks[i]
		if err := m.settleSource(ctx, vm, &info, d); err != nil {
			all = errors.Join(all, fmt.Errorf("disk %s: %w", d.Name, err))
			continue
		}
		if !attachedTo(&info, d) {
			// It writes to its own disk now: unseen until it is attached.
			if !d.still(&info) {
				if err := m.cfg.Record.markUnseen(func(o *EntryDisk) bool { return o.ID == d.ID }); err != nil {
					return errors.Join(all, err)
				}
				d.Unseen = true
			}
			sw, err := m.attach(ctx, vm, d)
			if err != nil {
				all = errors.Join(all, fmt.Errorf("disk %s: %w", d.Name, err))
				continue
			}
			m.log.Info("disk is attached", "vm", e.Config.Name, "disk", d.Name, "route", sw.Route, "pause", sw.Pause)
		}
		if d.Still {
			all = errors.Join(all, m.cfg.Record.change(d.ID, func(o *EntryDisk) { o.Still = false }))
		}
		if d.Unseen {
			all = errors.Join(all, m.compare(e, d))
		}
	}
	return all
}

// settleSource makes ready for another attach of a disk whose export of its
// content has ended, or whose size is another.
func (m *Manager) settleSource(ctx context.Context, vm hypervisor.LiveVM, info *hypervisor.VMInfo, d *EntryDisk) error {
	if !d.exported() {
		return nil
	}
	l := liveDisk(info, d.Name)
	if l == nil {
		return nil
	}
	if l.Attached && l.Socket == d.Socket {
		lost, err := m.lostSource(ctx, vm, d)
		if err != nil || !lost {
			return err
		}
		m.log.Warn("the export of a disk's content has ended: it is attached anew", "disk", d.Name)
		l.Attached = false
		return m.detach(ctx, vm, d)
	}
	if l.Size > 0 && l.Size != d.Size {
		d.Size = l.Size
		return m.cfg.Record.change(d.ID, func(o *EntryDisk) { o.Size = l.Size })
	}
	return nil
}

// seen takes the note that a disk was written unseen out of the record.
func (m *Manager) seen(vm dr.VMID, disk string) error {
	return m.cfg.Record.change(m.cfg.Record.find(vm).disk(disk).ID, func(d *EntryDisk) { d.Unseen = false })
}

// idle has the disks of a VM that nobody runs copied as they are. They stay
// noted: once it runs it may write unseen again.
func (m *Manager) idle(e *Entry) (all error) {
	for i := range e.Disks {
		if d := &e.Disks[i]; d.Unseen && !d.exported() { // an export's content is out of reach then
			all = errors.Join(all, m.cfg.Host.Vouch(d.target(e.Config.ID), iofilter.SyncBitmap))
		}
	}
	return all
}

// compare has a disk that was written unseen compared with the DRVA's copy, or
// sent whole where that cannot be done, and takes the note out of the record.
func (m *Manager) compare(e *Entry, d *EntryDisk) error {
	err := m.copies(e.Config.ID, d, iofilter.SyncHash)
	if errs.Is(err, errs.Unavailable) {
		m.log.Info("the disk cannot be compared: it is sent whole", "vm", e.Config.Name, "disk", d.Name)
		err = m.copies(e.Config.ID, d, iofilter.SyncFull)
	}
	return err
}

// copies begins a sync of a disk that is attached, and takes the note that it
// is written unseen out of the record.
func (m *Manager) copies(vm dr.VMID, d *EntryDisk, mode iofilter.SyncMode) error {
	if err := m.cfg.Host.Vouch(d.target(vm), mode); err != nil {
		return err
	}
	return m.seen(vm, d.Name)
}
