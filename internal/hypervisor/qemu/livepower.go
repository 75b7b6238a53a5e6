package qemu

import (
	"context"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
)

var (
	_ hypervisor.Powered   = (*LiveVM)(nil)
	_ hypervisor.Suspender = (*LiveVM)(nil)
	_ hypervisor.Guest     = (*LiveVM)(nil)
)

// Suspend halts the processors.
func (v *LiveVM) Suspend(ctx context.Context) error { return v.ends(ctx, "qemu.Suspend", "stop") }

// PowerOn lets a paused VM go on. One that has no process is started by whoever
// started it: QEMU keeps no books.
func (v *LiveVM) PowerOn(ctx context.Context) error {
	const op = "qemu.PowerOn"
	release, err := v.take(ctx, op)
	if err != nil {
		return err
	}
	defer release()
	q, err := v.connection(op)
	if err != nil {
		return errs.E(op, errs.Unavailable, v.name(), err).WithRemedy("start it as it was started: QEMU by itself keeps no VM that does not run")
	}
	return q.execute(ctx, "cont", nil, nil)
}

// ShutDown presses the power button.
func (v *LiveVM) ShutDown(ctx context.Context) error {
	return v.ends(ctx, "qemu.ShutDown", "system_powerdown")
}

// PowerOff has QEMU end, and waits until it is gone.
func (v *LiveVM) PowerOff(ctx context.Context) error {
	const op = "qemu.PowerOff"
	if err := v.ends(ctx, op, "quit"); err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := v.connection(op); err != nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errs.E(op, errs.Canceled, v.name(), context.Cause(ctx))
		}
	}
}

// ends runs a command by which QEMU may end, which is no failure of it.
func (v *LiveVM) ends(ctx context.Context, op, command string) error {
	release, err := v.take(ctx, op)
	if err != nil {
		return err
	}
	defer release()
	q, err := v.connection(op)
	if err != nil {
		return nil // it is off
	}
	if err := q.execute(ctx, command, nil, nil); err != nil && !errs.Is(err, errs.Unavailable) {
		return err
	}
	return nil
}
