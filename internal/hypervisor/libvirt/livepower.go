package libvirt

import (
	"context"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

var (
	_ hypervisor.Powered = (*liveVM)(nil)
	_ hypervisor.Retirer = (*liveVM)(nil)

	_ hypervisor.Suspender = (*liveVM)(nil)
	_ hypervisor.Renamer   = (*liveVM)(nil)
)

// Suspend halts the processors.
func (v *liveVM) Suspend(ctx context.Context) error {
	return v.does(ctx, "libvirt.Suspend", true, func(l *golibvirt.Libvirt, s golibvirt.DomainState) error {
		if s != golibvirt.DomainRunning {
			return nil
		}
		return l.DomainSuspend(v.ref)
	})
}

// Rename gives the VM a name, as hypervisor.Renamer promises.
func (v *liveVM) Rename(ctx context.Context, name string) error {
	const op = "libvirt.Rename"
	return v.does(ctx, op, false, func(l *golibvirt.Libvirt, s golibvirt.DomainState) error {
		now, err := l.DomainLookupByUUID(v.ref.UUID)
		if err != nil || now.Name == name {
			return err
		}
		if !isOff(s) {
			return errs.New(op, errs.Conflict, now.Name, "it runs").WithRemedy("shut it down first")
		}
		_, err = l.DomainRename(now, golibvirt.OptString{name}, 0)
		return err
	})
}

// does runs a command about the whole VM in its turn, with how its processors are. One
// that ended meanwhile is no error where off says so.
func (v *liveVM) does(ctx context.Context, op string, off bool, do func(l *golibvirt.Libvirt, s golibvirt.DomainState) error) error {
	done, err := v.p.turn(ctx, op, v.id, v.name)
	if err != nil {
		return err
	}
	defer done()
	err = tell(ctx, v.p.conn, op, v.name, func(l *golibvirt.Libvirt) error {
		s, _, err := l.DomainGetState(v.ref, 0)
		if err != nil {
			return err
		}
		return do(l, golibvirt.DomainState(s))
	})
	if off && isGone(err) && !errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// isOff reports whether a VM in a state has no process.
func isOff(s golibvirt.DomainState) bool {
	return s == golibvirt.DomainShutoff || s == golibvirt.DomainCrashed
}

// PowerOn starts the VM, as hypervisor.Powered promises.
func (v *liveVM) PowerOn(ctx context.Context) error {
	return v.does(ctx, "libvirt.PowerOn", false, func(l *golibvirt.Libvirt, s golibvirt.DomainState) error {
		switch {
		case isOff(s):
			return l.DomainCreate(v.ref)
		case s == golibvirt.DomainPaused:
			return l.DomainResume(v.ref)
		}
		return nil
	})
}

// ShutDown presses the power button.
func (v *liveVM) ShutDown(ctx context.Context) error {
	return v.does(ctx, "libvirt.ShutDown", true, func(l *golibvirt.Libvirt, s golibvirt.DomainState) error {
		if isOff(s) {
			return nil
		}
		return l.DomainShutdownFlags(v.ref, golibvirt.DomainShutdownAcpiPowerBtn)
	})
}

// PowerOff pulls the plug.
func (v *liveVM) PowerOff(ctx context.Context) error {
	return v.does(ctx, "libvirt.PowerOff", true, func(l *golibvirt.Libvirt, s golibvirt.DomainState) error {
		if isOff(s) {
			return nil
		}
		return l.DomainDestroyFlags(v.ref, golibvirt.DomainDestroyDefault)
	})
}

// Retire renames the VM, as hypervisor.Retirer promises.
func (v *liveVM) Retire(ctx context.Context) error {
	const op = "libvirt.Retire"
	return v.does(ctx, op, false, func(l *golibvirt.Libvirt, s golibvirt.DomainState) error {
		now, err := l.DomainLookupByUUID(v.ref.UUID) // by the name it has by now
		if err != nil {
			return err
		}
		if !isOff(s) {
			return errs.New(op, errs.Conflict, now.Name, "it runs").WithRemedy("shut it down first")
		}
		if err := l.DomainSetAutostart(now, 0); err != nil {
			return err
		}
		if name := hypervisor.RetiredName(now.Name, v.id); name != now.Name {
			_, err = l.DomainRename(now, golibvirt.OptString{name}, 0)
		}
		return err
	})
}
