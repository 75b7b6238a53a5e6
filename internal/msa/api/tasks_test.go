package api

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	v1 "holdfast/api"
	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/runs"
)

// job is a kind of steps that do what the test says.
type job struct{ say chan string }

func (j job) Do(ctx context.Context, c *runs.Call) (runs.Result, error) {
	for {
		select {
		case word := <-j.say:
			switch word {
			case "half":
				c.Progress(1, 2)
			case "fail":
				return runs.Result{}, errs.New("test", errs.Invalid, "disk 3", "it is damaged").WithRemedy("replace it")
			case "end":
				c.Warn("it was slow")
				return runs.Result{Memory: json.RawMessage(`{"found":7}`)}, nil
			}
		case <-ctx.Done():
			return runs.Result{}, ctx.Err()
		}
	}
}

func TestTasks(t *testing.T) {
	r := newRig(t, dbtest.SQLite(t))
	j := job{make(chan string)}
	worker, err := runs.NewWorker(r.db, runs.Options{Kinds: runs.Kinds{{Name: "test.job", Version: 1}: j}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- worker.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	s, err := build(Options{DB: r.db, Auth: everybody(), Wake: worker.Wake})
	if err != nil {
		t.Fatal(err)
	}
	begin := func(who string) string {
		t.Helper()
		c := &call{op: &operation{ID: "x", Change: true}, who: everybody()[who]}
		out, err := change(context.WithValue(t.Context(), callKey{}, c), s, "x", func(tx *db.Tx) (*StartedOut, error) {
			id, err := s.startTask(context.WithValue(t.Context(), callKey{}, c), tx, "test", "thing", runs.Step{Name: "job", Kind: "test.job", Version: 1})
			if err != nil {
				return nil, err
			}
			return s.started(t.Context(), tx, id)
		})
		if err != nil {
			t.Fatal(err)
		}
		s.wake()
		return out.Body.ID
	}
	get := func(id, query string) v1.Task {
		t.Helper()
		return as[v1.Task](r.send("GET", "/tasks/"+id+query, nil).want(http.StatusOK))
	}

	id := begin("erp")
	j.say <- "half"
	j.say <- "" // it has told
	r.who = "erp"
	for {
		task := get(id, "")
		if task.State != v1.TaskActive || task.Subject != "thing" || task.By != "erp" {
			t.Fatalf("under way: %+v", task)
		}
		if task.Percent == 50 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("no progress")
		}
		time.Sleep(20 * time.Millisecond) // between questions; the answer decides
	}
	r.who = "viewer"
	get(id, "")
	r.send("POST", "/tasks/"+id+"/cancel", nil).problem(http.StatusForbidden, errs.Denied)
	go func() { j.say <- "end" }()
	if task := get(id, "?wait=30"); task.State != v1.TaskWithWarnings || task.Percent != 100 || string(task.Result) != `{"found":7}` || len(task.Notes) != 1 || task.Finished == nil {
		t.Errorf("ended: %+v", task)
	}

	id = begin("admin")
	r.who = "erp" // whose permissions are of a folder
	r.send("GET", "/tasks/"+id, nil).problem(http.StatusNotFound, errs.NotFound)
	if list := as[v1.Page[v1.Task]](r.send("GET", "/tasks", nil).want(http.StatusOK)); len(list.Items) != 1 {
		t.Errorf("sees %+v", list.Items)
	}
	r.who = "admin"
	r.send("POST", "/tasks/"+id+"/cancel", nil).want(http.StatusOK)
	if task := get(id, "?wait=30"); task.State != v1.TaskCancelled || task.Cancelled != "admin" {
		t.Errorf("cancelled: %+v", task)
	}
	r.send("POST", "/tasks/"+id+"/cancel", nil).problem(http.StatusConflict, errs.Conflict)

	id = begin("erp")
	go func() { j.say <- "fail" }()
	if task := get(id, "?wait=30"); task.State != v1.TaskFailed || len(task.Notes) != 1 || task.Notes[0].Level != "error" {
		t.Errorf("failed: %+v", task)
	}
	// A run that is no task is looked at here, and cancelled elsewhere.
	if err := r.db.Tx(t.Context(), func(tx *db.Tx) (err error) {
		id, _, err = runs.Start(t.Context(), tx, runs.Request{Key: dr.NewUUID().String(), Subject: "plan-1", Operation: "test", By: "x",
			Snapshot: runs.Snapshot{Steps: []runs.Step{{Name: "p", Kind: runs.KindPrompt, Version: 1, Input: json.RawMessage(`{"question":"?"}`)}}}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	get(id, "")
	r.send("POST", "/tasks/"+id+"/cancel", nil).problem(http.StatusConflict, errs.Conflict)
	r.send("GET", "/tasks/none", nil).problem(http.StatusNotFound, errs.NotFound)
	if !everybody()["test-operator"].May(auth.TaskCancel, "") {
		t.Error("the last rule is about people who may cancel tasks and not run plans")
	}
}
