package auth

import (
	"context"
	"net/http"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Session is a person's log-in, as its holder or an admin sees it.
type Session struct {
	ID        string `json:"id"` // the first half of its hash: enough to name it, useless to anybody else
	User      string `json:"user"`
	CreatedAt int64  `json:"created_at"` // UTC milliseconds, as the others
	SeenAt    int64  `json:"seen_at"`
	ExpiresAt int64  `json:"expires_at"`
	Remote    string `json:"remote"`
	Agent     string `json:"agent"`
}

// sessionPrefix is that of sessions' secrets.
const sessionPrefix = "hfc_"

// sessionID is how people name a session.
func sessionID(hash string) string { return hash[:min(32, len(hash))] }

// newSession makes a session of a user, and ends the oldest ones beyond the bound.
func newSession(ctx context.Context, tx *db.Tx, user, remote, agent string) (secret string, err error) {
	if _, err := tx.Exec(ctx, `DELETE FROM user_sessions WHERE holder = $1 AND (expires_at <= $2 OR hash IN
		(SELECT hash FROM user_sessions WHERE holder = $1 ORDER BY created_at DESC, hash LIMIT 1000 OFFSET $3))`, user, tx.Now(), maxSessions-1); err != nil {
		return "", err
	}
	secret = newSecret(sessionPrefix)
	_, err = tx.Exec(ctx, `INSERT INTO user_sessions (hash, holder, created_at, seen_at, expires_at, remote, agent) VALUES ($1, $2, $3, $3, $4, $5, $6)`,
		hashOf(secret), user, tx.Now(), tx.Now()+wholeFor.Milliseconds(), db.Text(remote, maxName), db.Text(agent, maxAgent))
	if err != nil {
		return "", err
	}
	_, err = tx.Exec(ctx, `UPDATE users SET login_at = $2 WHERE name = $1`, user, tx.Now())
	return secret, err
}

// Sessions lists a user's sessions, the newest first.
func Sessions(ctx context.Context, tx *db.Tx, user string) (list []Session, err error) {
	err = tx.Rows(ctx, `SELECT hash, holder, created_at, seen_at, expires_at, remote, agent FROM user_sessions
		WHERE holder = $1 AND expires_at > $2 AND seen_at > $3 ORDER BY created_at DESC LIMIT $4`,
		[]any{user, tx.Now(), tx.Now() - idleFor.Milliseconds(), page}, func(scan func(...any) error) error {
			var s Session
			err := scan(&s.ID, &s.User, &s.CreatedAt, &s.SeenAt, &s.ExpiresAt, &s.Remote, &s.Agent)
			s.ID = sessionID(s.ID)
			list = append(list, s)
			return err
		})
	return list, err
}

// EndSession ends one session of a user by its id. Kind NotFound.
func EndSession(ctx context.Context, tx *db.Tx, user, id string) error {
	n, err := tx.Exec(ctx, `DELETE FROM user_sessions WHERE holder = $1 AND substr(hash, 1, 32) = $2`, user, id)
	if err == nil && n == 0 {
		return errs.New("auth.EndSession", errs.NotFound, db.Text(id, maxName), "this user has no such session").WithRemedy("list the sessions there are")
	}
	return err
}

// EndSessions ends all sessions of a user but one (see Principal.Keep; "": all).
func EndSessions(ctx context.Context, tx *db.Tx, user, keep string) error {
	_, err := tx.Exec(ctx, `DELETE FROM user_sessions WHERE holder = $1 AND hash <> $2`, user, keep)
	return err
}

// Logout ends the principal's own session; one that has none has nothing to end.
func Logout(ctx context.Context, tx *db.Tx, p *Principal) error {
	_, err := tx.Exec(ctx, `DELETE FROM user_sessions WHERE hash = $1`, p.session)
	return err
}

// Prune deletes what is over: sessions, single-use tokens, failures to log in that
// are forgotten, approvals of last year. Called now and then.
func Prune(ctx context.Context, tx *db.Tx) error {
	now := tx.Now()
	for _, s := range []struct {
		query  string
		before int64
	}{
		{`DELETE FROM user_sessions WHERE expires_at <= $1`, now},
		{`DELETE FROM user_sessions WHERE seen_at <= $1`, now - idleFor.Milliseconds()},
		{`DELETE FROM single_tokens WHERE expires_at <= $1`, now},
		{`DELETE FROM login_failures WHERE failed_at <= $1`, now - forgetAfter.Milliseconds()},
		{`DELETE FROM approvals WHERE asked_at <= $1`, now - (366 * 24 * time.Hour).Milliseconds()},
	} {
		if _, err := tx.Exec(ctx, s.query, s.before); err != nil {
			return err
		}
	}
	return nil
}

// The cookie of a session. The prefix has browsers refuse it from other hosts, other
// paths and without TLS.
const (
	SessionCookie = "__Host-holdfast"
	// CSRFHeader is what requests of a session send Principal.CSRF in, whenever they
	// change something.
	CSRFHeader = "X-Holdfast-CSRF"
)

// Cookie is the cookie that carries a session's secret. An empty secret ends it in
// the browser.
func Cookie(secret string) *http.Cookie {
	c := &http.Cookie{Name: SessionCookie, Value: secret, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteStrictMode, MaxAge: int(wholeFor.Seconds())}
	if secret == "" {
		c.MaxAge = -1
	}
	return c
}
