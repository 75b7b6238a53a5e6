package auth

import (
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth/oidctest"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/seal"
)

const redirect = "https://msa/api/v1/login/provider/return"

// provided is a rig with a provider.
type provided struct {
	*rig
	p *oidctest.Provider
}

func (r *rig) provide() *provided {
	r.t.Helper()
	p := oidctest.New(r.t)
	p.Claims = map[string]any{"preferred_username": "Carol", "name": "Carol C", "groups": []string{"dr-runners", "staff"}}
	path := filepath.Join(r.t.TempDir(), "seal.key")
	if err := seal.Create(durable.OS{}, path, nil); err != nil {
		r.t.Fatal(err)
	}
	box, err := seal.Open(r.ctx, r.db, durable.OS{}, path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.box, r.client = box, p.Client()
	r.must(func(tx *db.Tx) error {
		if err := SetProviderSecret(r.ctx, tx, box, []byte(p.Secret), "root"); err != nil {
			return err
		}
		_, err := SetProvider(r.ctx, tx, Provider{Issuer: p.URL, ClientID: p.ClientID, Redirect: redirect, Groups: map[string][]Grant{
			"dr-runners": {{RecoveryAdmin, "erp"}}, "dr-admins": {{Admin, ""}}}})
		return err
	})
	return &provided{r, p}
}

// visit is what a browser does at the provider: it returns what the redirect says.
func (r *provided) visit(address string) (state, code string) {
	r.t.Helper()
	c := *r.p.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Get(address)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || !strings.HasPrefix(back.String(), redirect) {
		r.t.Fatalf("%s sends to %q", resp.Status, back)
	}
	return back.Query().Get("state"), back.Query().Get("code")
}

func (r *provided) begin() (state, code, secret string) {
	r.t.Helper()
	address, secret, err := r.Begin(r.ctx, "/plans?x=1")
	if err != nil {
		r.t.Fatal(err)
	}
	state, code = r.visit(address)
	return state, code, secret
}

func (r *provided) finish(state, code, secret string) (*Principal, string, error) {
	p, session, _, err := r.Finish(r.ctx, state, code, secret, "192.0.2.1:1", "test")
	return p, session, err
}

func (r *provided) whole() (*Principal, string, error) {
	r.t.Helper()
	return r.finish(r.begin())
}

func TestProvider(t *testing.T) {
	each(t, func(plain *rig) {
		plain.user("root", Grant{Admin, ""})
		if _, _, err := plain.Begin(plain.ctx, "/"); !errs.Is(err, errs.NotFound) {
			plain.t.Errorf("no provider: %v", err)
		}
		r := plain.provide()
		state, code, secret := r.begin()
		p, session, back, err := r.Finish(r.ctx, state, code, secret, "192.0.2.1:1", "test")
		if err != nil || p.User != "carol" || !p.May(PlanRun, "erp") || p.May(PlanRun, "") || back != "/plans?x=1" {
			r.t.Fatalf("%+v, %q, %v", p, back, err)
		}
		if got, err := r.ask("GET", cookie(session)); err != nil || got.User != "carol" {
			r.t.Errorf("%+v, %v", got, err)
		}
		// The state is good once, and so is the code.
		if _, _, err := r.finish(state, code, secret); !errs.Is(err, errs.Denied) {
			r.t.Errorf("replayed: %v", err)
		}
		// Their roles are what their groups are now; another name there is nobody else
		// here.
		r.p.Claims["groups"], r.p.Claims["preferred_username"] = []string{"dr-admins"}, "root"
		if p, _, err := r.whole(); err != nil || p.User != "carol" || !p.May(UserAdmin, "") || p.May(PlanRun, "x") != true {
			r.t.Errorf("%+v, %v", p, err)
		}
		// Admins of a provider do not count as somebody local.
		if err := r.tx(func(tx *db.Tx) error { return Delete(r.ctx, tx, "root") }); !errs.Is(err, errs.Conflict) {
			r.t.Errorf("the last local admin: %v", err)
		}
		// They have no password here.
		if _, _, err := r.Login(r.ctx, "carol", "", "192.0.2.1:1", ""); !errs.Is(err, errs.Denied) {
			r.t.Errorf("without a password: %v", err)
		}
		h, _ := r.Hash(r.ctx, "carol", goodPassword)
		if err := r.tx(func(tx *db.Tx) error { return SetPassword(r.ctx, tx, h, "") }); !errs.Is(err, errs.Invalid) {
			r.t.Errorf("a password of a provider's user: %v", err)
		}
		r.must(func(tx *db.Tx) error { return DeleteProvider(r.ctx, tx) })
		if _, err := r.ask("GET", cookie(session)); !errs.Is(err, errs.Denied) {
			r.t.Errorf("a session of a provider that is gone: %v", err)
		}
	})
}

// TestProviderRefusals: what is not the provider's word, about this log-in, to this
// browser, is refused; so is who has no role.
func TestProviderRefusals(t *testing.T) {
	each(t, func(plain *rig) {
		plain.user("root", Grant{Admin, ""})
		plain.user("dave")
		r := plain.provide()
		lies := map[string]func(header, body map[string]any){
			"another nonce":   func(_, b map[string]any) { b["nonce"] = "x" },
			"no nonce":        func(_, b map[string]any) { delete(b, "nonce") },
			"another client":  func(_, b map[string]any) { b["aud"] = "somebody" },
			"another issuer":  func(_, b map[string]any) { b["iss"] = "https://evil.example" },
			"expired":         func(_, b map[string]any) { b["exp"] = 1000 },
			"unsigned":        func(h, _ map[string]any) { h["alg"] = "none" },
			"symmetric":       func(h, _ map[string]any) { h["alg"] = "HS256" },
			"no subject":      func(_, b map[string]any) { delete(b, "sub") },
			"long subject":    func(_, b map[string]any) { b["sub"] = strings.Repeat("x", 300) },
			"no groups":       func(_, b map[string]any) { delete(b, "groups") },
			"odd groups":      func(_, b map[string]any) { b["groups"] = map[string]any{"dr-admins": true} },
			"a local name":    func(_, b map[string]any) { b["preferred_username"] = "dave" },
			"a box's name":    func(_, b map[string]any) { b["preferred_username"] = "peer/x" },
			"no name":         func(_, b map[string]any) { delete(b, "preferred_username") },
			"a name of bytes": func(_, b map[string]any) { b["preferred_username"] = "a\x00b" },
		}
		for name, lie := range lies {
			r.p.Lie = lie
			if _, _, err := r.whole(); !errs.Is(err, errs.Denied) {
				r.t.Errorf("%s: %v", name, err)
			}
		}
		r.p.Lie, r.p.Forge = nil, true
		if _, _, err := r.whole(); !errs.Is(err, errs.Denied) {
			r.t.Errorf("forged: %v", err)
		}
		r.p.Forge = false
		// Another browser, which was lured to the return address.
		state, code, _ := r.begin()
		_, other, _ := r.Begin(r.ctx, "/")
		if _, _, err := r.finish(state, code, other); !errs.Is(err, errs.Denied) {
			r.t.Errorf("another browser: %v", err)
		}
		// A code that was begun with another verifier: a stolen one.
		_, stolen, _ := r.begin()
		state, _, secret := r.begin()
		refused := r.p.Refused
		if _, _, err := r.finish(state, stolen, secret); !errs.Is(err, errs.Denied) || r.p.Refused == refused {
			r.t.Errorf("a stolen code: %v", err)
		}
		state, code, secret = r.begin()
		r.sql(`UPDATE single_tokens SET expires_at = created_at`)
		if _, _, err := r.finish(state, code, secret); !errs.Is(err, errs.Denied) {
			r.t.Errorf("too late: %v", err)
		}
		if _, _, err := r.whole(); err != nil {
			r.t.Fatalf("the rig itself: %v", err)
		}
		r.sql(`UPDATE users SET disabled = 1 WHERE name = 'carol'`)
		if _, _, err := r.whole(); !errs.Is(err, errs.Denied) {
			r.t.Errorf("disabled: %v", err)
		}
		for _, back := range []string{"", "https://evil.example", "//evil.example", "/\\evil.example", "/a\nb", "javascript:x"} {
			if _, _, err := r.Begin(r.ctx, back); !errs.Is(err, errs.Invalid) {
				r.t.Errorf("back to %q: %v", back, err)
			}
		}
		// A provider that is away.
		r.p.Close()
		r.provider.found = nil
		if _, _, err := r.Begin(r.ctx, "/"); !errs.Is(err, errs.Unavailable) {
			r.t.Errorf("away: %v", err)
		}
	})
}

func TestProviderSettings(t *testing.T) {
	each(t, func(r *rig) {
		good := Provider{Issuer: "https://idp", ClientID: "x", Redirect: redirect, Groups: map[string][]Grant{"g": {{Viewer, ""}}}}
		set := func(p Provider) error {
			return r.tx(func(tx *db.Tx) error { _, err := SetProvider(r.ctx, tx, p); return err })
		}
		for name, f := range map[string]func(*Provider){
			"no TLS":    func(p *Provider) { p.Issuer = "http://idp" },
			"password":  func(p *Provider) { p.Issuer = "https://a:b@idp" },
			"no client": func(p *Provider) { p.ClientID = "" },
			"no groups": func(p *Provider) { p.Groups = nil },
			"odd role":  func(p *Provider) { p.Groups = map[string][]Grant{"g": {{"god", ""}}} },
		} {
			bad := good
			f(&bad)
			if err := set(bad); !errs.Is(err, errs.Invalid) {
				r.t.Errorf("%s: %v", name, err)
			}
		}
		if err := set(good); err != nil {
			r.t.Fatal(err)
		}
		if err := set(good); !errs.Is(err, errs.Conflict) {
			r.t.Errorf("a lost update: %v", err)
		}
		good.Version = 1
		if err := set(good); err != nil {
			r.t.Error(err)
		}
	})
}
