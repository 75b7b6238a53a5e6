package ledger

import (
	"context"
	"fmt"

	"holdfast/internal/errs"
)

// Driver writes to two guests in lock-step: row n on the leader, then, once
// the leader acknowledged it, row n on the follower, then row n+1 on the
// leader… So at every instant the leader is level with the follower or one
// row ahead, and so must be every crash-consistent cut of both.
type Driver struct {
	leader, follower *Console
	bytes            int
}

// NewDriver returns a driver of two guests, with bytes of payload a row
// (talk.DefaultBytes: the guest's own choice).
func NewDriver(leader, follower *Console, bytes int) *Driver {
	return &Driver{leader: leader, follower: follower, bytes: bytes}
}

// Acked returns the highest row each guest has acknowledged. The follower is
// read first, so that leader >= follower holds in what is returned. Safe to
// call at any time, from any goroutine.
func (d *Driver) Acked() (leader, follower uint64) {
	follower = d.follower.Acked()
	return d.leader.Acked(), follower
}

// Run writes until ctx ends, which is no error, or a guest fails, which is. It
// goes on from where the guests are; Corrupt says they are out of step.
func (d *Driver) Run(ctx context.Context) error {
	err := d.run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// run writes until something ends it, and returns what.
func (d *Driver) run(ctx context.Context) error {
	for _, c := range []*Console{d.leader, d.follower} {
		if _, err := c.WaitReady(ctx); err != nil {
			return err
		}
	}
	first, _, err := d.leader.Status(ctx)
	if err != nil {
		return err
	}
	second, _, err := d.follower.Status(ctx)
	if err != nil {
		return err
	}
	if err := inStep(first, second); err != nil {
		return err
	}
	if first > second {
		if err := d.follower.Put(ctx, first, first, d.bytes); err != nil {
			return err
		}
	}
	for n := first + 1; ; n++ {
		if err := d.leader.Put(ctx, n, n-1, d.bytes); err != nil {
			return err
		}
		if err := d.follower.Put(ctx, n, n, d.bytes); err != nil {
			return err
		}
	}
}

// inStep reports whether two highest rows can be of one instant.
func inStep(leader, follower uint64) error {
	if leader == follower || leader == follower+1 {
		return nil
	}
	return errs.New("ledger.CheckPair", errs.Corrupt, "",
		fmt.Sprintf("no instant has row %d on the leader and row %d on the follower", leader, follower))
}

// CheckPair reports whether two disks of guests driven by a Driver are one
// crash-consistent cut. The error's kind is Corrupt.
func CheckPair(leader, follower Report) error {
	const op = "ledger.CheckPair"
	if leader.Bad > 0 || follower.Bad > 0 {
		return errs.New(op, errs.Corrupt, "", fmt.Sprintf("the ledgers themselves are bad: leader %q, follower %q",
			leader.Problems, follower.Problems))
	}
	if err := inStep(leader.Max, follower.Max); err != nil {
		return err
	}
	// The ledgers' own record of what came before says the same, by another way.
	if follower.Cause > leader.Max || leader.Cause > follower.Max {
		return errs.New(op, errs.Corrupt, "", fmt.Sprintf(
			"an effect without its cause: leader has row %d and was caused by %d, follower has row %d and was caused by %d",
			leader.Max, leader.Cause, follower.Max, follower.Cause))
	}
	return nil
}
