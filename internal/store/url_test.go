package store_test

import (
	"strings"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

func TestParseCloudURL(t *testing.T) {
	for raw, want := range map[string]store.URL{
		"azblob://acct1/cont":             {Scheme: "azblob", Account: "acct1", Bucket: "cont"},
		"azblob://acct1/cont/":            {Scheme: "azblob", Account: "acct1", Bucket: "cont"},
		"azblob://acct1/cont-1/Backup/x/": {Scheme: "azblob", Account: "acct1", Bucket: "cont-1", Prefix: "Backup/x"},
		"azblob://devstoreaccount1/c01?endpoint=http://127.0.0.1:10000/devstoreaccount1/&ca=/etc/ca.pem": {
			Scheme: "azblob", Account: "devstoreaccount1", Bucket: "c01", Endpoint: "http://127.0.0.1:10000/devstoreaccount1", CA: "/etc/ca.pem"},
		"s3://b.kt/p/q": {Scheme: "s3", Bucket: "b.kt", Prefix: "p/q"},
		"s3://bkt?endpoint=https%3A%2F%2Fhost%3A9000&region=eu-west-1&path-style=true": {
			Scheme: "s3", Bucket: "bkt", Endpoint: "https://host:9000", Region: "eu-west-1", PathStyle: true},
		"s3://bkt?path-style=false": {Scheme: "s3", Bucket: "bkt"},
		"s3://bkt?endpoint=http://host:9000&insecure=true": {
			Scheme: "s3", Bucket: "bkt", Endpoint: "http://host:9000", Insecure: true},
	} {
		u, err := store.ParseURL(raw)
		if err != nil || u != want {
			t.Errorf("%s: got %+v, %v; want %+v", raw, u, err, want)
			continue
		}
		if again, err := store.ParseURL(u.String()); err != nil || again != u {
			t.Errorf("%s: written as %s, read as %+v, %v", raw, u, again, err)
		}
	}
	long := strings.Repeat("abc/", store.MaxKey/4) + "a"
	for _, raw := range []string{
		"azblob://", "azblob://acct1", "azblob://acct1/", "azblob:acct1/cont", "azblob://Acct/cont", "azblob://a/cont", "azblob://acct1/c",
		"azblob://acct1/cont//x", "azblob://acct1/cont/../x", "azblob://acct1/cont/.x", "azblob://acct1/cont/a%20b", "azblob://acct1/cont/" + long,
		"azblob://acct1/$root/x", "azblob://acct1/co.nt", "azblob://acct1/cont?region=x", "azblob://acct1/cont?ca=ca.pem", "azblob://acct1/cont#x", "azblob://acct1:80/cont",
		"s3://", "s3:///x", "s3://Bucket", "s3://bkt?region=EU", "s3://bkt?path-style=yes", "s3://bkt?insecure=1", "s3://bkt?insecure", "s3://bkt?region=a&region=b", "s3://bkt?%zz", "s3://bkt?a;b",
		"s3://bkt?endpoint=host:9000", "s3://bkt?endpoint=https://", "s3://bkt?endpoint=https://h/?x=1", "s3://bkt?endpoint=ftp://h", "s3://bkt?endpoint=https://u:p@h",
	} {
		scheme, _, _ := strings.Cut(raw, ":")
		u, err := store.ParseURL(raw)
		if !errs.Is(err, errs.Invalid) || !strings.Contains(errs.RemedyOf(err), scheme+"://") {
			t.Errorf("%q: got %+v, %v (remedy %q)", raw, u, err, errs.RemedyOf(err))
		}
	}
}

// TestParseURLKeepsSecrets: whoever writes a secret into an address finds it
// in no message.
func TestParseURLKeepsSecrets(t *testing.T) {
	for _, raw := range []string{
		"azblob://acct1/cont?sv=2024&sig=geheim", "azblob://acct1:geheim@acct1/cont", "s3://key:geheim@bucket/p", "s3://bkt?secret=geheim",
		"s3://bkt?endpoint=https://u:geheim@h", "ftp://u:geheim@h/p", "s3://u:geheim@h\x7f/", "ftp://h?geheim",
	} {
		_, err := store.ParseURL(raw)
		if !errs.Is(err, errs.Invalid) || strings.Contains(err.Error()+errs.RemedyOf(err), "geheim") {
			t.Errorf("%q: %v, remedy %q", raw, err, errs.RemedyOf(err))
		}
	}
}
