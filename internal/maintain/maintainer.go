package maintain

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
)

// Maintainer maintains one timeline of a container. Several may work on one
// timeline, in one process or in many: for each generation one wins. Methods
// are safe for concurrent use; passes of one Maintainer wait for each other.
//
//	working --breakerFailures in a row--> resting --breakerRest, or Wake--> working
type Maintainer struct {
	c        *journal.Container
	timeline dr.TimelineID
	opts     Options
	clock    journal.Clock
	log      *slog.Logger
	gathers  gathering
	broken   variant       // tests alone break rules
	wake     chan struct{} // written by Wake, read by Run; never closed; room for one

	turn chan struct{} // holds one token: who has it makes a pass and owns memory
	mem  memory        // owned by who has the turn

	mu    sync.Mutex // guards all below
	state Status
	ask   request
}

// request is what was asked of the next pass.
type request struct {
	full     bool      // merge all and pack all
	sweep    bool      // look for orphans
	accepted time.Time // see Clock.Accepted
	clear    bool      // clear suspect marks
}

func (r request) or(o request) request {
	r.full, r.sweep, r.clear = r.full || o.full, r.sweep || o.sweep, r.clear || o.clear
	if o.accepted.After(r.accepted) {
		r.accepted = o.accepted
	}
	return r
}

// memory is what a Maintainer knows besides the container: nothing is lost
// with it but time.
type memory struct {
	deleted  map[string]bool      // tombstones of the newest manifest whose objects are gone
	held     map[string]time.Time // objects to be deleted that a lock was seen on, and until when
	full     time.Time            // of the last full merge, own clock
	swept    time.Time            // of the last look for orphans, own clock
	removed  time.Time            // of the last look for what is due, own clock
	locked   time.Time            // of the last look at the index locks, own clock
	detector Detector
	suspect  time.Time // newest suspect checkpoint
	sizes    *Sizes    // of the last full merge
	oldest   dr.UUID   // first part of the run it made
	kept     []dr.Seq  // what it kept versions for
}

// variant breaks rules, to see the tests notice. The zero value is the rules.
type variant struct {
	noGrace     bool // what is due is deleted at once
	ignorePins  bool // pins keep nothing
	ignoreForks bool // branches keep nothing
	keepFew     bool // neither the newest nor the young journal objects are kept
	early       bool // what a manifest will do without is deleted before it is written
	noBump      bool // orphans are swept without a manifest being written first
	young       bool // orphans are swept whatever their age
	eager       bool // what is dropped from the points is dropped from the index in the same pass
	storeClock  bool // the store's clock alone tells an age
	greedy      bool // a merge forgets a version that only the oldest checkpoint sees
}

