package realsite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// Options are what a Site is made of.
type Options struct {
	Dir     string // absolute; made if it is missing
	Service *recovery.Service
	// Request says where a domain's container is and what its VMs need here. The
	// operation's own fields are filled in.
	Request func(ctx context.Context, domain site.Name) (recovery.Request, error)
	// Source reaches the site that protects a domain now.
	Source func(ctx context.Context, at, domain site.Name) (recovery.Source, error)
	// Guests and Platform do what recoveries do not; nil: such a step is refused.
	Guests   Guests
	Platform Platform
	Logger   *slog.Logger // nil: none
}

// Guests talks to what runs in recovered VMs. run is nil for a VM that is none.
type Guests interface {
	Address(ctx context.Context, run *recovery.Run, in *plan.ConfigureInputs) error
	AgentUp(ctx context.Context, run *recovery.Run, vm *plan.VMInputs) (bool, error)
	PortUp(ctx context.Context, run *recovery.Run, vm *plan.VMInputs, port int) (bool, error)
	Script(ctx context.Context, a *operate.Act, in *plan.ScriptInputs) error
}

// Platform changes VMs that are no recovery's. Every method may be called again for what
// was done.
type Platform interface {
	Wake(ctx context.Context, at site.Name, host site.Ref) error
	Suspend(ctx context.Context, vm *plan.VMInputs) error
	Resume(ctx context.Context, vm *plan.VMInputs) error
	Cut(ctx context.Context, vm *plan.VMInputs) error
	Retire(ctx context.Context, vm *plan.VMInputs) error
	Placeholder(ctx context.Context, in *plan.ConfigureInputs) error
	Clean(ctx context.Context, at site.Name, in *plan.DomainInputs) error
}

// Site is operate.Effects over recoveries. It is for concurrent use.
type Site struct {
	opts Options
	log  *slog.Logger

	mu   sync.Mutex
	runs map[string]*owned // by directory
	past map[string]int64  // the newest epoch that was seen, by plan
}

var _ operate.Effects = (*Site)(nil)

// New returns a site that owns no run yet. Kind Invalid: the options.
func New(o Options) (*Site, error) {
	if !filepath.IsAbs(o.Dir) || o.Service == nil || o.Request == nil || o.Source == nil {
		return nil, errs.New("realsite.New", errs.Invalid, "options", "a directory, a service, requests and sources are needed")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Site{opts: o, log: o.Logger, runs: map[string]*owned{}, past: map[string]int64{}}, nil
}

// owned is a run this process owns: used by one call at a time, attended between.
type owned struct {
	mu     sync.Mutex
	run    *recovery.Run // nil: closed, or not opened
	cancel context.CancelFunc
	rest   chan struct{} // closed when nobody attends
	job    *job
}

// job is an action that lasts longer than a call.
type job struct {
	name string
	done chan struct{}
	err  error // once done
}

// directory of a domain's runs of a plan.
func (s *Site) parent(a *operate.Act, domain site.Name) string {
	return filepath.Join(s.opts.Dir, string(a.Plan), string(domain))
}

// over reports whether a run's work is behind it: the next operation begins another.
func over(st recovery.State) bool {
	switch st {
	case recovery.Clean, recovery.RolledBack, recovery.Unwound:
		return true
	}
	return false
}

// find returns the directory of the domain's newest run that is not over, or the one
// for the next. To who begins one, a recovery that was committed is over.
func (s *Site) find(ctx context.Context, a *operate.Act, domain site.Name, test, begins bool) (dir string, there bool, err error) {
	parent := s.parent(a, domain)
	prefix := ""
	if test {
		prefix = "test"
	}
	entries, err := durable.OS{}.ReadDir(parent)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return "", false, err
	}
	last := 0
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name, prefix)
		if n, err := strconv.Atoi(text); ok && err == nil && e.Dir {
			last = max(last, n)
		}
	}
	if last > 0 {
		dir = filepath.Join(parent, prefix+strconv.Itoa(last))
		st, err := s.opts.Service.Status(ctx, dir)
		switch {
		case errs.Is(err, errs.NotFound): // made, and never begun
			return dir, false, nil
		case err != nil:
			return "", false, err
		case !over(st.State) && !(begins && st.Committed):
			return dir, true, nil
		}
	}
	return filepath.Join(parent, prefix+strconv.Itoa(last+1)), false, nil
}

// use is what a step needs of its domain's run.
type use struct {
	domain site.Name
	test   bool
	job    string                                  // the job it begins or looks at; another one is cancelled
	begin  func(dir string) (*recovery.Run, error) // makes the run where there is none; nil: that is NotFound
}

