package rocva

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/recovery"
)

// Fence begins a recovery of the domain and takes it to its fork.
func (s *Appliance) Fence(ctx context.Context, a *operate.Act, in *plan.PinInputs) (runs.Result, error) {
	return s.choose(ctx, a, in, recovery.Disaster, recovery.UntilForked)
}

// Pin begins a test of the domain and takes it to its pin.
func (s *Appliance) Pin(ctx context.Context, a *operate.Act, in *plan.PinInputs) (runs.Result, error) {
	return s.choose(ctx, a, in, recovery.Test, recovery.UntilPinned)
}

func (s *Appliance) choose(ctx context.Context, a *operate.Act, in *plan.PinInputs, op recovery.Operation, until string) (res runs.Result, err error) {
	begin := func(dir string) (*recovery.Run, error) {
		p, err := s.ready()
		if err != nil {
			return nil, err
		}
		q, err := s.request(in.Domain)
		if err != nil {
			return nil, err
		}
		if d, err := s.domain(in.Domain); err == nil {
			from := s.reads(ctx, p.Open, d, in.Final)
			q.Protect.Copies = from.copies
			if q.URL, q.Access = from.url, from.access; from.warn != "" {
				a.Warn(from.warn)
			}
		}
		q.At, q.By, q.Note, q.Origin = spec(in), "plan "+string(a.Plan), a.Run, a.Origin
		for _, id := range in.VMs {
			q.VMs = append(q.VMs, id.String())
		}
		return p.Service.Begin(dir, op, q)
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
func (s *Appliance) Disks(ctx context.Context, a *operate.Act, in *plan.DisksInputs) (runs.Result, error) {
	return s.job(ctx, a, use{domain: in.Domain, test: in.Test, job: "disks"}, func(o *owned) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := s.build(ctx, a, o.run, in); err != nil {
				return err
			}
			return o.run.DoWith(ctx, recovery.Recover, recovery.ActOptions{Until: recovery.UntilHydrated})
		}
	})
}

// build says how a run's disks are built, before they are begun: of the standby that
// follows the domain, onto old disks, or as the plan says.
func (s *Appliance) build(ctx context.Context, a *operate.Act, r *recovery.Run, in *plan.DisksInputs) error {
	if r.Building() || r.Record().Hydrated {
		return nil
	}
	mode := recovery.Instant
	if in.Mode == plan.DisksFull {
		mode = recovery.Full
	}
	if in.Test {
		return r.Build(mode, "", nil)
	}
	if dir := s.standby(ctx, in.Domain, r.Record()); dir != "" {
		return r.Build(recovery.Warm, dir, nil)
	}
	if err := s.plant(s.life, a, r.Record()); err != nil {
		a.Warn("the images that are given for its disks cannot be used: " + err.Error())
	}
	lock, err := s.lockSeeds() // until the run notes which it takes
	if err != nil {
		return err
	}
	defer lock.Close()
	old, err := s.reap(ctx, r.Record(), s.records())
	if err != nil {
		a.Warn("the old disks cannot be used, they are built anew: " + err.Error())
	}
	if len(old) > 0 {
		mode = recovery.Full // they are compared as a whole
	}
	return r.Build(mode, "", old)
}

// job does an action of the domain's run that may last.
func (s *Appliance) job(ctx context.Context, a *operate.Act, u use, do func(*owned) func(context.Context) error) (res runs.Result, err error) {
	err = s.with(ctx, a, u, func(o *owned) error {
		done, err := o.work(u.job, do(o))
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
func (s *Appliance) TestNetwork(context.Context, *operate.Act, *plan.NetworkInputs) (runs.Result, error) {
	return runs.Result{AlreadyDone: true, Note: "it comes with its VMs"}, nil
}

// Configure says how the VM is built here.
func (s *Appliance) Configure(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	return runs.Result{}, s.with(ctx, a, use{domain: in.Domain, test: in.Test}, func(o *owned) error {
		p := &in.Placement
		v := recorded(o.run.Record(), p.VM)
		if v == nil {
			return errs.New("rocva.Configure", errs.NotFound, string(p.Name), "the checkpoint has no configuration of this VM")
		}
		c := recovery.Override{Name: string(p.Name), CPUs: p.CPUs, MemoryMiB: p.MemoryMiB, Cards: map[int]recovery.Card{}}
		networks := map[string]hypervisor.Network{}
		for _, n := range p.NICs {
			if n.Index >= len(v.Recorded.NICs) {
				a.Warn(fmt.Sprintf("card %d is not in the checkpoint", n.Index))
				continue
			}
			to := isolated + string(n.Isolated) // is mapped to nothing
			if n.Network != "" {
				to = string(n.Network)
				net, err := s.network(n.Network)
				if err != nil {
					return err
				}
				networks[to] = net
			}
			c.Cards[n.Index] = recovery.Card{Network: to, MAC: n.MAC}
		}
		return o.run.Place(p.VM, c, networks)
	})
}

// isolated begins the name of a network that reaches nothing.
const isolated = "isolated:"

func recorded(rec *recovery.Record, id dr.VMID) *recovery.VMRecord {
	for i := range rec.VMs {
		if rec.VMs[i].Source == id && rec.VMs[i].Recorded != nil {
			return &rec.VMs[i]
		}
	}
	return nil
}

// PowerOn starts the VM, in the place of what stood for it.
func (s *Appliance) PowerOn(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (res runs.Result, err error) {
	err = s.with(ctx, a, use{domain: a.Domain, test: vm.Test}, func(o *owned) error {
		up, err := o.run.Runs(ctx, vm.VM)
		if err != nil || up {
			res.AlreadyDone = up
			return err
		}
		if v := recorded(o.run.Record(), vm.VM); v != nil && !vm.Test {
			if err := s.makeWay(ctx, v); err != nil {
				return err
			}
		}
		if err := o.run.StartVM(ctx, vm.VM); err != nil {
			return s.inTurn(&res, err)
		}
		s.greet(o.run, vm.VM)
		return nil
	})
	return res, err
}

// PowerOff stops a recovered VM; it is removed with its disks.
func (s *Appliance) PowerOff(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (res runs.Result, err error) {
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

// spec is a point as package recovery reads it.
func spec(in *plan.PinInputs) string {
	switch {
	case in.Final:
		return recovery.Final
	case in.Checkpoint > 0:
		return fmt.Sprint(in.Checkpoint)
	case in.Point.App:
		return "app"
	case in.Point.Tag != "":
		return "tag:" + in.Point.Tag
	case !in.Point.At.IsZero():
		return in.Point.At.UTC().Format(time.RFC3339)
	}
	return "latest"
}
