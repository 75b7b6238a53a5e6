package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

func (s *server) registerUsers() {
	const tag = "users"
	add(s, operation{ID: "list-roles", Method: http.MethodGet, Path: "/roles", Tag: tag, Summary: "The table of roles and permissions"}, s.roles)
	add(s, operation{ID: "list-users", Method: http.MethodGet, Path: "/users", Tag: tag, May: auth.UserRead, Summary: "List users, by name"}, s.listUsers)
	add(s, operation{ID: "get-user", Method: http.MethodGet, Path: "/users/{user}", Tag: tag, May: auth.UserRead, Summary: "Read a user"}, s.getUser)
	change := operation{Tag: tag, May: auth.UserAdmin, Change: true}
	of := func(id, method, path, summary, detail string, status int) operation {
		o := change
		o.ID, o.Method, o.Path, o.Summary, o.Detail, o.Status = id, method, path, summary, detail, status
		return o
	}
	add(s, of("create-user", http.MethodPost, "/users", "Make a local user", "Takes a person who has logged in.", http.StatusCreated), s.createUser)
	add(s, of("put-user", http.MethodPut, "/users/{user}", "Change title, roles, or whether a user is disabled",
		"version is what was read. Takes a person who has logged in. 409 for the last local admin.", 0), s.putUser)
	add(s, of("delete-user", http.MethodDelete, "/users/{user}", "Delete a user, with sessions and tokens", "409 for the last local admin.", http.StatusNoContent), s.deleteUser)
	set := of("set-user-password", http.MethodPut, "/users/{user}/password", "Give a local user another password", "All their sessions end. Takes a person who has logged in.", http.StatusNoContent)
	set.Secret = true
	add(s, set, s.setUserPassword)
	add(s, of("end-user-sessions", http.MethodDelete, "/users/{user}/sessions", "End all sessions of a user", "", http.StatusNoContent), s.endUserSessions)
	add(s, of("revoke-user-token", http.MethodDelete, "/users/{user}/tokens/{id}", "Revoke a user's API token", "", http.StatusNoContent), s.revokeUserToken)
	add(s, operation{ID: "list-user-tokens", Method: http.MethodGet, Path: "/users/{user}/tokens", Tag: tag, May: auth.UserRead, Summary: "List a user's API tokens"}, s.listUserTokens)

	mine := operation{Tag: "tokens", May: auth.TokenOwn, Scoped: true}
	own := func(id, method, path, summary, detail string, status int) operation {
		o := mine
		o.ID, o.Method, o.Path, o.Summary, o.Detail, o.Status, o.Change = id, method, path, summary, detail, status, method != http.MethodGet
		return o
	}
	add(s, own("list-tokens", http.MethodGet, "/tokens", "List one's own API tokens", "", 0), s.listTokens)
	newToken := own("create-token", http.MethodPost, "/tokens", "Make an API token for oneself",
		"Its secret is in the answer, and nowhere else. It may what its scope and its holder's roles both allow. Takes a person who has logged in.", http.StatusCreated)
	newToken.Secret = true
	add(s, newToken, s.createToken)
	add(s, own("revoke-token", http.MethodDelete, "/tokens/{id}", "Revoke one of one's own API tokens", "", http.StatusNoContent), s.revokeToken)
	add(s, own("list-sessions", http.MethodGet, "/sessions", "List one's own sessions", "", 0), s.listSessions)
	add(s, own("end-session", http.MethodDelete, "/sessions/{id}", "End one of one's own sessions", "", http.StatusNoContent), s.endSession)
}

// RoleBody is a role and what it may.
type RoleBody struct {
	Role auth.Role `json:"role"`
	May  []string  `json:"may"`
}

func (s *server) roles(context.Context, *none) (*every[RoleBody], error) {
	var all []RoleBody
	for _, r := range auth.Roles() {
		b := RoleBody{r, []string{}}
		for _, l := range auth.Matrix() {
			if r.Has(l.Permission) {
				b.May = append(b.May, string(l.Permission))
			}
		}
		all = append(all, b)
	}
	return everyOf(all), nil
}

