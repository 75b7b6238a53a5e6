package hypervisortest

import (
	"context"
	"testing"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// RunPower switches a VM of a platform on and off, which is off when it begins and
// afterwards, and retires it. It returns the VM's id. The platform keeps VMs that do not
// run.
func RunPower(t *testing.T, p hypervisor.Platform, name string) dr.VMID {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b := &liveBench{bench: &bench{T: t, ctx: ctx}}
	vm, err := p.VM(ctx, name)
	b.ok(err, "VM")
	info, err := vm.Info(ctx)
	b.ok(err, "Info")
	is := func(on bool) {
		t.Helper()
		b.until("the VM's power is as it was switched", func() bool {
			i, err := vm.Info(ctx)
			return err == nil && i.Running == on
		})
	}
	power, retire := vm.(hypervisor.Powered), vm.(hypervisor.Retirer)
	is(false)
	for _, off := range []func(context.Context) error{power.ShutDown, power.PowerOff} {
		b.ok(off(ctx), "switching off a VM that is off")
	}
	for range 2 { // the second changes nothing
		b.ok(power.PowerOn(ctx), "PowerOn")
		is(true)
	}
	b.kind(retire.Retire(ctx), errs.Conflict, "Retire of a VM that runs")
	b.ok(power.ShutDown(ctx), "ShutDown")
	b.ok(power.PowerOff(ctx), "PowerOff")
	is(false)
	for range 2 {
		b.ok(retire.Retire(ctx), "Retire")
	}
	again, err := p.VM(ctx, hypervisor.RetiredName(name, info.Config.ID))
	b.ok(err, "the retired VM")
	if i, err := again.Info(ctx); err != nil || i.Config.ID != info.Config.ID || len(i.Disks) != len(info.Disks) {
		t.Errorf("retired: %+v, %v", i, err)
	}
	_, err = p.VM(ctx, name)
	b.kind(err, errs.NotFound, "the name it had")
	return info.Config.ID
}

// suspend halts the VM at work, and lets it go on.
func suspend(b *liveBench) {
	vm := b.vm()
	s, can := vm.(hypervisor.Suspender)
	p, on := vm.(hypervisor.Powered)
	if !can || !on {
		b.Fatal("the driver cannot halt its VMs, or let them go on")
	}
	for range 2 { // the second time without effect
		if err := s.Suspend(b.ctx); err != nil {
			b.Fatal(err)
		}
		b.until("the VM is halted", func() bool {
			info, err := vm.Info(b.ctx)
			return err == nil && info.Running && info.Paused
		})
	}
	if err := p.PowerOn(b.ctx); err != nil {
		b.Fatal(err)
	}
	b.until("the VM goes on", func() bool {
		info, err := vm.Info(b.ctx)
		return err == nil && info.Running && !info.Paused
	})
	b.goesOn()
}
