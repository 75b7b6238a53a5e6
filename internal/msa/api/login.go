package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
)

func (s *server) registerLogin() {
	const tag = "log-in"
	add(s, operation{ID: "set-up", Method: http.MethodPost, Path: "/setup", Tag: tag, Open: true, Change: true, Secret: true, Status: http.StatusCreated,
		Summary: "Become the first admin", Detail: "With the set-up token that the manager printed when it started, which is good once."}, s.setup)
	add(s, operation{ID: "log-in", Method: http.MethodPost, Path: "/login", Tag: tag, Open: true, Change: true, Secret: true, Status: http.StatusOK,
		Summary: "Log in with name and password",
		Detail: "A browser gets a cookie, and sends csrf in the header " + auth.CSRFHeader + " with whatever changes something. " +
			"A program asks for bearer, and sends token as its bearer token instead. 429, while too many attempts have failed: see remedy."}, s.login)
	add(s, operation{ID: "begin-provider-log-in", Method: http.MethodGet, Path: "/login/provider", Tag: tag, Open: true, Status: http.StatusFound,
		Summary: "Go to the provider to log in", Detail: "A browser opens this, and comes back with a session."}, s.beginProvider)
	add(s, operation{ID: "end-provider-log-in", Method: http.MethodGet, Path: "/login/provider/return", Tag: tag, Open: true, Status: http.StatusSeeOther,
		Summary: "Come back from the provider"}, s.endProvider)
	add(s, operation{ID: "get-session", Method: http.MethodGet, Path: "/session", Tag: tag, Summary: "Who asks, and what they may do"}, s.session)
	add(s, operation{ID: "log-out", Method: http.MethodDelete, Path: "/session", Tag: tag, Change: true, Status: http.StatusNoContent,
		Summary: "Log out", Detail: "Ends the session that asks. An API token is revoked instead: see /tokens."}, s.logout)
	add(s, operation{ID: "set-own-password", Method: http.MethodPut, Path: "/session/password", Tag: tag, May: auth.TokenOwn, Scoped: true, Change: true, Secret: true, Status: http.StatusNoContent,
		Summary: "Change one's own password", Detail: "All other sessions end."}, s.ownPassword)
}

type setupIn struct {
	Body struct {
		Token    string `json:"token" maxLength:"256"`
		User     string `json:"user" maxLength:"128"`
		Password string `json:"password" maxLength:"256"`
	}
}

func (s *server) setup(ctx context.Context, in *setupIn) (*item[auth.User], error) {
	a, err := s.accounts()
	if err != nil {
		return nil, err
	}
	// The token first, so that nobody has us hash who has none.
	if err := s.view(ctx, func(tx *db.Tx) error { return auth.Peek(ctx, tx, auth.ForSetup, in.Body.Token) }); err != nil {
		return nil, unauthorized{err}
	}
	h, err := a.Hash(ctx, in.Body.User, in.Body.Password)
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "user "+in.Body.User, func(tx *db.Tx) (*item[auth.User], error) {
		u, err := auth.Setup(ctx, tx, in.Body.Token, h)
		return &item[auth.User]{u}, err
	})
}

type loginIn struct {
	Body struct {
		User     string `json:"user" maxLength:"128"`
		Password string `json:"password" maxLength:"256"`
		Bearer   bool   `json:"bearer,omitempty" doc:"For programs: no cookie, but a token"`
	}
}

// LoginBody is what somebody who logged in gets.
type LoginBody struct {
	User  string `json:"user"`
	CSRF  string `json:"csrf" doc:"To be sent with whatever changes something, by a browser"`
	Token string `json:"token,omitempty" doc:"A bearer token, if it was asked for. It is the session's: unused for 30 minutes, it ends"`
}

type loginOut struct {
	SetCookie []http.Cookie `header:"Set-Cookie"`
	Body      LoginBody
}

func (s *server) login(ctx context.Context, in *loginIn) (*loginOut, error) {
	a, err := s.accounts()
	if err != nil {
		return nil, err
	}
	r, _ := humago.Unwrap(callOf(ctx).context)
	if err := a.SameOrigin(r); err != nil {
		return nil, err
	}
	p, secret, err := a.Login(ctx, in.Body.User, in.Body.Password, remoteOf(ctx), agentOf(ctx))
	s.noteLogin(ctx, in.Body.User, err)
	if errs.Is(err, errs.Denied) {
		return nil, unauthorized{err}
	}
	if err != nil {
		return nil, err
	}
	out := &loginOut{Body: LoginBody{User: p.User, CSRF: p.CSRF}}
	if in.Body.Bearer {
		out.Body.Token = secret
	} else {
		out.SetCookie = []http.Cookie{*auth.Cookie(secret)}
	}
	return out, nil
}

