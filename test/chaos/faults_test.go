package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/iofilter"
	"holdfast/test/rig"
)

// fault is something that goes wrong and is healed. While it lasts the guests
// run on, unless it says that they may not.
type fault struct {
	name string
	do   func(c *chaos, ctx context.Context) error // a method's shape
}

// Lengths of faults, drawn up to these.
const (
	awayMost  = 4 * time.Second  // a killed process stays away
	hungMost  = 6 * time.Second  // a process is stopped
	cutMost   = 6 * time.Second  // a network is cut
	storeMost = 12 * time.Second // the store is away
)

// faults are all there are. Every run of the short test has each at least once
// as long as it has that many.
var faults = []fault{
	{"kill the DRVA", func(c *chaos, ctx context.Context) error { return c.restartDRVA(ctx, nil) }},
	{"kill a host component", func(c *chaos, ctx context.Context) error { return c.restartHost(ctx, c.rng.IntN(guests)) }},
	{"kill a guest", (*chaos).killGuest},
	{"cut the link between hosts and DRVA", func(c *chaos, ctx context.Context) error { return c.cut(ctx, c.s.toDRVA, cutMost) }},
	{"cut off the store", func(c *chaos, ctx context.Context) error { return c.cut(ctx, c.s.toStore, storeMost) }},
	{"stop the DRVA", func(c *chaos, ctx context.Context) error { return c.hang(ctx, c.s.drva) }},
	{"stop a host component", func(c *chaos, ctx context.Context) error { return c.hang(ctx, c.s.hosts[c.rng.IntN(guests)]) }},
	{"lose the DRVA's log", func(c *chaos, ctx context.Context) error {
		return c.restartDRVA(ctx, func() error { return os.RemoveAll(c.s.path("log")) })
	}},
	{"the DRVA's disk takes no more", (*chaos).fullDRVA},
	{"lose a whole host", (*chaos).killHostAndGuest},
	{"restart the DRVA while the store is away", (*chaos).restartWithoutStore},
	{"kill all boxes at once", (*chaos).killAllBoxes},
}

// chaos is a run under way.
type chaos struct {
	s   *site
	l   *load
	rng *rand.Rand
	log func(format string, a ...any)
}

// wait lets a random time pass.
func (c *chaos) wait(ctx context.Context, most time.Duration) error {
	t := time.NewTimer(time.Duration(c.rng.Int64N(int64(most))))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (c *chaos) restartDRVA(ctx context.Context, meanwhile func() error) error {
	c.s.drva.Kill()
	if meanwhile != nil {
		if err := meanwhile(); err != nil {
			return err
		}
	}
	if err := c.wait(ctx, awayMost); err != nil {
		return err
	}
	return c.s.startDRVA(ctx)
}

func (c *chaos) restartHost(ctx context.Context, i int) error {
	c.s.hosts[i].Kill()
	if err := c.wait(ctx, awayMost); err != nil {
		return err
	}
	return c.s.startHost(ctx, i)
}

// killGuest pulls the plug of one guest: what it acknowledged is on its disk.
func (c *chaos) killGuest(ctx context.Context) error {
	i := c.rng.IntN(guests)
	return c.without(ctx, []int{i}, func() error { return c.l.kill(ctx, i) })
}

// killHostAndGuest is the end of a host: its component and its guest at once.
func (c *chaos) killHostAndGuest(ctx context.Context) error {
	i := c.rng.IntN(guests)
	return c.without(ctx, []int{i}, func() error {
		c.s.hosts[i].Kill()
		if err := c.l.kill(ctx, i); err != nil {
			return err
		}
		if err := c.wait(ctx, awayMost); err != nil {
			return err
		}
		return c.s.startHost(ctx, i)
	})
}

// without stops the writers, does something to guests, and boots them again.
// What the writers complain of while a guest dies is no news.
func (c *chaos) without(ctx context.Context, which []int, do func() error) error {
	if err := c.l.halt(); err != nil {
		return fmt.Errorf("the guests had stopped before: %w", err)
	}
	if err := do(); err != nil {
		return err
	}
	if err := c.l.bootAll(ctx, which...); err != nil {
		return err
	}
	c.l.drive(ctx)
	return nil
}

func (c *chaos) cut(ctx context.Context, x *rig.Exchange, most time.Duration) error {
	target := x.Target()
	x.Cut()
	err := c.wait(ctx, most)
	x.Route(target)
	return err
}

func (c *chaos) hang(ctx context.Context, p *rig.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	err := c.wait(ctx, hungMost)
	return errors.Join(err, p.Signal(syscall.SIGCONT))
}

// fullDRVA has the DRVA fail at its next write to a file.
func (c *chaos) fullDRVA(ctx context.Context) error {
	if err := c.s.drva.FailWrites(); err != nil {
		return err
	}
	return c.restartDRVA(ctx, nil)
}

func (c *chaos) restartWithoutStore(ctx context.Context) error {
	target := c.s.toStore.Target()
	c.s.toStore.Cut()
	err := c.restartDRVA(ctx, nil)
	if err == nil {
		err = c.wait(ctx, awayMost)
	}
	c.s.toStore.Route(target)
	return err
}

// killAllBoxes is a power cut of everything but the guests' processes, which
// hold their requests until their disks are served again.
func (c *chaos) killAllBoxes(ctx context.Context) error {
	all := append([]*rig.Process{c.s.drva}, c.s.hosts[:]...)
	c.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, p := range all {
		p.Doom()
		_ = p.Signal(syscall.SIGKILL) // gone already is as good
	}
	for _, p := range all {
		<-p.Done
	}
	if err := c.wait(ctx, awayMost); err != nil {
		return err
	}
	for _, i := range c.rng.Perm(guests) {
		if err := c.s.startHost(ctx, i); err != nil {
			return err
		}
	}
	return c.s.startDRVA(ctx)
}

// thrifty demands that no host shipped more, to make up for what the DRVA had
// missed since the host component began, than had to be dealt with, and a
// tenth.
func (c *chaos) thrifty(ctx context.Context) error {
	for i, socket := range c.s.socks {
		var st iofilter.Status
		if err := control.CallLocal(ctx, socket, "/status", nil, &st); err != nil {
			return err
		}
		if s := st.Stream; s.Shipped > s.Tracked+s.Tracked/10 {
			return fmt.Errorf("host %d shipped %d bytes to sync %d", i+1, s.Shipped, s.Tracked)
		}
	}
	return nil
}
