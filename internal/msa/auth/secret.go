package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
)

// newSecret makes 256 random bits as text, after a prefix by which scanners of
// leaked secrets know what they found.
func newSecret(prefix string) string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

// hashOf is what the database has of a secret. Secrets are random, so a hash
// without salt tells nothing about them.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// csrfOf is the CSRF token of a session: whoever can read the cookie can compute it,
// and nobody else.
func csrfOf(session string) string {
	m := hmac.New(sha256.New, []byte(session))
	m.Write([]byte("holdfast csrf"))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// Purpose is what a single-use token is for.
type Purpose string

// The purposes.
const (
	ForSetup    Purpose = "setup"    // make an admin
	ForBox      Purpose = "enrol"    // enrol an appliance
	ForPair     Purpose = "pair"     // pair two managers
	forProvider Purpose = "provider" // come back from an OpenID Connect provider
)

// Mint makes a single-use token. subject is what it is about (an appliance, a pair),
// content what its user is to be found with; neither is secret. Kinds: Invalid, Full
// (too many wait to be used).
func Mint(ctx context.Context, tx *db.Tx, p Purpose, subject, content, by string, good time.Duration) (string, error) {
	const op = "auth.Mint"
	if len(content) > maxContent || content != db.Text(content, maxContent) {
		return "", errs.New(op, errs.Invalid, subject, "what the token is to carry is too long, or no text").WithRemedy("shorten it")
	}
	var n int
	if _, err := tx.Exec(ctx, `DELETE FROM single_tokens WHERE expires_at <= $1`, tx.Now()); err != nil {
		return "", err
	}
	if _, err := tx.Row(ctx, `SELECT count(*) FROM single_tokens WHERE purpose = $1`, []any{p}, &n); err != nil {
		return "", err
	}
	if n >= maxSingle {
		return "", errs.New(op, errs.Full, string(p), "too many tokens wait to be used").WithRemedy("wait until some have expired")
	}
	secret := newSecret("hfs_")
	_, err := tx.Exec(ctx, `INSERT INTO single_tokens (hash, purpose, subject, content, created_by, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		hashOf(secret), p, db.Text(subject, maxName), content, db.Text(by, maxName), tx.Now(), tx.Now()+good.Milliseconds())
	return secret, err
}

// Single is a single-use token that was spent.
type Single struct {
	Subject, Content string
	By               string // who made it
}

// Spend uses a token up: whoever deletes its row has it, so of many at once one. A
// transaction that is not committed has not spent it. Kind Denied for a token that
// is unknown, used, of another purpose or too old: which of these is not told.
func Spend(ctx context.Context, tx *db.Tx, p Purpose, secret string) (Single, error) {
	var s Single
	var until int64
	found := false
	if len(secret) <= maxSecret {
		var err error
		found, err = tx.Row(ctx, `DELETE FROM single_tokens WHERE hash = $1 AND purpose = $2 RETURNING subject, content, created_by, expires_at`,
			[]any{hashOf(secret), p}, &s.Subject, &s.Content, &s.By, &until)
		if err != nil {
			return Single{}, err
		}
	}
	if !found || until <= tx.Now() {
		return Single{}, notGood(p)
	}
	return s, nil
}

// Peek reports whether a token is good, and spends nothing: before something dear is
// done for whoever has it. Kind Denied.
func Peek(ctx context.Context, tx *db.Tx, p Purpose, secret string) error {
	var until int64
	found, err := tx.Row(ctx, `SELECT expires_at FROM single_tokens WHERE hash = $1 AND purpose = $2`, []any{hashOf(secret), p}, &until)
	if err == nil && (!found || until <= tx.Now()) {
		err = notGood(p)
	}
	return err
}

func notGood(p Purpose) error {
	return errs.New("auth.Spend", errs.Denied, string(p)+" token", "the token is not good, or not any more").
		WithRemedy("have a new one made; each is good once, and for a limited time")
}

// Forget makes the tokens of a purpose and subject useless, used or not.
func Forget(ctx context.Context, tx *db.Tx, p Purpose, subject string) error {
	_, err := tx.Exec(ctx, `DELETE FROM single_tokens WHERE purpose = $1 AND subject = $2`, p, subject)
	return err
}
