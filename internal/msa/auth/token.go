package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// Token is a program's way in, as its holder sees it. Its secret is shown once.
type Token struct {
	ID        string  `json:"id"`
	User      string  `json:"user"` // whose it is
	Title     string  `json:"title"`
	Scope     []Grant `json:"scope"` // what it may at most; the holder has to be allowed it as well
	CreatedAt int64   `json:"created_at"`
	ExpiresAt int64   `json:"expires_at"`
	UsedAt    int64   `json:"used_at,omitempty"` // to a minute; 0: never
}

// tokenPrefix is that of API tokens' secrets.
const tokenPrefix = "hft_"

// NewToken makes an API token of a user and returns its secret, which is nowhere
// else. Kinds: Invalid (scope, life), NotFound, Full (too many).
func NewToken(ctx context.Context, tx *db.Tx, user, title string, scope []Grant, life time.Duration) (Token, string, error) {
	const op = "auth.NewToken"
	if err := checkGrants(op, user, scope); err != nil {
		return Token{}, "", err
	}
	switch {
	case len(scope) == 0:
		return Token{}, "", errs.New(op, errs.Invalid, user, "a token needs a scope").WithRemedy("name the role its program needs, and the folder")
	case life < time.Minute || life > maxTokenLife:
		return Token{}, "", errs.New(op, errs.Invalid, user, fmt.Sprintf("a token lives a minute to %d days", int(maxTokenLife.Hours())/24)).WithRemedy("choose a time in between; make a new token before it ends")
	case title == "" || title != db.Text(title, maxTitle):
		return Token{}, "", errs.New(op, errs.Invalid, user, fmt.Sprintf("a token needs a title of at most %d bytes", maxTitle)).
			WithRemedy("write what the token is for")
	}
	// The user's row is taken, so that their tokens are counted one after the other.
	n, err := tx.Exec(ctx, `UPDATE users SET name = name WHERE name = $1`, user)
	if err != nil {
		return Token{}, "", err
	}
	if n == 0 {
		return Token{}, "", noUser(op, user)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM user_tokens WHERE holder = $1 AND expires_at <= $2`, user, tx.Now()); err != nil {
		return Token{}, "", err
	}
	var had int
	if _, err := tx.Row(ctx, `SELECT count(*) FROM user_tokens WHERE holder = $1`, []any{user}, &had); err != nil {
		return Token{}, "", err
	}
	if had >= maxTokens {
		return Token{}, "", errs.New(op, errs.Full, user, fmt.Sprintf("this user has %d tokens", had)).WithRemedy("revoke those that are not used")
	}
	text, err := json.Marshal(scope)
	if err != nil {
		return Token{}, "", errs.E(op, errs.Internal, user, err)
	}
	t := Token{ID: dr.NewUUID().String(), User: user, Title: title, Scope: scope, CreatedAt: tx.Now(), ExpiresAt: tx.Now() + life.Milliseconds()}
	secret := newSecret(tokenPrefix)
	_, err = tx.Exec(ctx, `INSERT INTO user_tokens (id, hash, holder, title, scope, created_at, expires_at, used_at) VALUES ($1, $2, $3, $4, $5, $6, $7, 0)`,
		t.ID, hashOf(secret), user, title, string(text), t.CreatedAt, t.ExpiresAt)
	return t, secret, err
}

// Tokens lists a user's tokens, the newest first; expired ones are told as long as
// they are there.
func Tokens(ctx context.Context, tx *db.Tx, user string) (list []Token, err error) {
	err = tx.Rows(ctx, `SELECT id, holder, title, scope, created_at, expires_at, used_at FROM user_tokens WHERE holder = $1 ORDER BY created_at DESC, id LIMIT $2`,
		[]any{user, page}, func(scan func(...any) error) error {
			var t Token
			var scope string
			if err := scan(&t.ID, &t.User, &t.Title, &scope, &t.CreatedAt, &t.ExpiresAt, &t.UsedAt); err != nil {
				return err
			}
			list = append(list, t)
			return readScope(t.ID, scope, &list[len(list)-1].Scope)
		})
	return list, err
}

func readScope(id, text string, scope *[]Grant) error {
	if err := json.Unmarshal([]byte(text), scope); err != nil {
		return errs.E("auth.readScope", errs.Corrupt, "token "+id, err).WithRemedy("revoke the token, and make a new one")
	}
	return nil
}

// Revoke makes a user's token useless. Kind NotFound.
func Revoke(ctx context.Context, tx *db.Tx, user, id string) error {
	n, err := tx.Exec(ctx, `DELETE FROM user_tokens WHERE holder = $1 AND id = $2`, user, id)
	if err == nil && n == 0 {
		return errs.New("auth.Revoke", errs.NotFound, db.Text(id, maxName), "this user has no such token").WithRemedy("list the tokens there are")
	}
	return err
}
