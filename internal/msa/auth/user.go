package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// User is somebody who can log in. It holds no password: that is set, and never
// shown.
type User struct {
	Name     string  `json:"name"`
	Title    string  `json:"title,omitempty"`
	Provider string  `json:"provider,omitempty"` // issuer of an OpenID Connect provider; empty: a local user
	Disabled bool    `json:"disabled,omitempty"` // has no way in, and no session or token that works
	Grants   []Grant `json:"grants"`
	// Version rises with each change; a writer names the one they read.
	Version   int64 `json:"version"`
	CreatedAt int64 `json:"created_at"`         // UTC milliseconds
	LoginAt   int64 `json:"login_at,omitempty"` // last time, to a minute; 0: never
}

const userColumns = `name, title, issuer, disabled, version, created_at, login_at`

func (u *User) scan() []any {
	return []any{&u.Name, &u.Title, &u.Provider, (*flag)(&u.Disabled), &u.Version, &u.CreatedAt, &u.LoginAt}
}

// flag is a truth in a BIGINT column.
type flag bool

// Scan reads 0 or 1.
func (f *flag) Scan(v any) error {
	n, ok := v.(int64)
	*f = n != 0
	if !ok {
		return fmt.Errorf("%T is not a number", v)
	}
	return nil
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// validUser reports whether a name can be a local user's. Names of certificates hold
// a slash, so that no user is called like a box.
func validUser(name string) bool {
	if len(name) == 0 || len(name) > maxName {
		return false
	}
	for i, c := range name {
		inner := strings.ContainsRune("-._@+", c)
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || inner && i > 0 {
			continue
		}
		return false
	}
	return true
}

func checkUser(op string, u *User) error {
	if !validUser(u.Name) {
		return errs.New(op, errs.Invalid, "user", fmt.Sprintf("%q is not a user's name", db.Text(u.Name, maxName))).
			WithRemedy("use a-z, 0-9 and . _ - @ +, beginning with a letter or digit")
	}
	if u.Title != db.Text(u.Title, maxTitle) {
		return errs.New(op, errs.Invalid, u.Name, "the title is too long, or no text").WithRemedy("shorten it")
	}
	return checkGrants(op, u.Name, u.Grants)
}

// lockUsers has one transaction at a time decide about users, so that two admins
// cannot take each other's role away at once and leave none.
func lockUsers(ctx context.Context, tx *db.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE sequences SET value = value + 1 WHERE name = 'users'`)
	return err
}

// keepAdmin refuses a change after which nobody local could administer: a provider
// may be away, or misconfigured, when it matters.
func keepAdmin(ctx context.Context, tx *db.Tx, op, name string) error {
	var n int
	if _, err := tx.Row(ctx, `SELECT count(*) FROM users u JOIN user_grants g ON g.holder = u.name
		WHERE u.disabled = 0 AND u.password <> '' AND g.role = $1 AND g.folder = ''`, []any{Admin}, &n); err != nil {
		return err
	}
	if n == 0 {
		return errs.New(op, errs.Conflict, name, "nobody local would be admin any more").
			WithRemedy("make another local user admin first")
	}
	return nil
}

func noUser(op, name string) error {
	return errs.New(op, errs.NotFound, db.Text(name, maxName), "there is no such user").WithRemedy("list the users there are")
}

// Get returns a user. Kind NotFound.
func Get(ctx context.Context, tx *db.Tx, name string) (User, error) {
	var u User
	found, err := tx.Row(ctx, `SELECT `+userColumns+` FROM users WHERE name = $1`, []any{name}, u.scan()...)
	if err == nil && !found {
		err = noUser("auth.Get", name)
	}
	if err != nil {
		return User{}, err
	}
	u.Grants, err = grantsOf(ctx, tx, name)
	return u, err
}

// List returns users by name, those after a name, at most a page.
func List(ctx context.Context, tx *db.Tx, after string, limit int) (users []User, err error) {
	err = tx.Rows(ctx, `SELECT `+userColumns+` FROM users WHERE name > $1 ORDER BY name LIMIT $2`, []any{after, min(max(limit, 1), page)},
		func(scan func(...any) error) error {
			var u User
			err := scan(u.scan()...)
			users = append(users, u)
			return err
		})
	for i := range users {
		if err == nil {
			users[i].Grants, err = grantsOf(ctx, tx, users[i].Name)
		}
	}
	return users, err
}

func grantsOf(ctx context.Context, tx *db.Tx, name string) (grants []Grant, err error) {
	err = tx.Rows(ctx, `SELECT role, folder FROM user_grants WHERE holder = $1 ORDER BY role, folder`, []any{name}, func(scan func(...any) error) error {
		var g Grant
		err := scan(&g.Role, &g.Folder)
		grants = append(grants, g)
		return err
	})
	return grants, err
}

func setGrants(ctx context.Context, tx *db.Tx, name string, grants []Grant) error {
	if _, err := tx.Exec(ctx, `DELETE FROM user_grants WHERE holder = $1`, name); err != nil {
		return err
	}
	for _, g := range grants {
		if _, err := tx.Exec(ctx, `INSERT INTO user_grants (holder, role, folder) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, name, g.Role, g.Folder); err != nil {
			return err
		}
	}
	return nil
}

