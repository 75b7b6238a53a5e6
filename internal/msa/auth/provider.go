package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/seal"
)

// Provider is an OpenID Connect provider by which people log in. Its client secret is
// sealed under ProviderSecret.
type Provider struct {
	Issuer   string `json:"issuer"`    // as https://login.example.com/realms/ops
	ClientID string `json:"client_id"` // what the provider calls us
	Redirect string `json:"redirect"`  // where it sends browsers back to, as https://msa-a:8443/api/v1/login/provider/return
	// Scopes asked for besides openid; empty: profile, email.
	Scopes []string `json:"scopes,omitempty"`
	// NameClaim has the user's name at the first log-in; empty: preferred_username.
	// Later the subject alone decides who somebody is, so that a name that is given
	// to another person there does not make them this one.
	NameClaim string `json:"name_claim,omitempty"`
	// GroupsClaim has the list of groups; empty: groups.
	GroupsClaim string `json:"groups_claim,omitempty"`
	// Groups say what members may: a user has the grants of all their groups, and
	// one of none of these groups has no way in.
	Groups map[string][]Grant `json:"groups"`
	// Version is the optimistic lock; 0: there was none.
	Version int64 `json:"version"`
}

// ProviderSecret names the sealed client secret.
const ProviderSecret = "login/provider"

// Bounds of what a provider is, says, and takes.
const (
	maxGroups    = 200
	maxClaim     = 255     // bytes of a name, subject or group
	maxMember    = 5000    // groups of one user that are looked at
	maxAnswer    = 1 << 20 // bytes of an answer of the provider
	maxCode      = 4 << 10 // bytes of a code
	providerCall = 20 * time.Second
	providerKept = time.Hour // discovery is asked for again
)

func (p *Provider) check() error {
	const op = "auth.SetProvider"
	for what, text := range map[string]string{"issuer": p.Issuer, "redirect": p.Redirect} {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(text) > maxContent {
			return errs.New(op, errs.Invalid, what, "it is not an address as https://host/path").WithRemedy("copy it from the provider")
		}
	}
	if p.ClientID == "" || p.ClientID != db.Text(p.ClientID, maxClaim) {
		return errs.New(op, errs.Invalid, "client_id", fmt.Sprintf("it must be 1 to %d bytes", maxClaim)).WithRemedy("copy it from the provider")
	}
	if len(p.Groups) == 0 || len(p.Groups) > maxGroups {
		return errs.New(op, errs.Invalid, "groups", fmt.Sprintf("1 to %d groups have roles, not %d", maxGroups, len(p.Groups))).WithRemedy("say which groups may what: nobody else has a way in")
	}
	for g, grants := range p.Groups {
		if err := checkGrants(op, "group "+db.Text(g, maxClaim), grants); err != nil {
			return err
		}
	}
	return nil
}

// SetProvider stores who people log in by, if p.Version is still the newest. Kinds:
// Invalid, Conflict.
func SetProvider(ctx context.Context, tx *db.Tx, p Provider) (Provider, error) {
	const op = "auth.SetProvider"
	if err := p.check(); err != nil {
		return Provider{}, err
	}
	read := p.Version
	p.Version++
	text, err := json.Marshal(p)
	if err != nil || len(text) > 256<<10 {
		return Provider{}, errs.New(op, errs.Invalid, "provider", "it is too long to store").WithRemedy("give fewer groups roles")
	}
	query := `UPDATE login_provider SET content = $1, version = $2 WHERE id = 'oidc' AND version = $3`
	args := []any{string(text), p.Version, read}
	if read == 0 {
		query = `INSERT INTO login_provider (id, content, version) VALUES ('oidc', $1, $2) ON CONFLICT DO NOTHING`
		args = args[:2]
	}
	n, err := tx.Exec(ctx, query, args...)
	if err == nil && n == 0 {
		err = errs.New(op, errs.Conflict, "provider", "somebody else has changed it").WithRemedy("read it again, and repeat the change")
	}
	return p, err
}

