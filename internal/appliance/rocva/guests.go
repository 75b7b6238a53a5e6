package rocva

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/guest"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/mapping"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/recovery"
)

// What is done in recovered guests, by their agents.

// tells is where a run keeps what guests are to be told of their cards.
func tells(r *recovery.Run, vm dr.VMID) string {
	return r.Dir() + "/addresses/" + vm.String() + ".json"
}

// Address notes what the guest is to be told of its cards: it is, whenever it starts here
// and its agent answers.
func (s *Appliance) Address(ctx context.Context, a *operate.Act, in *plan.ConfigureInputs) (runs.Result, error) {
	return runs.Result{}, s.with(ctx, a, use{domain: in.Domain, test: in.Test}, func(o *owned) error {
		b, err := json.Marshal(in.Placement.NICs)
		if err != nil {
			return errs.E("rocva.Address", errs.Internal, string(in.Placement.Name), err)
		}
		path := tells(o.run, in.Placement.VM)
		if err := durable.MkdirAll(durable.OS{}, o.run.Dir()+"/addresses"); err != nil {
			return err
		}
		if err := durable.WriteFile(durable.OS{}, path, b); err != nil {
			return err
		}
		if up, err := o.run.Runs(ctx, in.Placement.VM); err == nil && up {
			s.greet(o.run, in.Placement.VM)
		}
		return nil
	})
}

// toldOf returns what a guest is to be told of its cards; none: it is left alone.
func toldOf(r *recovery.Run, vm dr.VMID) (cards []mapping.NIC, err error) {
	b, err := durable.ReadFile(durable.OS{}, tells(r, vm), maxSeeds)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &cards)
	}
	return cards, err
}

// greet has a guest that starts told its addresses as soon as its agent answers.
func (s *Appliance) greet(r *recovery.Run, vm dr.VMID) {
	cards, err := toldOf(r, vm)
	if err != nil {
		s.log.Warn("what a guest is to be told cannot be read", "vm", vm, "err", err)
	}
	if len(cards) == 0 {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(s.life, greetLimit)
		defer cancel()
		tick := time.NewTicker(greetEvery)
		defer tick.Stop()
		for {
			v, err := r.Handle(ctx, vm)
			if v == nil && err == nil {
				return // it has ended
			}
			if err == nil {
				err = s.tell(ctx, r, vm, v)
			}
			if err == nil {
				return
			}
			select {
			case <-ctx.Done():
				if s.life.Err() == nil {
					s.log.Warn("a guest was not told its addresses", "vm", vm, "err", err)
				}
				return
			case <-tick.C:
			}
		}
	}()
}

