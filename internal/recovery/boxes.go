package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter"
)

// Power switches the guests of a site on and off.
type Power interface {
	// Stop shuts a guest down in order. It may return before the guest is off.
	Stop(ctx context.Context, vm dr.VMID, name string) error
	// Start starts a VM; no effect on one that runs.
	Start(ctx context.Context, vm dr.VMID, name string) error
	// Close lets go of the guests.
	Close() error
}

// Recovery path, step 13: go home. The site that was recovered to is the source of
// the next planned migration; only what differs is shipped and read.

// Boxes is a Source reached by the local sockets of its DRVA and of its host
// components. A guest runs, to it, while somebody has one of its disks open.
type Boxes struct {
	DRVA  string   // socket
	Hosts []string // sockets
	Power Power
	// Limit is how long a guest may take to shut down; 0: 5 min.
	Limit time.Duration
}

var _ Source = (*Boxes)(nil)

// hosts asks every host component.
func (b *Boxes) hosts(ctx context.Context) ([]iofilter.Status, error) {
	var out []iofilter.Status
	for _, socket := range b.Hosts {
		var s iofilter.Status
		if err := control.CallLocal(ctx, socket, "/status", nil, &s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Sync waits until nothing is left to be copied and every host has its link.
func (b *Boxes) Sync(ctx context.Context) error {
	const op = "recovery.Sync"
	ctx, cancel := context.WithTimeoutCause(ctx, syncLimit, errors.New("the source did not come level in time"))
	defer cancel()
	return b.ask(ctx, op, func(s *drvaStatus) (bool, error) {
		if s.Paused != nil {
			return false, errs.New(op, errs.Conflict, b.DRVA, "protection of the domain is paused").WithRemedy("holdfast resume " + b.DRVA)
		}
		hosts, err := b.hosts(ctx)
		if err != nil {
			return false, err
		}
		for _, h := range hosts {
			if !h.Link.Up {
				return false, nil
			}
			for _, d := range h.Disks {
				switch d.State {
				case iofilter.Streaming, iofilter.NotActive, iofilter.BackPressure:
				case iofilter.PausedUser:
					return false, errs.New(op, errs.Conflict, d.VMName+" "+d.Name, "protection of the disk is paused").WithRemedy("holdfast resume SOCKET")
				default:
					return false, nil
				}
				if d.DirtyBytes > 0 {
					return false, nil
				}
			}
		}
		return len(hosts) > 0, nil
	})
}

// ask waits until ok holds of the DRVA's status. One that does not answer may be
// about to be started again; one that is gone ends the wait.
func (b *Boxes) ask(ctx context.Context, op string, ok func(*drvaStatus) (bool, error)) error {
	heard := time.Now()
	silent := func() error {
		if time.Since(heard) < silentLimit {
			return nil
		}
		return errs.New(op, errs.Unavailable, b.DRVA, fmt.Sprintf("the source's DRVA has not answered for %v", silentLimit)).
			WithRemedy("start it, then begin again; if its site is lost: holdfast recover disaster")
	}
	return pollOr(ctx, op, b.DRVA, silent, func(s *drvaStatus) (bool, error) {
		heard = time.Now()
		return ok(s)
	})
}

// Running lists the VMs that have a disk open.
func (b *Boxes) Running(ctx context.Context) (out []dr.VMID, err error) {
	hosts, err := b.hosts(ctx)
	for _, h := range hosts {
		for _, d := range h.Disks {
			if d.Clients > 0 && !slices.Contains(out, d.VM) {
				out = append(out, d.VM)
			}
		}
	}
	return out, err
}

// name finds what a VM is called.
func (b *Boxes) name(ctx context.Context, vm dr.VMID) (string, error) {
	hosts, err := b.hosts(ctx)
	for _, h := range hosts {
		for _, d := range h.Disks {
			if d.VM == vm {
				return d.VMName, nil
			}
		}
	}
	return vm.String(), err
}

// Shutdown stops a guest and waits until none of its disks is open.
func (b *Boxes) Shutdown(ctx context.Context, vm dr.VMID) error {
	limit := b.Limit
	if limit == 0 {
		limit = shutdownLimit
	}
	name, err := b.name(ctx, vm)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it was not off within %v", limit))
	defer cancel()
	if err := b.Power.Stop(ctx, vm, name); err != nil {
		return err
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		running, err := b.Running(ctx)
		if err == nil && !slices.Contains(running, vm) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errs.E("recovery.Shutdown", errs.Transient, name, errors.Join(context.Cause(ctx), err)).
				WithRemedy("shut the guest down by hand, then begin again")
		case <-tick.C:
		}
	}
}

// Start starts a VM. Its host component may be dead, which is no reason to leave the
// VM off: the VM goes by its id then.
func (b *Boxes) Start(ctx context.Context, vm dr.VMID) error {
	name, err := b.name(ctx, vm)
	if err != nil {
		name = vm.String()
	}
	return b.Power.Start(ctx, vm, name)
}

// Checkpoint cuts one and waits until it is published.
func (b *Boxes) Checkpoint(ctx context.Context, tag string) (dr.CheckpointID, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, syncLimit, errors.New("the checkpoint was not published in time"))
	defer cancel()
	var cut dr.Checkpoint
	if err := control.CallLocal(ctx, b.DRVA, "/checkpoint", map[string]any{"tag": tag}, &cut); err != nil {
		return 0, err
	}
	id := cut.ID
	if id == 0 {
		return 0, errs.New("recovery.Checkpoint", errs.Internal, b.DRVA, "the DRVA does not say which checkpoint it cut")
	}
	err := b.ask(ctx, "recovery.Checkpoint", func(s *drvaStatus) (bool, error) {
		p := s.Checkpoints.LastPublished
		return p != nil && p.ID >= id, nil
	})
	return id, err
}

// Close lets go of the guests.
func (b *Boxes) Close() error {
	if b.Power == nil {
		return nil
	}
	return b.Power.Close()
}

// SourceRun returns the site of a run that was committed here, as the source of
// a failback. It owns that run until Close. Kinds: those of Open; Conflict when
// the run is not protected.
func (s *Service) SourceRun(ctx context.Context, dir string) (Source, error) {
	r, err := s.Open(dir)
	if err != nil {
		return nil, err
	}
	rec := r.Record()
	if !rec.Committed || len(rec.Launched) == 0 {
		return nil, errors.Join(errs.New("recovery.source", errs.Conflict, dir, "the run is "+string(rec.State)+": what it recovered is not protected").
			WithRemedy("holdfast recover reprotect "+dir), r.Close())
	}
	if err := r.adopt(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	b := r.boxes()
	b.Power = runPower{r}
	return b, nil
}

// boxes are the run's own protection as a Source that switches nothing.
func (r *Run) boxes() *Boxes {
	return &Boxes{DRVA: r.protectPath("drva.sock"), Hosts: []string{r.protectPath("host.sock")}}
}

// Source returns the site of a run that was committed here, as the source of the next
// recovery, to the run's owner, who goes on to own it: Close changes nothing. Kind
// Conflict when the run is not protected.
func (r *Run) Source(ctx context.Context) (Source, error) {
	rec := r.Record()
	if !rec.Committed || len(rec.Launched) == 0 {
		return nil, errs.New("recovery.source", errs.Conflict, r.dir, "the run is "+string(rec.State)+": what it recovered is not protected").
			WithRemedy("reprotect it first")
	}
	if err := r.adopt(ctx); err != nil {
		return nil, err
	}
	b := r.boxes()
	b.Power = heldPower{runPower{r}}
	return b, nil
}

// heldPower is runPower of a run that somebody else closes.
type heldPower struct{ runPower }

func (heldPower) Close() error { return nil }

// runPower switches the guests of a run.
type runPower struct{ r *Run }

func (p runPower) Stop(ctx context.Context, vm dr.VMID, _ string) error {
	v := p.r.vm(vm)
	if v == nil {
		return nil
	}
	return v.Stop(ctx, hypervisor.StopOptions{Limit: shutdownLimit})
}

func (p runPower) Start(ctx context.Context, _ dr.VMID, _ string) error { return p.r.revive(ctx) }

func (p runPower) Close() error { return p.r.Close() }
