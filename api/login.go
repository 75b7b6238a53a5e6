package api

import (
	"context"
	"net/http"
)

// Login logs in with a name and a password, and returns the token of the session,
// for Options.Token of another client. Unused for 30 minutes, it ends. Kinds: Denied,
// Unavailable (too many attempts have failed: the remedy says how long to wait).
func (c *Client) Login(ctx context.Context, user, password string) (token string, err error) {
	in := map[string]any{"user": user, "password": password, "bearer": true}
	var out struct {
		Token string `json:"token"`
	}
	err = c.Call(ctx, http.MethodPost, "/login", nil, in, &out)
	return out.Token, err
}

// Setup makes the first administrator, with the set-up token that the manager printed
// when it started. Kinds: Denied (the token), Invalid (the password).
func (c *Client) Setup(ctx context.Context, token, user, password string) error {
	in := map[string]any{"token": token, "user": user, "password": password}
	return c.Call(ctx, http.MethodPost, "/setup", nil, in, nil)
}

// Logout ends the session whose token the client has. An API token is revoked by
// other means, and is refused here.
func (c *Client) Logout(ctx context.Context) error {
	return c.Call(ctx, http.MethodDelete, "/session", nil, nil, nil)
}
