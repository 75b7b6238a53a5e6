package auth

import (
	"context"
	"crypto/hmac"
	"crypto/x509"
	"net/http"
	"strings"

	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/seal"
)

// CertificateFunc tells whose certificate a connection has proved: the first of the
// chain is the other side's, and nothing of it has been checked but that the other
// side has the key. Kinds: NotFound (not of an authority it knows), Denied (nobody's
// any more). Packages enrol and pair have one each.
type CertificateFunc func(ctx context.Context, chain []*x509.Certificate) (*Principal, error)

// Options are what an Auth needs.
type Options struct {
	DB *db.DB
	// Box keeps the secret of an OpenID Connect provider. nil: no provider.
	Box *seal.Box
	// Certificates know boxes and peers, and are asked in turn.
	Certificates []CertificateFunc
	// Client talks to the provider; nil: http.DefaultClient.
	Client *http.Client
	// cheap has tests spend no time on hashes.
	cheap bool
}

// Auth finds out who is asking. For concurrent use.
type Auth struct {
	db       *db.DB
	box      *seal.Box
	certs    []CertificateFunc
	client   *http.Client
	hash     *hasher
	crossing *http.CrossOriginProtection
	provider providerCache
}

// New makes an Auth.
func New(o Options) *Auth {
	c := fullCost
	if o.cheap {
		c = cost{64, 1, 1}
	}
	a := &Auth{db: o.DB, box: o.Box, certs: o.Certificates, client: o.Client, hash: newHasher(c), crossing: http.NewCrossOriginProtection()}
	if a.client == nil {
		a.client = http.DefaultClient
	}
	return a
}

// Authenticate finds out who a request is from: by its bearer token (an API token, or
// a session's secret, which programs send that way), else by its session's cookie, else by the certificate of its connection. One that is there and not good
// is refused, whatever else is there. A session's request that changes something
// must carry the CSRF token and come from our own pages. Kinds: Denied, and those of
// db.Tx.
func (a *Auth) Authenticate(ctx context.Context, r *http.Request) (*Principal, error) {
	if h := r.Header.Values("Authorization"); len(h) > 0 {
		scheme, secret, _ := strings.Cut(h[0], " ")
		if len(h) > 1 || !strings.EqualFold(scheme, "Bearer") {
			return nil, denied("only one bearer token is a way in", "send Authorization: Bearer TOKEN")
		}
		if secret = strings.TrimSpace(secret); strings.HasPrefix(secret, sessionPrefix) {
			// No browser sends this header by itself: there is nothing to cross.
			return a.bySession(ctx, secret, nil)
		}
		return a.byToken(ctx, secret)
	}
	if c, err := r.Cookie(SessionCookie); err == nil {
		return a.bySession(ctx, c.Value, r)
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return a.byCertificate(ctx, r.TLS.PeerCertificates)
	}
	return nil, denied("nobody is logged in", "log in, or send an API token")
}

func denied(words, remedy string) error {
	return errs.New("auth.Authenticate", errs.Denied, "request", words).WithRemedy(remedy)
}

func (a *Auth) byCertificate(ctx context.Context, chain []*x509.Certificate) (*Principal, error) {
	for _, f := range a.certs {
		p, err := f(ctx, chain)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	return nil, denied("the certificate is of no authority that is known here", "enrol the box, or pair the sites, again")
}

func (a *Auth) byToken(ctx context.Context, secret string) (*Principal, error) {
	bad := denied("the token is unknown, expired or revoked", "make a new one")
	if len(secret) > maxSecret || !strings.HasPrefix(secret, tokenPrefix) {
		return nil, bad
	}
	p := &Principal{limited: true}
	hash, stale, found := hashOf(secret), false, false
	err := a.db.View(ctx, func(tx *db.Tx) error {
		var scope string
		var until, used int64
		var err error
		found, err = tx.Row(ctx, `SELECT t.id, t.holder, t.scope, t.expires_at, t.used_at FROM user_tokens t JOIN users u ON u.name = t.holder
			WHERE t.hash = $1 AND u.disabled = 0`, []any{hash}, &p.Token, &p.User, &scope, &until, &used)
		if err != nil || !found {
			return err
		}
		found = until > tx.Now()
		stale = tx.Now()-used >= seenEvery.Milliseconds()
		if err := readScope(p.Token, scope, &p.scope); err != nil {
			return err
		}
		p.grants, err = grantsOf(ctx, tx, p.User)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, bad
	}
	if stale {
		err = a.db.Tx(ctx, func(tx *db.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE user_tokens SET used_at = $2 WHERE hash = $1`, hash, tx.Now())
			return err
		})
	}
	return p, err
}

// bySession finds a session; r is the request its cookie came with, nil for a session
// that came as a bearer token.
func (a *Auth) bySession(ctx context.Context, secret string, r *http.Request) (*Principal, error) {
	bad := denied("the session is over", "log in again")
	if len(secret) > maxSecret {
		return nil, bad
	}
	p := &Principal{Session: true, CSRF: csrfOf(secret), session: hashOf(secret)}
	stale, found := false, false
	err := a.db.View(ctx, func(tx *db.Tx) error {
		var seen, until int64
		var err error
		found, err = tx.Row(ctx, `SELECT s.holder, s.seen_at, s.expires_at FROM user_sessions s JOIN users u ON u.name = s.holder
			WHERE s.hash = $1 AND u.disabled = 0`, []any{p.session}, &p.User, &seen, &until)
		if err != nil || !found {
			return err
		}
		idle := tx.Now() - seen
		found = until > tx.Now() && idle < idleFor.Milliseconds()
		stale = idle >= seenEvery.Milliseconds()
		p.grants, err = grantsOf(ctx, tx, p.User)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, bad
	}
	if r != nil {
		if err := a.checkCrossing(r, p.CSRF); err != nil {
			return nil, err
		}
	}
	if stale {
		err = a.db.Tx(ctx, func(tx *db.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE user_sessions SET seen_at = $2 WHERE hash = $1`, p.session, tx.Now())
			return err
		})
	}
	return p, err
}

// SameOrigin refuses what another site's page has a browser send where no session is
// asked for, as logging somebody in as somebody else. Kind Denied.
func (a *Auth) SameOrigin(r *http.Request) error {
	if a.crossing.Check(r) != nil {
		return denied("the request comes from another site's page", "open the manager's own pages")
	}
	return nil
}

// checkCrossing refuses what another site's page has a browser send. The cookie's
// SameSite, the browser's own word on where a request comes from, and a header no
// other page can send: each alone would do in a browser that has no fault.
func (a *Auth) checkCrossing(r *http.Request, csrf string) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	if err := a.SameOrigin(r); err != nil {
		return err
	}
	if !hmac.Equal([]byte(r.Header.Get(CSRFHeader)), []byte(csrf)) {
		return denied("the request has not got the session's CSRF token", "send it in the header "+CSRFHeader)
	}
	return nil
}
