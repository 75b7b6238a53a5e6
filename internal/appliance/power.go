package appliance

import (
	"context"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
)

// vm finds a VM at the hypervisor. Kinds: NotFound (it is not on this host), Unavailable.
func (h *Host) vm(ctx context.Context, id dr.VMID) (hypervisor.LiveVM, error) {
	p, err := h.platforms.get(ctx, h.current())
	if err != nil {
		return nil, err
	}
	return p.VM(ctx, id.String())
}

// powered finds one whose power can be switched.
func (h *Host) powered(ctx context.Context, id dr.VMID) (hypervisor.Powered, error) {
	v, err := h.vm(ctx, id)
	if err != nil {
		return nil, err
	}
	p, ok := v.(hypervisor.Powered)
	if !ok {
		return nil, errs.New("appliance.power", errs.Unavailable, id.String(), "this platform's VMs cannot be switched on and off from here").WithRemedy("do it by hand, and skip the step")
	}
	return p, nil
}

// Running reports whether a VM runs on this host. One that is not here does not run here.
func (h *Host) Running(ctx context.Context, _ *operate.Act, vm *plan.VMInputs) (bool, error) {
	v, err := h.vm(ctx, vm.VM)
	if errs.Is(err, errs.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := v.Info(ctx)
	return info.Running, err
}

// Shutdown presses a guest's power button.
func (h *Host) Shutdown(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	return h.switched(ctx, a, vm, hypervisor.Powered.ShutDown)
}

// Cut takes a VM's power.
func (h *Host) Cut(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	return h.switched(ctx, a, vm, hypervisor.Powered.PowerOff)
}

func (h *Host) switched(ctx context.Context, a *operate.Act, vm *plan.VMInputs, do func(hypervisor.Powered, context.Context) error) error {
	p, err := h.powered(ctx, vm.VM)
	if err != nil {
		return err
	}
	if err := a.Hold(ctx); err != nil {
		return err
	}
	return do(p, ctx)
}

// SourceOff sees that nothing of the domain runs on this host. Its host component goes on:
// guests that are off have no disk open, and a rollback starts them again.
func (h *Host) SourceOff(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	for _, id := range in.VMs {
		up, err := h.Running(ctx, a, &plan.VMInputs{VM: id})
		if err != nil {
			return runs.Result{}, err
		}
		if up {
			return runs.Result{}, errs.New("appliance.SourceOff", errs.Conflict, "vm "+id.String(), "it runs at the protected site").WithRemedy("see who started it")
		}
	}
	return runs.Result{}, nil
}

// StartSource starts a VM, once its host component is there to see what it writes.
func (h *Host) StartSource(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	up, err := h.Running(ctx, a, vm)
	if err != nil {
		return runs.Result{}, err
	}
	if up {
		return runs.Result{AlreadyDone: true, Note: "it runs"}, nil
	}
	if m, err := h.domain(a.Domain); err == nil && m.unit.isConfigured() {
		m.unit.soon()
		if err := m.unit.up(ctx, m.socket()); err != nil {
			// The guest matters more than its protection, which is tried on.
			a.Warn("its host component does not run: it is unprotected at first")
		}
	}
	return runs.Result{}, h.switched(ctx, a, vm, hypervisor.Powered.PowerOn)
}

// Retire takes an old VM out of service. One that is gone is done.
func (h *Host) Retire(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	v, err := h.vm(ctx, vm.VM)
	if errs.Is(err, errs.NotFound) {
		return runs.Result{AlreadyDone: true, Note: "it is not there any more"}, nil
	}
	if err != nil {
		return runs.Result{}, err
	}
	r, ok := v.(hypervisor.Retirer)
	if !ok {
		return runs.Result{AlreadyDone: true, Note: "this platform keeps no VM that does not run"}, nil
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	return runs.Result{}, r.Retire(ctx)
}

// Placeholder puts a placeholder in an old VM's place.
func (h *Host) Placeholder(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	p, err := h.platforms.get(ctx, h.current())
	if err != nil {
		return runs.Result{}, err
	}
	keeper, ok := p.(hypervisor.PlaceKeeper)
	if !ok {
		return runs.Result{AlreadyDone: true, Note: "this platform keeps no VM that does not run"}, nil
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	return runs.Result{}, keeper.PutPlaceholder(ctx, inventory.PlaceholderOf(&in.Placement))
}

// Clean removes what the domain left on this host, if the host has no part in it any
// more. Old VMs and their disks stay.
func (h *Host) Clean(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	if _, err := h.domain(in.Domain); err == nil {
		return runs.Result{AlreadyDone: true, Note: "the domain is protected here again: nothing of it is old"}, nil
	}
	h.applying.Lock()
	defer h.applying.Unlock()
	s := h.current()
	if s == nil {
		return runs.Result{AlreadyDone: true, Note: "nothing was ever protected here"}, nil
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	return runs.Result{}, h.apply(ctx, s)
}