// GetProvider returns who people log in by. Kind NotFound: by nobody.
func GetProvider(ctx context.Context, tx *db.Tx) (p Provider, err error) {
	const op = "auth.GetProvider"
	var text string
	found, err := tx.Row(ctx, `SELECT content FROM login_provider WHERE id = 'oidc'`, nil, &text)
	if err != nil {
		return p, err
	}
	if !found {
		return p, errs.New(op, errs.NotFound, "provider", "no OpenID Connect provider is set up").WithRemedy("log in with name and password, or set one up")
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return p, errs.E(op, errs.Corrupt, "provider", err)
	}
	return p, nil
}

// DeleteProvider ends log-ins by the provider, and its users' sessions. Kind
// NotFound.
func DeleteProvider(ctx context.Context, tx *db.Tx) error {
	p, err := GetProvider(ctx, tx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM user_sessions WHERE holder IN (SELECT name FROM users WHERE issuer = $1)`, p.Issuer); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM login_provider WHERE id = 'oidc'`)
	return err
}

// providerCache keeps what discovery told.
type providerCache struct {
	sync.Mutex
	issuer string
	found  *oidc.Provider
	at     time.Time
}

// discover returns the provider's addresses and keys. Keys are fetched again by
// themselves when one is not known.
func (a *Auth) discover(ctx context.Context, issuer string) (*oidc.Provider, error) {
	a.provider.Lock()
	defer a.provider.Unlock()
	c := &a.provider
	if c.found != nil && c.issuer == issuer && time.Since(c.at) < providerKept {
		return c.found, nil
	}
	p, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return nil, errs.E("auth.Provider", errs.Unavailable, issuer, err).WithRemedy("the provider does not answer, or not as the issuer: check its address; log in with name and password meanwhile")
	}
	c.issuer, c.found, c.at = issuer, p, time.Now()
	return p, nil
}

// limited bounds what a provider can have us read.
type limited struct{ http.RoundTripper }

// RoundTrip calls and bounds the answer's body.
func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	}
	return resp, err
}

func (a *Auth) providerContext(ctx context.Context) (context.Context, context.CancelFunc) {
	c := *a.client
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	c.Transport = limited{c.Transport}
	ctx, cancel := context.WithTimeout(ctx, providerCall)
	return oidc.ClientContext(ctx, &c), cancel
}

// oauth returns how we talk to the provider; the secret is one string more in memory
// than we like, because the library asks for one.
func (a *Auth) oauth(ctx context.Context, p *Provider, at *oidc.Provider) (*oauth2.Config, error) {
	c := &oauth2.Config{ClientID: p.ClientID, Endpoint: at.Endpoint(), RedirectURL: p.Redirect, Scopes: append([]string{oidc.ScopeOpenID}, p.Scopes...)}
	if len(p.Scopes) == 0 {
		c.Scopes = append(c.Scopes, "profile", "email")
	}
	if a.box == nil {
		return c, nil
	}
	err := a.db.View(ctx, func(tx *db.Tx) error {
		return a.box.Use(ctx, tx, ProviderSecret, func(s []byte) error { c.ClientSecret = string(s); return nil })
	})
	if errs.Is(err, errs.NotFound) {
		err = nil // a public client: PKCE alone proves who began
	}
	return c, err
}

// ProviderCookie holds, in the browser that began a log-in, the secret from which
// its nonce and PKCE verifier are made. It comes along when the provider sends the
// browser back, which a Strict one would not.
const ProviderCookie = "__Host-holdfast-login"

// ProviderLoginCookie is that cookie; an empty secret ends it.
func ProviderLoginCookie(secret string) *http.Cookie {
	c := &http.Cookie{Name: ProviderCookie, Value: secret, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(providerFor.Seconds())}
	if secret == "" {
		c.MaxAge = -1
	}
	return c
}

// begun is what is kept of a log-in that went to the provider.
type begun struct {
	Browser string `json:"browser"` // hash of the cookie's secret
	Issuer  string `json:"issuer"`
	Back    string `json:"back"`
}

