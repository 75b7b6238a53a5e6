package rocva

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/journal"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// Options are what an Appliance is made of.
type Options struct {
	Dir  string // absolute, and short: sockets lie below; made if it is missing
	Name string // what people call the machine
	// Begin makes what the appliance works with, once: when it is first told its site's
	// platform.
	Begin  func(ctx context.Context, p site.Platform, endpoints []string) (*Parts, error)
	Logger *slog.Logger // nil: none
}

// Parts are what an Appliance works with.
type Parts struct {
	Service *recovery.Service
	// Open opens a domain's container, as the Service does: for standbys.
	Open func(ctx context.Context, url string, access map[string]string) (*journal.Container, error)
	// Site is the platform whose VMs are no recovery's; nil: none can be seen, and what
	// has to do with them is refused.
	Site hypervisor.Platform
	// Platform is recovery.Request.Platform, for who makes the Service's provider.
	Platform map[string]string
	// Accelerator runs recovered VMs.
	Accelerator hypervisor.Accelerator
	Close       func() error // called last; nil: nothing
}

// Appliance is operate.Effects over recoveries below one directory, and a part of
// package appliance: its agent calls Setup, Report and Run. It is for concurrent use.
type Appliance struct {
	opts  Options
	log   *slog.Logger
	began int64 // UTC milliseconds

	applying sync.Mutex // one Setup at a time
	parts    atomic.Pointer[Parts]

	mu       sync.Mutex
	told     setup.Setup               // guarded by mu: the newest setup
	is       string                    // guarded by mu: the generation that the box is
	problem  error                     // guarded by mu: why it is not the newest; nil: it is
	runs     map[string]*owned         // guarded by mu: by directory
	standbys map[site.Name]*warmth     // guarded by mu
	seen     map[site.Name]*protection // guarded by mu: of domains that live here

	telling sync.Mutex                // held while a guest is told its addresses
	greeted map[dr.VMID]hypervisor.VM // guarded by telling: VMs whose guests were told
}

var _ operate.Effects = (*Appliance)(nil)

// New returns an appliance that owns no run yet. Kind Invalid: the options.
func New(o Options) (*Appliance, error) {
	if !filepath.IsAbs(o.Dir) || o.Begin == nil {
		return nil, errs.New("rocva.New", errs.Invalid, "options", "an absolute directory and what begins the work are needed")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Appliance{opts: o, log: o.Logger, began: time.Now().UnixMilli(), runs: map[string]*owned{}, standbys: map[site.Name]*warmth{},
		seen: map[site.Name]*protection{}, greeted: map[dr.VMID]hypervisor.VM{}}, nil
}

// ready returns what the appliance works with. Kind Unavailable: it was not told its
// platform yet.
func (s *Appliance) ready() (*Parts, error) {
	if p := s.parts.Load(); p != nil {
		return p, nil
	}
	return nil, errs.New("rocva", errs.Unavailable, "appliance "+s.opts.Name, "it waits for its manager to tell what it is to be").WithRemedy("see whether it reaches its manager: holdfast appliance status DIR")
}

// Lives lists the domains whose committed recovery is here, in order.
func (s *Appliance) Lives() []site.Name {
	var out []site.Name
	for _, o := range s.all() {
		if rec := o.record(); rec != nil && lives(rec) && !slices.Contains(out, site.Name(rec.Request.Label)) {
			out = append(out, site.Name(rec.Request.Label))
		}
	}
	slices.Sort(out)
	return out
}

// lives reports whether a run's VMs are the domain.
func lives(rec *recovery.Record) bool {
	return rec.Committed && !over(rec.State) && rec.Action != recovery.Cleanup && rec.Request.Label != ""
}

// all returns the runs that are owned.
func (s *Appliance) all() (list []*owned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.runs {
		list = append(list, o)
	}
	return list
}

// open takes over, when the process starts, the runs that an earlier one left, so that
// their VMs' disks are served and what has ended of them runs again. It goes on over
// errors and returns them together.
func (s *Appliance) open(ctx context.Context) error {
	plans, err := s.names("r")
	for _, p := range plans {
		domains, derr := s.names("r", p)
		err = errors.Join(err, derr)
		for _, d := range domains {
			err = errors.Join(err, s.reopen(ctx, s.path("r", p, d)))
		}
	}
	return err
}

// has reports whether a run is this process's already.
func (s *Appliance) has(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs[dir] != nil
}

// names lists the directories in one of the appliance's; none if it is missing.
func (s *Appliance) names(dir ...string) (names []string, err error) {
	entries, err := durable.OS{}.ReadDir(s.path(dir...))
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	for _, e := range entries {
		if e.Dir {
			names = append(names, e.Name)
		}
	}
	return names, nil
}

func (s *Appliance) path(name ...string) string {
	return filepath.Join(append([]string{s.opts.Dir}, name...)...)
}

func (s *Appliance) reopen(ctx context.Context, parent string) error {
	p, err := s.ready()
	if err != nil {
		return err
	}
	list, err := p.Service.List(ctx, parent)
	for _, st := range list {
		if over(st.State) || st.Owned || s.has(st.Dir) {
			continue
		}
		r, oerr := p.Service.Open(st.Dir)
		if oerr != nil {
			err = errors.Join(err, oerr)
			continue
		}
		o := &owned{}
		o.have(r)
		if oerr := goOn(ctx, r); oerr != nil {
			o.stuck.Store(true) // it is tried again
			err = errors.Join(err, oerr)
		}
		s.mu.Lock()
		s.runs[st.Dir] = o
		s.mu.Unlock()
		s.attend(o)
		for _, v := range r.Record().VMs {
			s.greet(r, v.Source)
		}
	}
	return err
}

// goOn has the VMs of a run go on that an earlier process left: their disks are served
// again. What of it is under way is gone on with by its step.
func goOn(ctx context.Context, r *recovery.Run) error {
	rec := r.Record()
	switch {
	case !rec.State.Active():
		return r.Resume(ctx, "")
	case rec.Action == recovery.Recover && r.Building():
		return r.DoWith(ctx, recovery.Recover, recovery.ActOptions{Until: recovery.UntilHydrated})
	}
	return nil
}

// close gives all runs and standbys up; VMs go on.
func (s *Appliance) close() error {
	s.mu.Lock()
	s.is = "" // from now on it does not tell what is in it, but gives it up
	kept := s.standbys
	s.standbys = map[site.Name]*warmth{}
	s.mu.Unlock()
	for _, w := range kept {
		w.stop()
	}
	var err error
	for _, o := range s.all() {
		err = errors.Join(err, o.giveUp())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.runs)
	if p := s.parts.Swap(nil); p != nil && p.Close != nil {
		err = errors.Join(err, p.Close())
	}
	return err
}

// giveUp closes the run; what is under way is cancelled.
func (o *owned) giveUp() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.still()
	if o.run == nil {
		return nil
	}
	if o.busy() {
		o.run.Cancel()
		<-o.job.done
	}
	err := o.run.Close()
	o.have(nil)
	return err
}