// UserIn names a user.
type UserIn struct {
	User string `path:"user" maxLength:"128" doc:"Their name"`
}

type usersOut struct {
	Body struct {
		Items []auth.User `json:"items"`
		Next  string      `json:"next,omitempty" doc:"Cursor of the next page; missing: this is the last"`
	}
}

func (s *server) listUsers(ctx context.Context, in *struct{ Paging }) (*usersOut, error) {
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	out := &usersOut{}
	out.Body.Items = []auth.User{}
	return out, s.view(ctx, func(tx *db.Tx) error {
		users, err := auth.List(ctx, tx, after, in.Limit)
		if len(users) == in.Limit {
			out.Body.Next = cursor(users[len(users)-1].Name)
		}
		out.Body.Items = append(out.Body.Items, users...)
		return err
	})
}

func (s *server) getUser(ctx context.Context, in *UserIn) (*item[auth.User], error) {
	return read(ctx, s, func(tx *db.Tx) (auth.User, error) { return auth.Get(ctx, tx, in.User) })
}

type createUserIn struct {
	Body struct {
		Name     string       `json:"name" maxLength:"128"`
		Title    string       `json:"title,omitempty" maxLength:"255"`
		Password string       `json:"password" maxLength:"256"`
		Grants   []auth.Grant `json:"grants,omitempty" maxItems:"64"`
	}
}

func (s *server) createUser(ctx context.Context, in *createUserIn) (*item[auth.User], error) {
	a, err := s.accounts()
	if err != nil {
		return nil, err
	}
	if err := person(ctx); err != nil {
		return nil, err
	}
	h, err := a.Hash(ctx, in.Body.Name, in.Body.Password)
	if err != nil {
		return nil, err
	}
	detail(ctx, in.Body.Grants)
	return change(ctx, s, "user "+in.Body.Name, func(tx *db.Tx) (*item[auth.User], error) {
		u, err := auth.Create(ctx, tx, auth.User{Name: in.Body.Name, Title: in.Body.Title, Grants: in.Body.Grants}, h)
		return &item[auth.User]{u}, err
	})
}

type putUserIn struct {
	UserIn
	Body struct {
		Title    string       `json:"title,omitempty" maxLength:"255"`
		Disabled bool         `json:"disabled,omitempty"`
		Grants   []auth.Grant `json:"grants" maxItems:"64"`
		Version  int64        `json:"version" minimum:"1" doc:"What was read"`
	}
}

func (s *server) putUser(ctx context.Context, in *putUserIn) (*item[auth.User], error) {
	if err := person(ctx); err != nil {
		return nil, err
	}
	detail(ctx, in.Body)
	return change(ctx, s, "user "+in.User, func(tx *db.Tx) (*item[auth.User], error) {
		u, err := auth.Update(ctx, tx, auth.User{Name: in.User, Title: in.Body.Title, Disabled: in.Body.Disabled, Grants: in.Body.Grants, Version: in.Body.Version})
		return &item[auth.User]{u}, err
	})
}

func (s *server) deleteUser(ctx context.Context, in *UserIn) (*nothingOut, error) {
	return change(ctx, s, "user "+in.User, func(tx *db.Tx) (*nothingOut, error) {
		return &nothingOut{}, auth.Delete(ctx, tx, in.User)
	})
}

type setPasswordIn struct {
	UserIn
	Body struct {
		Password string `json:"password" maxLength:"256"`
	}
}

func (s *server) setUserPassword(ctx context.Context, in *setPasswordIn) (*nothingOut, error) {
	a, err := s.accounts()
	if err != nil {
		return nil, err
	}
	if err := person(ctx); err != nil {
		return nil, err
	}
	h, err := a.Hash(ctx, in.User, in.Body.Password)
	if err != nil {
		return nil, err
	}
	return change(ctx, s, "user "+in.User, func(tx *db.Tx) (*nothingOut, error) {
		return &nothingOut{}, auth.SetPassword(ctx, tx, h, "")
	})
}

