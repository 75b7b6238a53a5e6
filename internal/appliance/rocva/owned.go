package rocva

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/site"
	"holdfast/internal/recovery"
)

// owned is a run this process owns: used by one call at a time, attended between.
type owned struct {
	mu     sync.Mutex
	run    *recovery.Run // nil: closed, or not opened
	cancel context.CancelFunc
	rest   chan struct{} // closed when nobody attends
	job    *job

	seen  atomic.Pointer[recovery.Run] // as run, for who only looks
	stuck atomic.Bool                  // nobody looks after it, because of an error: it is tried again

	falling sync.Mutex
	falls   falls // guarded by falling: VMs that ended though nobody wanted it
}

// job is an action that lasts longer than a call.
type job struct {
	name string
	done chan struct{}
	err  error // once done
}

func (o *owned) have(r *recovery.Run) {
	o.run = r
	o.seen.Store(r)
}

// record returns the run's record as it is now, or nil.
func (o *owned) record() *recovery.Record {
	if r := o.seen.Load(); r != nil {
		return r.Record()
	}
	return nil
}

// over reports whether a run's work is behind it: the next operation begins another.
func over(st recovery.State) bool {
	switch st {
	case recovery.Clean, recovery.RolledBack, recovery.Unwound:
		return true
	}
	return false
}

// short is a name as a directory has it: one that is long is cut, and told from others by
// a digest. No name has a tilde.
func short(name site.Name) string {
	if len(name) <= maxName {
		return string(name)
	}
	sum := sha256.Sum256([]byte(name))
	return string(name[:maxName-7]) + "~" + hex.EncodeToString(sum[:3])
}

// parent is the directory of a domain's runs of a plan.
func (s *Appliance) parent(plan, domain site.Name) string {
	return s.path("r", short(plan), short(domain))
}

// find returns the directory of the domain's newest run that is not over, or the one
// for the next. To who begins one, a recovery that was committed is over.
func (s *Appliance) find(ctx context.Context, plan, domain site.Name, test, begins bool) (dir string, there bool, err error) {
	p, err := s.ready()
	if err != nil {
		return "", false, err
	}
	parent := s.parent(plan, domain)
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
		dir = parent + "/" + prefix + strconv.Itoa(last)
		st, err := p.Service.Status(ctx, dir)
		switch {
		case errs.Is(err, errs.NotFound): // made, and never begun
			return dir, false, nil
		case err != nil:
			return "", false, err
		case !over(st.State) && !(begins && st.Committed):
			return dir, true, nil
		}
	}
	return parent + "/" + prefix + strconv.Itoa(last+1), false, nil
}

// use is what a step needs of its domain's run.
type use struct {
	domain site.Name
	test   bool
	job    string                                  // the job it begins or looks at; another one is cancelled
	begin  func(dir string) (*recovery.Run, error) // makes the run where there is none; nil: that is NotFound
	lives  bool                                    // where the plan has none, that of another plan in which the domain lives
}

// with has f work on the run of a plan's domain. Meanwhile nothing attends to it,
// afterwards it is attended to again.
func (s *Appliance) with(ctx context.Context, a *operate.Act, u use, f func(*owned) error) error {
	dir, there, err := s.find(ctx, a.Plan, u.domain, u.test, u.begin != nil)
	if err != nil {
		return err
	}
	if !there && u.lives {
		if o, err := s.living(u.domain); err == nil {
			return s.hold(ctx, a, o, u.job, nil, f)
		}
	}
	if !there && u.begin == nil {
		return errs.New("rocva", errs.NotFound, "domain "+string(u.domain), "the plan has no recovery of it here").WithRemedy("run the recovery again")
	}
	s.mu.Lock()
	o := s.runs[dir]
	if o == nil {
		o = &owned{}
		s.runs[dir] = o
	}
	s.mu.Unlock()
	open := u.begin
	if there {
		p, err := s.ready()
		if err != nil {
			return err
		}
		open = p.Service.Open
	}
	return s.hold(ctx, a, o, u.job, func() (*recovery.Run, error) { return open(dir) }, f)
}

// hold has f work on an owned run, which open opens if it is not; nil: it is.
func (s *Appliance) hold(ctx context.Context, a *operate.Act, o *owned, job string, open func() (*recovery.Run, error), f func(*owned) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := a.Hold(ctx); err != nil {
		return err
	}
	o.still()
	if err := o.quiet(job); err != nil {
		return err
	}
	if o.run == nil {
		if open == nil {
			return errs.New("rocva", errs.Unavailable, "domain "+string(a.Domain), "its recovery was given up by this process").WithRemedy("start the appliance again")
		}
		r, err := open()
		if err != nil {
			return err
		}
		o.have(r)
	}
	err := f(o)
	if !o.busy() {
		s.attend(o)
	}
	return err
}

// look returns the run of a plan's domain to who only asks its VMs: neither what attends
// to it nor a job is disturbed. Kind NotFound.
func (s *Appliance) look(ctx context.Context, a *operate.Act, domain site.Name, test bool) (*recovery.Run, error) {
	dir, there, err := s.find(ctx, a.Plan, domain, test, false)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	o := s.runs[dir]
	s.mu.Unlock()
	if there && o != nil && o.seen.Load() != nil {
		return o.seen.Load(), nil
	}
	var r *recovery.Run
	err = s.with(ctx, a, use{domain: domain, test: test}, func(o *owned) error { r = o.run; return nil })
	return r, err
}

// living returns the newest committed recovery of a domain here, whatever plan's. Kind
// NotFound.
func (s *Appliance) living(domain site.Name) (*owned, error) {
	var newest *owned
	var when time.Time
	for _, o := range s.all() {
		if rec := o.record(); rec != nil && lives(rec) && rec.Request.Label == string(domain) && rec.Created.After(when) {
			newest, when = o, rec.Created
		}
	}
	if newest == nil {
		return nil, errs.New("rocva", errs.NotFound, "domain "+string(domain), "no committed recovery of it is here").WithRemedy("see on which appliance it lives")
	}
	return newest, nil
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
		return errs.New("rocva", errs.Transient, o.run.Dir(), "it is busy with "+o.job.name)
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
func (s *Appliance) attend(o *owned) {
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel, o.rest = cancel, make(chan struct{})
	run, rest := o.run, o.rest
	go func() {
		defer close(rest)
		if err := run.Attend(ctx); err != nil && ctx.Err() == nil {
			o.stuck.Store(true)
			s.log.Warn("a recovery is not looked after for the moment", "run", run.Dir(), "err", err)
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