// Begin begins a log-in by the provider: the address to send the browser to, and the
// secret of its ProviderCookie. back is where on our pages it ends. Kinds: NotFound
// (no provider), Invalid (back leads elsewhere), Unavailable, Full.
func (a *Auth) Begin(ctx context.Context, back string) (address, secret string, err error) {
	const op = "auth.Begin"
	if !strings.HasPrefix(back, "/") || strings.HasPrefix(back, "//") || strings.ContainsAny(back, "\\\r\n\t") || len(back) > 1024 {
		return "", "", errs.New(op, errs.Invalid, "back", "it leads away from the manager's pages").WithRemedy("begin it with one /")
	}
	var p Provider
	if err := a.db.View(ctx, func(tx *db.Tx) error { p, err = GetProvider(ctx, tx); return err }); err != nil {
		return "", "", err
	}
	pctx, cancel := a.providerContext(ctx)
	defer cancel()
	at, err := a.discover(pctx, p.Issuer)
	if err != nil {
		return "", "", err
	}
	secret = newSecret("hfl_")
	content, err := json.Marshal(begun{hashOf(secret), p.Issuer, back})
	if err != nil {
		return "", "", errs.E(op, errs.Internal, "log-in", err)
	}
	var state string
	if err := a.db.Tx(ctx, func(tx *db.Tx) error {
		state, err = Mint(ctx, tx, forProvider, "", string(content), "", providerFor)
		return err
	}); err != nil {
		return "", "", err
	}
	c, err := a.oauth(ctx, &p, at)
	if err != nil {
		return "", "", err
	}
	return c.AuthCodeURL(state, oidc.Nonce(partOf(secret, "nonce")), oauth2.S256ChallengeOption(partOf(secret, "pkce"))), secret, nil
}

// partOf makes one more secret of a secret.
func partOf(secret, what string) string { return csrfOf(what + " " + secret) }

// Finish ends a log-in by the provider: with the state and code that it sent the
// browser back with, and the secret of that browser's cookie. The state is good once,
// whatever comes of it. It returns the principal, the session's secret, and where to
// go. Kinds: Denied (not from this browser, not now, not by this provider, without a
// role, disabled), Unavailable.
func (a *Auth) Finish(ctx context.Context, state, code, secret, remote, agent string) (who *Principal, session, back string, err error) {
	const op = "auth.Finish"
	var s Single
	var p Provider
	if err := a.db.Tx(ctx, func(tx *db.Tx) error {
		if s, err = Spend(ctx, tx, forProvider, state); err != nil {
			return err
		}
		p, err = GetProvider(ctx, tx)
		return err
	}); err != nil {
		return nil, "", "", err
	}
	var b begun
	if err := json.Unmarshal([]byte(s.Content), &b); err != nil {
		return nil, "", "", errs.E(op, errs.Corrupt, "log-in", err)
	}
	if hashOf(secret) != b.Browser || b.Issuer != p.Issuer || len(code) > maxCode || len(secret) > maxSecret {
		return nil, "", "", errs.New(op, errs.Denied, "log-in", "it was not begun by this browser").WithRemedy("begin the log-in again")
	}
	claims, err := a.exchange(ctx, &p, code, secret)
	if err != nil {
		return nil, "", "", err
	}
	err = a.db.Tx(ctx, func(tx *db.Tx) error {
		name, err := enter(ctx, tx, &p, claims)
		if err != nil {
			return err
		}
		who, session, err = a.begin(ctx, tx, name, remote, agent)
		return err
	})
	return who, session, b.Back, err
}

// claims is what the provider says of somebody.
type claims struct {
	subject, name, title string
	groups               []string
}

// exchange trades the code for the provider's word, and checks it.
func (a *Auth) exchange(ctx context.Context, p *Provider, code, secret string) (claims, error) {
	const op = "auth.Finish"
	pctx, cancel := a.providerContext(ctx)
	defer cancel()
	at, err := a.discover(pctx, p.Issuer)
	if err != nil {
		return claims{}, err
	}
	c, err := a.oauth(ctx, p, at)
	if err != nil {
		return claims{}, err
	}
	refuse := func(err error) (claims, error) {
		return claims{}, errs.E(op, errs.Denied, p.Issuer, err).WithRemedy("begin the log-in again; if it stays, compare client, secret and clock with the provider's")
	}
	t, err := c.Exchange(pctx, code, oauth2.VerifierOption(partOf(secret, "pkce")))
	if err != nil {
		// The library's text has the whole answer, which is the provider's to word.
		return refuse(fmt.Errorf("the provider does not take the code: %s", db.Text(err.Error(), 300)))
	}
	raw, _ := t.Extra("id_token").(string)
	id, err := at.Verifier(&oidc.Config{ClientID: p.ClientID}).Verify(pctx, raw)
	if err != nil {
		return refuse(err)
	}
	if id.Nonce != partOf(secret, "nonce") {
		return refuse(fmt.Errorf("its word is about another log-in"))
	}
	var all map[string]any
	if err := id.Claims(&all); err != nil {
		return refuse(err)
	}
	return p.read(id.Subject, all)
}

