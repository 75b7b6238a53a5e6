package drva

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"log/slog"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/drva/order"
	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/replog"
	"holdfast/internal/wire"
)

// Server is the appliance of one domain. Use New, then Run once. All other
// methods are safe for concurrent use at any time.
type Server struct {
	// Immutable after New.
	cfg     Config // but for what tuning has
	log     *slog.Logger
	events  chan event    // to the sequencer; written by connections and callers, never closed
	stopped chan struct{} // closed when Run returns

	tuning  atomic.Pointer[Tuning] // never nil
	conns   atomic.Uint64
	shipped shipped
	hashes  *hashSource // set before hosts are accepted
	count   counters
	order   atomic.Pointer[order.Status]

	share    share
	attached sync.WaitGroup // hosts being served

	mu      sync.Mutex // guards what follows
	pub     *journal.Publisher
	rl      *replog.Log
	run     runStatus
	ring    eventRing
	serving context.Context // of hosts; nil: none is served now

	boots chan wire.BootTrace // to be stored; written by connections, never closed

	seeds   []*seedJob
	seeding chan struct{} // capacity 1: a seed waits
}

// New checks the configuration. Nothing is opened before Run. Kind Invalid.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Logger, events: make(chan event, maxEvents), stopped: make(chan struct{}), seeding: make(chan struct{}, 1),
		boots: make(chan wire.BootTrace, maxBoots),
		share: cfg.Shared.join(cfg.Priority)}
	t := cfg.Tuning()
	s.tuning.Store(&t)
	return s, nil
}

// Run serves the domain until ctx ends (nil) or it cannot go on: kind Fenced
// when another appliance has taken the domain over, Corrupt when log or
// container are damaged, or what stopped the log. It runs once. A container
// that is not reachable is waited for; hosts track meanwhile.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.stopped)
	defer s.share.leave()
	if s.cfg.Listener != nil {
		defer s.cfg.Listener.Close()
	}
	pub, err := s.openPublisher(ctx)
	if err != nil {
		return s.ended(ctx, err)
	}
	defer pub.Close()
	rl, err := replog.Open(ctx, replog.Options{
		Dir: s.cfg.LogDir, FS: s.cfg.FS, Domain: s.cfg.Domain, Timeline: pub.Timeline(), Epoch: pub.Epoch(),
		Quota: s.cfg.Quota, FileSize: s.cfg.LogFileSize, Logger: s.log,
		Verified: true, // ingest checked what it read into this memory
	})
	if err != nil {
		return s.ended(ctx, err)
	}
	s.mu.Lock()
	s.pub, s.rl = pub, rl
	if cp, ok := pub.LastCheckpoint(); ok {
		s.run.shows(&cp.Checkpoint)
	}
	s.mu.Unlock()
	if err = s.loadPause(); err == nil {
		err = s.serveAll(ctx, pub, rl)
	}
	if closeErr := rl.Close(); err == nil && ctx.Err() == nil {
		err = closeErr
	}
	return s.ended(ctx, err)
}

// serveAll runs the goroutines of the appliance until one of them fails or
// ctx ends.
func (s *Server) serveAll(ctx context.Context, pub *journal.Publisher, rl *replog.Log) error {
	st, err := recoverState(rl, pub)
	if err != nil {
		return err
	}
	ship, err := newShipper(s, rl, pub)
	if err != nil {
		return err
	}
	s.hashes = newHashSource(s.cfg.Container, pub.Timeline())
	g, ctx := errgroup.WithContext(ctx)
	q := newSequencer(s, order.New(s.cfg.Limits, st, time.Now()), rl, func(f func() error) { g.Go(f) })
	q.flight.last = rl.Recovered().Last
	g.Go(func() error { return rl.Run(ctx) })
	g.Go(func() error { return q.run(ctx) })
	g.Go(func() error { return ship.run(ctx) })
	g.Go(func() error { return ship.settle(ctx) })
	g.Go(func() error { return s.hosts(ctx) })
	g.Go(func() error { return s.watch(ctx) })
	g.Go(func() error { return s.runSeeds(ctx) })
	g.Go(func() error { return s.keepBoots(ctx, pub.Timeline()) })
	return g.Wait()
}

// recoverState rebuilds the order's state from the log, or, when the log is
// new, continues the container's history.
func recoverState(rl *replog.Log, pub *journal.Publisher) (*order.State, error) {
	const op = "drva.recover"
	rec := rl.Recovered()
	st := order.NewState()
	if rec.Last == 0 {
		cp, ok := pub.LastCheckpoint()
		if !ok {
			st.Inherit(pub.Timeline(), pub.LastSeq(), nil)
			return st, nil
		}
		st.Inherit(pub.Timeline(), pub.LastSeq(), &cp.Checkpoint)
		return st, nil
	}
	remedy := "set the log's directory aside and start with an empty one: the hosts then sync again"
	if rec.Last < pub.LastSeq() {
		return nil, errs.New(op, errs.Corrupt, "replication log",
			fmt.Sprintf("it ends at record %d, the container holds records up to %d: it is an old copy", rec.Last, pub.LastSeq())).WithRemedy(remedy)
	}
	if rec.First > pub.LastSeq()+1 {
		return nil, errs.New(op, errs.Corrupt, "replication log",
			fmt.Sprintf("it begins at record %d, the container holds records up to %d only: it belongs to another container", rec.First, pub.LastSeq())).WithRemedy(remedy)
	}
	for i := range rec.InForce {
		if err := st.Apply(&rec.InForce[i]); err != nil {
			return nil, errs.E(op, errs.Internal, "replication log", err)
		}
	}
	for n, h := range rec.LastHostSeq {
		st.Heard(n, h)
	}
	st.Last = rec.Last
	if cp, ok := pub.LastCheckpoint(); ok {
		// A log begun after a loss may hold no checkpoint of its own yet.
		st.LastCheckpoint = max(st.LastCheckpoint, cp.ID)
	}
	return st, nil
}

