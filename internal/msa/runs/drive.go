package runs

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Why a driver gives its run up.
var (
	errStopping = errs.New("runs.Run", errs.Canceled, "", "this worker stops; another goes on with the run")
	errLapsed   = errs.New("runs.Run", errs.Fenced, "", "the run's lease could not be renewed in time")
	errOvertime = errs.New("runs.Do", errs.Unavailable, "", "the step did not end in time")
	errWanted   = errs.New("runs.Do", errs.Canceled, "", "the run was cancelled, or the step's time is over")
)

// driver looks after one run this worker holds: one goroutine, run.
type driver struct {
	w     *Worker
	held  *held
	lease *lease

	ctx       context.Context // of the attempts; its cause says why the run is given up
	interrupt context.CancelCauseFunc
	reports   chan report   // attempts write; run reads. As many places as attempts
	kicks     chan struct{} // one place: look again
	starved   atomic.Bool   // it would begin more steps, and none was free
	pokes     atomic.Int64  // of the row, as seen last
	over      atomic.Bool   // run has ended

	mu      sync.Mutex // guards calls
	calls   map[int]*attempt
	pending []report // owned by run: not entered yet
}

// attempt is an attempt under way.
type attempt struct {
	call   *Call
	cancel context.CancelCauseFunc
	told   [2]int64 // progress that is stored
}

func newDriver(w *Worker, id string, epoch int64, l *lease) *driver {
	ctx, cancel := context.WithCancelCause(w.base)
	return &driver{
		w: w, lease: l, ctx: ctx, interrupt: cancel,
		held:    &held{db: w.db, kinds: w.opts.Kinds, join: w.opts.Joined, id: id, owner: w.owner, epoch: epoch, live: make(map[int]int)},
		reports: make(chan report, maxParallel), kicks: make(chan struct{}, 1), calls: make(map[int]*attempt),
	}
}

func (d *driver) kick() {
	select {
	case d.kicks <- struct{}{}:
	default:
	}
}

// poked tells the driver how often its run was poked.
func (d *driver) poked(n int64) {
	if d.pokes.Swap(n) < n {
		d.kick()
	}
}

// returned reports whether all attempts have.
func (d *driver) returned() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.calls) == 0
}

// run passes over the run each time something has happened, until it has ended,
// waits for nothing but a time or a person, or is given up.
func (d *driver) run() {
	pause := firstPause
	for d.ctx.Err() == nil {
		t, err := d.pass(false)
		switch {
		case errs.Is(err, errs.Fenced):
			d.interrupt(err)
		case err != nil:
			d.w.opts.Logger.Warn("a run's steps were not stored; again", "run", d.held.id, "err", err)
			d.sleep(pause)
			pause = min(2*pause, longestPause)
			continue
		case t.gone:
			return
		default:
			d.await(t)
		}
		pause = firstPause
	}
	d.giveUp()
}

// pass enters what was reported and begins what follows.
func (d *driver) pass(leave bool) (*turn, error) {
	d.drain()
	t := &turn{reports: d.pending, leave: leave, grab: d.w.grab}
	// It is bounded by the lease, not by the worker's end: what was done is to be stored.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), d.w.opts.Lease)
	defer cancel()
	err := d.held.pass(ctx, t)
	if err != nil {
		d.w.giveBack(t.grabbed)
		return t, err
	}
	d.pending = nil
	for _, l := range t.launches {
		d.begin(l)
	}
	d.w.giveBack(t.grabbed - len(t.launches))
	if t.starved {
		d.starved.Store(true)
		d.w.giveBack(0) // one may have become free between
	}
	for _, seq := range t.interrupt {
		d.mu.Lock()
		if a := d.calls[seq]; a != nil {
			a.cancel(errWanted)
		}
		d.mu.Unlock()
	}
	return t, nil
}

func (d *driver) drain() {
	for {
		select {
		case r := <-d.reports:
			d.pending = append(d.pending, r)
		default:
			return
		}
	}
}

// await waits until there is something to do.
func (d *driver) await(t *turn) {
	wait := min(progressEvery, max(t.wait, time.Millisecond))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case r := <-d.reports:
		d.pending = append(d.pending, r)
	case <-d.kicks:
	case <-d.ctx.Done():
	case <-timer.C:
		d.tellProgress()
	}
}

