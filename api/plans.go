package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"holdfast/internal/errs"
)

// PlanStatus is where a plan stands, and what it allows.
type PlanStatus struct {
	Plan     Name         `json:"plan"`
	State    string       `json:"state" doc:"As ready, test-complete, before-commit: docs/operate/plans.md"`
	Means    string       `json:"means" doc:"In words"`
	Doing    string       `json:"doing,omitempty" doc:"The operation under way, or done last"`
	Reversed bool         `json:"reversed,omitempty" doc:"It runs against its home direction"`
	Run      string       `json:"run,omitempty" doc:"Its last run, or the one under way"`
	Running  bool         `json:"running"`
	Allowed  []string     `json:"allowed" doc:"Operations that can be asked for now"`
	Else     string       `json:"else" doc:"Why all others are refused, and what to do"`
	Reason   string       `json:"reason,omitempty" doc:"Why it was interrupted"`
	Alone    bool         `json:"alone,omitempty" doc:"The protected site was not reached by the recovery"`
	Decide   string       `json:"decide,omitempty" doc:"What happens by itself before a commit: commit or rollback"`
	Due      *time.Time   `json:"due,omitempty" doc:"When that happens"`
	Tested   *time.Time   `json:"tested,omitempty" doc:"When a test ended last"`
	TestOK   bool         `json:"test_ok,omitempty"`
	Overdue  string       `json:"overdue,omitempty" doc:"What people should see to"`
	Domains  []PlanDomain `json:"domains"`
}

// PlanDomain is where the recovery of a plan's domain stands.
type PlanDomain struct {
	Name     Name   `json:"name"`
	Failover string `json:"failover"`
	Reversed bool   `json:"reversed,omitempty"`
}

// RunPoint says which checkpoint of each domain a run is about; nothing: as the plan
// says, or the newest.
type RunPoint struct {
	App     bool            `json:"app,omitempty" doc:"The newest application-consistent one"`
	At      *time.Time      `json:"at,omitempty" doc:"The newest one not after this time"`
	Tag     string          `json:"tag,omitempty" maxLength:"255" doc:"The newest one with this tag"`
	Domains map[Name]uint64 `json:"domains,omitempty" doc:"A checkpoint for each; of others the newest"`
}

// RunQuestion is what a run is to be.
type RunQuestion struct {
	Operation string    `json:"operation" maxLength:"40" doc:"As test, planned, disaster, commit: one that the plan's state allows"`
	Point     *RunPoint `json:"point,omitempty"`
	VMs       []Ref     `json:"vms,omitempty" maxItems:"2000" doc:"Only these; none: all"`
}

// StartRun asks for a run.
type StartRun struct {
	RunQuestion
	Notes   string      `json:"notes,omitempty" maxLength:"8192" doc:"For the report"`
	Confirm *ConfirmRun `json:"confirm,omitempty" doc:"Needed by what changes production"`
}

// ConfirmRun is what a person says before a run that changes production.
type ConfirmRun struct {
	Plan      Name   `json:"plan" maxLength:"63" doc:"Its name, typed again"`
	Version   uint64 `json:"version" doc:"The version of the plan they have looked at"`
	Operation string `json:"operation" maxLength:"40" doc:"What they want, chosen again"`
	Alone     bool   `json:"alone,omitempty" doc:"They know that a forced run does not ask the protected site"`
	Approval  string `json:"approval,omitempty" maxLength:"64" doc:"The second person's approval, if the plan asks for one"`
}

// StartedRun is a run that was begun.
type StartedRun struct {
	Run       string  `json:"run"`
	Operation string  `json:"operation" doc:"What is done: of rerun, what is repeated"`
	State     string  `json:"state" doc:"Of the plan"`
	Again     bool    `json:"again,omitempty" doc:"The same request had begun it before"`
	Faults    []Fault `json:"faults" doc:"What is not as it should be, and did not keep it from beginning"`
}

// AskedApproval is a question to a second person.
type AskedApproval struct {
	ID      string    `json:"id" doc:"For confirm.approval, once it is approved"`
	Expires time.Time `json:"expires"`
}

