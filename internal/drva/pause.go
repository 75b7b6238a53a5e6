package drva

import (
	"context"
	"encoding/json"
	"path/filepath"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// pausedFile lies in the log's directory while the domain is paused, so that
// the pause outlives the process.
const pausedFile = "paused.json"

// Pause is a domain whose protection a person has paused.
type Pause struct {
	Since time.Time `json:"since"`
}

// Pause pauses the domain's protection: hosts acknowledge writes from their
// primaries alone and remember what changes, and no checkpoint is cut on
// schedule. What was recoverable stays so. It holds over restarts until Resume;
// durable on return. Pausing again changes nothing. Kinds: Unavailable before
// the log is open, or what the disk answers.
func (s *Server) Pause(ctx context.Context) error { return s.setPause(ctx, true) }

// Resume ends a pause: hosts stream again and resync what changed. Durable on
// return; without a pause it changes nothing. Kinds as of Pause.
func (s *Server) Resume(ctx context.Context) error { return s.setPause(ctx, false) }

func (s *Server) setPause(ctx context.Context, on bool) error {
	const op = "drva.Pause"
	reply := make(chan error, 1)
	// The sequencer's goroutine does it, so that two callers cannot cross.
	if !s.post(ctx, event{do: func(q *sequencer) { reply <- q.pause(on) }}) {
		return errs.E(op, errs.Canceled, "domain", context.Cause(ctx))
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return errs.E(op, errs.Canceled, "domain", context.Cause(ctx))
	case <-s.stopped:
		return errs.New(op, errs.Canceled, "domain", "the appliance stopped")
	}
}

func (q *sequencer) pause(on bool) error {
	s := q.s
	if s.isPaused() == on {
		return nil
	}
	path := filepath.Join(s.cfg.LogDir, pausedFile)
	if !on {
		if err := durable.Remove(s.cfg.FS, path); err != nil {
			return errs.E("drva.Resume", errs.Internal, path, err)
		}
		s.setPaused(nil)
		s.emit(Event{Code: "resumed", Severity: Info, Object: "domain", Text: "protection goes on; hosts resync what changed meanwhile"})
	} else {
		p := Pause{Since: time.Now().UTC()}
		b, err := json.Marshal(p)
		if err != nil {
			return errs.E("drva.Pause", errs.Internal, path, err)
		}
		if err := durable.WriteFile(s.cfg.FS, path, b); err != nil {
			return errs.E("drva.Pause", errs.Internal, path, err)
		}
		s.setPaused(&p)
		s.emit(Event{Code: "paused", Severity: Warning, Object: "domain", Text: "protection is paused by a user; the RPO grows", Remedy: `"holdfast resume" ends it`})
	}
	q.load.looked = time.Time{} // hosts hear of it now
	return nil
}

// loadPause reads whether the domain was paused when the process ended. A file
// that is damaged says that it was: to go on by mistake is the worse error.
func (s *Server) loadPause() error {
	path := filepath.Join(s.cfg.LogDir, pausedFile)
	b, err := durable.ReadFile(s.cfg.FS, path, maxPauseFile)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return errs.E("drva.Run", errs.Internal, path, err)
	}
	var p Pause
	if json.Unmarshal(b, &p) != nil {
		p = Pause{Since: time.Now().UTC()}
	}
	s.setPaused(&p)
	return nil
}

func (s *Server) setPaused(p *Pause) {
	s.mu.Lock()
	s.run.paused = p
	s.mu.Unlock()
}

func (s *Server) isPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run.paused != nil
}
