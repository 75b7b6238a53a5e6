package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/problem"
)

// unauthorized marks errors of finding out who asks.
type unauthorized struct{ error }

// Unwrap returns the cause.
func (u unauthorized) Unwrap() error { return u.error }

// withFaults is an error with everything that was found.
type withFaults struct {
	error
	faults []problem.Problem
}

// Unwrap returns the cause.
func (w withFaults) Unwrap() error { return w.error }

// explain adds what was found to an error of kind Invalid; other errors stay.
func explain(err error, found problem.List) error {
	if errs.Is(err, errs.Invalid) && len(found.All) > 0 {
		return withFaults{err, found.All}
	}
	return err
}

// maxFaults bounds the problems of one answer: more help nobody.
const maxFaults = 500

// statusOf says which HTTP status an error has.
func statusOf(err error) int {
	var who unauthorized
	switch {
	case errors.As(err, &who):
		return http.StatusUnauthorized
	case errors.Is(err, auth.ErrLocked):
		return http.StatusTooManyRequests
	case errors.Is(err, catalog.ErrStale):
		return http.StatusPreconditionFailed
	case errors.Is(err, errNoVersion):
		return http.StatusPreconditionRequired
	}
	switch errs.KindOf(err) {
	case errs.Invalid:
		return http.StatusUnprocessableEntity
	case errs.NotFound:
		return http.StatusNotFound
	case errs.Exists, errs.Conflict, errs.Fenced:
		return http.StatusConflict
	case errs.Denied:
		return http.StatusForbidden
	case errs.Full:
		return http.StatusInsufficientStorage
	case errs.Transient, errs.Unavailable, errs.Canceled:
		return http.StatusServiceUnavailable
	case errs.Internal, errs.Corrupt:
	}
	return http.StatusInternalServerError
}

// remedies are what can be done about errors that say nothing themselves.
var remedies = map[errs.Kind]string{
	errs.Invalid:     "correct the request: see the operation in " + prefix + "/openapi.json",
	errs.NotFound:    "list what there is",
	errs.Exists:      "choose another name",
	errs.Conflict:    "read it again, and decide again",
	errs.Fenced:      "read it again, and decide again",
	errs.Transient:   "try again in a moment",
	errs.Unavailable: "try again when it is there",
	errs.Corrupt:     "look for the request's id in the manager's log, and restore what is damaged",
	errs.Denied:      "ask an administrator",
	errs.Full:        "make room, or ask for less",
	errs.Canceled:    "try again",
}

// problemOf says what an error is to who asked.
func problemOf(err error, status int, request string) *v1.Problem {
	p := &v1.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Kind: errs.KindOf(err).String(), Remedy: errs.RemedyOf(err), Request: request}
	var e *errs.Error
	if errors.As(err, &e) {
		p.Object = e.Object
		p.Detail = e.Kind.String()
		if e.Err != nil {
			p.Detail = e.Err.Error()
		}
	}
	if p.Kind == errs.Internal.String() {
		// What we did not foresee may say more than it should.
		p.Object, p.Detail, p.Remedy = "", "the manager has failed to do this", "look for the request's id in the manager's log, and report it"
	}
	if p.Remedy == "" {
		p.Remedy = remedies[errs.KindOf(err)]
	}
	var f withFaults
	if errors.As(err, &f) {
		p.Faults = f.faults[:min(len(f.faults), maxFaults)]
	}
	return p
}

// fail makes a handler's error the problem that is sent. It logs what is ours.
func (s *server) fail(ctx context.Context, err error) error {
	var sent huma.StatusError
	if errors.As(err, &sent) {
		return err
	}
	c := callOf(ctx)
	status := statusOf(err)
	if status >= 500 && status != http.StatusServiceUnavailable || errs.Is(err, errs.Internal) {
		s.Logger.Error("a request failed", "request", c.id, "operation", c.op.ID, "err", err)
	} else if status >= 500 {
		s.Logger.Warn("a request failed", "request", c.id, "operation", c.op.ID, "err", err)
	}
	p := problemOf(err, status, c.id)
	switch status {
	case http.StatusUnauthorized:
		return huma.ErrorWithHeaders(p, http.Header{"WWW-Authenticate": {`Bearer realm="holdfast"`}})
	case http.StatusServiceUnavailable:
		return huma.ErrorWithHeaders(p, http.Header{"Retry-After": {"1"}})
	}
	return p
}

// write sends an error outside of a handler.
func (s *server) write(ctx huma.Context, err error) {
	var h huma.HeadersError
	if errors.As(err, &h) {
		for name, values := range h.GetHeaders() {
			ctx.SetHeader(name, values[0])
		}
	}
	var p *v1.Problem
	if !errors.As(err, &p) {
		p = problemOf(err, http.StatusInternalServerError, "")
	}
	ctx.SetHeader("Content-Type", p.ContentType(""))
	ctx.SetStatus(p.Status)
	json.NewEncoder(ctx.BodyWriter()).Encode(p) //nolint:errcheck,errchkjson // whoever asked is gone
}

// refuse answers a request that no operation has.
func (s *server) refuse(w http.ResponseWriter, err error) { s.refuseAs(w, statusOf(err), err) }

func (s *server) refuseAs(w http.ResponseWriter, status int, err error) {
	p := problemOf(err, status, w.Header().Get(requestHeader))
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(p) //nolint:errcheck,errchkjson // whoever asked is gone
}

func init() {
	// The library makes its own errors by this variable, for want of another way.
	huma.NewError = func(status int, words string, found ...error) huma.StatusError {
		return refusal(nil, status, words, found...)
	}
	huma.NewErrorWithContext = refusal
}

// refusal makes what the library says of a request, by the API's document, one of
// our problems.
func refusal(ctx huma.Context, status int, words string, found ...error) huma.StatusError {
	kind := errs.Invalid
	switch {
	case status == http.StatusRequestEntityTooLarge:
		kind = errs.Full
	case status == http.StatusRequestTimeout:
		kind = errs.Canceled
	case status >= 500:
		kind = errs.Internal
	}
	p := &v1.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Kind: kind.String(), Detail: words}
	for _, err := range found {
		if err == nil || len(p.Faults) >= maxFaults {
			continue
		}
		f := problem.Problem{Object: "request", Code: problem.Form, Words: err.Error(), Remedy: "see the operation in " + prefix + "/openapi.json"}
		var d huma.ErrorDetailer
		if errors.As(err, &d) {
			detail := d.ErrorDetail()
			where, field, _ := strings.Cut(detail.Location, ".")
			if where == "body" {
				where = "request"
			}
			f.Object, f.Field, f.Words = where, field, detail.Message
		}
		p.Faults = append(p.Faults, f)
	}
	p.Remedy = "see the operation in " + prefix + "/openapi.json"
	if len(p.Faults) > 0 {
		p.Remedy = "correct what faults lists"
	}
	if ctx != nil {
		_, w := humago.Unwrap(ctx)
		p.Request = w.Header().Get(requestHeader)
	}
	return p
}
