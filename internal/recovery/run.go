package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/journal"
	"holdfast/internal/rocva/warm"
)

// Run is one recovery and the right to work on it. Do and Attend are called by
// one goroutine at a time; Record, Status and Cancel by any.
type Run struct {
	s    *Service
	dir  string
	lock io.Closer

	// Owned by the caller of Do and Attend.
	container *journal.Container
	past      *journal.History // as last read; nil: not yet
	image     *journal.Image
	source    Source        // nil: not reached yet
	warm      *warm.Standby // nil: not opened yet, or none
	fill      *filling      // nil: disks are not filled while VMs run

	requests chan asked         // read by Attend; nil: nobody is served
	silence  context.CancelFunc // ends Serve
	served   chan struct{}      // closed when it has ended

	mu      sync.Mutex
	rec     *Record                     // guarded by mu; replaced, never changed
	frees   bool                        // guarded by mu; what is under way makes room: see change
	adopted bool                        // guarded by mu; the VMs of earlier lives are in vms
	vms     map[dr.VMID]hypervisor.VM   // guarded by mu
	cancel  context.CancelCauseFunc     // guarded by mu; nil: nothing is under way
	saved   time.Time                   // guarded by mu; when progress was last written
	prog    struct{ done, total int64 } // guarded by mu; of the running step
}

func (s *Service) own(dir string, lock io.Closer, rec *Record) *Run {
	return &Run{s: s, dir: dir, lock: lock, rec: rec, vms: map[dr.VMID]hypervisor.VM{}}
}

// Close gives the run up; VMs go on. What only this process served stands still.
func (r *Run) Close() error {
	var err error
	if r.silence != nil {
		r.silence()
		<-r.served
	}
	if r.fill != nil {
		err = r.fill.close()
		r.fill = nil
	}
	if r.warm != nil {
		err = errors.Join(err, r.warm.Close())
		r.warm = nil
	}
	if r.source != nil {
		err = errors.Join(err, r.source.Close())
		r.source = nil
	}
	return errors.Join(err, r.lock.Close())
}

// Dir is the run's directory.
func (r *Run) Dir() string { return r.dir }

// Record returns the record as it is now. It must not be changed.
func (r *Run) Record() *Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rec
}

// Status returns the run's status.
func (r *Run) Status() *Status { return r.status(true) }

func (r *Run) status(owned bool) *Status {
	rec := r.Record().clone()
	r.mu.Lock()
	for i := range rec.VMs {
		v := &rec.VMs[i]
		if vm := r.vms[v.Config.ID]; vm != nil {
			v.State = vm.Status().State.String()
		} else if r.adopted && rec.runs() && v.State != "" && v.State != "failed" {
			v.State = ended
		}
	}
	if n := len(rec.Steps); n > 0 && rec.Steps[n-1].Status == Running && r.prog.total > 0 {
		rec.Steps[n-1].Bytes, rec.Steps[n-1].Total = r.prog.done, r.prog.total
	}
	fill := r.fill
	r.mu.Unlock()
	st := r.s.statusOf(r.dir, rec, owned)
	if fill != nil {
		st.Hydration = fill.progress()
	}
	return st
}

// Cancel stops what Do does; no effect when it does nothing.
func (r *Run) Cancel() { r.interrupt() }

// interrupt is Cancel, and reports whether there was something to stop.
func (r *Run) interrupt() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cancel == nil {
		return false
	}
	r.cancel(errs.New("recovery.Cancel", errs.Canceled, r.dir, "somebody cancelled it"))
	return true
}

func (r *Run) path(name ...string) string {
	return filepath.Join(append([]string{r.dir}, name...)...)
}

// diskPath is where a disk of the run is.
func (r *Run) diskPath(d *DiskRecord) string {
	if d.old() {
		return d.Path
	}
	return r.path(d.Path)
}

