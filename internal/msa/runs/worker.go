package runs

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Options configure a worker. Zero values are the defaults.
type Options struct {
	Kinds  Kinds
	Logger *slog.Logger // nil: none
	// Lease is how long a run stays with a worker that says nothing: 15 s. Renew is
	// how often it is renewed: a fifth of that, at most a third. After a crash others
	// go on a lease later.
	Lease, Renew time.Duration
	Poll         time.Duration // how often is looked for runs that are due: 250 ms
	Runs         int           // most runs held at once: 64
	Parallel     int           // most steps executed at once, of all runs: 128
	Crashes      int64         // a run that is dropped more often without progress is parked: 5
	Grace        time.Duration // how long a worker that stops waits for its steps: 5 s
	// Joined, if not nil, is called in each transaction of this worker in which a run
	// parked or ended, or a prompt of it was opened or ended, when the rows say so:
	// what it does is committed with them or not at all. It may be called again for a
	// transaction that lost. While it fails, the run goes no further.
	Joined func(ctx context.Context, tx *db.Tx, run string) error
}

func (o *Options) defaults() error {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&o.Lease, 15*time.Second)
	set(&o.Renew, o.Lease/5)
	set(&o.Poll, 250*time.Millisecond)
	set(&o.Grace, 5*time.Second)
	for _, n := range []struct {
		v   *int
		def int
	}{{&o.Runs, 64}, {&o.Parallel, 128}} {
		if *n.v == 0 {
			*n.v = n.def
		}
	}
	if o.Crashes == 0 {
		o.Crashes = 5
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	bad := func(words string) *errs.Error {
		return errs.New("runs.NewWorker", errs.Invalid, "the worker's settings", words)
	}
	switch {
	case o.Lease < 3*o.Renew || o.Renew < time.Millisecond:
		return bad(fmt.Sprintf("a lease of %v with a renewal each %v: two renewals may fail, a third must fit", o.Lease, o.Renew)).
			WithRemedy("make the lease at least three times as long as the renewal's interval")
	case o.Lease > time.Hour || o.Poll < time.Millisecond || o.Poll > time.Minute || o.Grace < 0 || o.Grace > time.Hour:
		return bad("a time is beyond any bound")
	case o.Runs < 1 || o.Runs > maxPage || o.Parallel < 1 || o.Parallel > 10*maxParallel || o.Crashes < 1:
		return bad("a number is beyond any bound")
	}
	for k, d := range o.Kinds {
		if d == nil || builtin(k.Name) || k.Version < 1 || !nameForm.MatchString(k.Name) {
			return bad(fmt.Sprintf("kind %q version %d cannot be registered", k.Name, k.Version))
		}
	}
	return nil
}

// Worker carries out runs, one per process. Several share a database's.
type Worker struct {
	db    *db.DB
	opts  Options
	owner string // of this life of the process: never used again
	clock clock
	base  context.Context // what attempts descend from: set by Run, ends with nothing
	wake  chan struct{}   // one place: look now. Wake writes

	mu    sync.Mutex
	held  map[string]*driver // by run; also those that end and have steps that have not returned
	slots int                // steps that may still be begun
	wg    sync.WaitGroup
}

// NewWorker returns a worker that does nothing yet. Kind Invalid: the options, such
// as a lease too short for its renewals.
func NewWorker(d *db.DB, o Options) (*Worker, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	return &Worker{
		db: d, opts: o, owner: dr.NewUUID().String(), clock: realClock(), wake: make(chan struct{}, 1),
		held: make(map[string]*driver), slots: o.Parallel,
	}, nil
}

// Wake has the worker look for due runs at once: one was started, or poked, by this
// process.
func (w *Worker) Wake() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run carries runs out until ctx ends. Then it claims no more, interrupts its steps
// and lets go of its runs, so that others go on at once; a run whose steps have not
// returned within Grace is left to the end of its lease, and the error says so: end
// the process then.
func (w *Worker) Run(ctx context.Context) error {
	// What ends the drivers comes after what ends the claims.
	w.base = context.WithoutCancel(ctx)
	inner, stop := context.WithCancel(w.base)
	defer stop()
	var keepers sync.WaitGroup
	keepers.Go(func() { w.keep(inner) })
	keepers.Go(func() { w.watch(inner) })
	w.claims(ctx)
	w.mu.Lock()
	for _, d := range w.held {
		d.interrupt(errStopping)
	}
	w.mu.Unlock()
	ended := make(chan struct{})
	go func() { w.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-w.after(w.opts.Grace + w.opts.Lease): // a driver ends by itself after Grace; this ends a hung database
	}
	stop()
	keepers.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.held); n > 0 {
		return errs.New("runs.Run", errs.Unavailable, w.owner, fmt.Sprintf("%d runs were not let go of: their steps do not end", n)).
			WithRemedy("end the process; another worker goes on when the leases have ended")
	}
	return nil
}

func (w *Worker) after(d time.Duration) <-chan time.Time { return time.NewTimer(d).C }

