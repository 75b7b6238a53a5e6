package warm

import (
	"context"
	"path/filepath"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/rocva"
)

// AsIs is the spec of a failover to where the standby stands: the store is not
// asked.
const AsIs = "as-is"

// Handover is what a failover gives: disks to boot.
type Handover struct {
	Domain     dr.DomainID            `json:"domain"`
	Timeline   dr.TimelineID          `json:"timeline"`
	Checkpoint journal.CheckpointInfo `json:"checkpoint"`
	VMs        []dr.VMConfig          `json:"vms"` // as configured at the checkpoint
	Disks      []Disk                 `json:"disks"`
}

// FailoverTo brings the disks to the checkpoint that spec names, gives them
// their own names and ends the following: Run returns. Spec is as of
// journal.History.Find: "latest" takes in what was published until now; an
// older point rewrites what differs; AsIs takes where the standby stands. The
// standby is the VMs' when it returns, durably; when it has an error they may
// not be booted, and it may be called again.
//
// Kinds: as Find and rocva.Update; Conflict for AsIs when the disks are in the
// middle of two checkpoints, and nothing was applied yet.
func (s *Standby) FailoverTo(ctx context.Context, spec string) (*Handover, error) {
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	defer s.give()
	if !s.state.Handed && spec != AsIs {
		if err := s.bring(ctx, spec); err != nil {
			return nil, err
		}
	}
	h, err := handOver(s.fs, s.dir, s.state)
	if err != nil {
		return nil, err
	}
	if !s.over {
		s.over = true
		close(s.finished)
		s.tellAt()
		s.log.Info("the standby was handed over", "checkpoint", uint64(s.state.Checkpoint.ID))
	}
	return h, nil
}

// bring applies the checkpoint spec names, with the configurations of just that
// one.
func (s *Standby) bring(ctx context.Context, spec string) error {
	if err := s.look(ctx, true); err != nil {
		return err
	}
	cp, err := s.hist.Find(spec)
	if err != nil {
		return err
	}
	s.vms = nil
	if err := s.follow(ctx, cp, true); err != nil {
		return err
	}
	if s.vms == nil { // it stood there: its configurations may be a little old
		img, err := s.outline(ctx, cp)
		if err != nil {
			return err
		}
		var targets []rocva.Target
		for _, d := range disksOf(s.dir, s.state) {
			targets = append(targets, rocva.Target{Disk: d.ID, Path: d.Path})
		}
		s.stand(cp, img, targets)
	}
	return nil
}

// HandOver is FailoverTo AsIs of a standby that no process has open, without
// the container. Kinds besides: NotFound when dir holds no standby, Conflict
// when a process has it.
func HandOver(fs durable.FS, dir string) (*Handover, error) {
	lock, err := fs.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, errs.E("warm.HandOver", errs.Internal, dir, err)
	}
	defer lock.Close()
	st, err := readState(fs, dir)
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, errs.New("warm.HandOver", errs.NotFound, dir, "there is no standby in the directory")
	}
	return handOver(fs, dir, st)
}

// handOver gives the disks their names. That they are not the standby's any
// more is durable before the first one has its name: who is killed here never
// writes to a disk that may have been booted.
func handOver(fs durable.FS, dir string, st *state) (*Handover, error) {
	const op = "warm.FailoverTo"
	switch {
	case st.At.IsZero():
		return nil, errs.New(op, errs.Conflict, dir, "no checkpoint was applied yet").
			WithRemedy("wait until the standby holds one")
	case !st.To.IsZero():
		return nil, errs.New(op, errs.Conflict, dir, "the disks are in the middle of two checkpoints").
			WithRemedy("fail over to \"latest\": the store is needed for that")
	}
	if !st.Handed {
		st.Handed = true
		if err := writeState(fs, dir, st); err != nil {
			st.Handed = false
			return nil, err
		}
	}
	h := &Handover{Domain: st.Domain, Timeline: st.Timeline, Checkpoint: st.Checkpoint, VMs: st.VMs, Disks: disksOf(dir, st)}
	for _, d := range h.Disks {
		if err := rocva.Release(fs, d.Path); err != nil {
			return nil, err
		}
	}
	return h, nil
}