func (s *server) endUserSessions(ctx context.Context, in *UserIn) (*nothingOut, error) {
	return change(ctx, s, "user "+in.User, func(tx *db.Tx) (*nothingOut, error) {
		if _, err := auth.Get(ctx, tx, in.User); err != nil {
			return nil, err
		}
		return &nothingOut{}, auth.EndSessions(ctx, tx, in.User, "")
	})
}

func (s *server) listUserTokens(ctx context.Context, in *UserIn) (*every[auth.Token], error) {
	return s.tokensOf(ctx, in.User)
}

func (s *server) tokensOf(ctx context.Context, user string) (*every[auth.Token], error) {
	var out *every[auth.Token]
	return out, s.view(ctx, func(tx *db.Tx) error {
		all, err := auth.Tokens(ctx, tx, user)
		out = everyOf(all)
		return err
	})
}

type userTokenIn struct {
	UserIn
	ID string `path:"id" maxLength:"64"`
}

func (s *server) revokeUserToken(ctx context.Context, in *userTokenIn) (*nothingOut, error) {
	return change(ctx, s, "token "+in.ID, func(tx *db.Tx) (*nothingOut, error) {
		return &nothingOut{}, auth.Revoke(ctx, tx, in.User, in.ID)
	})
}

func (s *server) listTokens(ctx context.Context, _ *none) (*every[auth.Token], error) {
	return s.tokensOf(ctx, own(ctx))
}

type createTokenIn struct {
	Body struct {
		Title  string       `json:"title" maxLength:"255" doc:"What it is for"`
		Scope  []auth.Grant `json:"scope" minItems:"1" maxItems:"64" doc:"What it may at most"`
		Expire site.Span    `json:"expire" doc:"How long it is good, as 90d"`
	}
}

// TokenBody is a new token with its secret.
type TokenBody struct {
	auth.Token
	Secret string `json:"secret" doc:"To be sent as bearer token; it is shown this once"`
}

func (s *server) createToken(ctx context.Context, in *createTokenIn) (*item[TokenBody], error) {
	if err := person(ctx); err != nil {
		return nil, err
	}
	user := own(ctx)
	detail(ctx, in.Body)
	return change(ctx, s, "token of "+user, func(tx *db.Tx) (*item[TokenBody], error) {
		t, secret, err := auth.NewToken(ctx, tx, user, in.Body.Title, in.Body.Scope, time.Duration(in.Body.Expire))
		return &item[TokenBody]{TokenBody{t, secret}}, err
	})
}

// IDIn names something by its id.
type IDIn struct {
	ID string `path:"id" maxLength:"64"`
}

func (s *server) revokeToken(ctx context.Context, in *IDIn) (*nothingOut, error) {
	user := own(ctx)
	return change(ctx, s, "token "+in.ID, func(tx *db.Tx) (*nothingOut, error) {
		return &nothingOut{}, auth.Revoke(ctx, tx, user, in.ID)
	})
}

func (s *server) listSessions(ctx context.Context, _ *none) (*every[auth.Session], error) {
	var out *every[auth.Session]
	user := own(ctx)
	return out, s.view(ctx, func(tx *db.Tx) error {
		all, err := auth.Sessions(ctx, tx, user)
		out = everyOf(all)
		return err
	})
}

func (s *server) endSession(ctx context.Context, in *IDIn) (*nothingOut, error) {
	user := own(ctx)
	return change(ctx, s, "session "+in.ID, func(tx *db.Tx) (*nothingOut, error) {
		return &nothingOut{}, auth.EndSession(ctx, tx, user, in.ID)
	})
}

func (s *server) registerApprovals() {
	const tag = "approvals"
	add(s, operation{ID: "list-approvals", Method: http.MethodGet, Path: "/approvals", Tag: tag, May: auth.RunRead, Scoped: true,
		Summary: "List what a second person was asked for, the newest first"}, s.listApprovals)
	add(s, operation{ID: "decide-approval", Method: http.MethodPost, Path: "/approvals/{id}/verdict", Tag: tag, May: auth.PlanApprove, Scoped: true, Change: true,
		Summary: "Approve or refuse, as the second person", Detail: "Another user than the one who asks. An approval is good for an hour, once, for exactly what was asked."}, s.decide)
}

