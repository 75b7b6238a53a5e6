package api

import (
	"context"
	"encoding/json"
	"net/http"

	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/pki"
	"holdfast/internal/msa/seal"
)

// Access is what operations about users, secrets, boxes and peers stand on. What is
// nil makes its operations answer that it is not there.
type Access struct {
	Accounts *auth.Auth    // users, sessions, tokens: most likely Options.Auth too
	Box      *seal.Box     // secrets
	PKI      *pki.PKI      // boxes, peers
	Pairs    *pair.Monitor // peers
	// Address is where boxes and peers reach this manager: https://msa-a:8443.
	Address string
}

func missing(what string) error {
	return errs.New("api", errs.Unavailable, what, "this manager was started without "+what).WithRemedy("run it as holdfast msa does")
}

func (s *server) accounts() (*auth.Auth, error) {
	if s.Access.Accounts == nil {
		return nil, missing("users")
	}
	return s.Access.Accounts, nil
}

func (s *server) pki() (*pki.PKI, error) {
	if s.Access.PKI == nil {
		return nil, missing("certificates")
	}
	return s.Access.PKI, nil
}

func (s *server) box() (*seal.Box, error) {
	if s.Access.Box == nil {
		return nil, missing("a key file for secrets")
	}
	return s.Access.Box, nil
}

// person refuses who did not log in: what makes a new way in is not for a program's
// token, which may have been stolen and would outlive its end by that.
func person(ctx context.Context) error {
	if !callOf(ctx).who.Session {
		return errs.New("api", errs.Denied, "session", "this takes a person who has logged in, not an API token").
			WithRemedy("log in with name and password, or by the provider")
	}
	return nil
}

// own is who asks, about something of their own.
func own(ctx context.Context) string {
	c := callOf(ctx)
	c.allowed = true
	return c.who.User
}

// detail notes for the audit log what was asked for; it holds no secret.
func detail(ctx context.Context, v any) {
	if b, err := json.Marshal(v); err == nil {
		callOf(ctx).detail = string(b)
	}
}

// remoteOf is where who asks comes from: what log-ins are counted by.
func remoteOf(ctx context.Context) string { return callOf(ctx).remote }

// agentOf is how the client calls itself.
func agentOf(ctx context.Context) string { return callOf(ctx).context.Header("User-Agent") }

// item is an answer with one thing in it.
type item[T any] struct{ Body T }

// every is an answer with a whole list in it: of what is bounded.
type every[T any] struct {
	Body struct {
		Items []T `json:"items"`
	}
}

func everyOf[T any](items []T) *every[T] {
	out := &every[T]{}
	out.Body.Items = items
	if items == nil {
		out.Body.Items = []T{}
	}
	return out
}

// read answers with what f reads.
func read[T any](ctx context.Context, s *server, f func(*db.Tx) (T, error)) (*item[T], error) {
	out := &item[T]{}
	return out, s.view(ctx, func(tx *db.Tx) (err error) { out.Body, err = f(tx); return err })
}

func created(o operation) operation { o.Status = http.StatusCreated; return o }
