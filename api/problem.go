package api

import (
	"net/http"
	"strings"

	"holdfast/internal/errs"
	"holdfast/internal/msa/problem"
)

// Fault is one thing that is wrong with what was sent: an object, its field, what
// is wrong and what to do.
type Fault = problem.Problem

// Problem is why a request was not done: RFC 9457's problem details, with what a
// person can do about it. It is an error.
type Problem struct {
	Type   string `json:"type" doc:"Always about:blank: kind says more"`
	Title  string `json:"title" doc:"The words of the HTTP status"`
	Status int    `json:"status" doc:"The HTTP status"`
	// Kind is stable and decides what a program does: retry "transient" and
	// "unavailable", read anew after "conflict".
	Kind    string  `json:"kind" doc:"What may be done about it: invalid, not found, exists, conflict, fenced, transient, unavailable, corrupt, denied, full, canceled, internal"`
	Detail  string  `json:"detail" doc:"What failed, for people"`
	Object  string  `json:"object,omitempty" doc:"What it was done to, as: plan erp"`
	Remedy  string  `json:"remedy,omitempty" doc:"What to do about it"`
	Request string  `json:"request,omitempty" doc:"The request's id, which the manager's log has too"`
	Faults  []Fault `json:"faults,omitempty" doc:"Everything that is wrong with what was sent"`
}

// Error says what failed, on what.
func (p *Problem) Error() string {
	if p.Object != "" && !strings.HasPrefix(p.Detail, p.Object) {
		return p.Object + ": " + p.Detail
	}
	return p.Detail
}

// GetStatus returns the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is the media type of problems.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// kindOf returns the kind of a problem; one whose word this release does not know
// has that of its status.
func (p *Problem) kindOf() errs.Kind {
	if k, ok := errs.ParseKind(p.Kind); ok {
		return k
	}
	switch {
	case p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden:
		return errs.Denied
	case p.Status == http.StatusNotFound:
		return errs.NotFound
	case p.Status == http.StatusConflict || p.Status == http.StatusPreconditionFailed:
		return errs.Conflict
	case p.Status == http.StatusTooManyRequests || p.Status >= 502:
		return errs.Unavailable
	case p.Status >= 400 && p.Status < 500:
		return errs.Invalid
	}
	return errs.Internal
}