// asked returns a run's VM to whom wants to ask its guest.
func (s *Appliance) asked(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (*recovery.Run, hypervisor.VM, hypervisor.Guest, error) {
	const op = "rocva.guest"
	r, err := s.runOf(ctx, a, vm)
	if err != nil {
		return nil, nil, nil, err
	}
	v, err := r.Handle(ctx, vm.VM)
	if err != nil {
		return nil, nil, nil, err
	}
	if v == nil {
		return nil, nil, nil, errs.New(op, errs.Conflict, string(vm.Name), "it does not run").WithRemedy("see why it ended")
	}
	g, ok := v.(hypervisor.Guest)
	if !ok {
		return nil, nil, nil, errs.New(op, errs.Invalid, string(vm.Name), "its platform does not reach guests' agents").WithRemedy("set agent: 0s in the plan, and remove scripts in guests")
	}
	return r, v, g, nil
}

// runOf returns the plan's run that has a VM. A script at a phase is of no domain: the run
// is found by its VM.
func (s *Appliance) runOf(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (*recovery.Run, error) {
	if a.Domain != "" {
		return s.look(ctx, a, a.Domain, vm.Test)
	}
	var found *recovery.Run
	for _, o := range s.all() {
		r := o.seen.Load()
		if r == nil || filepath.Dir(filepath.Dir(r.Dir())) != s.path("r", short(a.Plan)) {
			continue
		}
		rec := r.Record()
		if !asks(a, rec) || over(rec.State) || (rec.Operation == recovery.Test) != vm.Test || recorded(rec, vm.VM) == nil {
			continue
		}
		if found == nil || rec.Created.After(found.Record().Created) {
			found = r
		}
	}
	if found == nil {
		return nil, errs.New("rocva.guest", errs.NotFound, string(vm.Name), "no recovery of the plan here has this VM").WithRemedy("run the recovery again")
	}
	return found, nil
}

// AgentUp reports whether a guest's agent answers, and has told the guest its addresses.
func (s *Appliance) AgentUp(ctx context.Context, a *operate.Act, vm *plan.VMInputs) (bool, error) {
	r, v, g, err := s.asked(ctx, a, vm)
	if err != nil {
		return false, err
	}
	if err := guest.Ping(ctx, g); err != nil {
		if errs.Is(err, errs.Unavailable) || errs.Is(err, errs.Transient) {
			return false, nil
		}
		return false, err
	}
	if err := s.tell(ctx, r, vm.VM, v); err != nil {
		return false, errs.E("rocva.AgentUp", errs.Transient, string(vm.Name), fmt.Errorf("its addresses are not set: %w", err))
	}
	return true, nil
}

// PortUp reports whether a guest's port accepts: one that can be reached is connected to,
// of others the guest says what listens.
func (s *Appliance) PortUp(ctx context.Context, a *operate.Act, vm *plan.VMInputs, port int) (bool, error) {
	r, _, g, err := s.asked(ctx, a, vm)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, agentLimit)
	defer cancel()
	rec := r.Record()
	v := recorded(rec, vm.VM)
	open := v != nil && slices.ContainsFunc(v.Config.NICs, func(n dr.NIC) bool { return rec.Request.Networks[n.Network].Kind == hypervisor.Named })
	if !open {
		up, err := guest.Listens(ctx, g, port)
		if err != nil {
			err = errs.E("rocva.PortUp", errs.Unavailable, string(vm.Name), fmt.Errorf("its networks lead nowhere, and its agent does not tell what listens: %w", err))
		}
		return up, err
	}
	addresses, err := s.reachable(ctx, r, vm.VM, g)
	if err != nil {
		return false, err
	}
	for _, addr := range addresses {
		if accepts(ctx, net.JoinHostPort(addr.String(), strconv.Itoa(port))) {
			return true, nil
		}
	}
	return false, nil
}

func accepts(ctx context.Context, address string) bool {
	d := net.Dialer{Timeout: portLimit}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// reachable are a guest's addresses: those it was told, else those it has.
func (s *Appliance) reachable(ctx context.Context, r *recovery.Run, vm dr.VMID, g hypervisor.Guest) (out []netip.Addr, err error) {
	cards, err := toldOf(r, vm)
	if err != nil {
		return nil, err
	}
	for _, c := range cards {
		for _, p := range c.Config.Addresses {
			out = append(out, p.Addr())
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	list, err := guest.Interfaces(ctx, g)
	for _, i := range list {
		for _, p := range i.Addresses {
			if !p.Addr().IsLinkLocalUnicast() {
				out = append(out, p.Addr())
			}
		}
	}
	return out, err
}

// greeting is when a guest was told its addresses: in which run of its VM, and in which
// boot of that. A guest that boots again has those of its own configuration.
type greeting struct {
	vm   hypervisor.VM
	boot string // "": the guest does not tell
	at   time.Time
}

// tell tells a guest its addresses, unless it was told in this boot and had time to settle.
// What it changes afterwards is its own affair. Its agent answers.
func (s *Appliance) tell(ctx context.Context, r *recovery.Run, vm dr.VMID, v hypervisor.VM) error {
	cards, err := toldOf(r, vm)
	if err != nil || len(cards) == 0 {
		return err
	}
	s.telling.Lock()
	defer s.telling.Unlock()
	g, ok := v.(hypervisor.Guest)
	if !ok {
		return unable("reach guests' agents")
	}
	boot, err := guest.Boot(ctx, g)
	if err != nil {
		return err
	}
	was, known := s.greeted[v.ID()]
	known = known && was.vm == v && was.boot == boot
	if known && s.now().Sub(was.at) >= settleFor {
		return nil
	}
	has, err := guest.Interfaces(ctx, g)
	if err != nil {
		return err
	}
	rec := recorded(r.Record(), vm)
	if rec == nil {
		return nil
	}
	for _, c := range cards {
		if c.Config.IsZero() || c.Index >= len(rec.Config.NICs) {
			continue
		}
		mac := strings.ToLower(rec.Config.NICs[c.Index].MAC)
		if err := address(ctx, g, mac, &c.Config, has); err != nil {
			return err
		}
	}
	if !known {
		s.greeted[v.ID()] = greeting{v, boot, s.now()}
	}
	return nil
}

// regreet has guests told their addresses again that have booted again since, or whose own
// configuration came after. It does not wait.
func (s *Appliance) regreet(o *owned, r *recovery.Run) {
	rec := r.Record()
	if over(rec.State) || !o.regreeting.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer o.regreeting.Store(false)
		ctx, cancel := context.WithTimeout(s.life, regreetLimit)
		defer cancel()
		for i := range rec.VMs {
			if ctx.Err() != nil {
				return
			}
			if err := s.regreetOne(ctx, r, rec.VMs[i].Source); err != nil {
				s.log.Warn("a guest that booted again was not told its addresses", "vm", rec.VMs[i].Config.Name, "err", err, "remedy", errs.RemedyOf(err))
			}
		}
	}()
}

// regreetOne is regreet for a guest that was told before; others are being told by who
// started them.
func (s *Appliance) regreetOne(ctx context.Context, r *recovery.Run, vm dr.VMID) error {
	v, err := r.Handle(ctx, vm)
	if err != nil || v == nil {
		return err
	}
	s.telling.Lock()
	was, known := s.greeted[v.ID()]
	s.telling.Unlock()
	if !known || was.vm != v || was.boot == "" && s.now().Sub(was.at) >= settleFor {
		return nil
	}
	if g, ok := v.(hypervisor.Guest); !ok || guest.Ping(ctx, g) != nil {
		return nil // it boots just now
	}
	err = s.tell(ctx, r, vm, v)
	if errs.Is(err, errs.Unavailable) || errs.Is(err, errs.Transient) || errs.Is(err, errs.Canceled) || errs.Is(err, errs.Conflict) {
		return nil // it is asked again
	}
	return err
}

// Script runs a script in a guest, or on this machine.
func (s *Appliance) Script(ctx context.Context, a *operate.Act, in *plan.ScriptInputs) (runs.Result, error) {
	const op = "rocva.Script"
	if in.Run == plan.OnAppliance {
		if err := a.Hold(ctx); err != nil {
			return runs.Result{}, err
		}
		return runs.Result{}, command.Run(ctx, a, in)
	}
	if in.Run != plan.InGuest || in.VM == nil {
		return runs.Result{}, errs.New(op, errs.Invalid, in.Name, "it is no script of this appliance")
	}
	if len(in.Command) == 0 || !strings.HasPrefix(in.Command[0], "/") && !strings.Contains(in.Command[0], ":") {
		return runs.Result{}, errs.New(op, errs.Invalid, in.Name, "the program in the guest is not named by its whole path").WithRemedy("write /bin/sh, or C:\\Windows\\…")
	}
	_, _, g, err := s.asked(ctx, a, in.VM)
	if err != nil {
		return runs.Result{}, err
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	limit := in.Limit
	if limit == 0 {
		limit = scriptLimit
	}
	limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %v", limit))
	defer cancel()
	status, err := guest.Run(limited, g, guest.Command{Args: in.Command, Env: environment(a, in)}, a.Output())
	switch {
	case err != nil && ctx.Err() == nil && limited.Err() != nil:
		return runs.Result{}, errs.E(op, errs.Transient, in.Name, errors.Join(context.Cause(limited), err)).WithRemedy("see its output, or give it more time")
	case err != nil:
		return runs.Result{}, err
	case status != 0:
		return runs.Result{}, errs.New(op, errs.Unavailable, in.Name, fmt.Sprintf("it ended with status %d", status)).WithRemedy("see its output")
	}
	return runs.Result{}, nil
}

// environment is what a script in a guest gets: nothing else is in it.
func environment(a *operate.Act, in *plan.ScriptInputs) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOLDFAST_KEY=" + a.Key, "HOLDFAST_RUN=" + a.Run, "HOLDFAST_PLAN=" + string(a.Plan),
		"HOLDFAST_FROM=" + string(a.From), "HOLDFAST_TO=" + string(a.To), fmt.Sprintf("HOLDFAST_ATTEMPT=%d", a.Attempt),
		"HOLDFAST_VM=" + string(in.VM.Name), "HOLDFAST_VM_ID=" + in.VM.VM.String(),
	}
	for k, v := range in.Env {
		env = append(env, k+"="+v)
	}
	slices.Sort(env[8:])
	return env
}
