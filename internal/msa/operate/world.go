package operate

import (
	"context"

	"holdfast/internal/errs"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/problem"
	"holdfast/internal/msa/site"
)

// InCatalog is the World of what is configured.
func InCatalog(c *catalog.Catalog) World { return configured{c} }

type configured struct{ c *catalog.Catalog }

func (w configured) Plan(ctx context.Context, tx *db.Tx, name site.Name) (*plan.Plan, error) {
	return catalog.Find[*plan.Plan](ctx, tx, name)
}

func (w configured) Plans(ctx context.Context, tx *db.Tx) (all []*plan.Plan, err error) {
	objects, err := catalog.All(ctx, tx, site.KindPlan)
	for _, o := range objects {
		if p, ok := o.(*plan.Plan); ok {
			all = append(all, p)
		}
	}
	return all, err
}

func (w configured) Domain(ctx context.Context, tx *db.Tx, name site.Name) (*site.ProtectedDomain, error) {
	return catalog.Find[*site.ProtectedDomain](ctx, tx, name)
}

func (w configured) View(ctx context.Context, tx *db.Tx, p *plan.Plan, reversed bool) (*plan.View, error) {
	home, err := w.c.PlanView(ctx, tx, p)
	if err != nil || !reversed {
		return home, err
	}
	back := *p
	back.From, back.To, back.Mappings = p.To, p.From, ""
	v, err := w.c.PlanView(ctx, tx, &back)
	if err != nil {
		return nil, err
	}
	if v.Mappings == nil && home.Mappings != nil { // nobody wrote the way back: it is that of the way there
		v.Mappings = home.Mappings.Reverse()
	}
	if home.Mappings != nil { // those that the plan names
		v.Back = home.Mappings
	}
	return v, nil
}

// Feed is for Options.Note: the manager's own feed, kind "plan-run", by the plan's name.
func Feed(ctx context.Context, tx *db.Tx, name site.Name, action, by string) error {
	folder := site.Ref("")
	p, err := catalog.Find[*plan.Plan](ctx, tx, name)
	if err == nil {
		folder = p.Folder
	} else if !errs.Is(err, errs.NotFound) {
		return err
	}
	return catalog.NoteAll(ctx, tx, []catalog.Change{{Kind: "plan-run", Name: string(name), Folder: folder, Action: action, By: by}})
}

// FeedReminder is for Options.Remind: the manager's own feed, what is to be seen to.
func FeedReminder(ctx context.Context, tx *db.Tx, name site.Name, words string) error {
	return Feed(ctx, tx, name, "reminder: "+words, "")
}

// Guard is for catalog.Catalog: a plan that is carried out is neither edited nor
// deleted, and what is known of a deleted one goes with it.
func (o *Operator) Guard(ctx context.Context, tx *db.Tx, old, now site.Object) error {
	was, ok := old.(*plan.Plan)
	if !ok || was == nil {
		return nil
	}
	op := plan.Edit
	if now == nil {
		op = plan.Delete
	}
	if err := o.mayChange(ctx, tx, was, op); err != nil || op == plan.Edit {
		return err
	}
	return Removed(ctx, tx, was.Name)
}

// Ready says how ready a plan is, without doing anything. Kind NotFound.
func (o *Operator) Ready(ctx context.Context, tx *db.Tx, name site.Name) (plan.Readiness, error) {
	p, err := o.opts.World.Plan(ctx, tx, name)
	if err != nil {
		return plan.Readiness{}, err
	}
	s, err := o.Look(ctx, tx, name)
	if err != nil {
		return plan.Readiness{}, err
	}
	v, err := o.opts.World.View(ctx, tx, p, s.Reversed)
	if err != nil {
		return plan.Readiness{}, err
	}
	f := &plan.Facts{Now: db.Time(tx.Now()), Standing: s.Standing, LastTest: s.Tested, LastTestOK: s.TestOK}
	if o.opts.Facts != nil {
		if err := o.opts.Facts(ctx, tx, p, f); err != nil {
			return plan.Readiness{}, err
		}
	}
	return plan.Dry(p, v, f), nil
}

// Preview compiles an operation as it would begin now, and says what is wrong with it;
// the runbook is nil if that keeps it from beginning. Kinds: NotFound, Invalid.
func (o *Operator) Preview(ctx context.Context, tx *db.Tx, q Request) (*plan.Runbook, problem.List, error) {
	if q.By == "" {
		q.By = "nobody"
	}
	if err := q.check(); err != nil {
		return nil, problem.List{}, err
	}
	if _, ok := plan.StoryOf(q.Operation); !ok {
		return nil, problem.List{}, errs.New("operate.Preview", errs.Invalid, string(q.Operation), "this operation has no steps of its own").
			WithRemedy("name a test, planned, disaster, …")
	}
	p, err := o.opts.World.Plan(ctx, tx, q.Plan)
	if err != nil {
		return nil, problem.List{}, err
	}
	s, err := o.Look(ctx, tx, q.Plan)
	if err != nil {
		return nil, problem.List{}, err
	}
	v, err := o.opts.World.View(ctx, tx, p, s.Reversed)
	if err != nil {
		return nil, problem.List{}, err
	}
	book, found, err := plan.Compile(p, plan.Request{Operation: q.Operation, Point: q.Point, VMs: q.VMs}, v)
	if len(found.All) > 0 {
		err = nil // it says so
	}
	return book, found, err
}
