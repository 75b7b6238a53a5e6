package recovery

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/iofilter/live"
)

// ended is the state of a VM that ran and is not there any more.
const ended = "ended"

// runs reports whether the VMs of a run in this state are to run.
func (rec *Record) runs() bool {
	switch rec.State {
	case Tested, BeforeCommit, FailedOver, Protected:
		return true
	case Cloned:
		return !rec.Request.NoBoot
	}
	return false
}

// Unwatched reports whether nobody can say what has become of the run's VMs but
// who asks their hypervisor: see Service.Look.
func (st *Status) Unwatched() bool { return !st.Owned && st.runs() }

// Look is Status, and, of an unwatched run, what has become of its VMs. It owns
// the run meanwhile; other commands wait for that. Kinds: those of Status, those
// of the hypervisor.
func (s *Service) Look(ctx context.Context, dir string) (*Status, error) {
	st, err := s.Status(ctx, dir)
	if err != nil || !st.Unwatched() {
		return st, err
	}
	r, err := s.Open(dir)
	if errs.Is(err, errs.Conflict) {
		return s.Status(ctx, dir) // somebody has just begun with it
	}
	if err != nil {
		return nil, err
	}
	if err = r.adopt(ctx); err == nil {
		st = r.status(false)
	}
	if e := r.Close(); err == nil {
		err = e
	}
	return st, err
}

// Revive has the process that owns a run start again what has ended and let go on
// what is paused, as Resume does where there is none. Kind Conflict when it is
// busy, or there is none.
func (s *Service) Revive(ctx context.Context, dir string) error {
	return s.ask(ctx, dir, request{Resume: true})
}

// down lists what is to run in the run's state and does not.
func (rec *Record) down() (out []string) {
	if !rec.runs() {
		return nil
	}
	for _, v := range rec.VMs {
		switch v.State {
		case ended, "failed", hypervisor.Paused.String(), hypervisor.Stopped.String(), hypervisor.Crashed.String():
			out = append(out, "VM "+v.Config.Name+": "+v.State)
		}
	}
	for _, p := range rec.Launched {
		if p.hasEnded() {
			out = append(out, p.Name+" of the protection here: "+ended)
		}
	}
	return out
}

// hasEnded reports whether the process is not there any more.
func (p *Process) hasEnded() bool {
	start, err := live.StartOf(p.PID)
	return err != nil || start != p.Start
}

// downWords says what may be done about what is down.
func downWords(down []string) string {
	return "holdfast recover resume DIR starts again what has ended, and lets go on what is paused (" + strings.Join(down, ", ") + ")"
}

// take locks a run's directory. Who only looks holds it for a moment: that is
// waited for, an owner who answers is not.
func (s *Service) take(dir string) (io.Closer, error) {
	for end := time.Now().Add(askLimit); ; {
		lock, err := s.lock(dir)
		if !errs.Is(err, errs.Conflict) || time.Now().After(end) || answers(dir) {
			return lock, err
		}
		<-time.After(pollEvery)
	}
}

// answers reports whether a run has an owner who answers.
func answers(dir string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	return control.CallLocal(ctx, filepath.Join(dir, socketName), "/status", nil, new(Status)) == nil
}
