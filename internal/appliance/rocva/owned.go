package rocva

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
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

	regreeting atomic.Bool // its guests are looked at

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

// asks reports whether a run is of the site whose plan a step is of: two sites may have
// plans and domains of the same names. One that does not say is taken for it: it is of a
// release that did not tell them apart.
func asks(a *operate.Act, rec *recovery.Record) bool {
	return rec.Request.Origin == "" || a.Origin == "" || rec.Request.Origin == a.Origin
}

// find returns the directory of the newest run of an act's plan and a domain that is not
// over, or the one for the next. To who begins one, a recovery that was committed is over.
func (s *Appliance) find(ctx context.Context, a *operate.Act, u *use) (dir string, there bool, err error) {
	p, err := s.ready()
	if err != nil {
		return "", false, err
	}
	parent := s.parent(a.Plan, u.domain)
	prefix := ""
	if u.test {
		prefix = "test"
	}
	numbers, err := counted(parent, prefix)
	if err != nil {
		return "", false, err
	}
	next := parent + "/" + prefix + "1"
	if len(numbers) > 0 {
		next = parent + "/" + prefix + strconv.Itoa(numbers[0]+1)
	}
	for i, n := range numbers {
		dir = parent + "/" + prefix + strconv.Itoa(n)
		st, err := p.Service.Status(ctx, dir)
		switch {
		case errs.Is(err, errs.NotFound): // made, and never begun
			if i == 0 {
				return dir, false, nil
			}
		case err != nil:
			return "", false, err
		case !asks(a, &st.Record): // of another site's plan
		case !over(st.State) && !(u.begin != nil && st.Committed):
			return dir, true, nil
		default:
			return next, false, nil
		}
	}
	return next, false, nil
}

// counted lists the numbers of directories whose names are a prefix and a number, the
// largest first; none if their parent is missing.
func counted(parent, prefix string) (numbers []int, err error) {
	entries, err := durable.OS{}.ReadDir(parent)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name, prefix)
		if n, err := strconv.Atoi(text); ok && err == nil && n > 0 && e.Dir {
			numbers = append(numbers, n)
		}
	}
	slices.SortFunc(numbers, func(a, b int) int { return b - a })
	return numbers, nil
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
	dir, there, err := s.find(ctx, a, &u)
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
	if o.run != nil && open != nil && !asks(a, o.run.Record()) {
		return errs.New("rocva", errs.Transient, "domain "+string(a.Domain), "a plan of the same name at another site has just begun a recovery of a domain of that name")
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
	dir, there, err := s.find(ctx, a, &use{domain: domain, test: test})
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
