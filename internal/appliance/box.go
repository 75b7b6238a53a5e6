package appliance

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/hypervisor"
	"holdfast/internal/msa/command"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/setup"
	"holdfast/internal/msa/site"
)

// Options are what an appliance is made of.
type Options struct {
	Dir   string // absolute: what enrol.Join made
	Name  string // what people call the machine
	Boxes Boxes
	// Platform opens the hypervisor of this box, and Config says it in the words of a
	// host component's "platform" setting. Of host components alone.
	Platform func(ctx context.Context, p site.Platform, endpoints []string) (hypervisor.Platform, error)
	Config   func(p site.Platform, endpoints []string) (any, error)
	Logger   *slog.Logger // nil: none
}

// Part is what the role of a box makes of it.
type Part interface {
	// Setup makes the box what it is to be, as command.Agent calls it.
	Setup(ctx context.Context, s *setup.Setup) error
	// Report is how it stands, without asking anybody.
	Report() *setup.Report
	// Run comes up by the newest Setup it has, with or without a manager, and keeps its
	// processes until ctx ends; they go on then.
	Run(ctx context.Context) error
}

// box is what all roles have.
type box struct {
	Options
	log   *slog.Logger
	began int64 // UTC milliseconds

	applying sync.Mutex // one Setup at a time

	mu         sync.Mutex // guards all below
	now        *setup.Setup
	generation string // of the Setup that the box is
	problems   map[string]setup.Problem
}

func newBox(o Options) box {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return box{Options: o, log: o.Logger, began: time.Now().UnixMilli(), problems: map[string]setup.Problem{}}
}

// current is the newest Setup; nil: there is none.
func (b *box) current() *setup.Setup {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

// take makes s the newest Setup, durably, before anything is done by it.
func (b *box) take(s *setup.Setup) error {
	if err := setup.Save(b.Dir, s); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now, b.problems = s, map[string]setup.Problem{}
	return nil
}

// load is the Setup of an earlier life; nil: there is none. One that cannot be read is
// none: the manager gives another.
func (b *box) load() *setup.Setup {
	s, err := setup.Load(b.Dir)
	if err != nil {
		b.log.Warn("what the box was to be cannot be read; it waits for its manager", "err", err)
		return nil
	}
	return s
}

// is says that the box is what a Setup says.
func (b *box) is(s *setup.Setup) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.generation = s.Generation
}

// tell notes how something went; nil: well.
func (b *box) tell(object string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		delete(b.problems, object)
		return
	}
	if errs.Is(err, errs.Canceled) {
		return
	}
	b.problems[object] = setup.ProblemOf(object, err)
}

// report begins a report.
func (b *box) report() *setup.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &setup.Report{Generation: b.generation, Started: b.began}
	for _, p := range b.problems {
		if len(r.Problems) < setup.MaxProblems {
			r.Problems = append(r.Problems, p)
		}
	}
	return r
}

// Script runs a plan's command on this machine, to its end.
func (b *box) Script(ctx context.Context, a *operate.Act, in *plan.ScriptInputs) (runs.Result, error) {
	if in.Run != plan.OnAppliance {
		return runs.Result{}, errs.New("appliance.Script", errs.Invalid, in.Name, "this box runs scripts of its own machine alone").WithRemedy("have it run by a recovery appliance")
	}
	if err := a.Hold(ctx); err != nil {
		return runs.Result{}, err
	}
	return runs.Result{}, command.Run(ctx, a, in)
}

// every calls look every so often until ctx ends.
func every(ctx context.Context, look func(context.Context)) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
