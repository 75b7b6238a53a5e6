package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/bundle"
	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/site"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// planted are secrets as they end up in words of platforms, scripts and people.
var planted = map[string]string{
	"url":        "connect postgres://holdfast:s3cretA@db/x failed",
	"header":     "Authorization: Bearer s3cretBBBBBBBB",
	"json":       `{"password":"s3cretC","user":"ada"}`,
	"escaped":    `{"x":"{\"client_secret\":\"s3cretD\"}"}`,
	"yaml":       "secret_access_key: s3cretE",
	"query":      "https://acc.blob.core.windows.net/c?sv=1&sig=s3cretF%3D&se=2",
	"pem":        "-----BEGIN EC PRIVATE KEY-----\ns3cretG\n-----END EC PRIVATE KEY-----",
	"cut pem":    "-----BEGIN PRIVATE KEY-----\ns3cretH",
	"age":        "AGE-SECRET-KEY-1S3CRETI00000",
	"aws":        "AKIAS3CRETJ000000000",
	"jwt":        "eyJhbGciOiJs3cretK.eyJzdWIiOiJs3cretK.s3cretK",
	"assign":     "HOLDFAST_TOKEN='s3cretL' failed",
	"azure":      "AccountKey=s3cretM==;EndpointSuffix=x",
	"passphrase": "passphrase = s3cretN",
}

// TestNoSecrets: whatever is planted where, none of it is in a bundle; and a bundle
// without scrubbing is noticed to have it.
func TestNoSecrets(t *testing.T) {
	d, err := db.Open(t.Context(), dbtest.SQLite(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	var cat catalog.Catalog
	err = d.Tx(t.Context(), func(tx *db.Tx) error {
		for where, words := range planted {
			if err := alarm.Set(t.Context(), tx, alarm.StoreAway, where, true, words); err != nil {
				return err
			}
			s := &site.Site{Meta: site.Meta{Name: site.Name("s-" + strings.ReplaceAll(where, " ", "-")), Title: strings.ReplaceAll(words, "\n", " ")}, Platform: site.Fake}
			if _, _, err := cat.Put(t.Context(), tx, s, "ada"); err != nil {
				return err
			}
		}
		o := alarm.Outlet{Name: "mail", Sort: alarm.Mail, Address: "h:25", TLS: "tls", From: "a@b.c", To: []string{"d@e.f"}, User: "u", Secret: "smtp"}
		return alarm.PutOutlet(t.Context(), tx, &o, "ada")
	})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := bundle.Write(t.Context(), &b, bundle.Options{DB: d, Release: "test", Metrics: func() ([]byte, error) { return []byte("holdfast_up 1"), errors.New("half of it") }}); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
		for _, s := range []string{"s3cret", "S3CRET"} {
			if i := strings.Index(string(text), s); i >= 0 {
				t.Errorf("%s has a secret: …%s…", h.Name, text[max(0, i-40):min(len(text), i+20)])
			}
		}
	}
	for name, want := range map[string]string{
		"version.json": `"release": "test"`, "configuration.yaml": "name: s-yaml", "alarms.json": "store-away", "outlets.json": "h:25",
		"metrics.txt": "half of it", "goroutines.txt": "goroutine profile", "changes.json": "create", "runs.json": "", "events.json": "raised",
	} {
		if text, ok := files["holdfast/"+name]; !ok || !strings.Contains(text, want) {
			t.Errorf("%s lacks %q: %.200s", name, want, text)
		}
	}
	for where, words := range planted {
		if !strings.Contains(strings.ToLower(words), "s3cret") || strings.Contains(strings.ToLower(string(bundle.Scrub([]byte(words)))), "s3cret") {
			t.Errorf("%s: %q is scrubbed to %q", where, words, bundle.Scrub([]byte(words)))
		}
	}
	// What is no secret stays.
	for _, words := range []string{"domain erp is 12 s behind", "https://h/p?x=1", "the token was refused", "sha256=abc"} {
		if got := string(bundle.Scrub([]byte(words))); got != words {
			t.Errorf("%q became %q", words, got)
		}
	}
}
