package oidctest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Provider is a running provider. Its fields may be changed between log-ins.
type Provider struct {
	*httptest.Server
	ClientID, Secret string
	// Claims is what it says of whoever logs in, besides what the protocol asks for.
	Claims map[string]any
	// Lie changes a word right before it is signed: the header's and the body's
	// fields.
	Lie func(header, body map[string]any)
	// Forge signs with a key nobody knows.
	Forge bool

	t       testing.TB
	mu      sync.Mutex
	key     *rsa.PrivateKey
	codes   map[string]url.Values // what each unused code was asked with
	Refused int                   // codes that were not taken
}

// New starts a provider, over TLS, that ends with the test.
func New(t testing.TB) *Provider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &Provider{ClientID: "holdfast", Secret: "provider-client-secret", Claims: map[string]any{}, t: t, key: key, codes: map[string]url.Values{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", p.discovery)
	mux.HandleFunc("/authorize", p.authorize)
	mux.HandleFunc("/token", p.token)
	mux.HandleFunc("/keys", p.keys)
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	return p
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who left needs no answer
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	reply(w, map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token",
		"jwks_uri": p.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}, "response_types_supported": []string{"code"},
		"subject_types_supported": []string{"public"}})
}

func (p *Provider) keys(w http.ResponseWriter, _ *http.Request) {
	b64 := base64.RawURLEncoding.EncodeToString
	reply(w, map[string]any{"keys": []any{map[string]any{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1",
		"n": b64(p.key.N.Bytes()), "e": b64(big.NewInt(int64(p.key.E)).Bytes())}}})
}

// authorize is the page at which a person would log in: they do, at once.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("client_id") != p.ClientID || q.Get("code_challenge_method") != "S256" {
		http.Error(w, "not this client, or without PKCE", http.StatusBadRequest)
		return
	}
	code := rand.Text()
	p.mu.Lock()
	p.codes[code] = q
	p.mu.Unlock()
	back := url.Values{"state": {q.Get("state")}, "code": {code}}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm() // what is missing is refused below
	p.mu.Lock()
	q, ok := p.codes[r.Form.Get("code")]
	delete(p.codes, r.Form.Get("code")) // each is good once
	p.mu.Unlock()
	sum := sha256.Sum256([]byte(r.Form.Get("code_verifier")))
	id, secret, basic := r.BasicAuth()
	if !basic {
		id, secret = r.Form.Get("client_id"), r.Form.Get("client_secret")
	}
	if !ok || id != p.ClientID || secret != p.Secret || q.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
		p.mu.Lock()
		p.Refused++
		p.mu.Unlock()
		w.WriteHeader(http.StatusBadRequest)
		reply(w, map[string]any{"error": "invalid_grant"})
		return
	}
	now := time.Now().Unix()
	body := map[string]any{"iss": p.URL, "aud": p.ClientID, "iat": now, "exp": now + 300, "nonce": q.Get("nonce"), "sub": "subject-1"}
	for k, v := range p.Claims {
		body[k] = v
	}
	reply(w, map[string]any{"access_token": rand.Text(), "token_type": "Bearer", "expires_in": 300, "id_token": p.sign(body)})
}

// sign makes a word: JSON, base64 and an RSA signature.
func (p *Provider) sign(body map[string]any) string {
	header := map[string]any{"alg": "RS256", "typ": "JWT", "kid": "1"}
	if p.Lie != nil {
		p.Lie(header, body)
	}
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			p.t.Error(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(header) + "." + part(body)
	if header["alg"] == "none" {
		return text + "."
	}
	key := p.key
	if p.Forge {
		var err error
		if key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			p.t.Error(err)
		}
	}
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		p.t.Error(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}
