package chaos

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	"holdfast/internal/demo/ledger"
	"holdfast/internal/dr"
	"holdfast/internal/hypervisor"
	"holdfast/internal/hypervisor/qemu"
)

const (
	rowBytes  = 24 << 10             // payload of a commit
	ackSample = 2 * time.Millisecond // how often acknowledgements are looked at
	maxAcks   = 1 << 20              // samples kept: more commits than emulated guests make in hours
	bootLimit = 4 * time.Minute      // an emulated guest on a busy machine
	goOnLimit = 2 * time.Minute      // for a guest's next commit
)

// ack is what both guests had acknowledged at a moment.
type ack struct {
	at   time.Time
	rows [guests]uint64
}

// load is the two guests and what they were seen to acknowledge, from outside,
// over all their boots. before and rows may be called from any goroutine.
type load struct {
	s        *site
	provider *qemu.Provider
	accel    hypervisor.Accelerator
	vms      [guests]hypervisor.VM
	consoles [guests]*ledger.Console

	stop context.CancelFunc // ends the driver and the sampler
	done sync.WaitGroup

	mu      sync.Mutex
	samples []ack         // guarded by mu; rising
	longest time.Duration // guarded by mu; the longest time without a commit since the driver runs
	failed  error         // guarded by mu; of the driver
}

// boot starts guest i from its protected disk and returns what it found in its
// ledger.
func (l *load) boot(ctx context.Context, i int) (ledger.Boot, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bootLimit, fmt.Errorf("guest %d did not boot within %v", i+1, bootLimit))
	defer cancel()
	vm := l.s.vms[i]
	v, err := l.provider.Start(ctx, hypervisor.Spec{
		Config:  vm,
		Sources: map[dr.DiskID]hypervisor.Source{vm.Disks[0].ID: {Socket: l.s.nbd(i), Export: vm.Disks[0].Name}},
		StartOptions: hypervisor.StartOptions{
			WorkDir: l.s.Dir, Accelerator: l.accel, Serial: true, Paused: true, ExitOnReset: true,
		},
	})
	if err != nil {
		return ledger.Boot{}, err
	}
	l.vms[i] = v
	if l.consoles[i], err = ledger.Attach(ctx, v); err != nil {
		return ledger.Boot{}, err
	}
	return l.consoles[i].WaitReady(ctx)
}

// bootAll boots the guests named, at once, and demands of each that its ledger
// is whole and holds all it had acknowledged.
func (l *load) bootAll(ctx context.Context, which ...int) error {
	var wg sync.WaitGroup
	var failed [guests]error
	had := l.rows()
	for _, i := range which {
		wg.Go(func() {
			b, err := l.boot(ctx, i)
			switch {
			case err != nil:
				failed[i] = err
			case b.Bad > 0 || b.Max < had[i]:
				failed[i] = fmt.Errorf("guest %d came up with max=%d bad=%d %q, but had acknowledged %d", i+1, b.Max, b.Bad, b.Problems, had[i])
			}
		})
	}
	wg.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// kill pulls the plug of a guest. The driver must not run.
func (l *load) kill(ctx context.Context, i int) error {
	err := l.vms[i].Kill(ctx)
	_ = l.consoles[i].Close() // its line is dead
	return err
}

// drive writes to both guests in lock-step until halt.
func (l *load) drive(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	d := ledger.NewDriver(l.consoles[0], l.consoles[1], rowBytes)
	l.done.Go(func() {
		err := d.Run(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.failed = err
	})
	l.done.Go(func() {
		tick := time.NewTicker(ackSample)
		defer tick.Stop()
		last := time.Now()
		for ctx.Err() == nil {
			if l.sample(d) {
				last = time.Now()
			}
			l.mu.Lock()
			l.longest = max(l.longest, time.Since(last))
			l.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		l.sample(d)
	})
}

// halt ends drive and returns why it had ended before, if it had.
func (l *load) halt() error {
	l.stop()
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// sample notes what is acknowledged now and reports whether that is news. It
// takes the clock after the counters: what it records was so before.
func (l *load) sample(d *ledger.Driver) bool {
	first, second := d.Acked()
	a := ack{rows: [guests]uint64{first, second}, at: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.samples)
	if n == maxAcks || n > 0 && a.rows[0] <= l.samples[n-1].rows[0] && a.rows[1] <= l.samples[n-1].rows[1] {
		return false
	}
	l.samples = append(l.samples, a)
	return true
}

// rows is what the guests have acknowledged.
func (l *load) rows() [guests]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.samples); n > 0 {
		return l.samples[n-1].rows
	}
	return [guests]uint64{}
}

// before is what was seen acknowledged before t.
func (l *load) before(t time.Time) [guests]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.samples), func(i int) bool { return !l.samples[i].at.Before(t) })
	if i == 0 {
		return [guests]uint64{}
	}
	return l.samples[i-1].rows
}

// stall returns the longest time without a commit since the last call.
func (l *load) stall() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.longest
	l.longest = 0
	return d
}

// resume lets a guest go on that an error of its disk may have stopped, until
// it does.
func (l *load) resume(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, goOnLimit)
	defer cancel()
	had := l.rows()
	tick := time.NewTicker(ackSample)
	defer tick.Stop()
	for l.rows()[i] == had[i] {
		if l.vms[i].Status().State == hypervisor.Paused {
			if err := l.vms[i].Resume(ctx); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("guest %d does not go on, it is %v: %w", i+1, l.vms[i].Status(), context.Cause(ctx))
		case <-tick.C:
		}
	}
	return nil
}

// goesOn waits for a commit of each guest from now on.
func (l *load) goesOn(ctx context.Context) error {
	had := l.rows()
	ctx, cancel := context.WithTimeout(ctx, goOnLimit)
	defer cancel()
	tick := time.NewTicker(ackSample)
	defer tick.Stop()
	for {
		now := l.rows()
		if now[0] > had[0] && now[1] > had[1] {
			return nil
		}
		l.mu.Lock()
		failed := l.failed
		l.mu.Unlock()
		if failed != nil {
			return fmt.Errorf("the guests stopped: %w", failed)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the guests stand still at %v: %w", now, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
