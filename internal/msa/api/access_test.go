package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/audit"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/auth/oidctest"
	msacall "holdfast/internal/msa/call"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/enrol"
	"holdfast/internal/msa/pair"
	"holdfast/internal/msa/pki"
	"holdfast/internal/msa/seal"
	"holdfast/internal/msa/site"
)

const password = "crow lamp tundra 7"

// keyFiles are the paths of key files by the database's name.
var keyFiles sync.Map

// accessOf makes what operations about users, secrets, boxes and peers stand on.
func accessOf(t testing.TB, d *db.DB, name string, provider *http.Client) Access {
	t.Helper()
	// Replicas that share a database share its key file.
	path, shared := keyFiles.LoadOrStore(d.Name(), filepath.Join(t.TempDir(), "seal.key"))
	if !shared {
		if err := seal.Create(durable.OS{}, path.(string), nil); err != nil {
			t.Fatal(err)
		}
	}
	box, err := seal.Open(t.Context(), d, durable.OS{}, path.(string), nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pki.Open(t.Context(), pki.Options{DB: d, Box: box, Site: name, Names: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	a := auth.New(auth.Options{DB: d, Box: box, Client: provider, Certificates: []auth.CertificateFunc{enrol.Holder(d, p), pair.Holder(d)}})
	return Access{Accounts: a, Box: box, PKI: p, Pairs: &pair.Monitor{DB: d, PKI: p}, Address: "https://127.0.0.1:8443"}
}

// manager is a whole one, on a port of its own, with nothing faked.
type manager struct {
	t      *testing.T
	URL    string
	db     *db.DB
	pki    *pki.PKI
	box    *seal.Box
	auth   *auth.Auth
	client *http.Client
	sent   bytes.Buffer // every answer there was

	mu  sync.Mutex
	log bytes.Buffer
}

func (m *manager) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log.Write(b)
}

func newManager(t *testing.T, dbURL, name string, provider *http.Client) *manager {
	t.Helper()
	d, err := db.Open(t.Context(), dbURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	m := &manager{t: t, db: d}
	acc := accessOf(t, d, name, provider)
	m.box, m.pki, m.auth = acc.Box, acc.PKI, acc.Accounts
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.URL = "https://" + ln.Addr().String()
	acc.Address = m.URL
	h, err := New(Options{DB: d, Auth: m.auth, Logger: slog.New(recording{slog.NewTextHandler(m, &slog.HandlerOptions{Level: slog.LevelDebug})}), Release: "test", Access: acc})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, TLSConfig: m.pki.Server(), ErrorLog: log.New(io.Discard, "", 0)}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	m.client = &http.Client{Transport: &http.Transport{TLSClientConfig: control.Pinned(m.pki.Fingerprint(), control.RoleManager, nil)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(m.client.CloseIdleConnections)
	return m
}

// ask sends a request; headers are name, value, name, value, …
func (m *manager) ask(method, path string, body any, headers ...string) answer {
	m.t.Helper()
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			m.t.Fatal(err)
		}
		reader = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(m.t.Context(), method, m.URL+prefix+path, reader)
	if err != nil {
		m.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := m.client.Do(r)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	m.sent.Write(b)
	return answer{resp, m.t, b}
}

type obj map[string]any

// bearer are the headers of who has a token.
func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

func (m *manager) login(user string) (token string) {
	m.t.Helper()
	return as[LoginBody](m.ask("POST", "/login", obj{"user": user, "password": password, "bearer": true}).want(http.StatusOK)).Token
}

// first makes the first admin, as the manager's start and a person do.
func (m *manager) first() (setup, admin string) {
	m.t.Helper()
	if err := m.db.Tx(m.t.Context(), func(tx *db.Tx) (err error) { setup, err = auth.NeedsSetup(m.t.Context(), tx); return err }); err != nil {
		m.t.Fatal(err)
	}
	m.ask("POST", "/setup", obj{"token": setup, "user": "root", "password": password}).want(http.StatusCreated)
	return setup, m.login("root")
}

func (m *manager) sql(query string, args ...any) {
	m.t.Helper()
	if err := m.db.Tx(m.t.Context(), func(tx *db.Tx) error { _, err := tx.Exec(m.t.Context(), query, args...); return err }); err != nil {
		m.t.Fatal(err)
	}
}

// TestAccess follows people from an empty manager on: set-up, users, tokens,
// approvals, secrets, and what the audit log has of all this.
func TestAccess(t *testing.T) {
	m := newManager(t, dbtest.SQLite(t), "berlin", nil)
	setup, admin := m.first()
	root := bearer(admin)
	if m.ask("POST", "/setup", obj{"token": setup, "user": "eve", "password": password}).StatusCode != http.StatusUnauthorized {
		t.Error("a set-up token is good twice")
	}
	m.ask("POST", "/users", obj{"name": "alice", "password": password, "grants": []obj{{"role": "recovery-admin", "folder": "erp"}}}, root...).want(http.StatusCreated)
	m.ask("POST", "/users", obj{"name": "bob", "password": password, "grants": []obj{{"role": "recovery-admin"}}}, root...).want(http.StatusCreated)
	m.ask("POST", "/users", obj{"name": "weak", "password": "password1234"}, root...).problem(http.StatusUnprocessableEntity, errs.Invalid)
	alice := bearer(m.login("alice"))
	if s := as[SessionBody](m.ask("GET", "/session", nil, alice...).want(http.StatusOK)); s.User != "alice" || !s.Session || len(s.Grants) != 1 {
		t.Errorf("%+v", s)
	}
	tok := as[TokenBody](m.ask("POST", "/tokens", obj{"title": "nightly", "scope": []obj{{"role": "test-operator"}}, "expire": "30d"}, alice...).want(http.StatusCreated))
	program := bearer(tok.Secret)
	if s := as[SessionBody](m.ask("GET", "/session", nil, program...).want(http.StatusOK)); s.Token != tok.ID || s.Session {
		t.Errorf("%+v", s)
	}
	// A stolen token makes no way in that outlives it.
	for path, body := range map[string]obj{"/tokens": {"title": "x", "scope": []obj{{"role": "viewer"}}, "expire": "1h"}} {
		m.ask("POST", path, body, program...).problem(http.StatusForbidden, errs.Denied)
	}
	m.ask("PUT", "/session/password", obj{"old": password, "new": "another four words"}, program...).problem(http.StatusForbidden, errs.Denied)
	rootToken := as[TokenBody](m.ask("POST", "/tokens", obj{"title": "automation", "scope": []obj{{"role": "admin"}}, "expire": "1d"}, root...).want(http.StatusCreated))
	m.ask("POST", "/users", obj{"name": "eve", "password": password}, bearer(rootToken.Secret)...).problem(http.StatusForbidden, errs.Denied)
	m.ask("PUT", "/users/alice/password", obj{"password": password}, bearer(rootToken.Secret)...).problem(http.StatusForbidden, errs.Denied)
	// The second person.
	var a auth.Approval
	if err := m.db.Tx(t.Context(), func(tx *db.Tx) (err error) {
		a, err = auth.Ask(t.Context(), tx, auth.OfUser("alice"), "plan erp", "disaster", "digest", "erp")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	verdict := obj{"verdict": "approved"}
	m.ask("POST", "/approvals/"+a.ID+"/verdict", verdict, alice...).problem(http.StatusForbidden, errs.Denied)
	bob := bearer(m.login("bob"))
	if got := as[auth.Approval](m.ask("POST", "/approvals/"+a.ID+"/verdict", verdict, bob...).want(http.StatusOK)); got.DecidedBy != "bob" {
		t.Errorf("%+v", got)
	}
	m.ask("POST", "/approvals/"+a.ID+"/verdict", verdict, bob...).problem(http.StatusConflict, errs.Conflict)
	// A lost update; the last admin; a password, and what it ends.
	u := as[auth.User](m.ask("GET", "/users/root", nil, root...).want(http.StatusOK))
	m.ask("PUT", "/users/root", obj{"grants": []obj{}, "version": u.Version}, root...).problem(http.StatusConflict, errs.Conflict)
	m.ask("PUT", "/users/bob", obj{"title": "Bob", "grants": []obj{{"role": "viewer"}}, "version": 7}, root...).problem(http.StatusConflict, errs.Conflict)
	other := bearer(m.login("alice"))
	m.ask("PUT", "/session/password", obj{"old": "wrong", "new": "another four words"}, alice...).problem(http.StatusForbidden, errs.Denied)
	m.ask("PUT", "/session/password", obj{"old": password, "new": "another four words"}, alice...).want(http.StatusNoContent)
	m.ask("GET", "/session", nil, other...).problem(http.StatusUnauthorized, errs.Denied)
	m.ask("GET", "/session", nil, alice...).want(http.StatusOK)
	m.ask("DELETE", "/tokens/"+tok.ID, nil, alice...).want(http.StatusNoContent)
	m.ask("GET", "/session", nil, program...).problem(http.StatusUnauthorized, errs.Denied)
	m.ask("DELETE", "/session", nil, alice...).want(http.StatusNoContent)
	m.ask("GET", "/session", nil, alice...).problem(http.StatusUnauthorized, errs.Denied)
	m.ask("DELETE", "/users/alice", nil, root...).want(http.StatusNoContent)
	checkAudit(m, root)
	m.secrets(root)
}

// checkAudit looks for what was done and refused above, and verifies the chain.
func checkAudit(m *manager, root []string) {
	m.t.Helper()
	var page struct {
		Items []audit.Entry
		Next  string
	}
	text := string(m.ask("GET", "/audit?limit=1000", nil, root...).want(http.StatusOK).body)
	if err := json.Unmarshal([]byte(text), &page); err != nil {
		m.t.Fatal(err)
	}
	has := func(by, operation string, o audit.Outcome) {
		m.t.Helper()
		for _, e := range page.Items {
			if e.By == by && e.Operation == operation && e.Outcome == o && e.Remote != "" {
				return
			}
		}
		m.t.Errorf("the audit log has no %s of %s by %q", o, operation, by)
	}
	has("", "set-up", audit.Done)
	has("root", "log-in", audit.Done)
	has("root", "create-user", audit.Done)
	has("alice", "create-token", audit.Done)
	has("alice", "decide-approval", audit.Refused)
	has("bob", "decide-approval", audit.Done)
	has("alice", "set-own-password", audit.Done)
	if strings.Contains(text, password) {
		m.t.Error("the audit log has a password")
	}
	v := as[Verdict](m.ask("POST", "/audit/verify", obj{}, root...).want(http.StatusOK))
	head := v.Head
	if !v.Fits {
		m.t.Errorf("%+v", v)
	}
	export := m.ask("GET", "/audit/export", nil, root...).want(http.StatusOK)
	if got, err := audit.VerifyExport(bytes.NewReader(export.body), head); err != nil || got.Seq < head.Seq {
		m.t.Errorf("%v, %v", got, err)
	}
	m.sql(`UPDATE audit SET detail = 'x' WHERE seq = 3`)
	if v := as[Verdict](m.ask("POST", "/audit/verify", obj{}, root...).want(http.StatusOK)); v.Fits || v.Where != "audit entry 3" || v.Remedy == "" {
		m.t.Errorf("%+v", v)
	}
}

// secrets stores a credential and looks for it in all that was ever said.
func (m *manager) secrets(root []string) {
	m.t.Helper()
	const secret = "AKIA-very-secret-0123456789"
	m.ask("PUT", "/secrets/lab-s3", obj{"value": secret}, append(root, "Idempotency-Key", "k1")...).want(http.StatusNoContent)
	m.ask("PUT", "/secrets/lab-s3", obj{"value": secret, "odd": secret}, root...).want(http.StatusUnprocessableEntity)
	m.ask("PUT", "/secrets/A", obj{"value": secret}, root...).want(http.StatusUnprocessableEntity)
	if l := string(m.ask("GET", "/secrets", nil, root...).want(http.StatusOK).body); !strings.Contains(l, "lab-s3") || strings.Contains(l, "pki/authority") {
		m.t.Errorf("%s", l)
	}
	m.ask("POST", "/secret-keys/rotate", nil, root...).want(http.StatusNoContent)
	var got string
	if err := m.db.View(m.t.Context(), func(tx *db.Tx) error {
		return m.box.Use(m.t.Context(), tx, CredentialPrefix+"lab-s3", func(s []byte) error { got = string(s); return nil })
	}); err != nil || got != secret {
		m.t.Errorf("%q, %v", got, err)
	}
	m.ask("DELETE", "/secrets/authority", nil, root...).want(http.StatusNoContent)
	if _, err := pki.Open(m.t.Context(), pki.Options{DB: m.db, Box: m.box, Site: "berlin"}); err != nil {
		m.t.Errorf("the manager's own secret was reached: %v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for what, text := range map[string]string{"answer": m.sent.String(), "log": m.log.String()} {
		if strings.Contains(text, secret) || strings.Contains(text, password) {
			i := max(strings.Index(text, secret), strings.Index(text, password))
			m.t.Errorf("an %s holds a secret: …%s", what, text[max(0, i-200):min(len(text), i+100)])
		}
	}
}

// TestHostile: who is not who they should be, or not now, or not from here.
func TestHostile(t *testing.T) {
	m := newManager(t, dbtest.SQLite(t), "berlin", nil)
	_, admin := m.first()
	root := bearer(admin)
	// A browser: its cookie alone changes nothing.
	in := m.ask("POST", "/login", obj{"user": "root", "password": password}).want(http.StatusOK)
	c := in.Cookies()[0]
	if c.Name != auth.SessionCookie || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Domain != "" || strings.Contains(string(in.body), c.Value) {
		t.Errorf("%+v", c)
	}
	browser := []string{"Cookie", c.Name + "=" + c.Value}
	user := obj{"name": "eve", "password": password}
	m.ask("GET", "/users", nil, browser...).want(http.StatusOK)
	m.ask("POST", "/users", user, browser...).problem(http.StatusUnauthorized, errs.Denied)
	csrf := as[LoginBody](in).CSRF
	m.ask("POST", "/users", user, append(browser, auth.CSRFHeader, "x"+csrf)...).problem(http.StatusUnauthorized, errs.Denied)
	m.ask("POST", "/users", user, append(browser, auth.CSRFHeader, csrf, "Sec-Fetch-Site", "cross-site")...).problem(http.StatusUnauthorized, errs.Denied)
	m.ask("POST", "/users", user, append(browser, auth.CSRFHeader, csrf)...).want(http.StatusCreated)
	m.ask("DELETE", "/session", nil, append(browser, auth.CSRFHeader, csrf)...).want(http.StatusNoContent)
	m.ask("GET", "/users", nil, browser...).problem(http.StatusUnauthorized, errs.Denied)
	m.ask("POST", "/login", obj{"user": "root", "password": password}, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site").problem(http.StatusForbidden, errs.Denied)
	// Nobody: no certificate, no token.
	for _, path := range []string{"/enrolments/beat", "/enrolments/renew", "/pairing/beat", "/pairing/leave", "/users"} {
		m.ask("POST", path, obj{}).problem(http.StatusUnauthorized, errs.Denied)
	}
	// A stolen token that has expired.
	tok := as[TokenBody](m.ask("POST", "/tokens", obj{"title": "x", "scope": []obj{{"role": "admin"}}, "expire": "1h"}, root...).want(http.StatusCreated))
	m.ask("GET", "/users", nil, bearer(tok.Secret)...).want(http.StatusOK)
	m.sql(`UPDATE user_tokens SET expires_at = created_at`)
	m.ask("GET", "/users", nil, bearer(tok.Secret)...).problem(http.StatusUnauthorized, errs.Denied)
	// The same answer to the same key would tell the token again: it is not kept.
	headers := append(root, "Idempotency-Key", "same")
	body := obj{"title": "y", "scope": []obj{{"role": "viewer"}}, "expire": "1h"}
	m.ask("POST", "/tokens", body, headers...).want(http.StatusCreated)
	m.ask("POST", "/tokens", body, headers...).problem(http.StatusConflict, errs.Conflict)
	// Guessing.
	for range 4 {
		m.ask("POST", "/login", obj{"user": "eve", "password": "wrong wrong wrong"}).problem(http.StatusUnauthorized, errs.Denied)
	}
	m.ask("POST", "/login", obj{"user": "nobody-here", "password": "wrong wrong wrong"}).problem(http.StatusUnauthorized, errs.Denied)
	m.ask("POST", "/login", obj{"user": "eve", "password": "wrong wrong wrong"}).problem(http.StatusUnauthorized, errs.Denied)
	m.ask("POST", "/login", obj{"user": "eve", "password": password}).problem(http.StatusTooManyRequests, errs.Unavailable)
	m.boxes(root)
}

// boxes enrols one over the API, and tries what it must not do.
func (m *manager) boxes(root []string) {
	t, ctx := m.t, m.t.Context()
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tls")
	token := as[InvitationBody](m.ask("POST", "/enrolments/invitations", obj{"name": "drva-1", "role": "drva"}, root...).want(http.StatusCreated)).Token
	if _, err := enrol.Join(ctx, token, dir, "", "1.0"); err != nil {
		t.Fatal(err)
	}
	if _, err := enrol.Join(ctx, token, dir+"2", "", "1.0"); !errs.Is(err, errs.Denied) {
		t.Errorf("a token is good twice: %v", err)
	}
	creds, err := control.LoadCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	agent, cancel := context.WithCancel(ctx)
	told := make(chan enrol.Answer, 1)
	done := make(chan error, 1)
	go func() {
		done <- (&enrol.Agent{Dir: dir, Told: func(a enrol.Answer) { told <- a }}).Run(agent)
	}()
	<-told
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if b := as[enrol.Box](m.ask("GET", "/enrolments/drva-1", nil, root...).want(http.StatusOK)); b.Health != enrol.Alive {
		t.Errorf("%+v", b)
	}
	as := func(cert *tls.Certificate, path string, in any) error {
		c := msacall.New(m.URL, control.Pinned(m.pki.Fingerprint(), control.RoleManager, cert))
		defer c.Close()
		return c.Post(ctx, prefix+path, in, nil)
	}
	for _, path := range []string{"/pairing/beat", "/users", "/enrolments/invitations", "/pairing/invitations"} {
		if err := as(creds.Certificate(), path, obj{}); !errs.Is(err, errs.Denied) {
			t.Errorf("a box at %s: %v", path, err)
		}
	}
	// A box of another site, with the same name.
	other := newManager(t, dbtest.SQLite(t), "rome", nil)
	_, admin := other.first()
	dir = filepath.Join(t.TempDir(), "other")
	token = other.invite("/enrolments/invitations", admin, obj{"name": "drva-1", "role": "drva"})
	if _, err := enrol.Join(ctx, token, dir, "", "1.0"); err != nil {
		t.Fatal(err)
	}
	stranger, err := control.LoadCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := as(stranger.Certificate(), "/enrolments/beat", enrol.Beat{}); !errs.Is(err, errs.Denied) {
		t.Errorf("a box of another site: %v", err)
	}
	// It serves a domain, and gets a certificate that says so.
	m.ask("PUT", "/enrolments/drva-1/domains", obj{"domains": []string{dr.NewUUID().String()}}, root...).want(http.StatusNoContent)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := as(creds.Certificate(), "/enrolments/renew", enrol.Renewal{CSR: base64.StdEncoding.EncodeToString(csr)}); err != nil {
		t.Errorf("another certificate: %v", err)
	}
	m.ask("POST", "/enrolments/drva-1/revoke", nil, root...).want(http.StatusNoContent)
	if err := as(creds.Certificate(), "/enrolments/beat", enrol.Beat{}); !errs.Is(err, errs.Denied) {
		t.Errorf("a revoked box: %v", err)
	}
	m.ask("DELETE", "/enrolments/drva-1", nil, root...).want(http.StatusNoContent)
	m.ask("GET", "/enrolments/drva-1", nil, root...).problem(http.StatusNotFound, errs.NotFound)
}

// TestAdminEndsWaysIn: an admin takes from a user every way in there is.
func TestAdminEndsWaysIn(t *testing.T) {
	m := newManager(t, dbtest.SQLite(t), "berlin", nil)
	_, admin := m.first()
	root := bearer(admin)
	m.ask("POST", "/users", obj{"name": "carol", "password": password, "grants": []obj{{"role": "viewer"}}}, root...).want(http.StatusCreated)
	carol := bearer(m.login("carol"))
	u := as[auth.User](m.ask("GET", "/users/carol", nil, root...).want(http.StatusOK))
	m.ask("PUT", "/users/carol", obj{"title": "Carol", "grants": []obj{{"role": "auditor"}}, "version": u.Version}, root...).want(http.StatusOK)
	m.ask("GET", "/audit", nil, carol...).want(http.StatusOK) // at once
	tok := as[TokenBody](m.ask("POST", "/tokens", obj{"title": "x", "scope": []obj{{"role": "viewer"}}, "expire": "1d"}, carol...).want(http.StatusCreated))
	m.ask("DELETE", "/users/carol/tokens/"+tok.ID, nil, root...).want(http.StatusNoContent)
	m.ask("GET", "/session", nil, bearer(tok.Secret)...).problem(http.StatusUnauthorized, errs.Denied)
	second := bearer(m.login("carol"))
	list := as[struct {
		Items []auth.Session `json:"items"`
	}](m.ask("GET", "/sessions", nil, carol...).want(http.StatusOK))
	if len(list.Items) != 2 {
		t.Fatalf("%d sessions", len(list.Items))
	}
	m.ask("DELETE", "/sessions/"+list.Items[0].ID, nil, second...).want(http.StatusNoContent)
	if a, b := m.ask("GET", "/session", nil, carol...).StatusCode, m.ask("GET", "/session", nil, second...).StatusCode; a+b != http.StatusOK+http.StatusUnauthorized {
		t.Errorf("one of two sessions was ended: %d and %d", a, b)
	}
	third := bearer(m.login("carol"))
	m.ask("DELETE", "/users/carol/sessions", nil, root...).want(http.StatusNoContent)
	m.ask("GET", "/session", nil, third...).problem(http.StatusUnauthorized, errs.Denied)
	m.ask("PUT", "/users/carol/password", obj{"password": "another four words"}, root...).want(http.StatusNoContent)
	m.ask("POST", "/login", obj{"user": "carol", "password": password}).problem(http.StatusUnauthorized, errs.Denied)
	if lines := bytes.Count(m.ask("GET", "/audit/export", nil, root...).want(http.StatusOK).body, []byte("\n")); lines < 5 {
		t.Errorf("an export of %d lines", lines)
	}
}

func (m *manager) invite(path, admin string, body obj) string {
	m.t.Helper()
	return as[InvitationBody](m.ask("POST", path, body, bearer(admin)...).want(http.StatusCreated)).Token
}

// TestPairing pairs two whole managers over their APIs.
func TestPairing(t *testing.T) {
	a, b := newManager(t, dbtest.SQLite(t), "berlin", nil), newManager(t, dbtest.SQLite(t), "rome", nil)
	_, rootA := a.first()
	_, rootB := b.first()
	token := a.invite("/pairing/invitations", rootA, obj{"name": "rome"})
	if p := as[pair.Pair](b.ask("POST", "/pairing/accept", obj{"name": "berlin", "token": token}, bearer(rootB)...).want(http.StatusOK)); p.Trust != site.Trusted {
		t.Errorf("%+v", p)
	}
	id := as[IdentityBody](b.ask("GET", "/identity", nil, bearer(rootB)...).want(http.StatusOK))
	shown := as[pair.Pair](a.ask("GET", "/pairing/rome", nil, bearer(rootA)...).want(http.StatusOK))
	if shown.Status != pair.StatusPresented || shown.PresentedWords != id.Words {
		t.Errorf("%+v and %+v", shown, id)
	}
	a.ask("POST", "/pairing/rome/confirm", obj{"fingerprint": a.pki.Fingerprint()}, bearer(rootA)...).problem(http.StatusConflict, errs.Conflict)
	a.ask("POST", "/pairing/rome/confirm", obj{"fingerprint": id.Fingerprint}, bearer(rootA)...).want(http.StatusOK)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, m := range []*manager{a, b} {
		mon := &pair.Monitor{DB: m.db, PKI: m.pki, Release: "test"}
		wg.Go(func() {
			if err := mon.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	until := time.Now().Add(2 * time.Minute)
	for _, c := range []struct {
		m           *manager
		name, token string
	}{{a, "rome", rootA}, {b, "berlin", rootB}} {
		for as[pair.Pair](c.m.ask("GET", "/pairing/"+c.name, nil, bearer(c.token)...).want(http.StatusOK)).Status != pair.StatusOK {
			if time.Now().After(until) {
				t.Fatalf("%s does not become ok", c.name)
			}
			time.Sleep(20 * time.Millisecond) // between looks; what is seen decides
		}
	}
	cancel()
	wg.Wait()
	b.ask("DELETE", "/pairing/berlin", nil, bearer(rootB)...).want(http.StatusNoContent)
	if p := as[pair.Pair](a.ask("GET", "/pairing/rome", nil, bearer(rootA)...).want(http.StatusOK)); p.Status != pair.StatusRevoked {
		t.Errorf("%+v", p)
	}
}

// TestProviderLogin has a browser log in by a provider, over the API.
func TestProviderLogin(t *testing.T) {
	idp := oidctest.New(t)
	idp.Claims = map[string]any{"preferred_username": "carol", "groups": []string{"ops"}}
	m := newManager(t, dbtest.SQLite(t), "berlin", idp.Client())
	_, admin := m.first()
	m.ask("PUT", "/provider", obj{"issuer": idp.URL, "client_id": idp.ClientID, "client_secret": idp.Secret, "redirect": m.URL + prefix + "/login/provider/return",
		"groups": obj{"ops": []obj{{"role": "test-operator", "folder": "erp"}}}, "version": 0}, bearer(admin)...).want(http.StatusOK)
	if p := string(m.ask("GET", "/provider", nil, bearer(admin)...).want(http.StatusOK).body); strings.Contains(p, idp.Secret) {
		t.Errorf("the client's secret is told: %s", p)
	}
	go1 := m.ask("GET", "/login/provider?back=/plans", nil).want(http.StatusFound)
	browser := *idp.Client()
	browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := browser.Get(go1.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimPrefix(back.Path, prefix) + "?" + back.RawQuery
	m.ask("GET", path, nil).problem(http.StatusUnauthorized, errs.Denied) // another browser; and the state is spent
	go1 = m.ask("GET", "/login/provider?back=/plans", nil).want(http.StatusFound)
	if resp, err = browser.Get(go1.Header.Get("Location")); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if back, err = url.Parse(resp.Header.Get("Location")); err != nil {
		t.Fatal(err)
	}
	c := go1.Cookies()[0]
	path = strings.TrimPrefix(back.Path, prefix) + "?" + back.RawQuery
	end := m.ask("GET", path, nil, "Cookie", c.Name+"="+c.Value).want(http.StatusSeeOther)
	if end.Header.Get("Location") != "/plans" || len(end.Cookies()) != 2 {
		t.Fatalf("%v", end.Header)
	}
	for _, c := range end.Cookies() {
		if c.Name == auth.SessionCookie {
			if s := as[SessionBody](m.ask("GET", "/session", nil, "Cookie", c.Name+"="+c.Value).want(http.StatusOK)); s.User != "carol" || len(s.Grants) != 1 {
				t.Errorf("%+v", s)
			}
		}
	}
	m.ask("GET", "/login/provider?back=https://evil.example", nil).problem(http.StatusUnprocessableEntity, errs.Invalid)
	m.ask("GET", strings.TrimPrefix(back.Path, prefix)+"?error=access_denied&state=x", nil).problem(http.StatusUnauthorized, errs.Denied)
}
