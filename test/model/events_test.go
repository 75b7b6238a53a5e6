package model

import (
	"context"
	"errors"
	"fmt"
	"holdfast/test/rig"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// eventKind is something that goes wrong.
type eventKind string

const (
	killDRVA  eventKind = "kill the DRVA, restart it"
	killHost  eventKind = "kill a host component, restart it"
	pauseDRVA eventKind = "stop the DRVA for a while"
	loseLog   eventKind = "kill the DRVA, lose its log"
	zombie    eventKind = "replace a DRVA that is only stopped"
	cutLinks  eventKind = "cut the network for a while"
)

// eventKinds are all that must happen in a run of the tests.
var eventKinds = []eventKind{killDRVA, killHost, pauseDRVA, loseLog, zombie, cutLinks}

// Lengths of events.
const (
	downMost  = 800 * time.Millisecond // a killed process stays away at most so long
	pauseMost = 3 * time.Second
	apartMost = 1500 * time.Millisecond // between events that meet in their effects
	calmLimit = 3 * time.Minute         // for the next recoverable checkpoint
	fenceWait = 2 * time.Minute         // for a zombie to notice
)

// exitFenced is the exit code of an appliance that was replaced.
const exitFenced = 4

// schedule does a run's events, one after the other.
type schedule struct {
	s    *site
	rng  *rand.Rand
	done map[eventKind]int
	said func(format string, a ...any)

	kills, fenced int
}

// run does events. After about every second one it waits until protection is
// whole again; the others meet what the one before has left.
func (c *schedule) run(ctx context.Context, events []eventKind) error {
	for i, e := range events {
		c.said("%s", e)
		if err := c.happen(ctx, e); err != nil {
			return fmt.Errorf("%s: %w", e, err)
		}
		c.done[e]++
		if err := c.s.Problems(); err != nil {
			return fmt.Errorf("%s: %w", e, err)
		}
		if i == len(events)-1 {
			break
		}
		if c.rng.IntN(2) == 0 {
			if err := c.s.waitRecoverable(ctx, time.Now(), calmLimit); err != nil {
				return fmt.Errorf("after %q: %w", e, err)
			}
		} else if err := c.wait(ctx, apartMost); err != nil {
			return err
		}
	}
	return nil
}

// wait lets a random time pass.
func (c *schedule) wait(ctx context.Context, most time.Duration) error {
	t := time.NewTimer(time.Duration(c.rng.Int64N(int64(most))))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (c *schedule) happen(ctx context.Context, e eventKind) error {
	switch e {
	case killDRVA:
		return c.restartDRVA(ctx, func() error { return nil })
	case loseLog:
		return c.restartDRVA(ctx, func() error { return os.RemoveAll(c.s.drva.logDir) })
	case killHost:
		i := c.rng.IntN(hosts)
		c.s.killHost(i)
		c.kills++
		if err := c.wait(ctx, downMost); err != nil {
			return err
		}
		return c.s.startHost(ctx, i)
	case pauseDRVA:
		if err := c.s.drva.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		err := c.wait(ctx, pauseMost)
		return errors.Join(err, c.s.drva.Signal(syscall.SIGCONT))
	case cutLinks:
		target := c.s.links.Target()
		if c.s.links.Cut() == 0 {
			c.said("no link was up")
		}
		err := c.wait(ctx, pauseMost)
		c.s.links.Route(target)
		return err
	case zombie:
		return c.replace(ctx)
	}
	return fmt.Errorf("no such event")
}

// restartDRVA kills the DRVA and starts it again with the same configuration.
func (c *schedule) restartDRVA(ctx context.Context, meanwhile func() error) error {
	c.s.drva.Kill()
	c.kills++
	if err := meanwhile(); err != nil {
		return err
	}
	if err := c.wait(ctx, downMost); err != nil {
		return err
	}
	return c.s.startDRVA(ctx, c.s.drva)
}

// replace starts a second DRVA, with a log and an address of its own, while
// the first is stopped and keeps its hosts. When the first wakes up it must
// find out, say so and end.
func (c *schedule) replace(ctx context.Context) error {
	old := c.s.drva
	old.Doom()
	if err := old.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	err := c.wait(ctx, pauseMost)
	if err == nil {
		err = c.s.startDRVA(ctx, c.s.newAppliance())
	}
	if err == nil {
		err = c.wait(ctx, pauseMost)
	}
	if err = errors.Join(err, old.Signal(syscall.SIGCONT)); err != nil {
		return err
	}
	select {
	case <-old.Done:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(fenceWait):
		return fmt.Errorf("the replaced DRVA still runs %v after it woke up", fenceWait)
	}
	var exit *exec.ExitError
	words := rig.Tail(old.Log)
	switch {
	case !errors.As(old.Err, &exit) || exit.ExitCode() != exitFenced:
		return fmt.Errorf("the replaced DRVA ended with %v, want exit code %d: %s", old.Err, exitFenced, words)
	case !strings.Contains(words, "another appliance publishes this domain now"):
		return fmt.Errorf("the replaced DRVA does not say why it ended: %s", words)
	}
	c.fenced++
	return nil
}
