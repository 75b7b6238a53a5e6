package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// operation describes one operation to add.
type operation struct {
	ID      string // as get-site: unique, stable
	Method  string
	Path    string // below /api/v1
	Tag     string // of the document
	Summary string // one line
	Detail  string // more, in Markdown
	// May is what who asks must be allowed; empty: anybody who is known.
	May auth.Permission
	// Scoped says that it must be allowed where the object is: the handler asks
	// s.allow, or leaves out what may not be seen. Else it must be everywhere.
	Scoped bool
	Open   bool   // anybody, known or not, as to log in
	Change bool   // something changes: it goes through change, and is audited
	Secret bool   // the answer holds a secret, and is never kept to be repeated
	Status int    // of success; 0: 200, or 204 without a body
	Body   int64  // bound of what is sent; 0: maxBody
	Type   string // media type of the answer; empty: JSON
	Stream bool   // it lasts: no deadline
}

// call is what is known of a request under way.
type call struct {
	op      *operation
	context huma.Context
	who     *auth.Principal // nil of an open operation
	id      string          // of the request
	remote  string          // address of who asks
	key     string          // Idempotency-Key; empty: none
	digest  string          // of what was asked, if there is a key
	allowed bool            // the handler has asked whether it may
	audited bool            // a line was written in a transaction that was committed
	object  string          // for the audit log
	detail  string          // for the audit log
}

type callKey struct{}

// callOf returns the request a handler works on. Every operation's has one.
func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }

// add adds an operation to the API.
func add[I, O any](s *server, o operation, h func(context.Context, *I) (*O, error)) {
	if o.Body == 0 {
		o.Body = maxBody
	}
	s.ops = append(s.ops, Operation{ID: o.ID, Method: o.Method, Path: prefix + o.Path, Permission: o.May, Open: o.Open, Scoped: o.Scoped, Change: o.Change})
	h2 := huma.Operation{
		OperationID: o.ID, Method: o.Method, Path: prefix + o.Path, Tags: []string{o.Tag}, Summary: o.Summary, Description: o.describe(),
		DefaultStatus: o.Status, MaxBodyBytes: o.Body, BodyReadTimeout: bodyFor,
		Errors:      []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusTooManyRequests, http.StatusServiceUnavailable},
		Middlewares: huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) { s.enter(&o, ctx, next) }},
		Extensions:  map[string]any{"x-permission": string(o.May), "x-change": o.Change},
	}
	if !o.Open {
		h2.Security = []map[string][]string{{"token": {}}, {"session": {}}}
		h2.Errors = append(h2.Errors, http.StatusUnauthorized, http.StatusForbidden)
	}
	if o.Type != "" {
		h2.Responses = map[string]*huma.Response{"200": {
			Description: http.StatusText(http.StatusOK), Content: map[string]*huma.MediaType{o.Type: {Schema: &huma.Schema{Type: "string"}}},
		}}
	}
	if o.Change {
		h2.Parameters = append(h2.Parameters, &huma.Param{
			Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: "string", MaxLength: ptr(maxKey)},
			Description: "A word of your own, new for each change: if the same request comes again within 24 hours, nothing is done, and the first answer is sent again",
		})
	}
	huma.Register(s.api, h2, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return out, nil
	})
}

func ptr[T any](v T) *T { return &v }

// describe is the text of an operation in the document.
func (o *operation) describe() string {
	text := o.Detail
	if text != "" {
		text += "\n\n"
	}
	switch {
	case o.Open:
		return text + "Anybody may ask."
	case o.May == "":
		return text + "Anybody who is logged in may ask."
	case o.Scoped:
		return text + fmt.Sprintf("Needs the permission `%s` in the object's folder.", o.May)
	}
	return text + fmt.Sprintf("Needs the permission `%s` everywhere.", o.May)
}