// New returns a Maintainer of a container. Kind Invalid for bad options,
// NotFound for a timeline that is not there, or the store's.
func New(ctx context.Context, c *journal.Container, opts Options) (*Maintainer, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if err := lockable(c, opts.Policy); err != nil {
		return nil, err
	}
	if opts.Interval == 0 {
		opts.Interval = DefaultInterval
	}
	if opts.PackAge == 0 {
		opts.PackAge = packAge
	}
	if opts.Clock == nil {
		opts.Clock = systemClock{}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	all, err := c.Timelines(ctx)
	if err != nil {
		return nil, err
	}
	t, began, ok := pickTimeline(all, opts.Timeline)
	if !ok {
		return nil, errs.New("maintain.New", errs.NotFound, opts.Timeline.String(), "the container has no such timeline").
			WithRemedy("inspect the container to see its timelines")
	}
	m := &Maintainer{
		c: c, timeline: t, opts: opts, clock: opts.Clock,
		log:  opts.Logger.With("timeline", t.String()),
		wake: make(chan struct{}, 1), turn: make(chan struct{}, 1),
		gathers: gathering{gatherLeast, gatherEvery},
		mem:     memory{deleted: make(map[string]bool), held: make(map[string]time.Time)},
		state:   Status{Timeline: t, Began: began},
	}
	m.turn <- struct{}{}
	return m, nil
}

func pickTimeline(all []journal.TimelineInfo, want dr.TimelineID) (dr.TimelineID, time.Time, bool) {
	for _, t := range all {
		if t.ID == want || want.IsZero() && t.Current {
			return t.ID, t.Created, true
		}
	}
	return want, time.Time{}, false
}

// Timeline is the timeline that is maintained.
func (m *Maintainer) Timeline() dr.TimelineID { return m.timeline }

// Wake makes Run begin its next pass now, also when it rests after failures.
func (m *Maintainer) Wake() {
	select {
	case m.wake <- struct{}{}:
	default: // awake already
	}
}

// Compact asks the next pass to merge the whole index, to pack and repack
// whatever can be, and to look for orphans.
func (m *Maintainer) Compact() { m.request(request{full: true, sweep: true}) }

// AcceptClock confirms that the time by this machine's clock is right, though
// it seems to have passed without checkpoints: thinning is held no longer for
// that reason. It takes effect in the next pass.
func (m *Maintainer) AcceptClock() { m.request(request{accepted: m.clock.Wall()}) }

// ClearSuspects makes the next pass forget all suspect marks, and thinning go
// on around them.
func (m *Maintainer) ClearSuspects() { m.request(request{clear: true}) }

func (m *Maintainer) request(r request) {
	m.mu.Lock()
	m.ask = m.ask.or(r)
	m.mu.Unlock()
}

// Run makes passes until ctx ends, which is the only way it returns: every
// Options.Interval while there is work, ever more rarely up to MostInterval
// while there is none, and after breakerFailures failures in a row every
// breakerRest.
func (m *Maintainer) Run(ctx context.Context) error {
	wait := m.opts.Interval
	for {
		r, err := m.Pass(ctx)
		if ctx.Err() != nil {
			return errs.E("maintain.Run", errs.Canceled, m.timeline.String(), context.Cause(ctx))
		}
		switch {
		case err != nil && m.failures() >= breakerFailures:
			wait = breakerRest
		case err != nil || r.Changed || r.More:
			wait = m.opts.Interval
		default:
			wait = min(2*wait, MostInterval) // an idle domain's heartbeats can wait
		}
		if err == nil && r.More {
			continue
		}
		if err := m.rest(ctx, wait); err != nil {
			return err
		}
	}
}

// rest waits for d, or until somebody wakes it.
func (m *Maintainer) rest(ctx context.Context, d time.Duration) error {
	m.mu.Lock()
	m.state.NextRun = m.clock.Wall().Add(d)
	m.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.wake:
	case <-ctx.Done():
		return errs.E("maintain.Run", errs.Canceled, m.timeline.String(), context.Cause(ctx))
	}
	return nil
}

func (m *Maintainer) failures() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Failures
}

// Pass maintains once: what was published goes into the index, checkpoints are
// thinned, runs merged, data packed, a manifest written when there was work,
// and what is due deleted. Everything it did is durable on return.
//
// Kinds: Conflict when other maintainers were faster several times in a row,
// Corrupt when the history is damaged (what lies before the damage was
// maintained), Canceled, or the store's. After any error the container is as
// whole as before and Pass may be called again.
func (m *Maintainer) Pass(ctx context.Context) (*Report, error) {
	select {
	case <-m.turn:
	case <-ctx.Done():
		return nil, errs.E("maintain.Pass", errs.Canceled, m.timeline.String(), context.Cause(ctx))
	}
	defer func() { m.turn <- struct{}{} }()
	m.mu.Lock()
	ask := m.ask
	m.ask = request{}
	m.mu.Unlock()
	var r *Report
	var err error
	for range conflictTries {
		p := newPass(m, ask)
		r, err = p.run(ctx)
		if !errs.Is(err, errs.Conflict) {
			break
		}
		m.log.Info("another maintainer was faster, beginning anew", "err", err)
	}
	if err != nil {
		m.request(ask) // still to be done
		err = errs.E("maintain.Pass", errs.Internal, m.timeline.String(), err)
	}
	m.note(r, err)
	return r, err
}

// note keeps what a pass came to.
func (m *Maintainer) note(r *Report, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.state
	s.LastRun = m.clock.Wall()
	if err != nil {
		s.Failures++
		s.LastError = err.Error()
		if s.Failures == 1 || s.Failures == breakerFailures {
			m.log.Error("maintenance failed", "err", err, "remedy", errs.RemedyOf(err), "failures", s.Failures)
		}
		return
	}
	if s.Failures > 0 {
		m.log.Info("maintenance works again", "failures", s.Failures)
	}
	s.Failures, s.LastError = 0, ""
	s.adopt(r)
}
