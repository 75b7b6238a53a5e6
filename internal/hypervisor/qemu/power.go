package qemu

import (
	"context"
	"path/filepath"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

// Status returns the state now.
func (v *VM) Status() hypervisor.Status { return v.life.Status() }

// ID returns the VM's identity.
func (v *VM) ID() dr.VMID { return v.run.ID }

// Name returns the VM's name.
func (v *VM) Name() string { return v.run.Name }

// Serial returns the serial port's socket, or "".
func (v *VM) Serial() string { return v.inDir(v.run.Serial, serialSocket) }

// Monitor returns the socket by which a Platform takes the VM, or "".
func (v *VM) Monitor() string { return v.inDir(v.run.Keep, monitorSocket) }

var _ hypervisor.Guest = (*VM)(nil)

// AskGuest asks the guest's agent, as hypervisor.Guest promises.
func (v *VM) AskGuest(ctx context.Context, command string, args, result any) error {
	const op = "qemu.AskGuest"
	if s := v.Status(); s.State.Final() {
		return errs.New(op, errs.Conflict, v.run.Name, "the VM is "+s.State.String()+": "+s.Reason)
	}
	a := agent{path: v.inDir(v.run.Agent, agentSocket)}
	v.asking.Lock() // a port carries one conversation
	defer v.asking.Unlock()
	return a.execute(ctx, op, command, args, result)
}

// inDir returns the path of a socket the run has, or "".
func (v *VM) inDir(has bool, name string) string {
	if !has {
		return ""
	}
	return filepath.Join(v.dir, name)
}

// Events returns the VM's events.
func (v *VM) Events() <-chan hypervisor.Event { return v.life.Events() }

// PID returns the number of the QEMU process, for operators and for tests that
// pull the plug.
func (v *VM) PID() int { return v.proc.pid() }

// Execute runs one QMP command and stores its answer in result; args and
// result may be nil. Safe for concurrent use. A command whose ctx ends may
// still take effect. Kinds: Conflict (QEMU refused), Unavailable (it is gone),
// Full, Canceled.
func (v *VM) Execute(ctx context.Context, command string, args, result any) error {
	return v.qmp.execute(ctx, command, args, result)
}

// Pause halts the processors.
func (v *VM) Pause(ctx context.Context) error { return v.toggle(ctx, "qemu.Pause", "stop") }

// Resume lets a Paused VM run.
func (v *VM) Resume(ctx context.Context) error { return v.toggle(ctx, "qemu.Resume", "cont") }

// toggle runs a command that QEMU itself takes as done when there is nothing
// to do. The event that moves the state comes before the command's answer.
func (v *VM) toggle(ctx context.Context, op, command string) error {
	if s := v.Status(); s.State.Final() {
		return errs.New(op, errs.Conflict, v.run.Name, "the VM is "+s.State.String()+": "+s.Reason)
	}
	if err := v.qmp.execute(ctx, command, nil, nil); err != nil {
		return errs.E(op, errs.Internal, v.run.Name, err)
	}
	return nil
}

// Stop asks the guest to shut down.
func (v *VM) Stop(ctx context.Context, opt hypervisor.StopOptions) error {
	err := v.orderly(ctx, opt)
	if err != nil && opt.Force && ctx.Err() == nil {
		return v.Kill(ctx)
	}
	return err
}

// orderly shuts the guest down, or leaves it Running.
func (v *VM) orderly(ctx context.Context, opt hypervisor.StopOptions) error {
	return v.life.Orderly(ctx, v.run.Name, opt, func(ctx context.Context) error {
		err := v.qmp.execute(ctx, "system_powerdown", nil, nil)
		if errs.Is(err, errs.Unavailable) && !v.isLetGone() {
			return nil // it may just have ended: the goroutine that waits knows
		}
		return err
	})
}

// Kill ends the process and waits for it to be gone.
func (v *VM) Kill(ctx context.Context) error {
	if v.isLetGone() {
		return errs.New("qemu.Kill", errs.Unavailable, v.run.Name, "the provider was closed and let go of the VM")
	}
	v.kill()
	_, err := v.Wait(ctx)
	return err
}

// isLetGone reports whether the VM is somebody else's by now.
func (v *VM) isLetGone() bool {
	select {
	case <-v.letGone:
		return true
	default:
		return false
	}
}

// kill ends the process and notes that this was wanted.
func (v *VM) kill() {
	if v.Status().State.Final() {
		return
	}
	v.killed.Store(true)
	if err := v.proc.kill(); err != nil {
		v.log.Warn("kill failed", "err", err)
	}
}

// Wait returns the final status once there is one.
func (v *VM) Wait(ctx context.Context) (hypervisor.Status, error) {
	return v.life.WaitOr(ctx, v.letGone)
}