// change makes a change of the record, durably. On error the record is as it was.
// What is undone is what makes room on a full disk: meanwhile a record that does
// not fit is kept in memory. Whoever comes after a kill then finds the one before,
// and undoes what is undone once more.
func (r *Run) change(do func(*Record)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.rec.clone()
	do(next)
	next.Updated = r.s.now().UTC()
	b, err := next.encode()
	if err != nil {
		return err
	}
	if err := durable.WriteFile(r.s.fs, r.path(recordName), b); err != nil && !(r.frees && errs.Is(err, errs.Full)) {
		return errs.E("recovery.save", errs.Internal, r.path(recordName), err)
	}
	r.rec, r.saved = next, r.s.now()
	return nil
}

// progress tells how far the running step is; it is durable now and then.
func (r *Run) progress(done, total int64) {
	r.mu.Lock()
	r.prog.done, r.prog.total = done, total
	due := r.s.now().Sub(r.saved) >= saveEvery
	r.mu.Unlock()
	if due {
		// Nothing rests on it: what a step can use again it finds on the disk.
		_ = r.change(func(rec *Record) {
			if n := len(rec.Steps); n > 0 {
				rec.Steps[n-1].Bytes, rec.Steps[n-1].Total = done, total
			}
		})
	}
}

// warn notes a warning of the running step and tells the log.
func (r *Run) warn(err error) error {
	r.s.log.Warn("recovery", "run", r.dir, "err", err, "remedy", errs.RemedyOf(err))
	words := err.Error()
	if remedy := errs.RemedyOf(err); remedy != "" {
		words += "; " + remedy
	}
	return r.change(func(rec *Record) {
		if n := len(rec.Steps); n > 0 {
			rec.Steps[n-1].warn(words)
		}
	})
}

// step is one named piece of work. It must be right to do twice, and to do again
// after any part of it was done by a process that died.
type step struct {
	name  string
	state State // of the run meanwhile
	// always: what the step does lives in the process, so that it is done again
	// in each life.
	always bool
	do     func(*Run, context.Context) error
	// firm: force does not go over its error.
	firm bool
}

// ActOptions are choices for an action.
type ActOptions struct {
	Force bool `json:"force,omitempty"` // Cleanup: go on over errors
	// Until names a step of Recover behind which Do returns in the middle, well: who
	// recovers several domains together goes on later, with Do of the same.
	Until string `json:"until,omitempty"`
}

// Do does an action, or goes on with it. It returns when the run rests: well, or
// with an error after which the record says what may be done. Kinds: Conflict
// when the action does not fit the run's state, those of the steps, Canceled.
func (r *Run) Do(ctx context.Context, a Action) error { return r.DoWith(ctx, a, ActOptions{}) }

// DoWith is Do with options.
func (r *Run) DoWith(ctx context.Context, a Action, o ActOptions) error {
	if a == Commit && r.Record().State == BeforeCommit {
		if err := r.allRun(ctx); err != nil {
			return err // nothing has begun
		}
	}
	r.setFrees(a == Cleanup || a == Rollback || a == Unwind)
	defer r.setFrees(false)
	if err := r.begin(a, o); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	r.cancel = cancel
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.cancel = nil
		r.mu.Unlock()
	}()
	steps := r.s.opts.program
	if steps == nil {
		steps = program
	}
	for _, st := range steps(a, r.Record()) {
		if err := r.perform(ctx, a, st, o); err != nil {
			return r.fell(ctx, a, st, err)
		}
		if o.Until == st.name {
			return nil
		}
	}
	r.setFrees(false)
	if err := r.change(func(rec *Record) {
		rec.State, rec.Error, rec.Kind, rec.Remedy = rests(a, rec.Operation), "", "", ""
	}); err != nil {
		return err
	}
	r.s.log.Info("recovery", "run", r.dir, "op", string(r.Record().Operation), "state", string(r.Record().State))
	return r.report()
}

func (r *Run) setFrees(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frees = yes
}

