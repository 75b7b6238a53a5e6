package fake

import (
	"context"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

var (
	_ hypervisor.Surveyor    = (*Platform)(nil)
	_ hypervisor.PlaceKeeper = (*Platform)(nil)
)

// Furnish sets what Survey tells.
func (h *Host) Furnish(e hypervisor.Estate) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.estate = e
}

// Cut makes the host unreachable for a reason; nil: it is back.
func (h *Host) Cut(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away = why
}

// Drop removes a VM, if there is one.
func (h *Host) Drop(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v := h.vms[name]; v != nil {
		delete(h.vms, name)
		h.tellLocked(v, hypervisor.Change{Kind: hypervisor.VMGone})
	}
}

// Survey tells what Furnish set.
func (p *Platform) Survey(ctx context.Context) (hypervisor.Estate, error) {
	if err := p.usable(ctx, "fake.Survey", ""); err != nil {
		return hypervisor.Estate{}, err
	}
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	return p.host.estate, nil
}

// PutPlaceholder makes a VM that is a placeholder, or makes it what h says.
func (p *Platform) PutPlaceholder(ctx context.Context, h hypervisor.Placeholder) error {
	const op = "fake.PutPlaceholder"
	if err := p.usable(ctx, op, h.Name); err != nil {
		return err
	}
	if h.ID.IsZero() || h.For.IsZero() || h.ID == h.For || h.Name == "" {
		return errs.New(op, errs.Invalid, h.Name, "a placeholder needs a name, an id of its own, and that of the VM it stands for")
	}
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	for name, v := range p.host.vms {
		same := v.info.Config.ID == h.ID
		if same && v.info.Place.For.IsZero() || !same && name == h.Name {
			return errs.New(op, errs.Exists, h.Name, "another VM has the name or the id").WithRemedy("rename that VM")
		}
		if same {
			delete(p.host.vms, name)
		}
	}
	v := &LiveVM{host: p.host, agent: -1, attached: map[string]hypervisor.Attachment{}, info: hypervisor.VMInfo{
		Config: dr.VMConfig{ID: h.ID, Name: h.Name, CPUs: h.CPUs, MemoryMiB: h.MemoryMiB, NICs: slices.Clone(h.NICs)},
		Place:  hypervisor.Place{Folder: h.Folder, For: h.For},
	}}
	if p.host.vms == nil {
		p.host.vms = map[string]*LiveVM{}
	}
	p.host.vms[h.Name] = v
	p.host.tellLocked(v, hypervisor.Change{Kind: hypervisor.VMAppeared})
	return nil
}

// RemovePlaceholder removes one.
func (p *Platform) RemovePlaceholder(ctx context.Context, id dr.VMID) error {
	const op = "fake.RemovePlaceholder"
	if err := p.usable(ctx, op, id.String()); err != nil {
		return err
	}
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	for name, v := range p.host.vms {
		if v.info.Config.ID != id {
			continue
		}
		if v.info.Place.For.IsZero() {
			return errs.New(op, errs.Conflict, name, "the VM is no placeholder")
		}
		delete(p.host.vms, name)
		p.host.tellLocked(v, hypervisor.Change{Kind: hypervisor.VMGone})
	}
	return nil
}