// PlanPreview is what an operation would do.
type PlanPreview struct {
	OK     bool           `json:"ok" doc:"Nothing keeps it from beginning but the plan's state"`
	Faults []Fault        `json:"faults"`
	Groups []PreviewGroup `json:"groups" doc:"One after the other"`
}

// PreviewGroup is steps that go together.
type PreviewGroup struct {
	Name  string   `json:"name"`
	Title string   `json:"title"`
	Steps []string `json:"steps"`
}

// PlanReadiness is what a dry run says.
type PlanReadiness struct {
	Score  int     `json:"score" doc:"0 to 100"`
	VMs    int     `json:"vms"`
	Steps  int     `json:"steps" doc:"Of a recovery from a disaster"`
	Faults []Fault `json:"faults"`
}

// PlanRun is a run of a plan.
type PlanRun struct {
	Run       string     `json:"run"`
	Plan      Name       `json:"plan"`
	Asked     string     `json:"asked"`
	Operation string     `json:"operation"`
	By        string     `json:"by"`
	Agreed    string     `json:"agreed,omitempty" doc:"The second person"`
	Began     time.Time  `json:"began"`
	Ended     *time.Time `json:"ended,omitempty"`
	Status    string     `json:"status" doc:"running, success, warning, error or cancelled"`
	State     string     `json:"state,omitempty" doc:"Of the plan, afterwards"`
	Notes     string     `json:"notes,omitempty"`
	Steps     []RunStep  `json:"steps,omitempty" doc:"Of one run, as long as its steps are kept"`
}

// RunStep is a step of a run.
type RunStep struct {
	Step     int        `json:"step"`
	Phase    string     `json:"phase" doc:"forward, undo or finally"`
	Title    string     `json:"title"`
	Kind     string     `json:"kind"`
	Status   string     `json:"status"`
	Attempt  int        `json:"attempt,omitempty"`
	Began    *time.Time `json:"began,omitempty"`
	Ended    *time.Time `json:"ended,omitempty"`
	Done     int64      `json:"done,omitempty"`
	Total    int64      `json:"total,omitempty"`
	Note     string     `json:"note,omitempty"`
	Question string     `json:"question,omitempty" doc:"What an open prompt asks"`
	Output   string     `json:"output,omitempty" doc:"The end of what a script printed"`
}

// OpenPrompt is a question that holds a run.
type OpenPrompt struct {
	Plan     Name      `json:"plan"`
	Run      string    `json:"run"`
	Step     int       `json:"step"`
	Question string    `json:"question"`
	Asked    time.Time `json:"asked"`
}

// AnswerPrompt answers one.
type AnswerPrompt struct {
	Step   int    `json:"step" minimum:"1"`
	Answer string `json:"answer" minLength:"1" maxLength:"2048"`
}

// SkipStep names a step of a parked run.
type SkipStep struct {
	Step int `json:"step" minimum:"1"`
}

// RunNotes are what people write down about a run.
type RunNotes struct {
	Notes string `json:"notes" maxLength:"8192"`
}

func planPath(n Name, rest string) string { return "/plans/" + url.PathEscape(string(n)) + rest }

// PlanStatus says where a plan stands.
func (c *Client) PlanStatus(ctx context.Context, n Name) (s PlanStatus, err error) {
	err = c.Call(ctx, http.MethodGet, planPath(n, "/status"), nil, nil, &s)
	return s, err
}

// Readiness dry-runs a plan.
func (c *Client) Readiness(ctx context.Context, n Name) (r PlanReadiness, err error) {
	err = c.Call(ctx, http.MethodGet, planPath(n, "/readiness"), nil, nil, &r)
	return r, err
}

// Preview says what an operation of a plan would do.
func (c *Client) Preview(ctx context.Context, n Name, q RunQuestion) (p PlanPreview, err error) {
	err = c.Call(ctx, http.MethodPost, planPath(n, "/preview"), nil, q, &p)
	return p, err
}

// startPaths are where runs of each operation are begun.
var startPaths = map[string]string{
	"test": "/tests", "cleanup": "/tests", "forced-cleanup": "/tests", "reprotect": "/reprotects", "forced-reprotect": "/reprotects",
}