// enter is what every operation's request passes.
func (s *server) enter(o *operation, ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	c := &call{op: o, id: w.Header().Get(requestHeader), remote: hostOf(r.RemoteAddr), context: ctx, object: db.Text(r.URL.Path, 200)}
	inner := context.WithValue(r.Context(), callKey{}, c)
	if o.Stream {
		http.NewResponseController(w).SetWriteDeadline(time.Time{})
	} else if !s.gates.enter() {
		s.write(ctx, s.fail(inner, errs.New("api", errs.Transient, "", "the manager has as many requests as it can serve").WithRemedy("try again in a moment")))
		return
	} else {
		defer s.gates.leave()
	}
	if err := s.admit(inner, c, r); err != nil {
		err = s.fail(inner, err)
		s.write(ctx, err)
		if o.Change && c.who != nil {
			s.auditFailure(inner, c, ctx.Status())
		}
		return
	}
	begun := time.Now()
	next(huma.WithContext(ctx, inner))
	status := ctx.Status()
	if status == 0 {
		status = http.StatusOK // of a stream, which began with its first bytes
	}
	s.Logger.Debug("a request was answered", "request", c.id, "operation", o.ID, "by", c.name(), "remote", c.remote, "status", status, "for", time.Since(begun))
	if o.Change && !c.audited && ctx.Status() >= 400 {
		s.auditFailure(inner, c, ctx.Status())
	}
}

// admit finds out who asks and whether they may, and reads what a key needs.
func (s *server) admit(ctx context.Context, c *call, r *http.Request) error {
	const op = "api"
	if !c.op.Open {
		who, err := s.Auth.Authenticate(ctx, r)
		if err != nil {
			if errs.Is(err, errs.Denied) {
				return unauthorized{err}
			}
			return err
		}
		c.who = who
		if may := c.op.May; may != "" && !who.May(may, "") && (!c.op.Scoped || !who.Anywhere(may)) {
			return denied(may, "")
		}
	}
	key := r.Header.Get("Idempotency-Key")
	if key == "" || !c.op.Change || c.op.Open {
		return nil
	}
	if len(key) > maxKey || key != db.Text(key, maxKey) {
		return errs.New(op, errs.Invalid, "Idempotency-Key", fmt.Sprintf("it is no text of at most %d bytes", maxKey)).WithRemedy("use a UUID")
	}
	return c.keep(r, key)
}

// keep reads the body of a request that has a key, to tell it from others.
func (c *call) keep(r *http.Request, key string) error {
	c.context.SetReadDeadline(time.Now().Add(bodyFor))
	body, err := io.ReadAll(io.LimitReader(r.Body, c.op.Body+1))
	if err != nil {
		return errs.E("api", errs.Canceled, "the request's body", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body)) // one byte too many is refused behind us
	h := sha256.New()
	for _, part := range []string{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("If-Match"), r.Header.Get("If-None-Match"), string(body)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	c.key, c.digest = key, hex.EncodeToString(h.Sum(nil))
	return nil
}

// allow refuses what who asks may not do in a folder. Kind Denied.
func (s *server) allow(ctx context.Context, may auth.Permission, folder site.Ref) error {
	c := callOf(ctx)
	if !c.who.May(may, folder) {
		return denied(may, folder)
	}
	c.allowed = true
	return nil
}

// seen reports whether who asks may do something in a folder: it is for lists,
// which leave out what may not be seen.
func seen(ctx context.Context, may auth.Permission, folder site.Ref) bool {
	return callOf(ctx).who.May(may, folder)
}

func denied(may auth.Permission, folder site.Ref) error {
	where := "everywhere"
	if folder != "" {
		where = fmt.Sprintf("in folder %q", folder)
	}
	return errs.New("api", errs.Denied, string(may), "you may not do this: it needs the permission "+string(may)+" "+where).
		WithRemedy("ask an administrator for a role that has it")
}

// by is the name of who asks, for what is stored.
func by(ctx context.Context) string { return callOf(ctx).who.Name() }
