package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
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
	illMost   = 5 * time.Second  // a disk gives errors
)

// How far a clock is set. What a store accepts of a wrong clock is some fifteen
// minutes; near stays below that.
const (
	nearMost = 10 * time.Minute
	farLeast = time.Hour
	farMost  = 60 * 24 * time.Hour
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
		return c.restartDRVA(ctx, func() error { return os.RemoveAll(c.s.logDir()) })
	}},
	{"the DRVA dies of a write to its disk", (*chaos).failedWrite},
	{"lose the log, and the disk for it is full", (*chaos).fullLog},
	{"the DRVA's disk gives errors", (*chaos).illLog},
	{"restart a host whose sidecar's disk is full", (*chaos).fullSidecar},
	{"a sidecar's disk gives errors", (*chaos).illSidecar},
	{"a guest's disk gives errors", (*chaos).illPrimary},
	{"the DRVA's clock jumps", (*chaos).nearClock},
	{"the DRVA's clock jumps far", (*chaos).farClock},
	{"a host's clock jumps far", (*chaos).hostClock},
	{"restart the DRVA with a clock that is far off", (*chaos).wrongStart},
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

	kept map[int64]bool // slots of the history in which a checkpoint was listed as recoverable
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

// failedWrite has the DRVA fail at its next write to a file.
func (c *chaos) failedWrite(ctx context.Context) error {
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
	for i := range c.s.hosts {
		var st iofilter.Status
		if err := control.CallLocal(ctx, c.s.sock(i), "/status", nil, &st); err != nil {
			return err
		}
		if s := st.Stream; s.Shipped > s.Tracked+s.Tracked/10 {
			return fmt.Errorf("host %d shipped %d bytes to sync %d", i+1, s.Shipped, s.Tracked)
		}
	}
	return nil
}

// fullLog has the DRVA begin anew where there is no room: it does not run, and
// says why.
func (c *chaos) fullLog(ctx context.Context) error {
	return c.restartDRVA(ctx, func() error {
		if err := os.RemoveAll(c.s.logDir()); err != nil {
			return err
		}
		c.s.log.Fill()
		defer c.s.log.Free()
		p, err := c.s.Start("drva-full", "drva", "--config", c.s.Path("drva.json"))
		if err != nil {
			return err
		}
		p.Doom()
		if err := ended(p); err != nil {
			return err
		}
		if said := rig.Tail(p.Log); p.Err == nil || !strings.Contains(said, "free space") {
			return fmt.Errorf("a DRVA without room for its log ended with %v and %q", p.Err, said)
		}
		return nil
	})
}

// ended waits for the end of a process.
func ended(p *rig.Process) error {
	select {
	case <-p.Done:
		return nil
	case <-time.After(startLimit):
		return fmt.Errorf("%s does not end", p.Name)
	}
}

// illLog has the DRVA's disk fail under it. A log that could not be flushed is
// not trusted: the DRVA ends. What the file system lost is then lost.
func (c *chaos) illLog(ctx context.Context) error {
	c.s.drva.Doom()
	c.s.log.Fail()
	err := ended(c.s.drva)
	err = errors.Join(err, c.wait(ctx, illMost))
	c.s.log.Heal()
	if err != nil {
		return err
	}
	c.s.log.Repair()
	return c.s.startDRVA(ctx)
}

// fullSidecar has a host begin where there is no room for its sidecar.
func (c *chaos) fullSidecar(ctx context.Context) error {
	i := c.rng.IntN(guests)
	c.s.sidecars[i].Fill()
	err := c.restartHost(ctx, i)
	if err == nil {
		err = c.l.goesOn(ctx)
	}
	c.s.sidecars[i].Free()
	return err
}