// begin admits an action.
func (r *Run) begin(a Action, o ActOptions) error {
	rec := r.Record()
	err := rec.admit(a)
	if err != nil && a == Cleanup && o.Force && rec.Committed {
		err = nil // the steps see to it that these are not the domain's VMs any more
	}
	if err != nil && a == Cleanup && o.Force && (rec.State == BeforeCommit || rec.State.Active()) {
		err = nil
	}
	if err != nil {
		remedy := next(rec.State)
		if a == Cleanup && rec.Committed {
			remedy = "these VMs are the domain now; when it has moved on, repeat with --force"
		}
		return errs.E("recovery."+string(a), errs.Conflict, r.dir, err).WithRemedy(remedy)
	}
	goesOn := rec.Action == a && (rec.State == fails(a) || slices.Contains(underWay[a], rec.State))
	return r.change(func(rec *Record) {
		if !goesOn {
			rec.Action = a
			rec.Try++
		}
		rec.Error, rec.Kind, rec.Remedy = "", "", ""
	})
}

// perform does a step unless this try has done it.
func (r *Run) perform(ctx context.Context, a Action, st step, o ActOptions) error {
	if err := context.Cause(ctx); err != nil {
		return errs.E("recovery."+st.name, errs.Canceled, r.dir, err)
	}
	before := r.Record().step(st.name)
	if before != nil && before.Status == Done && !st.always {
		return nil
	}
	r.crash("before " + st.name)
	r.mu.Lock()
	r.prog.done, r.prog.total = 0, 0
	r.mu.Unlock()
	if err := r.change(func(rec *Record) {
		rec.State = st.state
		rec.add(StepRecord{Try: rec.Try, Action: a, Name: st.name, Status: Running, Begun: r.s.now().UTC()})
	}); err != nil {
		return err
	}
	r.s.log.Debug("recovery step", "run", r.dir, "op", st.name)
	r.crash("in " + st.name)
	err := st.do(r, ctx)
	r.crash("after " + st.name)
	if err != nil && o.Force && !st.firm && ctx.Err() == nil {
		err = r.warn(errs.E("recovery."+st.name, errs.Internal, r.dir, fmt.Errorf("left as it is: %w", err)))
	}
	if err != nil {
		return err
	}
	return r.change(func(rec *Record) { r.endLocked(rec, Done, nil) })
}

// endLocked ends the newest step of a record under change. Called with mu held.
func (r *Run) endLocked(rec *Record, status StepStatus, err error) {
	n := len(rec.Steps)
	if n == 0 {
		return
	}
	s := &rec.Steps[n-1]
	s.Status, s.Ended = status, r.s.now().UTC()
	if r.prog.total > 0 {
		s.Bytes, s.Total = r.prog.done, r.prog.total
	}
	if err != nil {
		s.Error = err.Error()
	}
}

func (r *Run) crash(point string) {
	if r.s.opts.crash != nil {
		r.s.opts.crash(point)
	}
}

// fell ends an action whose step failed. A planned migration that has not ended
// the source's history yet is unwound at once.
func (r *Run) fell(ctx context.Context, a Action, st step, err error) error {
	status := Failed
	if ctx.Err() != nil {
		status = Canceled
		err = errs.E("recovery."+st.name, errs.Canceled, r.dir, errors.Join(context.Cause(ctx), err))
	}
	r.setFrees(false)
	if e := r.change(func(rec *Record) {
		if n := len(rec.Steps); n > 0 && rec.Steps[n-1].Name == st.name && rec.Steps[n-1].Status == Running {
			r.endLocked(rec, status, err)
		}
		rec.State = fails(a)
		rec.Error, rec.Kind, rec.Remedy = err.Error(), errs.KindOf(err).String(), errs.RemedyOf(err)
	}); e != nil {
		return errors.Join(err, e)
	}
	rec := r.Record()
	if a == Recover && has(rec.Operation, Unwind) && rec.Fence == 0 && rec.Fork.IsZero() {
		uctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		if e := r.Do(uctx, Unwind); e != nil {
			return errors.Join(err, e)
		}
		return errs.E("recovery."+st.name, errs.Internal, r.dir, fmt.Errorf("the source is in service again: %w", err)).WithRemedy(errs.RemedyOf(err))
	}
	if errs.RemedyOf(err) == "" {
		err = errs.E("recovery."+st.name, errs.Internal, r.dir, err).WithRemedy(next(rec.State))
	}
	return err
}

