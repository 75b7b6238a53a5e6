package drva

import (
	"context"
	"fmt"
	"slices"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/errs"
)

// Checkpoint cuts a checkpoint now, labelled tag, and returns it when its
// outcome is durable in the replication log; it is published with the next
// object. A Partial one is returned too. Kinds: Unavailable when none can be
// cut now, Conflict while the domain is paused, Full when too many wait,
// Invalid for a tag over 256 bytes, Canceled.
func (s *Server) Checkpoint(ctx context.Context, tag string) (dr.Checkpoint, error) {
	r, err := s.ask(ctx, &request{tag: tag, kind: dr.UserTagged, reply: make(chan error, 1)})
	return r.Checkpoint, err
}

// AppCheckpoint is Checkpoint with the guests frozen at the cut. When some were
// not, the checkpoint is not AppConsistent, and the faults say which VMs and
// why.
func (s *Server) AppCheckpoint(ctx context.Context, tag string) (dr.Checkpoint, []order.FreezeFault, error) {
	r, err := s.ask(ctx, &request{tag: tag, kind: dr.AppConsistent, reply: make(chan error, 1)})
	return r.Checkpoint, r.Faults, err
}

// ask has the sequencer carry out a request.
func (s *Server) ask(ctx context.Context, r *request) (order.Result, error) {
	const op = "drva.Checkpoint"
	if !s.post(ctx, event{do: func(q *sequencer) { q.request(r) }}) {
		return order.Result{}, errs.E(op, errs.Canceled, "checkpoint", context.Cause(ctx))
	}
	select {
	case err := <-r.reply:
		if err != nil {
			return order.Result{}, errs.E(op, errs.Internal, "checkpoint", err)
		}
		return r.cp, nil
	case <-ctx.Done():
		return order.Result{}, errs.E(op, errs.Canceled, "checkpoint", context.Cause(ctx))
	case <-s.stopped:
		return order.Result{}, errs.New(op, errs.Canceled, "checkpoint", "the appliance stopped")
	}
}

// Forget drops a VM from the domain, so that checkpoints do not wait for it any
// more. Kind Conflict while a live host protects it, NotFound, Unavailable.
func (s *Server) Forget(ctx context.Context, vm dr.VMID) error {
	const op = "drva.Forget"
	reply := make(chan error, 1)
	if !s.post(ctx, event{do: func(q *sequencer) { reply <- q.core.Forget(vm, time.Now()) }}) {
		return errs.E(op, errs.Canceled, "vm "+vm.String(), context.Cause(ctx))
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return errs.E(op, errs.Canceled, "vm "+vm.String(), context.Cause(ctx))
	case <-s.stopped:
		return errs.New(op, errs.Canceled, "vm "+vm.String(), "the appliance stopped")
	}
}

func (q *sequencer) request(r *request) {
	if q.s.isPaused() {
		r.reply <- errs.New("drva.Checkpoint", errs.Conflict, "checkpoint", "protection of the domain is paused").
			WithRemedy(`end the pause first: "holdfast resume"`)
		return
	}
	if len(q.requests) >= maxRequests {
		r.reply <- errs.New("drva.Checkpoint", errs.Full, "checkpoint", "too many checkpoints wait for their turn")
		return
	}
	q.requests = append(q.requests, r)
}

// cutDue begins the next checkpoint when it is time: users' first.
func (q *sequencer) cutDue(now time.Time) {
	for len(q.requests) > 0 && q.core.Open() == 0 {
		r := q.requests[0]
		q.requests = q.requests[1:]
		q.current = r // a result may come at once
		id, err := q.core.Cut(r.kind, r.tag, now)
		if err != nil {
			q.current = nil
			r.reply <- err
			continue
		}
		r.id = id
		q.nextCut = now.Add(q.s.tuning.Load().Interval)
		return
	}
	if now.Before(q.nextCut) || q.core.Open() != 0 {
		return
	}
	if q.s.isPaused() {
		q.nextCut = now.Add(q.s.tuning.Load().Interval)
		return
	}
	kind := dr.CrashConsistent
	app := !q.nextApp.IsZero() && !now.Before(q.nextApp)
	if app {
		kind = dr.AppConsistent
	}
	if _, err := q.core.Cut(kind, "", now); err != nil {
		q.nextCut = now.Add(cutRetry)
		return
	}
	if app {
		q.nextApp = now.Add(q.s.tuning.Load().AppInterval)
	}
	q.nextCut = now.Add(q.s.tuning.Load().Interval)
}

// result takes the outcome of a checkpoint.
func (q *sequencer) result(r *order.Result) {
	q.s.tookResult(r)
	q.s.tellFaults(r)
	q.shown = time.Time{}
	if c := q.current; c != nil && c.id == r.ID {
		q.current, c.cp = nil, *r
		q.settled = append(q.settled, c)
	}
}

// answer tells users whose checkpoint's outcome is durable, and keeps the
// status fresh.
func (q *sequencer) answer() {
	if len(q.settled) > 0 {
		durable := q.flight.durable()
		q.settled = slices.DeleteFunc(q.settled, func(r *request) bool {
			if r.cp.Seq > durable {
				return false
			}
			r.reply <- nil
			return true
		})
	}
	if now := time.Now(); now.Sub(q.shown) >= statusEvery {
		q.shown = now
		st := q.core.Status()
		q.s.order.Store(&st)
	}
}

// failRequests ends the wait of users when the sequencer ends.
func (q *sequencer) failRequests() {
	all := append(q.requests, q.settled...)
	if q.current != nil {
		all = append(all, q.current)
	}
	for _, r := range all {
		r.reply <- errs.New("drva.Checkpoint", errs.Canceled, "checkpoint", "the appliance stopped")
	}
}

// tellFaults says which VMs kept a checkpoint from being
// application-consistent.
func (s *Server) tellFaults(r *order.Result) {
	for _, f := range r.Faults {
		where := ""
		if f.Host != "" {
			where = " on host " + f.Host
		}
		s.emit(Event{Code: "freeze-failed", Severity: Warning, Object: "vm " + f.VM.String(),
			Text:   fmt.Sprintf("checkpoint %d is kept as crash-consistent: the VM%s was not frozen: %s", r.ID, where, f.Reason),
			Remedy: "install or start the guest agent, correct the scripts of the VM, or exempt it from freezing"})
	}
}
