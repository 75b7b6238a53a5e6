package recovery

import (
	"context"
	"encoding/json"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/errs"
)

// request is a local call /act of another process.
type request struct {
	Action Action `json:"action,omitempty"`
	Cancel bool   `json:"cancel,omitempty"`
	Resume bool   `json:"resume,omitempty"` // start again what has ended
	ActOptions
}

// asked is a request that waits for the owner.
type asked struct {
	request
	reply chan error // room for one
}

// Serve answers status, cancel and actions on the run's socket until Close. It
// returns at once; an answer to an action comes when Attend has carried it out.
func (r *Run) Serve() error {
	ctx, cancel := context.WithCancel(context.Background())
	r.silence = cancel
	r.requests = make(chan asked)
	r.served = make(chan struct{})
	go func() {
		defer close(r.served)
		err := control.ServeLocal(ctx, r.path(socketName), map[string]control.Handler{
			"/status": func(context.Context, []byte) (any, error) { return r.Status(), nil },
			"/act":    r.onAct,
		})
		if err != nil && ctx.Err() == nil {
			r.s.log.Warn("the run's socket does not answer", "run", r.dir, "err", err)
		}
	}()
	return nil
}

// onAct answers a local /act call.
func (r *Run) onAct(ctx context.Context, body []byte) (any, error) {
	var q request
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, errs.E("recovery.act", errs.Invalid, "request", err)
	}
	if q.Cancel {
		if !r.interrupt() {
			return nil, errs.New("recovery.Cancel", errs.Conflict, r.dir, "nothing is under way that could be cancelled: the run is "+string(r.Record().State)).
				WithRemedy(next(r.Record().State))
		}
		return struct{}{}, nil
	}
	a := asked{q, make(chan error, 1)}
	select {
	case r.requests <- a:
	case <-time.After(busyLimit):
		return nil, errs.New("recovery.act", errs.Conflict, r.dir, "the run is "+string(r.Record().State)+" and its process is busy with that").
			WithRemedy("wait, or: holdfast recover cancel " + r.dir)
	case <-ctx.Done():
		return nil, errs.E("recovery.act", errs.Canceled, r.dir, context.Cause(ctx))
	}
	select {
	case err := <-a.reply:
		return struct{}{}, err
	case <-ctx.Done():
		select {
		case err := <-a.reply: // the owner is done with it, and with the run
			return struct{}{}, err
		default:
		}
		return nil, errs.E("recovery.act", errs.Canceled, r.dir, context.Cause(ctx))
	}
}

// needed reports whether the run needs a process although it rests: VMs read
// through it, or it decides by itself later.
func (r *Run) needed() bool {
	rec := r.Record()
	return r.fill != nil || rec.State == BeforeCommit && rec.Request.Auto != Wait
}

// Attend looks after a run that rests, for as long as it needs a process: it
// fills disks and switches VMs to them, renews the pin, carries out what other
// processes ask for, and takes the decision that was asked for in advance. It
// returns nil when the run needs no process any more. Kinds: Canceled, those of
// Do for a decision taken by itself.
func (r *Run) Attend(ctx context.Context) error {
	pins := time.NewTicker(pinEvery)
	defer pins.Stop()
	reminder := time.NewTicker(remindEvery)
	defer reminder.Stop()
	for r.needed() {
		decide := time.NewTimer(time.Until(r.decideAt()))
		var err error
		select {
		case <-ctx.Done():
			err = errs.E("recovery.Attend", errs.Canceled, r.dir, context.Cause(ctx))
		case a := <-r.requests:
			if a.Resume {
				a.reply <- r.Resume(ctx, "")
			} else {
				a.reply <- r.DoWith(ctx, a.Action, a.ActOptions)
			}
		case filled := <-r.filled():
			if err = r.settle(ctx, filled); err != nil && r.fill != nil {
				r.fill.ran <- filled // who attends next goes on with it
			}
		case <-decide.C:
			err = r.decide(ctx)
		case <-pins.C:
			if e := r.renew(ctx); e != nil {
				r.s.log.Warn("the checkpoint's pin was not renewed", "run", r.dir, "err", e)
			}
		case <-reminder.C:
			st := r.Status()
			if st.Reminder != "" {
				r.s.log.Info("a decision is due", "run", r.dir, "why", st.Reminder)
			}
			if len(st.Down) > 0 {
				r.s.log.Warn("what is to run does not", "run", r.dir, "down", st.Down)
			}
		}
		decide.Stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// decideAt is when a decision is taken by itself.
func (r *Run) decideAt() time.Time {
	rec := r.Record()
	if rec.State != BeforeCommit || rec.Request.Auto == Wait || rec.Decide.IsZero() {
		return time.Now().Add(pinEvery)
	}
	return rec.Decide
}

func (r *Run) decide(ctx context.Context) error {
	rec := r.Record()
	if rec.State != BeforeCommit || rec.Request.Auto == Wait {
		return nil
	}
	r.s.log.Info("the decision asked for in advance is taken", "run", r.dir, "op", string(rec.Request.Auto))
	if rec.Request.Auto == AutoCommit {
		return r.Do(ctx, Commit)
	}
	return r.Do(ctx, Rollback)
}
