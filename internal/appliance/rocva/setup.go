package rocva

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// Setup makes the appliance what a setup says: it writes what opens the containers, and
// keeps the standbys of those domains that are continuous. Files are durable on return.
// Runs that are there are left alone, but for those of an earlier process, which the first
// setup has taken over. Kinds: Invalid (another role, or another platform than before),
// those of writing files.
func (s *Appliance) Setup(ctx context.Context, u *setup.Setup) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	err := s.take(u)
	if err == nil {
		err = s.apply(ctx, u)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problem = err; err == nil {
		s.is = u.Generation
	}
	return err
}

// take makes a setup the newest one, durably, before anything is done by it.
func (s *Appliance) take(u *setup.Setup) error {
	if u.RocVA == nil {
		return errs.New("rocva.Setup", errs.Invalid, "setup", "it is of another role")
	}
	return setup.Save(s.opts.Dir, u)
}

// load is the setup of an earlier life; nil: there is none. One that cannot be read is
// none: the manager gives another.
func (s *Appliance) load() *setup.Setup {
	u, err := setup.Load(s.opts.Dir)
	if err != nil {
		s.log.Warn("what the appliance was to be cannot be read; it waits for its manager", "err", err)
		return nil
	}
	return u
}

func (s *Appliance) apply(ctx context.Context, u *setup.Setup) error {
	for i := range u.RocVA.Domains {
		if err := s.writeAccess(&u.RocVA.Domains[i]); err != nil {
			return err
		}
	}
	s.mu.Lock()
	before := s.told
	s.told = *u
	s.mu.Unlock()
	s.boots.bound(u.RocVA.MaxBoots)
	if s.parts.Load() == nil {
		p, err := s.opts.Begin(ctx, u.Platform, u.Endpoints)
		if err != nil {
			return err
		}
		p.Service.TakeTurns(s.turn)
		s.parts.Store(p)
		if err := s.open(ctx); err != nil {
			s.log.Warn("not all recoveries go on", "err", err, "remedy", errs.RemedyOf(err))
		}
	} else if before.Platform != u.Platform || !slices.Equal(before.Endpoints, u.Endpoints) {
		return errs.New("rocva.Setup", errs.Invalid, "platform", "the site's platform is reached in another way now").WithRemedy("start the appliance again: its VMs go on")
	}
	s.keepWarm()
	return nil
}

// Run comes up by the newest setup it has, with or without a manager, and looks after what
// lives here until ctx ends; VMs and their protection go on then.
func (s *Appliance) Run(ctx context.Context) error {
	if u := s.load(); u != nil {
		if err := s.Setup(ctx, u); err != nil {
			s.log.Warn("the appliance is not what it was", "err", err, "remedy", errs.RemedyOf(err))
		}
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.applying.Lock()
			defer s.applying.Unlock()
			return s.close()
		case <-tick.C:
			s.mind(ctx)
		}
	}
}

// Report is how the appliance stands, without asking anybody.
func (s *Appliance) Report() *setup.Report {
	r := &setup.Report{Started: s.began, Lives: s.Lives()}
	r.Lives = r.Lives[:min(len(r.Lives), setup.MaxDomains)]
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Generation = s.is
	if s.problem != nil && !errs.Is(s.problem, errs.Canceled) {
		r.Problems = append(r.Problems, setup.ProblemOf("appliance "+s.opts.Name, s.problem))
	}
	for _, name := range r.Lives {
		p := s.seen[name]
		if p == nil {
			continue
		}
		r.Domains = append(r.Domains, p.domain)
		r.Figures = append(r.Figures, p.figures...)
		if p.err != nil && len(r.Problems) < setup.MaxProblems {
			r.Problems = append(r.Problems, setup.ProblemOf("domain "+string(name), p.err))
		}
	}
	r.Figures = r.Figures[:min(len(r.Figures), setup.MaxFigures)]
	return r
}

// protection is how a domain that lives here is protected.
type protection struct {
	domain  setup.DomainReport
	figures []setup.Figure
	err     error // why what ended of it is not up again
}

// mind looks after the domains that live here: what protects them is started again when it
// has ended, and VMs are that ended though nobody wanted it.
func (s *Appliance) mind(ctx context.Context) {
	for _, o := range s.all() {
		if o.stuck.Load() && o.mu.TryLock() {
			s.unstick(ctx, o)
			o.mu.Unlock()
		}
		if r := o.seen.Load(); r != nil {
			s.regreet(o, r)
		}
	}
	seen := map[site.Name]*protection{}
	for _, name := range s.Lives() {
		o, err := s.living(name)
		if err != nil {
			continue
		}
		p := &protection{}
		r := o.seen.Load()
		if r != nil && r.Unprotected() && o.mu.TryLock() { // else a step has it, and sees to it
			if o.run != nil && !o.busy() {
				o.still()
				p.err = o.run.KeepProtected(ctx)
				s.attend(o)
			}
			o.mu.Unlock()
		}
		if r != nil {
			s.again(ctx, o, r)
			p.err = errors.Join(p.err, o.troubles(r, s.now()))
			p.domain, p.figures = s.standing(ctx, name, r)
		}
		seen[name] = p
	}
	s.mu.Lock()
	s.seen = seen
	s.mu.Unlock()
}

// unstick goes on with a run that could not be gone on with. Called with o.mu held.
func (s *Appliance) unstick(ctx context.Context, o *owned) {
	if o.run == nil || o.busy() {
		return
	}
	o.still()
	o.stuck.Store(false)
	if err := goOn(ctx, o.run); errors.Is(err, errTurn) {
		o.stuck.Store(true)
		s.log.Info("a recovery's VMs wait for their turn to start", "run", o.run.Dir())
	} else if err != nil {
		o.stuck.Store(!errors.Is(err, recovery.ErrMovedOn))
		s.log.Warn("a recovery cannot be gone on with", "run", o.run.Dir(), "err", err, "remedy", errs.RemedyOf(err))
	}
	s.attend(o)
}

var errNoAnswer = errors.New("what protects it does not answer")
