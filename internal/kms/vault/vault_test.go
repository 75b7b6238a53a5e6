package vault

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/kms"
	"holdfast/internal/kms/kmstest"
)

const testToken = "hvs.secret-test-token"

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
				e := kmstest.NewTransit(testToken, "site", "other")
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
					Refused: open(t, srv, "site", no), Rotate: func() { e.Rotate("site") }, Secrets: []string{testToken, "hvs.wrong-secret-token"}}
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
	srv := httptest.NewTLSServer(kmstest.NewTransit(testToken, "site"))
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