// claims looks for due runs and takes them, until ctx ends.
func (w *Worker) claims(ctx context.Context) {
	tick := time.NewTicker(w.opts.Poll)
	defer tick.Stop()
	failing := false
	for ctx.Err() == nil {
		err := w.claimDue(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			w.opts.Logger.Warn("runs cannot be claimed", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-w.wake:
		}
	}
}

func (w *Worker) claimDue(ctx context.Context) error {
	w.mu.Lock()
	room := w.opts.Runs - len(w.held)
	w.mu.Unlock()
	if room <= 0 {
		return nil
	}
	var due []candidate
	err := w.db.View(ctx, func(tx *db.Tx) (err error) {
		due, err = dueRuns(ctx, tx, room)
		return err
	})
	for _, run := range due {
		id := run.id
		w.mu.Lock()
		_, mine := w.held[id] // of an earlier epoch: its steps have not returned
		w.mu.Unlock()
		if mine {
			continue
		}
		asked := w.clock.now()
		c, err := claim(ctx, w.db, run, w.owner, &w.opts)
		if err != nil {
			return err
		}
		if c != nil {
			w.drive(id, c.epoch, asked)
		}
	}
	return err
}

// drive begins to look after a claimed run.
func (w *Worker) drive(id string, epoch int64, asked instant) {
	d := newDriver(w, id, epoch, newLease(w.opts.Lease, asked))
	w.mu.Lock()
	w.held[id] = d
	w.mu.Unlock()
	w.wg.Go(func() {
		d.run()
		d.over.Store(true)
		w.forget(d)
		w.Wake()
	})
}

// keep renews all leases until ctx ends. A renewal that fails is repeated, sooner:
// the leases hold on meanwhile, and the watchdog knows when they do not.
func (w *Worker) keep(ctx context.Context) {
	pause := w.opts.Renew
	for {
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		pause = w.opts.Renew
		if err := w.renewAll(ctx); err != nil && ctx.Err() == nil {
			w.opts.Logger.Warn("leases were not renewed", "err", err)
			pause = w.opts.Renew / 4
		}
	}
}

func (w *Worker) renewAll(ctx context.Context) error {
	w.mu.Lock()
	none := len(w.held) == 0
	w.mu.Unlock()
	if none {
		return nil
	}
	// Two may hang before the lease ends.
	ctx, cancel := context.WithTimeout(ctx, w.opts.Lease/3)
	defer cancel()
	type row struct{ epoch, pokes int64 }
	var ours map[string]row
	asked := w.clock.now()
	err := w.db.Tx(ctx, func(tx *db.Tx) error {
		ours = make(map[string]row)
		return tx.Rows(ctx, sqlText.renew, []any{w.owner, tx.Now() + w.opts.Lease.Milliseconds()}, func(scan func(...any) error) error {
			var id string
			var r row
			err := scan(&id, &r.epoch, &r.pokes)
			ours[id] = r
			return err
		})
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, d := range w.held {
		if r, ok := ours[id]; ok && r.epoch == d.held.epoch {
			d.lease.renewed(asked)
			d.poked(r.pokes)
		}
	}
	return nil
}

// watch ends local work whose lease has lapsed, and looks between renewals whether
// somebody poked a run, until ctx ends.
func (w *Worker) watch(ctx context.Context) {
	tick := time.NewTicker(max(time.Millisecond, min(w.opts.Lease/50, w.opts.Poll)))
	defer tick.Stop()
	looked := w.clock.mono()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := w.clock.now()
		if n := w.lookAtLeases(now); n > 0 && now.mono-looked >= w.opts.Poll {
			looked = now.mono
			w.lookForPokes(ctx)
		}
	}
}

// lookAtLeases interrupts the runs whose leases have lapsed; it returns how many runs
// there are.
func (w *Worker) lookAtLeases(now instant) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.held {
		if d.lease.lapsed(now) {
			d.interrupt(errLapsed)
		}
	}
	return len(w.held)
}

// lookForPokes tells drivers of cancels and answers. An error is not told: the
// renewals, which ask the same database, tell theirs.
func (w *Worker) lookForPokes(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, w.opts.Lease/10)
	defer cancel()
	pokes := make(map[string]int64)
	if err := w.db.View(ctx, func(tx *db.Tx) error {
		return tx.Rows(ctx, `SELECT id, pokes FROM runs WHERE owner = $1 AND state = 'active'`, []any{w.owner}, func(scan func(...any) error) error {
			var id string
			var n int64
			err := scan(&id, &n)
			pokes[id] = n
			return err
		})
	}); err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, n := range pokes {
		if d := w.held[id]; d != nil {
			d.poked(n)
		}
	}
}

// grab takes one of the steps that may be begun.
func (w *Worker) grab() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.slots == 0 {
		return false
	}
	w.slots--
	return true
}

// giveBack returns n of them and wakes those that wait for one.
func (w *Worker) giveBack(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots += n
	if w.slots == 0 {
		return
	}
	for _, d := range w.held {
		if d.starved.CompareAndSwap(true, false) {
			d.kick()
		}
	}
}