// illSidecar has a sidecar's disk fail: guests write on all the same.
func (c *chaos) illSidecar(ctx context.Context) error {
	i := c.rng.IntN(guests)
	c.s.sidecars[i].Fail()
	err := errors.Join(c.wait(ctx, illMost), c.l.goesOn(ctx))
	c.s.hosts[i].Kill() // else nobody repairs the file system
	c.s.sidecars[i].Heal()
	if err != nil {
		return err
	}
	c.s.sidecars[i].Repair()
	return c.s.startHost(ctx, i)
}

// illPrimary has a guest's own disk fail. The guest is told, as it would be
// without Holdfast; its hypervisor stops it, and somebody lets it go on.
func (c *chaos) illPrimary(ctx context.Context) error {
	i := c.rng.IntN(guests)
	c.s.disks[i].Fail()
	err := c.wait(ctx, illMost)
	c.s.disks[i].Heal()
	return errors.Join(err, c.l.resume(ctx, i))
}

// jump draws how far a clock is set, there or back, in whole seconds.
func (c *chaos) jump(least, most time.Duration) time.Duration {
	d := (least + time.Duration(c.rng.Int64N(int64(most-least)))).Truncate(time.Second)
	if c.rng.IntN(2) == 0 {
		return -d
	}
	return d
}

// setDRVA sets the DRVA's clock while do runs.
func (c *chaos) setDRVA(ahead time.Duration, do func() error) error {
	c.log("     the clock is set by %v", ahead)
	c.s.clocks.step(ahead)
	err := errors.Join(c.s.drva.SetClock(ahead), do(), c.s.drva.SetClock(0))
	c.s.clocks.right()
	return err
}

// nearClock sets the DRVA's clock a little: protection goes on, and goes on when
// it is set right.
func (c *chaos) nearClock(ctx context.Context) error {
	return c.setDRVA(c.jump(time.Second, nearMost), func() error {
		return errors.Join(c.saneRPO(ctx), c.l.goesOn(ctx), c.s.nextPoint(ctx), c.saneRPO(ctx))
	})
}

// saneRPO demands that the DRVA tells an RPO that may be true.
func (c *chaos) saneRPO(ctx context.Context) error {
	var st rig.DRVAStatus
	if err := control.CallLocal(ctx, c.s.Path("drva.sock"), "/status", nil, &st); err != nil {
		return err
	}
	if st.RPO < 0 || st.RPO > protectLimit.Seconds() {
		return fmt.Errorf("the DRVA tells an RPO of %v s", st.RPO)
	}
	return nil
}

// farClock sets the DRVA's clock so that the store does not talk to it.
func (c *chaos) farClock(ctx context.Context) error {
	return c.setDRVA(c.jump(farLeast, farMost), func() error {
		return errors.Join(c.saneRPO(ctx), c.wait(ctx, storeMost), c.l.goesOn(ctx), c.saneRPO(ctx))
	})
}

// hostClock sets a host's clock: protection goes on.
func (c *chaos) hostClock(ctx context.Context) error {
	i := c.rng.IntN(guests)
	ahead := c.jump(farLeast, farMost)
	c.log("     the clock is set by %v", ahead)
	return errors.Join(c.s.hosts[i].SetClock(ahead), c.l.goesOn(ctx), c.s.nextPoint(ctx), c.s.hosts[i].SetClock(0))
}

// wrongStart has the DRVA come up with a clock by which nobody's certificate or
// signature is good. It ends and says so, or waits; who starts it again finds
// the clock right.
func (c *chaos) wrongStart(ctx context.Context) error {
	return c.restartDRVA(ctx, func() error {
		if err := c.s.startDRVA(ctx); err != nil {
			return err
		}
		c.s.drva.Doom()
		ahead := c.jump(farLeast, farMost)
		c.log("     the clock is set by %v", ahead)
		c.s.clocks.step(ahead)
		err := errors.Join(c.s.drva.SetClock(ahead), c.wait(ctx, cutMost), c.l.goesOn(ctx))
		c.s.drva.Kill()
		c.s.clocks.right()
		return err
	})
}
