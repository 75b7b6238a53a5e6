package iofilter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/wire"
)

// ErrExempt is in the chain of a Freezer's error for a VM that takes no part:
// by configuration, or because it does not run.
var ErrExempt = errors.New("the VM takes no part in application-consistent checkpoints")

// Freezer quiesces guests: their agents flush and freeze file systems, or
// scripts of the user do it. Safe for concurrent use.
type Freezer interface {
	// Freeze returns once the guest has flushed what it had and writes no more.
	// It must return soon after ctx ends. limit is when the guest should thaw by
	// itself, where it can be told so. ErrExempt is in the chain when the VM
	// takes no part; any other error is a failure, said to people in its words.
	Freeze(ctx context.Context, vm dr.VMID, limit time.Duration) error
	// Thaw lets the guest go on; it is called after every Freeze but an exempt
	// one, also a failed one, and again when it fails. Nil means that the guest
	// had been frozen until now; an error for which errs.Is says Conflict, that
	// it goes on but had thawed before.
	Thaw(ctx context.Context, vm dr.VMID) error
}

// quiescer freezes and thaws the host's guests by order of the DRVA. Whatever
// the DRVA does, and whether there is a link or not, guests are thawed when the
// limit of their freeze is over. At most one round is under way; nil methods
// work and do nothing.
type quiescer struct {
	o       *outlet
	freezer Freezer // nil: no guest can be frozen
	log     *slog.Logger
	stop    context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu  sync.Mutex
	now *freezing // nil: none
}

// freezing is one round at this host.
type freezing struct {
	round wire.Round
	limit time.Duration
	ended chan struct{} // closed when the guests are to thaw
	why   string        // written before ended is closed; "": the DRVA's word
	over  chan struct{} // closed when all have thawed
	once  sync.Once
}

// end has the guests thawed; the first reason counts.
func (f *freezing) end(why string) {
	f.once.Do(func() {
		f.why = why
		close(f.ended)
	})
}

func newQuiescer(o *outlet, f Freezer) *quiescer {
	q := &quiescer{o: o, freezer: f, log: o.log}
	q.stop, q.cancel = context.WithCancel(context.Background())
	return q
}

// begin starts a round; one that is under way is ended first.
func (q *quiescer) begin(m wire.Freeze) {
	if q == nil || q.stop.Err() != nil {
		return
	}
	f := &freezing{round: m.Round, limit: m.Limit, ended: make(chan struct{}), over: make(chan struct{})}
	q.mu.Lock()
	before := q.now
	q.now = f
	q.mu.Unlock()
	if before != nil {
		before.end("the DRVA began another round")
	}
	q.running.Go(func() {
		defer close(f.over)
		timer := time.AfterFunc(f.limit, func() { f.end(fmt.Sprintf("its time limit of %v was over", f.limit)) })
		defer timer.Stop()
		defer f.end("")
		if before != nil {
			select { // two freezes of one guest would get into each other's way
			case <-before.over:
			case <-f.ended:
			}
		}
		q.run(f)
	})
}

// thaw ends the round of that number by the DRVA's word.
func (q *quiescer) thaw(round wire.Round) {
	if q == nil {
		return
	}
	q.mu.Lock()
	f := q.now
	q.mu.Unlock()
	if f != nil && f.round == round {
		f.end("")
	}
}

// linkLost thaws: nobody is there any more to make use of the freeze.
func (q *quiescer) linkLost() { q.endAll("the link to the DRVA was lost") }

func (q *quiescer) endAll(why string) {
	if q == nil {
		return
	}
	q.mu.Lock()
	f := q.now
	q.mu.Unlock()
	if f != nil {
		f.end(why)
	}
}

// close thaws and waits until all have thawed.
func (q *quiescer) close() {
	if q == nil {
		return
	}
	q.cancel()
	q.endAll("the host component stops")
	q.running.Wait()
}

// run freezes all guests, says so, and thaws them when it is time.
func (q *quiescer) run(f *freezing) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := context.AfterFunc(q.stop, cancel)
	defer stop()
	go func() {
		<-f.ended // a freeze that has not succeeded by now comes too late
		cancel()
	}()
	vms := q.o.vmIDs()
	frozen, thawed := make([]wire.FreezeVM, len(vms)), make([]wire.FreezeVM, len(vms))
	var freezes, thaws sync.WaitGroup
	slots := make(chan struct{}, freezeParallel)
	for i, vm := range vms {
		freezes.Add(1)
		thaws.Go(func() {
			slots <- struct{}{}
			frozen[i] = q.freezeVM(ctx, vm, f.limit)
			<-slots
			freezes.Done()
			if frozen[i].State == wire.FreezeExempt {
				thawed[i] = frozen[i]
				return
			}
			<-f.ended
			thawed[i] = q.thawVM(vm, f.why, frozen[i].State == wire.FreezeHeld)
		})
	}
	freezes.Wait()
	q.report(wire.TypeFrozen, f.round, frozen)
	thaws.Wait()
	q.report(wire.TypeThawed, f.round, thawed)
}

func (q *quiescer) freezeVM(ctx context.Context, vm dr.VMID, limit time.Duration) wire.FreezeVM {
	out := wire.FreezeVM{VM: vm}
	err := errs.New("iofilter.freeze", errs.Unavailable, "vm "+vm.String(), "nothing on its host can freeze it").
		WithRemedy("give the VM a guest agent, or scripts, in the host component's configuration")
	var failed error = err
	if q.freezer != nil {
		failed = q.freezer.Freeze(ctx, vm, limit)
	}
	switch {
	case failed == nil:
		out.State = wire.FreezeHeld
	case errors.Is(failed, ErrExempt):
		out.State, out.Reason = wire.FreezeExempt, failed.Error()
	default:
		out.Reason = failed.Error()
		q.log.Warn("a guest could not be frozen", "vm", vm.String(), "err", failed, "remedy", errs.RemedyOf(failed))
	}
	return out
}

// thawVM thaws a guest, however often it takes. early is why it thaws without
// the DRVA's word.
func (q *quiescer) thawVM(vm dr.VMID, early string, held bool) wire.FreezeVM {
	out := wire.FreezeVM{VM: vm}
	if q.freezer == nil {
		return out
	}
	var err error
	for try := range thawTries {
		ctx, cancel := context.WithTimeout(context.Background(), thawLimit)
		err = q.freezer.Thaw(ctx, vm)
		cancel()
		if err == nil || errs.Is(err, errs.Conflict) || !held {
			break
		}
		q.log.Error("a guest does not thaw, trying on", "vm", vm.String(), "try", try+1, "err", err, "remedy", errs.RemedyOf(err))
		sleepUntil(context.Background(), nil, thawRetry)
	}
	switch {
	case err != nil:
		out.Reason = err.Error()
	case early != "":
		out.Reason = early
	case held:
		out.State = wire.FreezeHeld
	}
	return out
}

// report tells the DRVA, if there is a link; it does not wait.
func (q *quiescer) report(t wire.Type, round wire.Round, vms []wire.FreezeVM) {
	o := q.o
	o.mu.Lock()
	defer o.unlock()
	if !o.link.up || len(o.link.outbox) > maxOutbox {
		return
	}
	out, err := wire.FreezeReport{Round: round, VMs: vms}.Append(o.link.outbox, t)
	if err != nil {
		q.log.Error("a report of frozen guests cannot be sent", "err", err)
		return
	}
	o.link.outbox = out
	o.wakeSender()
}
