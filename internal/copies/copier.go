package copies

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/store"
)

// Options say how a copy is kept. The zero value is that of a copy that follows its
// source.
type Options struct {
	Name     string        // of the copy, as people know it: its address, say
	Interval time.Duration // between passes while it follows; 0: DefaultInterval
	Logger   *slog.Logger  // nil: none
	// Progress, if not nil, is told what lies behind while a pass works, from several
	// goroutines. It must not call the Copier.
	Progress func(Behind)
	// Changed, if not nil, is called after a pass that found the copy in another state
	// than before, on its goroutine. It must not call the Copier.
	Changed func(Status)
}

// Copier keeps one copy. Methods are safe for concurrent use; passes wait for each
// other. It owns no goroutine beyond its calls.
type Copier struct {
	src, dst *journal.Container // the same container in both stores
	from, to store.Store
	opts     Options
	log      *slog.Logger
	side     time.Duration // sideEvery; tests have none
	remove   time.Duration // removeEvery
	broken   variant       // tests alone break rules

	turn chan struct{} // holds one token: who has it makes a pass and owns work
	work work

	mu     sync.Mutex // guards both below
	state  Status
	fenced error
}

// variant breaks rules, to see the tests notice. The zero value is the rules.
type variant struct {
	manifestFirst bool // a manifest goes before what it names
	backwards     bool // journal objects go in the reverse order
	domainFirst   bool // the container is there before it has anything
	eager         bool // what the source has no more is deleted at once
	blind         bool // nobody looks who else writes to the copy
	noPlug        bool // the chain is stepped over without taking the missing number
}

// work is what a Copier knows of the copy besides the copy: nothing is lost with it
// but time.
type work struct {
	begun   bool
	whole   bool // there is a container in the copy: `domain`
	lines   map[dr.TimelineID]*line
	order   []*line         // parents before branches
	have    map[string]bool // names that lie in the copy, but for those of claims
	sided   time.Time       // last look at what changes seldom
	removed time.Time       // last look at what may be deleted
	holds   []hold
}

// line is a timeline as far as the copy has it.
type line struct {
	journal.TimelineInfo
	foreign bool           // somebody else writes it in the copy: a test's branch
	idle    bool           // given up, and no branch needs it
	started bool           // its chain has begun in the copy
	at      journal.Anchor // up to where its chain goes in the copy
	claimed dr.Epoch       // highest claim that is in the copy, the same in both
	gen     uint64         // generation of the newest manifest in the copy; 0: none
	points  map[dr.CheckpointID]bool
	anchor  journal.Anchor // of that manifest
	newest  time.Time      // of its newest recovery point in the copy
	source  time.Time      // of its newest recovery point in the source, as far as known
	gone    bool           // the next number of its chain is gone at the source
	looked  time.Time      // when its manifests were looked at last
	blocked string         // why a newer manifest waits; "": none does
}

// New returns a Copier of an open container to a store, which holds a copy of it
// already or nothing. Neither is asked. Kind Invalid for bad options.
func New(src *journal.Container, dst store.Store, opts Options) (*Copier, error) {
	if opts.Interval == 0 {
		opts.Interval = DefaultInterval
	}
	if opts.Interval < LeastInterval || opts.Interval > MostInterval {
		return nil, errs.New("copies.New", errs.Invalid, opts.Name, fmt.Sprintf("an interval of %v is not between %v and %v", opts.Interval, LeastInterval, MostInterval))
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Copier{src: src, dst: src.At(dst), from: src.Store(), to: dst, opts: opts, log: opts.Logger.With("copy", opts.Name),
		side: sideEvery, remove: removeEvery, turn: make(chan struct{}, 1), state: Status{Name: opts.Name, State: Copying}}
	m.turn <- struct{}{}
	return m, nil
}

// Run makes passes until ctx ends, which is kind Canceled, or the copy turns out to
// be somebody else's, which is kind Fenced and for good. All else is in Status: after
// failures it tries on, ever more rarely.
func (m *Copier) Run(ctx context.Context) error {
	for failures := 0; ; {
		more, err := m.Pass(ctx)
		switch {
		case ctx.Err() != nil:
			return errs.E("copies.Run", errs.Canceled, m.opts.Name, context.Cause(ctx))
		case errs.Is(err, errs.Fenced):
			return err
		case err == nil && more:
			failures = 0
			continue
		case err == nil:
			failures = 0
		default:
			failures++
		}
		timer := time.NewTimer(m.pause(failures))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// pause is the time to the next pass after a number of failures in a row.
func (m *Copier) pause(failures int) time.Duration {
	d := m.opts.Interval
	for range min(failures, 10) {
		d = min(2*d, max(mostPause, m.opts.Interval))
	}
	return d
}

// CatchUp makes passes until the copy has all that the source has. Kinds as of Pass.
func (m *Copier) CatchUp(ctx context.Context) error {
	for {
		if more, err := m.Pass(ctx); err != nil || !more {
			return err
		}
	}
}

// Pass brings the copy nearer to the source; more is true when something is left
// that could go at once. What was copied is durable.
//
// Kinds: Fenced when somebody else writes the copy's history, Invalid when something
// else lies in the copy's place, Corrupt for an object that is damaged in either store,
// Canceled, or a store's. After any error the copy is as whole as before; but for
// Fenced, Pass may be called again.
func (m *Copier) Pass(ctx context.Context) (more bool, err error) {
	select {
	case <-m.turn:
	case <-ctx.Done():
		return false, errs.E("copies.Pass", errs.Canceled, m.opts.Name, context.Cause(ctx))
	}
	defer func() { m.turn <- struct{}{} }()
	m.mu.Lock()
	fenced := m.fenced
	m.mu.Unlock()
	if fenced != nil {
		return false, fenced
	}
	more, err = m.pass(ctx)
	if err != nil {
		err = errs.E("copies.Pass", errs.Internal, m.opts.Name, err)
		m.measure(ctx)
	}
	state := StateOf(err)
	if state == Away && m.answers(ctx) {
		state = Lagging // it is the first store that is away, which others tell
	}
	if changed := m.note(ctx, more, err, state); changed && m.opts.Changed != nil {
		m.opts.Changed(m.Status())
	}
	return more, err
}

func (m *Copier) pass(ctx context.Context) (more bool, err error) {
	if !m.work.begun {
		if err := m.begin(ctx); err != nil {
			m.work = work{}
			return false, err
		}
		m.work.begun = true
	}
	w := &m.work
	if now := time.Now(); now.Sub(w.sided) >= m.side || now.Before(w.sided) {
		if err := m.lookAside(ctx); err != nil {
			return false, err
		}
		w.sided = now
	}
	for _, l := range w.order {
		left, err := m.follow(ctx, l)
		if err != nil {
			return false, err
		}
		more = more || left
		if left && !w.whole {
			return true, nil // a branch waits for its parent
		}
	}
	if !w.whole {
		if err := m.copy(ctx, journal.DomainName); err != nil {
			return false, err
		}
		w.whole = true
		m.log.Info("the copy is a container now")
		more = true
	}
	if now := time.Now(); !more && (now.Sub(w.removed) >= m.remove || now.Before(w.removed)) {
		if err := m.deleteDue(ctx); err != nil {
			return false, err
		}
		w.removed = now
	}
	return more, nil
}

// stop notes that the copy is somebody else's, once and for all.
func (m *Copier) stop(object, words string) error {
	err := errs.New("copies", errs.Fenced, object, words).
		WithRemedy("if the domain was recovered from the copy and lives there now, stop what still publishes to the first store; if that recovery was undone, name an empty place for the copy, or empty this one")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fenced = err
	return err
}