// openPublisher takes the domain's timeline over, for as long as the store is
// not there.
func (s *Server) openPublisher(ctx context.Context) (pub *journal.Publisher, err error) {
	err = s.retry(ctx, "open the container", func() error {
		t, err := s.ownTimeline(ctx)
		if err != nil {
			return err
		}
		pub, err = s.cfg.Container.OpenPublisher(ctx, journal.PublisherOptions{Timeline: t, Host: s.cfg.Host, Logger: s.log, Lock: s.cfg.Lock})
		return err
	})
	return pub, err
}

// ownTimeline is the timeline to publish: that of the log, if there is one. It is
// found out before an epoch is claimed: an appliance that comes back after its
// domain was recovered elsewhere must not fence the one that protects it now.
func (s *Server) ownTimeline(ctx context.Context) (dr.TimelineID, error) {
	const op = "drva.openPublisher"
	t, ok, err := replog.TimelineOf(s.cfg.FS, s.cfg.LogDir)
	if !ok || err != nil {
		return s.cfg.Timeline, err
	}
	if !s.cfg.Timeline.IsZero() {
		if s.cfg.Timeline != t {
			return t, errs.New(op, errs.Invalid, s.cfg.LogDir, "the log is of timeline "+t.String()+", the configuration names "+s.cfg.Timeline.String()).
				WithRemedy("use a fresh directory for the log; keep this one until its tail is published or given up")
		}
		return t, nil
	}
	all, err := s.cfg.Container.Timelines(ctx)
	if err != nil {
		return t, err
	}
	for _, v := range all {
		if v.Current && v.ID != t {
			return t, errs.New(op, errs.Fenced, t.String(), fmt.Sprintf("the domain was recovered: timeline %s (%s, begun %s by %s) is the current one, and this log is of another",
				v.ID, v.Label, v.Created.Format(time.RFC3339), v.By))
		}
	}
	return t, nil
}

// retry repeats try, which does what words say, while it fails for want of the
// store.
func (s *Server) retry(ctx context.Context, words string, try func() error) error {
	pause, told := retryFirst, false
	for {
		err := try()
		if err == nil || ctx.Err() != nil || !errs.Is(err, errs.Transient) && !errs.Is(err, errs.Unavailable) {
			return err
		}
		s.noteError(err)
		if !told {
			told = true
			s.log.Warn("the store is not there, trying on", "op", words, "err", err, "remedy", errs.RemedyOf(err))
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		pause = min(2*pause, retryMost)
	}
}

// ended says how Run ended.
func (s *Server) ended(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil && (errs.Is(err, errs.Canceled) || errors.Is(err, ctx.Err())) {
		return nil
	}
	e := errs.E("drva.Run", errs.Internal, "domain "+s.cfg.Domain.String(), err)
	if errs.Is(err, errs.Fenced) {
		e = e.WithRemedy("another appliance publishes this domain now, here or where it was recovered: remove this one, and let the hosts sync with the other; " +
			"what this log has not published is kept in its directory; if the recovery was a mistake, roll it back and start this appliance again")
	}
	s.noteError(e)
	s.log.Error("the appliance stops", "err", e, "remedy", errs.RemedyOf(e))
	return e
}

// post hands e to the sequencer; false when it will not be handled.
func (s *Server) post(ctx context.Context, e event) bool {
	select {
	case s.events <- e:
		return true
	case <-ctx.Done():
		return false
	case <-s.stopped:
		return false
	}
}

// watch looks at what was promised, and tells when it is not kept.
func (s *Server) watch(ctx context.Context) error {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	var alarm rpoAlarm
	away := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now := time.Now()
		s.mu.Lock()
		s.run.rate.add(s.rl.Usage().Written, now)
		s.mu.Unlock()
		if alarm.retarget(s.tuning.Load()) {
			s.mu.Lock()
			s.run.meeting = NoTarget
			s.mu.Unlock()
		}
		st := s.Status()
		if alarm.look(st.RPO, now) {
			s.mu.Lock()
			s.run.meeting = alarm.state
			s.mu.Unlock()
			s.emit(alarm.event(st.RPO, st.cause()))
		}
		away = s.watchStore(&st.Publisher, away)
	}
}

// watchStore tells when publishing has failed for long, and when it goes on.
func (s *Server) watchStore(p *PublisherStatus, away bool) bool {
	now := p.Failures > 0 && p.Oldest >= storeAway.Seconds() || away && p.Failures > 0
	switch {
	case now && !away:
		s.emit(Event{Code: "store-away", Severity: Warning, Object: "store", Text: "nothing can be published: " + p.LastError + "; the log keeps what comes",
			Remedy: "restore the link to the store; \"holdfast status\" tells how long the log lasts"})
	case away && !now:
		s.emit(Event{Code: "store-back", Severity: Info, Object: "store", Text: "publishing goes on; the log drains"})
	}
	return now
}
