package rocva

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

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
	Dir     string // absolute, and short: sockets lie below; made if it is missing
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
	Logger      *slog.Logger // nil: none
}

// Appliance is operate.Effects over recoveries below one directory. It is for concurrent
// use.
type Appliance struct {
	opts Options
	log  *slog.Logger

	mu       sync.Mutex
	told     setup.Setup           // guarded by mu: the newest setup
	runs     map[string]*owned     // guarded by mu: by directory
	standbys map[site.Name]*warmth // guarded by mu

	telling sync.Mutex                // held while a guest is told its addresses
	greeted map[dr.VMID]hypervisor.VM // guarded by telling: VMs whose guests were told
}

var _ operate.Effects = (*Appliance)(nil)

// New returns an appliance that owns no run yet. Kind Invalid: the options.
func New(o Options) (*Appliance, error) {
	if !filepath.IsAbs(o.Dir) || o.Service == nil || o.Open == nil {
		return nil, errs.New("rocva.New", errs.Invalid, "options", "an absolute directory, a service and what opens containers are needed")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Appliance{opts: o, log: o.Logger, runs: map[string]*owned{}, standbys: map[site.Name]*warmth{}, greeted: map[dr.VMID]hypervisor.VM{}}, nil
}

// Apply makes the appliance what a setup says: it writes what opens the containers, and
// keeps the standbys of those domains that are continuous. Files are durable on return.
// Runs that are there are left alone. Kinds: Invalid (another role), those of writing
// files.
func (s *Appliance) Apply(ctx context.Context, u *setup.Setup) error {
	if u.RocVA == nil {
		return errs.New("rocva.Apply", errs.Invalid, "setup", "it is of another role")
	}
	for i := range u.RocVA.Domains {
		if err := s.writeAccess(&u.RocVA.Domains[i]); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.told = *u
	s.mu.Unlock()
	return s.keepWarm(ctx)
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

// Open takes over, when the process starts, the runs that an earlier one left, so that
// their VMs' disks are served and what has ended of them runs again. It goes on over
// errors and returns them together.
func (s *Appliance) Open(ctx context.Context) error {
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
	list, err := s.opts.Service.List(ctx, parent)
	for _, st := range list {
		if over(st.State) || st.Owned {
			continue
		}
		r, oerr := s.opts.Service.Open(st.Dir)
		if oerr == nil && !st.State.Active() { // one that is under way is gone on with by its step
			oerr = r.Resume(ctx, "")
		}
		err = errors.Join(err, oerr)
		if r == nil {
			continue
		}
		o := &owned{}
		o.have(r)
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

// Close gives all runs and standbys up; VMs go on.
func (s *Appliance) Close() error {
	s.mu.Lock()
	kept := s.standbys
	s.standbys = map[site.Name]*warmth{}
	s.mu.Unlock()
	for _, w := range kept {
		w.stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for dir, o := range s.runs {
		o.mu.Lock()
		o.still()
		if o.run != nil && o.busy() {
			o.run.Cancel()
			<-o.job.done
		}
		if o.run != nil {
			err = errors.Join(err, o.run.Close())
			o.have(nil)
		}
		o.mu.Unlock()
		delete(s.runs, dir)
	}
	return err
}
