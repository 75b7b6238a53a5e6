package realsite

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/recovery"
)

// Discard ends a test, or rolls a recovery back: VMs, disks, pins and the fork go.
func (s *Site) Discard(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	action := recovery.Rollback
	if in.Test {
		action = recovery.Cleanup
	}
	return gone(s.job(ctx, a, in.Domain, in.Test, string(action), func(o *owned) func(context.Context) error {
		return func(ctx context.Context) error {
			return o.run.DoWith(ctx, action, recovery.ActOptions{Force: in.Forced && in.Test})
		}
	}))
}

// Return looks that the fork is gone: it goes with the disks.
func (s *Site) Return(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	err := s.with(ctx, a, use{domain: in.Domain}, func(o *owned) error {
		return errs.New("realsite.Return", errs.Conflict, string(in.Domain), "its recovery is "+string(o.run.Record().State)).WithRemedy("roll back again")
	})
	return gone(runs.Result{}, err)
}

// Promote ends the recovery, and commits it; it is done when its disks are whole.
func (s *Site) Promote(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	res, err := s.job(ctx, a, in.Domain, false, "commit", func(o *owned) func(context.Context) error {
		return func(ctx context.Context) error { return commit(ctx, o.run) }
	})
	if err != nil || res.Again > 0 {
		return res, err
	}
	err = s.with(ctx, a, use{domain: in.Domain}, func(o *owned) error {
		if !o.run.Record().Hydrated {
			res.Again = jobEvery
		}
		return nil
	})
	return res, err
}

func commit(ctx context.Context, r *recovery.Run) error {
	rec := r.Record()
	if rec.Committed && !rec.State.Active() {
		return nil
	}
	if rec.Action == recovery.Recover && rec.State != recovery.BeforeCommit {
		for i := range rec.VMs { // what the plan has not started stays down
			v := &rec.VMs[i]
			if v.Recorded == nil || !v.Started.IsZero() {
				continue
			}
			o := rec.Request.Overrides[v.Source.String()]
			o.Down = true
			if err := r.Place(v.Source, o); err != nil {
				return err
			}
		}
		if err := r.Do(ctx, recovery.Recover); err != nil {
			return err
		}
	}
	return r.Do(ctx, recovery.Commit)
}

// Protect looks that the commit has prepared the protection here.
func (s *Site) Protect(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return s.committed(ctx, a, in)
}

// Reverse looks that the domain goes on here: its history has from the fence on.
func (s *Site) Reverse(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return s.committed(ctx, a, in)
}

func (s *Site) committed(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return runs.Result{AlreadyDone: true, Note: "it comes with the commit"}, s.with(ctx, a, use{domain: in.Domain}, func(o *owned) error {
		if rec := o.run.Record(); !rec.Committed {
			return errs.New("realsite.Protect", errs.Conflict, string(in.Domain), "its recovery is "+string(rec.State)).WithRemedy("commit it first")
		}
		return nil
	})
}

// Resync waits for the first recovery point here.
func (s *Site) Resync(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return s.job(ctx, a, in.Domain, false, "reprotect", func(o *owned) func(context.Context) error {
		return func(ctx context.Context) error { return o.run.Do(ctx, recovery.Reprotect) }
	})
}

// platform does something of the platform's.
func (s *Site) platform(ctx context.Context, a *operate.Act, what string, f func(Platform) error) (runs.Result, error) {
	if s.opts.Platform == nil {
		return runs.Result{}, unable(what)
	}
	if err := s.fenced(a); err != nil {
		return runs.Result{}, err
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	return runs.Result{}, f(s.opts.Platform)
}

// WakeHost wakes a standby host.
func (s *Site) WakeHost(ctx context.Context, a *operate.Act, in *plan.HostInputs) (runs.Result, error) {
	return s.platform(ctx, a, "wake hosts", func(p Platform) error { return p.Wake(ctx, a.To, in.Host) })
}

// Suspend suspends a VM of the recovery site.
func (s *Site) Suspend(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return s.platform(ctx, a, "suspend VMs", func(p Platform) error { return p.Suspend(ctx, vm) })
}

// Resume resumes it.
func (s *Site) Resume(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return s.platform(ctx, a, "resume VMs", func(p Platform) error { return p.Resume(ctx, vm) })
}

// Retire takes an old VM out of service.
func (s *Site) Retire(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return s.platform(ctx, a, "take VMs out of service", func(p Platform) error { return p.Retire(ctx, vm) })
}

// Placeholder puts a placeholder in its place.
func (s *Site) Placeholder(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	return s.platform(ctx, a, "make placeholders", func(p Platform) error { return p.Placeholder(ctx, in) })
}

// Clean removes what the old direction left.
func (s *Site) Clean(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return s.platform(ctx, a, "clean the old site", func(p Platform) error { return p.Clean(ctx, a.From, in) })
}

// Script runs a command: of the manager as a process of its own, others by Guests.
func (s *Site) Script(ctx context.Context, a *operate.Act, in *plan.ScriptInputs) (runs.Result, error) {
	if err := s.fenced(a); err != nil {
		return runs.Result{}, err
	}
	if in.Run != plan.OnManager {
		if s.opts.Guests == nil {
			return runs.Result{}, unable("run scripts in guests or on appliances")
		}
		return runs.Result{}, s.opts.Guests.Script(ctx, a, in)
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	return runs.Result{}, command(ctx, a, in)
}

// command runs a script with nothing of the manager's environment but PATH, in a process
// group of its own, which ends with it.
func command(ctx context.Context, a *operate.Act, in *plan.ScriptInputs) error {
	cmd := exec.CommandContext(ctx, in.Command[0], in.Command[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOLDFAST_KEY=" + a.Key, "HOLDFAST_RUN=" + a.Run, "HOLDFAST_PLAN=" + string(a.Plan),
		"HOLDFAST_FROM=" + string(a.From), "HOLDFAST_TO=" + string(a.To), fmt.Sprintf("HOLDFAST_ATTEMPT=%d", a.Attempt)}
	if in.VM != nil {
		cmd.Env = append(cmd.Env, "HOLDFAST_VM="+string(in.VM.Name), "HOLDFAST_VM_ID="+in.VM.VM.String())
	}
	for k, v := range in.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Stdout, cmd.Stderr = a.Output(), a.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	runtime.LockOSThread() // the signal of its end is of the thread that began it
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return errs.E("realsite.Script", errs.Canceled, in.Name, context.Cause(ctx))
		}
		return errs.E("realsite.Script", errs.Invalid, in.Name, err).WithRemedy("see its output")
	}
	return nil
}
