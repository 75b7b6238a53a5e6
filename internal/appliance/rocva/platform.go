package rocva

import (
	"context"
	"fmt"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/recovery"
)

// What is done with VMs of the site's platform that are no recovery's.

// unable is what a step gets that needs something the site's platform does not have.
func unable(what string) error {
	return errs.New("rocva", errs.Unavailable, "", "the platform of this site cannot "+what).WithRemedy("remove it from the plan, or do it by hand")
}

// platform is the site's; nil: it cannot be seen.
func (s *Appliance) platform() hypervisor.Platform {
	if p := s.parts.Load(); p != nil {
		return p.Site
	}
	return nil
}

// stranger finds a VM of the site's platform by its id, or by its name.
func (s *Appliance) stranger(ctx context.Context, vm *plan.VMInputs) (hypervisor.LiveVM, error) {
	if _, err := s.ready(); err != nil {
		return nil, err
	}
	if s.platform() == nil {
		return nil, unable("tell its VMs")
	}
	v, err := s.platform().VM(ctx, vm.VM.String())
	if errs.Is(err, errs.NotFound) {
		v, err = s.platform().VM(ctx, string(vm.Name))
	}
	return v, err
}

// WakeHost has nothing to do: no platform here has hosts that sleep.
func (s *Appliance) WakeHost(_ context.Context, _ *operate.Act, in *plan.HostInputs) (runs.Result, error) {
	return runs.Result{AlreadyDone: true, Note: fmt.Sprintf("the platform has no hosts that sleep: %s is taken to be awake", in.Host)}, nil
}

// Suspend halts a VM of the recovery site. Its memory stays where it is.
func (s *Appliance) Suspend(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	v, info, err := s.glance(ctx, vm)
	if err != nil {
		return runs.Result{}, err
	}
	if !info.Running || info.Paused {
		return runs.Result{AlreadyDone: true}, nil
	}
	p, ok := v.(hypervisor.Suspender)
	if !ok {
		return runs.Result{}, unable("suspend VMs")
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	return runs.Result{}, p.Suspend(ctx)
}

// Resume lets it go on.
func (s *Appliance) Resume(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	v, info, err := s.glance(ctx, vm)
	if err != nil {
		return runs.Result{}, err
	}
	if !info.Paused {
		return runs.Result{AlreadyDone: true}, nil
	}
	p, ok := v.(hypervisor.Powered)
	if !ok {
		return runs.Result{}, unable("resume VMs")
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	return runs.Result{}, p.PowerOn(ctx)
}

// glance finds a VM and says how it is.
func (s *Appliance) glance(ctx context.Context, vm *plan.VMInputs) (hypervisor.LiveVM, hypervisor.VMInfo, error) {
	v, err := s.stranger(ctx, vm)
	if err != nil {
		return nil, hypervisor.VMInfo{}, err
	}
	info, err := v.Info(ctx)
	return v, info, err
}

// retireStranger takes an old VM of the platform out of service.
func (s *Appliance) retireStranger(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	v, err := s.stranger(ctx, vm)
	if errs.Is(err, errs.NotFound) {
		return runs.Result{AlreadyDone: true, Note: "it is gone"}, nil
	}
	if err != nil {
		return runs.Result{}, err
	}
	p, ok := v.(hypervisor.Retirer)
	if !ok {
		return runs.Result{}, unable("take VMs out of service")
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	return runs.Result{}, p.Retire(ctx)
}

// Placeholder puts a placeholder in the place of a VM that moved away.
func (s *Appliance) Placeholder(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	k, ok := s.platform().(hypervisor.PlaceKeeper)
	if !ok {
		return runs.Result{AlreadyDone: true, Note: "the platform keeps no placeholders"}, nil
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	err := k.PutPlaceholder(ctx, inventory.PlaceholderOf(&in.Placement))
	if errs.Is(err, errs.Exists) || errs.Is(err, errs.Conflict) {
		if _, lives := s.living(in.Domain); lives == nil { // the VM that moved away has the name until the old site is cleaned
			return runs.Result{Note: "the old VM has its name until it is cleaned away: the manager puts the placeholder there afterwards"}, nil
		}
	}
	return runs.Result{}, err
}

// makeWay frees a recovered VM's name and identity: its placeholder goes, and a VM of the
// same id that was retired gets the name under which the recovered one takes its place.
func (s *Appliance) makeWay(ctx context.Context, v *recovery.VMRecord) error {
	if s.platform() == nil {
		return nil
	}
	if err := s.removePlaceholder(ctx, v); err != nil {
		return err
	}
	old, err := s.platform().VM(ctx, v.Source.String())
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := old.Info(ctx)
	if err != nil || info.Running || info.Config.Name == v.Config.Name || info.Config.ID != v.Source {
		return err // one that runs is told by the start itself
	}
	if p, ok := old.(hypervisor.Renamer); ok {
		return p.Rename(ctx, v.Config.Name)
	}
	return nil
}

// removePlaceholder removes what keeps the place of a VM, by its name.
func (s *Appliance) removePlaceholder(ctx context.Context, v *recovery.VMRecord) error {
	k, ok := s.platform().(hypervisor.PlaceKeeper)
	if !ok {
		return nil
	}
	h, err := s.platform().VM(ctx, v.Config.Name)
	if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Conflict) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := h.Info(ctx)
	if err != nil || info.Place.For != v.Source {
		return err
	}
	return k.RemovePlaceholder(ctx, info.Config.ID)
}
