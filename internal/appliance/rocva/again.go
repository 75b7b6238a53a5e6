package rocva

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/recovery"
)

// A VM of a domain that lives here ends because its guest, a plan or an operator wants it,
// or because its process is killed, its host's memory runs out, its guest panics. The
// second is made good: it is started again, a few times, each later.
//
//	ended ──againAfter──▶ started ──steadyAfter──▶ forgotten
//	  ▲                      │
//	  └───ended, twice as ───┘   maxAgain times, then it stays down
//	      long a pause

// fall is what is done about a VM that ended though nobody wanted it.
type fall struct {
	ended time.Time // when it last did
	due   time.Time // when it is started again
	tries int       // starts so far
	up    time.Time // when the newest start did; zero: it is down
	moved bool      // its domain goes on elsewhere
	why   error     // why it is down, or was
}

// over reports whether it stays down, as far as can be said.
func (f *fall) over() bool { return f.moved || f.tries >= maxAgain }

// isDue reports whether a start is to be tried.
func (f *fall) isDue(now time.Time) bool { return f.tries < maxAgain && !now.Before(f.due) }

// note takes an end that was not seen yet.
func (f *fall) note(v *recovery.Fallen, now time.Time) {
	if v.Since.Equal(f.ended) {
		return
	}
	if !f.up.IsZero() && now.Sub(f.up) >= steadyAfter {
		*f = fall{}
	}
	f.ended, f.up = v.Since, time.Time{}
	f.due = now.Add(againAfter << f.tries)
	f.why = errs.New("rocva", errs.Unavailable, v.Name, "the VM ended: "+v.Reason)
}

// problem is what is told of it; nil: nothing any more.
func (f *fall) problem(v string, now time.Time) error {
	switch {
	case f.moved:
		return f.why
	case !f.up.IsZero() && now.Sub(f.up) >= steadyAfter:
		return nil
	case !f.up.IsZero():
		return errs.E("rocva", errs.Unavailable, v, fmt.Errorf("it was started again: %w", f.why)).
			WithRemedy("none is needed unless it ends again; see why: the log of its host, and of its guest")
	case f.over():
		return errs.E("rocva", errs.Unavailable, v, fmt.Errorf("it was started again %d times, and stays down: %w", f.tries, f.why)).
			WithRemedy("see why it ends, then start the appliance again, or the VM by its platform's tools")
	}
	return errs.E("rocva", errs.Unavailable, v, fmt.Errorf("it is started again at %s: %w", f.due.UTC().Format(time.TimeOnly), f.why)).
		WithRemedy("see why it ended: the log of its host, and of its guest")
}

// falls keeps what is done about a run's VMs. Guarded by owned.falling.
type falls map[dr.VMID]*fall

// fallen takes the VMs of a run that ended, and returns those that are due.
func (o *owned) fallen(r *recovery.Run, now time.Time) (due []recovery.Fallen) {
	o.falling.Lock()
	defer o.falling.Unlock()
	for _, v := range r.Fallen() {
		f := o.falls[v.VM]
		if f == nil {
			f = &fall{}
			if o.falls == nil {
				o.falls = falls{}
			}
			o.falls[v.VM] = f
		}
		f.note(&v, now)
		if f.isDue(now) {
			due = append(due, v)
		}
	}
	return due
}

// pending reports whether a VM that ended is about to be started again: to who asks
// whether it runs, it does.
func (o *owned) pending(r *recovery.Run, vm dr.VMID, now time.Time) bool {
	o.fallen(r, now) // those that nobody has looked at yet
	o.falling.Lock()
	defer o.falling.Unlock()
	for _, v := range r.Fallen() {
		if f := o.falls[v.VM]; v.VM == vm && f != nil {
			return !f.over()
		}
	}
	return false
}

// tried notes how a start went.
func (o *owned) tried(vm dr.VMID, err error, now time.Time) {
	o.falling.Lock()
	defer o.falling.Unlock()
	f := o.falls[vm]
	f.moved = errors.Is(err, recovery.ErrMovedOn)
	switch {
	case err == nil:
		f.tries++
		f.up = now
	case f.moved:
		f.due, f.why = now.Add(moveEvery), err
	case errors.Is(err, recovery.ErrUntold), errors.Is(err, errTurn): // no try
		f.due, f.why = now.Add(againAfter), err
	default:
		f.tries++
		f.due, f.why = now.Add(againAfter<<f.tries), err
	}
}

// troubles are what is told of the run's VMs that ended. Those that somebody else has
// started, or wants to stay down, are forgotten.
func (o *owned) troubles(r *recovery.Run, now time.Time) (all error) {
	down := map[dr.VMID]bool{}
	for _, v := range r.Fallen() {
		down[v.VM] = true
	}
	o.falling.Lock()
	defer o.falling.Unlock()
	rec := r.Record()
	for i := range rec.VMs {
		id := rec.VMs[i].Source
		f := o.falls[id]
		if f == nil {
			continue
		}
		if f.up.IsZero() && !down[id] {
			delete(o.falls, id)
			continue
		}
		all = errors.Join(all, f.problem(rec.VMs[i].Config.Name, now))
	}
	return all
}

// again starts VMs of a run again that ended though nobody wanted it. A step that has the
// run goes first.
func (s *Appliance) again(ctx context.Context, o *owned, r *recovery.Run) {
	if len(r.Fallen()) == 0 || !o.mu.TryLock() {
		return
	}
	defer o.mu.Unlock()
	if o.run != r || o.busy() {
		return
	}
	o.still()
	defer s.attend(o)
	if err := r.Refresh(ctx); err != nil { // somebody else may have started it
		s.log.Warn("what runs of a recovery cannot be told", "run", r.Dir(), "err", err, "remedy", errs.RemedyOf(err))
		return
	}
	for _, v := range o.fallen(r, s.now()) {
		err := r.StartAgain(ctx, v.VM)
		if ctx.Err() != nil {
			return
		}
		o.tried(v.VM, err, s.now())
		if errors.Is(err, errTurn) {
			continue
		}
		if err != nil {
			s.log.Warn("a VM that ended is down", "vm", v.Name, "why", v.Reason, "err", err, "remedy", errs.RemedyOf(err))
			continue
		}
		s.log.Warn("a VM that ended was started again", "vm", v.Name, "why", v.Reason)
		s.greet(r, v.VM)
	}
}
