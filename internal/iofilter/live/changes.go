package live

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
)

// Run takes up what the record says, then follows the platform's changes until
// ctx ends; then it takes the exports out of all paths, so that the guests go on
// without the host component. Where keep says so, because another one follows at
// once, they stay attached, but for disks whose content the platform exports:
// what does that ends with this process. On error they stay attached as well.
func (m *Manager) Run(ctx context.Context, keep func() bool) error {
	m.takeUp(ctx)
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if keep != nil && keep() {
				return m.stepAside((*EntryDisk).exported)
			}
			return m.stepAside(func(*EntryDisk) bool { return true })
		case <-tick.C:
			m.mu.Lock()
			m.met = true
			m.mu.Unlock()
			m.all(ctx)
		case c, ok := <-m.cfg.Platform.Changes():
			if !ok {
				return errs.New("live.Run", errs.Unavailable, m.cfg.Platform.Name(), "the hypervisor's driver has ended")
			}
			if c.Lost > 0 {
				m.all(ctx)
				continue
			}
			m.log.Debug("the platform tells", "vm", c.Name, "change", c.Kind.String(), "disk", c.Disk, "detail", c.Detail)
			if !m.overtaken(&c) {
				m.follow(ctx, c.VM, c.Kind)
			}
		}
	}
}

// takeUp serves what the record says, as before the host component ended.
func (m *Manager) takeUp(ctx context.Context) {
	m.mu.Lock()
	served := map[dr.DiskID]bool{} // already: inherited, or protected before we got here
	for _, d := range m.cfg.Host.Status().Disks {
		served[d.ID] = true
	}
	for _, e := range m.cfg.Record.entries {
		rest := without(e, served)
		if len(rest.Disks) == 0 {
			continue
		}
		if err := m.cleanUp(ctx, rest); err != nil {
			m.log.Error("a guest cannot be taken off what an earlier process left", "vm", e.Config.Name, "err", err, "remedy", errs.RemedyOf(err))
		}
		e = without(m.cfg.Record.find(e.Config.ID), served) // as it is now
		// One VM whose disks cannot be opened is not the others' trouble.
		if err := m.cfg.Host.Protect(ctx, e.vm()); err != nil {
			m.log.Error("a VM of the record cannot be served", "vm", e.Config.Name, "err", err, "remedy", errs.RemedyOf(err))
		}
	}
	m.mu.Unlock()
	m.all(ctx)
}

// without is a copy of e without the disks that are served.
func without(e *Entry, served map[dr.DiskID]bool) *Entry {
	e = e.clone()
	e.Disks = slices.DeleteFunc(e.Disks, func(d EntryDisk) bool { return served[d.ID] })
	return e
}

// all brings every VM of the record up to date.
func (m *Manager) all(ctx context.Context) {
	m.mu.Lock()
	var ids []dr.VMID
	for _, e := range m.cfg.Record.entries {
		ids = append(ids, e.Config.ID)
	}
	m.mu.Unlock()
	for _, id := range ids {
		m.follow(ctx, id, hypervisor.ChangedDisks)
	}
}

// follow brings one VM up to date, if it is protected.
func (m *Manager) follow(ctx context.Context, id dr.VMID, kind hypervisor.ChangeKind) {
	ctx, cancel := context.WithTimeout(ctx, changeLimit)
	defer cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.cfg.Record.find(id)
	if e == nil || ctx.Err() != nil {
		return
	}
	if err := m.update(ctx, e.clone(), kind); err != nil && !errors.Is(err, context.Canceled) {
		m.log.Error("a VM's protection does not follow its change", "vm", e.Config.Name, "change", kind.String(), "err", err, "remedy", errs.RemedyOf(err))
	}
}

// update compares a VM with its entry and acts on the difference, whatever the
// change was said to be: changes may have been missed.
func (m *Manager) update(ctx context.Context, e *Entry, kind hypervisor.ChangeKind) error {
	vm, info, err := m.look(ctx, e.Config.ID.String())
	if errs.Is(err, errs.NotFound) {
		if kind != hypervisor.VMGone {
			if m.met { // else it may not have been reached yet
				return m.idle(e)
			}
			return nil
		}
		m.log.Warn("a protected VM is gone from this host: its disks are released", "vm", e.Config.Name)
		return m.letGo(ctx, e, e.Disks, iofilter.UnprotectOptions{Release: true})
	}
	if err != nil {
		return err
	}
	if err := m.unseen(&info, e); err != nil {
		return err
	}
	if kind == hypervisor.DiskStalled {
		m.unstall(ctx, vm, &info, e)
	}
	if err := m.dropped(ctx, vm, &info, e); err != nil {
		return err
	}
	if e = m.cfg.Record.find(info.Config.ID); e == nil {
		return nil
	}
	e = e.clone()
	all := m.renamed(&info, e)
	all = errors.Join(all, m.resized(ctx, vm, &info, e))
	all = errors.Join(all, m.settle(ctx, vm, e))
	if !m.cfg.LeaveNew {
		all = errors.Join(all, m.adopt(ctx, vm, &info))
	}
	return all
}

// dropped lets go of disks that the VM has no more, or whose content is
// elsewhere now: behind a snapshot, say. The latter may be adopted anew. A VM
// that is about to end closes its disks a moment before it is gone, so only
// what several looks say counts, and only while it runs.
func (m *Manager) dropped(ctx context.Context, vm hypervisor.LiveVM, info *hypervisor.VMInfo, e *Entry) error {
	gone := missing(info, e.Disks)
	for look := 1; info.Running && look < dropLooks && len(gone) > 0; look++ {
		if !pause(ctx, dropPause) {
			return ctx.Err()
		}
		again, err := vm.Info(ctx)
		if err != nil || !again.Running {
			return nil // it has ended; it is looked at again when it is told to be there
		}
		gone = missing(&again, gone)
	}
	if len(gone) == 0 {
		return nil
	}
	return m.letGo(ctx, e, gone, iofilter.UnprotectOptions{})
}

