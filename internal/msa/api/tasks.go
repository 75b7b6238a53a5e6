package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/runs"
)

// A task is a run of the step journal, seen from afar: so it survives crashes, is
// taken over, and is cancelled as any run. The subjects of those that are nothing
// else begin with taskSubject; other runs can be looked at here, and have operations
// of their own for everything else.
const taskSubject = "task/"

func (s *server) registerTasks() {
	op := operation{Tag: "tasks", Scoped: true, May: auth.TaskRead, Detail: "Your own tasks, and all with the permission."}
	list, get, cancel := op, op, op
	list.ID, list.Method, list.Path, list.Summary = "list-tasks", http.MethodGet, "/tasks", "List operations that last, the newest first"
	add(s, list, s.listTasks)
	get.ID, get.Method, get.Path, get.Summary = "get-task", http.MethodGet, "/tasks/{id}", "See how an operation that lasts stands, or wait for its end"
	add(s, get, s.getTask)
	cancel.ID, cancel.Method, cancel.Path, cancel.Summary = "cancel-task", http.MethodPost, "/tasks/{id}/cancel", "Ask an operation that lasts to stop"
	cancel.May, cancel.Change, cancel.Detail = auth.TaskCancel, true, "What it has begun is undone where it can be. A plan's run is cancelled by its own operation."
	add(s, cancel, s.cancelTask)
}

// startTask starts an operation that lasts, in the transaction of the change that
// asks for it: one step of a kind that a worker knows. It returns the task's id.
func (s *server) startTask(ctx context.Context, tx *db.Tx, operation, subject string, step runs.Step) (string, error) {
	id, _, err := runs.Start(ctx, tx, runs.Request{
		Key: dr.NewUUID().String(), Subject: taskSubject + subject, Operation: operation, By: by(ctx),
		Snapshot: runs.Snapshot{Steps: []runs.Step{step}},
	})
	return id, err
}

// StartedOut is the answer of an operation that lasts.
type StartedOut struct {
	Location string `header:"Location" doc:"Where the task is"`
	Body     v1.Task
}

