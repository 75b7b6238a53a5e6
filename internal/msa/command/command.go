package command

import (
	"context"
	"encoding/json"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/runs"
	"holdfast/internal/msa/site"
)

// The kinds of commands besides those of plan's steps (plan.Kind, as "sync").
const (
	Running  = "running"  // question: Input plan.VMInputs
	AgentUp  = "agent-up" // question: Input plan.VMInputs
	PortUp   = "port-up"  // question: Input plan.WaitInputs
	Shutdown = "shutdown" // Input plan.VMInputs: ask a guest of the protected site
	Cut      = "cut"      // Input plan.VMInputs: take its power
)

// Command is one thing an appliance is to do.
type Command struct {
	ID   string    `json:"id"`  // of the row
	Box  site.Name `json:"box"` // who does it
	Kind string    `json:"kind"`
	// Key names the effect: the step's key, which handlers see in their call, with the
	// kind behind it. It is the same in every attempt. Neither is empty.
	Key     string `json:"key"`
	StepKey string `json:"step_key"`
	// Origin is the fingerprint of the authority of the site whose manager runs the
	// plan: plans and epochs are that manager's.
	Origin  string        `json:"origin"`
	Run     string        `json:"run"`
	Plan    site.Name     `json:"plan"`
	From    site.Name     `json:"from"` // the sites, in the run's direction
	To      site.Name     `json:"to"`
	Domain  site.Name     `json:"domain,omitempty"` // empty: of no domain
	VM      dr.VMID       `json:"vm,omitzero"`      // zero: of no VM, or of a whole domain
	Step    string        `json:"step"`             // its name in the run
	Seq     int           `json:"seq"`
	Attempt int           `json:"attempt"`
	Epoch   int64         `json:"epoch"`
	OnError runs.OnError  `json:"on_error,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"` // nanoseconds, of one call of the handler; 0: none
	// Input is of the plan.Kind's inputs type, or the kind's own.
	Input json.RawMessage `json:"input,omitempty"`
	// Memory is what an earlier call of the handler, or attempt of the step, left.
	Memory       json.RawMessage `json:"memory,omitempty"`
	Undoes       string          `json:"undoes,omitempty"` // as of runs.Call
	UndoesMemory json.RawMessage `json:"undoes_memory,omitempty"`
	// Deadline is when nobody waits for it any more, UTC milliseconds by the manager; 0:
	// never. A box that has not begun it by then does not begin it.
	Deadline int64 `json:"deadline,omitempty"`
}

// Question reports whether a command asks, and has no effect.
func (c *Command) Question() bool { return c.Kind == Running || c.Kind == AgentUp || c.Kind == PortUp }

// Outcome is what came of a command. The zero value: it was done.
type Outcome struct {
	// Again, if not zero, means that a job is under way, to be looked at after that
	// time: the agent calls the handler again, with Memory. Managers never see it.
	Again       time.Duration   `json:"-"`
	AlreadyDone bool            `json:"already_done,omitempty"`
	Note        string          `json:"note,omitempty"`
	Warnings    []string        `json:"warnings,omitempty"`
	Output      string          `json:"output,omitempty"` // its last 4 KiB
	Memory      json.RawMessage `json:"memory,omitempty"`
	Answer      bool            `json:"answer,omitempty"`  // of a question
	Failure     *Failure        `json:"failure,omitempty"` // nil: done
}

// Failure is an error on its way.
type Failure struct {
	Kind   string `json:"kind"` // as errs.Kind's String
	Object string `json:"object,omitempty"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

// Fail is the outcome of an error.
func Fail(err error) Outcome {
	detail := db.Text(err.Error(), maxWords)
	return Outcome{Failure: &Failure{Kind: errs.KindOf(err).String(), Detail: detail, Remedy: db.Text(errs.RemedyOf(err), maxWords)}}
}

// Err is the error again; nil of a nil Failure. A kind that this release does not know
// is Internal: it is tried again.
func (f *Failure) Err() error {
	if f == nil {
		return nil
	}
	kind, _ := errs.ParseKind(f.Kind)
	return errs.New("command", kind, db.Text(f.Object, maxName), db.Text(f.Detail, maxWords)).WithRemedy(db.Text(f.Remedy, maxWords))
}

// Handler does commands of one appliance.
type Handler interface {
	// Do does a command, or looks at its job: it may be called again for what was done,
	// and looks first. Right before an effect it asks call.Hold. Progress, warnings and
	// output are told by call. It returns soon after ctx ends. Called concurrently.
	Do(ctx context.Context, c *Command, call *runs.Call) Outcome
}

// HandlerFunc is a function that is a Handler.
type HandlerFunc func(ctx context.Context, c *Command, call *runs.Call) Outcome

// Do calls f.
func (f HandlerFunc) Do(ctx context.Context, c *Command, call *runs.Call) Outcome {
	return f(ctx, c, call)
}

// Router says which boxes of its site do a command.
type Router interface {
	// Route returns the boxes for a command, in the transaction that enters it: one, or
	// several that all have to. Kinds: Unavailable (there is none, or it is silent: the
	// box is named), Invalid.
	Route(ctx context.Context, tx *db.Tx, c *Command) ([]site.Name, error)
}
