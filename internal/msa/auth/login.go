package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
)

// ErrLocked is in the chain of errors of attempts to log in that were not even looked
// at, because too many have failed before.
var ErrLocked = errors.New("too many attempts have failed")

// Hash is a password that was checked, hashed, and is one user's.
type Hash struct{ user, text string }

// Hash checks a new password of a user and hashes it. Kinds: Invalid (the password is
// guessed early), Unavailable (too many at once), Canceled.
func (a *Auth) Hash(ctx context.Context, user, password string) (Hash, error) {
	if !validUser(user) {
		return Hash{}, checkUser("auth.Hash", &User{Name: user})
	}
	if err := checkPassword(user, password); err != nil {
		return Hash{}, err
	}
	text, err := a.hash.make(ctx, password)
	return Hash{user, text}, err
}

// Login checks a name and password that came from an address and makes a session. It
// returns the principal and the secret of its cookie. Kinds: Denied (wrong, or
// disabled, or unknown: which is not told), Unavailable (locked for a while, or too
// many at once; the remedy says how long).
func (a *Auth) Login(ctx context.Context, name, password, remote, agent string) (p *Principal, secret string, err error) {
	err = a.prove(ctx, name, password, remote, func(tx *db.Tx) error {
		p, secret, err = a.begin(ctx, tx, name, remote, agent)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return p, secret, nil
}

// Prove checks a name and password as Login does, and makes nothing: for what a
// session alone is not enough. Kinds as of Login.
func (a *Auth) Prove(ctx context.Context, name, password, remote string) error {
	return a.prove(ctx, name, password, remote, func(*db.Tx) error { return nil })
}

// prove checks a name and password, and then does more in the transaction that
// forgives what failed before.
func (a *Auth) prove(ctx context.Context, name, password, remote string, more func(*db.Tx) error) error {
	const op = "auth.Login"
	if len(name) > maxName || len(password) > maxPassword || !validUser(name) {
		name = "\x00" // nobody's; counted by its address all the same
	}
	places := placesOf(name, remote)
	stored, err := a.attempt(ctx, name, places)
	if err != nil {
		return err
	}
	ok, stale, err := a.hash.verify(ctx, password, stored)
	if err != nil {
		return err
	}
	if !ok {
		return errs.New(op, errs.Denied, "log-in", "name or password is wrong, or the user is disabled").
			WithRemedy("try again; after some failures there is a wait")
	}
	again := ""
	if stale { // it costs what it costs now
		if again, err = a.hash.make(ctx, password); err != nil {
			return err
		}
	}
	return a.db.Tx(ctx, func(tx *db.Tx) error {
		// Only if it is still the password that was looked at.
		n, err := tx.Exec(ctx, `UPDATE users SET password = CASE WHEN $3 = '' THEN password ELSE $3 END WHERE name = $1 AND password = $2 AND disabled = 0`, name, stored, again)
		if err != nil {
			return err
		}
		if n == 0 {
			return errs.New(op, errs.Conflict, name, "the user was changed meanwhile").WithRemedy("log in again")
		}
		if err := forgive(ctx, tx, places); err != nil {
			return err
		}
		return more(tx)
	})
}

// forgive takes back that an attempt was counted. What the right password proves is
// that this address is its user's; the address may have guessed others' before, and
// that still counts.
func forgive(ctx context.Context, tx *db.Tx, places []place) error {
	if _, err := tx.Exec(ctx, `DELETE FROM login_failures WHERE place = $1`, places[0].key); err != nil {
		return err
	}
	for _, pl := range places[1:] {
		if _, err := tx.Exec(ctx, `UPDATE login_failures SET failures = failures - 1 WHERE place = $1 AND failures > 0`, pl.key); err != nil {
			return err
		}
	}
	return nil
}

// begin makes a session and its principal.
func (a *Auth) begin(ctx context.Context, tx *db.Tx, name, remote, agent string) (*Principal, string, error) {
	secret, err := newSession(ctx, tx, name, remote, agent)
	if err != nil {
		return nil, "", err
	}
	grants, err := grantsOf(ctx, tx, name)
	return &Principal{User: name, Session: true, CSRF: csrfOf(secret), grants: grants, session: hashOf(secret)}, secret, err
}

// place is where failures are counted: a row, and how many it bears.
type place struct {
	key string
	may int64
}

// placesOf are the places a log-in is counted at: by name and address, by address,
// by name. An address of v6 is its /64, which one customer has.
func placesOf(name, remote string) []place {
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		remote = ap.Addr().String()
	}
	if a, err := netip.ParseAddr(remote); err == nil {
		a = a.Unmap().WithZone("")
		if a.Is6() {
			if p, err := a.Prefix(64); err == nil {
				a = p.Addr()
			}
		}
		remote = a.String()
	}
	remote = db.Text(remote, maxName)
	if name == "\x00" {
		name = "" // a row holds no NUL
	}
	places := []place{{"both " + remote + " " + name, failuresPair}, {"from " + remote, failuresRemote}}
	if name != "" {
		places = append(places, place{"name " + name, failuresName})
	}
	return places
}

// attempt counts a log-in as failed before the password is looked at: attempts at
// once are all counted. It returns the hash to compare with, "" for nobody. Kind
// Unavailable while a place is locked.
func (a *Auth) attempt(ctx context.Context, name string, places []place) (stored string, err error) {
	err = a.db.Tx(ctx, func(tx *db.Tx) error {
		// First all places are looked at: who is locked out does not lock others.
		for _, pl := range places {
			var until int64
			// An INSERT or UPDATE, so that the row is ours until the end.
			if _, err := tx.Row(ctx, `INSERT INTO login_failures (place, failures, failed_at, locked_until) VALUES ($1, 0, $2, 0)
				ON CONFLICT (place) DO UPDATE SET failures = CASE WHEN login_failures.failed_at <= $3 THEN 0 ELSE login_failures.failures END
				RETURNING locked_until`, []any{pl.key, tx.Now(), tx.Now() - forgetAfter.Milliseconds()}, &until); err != nil {
				return err
			}
			if left := time.Duration(until-tx.Now()) * time.Millisecond; left > 0 {
				return errs.E("auth.Login", errs.Unavailable, "log-in", ErrLocked).
					WithRemedy(fmt.Sprintf("try again in %d minutes", int(left.Minutes())+1))
			}
		}
		for _, pl := range places {
			locks, err := count(ctx, tx, pl)
			if err != nil {
				return err
			}
			if locks {
				if err := alarm.Tell(ctx, tx, alarm.LoginBlocked, pl.about(), fmt.Sprintf("%q, after %d attempts", pl.key, pl.may)); err != nil {
					return err
				}
			}
		}
		stored = ""
		if name == "\x00" {
			return nil
		}
		_, err := tx.Row(ctx, `SELECT password FROM users WHERE name = $1 AND disabled = 0`, []any{name}, &stored)
		return err
	})
	return stored, err
}

// about is what an event about a place is of: a user, or who may be many.
func (pl place) about() string {
	kind, rest, _ := strings.Cut(pl.key, " ")
	switch kind {
	case "both":
		_, name, _ := strings.Cut(rest, " ")
		return "user " + name
	case "name":
		return "user " + rest
	}
	return "address " + rest
}

// count counts an attempt as failed; locks: the next is not looked at.
func count(ctx context.Context, tx *db.Tx, pl place) (locks bool, err error) {
	var failures int64
	if _, err := tx.Row(ctx, `UPDATE login_failures SET failures = failures + 1, failed_at = $2 WHERE place = $1 RETURNING failures`, []any{pl.key, tx.Now()}, &failures); err != nil {
		return false, err
	}
	if failures < pl.may {
		return false, nil
	}
	lock := lockMost
	if over := failures - pl.may; over < 6 {
		lock = lockFirst << over
	}
	_, err = tx.Exec(ctx, `UPDATE login_failures SET locked_until = $2 WHERE place = $1`, pl.key, tx.Now()+min(lock, lockMost).Milliseconds())
	return true, err
}
