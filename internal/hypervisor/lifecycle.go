package hypervisor

import (
	"context"
	"sync"
	"time"

	"holdfast/internal/errs"
)

// Lifecycle is the state, the events and the waiters of one VM, for drivers.
// Make it with NewLifecycle. Safe for concurrent use; starts no goroutine.
type Lifecycle struct {
	now    func() time.Time // immutable
	events chan Event       // written and closed by Move and Emit under mu
	ended  chan struct{}    // closed by Move on a final state

	mu     sync.Mutex
	status Status        // guarded by mu
	moved  chan struct{} // guarded by mu; closed and replaced by every Move
	lost   int           // guarded by mu; events dropped since the last one queued
}

// NewLifecycle returns the lifecycle of a VM that is Starting; now is its clock.
func NewLifecycle(now func() time.Time) *Lifecycle {
	return &Lifecycle{
		now:    now,
		events: make(chan Event, eventQueue),
		ended:  make(chan struct{}),
		moved:  make(chan struct{}),
		status: Status{State: Starting, Since: now()},
	}
}

// Status returns the state now.
func (l *Lifecycle) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// Events returns the queue that VM.Events promises.
func (l *Lifecycle) Events() <-chan Event { return l.events }

// Ended is closed once the state is final.
func (l *Lifecycle) Ended() <-chan struct{} { return l.ended }

// Move goes to a state, tells the reader of events and everyone in Await, and
// reports whether it did: a move the table does not know changes nothing, so
// that late news from a platform never brings a dead VM back.
func (l *Lifecycle) Move(to State, reason string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if to >= numStates || !moves[l.status.State][to] {
		return false
	}
	l.status = Status{State: to, Reason: reason, Since: l.now()}
	close(l.moved)
	l.moved = make(chan struct{})
	l.queueLocked(Event{Kind: StateChanged, Detail: reason})
	if to.Final() {
		close(l.events)
		close(l.ended)
	}
	return true
}

// Emit queues an event that is not a move. Nothing follows a final state.
func (l *Lifecycle) Emit(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.status.State.Final() {
		l.queueLocked(e)
	}
}

// queueLocked completes e and queues it, at the cost of the oldest if need be.
func (l *Lifecycle) queueLocked(e Event) {
	e.Time, e.Status = l.now(), l.status
	for {
		e.Lost = l.lost
		select {
		case l.events <- e:
			l.lost = 0
			return
		default:
		}
		select {
		case old := <-l.events:
			l.lost += 1 + old.Lost
		default: // the reader was faster
		}
	}
}

// Wait returns the final status once there is one.
func (l *Lifecycle) Wait(ctx context.Context) (Status, error) {
	return l.Await(ctx, State.Final)
}

// WaitOr is Wait for a VM that its provider may let go of: then letGone is
// closed, and the error's kind is Unavailable.
func (l *Lifecycle) WaitOr(ctx context.Context, letGone <-chan struct{}) (Status, error) {
	select {
	case <-l.ended:
	case <-letGone:
		return l.Status(), errs.New("hypervisor.Wait", errs.Unavailable, "", "the provider was closed and let go of the VM")
	case <-ctx.Done():
		return l.Status(), errs.E("hypervisor.Wait", errs.Canceled, "", context.Cause(ctx))
	}
	return l.Status(), nil
}

// Await returns the first status, from now on, whose state satisfies is. Kinds:
// Canceled; Conflict when a final state makes it impossible.
func (l *Lifecycle) Await(ctx context.Context, is func(State) bool) (Status, error) {
	for {
		l.mu.Lock()
		s, moved := l.status, l.moved
		l.mu.Unlock()
		if is(s.State) {
			return s, nil
		}
		if s.State.Final() {
			return s, errs.New("hypervisor.Await", errs.Conflict, "", "the VM is "+s.State.String()+": "+s.Reason)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return s, errs.E("hypervisor.Await", errs.Canceled, "", context.Cause(ctx))
		}
	}
}

// Orderly is the part of VM.Stop that does not force: it calls press, which
// presses the power button of the VM named name, until the VM ends. press
// returns nil when the VM may have ended just now. On error the VM is Running
// again, unless it was Paused meanwhile.
func (l *Lifecycle) Orderly(ctx context.Context, name string, opt StopOptions, press func(context.Context) error) error {
	const op = "hypervisor.Stop"
	switch s := l.Status(); {
	case s.State.Final():
		return nil
	case s.State == Paused:
		return errs.New(op, errs.Conflict, name, "a paused guest cannot shut down")
	}
	l.Move(Stopping, "")
	limited, cancel := context.WithTimeout(ctx, opt.EffectiveLimit())
	defer cancel()
	err := l.press(limited, press)
	if err == nil {
		return nil
	}
	if l.Status().State == Stopping {
		l.Move(Running, "the guest did not shut down")
	}
	if limited.Err() != nil && ctx.Err() == nil {
		return errs.New(op, errs.Transient, name, "the guest did not shut down in "+opt.EffectiveLimit().String())
	}
	return errs.E(op, errs.Internal, name, err)
}

// press presses until the VM ends, or a pause makes that impossible.
func (l *Lifecycle) press(ctx context.Context, press func(context.Context) error) error {
	for {
		if err := press(ctx); err != nil {
			return err
		}
		round, cancel := context.WithTimeout(ctx, pressEvery)
		s, err := l.Await(round, func(s State) bool { return s.Final() || s == Paused })
		cancel()
		switch {
		case err == nil && s.State == Paused:
			return errs.New("hypervisor.Stop", errs.Conflict, "", "the VM was paused while it shut down: "+s.Reason)
		case err == nil || ctx.Err() != nil:
			return err
		}
	}
}