// Create makes a local user with a password, whose hash [Auth.Hash] made: hashing is
// dear and is not done while a transaction is open. Kinds: Invalid, Exists.
func Create(ctx context.Context, tx *db.Tx, u User, hash Hash) (User, error) {
	const op = "auth.Create"
	if err := checkUser(op, &u); err != nil {
		return User{}, err
	}
	if hash.user != u.Name {
		return User{}, errs.New(op, errs.Invalid, u.Name, "the password was checked for another user").WithRemedy("hash it for this one")
	}
	if err := lockUsers(ctx, tx); err != nil {
		return User{}, err
	}
	n, err := tx.Exec(ctx, `INSERT INTO users (name, issuer, subject, title, password, disabled, version, created_at, changed_at, login_at)
		VALUES ($1, '', $1, $2, $3, $4, 1, $5, $5, 0) ON CONFLICT DO NOTHING`, u.Name, u.Title, hash.text, bit(u.Disabled), tx.Now())
	if err != nil {
		return User{}, err
	}
	if n == 0 {
		return User{}, errs.New(op, errs.Exists, u.Name, "there is a user of this name").WithRemedy("change that one, or choose another name")
	}
	if err := setGrants(ctx, tx, u.Name, u.Grants); err != nil {
		return User{}, err
	}
	return Get(ctx, tx, u.Name)
}

// Update changes title, grants and whether a user is disabled, if u.Version is still
// the newest. Sessions end when the user is disabled; what grants allow changes with
// the next request of each session and token. The grants of a provider's user are the
// provider's. Kinds: Invalid, NotFound, Conflict (another version; the last admin).
func Update(ctx context.Context, tx *db.Tx, u User) (User, error) {
	const op = "auth.Update"
	if err := checkUser(op, &u); err != nil {
		return User{}, err
	}
	if err := lockUsers(ctx, tx); err != nil {
		return User{}, err
	}
	had, err := Get(ctx, tx, u.Name)
	if err != nil {
		return User{}, err
	}
	if had.Provider != "" && !sameGrants(had.Grants, u.Grants) {
		return User{}, errs.New(op, errs.Invalid, u.Name, "the roles of this user come from their provider").
			WithRemedy("change the groups at the provider, or what they are mapped to")
	}
	n, err := tx.Exec(ctx, `UPDATE users SET title = $3, disabled = $4, version = version + 1, changed_at = $5 WHERE name = $1 AND version = $2`,
		u.Name, u.Version, u.Title, bit(u.Disabled), tx.Now())
	if err != nil {
		return User{}, err
	}
	if n == 0 {
		return User{}, errs.New(op, errs.Conflict, u.Name, fmt.Sprintf("version %d was read, %d is the newest", u.Version, had.Version)).
			WithRemedy("read the user again, and repeat the change")
	}
	if err := setGrants(ctx, tx, u.Name, u.Grants); err != nil {
		return User{}, err
	}
	if err := keepAdmin(ctx, tx, op, u.Name); err != nil {
		return User{}, err
	}
	if u.Disabled {
		if err := EndSessions(ctx, tx, u.Name, ""); err != nil {
			return User{}, err
		}
	}
	return Get(ctx, tx, u.Name)
}