// with has f work on a run. Meanwhile nothing attends to it, afterwards it is attended
// to again.
func (s *Site) with(ctx context.Context, a *operate.Act, u use, f func(*owned) error) error {
	if err := s.fenced(a); err != nil {
		return err
	}
	dir, there, err := s.find(ctx, a, u.domain, u.test, u.begin != nil)
	if err != nil {
		return err
	}
	if !there && u.begin == nil {
		return errs.New("realsite", errs.NotFound, "domain "+string(u.domain), "the plan has no recovery of it here").WithRemedy("run the recovery again")
	}
	s.mu.Lock()
	o := s.runs[dir]
	if o == nil {
		o = &owned{}
		s.runs[dir] = o
	}
	s.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := a.Hold(ctx); err != nil {
		return err
	}
	o.still()
	if err := o.quiet(u.job); err != nil {
		return err
	}
	if o.run == nil {
		if there {
			o.run, err = s.opts.Service.Open(dir)
		} else {
			o.run, err = u.begin(dir)
		}
		if err != nil {
			return err
		}
	}
	if err = f(o); !o.busy() {
		s.attend(o)
	}
	return err
}

// fenced refuses who was followed by another.
func (s *Site) fenced(a *operate.Act) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Epoch < s.past[string(a.Plan)] {
		return errs.New("realsite", errs.Fenced, string(a.Plan), "a newer owner has acted for the plan")
	}
	s.past[string(a.Plan)] = a.Epoch
	return nil
}

// busy reports whether a job of the run is under way.
func (o *owned) busy() bool {
	if o.job == nil {
		return false
	}
	select {
	case <-o.job.done:
		return false
	default:
		return true
	}
}

// quiet ends a job other than one's own, as after a cancel.
func (o *owned) quiet(own string) error {
	if !o.busy() || o.job.name == own {
		return nil
	}
	o.run.Cancel()
	select {
	case <-o.job.done:
		return nil
	case <-time.After(jobPatience):
		return errs.New("realsite", errs.Transient, o.run.Dir(), "it is busy with "+o.job.name)
	}
}

// still ends the attending.
func (o *owned) still() {
	if o.cancel != nil {
		o.cancel()
		<-o.rest
		o.cancel = nil
	}
}

// attend looks after the run until still.
func (s *Site) attend(o *owned) {
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel, o.rest = cancel, make(chan struct{})
	run, rest := o.run, o.rest
	go func() {
		defer close(rest)
		if err := run.Attend(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("a recovery is not looked after any more", "run", run.Dir(), "err", err)
		}
	}()
}

// work begins a job on the run, or looks at the one under way; done reports whether it
// has ended.
func (o *owned) work(name string, do func(context.Context) error) (done bool, err error) {
	if o.job == nil || o.job.name != name {
		j := &job{name: name, done: make(chan struct{})}
		o.job = j
		go func() {
			j.err = do(context.Background())
			close(j.done)
		}()
	}
	select {
	case <-o.job.done:
		err, o.job = o.job.err, nil
		return true, err
	case <-time.After(jobPatience):
		return false, nil
	}
}

const (
	// jobPatience is how long a step looks at its job before it lets go: most are done.
	jobPatience = 2 * time.Second
	// jobEvery is how often a job that lasts is looked at.
	jobEvery = 2 * time.Second
)

// Open takes over, when the process starts, the runs that an earlier one left, so that
// their VMs' disks are served. It goes on over errors and returns them together.
func (s *Site) Open(ctx context.Context) error {
	plans, err := durable.OS{}.ReadDir(s.opts.Dir)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	for _, p := range plans {
		domains, derr := durable.OS{}.ReadDir(filepath.Join(s.opts.Dir, p.Name))
		err = errors.Join(err, derr)
		for _, d := range domains {
			err = errors.Join(err, s.reopen(ctx, filepath.Join(s.opts.Dir, p.Name, d.Name)))
		}
	}
	return err
}

func (s *Site) reopen(ctx context.Context, parent string) error {
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
		o := &owned{run: r}
		s.mu.Lock()
		s.runs[st.Dir] = o
		s.mu.Unlock()
		s.attend(o)
	}
	return err
}

// Close gives all runs up; their VMs go on.
func (s *Site) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for dir, o := range s.runs {
		o.mu.Lock()
		o.still()
		if o.run != nil && !o.busy() {
			err = errors.Join(err, o.run.Close())
			o.run = nil
		}
		o.mu.Unlock()
		delete(s.runs, dir)
	}
	return err
}

// unable is what a step gets that needs something the site was not given.
func unable(what string) error {
	return errs.New("realsite", errs.Unavailable, "", "this manager cannot "+what).WithRemedy("remove it from the plan, or see to the site's platform")
}

// spec is a point as package recovery reads it.
func spec(in *plan.PinInputs) string {
	switch {
	case in.Final:
		return "latest" // the source is off, and its last checkpoint published
	case in.Checkpoint > 0:
		return fmt.Sprint(in.Checkpoint)
	case in.Point.Tag != "":
		return "tag:" + in.Point.Tag
	case !in.Point.At.IsZero():
		return in.Point.At.UTC().Format(time.RFC3339)
	}
	return "latest"
}
