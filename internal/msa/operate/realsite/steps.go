package realsite

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// source does something with the protected site of a domain.
func (s *Site) source(ctx context.Context, a *operate.Act, f func(recovery.Source) error) error {
	if err := s.fenced(a); err != nil {
		return err
	}
	src, err := s.opts.Source(ctx, a.From, a.Domain)
	if err != nil {
		return err
	}
	err = f(src)
	if cerr := src.Close(); err == nil {
		err = cerr
	}
	return err
}

// Sync has the source publish what it has.
func (s *Site) Sync(ctx context.Context, a *operate.Act, in *plan.DomainInputs, final bool) (r runs.Result, err error) {
	err = s.source(ctx, a, func(src recovery.Source) error {
		if final {
			if err := off(ctx, src, in.VMs); err != nil && a.Step.OnError == runs.Stop {
				return err
			} else if err != nil {
				a.Warn(err.Error())
			}
		}
		if err := src.Sync(ctx); err != nil {
			return err
		}
		if err := a.Hold(ctx); err != nil {
			return err
		}
		id, err := src.Checkpoint(ctx, "plan "+string(a.Plan))
		r.Note = fmt.Sprintf("checkpoint %d", id)
		return err
	})
	return r, err
}

func off(ctx context.Context, src recovery.Source, vms []dr.VMID) error {
	up, err := src.Running(ctx)
	if err != nil {
		return err
	}
	for _, id := range up {
		if slices.Contains(vms, id) {
			return errs.New("realsite.SourceOff", errs.Conflict, id.String(), "it runs at the protected site").WithRemedy("see who started it")
		}
	}
	return nil
}

