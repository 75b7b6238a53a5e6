package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/kms"
	"holdfast/internal/kms/kmstest"
)

const testToken = "hvs.secret-test-token"

// engine behaves as the transit engine is documented to: versions, associated
// data, keys made by encrypting, and the statuses of refusals.
type engine struct {
	mu   sync.Mutex
	keys map[string][]cipher.AEAD
}

func newEngine(names ...string) *engine {
	e := &engine{keys: make(map[string][]cipher.AEAD)}
	for _, n := range names {
		e.rotate(n)
	}
	return e
}

func (e *engine) rotate(name string) {
	k := make([]byte, 32)
	rand.Read(k)
	b, err := aes.NewCipher(k)
	if err != nil {
		panic(err)
	}
	g, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys[name] = append(e.keys[name], g)
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int) { http.Error(w, `{"errors":["no: `+r.Header.Get("X-Vault-Token")+`"]}`, status) }
	if r.Header.Get("X-Vault-Token") != testToken {
		refuse(http.StatusForbidden)
		return
	}
	verb, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
	e.mu.Lock()
	key := e.keys[name]
	e.mu.Unlock()
	var in struct {
		Plaintext  []byte `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
		AD         []byte `json:"associated_data"`
	}
	if r.Method == http.MethodPost && json.NewDecoder(r.Body).Decode(&in) != nil {
		refuse(http.StatusBadRequest)
		return
	}
	answer := map[string]any{}
	switch verb {
	case "keys":
		if key == nil {
			refuse(http.StatusNotFound)
			return
		}
		answer["type"], answer["latest_version"], answer["supports_encryption"] = "aes256-gcm96", len(key), true
	case "encrypt":
		if key == nil { // the engine makes it
			e.rotate(name)
			key = e.keys[name]
		}
		nonce := make([]byte, 12)
		rand.Read(nonce)
		answer["ciphertext"] = fmt.Sprintf("vault:v%d:%s", len(key), base64.StdEncoding.EncodeToString(key[len(key)-1].Seal(nonce, nonce, in.Plaintext, in.AD)))
	case "decrypt":
		var v int
		var text string
		_, err := fmt.Sscanf(strings.Replace(in.Ciphertext, ":", " ", 2), "vault v%d %s", &v, &text)
		b, derr := base64.StdEncoding.DecodeString(text)
		if err != nil || derr != nil || v < 1 || v > len(key) || len(b) < 12 {
			refuse(http.StatusBadRequest)
			return
		}
		plain, err := key[v-1].Open(nil, b[:12], b[12:], in.AD)
		if err != nil {
			refuse(http.StatusBadRequest)
			return
		}
		answer["plaintext"] = plain
	default:
		refuse(http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": answer})
}

func open(t *testing.T, srv *httptest.Server, key string, o Options) *Client {
	t.Helper()
	scheme := "vault"
	if strings.HasPrefix(srv.URL, "http:") {
		scheme = "vault+http"
	}
	_, host, _ := strings.Cut(srv.URL, "://")
	u, err := kms.ParseURI(scheme + "://" + host + "/transit/" + key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(u, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func caFile(t *testing.T, srv *httptest.Server) string {
	p := filepath.Join(t.TempDir(), "ca.pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestContract(t *testing.T) {
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", tls), func(t *testing.T) {
			kmstest.Run(t, func(t *testing.T) kmstest.Service {
				e := newEngine("site", "other")
				var srv *httptest.Server
				o, no := Options{Token: testToken}, Options{Token: "hvs.wrong-secret-token"}
				if tls {
					srv = httptest.NewTLSServer(e)
					o.CAFile = caFile(t, srv)
					no.CAFile = o.CAFile
				} else {
					srv = httptest.NewServer(e)
				}
				t.Cleanup(srv.Close)
				return kmstest.Service{Client: open(t, srv, "site", o), Other: open(t, srv, "other", o), Missing: open(t, srv, "missing", o),
					Refused: open(t, srv, "site", no), Rotate: func() { e.rotate("site") }, Secrets: []string{testToken, "hvs.wrong-secret-token"}}
			})
		})
	}
}

func TestAnswersOfAServiceInTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter)
		kind   errs.Kind
	}{
		"sealed":    {func(w http.ResponseWriter) { w.WriteHeader(503) }, errs.Unavailable},
		"busy":      {func(w http.ResponseWriter) { w.WriteHeader(429) }, errs.Transient},
		"broken":    {func(w http.ResponseWriter) { w.WriteHeader(500) }, errs.Transient},
		"elsewhere": {func(w http.ResponseWriter) { w.Header().Set("Location", "http://127.0.0.2:1/"); w.WriteHeader(307) }, errs.Unavailable},
		"no JSON":   {func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) }, errs.Corrupt},
		"endless":   {func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, maxAnswer+10)) }, errs.Corrupt},
		"RSA": {func(w http.ResponseWriter) {
			_, _ = w.Write([]byte(`{"data":{"type":"rsa-2048","latest_version":1,"supports_encryption":true}}`))
		}, errs.Invalid},
		"derived": {func(w http.ResponseWriter) {
			_, _ = w.Write([]byte(`{"data":{"type":"aes256-gcm96","latest_version":1,"supports_encryption":true,"derived":true}}`))
		}, errs.Invalid},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.answer(w) }))
		_, err := open(t, srv, "site", Options{Token: testToken}).Wrap(t.Context(), []byte("s"), nil)
		if !errs.Is(err, c.kind) || strings.Contains(err.Error(), testToken) {
			t.Errorf("%s: %v (%v)", name, err, errs.KindOf(err))
		}
		srv.Close()
	}
	srv := httptest.NewTLSServer(newEngine("site"))
	defer srv.Close()
	if _, err := open(t, srv, "site", Options{Token: testToken}).Describe(t.Context()); !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.RemedyOf(err), "VAULT_CACERT") {
		t.Errorf("a CA nobody knows: %v", err)
	}
	silent := make(chan struct{})
	mute := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-silent }))
	defer mute.Close()
	defer close(silent)
	if _, err := open(t, mute, "site", Options{Token: testToken, Timeout: 50 * time.Millisecond}).Describe(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a mute service: %v", err)
	}
}

func TestFromEnv(t *testing.T) {
	p := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(p, []byte(testToken+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"BAO_TOKEN_FILE": p, "BAO_NAMESPACE": "team"}
	get := func(k string) string { return env[k] }
	if _, err := FromEnv(get); !errs.Is(err, errs.Denied) {
		t.Errorf("a token others may read: %v", err)
	}
	if err := os.Chmod(p, 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err := FromEnv(get); err != nil || o.Token != testToken || o.Namespace != "team" || strings.Contains(fmt.Sprintf("%v %+v %#v", o, o, o), testToken) {
		t.Errorf("%v %v", o, err)
	}
	if _, err := FromEnv(func(string) string { return "" }); !errs.Is(err, errs.Denied) {
		t.Errorf("no token: %v", err)
	}
}