// program is the list of steps of an action.
func program(a Action, rec *Record) []step {
	op := rec.Operation
	switch a {
	case Recover:
		return recoverProgram(op)
	case Commit:
		return []step{
			{"commit", Promoting, false, (*Run).commit, false},
			{"define", Promoting, false, (*Run).define, false},
			{"pins", Promoting, false, (*Run).unpin, false},
			{"protect", Promoting, false, (*Run).protect, false},
		}
	case Rollback:
		p := []step{
			{"processes", RollingBack, false, (*Run).endProcesses, false},
			{"stop", RollingBack, false, (*Run).stop, false},
			{"discard", RollingBack, false, (*Run).discard, false},
			{"drop", RollingBack, false, (*Run).drop, false},
			{"pins", RollingBack, false, (*Run).unpin, false},
		}
		if has(op, Unwind) {
			p = append(p, step{"source", RollingBack, false, (*Run).restart, false})
		}
		return p
	case Unwind:
		return []step{
			{"source", Unwinding, false, (*Run).restart, false},
			{"discard", Unwinding, false, (*Run).discard, false},
		}
	case Reprotect:
		return []step{
			{"launch", Reversing, true, (*Run).relaunch, false},
			{"first point", Reversing, true, (*Run).firstPoint, false},
		}
	case Cleanup:
		return []step{
			{"superseded", Cleaning, false, (*Run).superseded, true},
			{"processes", Cleaning, false, (*Run).endProcesses, false},
			{"stop", Cleaning, false, (*Run).stop, false},
			{"discard", Cleaning, false, (*Run).discard, false},
			{"drop", Cleaning, false, (*Run).drop, false},
			{"pins", Cleaning, false, (*Run).unpin, false},
		}
	}
	return nil
}

func recoverProgram(op Operation) []step {
	var p []step
	switch op {
	case Test, Clone:
		p = []step{
			{"choose", Preparing, false, (*Run).choose, false},
			{"pin", Preparing, false, (*Run).pin, false},
		}
	case Disaster:
		p = []step{
			{"choose", Preparing, false, (*Run).choose, false},
			{"plan", Preparing, true, (*Run).plan, false}, // what is wrong with it is known before the source is fenced
			{"fence", Fencing, false, (*Run).fence, false},
			{"settle", Fencing, false, (*Run).settlePoint, false},
			{"fork", Fencing, false, (*Run).fork, false},
		}
	case Planned, Failback:
		p = []step{
			{"choose", Preparing, false, (*Run).choose, false},
			{"plan", Preparing, true, (*Run).plan, false},
			{"pre-sync", PreSyncing, false, (*Run).preSync, false},
			{"shut down", ShuttingDown, false, (*Run).shutDown, false},
			{"final sync", FinalSync, false, (*Run).finalSync, false},
			{"fence", Fencing, false, (*Run).fence, false},
			{"settle", Fencing, false, (*Run).settlePoint, false},
			{"fork", Fencing, false, (*Run).fork, false},
		}
	}
	p = append(p,
		step{"resolve", Hydrating, true, (*Run).plan, false},
		step{"hydrate", Hydrating, true, (*Run).hydrate, false},
		step{"boot", Booting, true, (*Run).boot, false},
	)
	if op != Clone {
		p = append(p, step{"evidence", Booting, false, (*Run).evidence, false})
	} else {
		p = append(p, step{"pins", Booting, false, (*Run).unpinWhole, false})
	}
	return p
}