// read takes what we need out of the provider's word.
func (p *Provider) read(subject string, all map[string]any) (claims, error) {
	text := func(claim, otherwise string) string {
		if claim == "" {
			claim = otherwise
		}
		s, _ := all[claim].(string)
		return s
	}
	c := claims{subject: subject, name: strings.ToLower(text(p.NameClaim, "preferred_username")), title: db.Text(text("", "name"), maxTitle)}
	groups := p.GroupsClaim
	if groups == "" {
		groups = "groups"
	}
	switch g := all[groups].(type) {
	case string:
		c.groups = []string{g}
	case []any:
		for _, x := range g[:min(len(g), maxMember)] {
			if s, ok := x.(string); ok {
				c.groups = append(c.groups, s)
			}
		}
	}
	if subject == "" || subject != db.Text(subject, maxClaim) {
		return claims{}, errs.New("auth.Finish", errs.Denied, p.Issuer, "the provider's subject is too long, or no text").WithRemedy("have the provider use shorter subjects")
	}
	return c, nil
}

// grants are those of a user's groups, each once.
func (p *Provider) grants(groups []string) (grants []Grant) {
	seen := map[Grant]bool{}
	for _, g := range groups {
		for _, grant := range p.Groups[g] {
			if !seen[grant] && len(grants) < maxGrants {
				seen[grant] = true
				grants = append(grants, grant)
			}
		}
	}
	return grants
}

// enter makes or updates the provider's user and returns their name here.
func enter(ctx context.Context, tx *db.Tx, p *Provider, c claims) (string, error) {
	const op = "auth.Finish"
	if err := lockUsers(ctx, tx); err != nil {
		return "", err
	}
	grants := p.grants(c.groups)
	var name string
	var disabled flag
	found, err := tx.Row(ctx, `SELECT name, disabled FROM users WHERE issuer = $1 AND subject = $2`, []any{p.Issuer, c.subject}, &name, &disabled)
	switch {
	case err != nil:
		return "", err
	case len(grants) == 0:
		return "", errs.New(op, errs.Denied, c.name, "none of this user's groups has a role here").WithRemedy("have the provider put them into a group that has one")
	case bool(disabled):
		return "", errs.New(op, errs.Denied, name, "the user is disabled").WithRemedy("ask an admin of the manager")
	case found:
		if _, err := tx.Exec(ctx, `UPDATE users SET title = $2 WHERE name = $1`, name, c.title); err != nil {
			return "", err
		}
		return name, setGrants(ctx, tx, name, grants)
	case !validUser(c.name):
		return "", errs.New(op, errs.Denied, p.Issuer, fmt.Sprintf("the provider's name %q cannot be a user's here", db.Text(c.name, maxName))).WithRemedy("choose another claim for names")
	}
	n, err := tx.Exec(ctx, `INSERT INTO users (name, issuer, subject, title, password, disabled, version, created_at, changed_at, login_at)
		VALUES ($1, $2, $3, $4, '', 0, 1, $5, $5, 0) ON CONFLICT DO NOTHING`, c.name, p.Issuer, c.subject, c.title, tx.Now())
	if err != nil {
		return "", err
	}
	if n == 0 {
		return "", errs.New(op, errs.Denied, c.name, "another user has this name here").WithRemedy("delete or rename that user first: who a name belongs to is for an admin to say")
	}
	return c.name, setGrants(ctx, tx, c.name, grants)
}

// SetProviderSecret seals the client secret.
func SetProviderSecret(ctx context.Context, tx *db.Tx, box *seal.Box, secret []byte, by string) error {
	return box.Put(ctx, tx, ProviderSecret, secret, by)
}
