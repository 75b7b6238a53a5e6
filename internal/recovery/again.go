package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/journal"
)

// VMs of a committed run that end are the domain's own: what somebody wanted stays so,
// what nobody wanted is made good. See hypervisor.State for which is which.

// Fallen is a VM that ended though nobody wanted it to.
type Fallen struct {
	VM   dr.VMID // in the container
	Name string  // as it is called here
	hypervisor.Status
}

// Fallen lists the VMs of a committed run that are to run and that, as this process saw
// it, ended though nobody wanted it. What their guests or somebody shut down is not among
// them, nor what ended while no process looked after the run: Resume starts that. It may
// be asked by any.
func (r *Run) Fallen() (list []Fallen) {
	rec := r.Record()
	if !rec.lasts() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range rec.VMs {
		vm := r.vms[v.Config.ID]
		if vm == nil || v.Recorded == nil || rec.Request.down(&v) {
			continue
		}
		if st := vm.Status(); st.State == hypervisor.Crashed {
			list = append(list, Fallen{v.Source, v.Config.Name, st})
		}
	}
	return list
}

// Why a VM of a committed run is not started: errors.Is tells.
var (
	// ErrMovedOn: its domain goes on elsewhere, or is about to.
	ErrMovedOn = errors.New("the domain goes on elsewhere")
	// ErrUntold: whether it does cannot be told now.
	ErrUntold = errors.New("whether the domain goes on elsewhere cannot be told now")
)

// lasts reports whether a run's VMs were made the domain, and are to run as such.
func (rec *Record) lasts() bool {
	return rec.Committed && !rec.State.Active() && rec.Action != Cleanup && !rec.Request.NoBoot
}

// Ours sees to it that a committed run's VMs still are the domain: none that is down may
// be started else, as the domain may run elsewhere. The store is asked only when one that
// is to run does not. It is the owner's, as Do is. Kinds: Conflict (ErrMovedOn), those of
// opening the container (ErrUntold).
func (r *Run) Ours(ctx context.Context) error {
	rec := r.Record()
	if !rec.Committed {
		return nil
	}
	if err := r.adopt(ctx); err != nil {
		return err
	}
	if !slices.ContainsFunc(rec.VMs, func(v VMRecord) bool {
		return v.Recorded != nil && !rec.Request.down(&v) && r.vm(v.Config.ID) == nil
	}) {
		return nil
	}
	if err := r.fenced(ctx); err != nil {
		return err
	}
	current, err := r.isCurrent(ctx)
	if err != nil {
		return errs.E("recovery.Ours", errs.Unavailable, rec.Name, fmt.Errorf("%w: %w", ErrUntold, err)).WithRemedy("see whether its store can be reached")
	}
	if !current {
		return errs.E("recovery.Ours", errs.Conflict, rec.Name, ErrMovedOn).WithRemedy("leave these VMs off, and clean this recovery away")
	}
	return nil
}

// isCurrent reports whether the run's history is the one its domain goes on in.
func (r *Run) isCurrent(ctx context.Context) (bool, error) {
	c, err := r.open(ctx)
	if err != nil {
		return false, err
	}
	all, err := c.Timelines(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(t journal.TimelineInfo) bool { return t.Current && t.ID == r.Record().Fork }), nil
}

// fenced asks the DRVA here whether somebody has shut it out: whoever recovers the domain
// elsewhere does that before he begins another history.
func (r *Run) fenced(ctx context.Context) error {
	var st drvaStatus
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if err := control.CallLocal(ctx, r.protectPath("drva.sock"), "/status", nil, &st); err != nil {
		return nil //nolint:nilerr // it does not run: the histories tell
	}
	if st.Publisher.Stopped == "" {
		return nil
	}
	return errs.E("recovery.Ours", errs.Conflict, r.Record().Name, fmt.Errorf("%w: its publisher here was stopped: %s", ErrMovedOn, st.Publisher.Stopped)).
		WithRemedy("leave these VMs off until it is known where the domain goes on")
}

// StartAgain starts a VM of a committed run that ended, by its id in the container, and
// has its protection find it; no effect on one that runs, whoever started it, or that is
// to stay down. Kinds: Conflict (the run is at work, or not committed; the domain has
// moved on), NotFound, those of Ours and of the hypervisor.
func (r *Run) StartAgain(ctx context.Context, vm dr.VMID) error {
	const op = "recovery.StartAgain"
	if rec := r.Record(); !rec.lasts() {
		return errs.New(op, errs.Conflict, r.dir, "the run is "+string(rec.State))
	}
	if err := r.Refresh(ctx); err != nil {
		return err
	}
	if err := r.Ours(ctx); err != nil {
		return err
	}
	rec := r.Record()
	i := slices.IndexFunc(rec.VMs, func(v VMRecord) bool { return v.Source == vm })
	if i < 0 {
		return errs.New(op, errs.NotFound, vm.String(), "the run has no such VM")
	}
	v := &rec.VMs[i]
	if r.vm(v.Config.ID) == nil { // else somebody was faster
		if err := r.bootOne(ctx, v, false); err != nil {
			return errs.E(op, errs.Internal, v.Config.Name, err)
		}
	}
	if r.vm(v.Config.ID) == nil && !rec.Request.down(v) {
		return errs.E(op, errs.Unavailable, v.Config.Name, errors.New("it ended at once"))
	}
	if err := errors.Join(r.define(ctx), r.tellProtection(ctx)); err != nil {
		return errs.E(op, errs.Internal, v.Config.Name, fmt.Errorf("it runs, but: %w", err))
	}
	return nil
}

// tellProtection has the protection find VMs that were started again, once disks are
// whole: before, there is none.
func (r *Run) tellProtection(ctx context.Context) error {
	if !r.Record().Hydrated {
		return nil
	}
	return r.launch(ctx)
}
