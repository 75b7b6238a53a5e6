package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/site"
)

// permits are the operations of plans by what they need. Each has a path of its own, so
// that who may test and who may run is plain from the document.
var permits = map[auth.Permission][]plan.Operation{
	auth.PlanTest:      {plan.Test, plan.Cleanup, plan.ForcedCleanup},
	auth.PlanRun:       {plan.Planned, plan.Disaster, plan.ForcedDisaster, plan.Failback, plan.CommitRun, plan.Rollback, plan.CleanOldSite},
	auth.PlanReprotect: {plan.Reprotect, plan.ForcedReprotect},
}

// permitOf is what an operation that has steps needs.
func permitOf(op plan.Operation) auth.Permission {
	for may, list := range permits {
		if slices.Contains(list, op) {
			return may
		}
	}
	return auth.PlanRun
}

func (s *server) registerPlans() {
	op := operation{Tag: "plan runs", Scoped: true, May: auth.PlanRead}
	of := func(id, method, path, summary string, may auth.Permission) operation {
		o := op
		o.ID, o.Method, o.Path, o.Summary, o.May, o.Change = id, method, "/plans/{name}"+path, summary, may, method == http.MethodPost
		return o
	}
	add(s, of("get-plan-status", http.MethodGet, "/status", "See where a plan stands, and what it allows", auth.PlanRead), s.planStatus)
	add(s, of("get-plan-readiness", http.MethodGet, "/readiness", "Dry-run a plan: a score, and every problem", auth.PlanRead), s.planReadiness)
	preview := of("preview-plan", http.MethodPost, "/preview", "See what an operation of a plan would do", auth.PlanRead)
	preview.Change = false
	add(s, preview, s.previewPlan)
	const detail = "What the plan's state allows. What changes production is confirmed."
	for _, b := range []struct {
		id, path, summary string
		may               auth.Permission
	}{
		{"start-test", "/tests", "Test a plan, or clean a test up", auth.PlanTest},
		{"start-run", "/runs", "Recover, commit or roll back by a plan", auth.PlanRun},
		{"start-reprotect", "/reprotects", "Turn a plan's protection round", auth.PlanReprotect},
	} {
		o := of(b.id, http.MethodPost, b.path, b.summary, b.may)
		o.Detail, o.Status = detail, http.StatusAccepted
		add(s, o, func(ctx context.Context, in *startIn) (*startedRun, error) { return s.startRun(ctx, in, b.may) })
	}
	ask := of("ask-approval", http.MethodPost, "/approvals", "Ask a second person to agree to a run", auth.PlanRun)
	ask.Status = http.StatusCreated
	add(s, ask, s.askApproval)
	const own = "Needs the permission of the operation that is under way besides."
	cancel := of("cancel-plan", http.MethodPost, "/cancel", "Cancel what a plan does", auth.PlanTest)
	cancel.Detail = own
	add(s, cancel, s.cancelPlan)
	answer := of("answer-prompt", http.MethodPost, "/answer", "Answer what a plan's run asks", auth.PlanTest)
	answer.Detail = own
	add(s, answer, s.answerPrompt)
	resume := of("resume-plan", http.MethodPost, "/resume", "Have a plan's parked run go on", auth.PlanTest)
	resume.Detail = own
	add(s, resume, s.resumePlan)
	skip := of("skip-step", http.MethodPost, "/skip", "Leave out a step of a plan's parked run", auth.PlanTest)
	skip.Detail = own
	add(s, skip, s.skipStep)
}

// plan returns a plan who asks may read, and may do something to.
func (s *server) plan(ctx context.Context, tx *db.Tx, name string, may auth.Permission) (*plan.Plan, error) {
	p, err := catalog.Find[*plan.Plan](ctx, tx, site.Name(name))
	if err != nil {
		return nil, err
	}
	if !seen(ctx, auth.PlanRead, p.Folder) {
		return nil, unseen(site.KindPlan, name)
	}
	return p, s.allow(ctx, may, p.Folder)
}

func (s *server) statusOf(ctx context.Context, tx *db.Tx, p *plan.Plan) (v1.PlanStatus, error) {
	st, err := s.Plans.Look(ctx, tx, p.Name)
	if err != nil {
		return v1.PlanStatus{}, err
	}
	out := v1.PlanStatus{Plan: p.Name, State: string(st.State), Doing: string(st.Doing), Reversed: st.Reversed, Run: st.Run, Running: st.State.Running(),
		Allowed: []string{}, Reason: st.Reason, Alone: st.Alone, Decide: string(st.Decide), Due: timePtr(st.Due), Tested: timePtr(st.Tested), TestOK: st.TestOK,
		Overdue: operate.Overdue(p, &st, db.Time(tx.Now())), Domains: []v1.PlanDomain{}}
	if l := plan.LineOf(st.State); l != nil {
		out.Means, out.Else = l.Words, l.Else
		for _, g := range l.Allowed {
			if !g.Reversed || st.Reversed {
				out.Allowed = append(out.Allowed, string(g.Op))
			}
		}
	}
	for _, name := range p.Domains {
		d, err := operate.Domain(ctx, tx, name)
		if err != nil {
			return out, err
		}
		out.Domains = append(out.Domains, v1.PlanDomain{Name: name, Failover: string(d.Failover), Reversed: d.Reversed})
	}
	return out, nil
}

