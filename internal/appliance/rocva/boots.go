package rocva

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/guest"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// A VM that starts reads as fast as it can: the site says how many of all runs do at once.
// Nobody waits in a call: who gets no turn asks again, and comes before those who asked
// first after him.

// boot is a start of a VM: the same VM may be in a test and in a recovery.
type boot struct {
	run dr.UUID
	vm  dr.VMID
}

// waiting is a start that has no turn yet.
type waiting struct {
	boot
	asked time.Time // last: who asks no more has given up
}

// boots are the starts under way, and those that wait, in order. For concurrent use.
type boots struct {
	mu    sync.Mutex
	most  int           // guarded by mu; 0: the default
	up    map[boot]bool // guarded by mu: VMs that start
	queue []waiting     // guarded by mu
}

// bound sets how many there may be; 0: site.DefaultBoots.
func (b *boots) bound(most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.most = most
}

// take gives a start its turn, if there is room and nobody was before; again: no effect
// on one that has it.
func (b *boots) take(k boot, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.up[k] {
		return true
	}
	b.queue = slices.DeleteFunc(b.queue, func(w waiting) bool { return w.boot != k && now.Sub(w.asked) > askAgain })
	i := slices.IndexFunc(b.queue, func(w waiting) bool { return w.boot == k })
	if i < 0 {
		i = len(b.queue)
		b.queue = append(b.queue, waiting{boot: k})
	}
	b.queue[i].asked = now
	most := b.most
	if most <= 0 {
		most = site.DefaultBoots
	}
	if i >= most-len(b.up) {
		return false
	}
	b.queue = slices.Delete(b.queue, i, i+1)
	b.up[k] = true
	return true
}

// hold counts a start that is under way already.
func (b *boots) hold(k boot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.up[k] = true
}

// done ends a start.
func (b *boots) done(k boot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.up, k)
}

// errTurn is why a VM is not started now that is later.
var errTurn = errors.New("as many VMs start as the site wants at once: it waits for its turn")

// turn is recovery.Turn.
func (s *Appliance) turn(run dr.UUID, vm dr.VMID) (func(hypervisor.VM), error) {
	k := boot{run, vm}
	if !s.boots.take(k, s.now()) {
		return nil, errs.E("rocva.turn", errs.Transient, vm.String(), errTurn).WithRemedy("none is needed; see max_boots of the site")
	}
	return func(v hypervisor.VM) {
		if v == nil {
			s.boots.done(k)
			return
		}
		go s.untilUp(k, v)
	}, nil
}

// untilUp ends a start when the guest's agent answers, the VM has ended, or it has taken
// long enough.
func (s *Appliance) untilUp(k boot, v hypervisor.VM) {
	defer s.boots.done(k)
	ctx, cancel := context.WithTimeout(s.life, bootLimit)
	defer cancel()
	tick := time.NewTicker(bootEvery)
	defer tick.Stop()
	for !v.Status().State.Final() {
		if g, ok := v.(hypervisor.Guest); ok && guest.Ping(ctx, g) == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// recall counts a VM as starting that an earlier process of the appliance has just started.
func (s *Appliance) recall(ctx context.Context, r *recovery.Run, v *recovery.VMRecord) {
	h, err := r.Handle(ctx, v.Source)
	if err != nil || h == nil || s.now().Sub(v.Started) >= bootLimit {
		return
	}
	k := boot{r.Record().ID, v.Config.ID}
	s.boots.hold(k)
	go s.untilUp(k, h)
}

// inTurn has a step look again whose VM has no turn yet.
func (s *Appliance) inTurn(res *runs.Result, err error) error {
	if !errors.Is(err, errTurn) {
		return err
	}
	res.Again, res.Note = jobEvery, errTurn.Error()
	return nil
}