// Running reports whether a VM runs: at the protected site, or here.
func (s *Site) Running(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (up bool, err error) {
	err = s.source(ctx, a, func(src recovery.Source) error {
		list, err := src.Running(ctx)
		up = slices.Contains(list, vm.VM)
		return err
	})
	return up, err
}

// Shutdown shuts a guest down in order.
func (s *Site) Shutdown(ctx context.Context, a *operate.Act, vm *plan.VMInputs) error {
	return s.source(ctx, a, func(src recovery.Source) error { return src.Shutdown(ctx, vm.VM) })
}

// Cut takes a VM's power.
func (s *Site) Cut(ctx context.Context, _ *operate.Act, vm *plan.VMInputs) error {
	if s.opts.Platform == nil {
		return unable("cut the power of VMs at the protected site")
	}
	return s.opts.Platform.Cut(ctx, vm)
}

// SourceOff sees that nothing of the domain runs.
func (s *Site) SourceOff(ctx context.Context, a *operate.Act, in *plan.DomainInputs) (runs.Result, error) {
	return runs.Result{}, s.source(ctx, a, func(src recovery.Source) error { return off(ctx, src, in.VMs) })
}

// StartSource starts a VM of the protected site.
func (s *Site) StartSource(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (runs.Result, error) {
	return runs.Result{}, s.source(ctx, a, func(src recovery.Source) error {
		if err := a.Hold(ctx); err != nil {
			return err
		}
		return src.Start(ctx, vm.VM)
	})
}

// Fence begins a recovery of the domain and takes it to its fork.
func (s *Site) Fence(ctx context.Context, a *operate.Act, in *plan.PinInputs) (runs.Result, error) {
	return s.choose(ctx, a, in, recovery.Disaster, recovery.UntilForked)
}

// Pin begins a test of the domain and takes it to its pin.
func (s *Site) Pin(ctx context.Context, a *operate.Act, in *plan.PinInputs) (runs.Result, error) {
	return s.choose(ctx, a, in, recovery.Test, recovery.UntilPinned)
}

func (s *Site) choose(ctx context.Context, a *operate.Act, in *plan.PinInputs, op recovery.Operation, until string) (res runs.Result, err error) {
	if in.Point.App {
		return res, errs.New("realsite.Pin", errs.Invalid, "point", "the newest application-consistent point cannot be chosen here yet").WithRemedy("name a checkpoint, a tag or a time")
	}
	begin := func(dir string) (*recovery.Run, error) {
		q, err := s.opts.Request(ctx, in.Domain)
		if err != nil {
			return nil, err
		}
		q.At, q.By, q.Note = spec(in), "plan "+string(a.Plan), a.Run
		for _, id := range in.VMs {
			q.VMs = append(q.VMs, id.String())
		}
		return s.opts.Service.Begin(dir, op, q)
	}
	err = s.with(ctx, a, use{domain: in.Domain, test: op == recovery.Test, begin: begin}, func(o *owned) error {
		rec := o.run.Record()
		if rec.Checkpoint != nil && (op == recovery.Test || !rec.Fork.IsZero()) {
			res.AlreadyDone = true
			if rec.Request.At != spec(in) {
				a.Warn(fmt.Sprintf("the checkpoint was chosen before, as %q: it is kept", rec.Request.At))
			}
		} else if err := o.run.DoWith(ctx, recovery.Recover, recovery.ActOptions{Until: until}); err != nil {
			return err
		}
		cp := o.run.Record().Checkpoint
		b, err := json.Marshal(operate.Pinned{Checkpoint: uint64(cp.ID), TimeMS: cp.Time.UnixMilli(), Kind: cp.Kind.String(), Tag: cp.Tag})
		res.Memory = b
		return err
	})
	return res, err
}

// Disks takes the domain's run to where its VMs can be started.
func (s *Site) Disks(ctx context.Context, a *operate.Act, in *plan.DisksInputs) (runs.Result, error) {
	return s.job(ctx, a, in.Domain, in.Test, "disks", func(o *owned) func(context.Context) error {
		return func(ctx context.Context) error {
			return o.run.DoWith(ctx, recovery.Recover, recovery.ActOptions{Until: recovery.UntilHydrated})
		}
	})
}

// job does an action of the domain's run that may last.
func (s *Site) job(ctx context.Context, a *operate.Act, in site.Name, test bool, name string, do func(*owned) func(context.Context) error) (res runs.Result, err error) {
	err = s.with(ctx, a, use{domain: in, test: test, job: name}, func(o *owned) error {
		done, err := o.work(name, do(o))
		if !done {
			res.Again, res.Memory = jobEvery, json.RawMessage(`{"job":true}`)
			if n := o.run.Status().Hydration; n != nil {
				a.Progress(n.Bytes, n.Total)
			}
		}
		return err
	})
	return res, err
}

// TestNetwork has nothing to do: what is mapped to no network is isolated.
func (s *Site) TestNetwork(context.Context, *operate.Act, *plan.NetworkInputs) (runs.Result, error) {
	return runs.Result{AlreadyDone: true, Note: "it comes with its VMs"}, nil
}

// Configure says how the VM is built here.
func (s *Site) Configure(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	return runs.Result{}, s.with(ctx, a, use{domain: in.Domain, test: in.Test}, func(o *owned) error {
		p := &in.Placement
		v := recorded(o.run.Record(), p.VM)
		if v == nil {
			return errs.New("realsite.Configure", errs.NotFound, string(p.Name), "the checkpoint has no configuration of this VM")
		}
		c := recovery.Override{Name: string(p.Name), CPUs: p.CPUs, MemoryMiB: p.MemoryMiB, Networks: map[string]string{}}
		for _, n := range p.NICs {
			if n.Index >= len(v.Recorded.NICs) {
				a.Warn(fmt.Sprintf("card %d is not in the checkpoint", n.Index))
				continue
			}
			to := string(n.Network)
			if to == "" {
				to = "isolated:" + string(n.Isolated) // is mapped to nothing
			}
			c.Networks[v.Recorded.NICs[n.Index].Network] = to
		}
		return o.run.Place(p.VM, c)
	})
}

func recorded(rec *recovery.Record, id dr.VMID) *recovery.VMRecord {
	for i := range rec.VMs {
		if rec.VMs[i].Source == id && rec.VMs[i].Recorded != nil {
			return &rec.VMs[i]
		}
	}
	return nil
}

// Address has the guest told its addresses.
func (s *Site) Address(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	if s.opts.Guests == nil {
		a.Warn("nobody here tells guests their addresses: it keeps those it has")
		return runs.Result{}, nil
	}
	return runs.Result{}, s.with(ctx, a, use{domain: in.Domain, test: in.Test}, func(o *owned) error { return s.opts.Guests.Address(ctx, o.run, in) })
}

// PowerOn starts the VM.
func (s *Site) PowerOn(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (res runs.Result, err error) {
	err = s.with(ctx, a, use{domain: a.Domain, test: vm.Test}, func(o *owned) error {
		up, err := o.run.Runs(ctx, vm.VM)
		if err != nil || up {
			res.AlreadyDone = up
			return err
		}
		return o.run.StartVM(ctx, vm.VM)
	})
	return res, err
}

// AgentUp reports whether a guest's agent answers.
func (s *Site) AgentUp(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (up bool, err error) {
	if s.opts.Guests == nil {
		return false, errs.New("realsite.AgentUp", errs.Invalid, string(vm.Name), "nobody here talks to guests' agents").WithRemedy("set agent: 0s in the plan")
	}
	err = s.with(ctx, a, use{domain: a.Domain, test: vm.Test}, func(o *owned) (err error) { up, err = s.opts.Guests.AgentUp(ctx, o.run, vm); return err })
	return up, err
}

// PortUp reports whether a guest's port accepts.
func (s *Site) PortUp(ctx context.Context, a *operate.Act, vm *plan.VMInputs, port int) (up bool, err error) {
	if s.opts.Guests == nil {
		return false, errs.New("realsite.PortUp", errs.Invalid, string(vm.Name), "nobody here reaches guests").WithRemedy("remove the port from the plan")
	}
	err = s.with(ctx, a, use{domain: a.Domain, test: vm.Test}, func(o *owned) (err error) {
		up, err = s.opts.Guests.PortUp(ctx, o.run, vm, port)
		return err
	})
	return up, err
}

// PowerOff stops a recovered VM; it is removed with its disks.
func (s *Site) PowerOff(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (res runs.Result, err error) {
	err = s.with(ctx, a, use{domain: a.Domain, test: vm.Test}, func(o *owned) error {
		up, err := o.run.Runs(ctx, vm.VM)
		if err != nil || !up {
			res.AlreadyDone = !up
			return err
		}
		return o.run.StopVM(ctx, vm.VM)
	})
	return gone(res, err)
}

// gone takes it for done that there is nothing to undo.
func gone(res runs.Result, err error) (runs.Result, error) {
	if errs.Is(err, errs.NotFound) {
		return runs.Result{AlreadyDone: true}, nil
	}
	return res, err
}