// noteLogin puts a log-in into the audit log. One that was locked out is not put
// there: whoever knocks all day would fill it.
func (s *server) noteLogin(ctx context.Context, user string, err error) {
	outcome := audit.Done
	switch {
	case errs.Is(err, errs.Denied):
		outcome = audit.Refused
	case err != nil:
		return
	}
	c := callOf(ctx)
	e := audit.Entry{By: db.Text(user, 128), Operation: c.op.ID, Object: "user " + db.Text(user, 128), Outcome: outcome, Remote: c.remote}
	if err := s.DB.Tx(ctx, func(tx *db.Tx) error { return s.Audit(ctx, tx, e) }); err != nil {
		s.Logger.Warn("the audit log does not have a log-in", "request", c.id, "user", e.By, "err", err)
	}
	c.audited = true
}

type beginIn struct {
	Back string `query:"back" default:"/" maxLength:"1024" doc:"Where on the manager's pages it ends"`
}

type redirectOut struct {
	Location  string        `header:"Location"`
	SetCookie []http.Cookie `header:"Set-Cookie"`
}

func (s *server) beginProvider(ctx context.Context, in *beginIn) (*redirectOut, error) {
	a, err := s.accounts()
	if err != nil {
		return nil, err
	}
	address, secret, err := a.Begin(ctx, in.Back)
	if err != nil {
		return nil, err
	}
	return &redirectOut{address, []http.Cookie{*auth.ProviderLoginCookie(secret)}}, nil
}

type endIn struct {
	State  string      `query:"state" maxLength:"256"`
	Code   string      `query:"code" maxLength:"4096"`
	Error  string      `query:"error" maxLength:"512"`
	Words  string      `query:"error_description" maxLength:"2048"`
	Issuer string      `query:"iss" maxLength:"2048"`
	Other  string      `query:"session_state" maxLength:"512"`
	Scope  string      `query:"scope" maxLength:"2048"`
	Cookie http.Cookie `cookie:"__Host-holdfast-login"`
}

func (s *server) endProvider(ctx context.Context, in *endIn) (*redirectOut, error) {
	a, err := s.accounts()
	if err != nil {
		return nil, err
	}
	if in.Error != "" {
		return nil, unauthorized{errs.New("api", errs.Denied, "log-in", "the provider refuses: "+db.Text(in.Error+" "+in.Words, 300)).WithRemedy("log in again")}
	}
	p, secret, back, err := a.Finish(ctx, in.State, in.Code, in.Cookie.Value, remoteOf(ctx), agentOf(ctx))
	s.noteLogin(ctx, p.Name(), err)
	if errs.Is(err, errs.Denied) {
		return nil, unauthorized{err}
	}
	if err != nil {
		return nil, err
	}
	return &redirectOut{back, []http.Cookie{*auth.Cookie(secret), *auth.ProviderLoginCookie("")}}, nil
}

// SessionBody is who asks.
type SessionBody struct {
	Name    string       `json:"name"`
	User    string       `json:"user"`
	Token   string       `json:"token,omitempty" doc:"Id of the API token"`
	Session bool         `json:"session" doc:"A person who has logged in"`
	CSRF    string       `json:"csrf,omitempty"`
	Grants  []auth.Grant `json:"grants"`
	Scope   []auth.Grant `json:"scope,omitempty" doc:"Of the API token: both have to allow"`
	May     []string     `json:"may" doc:"The permissions there are somewhere"`
}

func (s *server) session(ctx context.Context, _ *none) (*item[SessionBody], error) {
	who := callOf(ctx).who
	b := SessionBody{Name: who.Name(), User: who.User, Token: who.Token, Session: who.Session, CSRF: who.CSRF, May: []string{}}
	b.Grants, b.Scope = who.Grants()
	for _, l := range auth.Matrix() {
		if who.Anywhere(l.Permission) {
			b.May = append(b.May, string(l.Permission))
		}
	}
	return &item[SessionBody]{b}, nil
}

type logoutOut struct {
	SetCookie []http.Cookie `header:"Set-Cookie"`
}

func (s *server) logout(ctx context.Context, _ *none) (*logoutOut, error) {
	who := callOf(ctx).who
	return change(ctx, s, "session of "+who.User, func(tx *db.Tx) (*logoutOut, error) {
		return &logoutOut{[]http.Cookie{*auth.Cookie("")}}, auth.Logout(ctx, tx, who)
	})
}

type ownPasswordIn struct {
	Body struct {
		Old string `json:"old" maxLength:"256"`
		New string `json:"new" maxLength:"256"`
	}
}

func (s *server) ownPassword(ctx context.Context, in *ownPasswordIn) (*nothingOut, error) {
	a, err := s.accounts()
	if err != nil {
		return nil, err
	}
	if err := person(ctx); err != nil {
		return nil, err
	}
	who := callOf(ctx).who
	// A session that was left open is not enough to take a user over.
	if err := a.Prove(ctx, who.User, in.Body.Old, remoteOf(ctx)); err != nil {
		return nil, err
	}
	h, err := a.Hash(ctx, who.User, in.Body.New)
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "user "+own(ctx), func(tx *db.Tx) (*nothingOut, error) {
		return &nothingOut{}, auth.SetPassword(ctx, tx, h, who.Keep())
	})
}
