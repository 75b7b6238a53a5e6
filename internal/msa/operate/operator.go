package operate

import (
	"context"
	"log/slog"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// World is what an Operator asks of the manager's other parts, in its own transaction.
type World interface {
	// Plan returns a plan as it is stored. Kind NotFound.
	Plan(ctx context.Context, tx *db.Tx, name site.Name) (*plan.Plan, error)
	// Plans returns all plans.
	Plans(ctx context.Context, tx *db.Tx) ([]*plan.Plan, error)
	// Domain returns a domain. Kind NotFound.
	Domain(ctx context.Context, tx *db.Tx, name site.Name) (*site.ProtectedDomain, error)
	// View returns the sites as a run of the plan finds them: in the run's direction,
	// against the plan's home direction if reversed.
	View(ctx context.Context, tx *db.Tx, p *plan.Plan, reversed bool) (*plan.View, error)
}

// Options are what an Operator is made of.
type Options struct {
	World World
	// Note, if not nil, puts a change of a plan's standing into the manager's feed.
	Note func(ctx context.Context, tx *db.Tx, plan site.Name, action, by string) error
	// Remind, if not nil, is told what people should see to, in the transaction that
	// remembers that it was told: plans not tested, decisions that are due.
	Remind func(ctx context.Context, tx *db.Tx, plan site.Name, words string) error
	// Facts, if not nil, completes what is known of the world for Ready.
	Facts  func(ctx context.Context, tx *db.Tx, p *plan.Plan, f *plan.Facts) error
	Logger *slog.Logger  // nil: none
	Pause  time.Duration // before an effect that may pass is tried again, the first time; 0: 1 s
}

// Operator carries out plans. See the package's comment.
type Operator struct {
	opts Options
	log  *slog.Logger
}

// New returns an operator. Kind Invalid: there is no World.
func New(o Options) (*Operator, error) {
	if o.World == nil {
		return nil, errs.New("operate.New", errs.Invalid, "options", "an operator needs a world")
	}
	if o.Pause == 0 {
		o.Pause = firstPause
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Operator{opts: o, log: o.Logger}, nil
}

func (o *Operator) note(ctx context.Context, tx *db.Tx, name site.Name, action, by string) error {
	if o.opts.Note == nil {
		return nil
	}
	return o.opts.Note(ctx, tx, name, action, by)
}