// missing lists those of disks that a VM does not have, or has elsewhere.
func missing(info *hypervisor.VMInfo, disks []EntryDisk) (gone []EntryDisk) {
	for _, d := range disks {
		l := liveDisk(info, d.Name)
		if l == nil || !l.Attached && l.Path != "" && l.Path != d.Path {
			gone = append(gone, d)
		}
	}
	return gone
}

// pause waits; false: ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func liveDisk(info *hypervisor.VMInfo, name string) *hypervisor.LiveDisk {
	for i := range info.Disks {
		if info.Disks[i].Name == name {
			return &info.Disks[i]
		}
	}
	return nil
}

// renamed takes in another name, memory, processors or cards.
func (m *Manager) renamed(info *hypervisor.VMInfo, e *Entry) error {
	c := named(info.Config, e)
	if sameConfig(&c, &e.Config) {
		return nil
	}
	if err := m.cfg.Host.Reconfigure(c); err != nil {
		return err
	}
	e.Config = c
	return m.cfg.Record.put(e)
}

// sameConfig compares what recovery builds a VM from, the disks' sizes apart,
// which the Filter knows better.
func sameConfig(a, b *dr.VMConfig) bool {
	if a.Name != b.Name || a.CPUs != b.CPUs || a.MemoryMiB != b.MemoryMiB || a.Machine != b.Machine || a.Firmware != b.Firmware ||
		len(a.NICs) != len(b.NICs) || len(a.Disks) != len(b.Disks) {
		return false
	}
	for i := range a.NICs {
		if a.NICs[i] != b.NICs[i] {
			return false
		}
	}
	for i := range a.Disks {
		x, y := a.Disks[i], b.Disks[i]
		if x.Size = y.Size; x != y {
			return false
		}
	}
	return true
}

// resized takes in another size of disks: out of the path, which also flushes
// it, then measured anew, and back by settle.
func (m *Manager) resized(ctx context.Context, vm hypervisor.LiveVM, info *hypervisor.VMInfo, e *Entry) error {
	sizes := map[dr.DiskID]int64{}
	for _, d := range m.cfg.Host.Status().Disks {
		sizes[d.ID] = d.Size
	}
	for i := range e.Disks {
		d := &e.Disks[i]
		l := liveDisk(info, d.Name)
		if was, served := sizes[d.ID]; !served || l == nil || l.Size == 0 || l.Size == was {
			continue
		}
		if attachedTo(info, d) {
			if err := m.detach(ctx, vm, d); err != nil {
				return err
			}
		}
		if d.exported() {
			continue // settle attaches it, and says its size
		}
		if err := m.cfg.Host.Resize(ctx, d.ID); err != nil {
			return err
		}
		m.log.Info("disk has another size", "vm", e.Config.Name, "disk", d.Name, "bytes", l.Size)
		*e = *m.cfg.Record.find(e.Config.ID).clone()
	}
	return nil
}

// unstall lets a VM go on that waits because of an I/O error, if the error was
// the host component's absence: to attach again makes QEMU try again.
func (m *Manager) unstall(ctx context.Context, vm hypervisor.LiveVM, info *hypervisor.VMInfo, e *Entry) {
	for i := range e.Disks {
		d := &e.Disks[i]
		if !attachedTo(info, d) {
			continue
		}
		if d.exported() { // settle attaches it again
			if err := m.detach(ctx, vm, d); err != nil {
				m.log.Warn("a VM waits because of an I/O error, and cannot be helped on", "vm", e.Config.Name, "disk", d.Name, "err", err)
			}
			continue
		}
		if _, err := vm.Attach(ctx, d.Name, d.attachment()); err != nil && !errs.Is(err, errs.Conflict) {
			m.log.Warn("a VM waits because of an I/O error, and cannot be helped on", "vm", e.Config.Name, "disk", d.Name, "err", err)
		}
	}
}

// adopt protects disks that were added to a protected VM. One that cannot be
// captured is told, and left out.
func (m *Manager) adopt(ctx context.Context, vm hypervisor.LiveVM, info *hypervisor.VMInfo) error {
	var skip []string
	known := m.cfg.Record.find(info.Config.ID)
	for i := range info.Disks {
		d := &info.Disks[i]
		if known.disk(d.Name) != nil {
			continue
		}
		if _, err := m.judge(d, nil); err != nil {
			m.log.Warn("a disk of a protected VM is not protected", "vm", info.Config.Name, "disk", d.Name, "err", err, "remedy", errs.RemedyOf(err))
			skip = append(skip, d.Name)
		}
	}
	p, err := m.plan(ctx, vm, *info, skip, known.Disks[0].capture())
	if err != nil || len(p.fresh.Disks) == 0 {
		return err
	}
	_, err = m.carryOut(ctx, vm, p)
	return err
}

// stepAside takes the exports of disks that match out of their paths.
func (m *Manager) stepAside(match func(*EntryDisk) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	var all error
	for _, e := range m.cfg.Record.Entries() {
		e.Disks = slices.DeleteFunc(slices.Clone(e.Disks), func(d EntryDisk) bool { return !match(&d) })
		if len(e.Disks) == 0 {
			continue
		}
		vm, info, err := m.look(ctx, e.Config.ID.String())
		if err == nil {
			_, err = m.detachAll(ctx, vm, &info, &e)
		}
		if err != nil && !errs.Is(err, errs.NotFound) {
			all = errors.Join(all, err)
		}
	}
	return all
}
