package kms

import (
	"bytes"
	"strings"
	"testing"

	"holdfast/internal/errs"
)

func TestURI(t *testing.T) {
	for _, s := range []string{
		"vault://kms.example.com/transit/site", "vault://kms.example.com:8200/team/transit/site?namespace=a%2Fb",
		"vault+http://127.0.0.1:8200/transit/site", "vault+http://[::1]:8200/transit/site",
		"azurekv://x.vault.azure.net/site", "azurekv://x.vault.azure.net/site/0123",
	} {
		u, err := ParseURI(s)
		if err != nil || u.String() != s {
			t.Errorf("%s: %v %v", s, u, err)
		}
	}
	for _, s := range []string{
		"", "vault://", "vault://h", "vault://h/transit", "vault://h/transit/../sys", "vault://h/tra%2fnsit/k%20",
		"vault://user:hunter22@h/transit/k", "vault://h/transit/k#hunter22", "vault://h/transit/k?token=hunter22",
		"vault+http://kms.example.com/transit/k", "azurekv://h/a/b/c", "azurekv://h/", "https://h/transit/k", "file:///x", "azurekv://h/k?namespace=n",
		"vault://h/transit/" + strings.Repeat("k", 2000), "vault://h//k", "vault://h/a//k", "%zz",
	} {
		if _, err := ParseURI(s); !errs.Is(err, errs.Invalid) || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func FuzzURI(f *testing.F) {
	f.Add("vault://h:1/transit/k?namespace=n")
	f.Add("azurekv://x.vault.azure.net/k/1")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			return
		}
		again, err := ParseURI(u.String())
		if err != nil || again != u {
			t.Fatalf("%q: %+v, %+v, %v", s, u, again, err)
		}
	})
}

func FuzzUnbind(f *testing.F) {
	f.Add([]byte("x"), []byte("c"))
	f.Fuzz(func(t *testing.T, in, context []byte) {
		if _, err := Unbind(in, context); err == nil && len(in) <= 32 {
			t.Fatal("accepted")
		}
		b, err := Bind(in, context)
		if err != nil {
			return
		}
		if out, err := Unbind(b, context); err != nil || !bytes.Equal(out, in) {
			t.Fatal(err)
		}
		if _, err := Unbind(b, append([]byte("x"), context...)); !errs.Is(err, errs.Denied) {
			t.Fatal(err)
		}
	})
}