func sameGrants(a, b []Grant) bool {
	in := func(g []Grant, of []Grant) bool {
		return !slices.ContainsFunc(of, func(x Grant) bool { return !slices.Contains(g, x) })
	}
	return in(a, b) && in(b, a)
}

// Delete removes a user with sessions and tokens. Kinds: NotFound, Conflict (the last
// admin).
func Delete(ctx context.Context, tx *db.Tx, name string) error {
	const op = "auth.Delete"
	if err := lockUsers(ctx, tx); err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `DELETE FROM users WHERE name = $1`, name)
	if err != nil {
		return err
	}
	if n == 0 {
		return noUser(op, name)
	}
	return keepAdmin(ctx, tx, op, name)
}

// SetPassword gives a local user another password and ends their sessions but one,
// that of whoever asks ([Principal.Keep]; "": all). API tokens stay: they are programs', and are revoked by
// name. Kinds: NotFound, Invalid (a provider's user has no password here).
func SetPassword(ctx context.Context, tx *db.Tx, hash Hash, keep string) error {
	const op = "auth.SetPassword"
	n, err := tx.Exec(ctx, `UPDATE users SET password = $2, version = version + 1, changed_at = $3 WHERE name = $1 AND issuer = ''`, hash.user, hash.text, tx.Now())
	if err != nil {
		return err
	}
	if n == 0 {
		if _, err := Get(ctx, tx, hash.user); err != nil {
			return err
		}
		return errs.New(op, errs.Invalid, hash.user, "this user logs in by their provider").WithRemedy("change the password there")
	}
	return EndSessions(ctx, tx, hash.user, keep)
}

// Keep names the principal's own session for SetPassword and EndSessions.
func (p *Principal) Keep() string { return p.session }

// Setup makes the user of a set-up token admin: a new local user, or one that was
// there and whose password is lost. The token is spent by the same transaction.
// Kinds: Denied (the token), Invalid.
func Setup(ctx context.Context, tx *db.Tx, token string, hash Hash) (User, error) {
	if _, err := Spend(ctx, tx, ForSetup, token); err != nil {
		return User{}, err
	}
	// The others of this purpose are of starts before: they end with it.
	if _, err := tx.Exec(ctx, `DELETE FROM single_tokens WHERE purpose = $1`, ForSetup); err != nil {
		return User{}, err
	}
	had, err := Get(ctx, tx, hash.user)
	if errs.Is(err, errs.NotFound) {
		return Create(ctx, tx, User{Name: hash.user, Grants: []Grant{{Role: Admin}}}, hash)
	}
	if err != nil {
		return User{}, err
	}
	if err := SetPassword(ctx, tx, hash, ""); err != nil {
		return User{}, err
	}
	if had, err = Get(ctx, tx, hash.user); err != nil {
		return User{}, err
	}
	had.Disabled = false
	if !slices.Contains(had.Grants, Grant{Role: Admin}) {
		had.Grants = append(had.Grants, Grant{Role: Admin})
	}
	return Update(ctx, tx, had)
}

// NeedsSetup makes a set-up token if nobody can administer yet, else it returns "".
// Who can call it without a token has the database in their hands anyway.
func NeedsSetup(ctx context.Context, tx *db.Tx) (string, error) {
	err := keepAdmin(ctx, tx, "auth.NeedsSetup", "")
	if !errs.Is(err, errs.Conflict) {
		return "", err
	}
	return MintSetup(ctx, tx)
}

// MintSetup makes a set-up token whoever is there: for an admin who lost their
// password, and stands at the machine.
func MintSetup(ctx context.Context, tx *db.Tx) (string, error) {
	return Mint(ctx, tx, ForSetup, "", "", "", setupFor)
}

// ValidFolder reports whether f is a path as grants have it.
func ValidFolder(f site.Ref) bool { return validFolder(f) }