type approvalsIn struct {
	Subject string `query:"subject" maxLength:"255" doc:"As plan erp; empty: any"`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

func (s *server) listApprovals(ctx context.Context, in *approvalsIn) (*every[auth.Approval], error) {
	var seenOnes []auth.Approval
	err := s.view(ctx, func(tx *db.Tx) error {
		all, err := auth.Approvals(ctx, tx, in.Subject, in.Limit)
		for _, a := range all {
			if seen(ctx, auth.RunRead, a.Folder) {
				seenOnes = append(seenOnes, a)
			}
		}
		return err
	})
	return everyOf(seenOnes), err
}

type decideIn struct {
	IDIn
	Body struct {
		Verdict auth.Verdict `json:"verdict" enum:"approved,refused"`
	}
}

func (s *server) decide(ctx context.Context, in *decideIn) (*item[auth.Approval], error) {
	// A program's token is no second person.
	if err := person(ctx); err != nil {
		return nil, err
	}
	detail(ctx, in.Body)
	return change(ctx, s, "approval "+in.ID, func(tx *db.Tx) (*item[auth.Approval], error) {
		c := callOf(ctx)
		a, err := auth.Decide(ctx, tx, c.who, in.ID, in.Body.Verdict)
		if err != nil {
			return nil, err
		}
		c.object = fmt.Sprintf("%s %s", a.Operation, a.Subject)
		return &item[auth.Approval]{a}, s.allow(ctx, auth.PlanApprove, a.Folder)
	})
}

func (s *server) registerProvider() {
	const tag = "provider"
	add(s, operation{ID: "get-provider", Method: http.MethodGet, Path: "/provider", Tag: tag, May: auth.UserRead, Summary: "By whom people log in"}, s.getProvider)
	add(s, operation{ID: "put-provider", Method: http.MethodPut, Path: "/provider", Tag: tag, May: auth.UserAdmin, Change: true, Secret: true,
		Summary: "Have people log in by an OpenID Connect provider", Detail: "The secret is sealed and not shown again; without one, what is there stays. Takes a person who has logged in."}, s.putProvider)
	add(s, operation{ID: "delete-provider", Method: http.MethodDelete, Path: "/provider", Tag: tag, May: auth.UserAdmin, Change: true, Status: http.StatusNoContent,
		Summary: "Have nobody log in by a provider", Detail: "Sessions of its users end."}, s.deleteProvider)
}

func (s *server) getProvider(ctx context.Context, _ *none) (*item[auth.Provider], error) {
	return read(ctx, s, func(tx *db.Tx) (auth.Provider, error) { return auth.GetProvider(ctx, tx) })
}

type putProviderIn struct {
	Body struct {
		auth.Provider
		Secret string `json:"client_secret,omitempty" maxLength:"4096"`
	}
}

func (s *server) putProvider(ctx context.Context, in *putProviderIn) (*item[auth.Provider], error) {
	if err := person(ctx); err != nil {
		return nil, err
	}
	box, err := s.box()
	if err != nil {
		return nil, err
	}
	detail(ctx, in.Body.Provider)
	return change(ctx, s, "provider "+db.Text(in.Body.Issuer, 200), func(tx *db.Tx) (*item[auth.Provider], error) {
		p, err := auth.SetProvider(ctx, tx, in.Body.Provider)
		if err == nil && in.Body.Secret != "" {
			err = auth.SetProviderSecret(ctx, tx, box, []byte(in.Body.Secret), by(ctx))
		}
		return &item[auth.Provider]{p}, err
	})
}

func (s *server) deleteProvider(ctx context.Context, _ *none) (*nothingOut, error) {
	return change(ctx, s, "provider", func(tx *db.Tx) (*nothingOut, error) {
		err := auth.DeleteProvider(ctx, tx)
		if errs.Is(err, errs.NotFound) {
			err = nil // it is so
		}
		return &nothingOut{}, err
	})
}
