package api

import (
	"context"
	"net/http"
	"strconv"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/operate"
	"holdfast/internal/msa/plan"
	"holdfast/internal/msa/report"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

func (s *server) registerRuns() {
	op := operation{Tag: "plan runs", Scoped: true, May: auth.RunRead, Method: http.MethodGet}
	of := func(id, path, summary string) operation {
		o := op
		o.ID, o.Path, o.Summary = id, path, summary
		return o
	}
	add(s, of("list-plan-runs", "/plans/{name}/runs", "List the runs of a plan, the newest first"), s.listRuns)
	add(s, of("get-run", "/runs/{id}", "See a run, step by step"), s.getRun)
	add(s, of("get-run-report", "/runs/{id}/report", "Read the report of a run"), s.runReport)
	page := of("get-run-report-page", "/runs/{id}/report.html", "The report as one page that prints well")
	page.Type = "text/html"
	add(s, page, func(ctx context.Context, in *TaskIn) (*exportOut, error) {
		return s.rendered(ctx, in.ID, "text/html", (*report.Report).HTML)
	})
	table := of("get-run-report-table", "/runs/{id}/report.csv", "The steps of a run as a table")
	table.Type = "text/csv"
	add(s, table, func(ctx context.Context, in *TaskIn) (*exportOut, error) {
		return s.rendered(ctx, in.ID, "text/csv", (*report.Report).CSV)
	})
	notes := of("put-run-notes", "/runs/{id}/notes", "Write down something about a run")
	notes.Method, notes.Change, notes.May, notes.Status = http.MethodPut, true, auth.PlanTest, http.StatusNoContent
	add(s, notes, s.putNotes)
	add(s, of("list-prompts", "/prompts", "List the questions that hold runs"), s.listPrompts)
}

// folderOf is where a run's plan is; of one that is deleted, the root.
func folderOf(ctx context.Context, tx *db.Tx, name site.Name) (site.Ref, error) {
	p, err := catalog.Find[*plan.Plan](ctx, tx, name)
	if errs.Is(err, errs.NotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return p.Folder, nil
}

// entry returns a run who asks may do something to.
func (s *server) entry(ctx context.Context, tx *db.Tx, id string, may auth.Permission) (operate.Entry, error) {
	e, err := operate.EntryOf(ctx, tx, db.Text(id, 200))
	if err != nil {
		return e, err
	}
	folder, err := folderOf(ctx, tx, e.Plan)
	if err != nil {
		return e, err
	}
	if !seen(ctx, auth.RunRead, folder) {
		return e, errs.New("api", errs.NotFound, "run "+e.Run, "there is no such run").WithRemedy("list those there are")
	}
	return e, s.allow(ctx, may, folder)
}

func runOf(e *operate.Entry) v1.PlanRun {
	return v1.PlanRun{Run: e.Run, Plan: e.Plan, Asked: string(e.Asked), Operation: string(e.Operation), By: e.By, Agreed: e.Agreed, Began: e.Began,
		Ended: timePtr(e.Ended), Status: string(e.Status), State: string(e.State), Notes: e.Notes}
}

type planRunsIn struct {
	NameIn
	Paging
}

type planRunsOut struct{ Body v1.Page[v1.PlanRun] }

func (s *server) listRuns(ctx context.Context, in *planRunsIn) (*planRunsOut, error) {
	place, err := in.after()
	if err != nil {
		return nil, err
	}
	offset := 0
	if place != "" {
		if offset, err = strconv.Atoi(place); err != nil || offset < 0 || offset > 1<<30 {
			return nil, errs.New("api", errs.Invalid, "cursor", "it is none of this list").WithRemedy("send next of the page before, as it is")
		}
	}
	out := &planRunsOut{v1.Page[v1.PlanRun]{Items: []v1.PlanRun{}}}
	return out, s.view(ctx, func(tx *db.Tx) error {
		p, err := s.plan(ctx, tx, in.Name, auth.RunRead)
		if err != nil {
			return err
		}
		list, err := operate.History(ctx, tx, p.Name, offset, in.Limit)
		for i := range list {
			out.Body.Items = append(out.Body.Items, runOf(&list[i]))
		}
		if len(list) == in.Limit {
			out.Body.Next = cursor(strconv.Itoa(offset + len(list)))
		}
		return err
	})
}

func (s *server) getRun(ctx context.Context, in *TaskIn) (*item[v1.PlanRun], error) {
	return read(ctx, s, func(tx *db.Tx) (out v1.PlanRun, err error) {
		e, err := s.entry(ctx, tx, in.ID, auth.RunRead)
		if err != nil {
			return out, err
		}
		out = runOf(&e)
		steps, err := runs.Steps(ctx, tx, e.Run)
		if err != nil {
			return out, err
		}
		asked, err := runs.Questions(ctx, tx, e.Run, maxPrompts)
		if err != nil {
			return out, err
		}
		open := map[int]string{}
		for _, q := range asked {
			if q.Answered.IsZero() {
				open[q.Seq] = q.Question
			}
		}
		for i := range steps {
			out.Steps = append(out.Steps, stepOf(&steps[i], open))
		}
		return out, nil
	})
}

// maxPrompts bounds the prompts of one run that are shown.
const maxPrompts = 1000

func stepOf(st *runs.StepState, open map[int]string) v1.RunStep {
	out := v1.RunStep{Step: st.Seq, Phase: string(st.Phase), Title: st.Step.Title, Kind: st.Step.Kind, Status: string(st.Status), Attempt: st.Attempt,
		Began: timePtr(st.Begun), Ended: timePtr(st.Ended), Done: st.Done, Total: st.Total, Note: st.Note, Output: st.Output}
	if st.Status == runs.Running {
		out.Question = open[st.Seq]
	}
	return out
}

func (s *server) report(ctx context.Context, id string) (r *report.Report, err error) {
	return r, s.view(ctx, func(tx *db.Tx) error {
		e, err := s.entry(ctx, tx, id, auth.RunRead)
		if err != nil {
			return err
		}
		r, err = operate.Report(ctx, tx, e.Run)
		return err
	})
}

func (s *server) runReport(ctx context.Context, in *TaskIn) (*item[*report.Report], error) {
	r, err := s.report(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &item[*report.Report]{r.Bounded()}, nil
}

// rendered is a report in another form.
func (s *server) rendered(ctx context.Context, id, media string, render func(*report.Report) ([]byte, error)) (*exportOut, error) {
	r, err := s.report(ctx, id)
	if err != nil {
		return nil, err
	}
	text, err := render(r)
	return &exportOut{media, text}, err
}

type notesIn struct {
	TaskIn
	Body v1.RunNotes
}

func (s *server) putNotes(ctx context.Context, in *notesIn) (*nothingOut, error) {
	return change(ctx, s, "run "+in.ID, func(tx *db.Tx) (*nothingOut, error) {
		e, err := s.entry(ctx, tx, in.ID, auth.PlanTest)
		if err != nil {
			return nil, err
		}
		return &nothingOut{}, operate.Annotate(ctx, tx, e.Run, in.Body.Notes)
	})
}

type promptsOut struct{ Body v1.Page[v1.OpenPrompt] }

func (s *server) listPrompts(ctx context.Context, _ *none) (*promptsOut, error) {
	out := &promptsOut{v1.Page[v1.OpenPrompt]{Items: []v1.OpenPrompt{}}}
	return out, s.view(ctx, func(tx *db.Tx) error {
		list, err := runs.Questions(ctx, tx, "", maxPrompts)
		if err != nil {
			return err
		}
		for _, q := range list {
			e, err := operate.EntryOf(ctx, tx, q.Run)
			if errs.Is(err, errs.NotFound) {
				continue // of a task
			}
			if err != nil {
				return err
			}
			folder, err := folderOf(ctx, tx, e.Plan)
			if err != nil {
				return err
			}
			if seen(ctx, auth.RunRead, folder) {
				out.Body.Items = append(out.Body.Items, v1.OpenPrompt{Plan: e.Plan, Run: q.Run, Step: q.Seq, Question: q.Question, Asked: q.Opened})
			}
		}
		return nil
	})
}