func timePtr(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (s *server) planStatus(ctx context.Context, in *NameIn) (*item[v1.PlanStatus], error) {
	return read(ctx, s, func(tx *db.Tx) (v1.PlanStatus, error) {
		p, err := s.plan(ctx, tx, in.Name, auth.PlanRead)
		if err != nil {
			return v1.PlanStatus{}, err
		}
		return s.statusOf(ctx, tx, p)
	})
}

func (s *server) planReadiness(ctx context.Context, in *NameIn) (*item[v1.PlanReadiness], error) {
	return read(ctx, s, func(tx *db.Tx) (out v1.PlanReadiness, err error) {
		p, err := s.plan(ctx, tx, in.Name, auth.PlanRead)
		if err != nil {
			return out, err
		}
		r, err := s.Plans.Ready(ctx, tx, p.Name)
		return v1.PlanReadiness{Score: r.Score, VMs: r.VMs, Steps: r.Steps, Faults: faultsOf(r.Problems)}, err
	})
}

type previewIn struct {
	NameIn
	Body v1.RunQuestion
}

func (s *server) previewPlan(ctx context.Context, in *previewIn) (*item[v1.PlanPreview], error) {
	return read(ctx, s, func(tx *db.Tx) (out v1.PlanPreview, err error) {
		p, err := s.plan(ctx, tx, in.Name, auth.PlanRead)
		if err != nil {
			return out, err
		}
		book, found, err := s.Plans.Preview(ctx, tx, questionOf(p.Name, &in.Body))
		if err != nil {
			return out, err
		}
		out = v1.PlanPreview{OK: book != nil, Faults: faultsOf(found), Groups: []v1.PreviewGroup{}}
		if book == nil {
			return out, nil
		}
		for i := range book.Groups {
			g := &book.Groups[i]
			pg := v1.PreviewGroup{Name: g.Name, Title: g.Title, Steps: []string{}}
			for j := range g.Steps {
				pg.Steps = append(pg.Steps, g.Steps[j].Title)
			}
			out.Groups = append(out.Groups, pg)
		}
		return out, nil
	})
}

// questionOf is a request as package operate takes it.
func questionOf(name site.Name, q *v1.RunQuestion) operate.Request {
	out := operate.Request{Plan: name, Operation: plan.Operation(db.Text(q.Operation, 40)), VMs: q.VMs}
	if p := q.Point; p != nil {
		out.Point = plan.Point{App: p.App, Tag: p.Tag, Domains: p.Domains}
		if p.At != nil {
			out.Point.At = p.At.UTC()
		}
	}
	return out
}

type startIn struct {
	NameIn
	Body v1.StartRun
}

type startedRun struct {
	Location string `header:"Location" doc:"Where the run is"`
	Body     v1.StartedRun
}

// startRun begins an operation; may is what the path stands for.
func (s *server) startRun(ctx context.Context, in *startIn, may auth.Permission) (*startedRun, error) {
	detail(ctx, in.Body.RunQuestion)
	out, err := change(ctx, s, "plan "+in.Name, func(tx *db.Tx) (*startedRun, error) {
		p, err := s.plan(ctx, tx, in.Name, may)
		if err != nil {
			return nil, err
		}
		q := questionOf(p.Name, &in.Body.RunQuestion)
		q.By, q.Notes = by(ctx), in.Body.Notes
		if err := s.rightPath(ctx, tx, q.Plan, q.Operation, may); err != nil {
			return nil, err
		}
		if c := in.Body.Confirm; c != nil {
			q.Confirm = &plan.Confirmation{Plan: c.Plan, Version: site.Version(c.Version), Does: plan.Operation(c.Operation), Alone: c.Alone}
			if c.Approval != "" {
				a, err := auth.Use(ctx, tx, callOf(ctx).who, c.Approval, site.Label(p), string(q.Operation), runDigest(p, &in.Body.RunQuestion))
				if err != nil {
					return nil, err
				}
				q.Agreed = operate.Agreement{By: a.DecidedBy, At: db.Time(a.DecidedAt), Version: p.Version} // the digest has the version
			}
		}
		b, err := s.Plans.Begin(ctx, tx, q)
		if err != nil {
			return nil, err
		}
		return &startedRun{prefix + "/runs/" + b.Run, v1.StartedRun{Run: b.Run, Operation: string(b.Does), State: string(b.State), Again: b.Again, Faults: faultsOf(b.Problems)}}, nil
	})
	s.wake()
	return out, err
}

// rightPath refuses an operation whose permission another path stands for.
func (s *server) rightPath(ctx context.Context, tx *db.Tx, name site.Name, op plan.Operation, may auth.Permission) error {
	does := op
	if op == plan.Rerun {
		st, err := s.Plans.Look(ctx, tx, name)
		if err != nil {
			return err
		}
		does = st.Doing
		if st.State == plan.SplitBrain {
			does = plan.CleanOldSite
		}
	}
	if slices.Contains(permits[may], does) {
		return nil
	}
	for other, list := range permits {
		if slices.Contains(list, does) {
			path := map[auth.Permission]string{auth.PlanTest: "tests", auth.PlanRun: "runs", auth.PlanReprotect: "reprotects"}[other]
			return errs.New("api", errs.Invalid, string(op), "this operation is begun elsewhere").WithRemedy(fmt.Sprintf("POST /plans/%s/%s", name, path))
		}
	}
	return errs.New("api", errs.Invalid, string(op), "no run is begun by this").WithRemedy("see the operations that the plan's status allows")
}

// runDigest is all that decides what a run does, for who agrees to it.
func runDigest(p *plan.Plan, q *v1.RunQuestion) string {
	b, err := json.Marshal(struct {
		Plan    site.Name
		Version site.Version
		ID      string
		Asked   *v1.RunQuestion
	}{p.Name, p.Version, p.ID.String(), q})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (s *server) askApproval(ctx context.Context, in *previewIn) (*item[v1.AskedApproval], error) {
	detail(ctx, in.Body)
	return change(ctx, s, "plan "+in.Name, func(tx *db.Tx) (*item[v1.AskedApproval], error) {
		p, err := s.plan(ctx, tx, in.Name, auth.PlanRun)
		if err != nil {
			return nil, err
		}
		q := questionOf(p.Name, &in.Body)
		if err := s.allow(ctx, permitOf(q.Operation), p.Folder); err != nil {
			return nil, err
		}
		if !p.TwoPersons || !plan.NeedsConfirmation(q.Operation) {
			return nil, errs.New("api", errs.Invalid, site.Label(p), "no second person is needed for this").WithRemedy("begin the run")
		}
		a, err := auth.Ask(ctx, tx, callOf(ctx).who, site.Label(p), string(q.Operation), runDigest(p, &in.Body), p.Folder)
		return &item[v1.AskedApproval]{v1.AskedApproval{ID: a.ID, Expires: db.Time(a.ExpiresAt)}}, err
	})
}

// underWay does something to a plan's run that needs the permission of what it does.
func (s *server) underWay(ctx context.Context, name string, do func(*db.Tx, site.Name) error) (*item[v1.PlanStatus], error) {
	out, err := change(ctx, s, "plan "+name, func(tx *db.Tx) (*item[v1.PlanStatus], error) {
		p, err := s.plan(ctx, tx, name, auth.PlanTest)
		if err != nil {
			return nil, err
		}
		st, err := s.Plans.Look(ctx, tx, p.Name)
		if err != nil {
			return nil, err
		}
		if st.Doing != "" {
			if err := s.allow(ctx, permitOf(st.Doing), p.Folder); err != nil {
				return nil, err
			}
		}
		if err := do(tx, p.Name); err != nil {
			return nil, err
		}
		now, err := s.statusOf(ctx, tx, p)
		return &item[v1.PlanStatus]{now}, err
	})
	s.wake()
	return out, err
}

func (s *server) cancelPlan(ctx context.Context, in *NameIn) (*item[v1.PlanStatus], error) {
	return s.underWay(ctx, in.Name, func(tx *db.Tx, p site.Name) error { return s.Plans.Cancel(ctx, tx, p, by(ctx)) })
}

func (s *server) resumePlan(ctx context.Context, in *NameIn) (*item[v1.PlanStatus], error) {
	return s.underWay(ctx, in.Name, func(tx *db.Tx, p site.Name) error { return s.Plans.Resume(ctx, tx, p, by(ctx)) })
}

type skipIn struct {
	NameIn
	Body v1.SkipStep
}

func (s *server) skipStep(ctx context.Context, in *skipIn) (*item[v1.PlanStatus], error) {
	detail(ctx, in.Body)
	return s.underWay(ctx, in.Name, func(tx *db.Tx, p site.Name) error { return s.Plans.Skip(ctx, tx, p, in.Body.Step, by(ctx)) })
}

type answerIn struct {
	NameIn
	Body v1.AnswerPrompt
}

func (s *server) answerPrompt(ctx context.Context, in *answerIn) (*item[v1.PlanStatus], error) {
	detail(ctx, in.Body)
	return s.underWay(ctx, in.Name, func(tx *db.Tx, p site.Name) error {
		return s.Plans.Answer(ctx, tx, p, in.Body.Step, in.Body.Answer, by(ctx))
	})
}