// started is the answer of an operation that has started a task.
func (s *server) started(ctx context.Context, tx *db.Tx, id string) (*StartedOut, error) {
	r, err := runs.Get(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	t, err := taskOf(ctx, tx, r, false)
	return &StartedOut{prefix + "/tasks/" + id, t}, err
}

// wake has workers look for what was started, behind the transaction.
func (s *server) wake() {
	if s.Wake != nil {
		s.Wake()
	}
}

// taskOf sees a run from afar; whole: with its notes and result.
func taskOf(ctx context.Context, tx *db.Tx, r runs.Run, whole bool) (v1.Task, error) {
	t := v1.Task{
		ID: r.ID, Operation: r.Operation, Subject: strings.TrimPrefix(r.Subject, taskSubject), State: v1.TaskState(r.State), By: r.By,
		Created: r.Created, Cancelled: r.CancelledBy, Reason: r.Reason, Notes: []v1.TaskNote{},
	}
	p, err := runs.ProgressOf(ctx, tx, r.ID)
	if err != nil {
		return t, err
	}
	t.Steps, t.Ended, t.Percent = p.Steps, p.Ended, 100*p.Part
	if !r.Ended.IsZero() {
		t.Finished = &r.Ended
	} else if eta := etaOf(r.Created, db.Time(tx.Now()), p.Part); !eta.IsZero() && r.State == runs.Active {
		t.ETA = &eta
	}
	if !whole {
		return t, nil
	}
	notes, err := runs.Notes(ctx, tx, r.ID, 100)
	if err != nil {
		return t, err
	}
	for _, n := range notes {
		t.Notes = append(t.Notes, v1.TaskNote{At: n.At, Level: string(n.Level), Words: n.Words})
	}
	if p.Steps == 1 {
		steps, err := runs.Steps(ctx, tx, r.ID)
		if err != nil {
			return t, err
		}
		if m := steps[0].Memory; t.State.Ended() && json.Valid(m) {
			t.Result = m
		}
	}
	return t, nil
}

// etaOf is when something ends that goes on as until now; zero: it is too early to say.
func etaOf(begun, now time.Time, part float64) time.Time {
	if part < 0.01 || part >= 1 || !now.After(begun) {
		return time.Time{}
	}
	passed := now.Sub(begun)
	left := time.Duration(float64(passed) * (1 - part) / part)
	if left > 30*24*time.Hour {
		return time.Time{}
	}
	return now.Add(left).Truncate(time.Second)
}

// visibleRun reports whether who asks may look at a run.
func visibleRun(ctx context.Context, r runs.Run) bool {
	may := auth.TaskRead
	if !strings.HasPrefix(r.Subject, taskSubject) {
		may = auth.RunRead
	}
	return seen(ctx, may, "") || r.By == by(ctx)
}

type tasksIn struct {
	Paging
}

type tasksOut struct{ Body v1.Page[v1.Task] }

func (s *server) listTasks(ctx context.Context, in *tasksIn) (*tasksOut, error) {
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
	out := &tasksOut{v1.Page[v1.Task]{Items: []v1.Task{}}}
	return out, s.view(ctx, func(tx *db.Tx) error {
		list, err := runs.List(ctx, tx, "", offset, in.Limit)
		if err != nil {
			return err
		}
		for _, r := range list {
			if !strings.HasPrefix(r.Subject, taskSubject) || !visibleRun(ctx, r) {
				continue
			}
			t, err := taskOf(ctx, tx, r, false)
			if err != nil {
				return err
			}
			out.Body.Items = append(out.Body.Items, t)
		}
		// A page may be short of what may not be seen; it is the last one only if the
		// rows are.
		if len(list) == in.Limit {
			out.Body.Next = cursor(strconv.Itoa(offset + len(list)))
		}
		return nil
	})
}

// TaskIn is what operations on one task take.
type TaskIn struct {
	ID string `path:"id" maxLength:"200" doc:"Its id"`
}

type taskIn struct {
	TaskIn
	Wait int `query:"wait" minimum:"0" maximum:"30" doc:"Answer when it has ended, or after so many seconds"`
}

type taskOut struct{ Body v1.Task }

func (s *server) getTask(ctx context.Context, in *taskIn) (*taskOut, error) {
	until := time.Now().Add(time.Duration(in.Wait) * time.Second)
	for {
		out := &taskOut{}
		err := s.view(ctx, func(tx *db.Tx) error {
			r, err := s.run(ctx, tx, in.ID)
			if err != nil {
				return err
			}
			out.Body, err = taskOf(ctx, tx, r, true)
			return err
		})
		left := time.Until(until)
		if err != nil || out.Body.State != v1.TaskActive || left <= 0 {
			return out, err
		}
		timer := time.NewTimer(min(left, taskPoll))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, errs.E("api", errs.Canceled, "task "+in.ID, context.Cause(ctx))
		}
	}
}

// run returns a run who asks may look at.
func (s *server) run(ctx context.Context, tx *db.Tx, id string) (runs.Run, error) {
	r, err := runs.Get(ctx, tx, db.Text(id, 200))
	if err == nil && !visibleRun(ctx, r) {
		err = errs.New("api", errs.NotFound, "task "+r.ID, "there is no such task").WithRemedy("list those there are")
	}
	return r, err
}

func (s *server) cancelTask(ctx context.Context, in *TaskIn) (*taskOut, error) {
	out, err := change(ctx, s, "task "+in.ID, func(tx *db.Tx) (*taskOut, error) {
		r, err := s.run(ctx, tx, in.ID)
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(r.Subject, taskSubject) {
			return nil, errs.New("api", errs.Conflict, "task "+r.ID, "it is a run of its own kind: "+r.Operation).WithRemedy("cancel it as what it is: POST /runs/{id}/cancel")
		}
		// One's own is cancelled by whoever may cancel anything anywhere.
		if r.By != by(ctx) {
			if err := s.allow(ctx, auth.TaskCancel, ""); err != nil {
				return nil, err
			}
		}
		callOf(ctx).allowed = true
		if err := runs.Cancel(ctx, tx, r.ID, by(ctx)); err != nil {
			return nil, err
		}
		if r, err = runs.Get(ctx, tx, r.ID); err != nil {
			return nil, err
		}
		t, err := taskOf(ctx, tx, r, true)
		return &taskOut{t}, err
	})
	s.wake()
	return out, err
}
