package fake

import (
	"context"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

var (
	_ hypervisor.Powered = (*liveHandle)(nil)
	_ hypervisor.Retirer = (*liveHandle)(nil)

	_ hypervisor.Suspender = (*liveHandle)(nil)
	_ hypervisor.Renamer   = (*liveHandle)(nil)
)

// Suspend halts the VM.
func (h *liveHandle) Suspend(ctx context.Context) error {
	if err := h.p.usable(ctx, "fake.Suspend", ""); err != nil {
		return err
	}
	h.vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) { i.Paused = i.Running })
	return nil
}

// Deaf makes the guest take no notice of its power button.
func (v *LiveVM) Deaf(yes bool) {
	v.host.mu.Lock()
	defer v.host.mu.Unlock()
	v.deaf = yes
}

// PowerOn starts the VM.
func (h *liveHandle) PowerOn(ctx context.Context) error { return h.power(ctx, "fake.PowerOn", true) }

// ShutDown has the guest end, unless it is deaf.
func (h *liveHandle) ShutDown(ctx context.Context) error {
	h.p.host.mu.Lock()
	deaf := h.vm.deaf
	h.p.host.mu.Unlock()
	if deaf {
		return h.p.usable(ctx, "fake.ShutDown", "")
	}
	return h.power(ctx, "fake.ShutDown", false)
}

// PowerOff ends the VM.
func (h *liveHandle) PowerOff(ctx context.Context) error {
	return h.power(ctx, "fake.PowerOff", false)
}

func (h *liveHandle) power(ctx context.Context, op string, on bool) error {
	if err := h.p.usable(ctx, op, ""); err != nil {
		return err
	}
	h.p.host.mu.Lock()
	same, broken := h.vm.info.Running == on && !h.vm.info.Paused, h.vm.broken
	h.p.host.mu.Unlock()
	switch {
	case same:
		return nil
	case broken != nil:
		return errs.E(op, errs.Internal, h.vm.info.Config.Name, broken)
	}
	h.vm.Change(hypervisor.ChangedState, "", func(i *hypervisor.VMInfo) {
		i.Running, i.Paused = on, false
		if !on {
			clear(h.vm.attached)
		}
	})
	return nil
}

// Retire renames the VM.
func (h *liveHandle) Retire(ctx context.Context) error {
	h.p.host.mu.Lock()
	c := h.vm.info.Config
	h.p.host.mu.Unlock()
	return h.rename(ctx, "fake.Retire", hypervisor.RetiredName(c.Name, c.ID))
}

// Rename gives the VM a name.
func (h *liveHandle) Rename(ctx context.Context, name string) error {
	return h.rename(ctx, "fake.Rename", name)
}

func (h *liveHandle) rename(ctx context.Context, op, name string) error {
	if err := h.p.usable(ctx, op, ""); err != nil {
		return err
	}
	host := h.p.host
	host.mu.Lock()
	defer host.mu.Unlock()
	was := h.vm.info.Config.Name
	switch {
	case h.vm.info.Running:
		return errs.New(op, errs.Conflict, was, "it runs").WithRemedy("shut it down first")
	case name == was:
		return nil
	case host.vms[name] != nil:
		return errs.New(op, errs.Exists, name, "another VM has that name")
	}
	delete(host.vms, was)
	h.vm.info.Config.Name = name
	host.vms[name] = h.vm
	host.tellLocked(h.vm, hypervisor.Change{Kind: hypervisor.ChangedConfig})
	return nil
}