// StartRun begins an operation of a plan. What rerun repeats must be said: test, a
// recovery, or a reprotect, as PlanStatus.Doing has it. Kinds: Invalid, Denied (not
// confirmed), Conflict (the plan's state).
func (c *Client) StartRun(ctx context.Context, n Name, doing string, q StartRun) (s StartedRun, err error) {
	op := q.Operation
	if op == "rerun" {
		op = doing
	}
	path := startPaths[op]
	if path == "" {
		path = "/runs"
	}
	err = c.Call(ctx, http.MethodPost, planPath(n, path), nil, q, &s)
	return s, err
}

// AskApproval asks a second person to agree to a run of a plan.
func (c *Client) AskApproval(ctx context.Context, n Name, q RunQuestion) (a AskedApproval, err error) {
	err = c.Call(ctx, http.MethodPost, planPath(n, "/approvals"), nil, q, &a)
	return a, err
}

// CancelPlan cancels what a plan does.
func (c *Client) CancelPlan(ctx context.Context, n Name) (s PlanStatus, err error) {
	err = c.Call(ctx, http.MethodPost, planPath(n, "/cancel"), nil, nil, &s)
	return s, err
}

// ResumePlan has a plan's parked run go on.
func (c *Client) ResumePlan(ctx context.Context, n Name) (s PlanStatus, err error) {
	err = c.Call(ctx, http.MethodPost, planPath(n, "/resume"), nil, nil, &s)
	return s, err
}

// SkipStep has a plan's parked run go on without a step, once it is resumed.
func (c *Client) SkipStep(ctx context.Context, n Name, step int) (s PlanStatus, err error) {
	err = c.Call(ctx, http.MethodPost, planPath(n, "/skip"), nil, SkipStep{step}, &s)
	return s, err
}

// AnswerPrompt answers a prompt of a plan's run.
func (c *Client) AnswerPrompt(ctx context.Context, n Name, step int, answer string) (s PlanStatus, err error) {
	err = c.Call(ctx, http.MethodPost, planPath(n, "/answer"), nil, AnswerPrompt{step, answer}, &s)
	return s, err
}

// Prompts returns the questions that hold runs.
func (c *Client) Prompts(ctx context.Context) ([]OpenPrompt, error) {
	var page Page[OpenPrompt]
	err := c.Call(ctx, http.MethodGet, "/prompts", nil, nil, &page)
	return page.Items, err
}

// PlanRuns returns a page of a plan's runs, the newest first.
func (c *Client) PlanRuns(ctx context.Context, n Name, opts ListOptions) (page Page[PlanRun], err error) {
	err = c.Call(ctx, http.MethodGet, planPath(n, "/runs"), opts.query(), nil, &page)
	return page, err
}

// PlanRun returns a run with its steps.
func (c *Client) PlanRun(ctx context.Context, id string) (r PlanRun, err error) {
	err = c.Call(ctx, http.MethodGet, "/runs/"+url.PathEscape(id), nil, nil, &r)
	return r, err
}

// RunReport returns the report of a run: "json", "html" or "csv". Kind Invalid: another
// format.
func (c *Client) RunReport(ctx context.Context, id, format string) ([]byte, error) {
	ext := map[string]string{"json": "", "html": ".html", "csv": ".csv"}
	end, ok := ext[format]
	if !ok {
		return nil, errs.New("api.RunReport", errs.Invalid, format, "there is no such format of reports").WithRemedy("choose json, html or csv")
	}
	var text []byte
	var doc json.RawMessage
	if format == "json" {
		err := c.Call(ctx, http.MethodGet, "/runs/"+url.PathEscape(id)+"/report", nil, nil, &doc)
		return doc, err
	}
	_, err := c.do(ctx, request{method: http.MethodGet, path: "/runs/" + url.PathEscape(id) + "/report" + end}, &text)
	return text, err
}

// AnnotateRun replaces a run's notes.
func (c *Client) AnnotateRun(ctx context.Context, id, notes string) error {
	return c.Call(ctx, http.MethodPut, "/runs/"+url.PathEscape(id)+"/notes", nil, RunNotes{notes}, nil)
}