func (d *driver) sleep(pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.ctx.Done():
	}
}

// tellProgress stores what attempts under way say. What is not stored now is later.
func (d *driver) tellProgress() {
	far := make(map[int][2]int64)
	d.mu.Lock()
	for seq, a := range d.calls {
		a.call.mu.Lock()
		if now := [2]int64{a.call.done, a.call.total}; now != a.told {
			a.told, far[seq] = now, now
		}
		a.call.mu.Unlock()
	}
	d.mu.Unlock()
	if len(far) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(d.ctx, d.w.opts.Renew)
	defer cancel()
	if err := d.held.progress(ctx, far); err != nil {
		d.w.opts.Logger.Debug("progress was not stored", "run", d.held.id, "err", err)
	}
}

// begin executes an attempt, in a goroutine of its own.
func (d *driver) begin(l launch) {
	ctx, cancel := context.WithCancelCause(d.ctx)
	stop := context.CancelFunc(func() {})
	if l.step.spec.Timeout > 0 {
		ctx, stop = context.WithTimeoutCause(ctx, l.step.spec.Timeout, errOvertime)
	}
	c := &Call{
		Run: d.held.id, Seq: l.step.seq, Step: l.step.spec.Step, Epoch: l.epoch, Key: l.key, Attempt: l.attempt,
		Input: l.step.spec.Input, Memory: json.RawMessage(l.step.memory), hold: d.hold,
	}
	if u := l.undoes; u != nil {
		c.Undoes = u.key(d.held.id)
		c.UndoesMemory = json.RawMessage(u.memory)
	}
	d.mu.Lock()
	d.calls[l.step.seq] = &attempt{call: c, cancel: cancel}
	d.mu.Unlock()
	doer := d.held.kinds[Kind{l.step.spec.Kind, l.step.spec.Version}]
	go func() {
		r := execute(ctx, doer, c)
		if r.err != nil && ctx.Err() != nil && !errors.Is(r.err, context.Cause(ctx)) {
			r.err = errs.E("runs.Do", errs.KindOf(context.Cause(ctx)), c.Step.Name, errors.Join(context.Cause(ctx), r.err))
		}
		r.aborted = d.ctx.Err() != nil
		stop()
		cancel(nil)
		d.reports <- r
		d.mu.Lock()
		delete(d.calls, c.Seq)
		d.mu.Unlock()
		d.kick()
		d.w.giveBack(1)
		d.w.forget(d)
	}()
}

// forget drops a driver that has ended once its last attempt has returned.
func (w *Worker) forget(d *driver) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.over.Load() && d.returned() && w.held[d.held.id] == d {
		delete(w.held, d.held.id)
	}
}

// hold is Call.Hold.
func (d *driver) hold(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return errs.E("runs.Hold", errs.Canceled, d.held.id, context.Cause(ctx))
	}
	if d.lease.lapsed(d.w.clock.now()) {
		d.interrupt(errLapsed)
		return errLapsed
	}
	var n int64
	err := d.w.db.View(ctx, func(tx *db.Tx) error {
		_, err := tx.Row(ctx, `SELECT count(*) FROM runs WHERE id = $1 AND owner = $2 AND epoch = $3 AND state = 'active'`,
			[]any{d.held.id, d.held.owner, d.held.epoch}, &n)
		return err
	})
	if err == nil && n == 0 {
		d.interrupt(errLapsed)
		return errLapsed
	}
	return err
}

// giveUp waits for the attempts that were interrupted, stores what they still did and
// lets go of the run, if it is still ours. One that does not return keeps it: another
// owner must not begin its step beside it before the lease has ended.
func (d *driver) giveUp() {
	for end := d.w.after(d.w.opts.Grace); !d.returned(); {
		select {
		case r := <-d.reports:
			d.pending = append(d.pending, r)
			continue
		case <-d.kicks:
			continue
		case <-end:
		}
		break
	}
	for pause := firstPause; d.returned(); pause = 2 * pause {
		_, err := d.pass(true)
		if err == nil || errs.Is(err, errs.Fenced) || pause > longestPause {
			return
		}
		time.Sleep(pause) // the context that would end it has ended
	}
}
