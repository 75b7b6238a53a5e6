//go:build kmsreal

package vault

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/kms"
	"holdfast/internal/kms/kmstest"
)

// documented is the policy that docs/operate/keys.md asks for, for three keys
// of which one does not exist.
const documented = `
path "transit/keys/+"    { capabilities = ["read"] }
path "transit/encrypt/+" { capabilities = ["update"] }
path "transit/decrypt/+" { capabilities = ["update"] }
`

// realKey is a client of a key of a running Vault.
func realKey(t *testing.T, v *kmstest.Vault, key, token string) *Client {
	t.Helper()
	u, err := kms.ParseURI("vault+http://" + v.Address + "/transit/" + key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(u, Options{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContractOfARealVault(t *testing.T) {
	v := kmstest.StartVault(t)
	token := v.TokenFor(t, "holdfast", documented)
	stranger := v.TokenFor(t, "stranger", `path "secret/*" { capabilities = ["read"] }`)
	kmstest.Run(t, func(t *testing.T) kmstest.Service {
		for _, name := range []string{"site", "other"} {
			v.Call(t, http.MethodPost, "transit/keys/"+name, map[string]any{})
		}
		return kmstest.Service{
			Client: realKey(t, v, "site", token), Other: realKey(t, v, "other", token),
			Missing: realKey(t, v, "missing", token), Refused: realKey(t, v, "site", stranger),
			Rotate:  func() { v.Call(t, http.MethodPost, "transit/keys/site/rotate", map[string]any{}) },
			Secrets: []string{token, stranger},
		}
	})
}

func TestTroubleOfARealVault(t *testing.T) {
	v := kmstest.StartVault(t)
	token := v.TokenFor(t, "holdfast", documented)
	v.Call(t, http.MethodPost, "transit/keys/site", map[string]any{})
	c := realKey(t, v, "site", token)
	secret, binding := []byte("0123456789abcdef0123456789abcdef"), []byte("container 7")
	old, err := c.Wrap(t.Context(), secret, binding)
	if err != nil {
		t.Fatal(err)
	}
	fails := func(what string, c *Client, kind errs.Kind) {
		t.Helper()
		_, err := c.Unwrap(t.Context(), old, binding)
		if !errs.Is(err, kind) || strings.Contains(err.Error()+errs.RemedyOf(err), token) {
			t.Errorf("%s: %v", what, err)
		}
	}
	fails("an engine that is not there", realKeyAt(t, v, "elsewhere", token), errs.Denied)
	fails("a token that is none", realKey(t, v, "site", "hvs.none"), errs.Denied)
	for _, typ := range []string{"rsa-2048", "ed25519"} {
		v.Call(t, http.MethodPost, "transit/keys/"+typ, map[string]any{"type": typ})
		if _, err := realKey(t, v, typ, token).Wrap(t.Context(), secret, binding); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", typ, err)
		}
	}
	v.Call(t, http.MethodPost, "transit/keys/derived", map[string]any{"derived": true})
	if _, err := realKey(t, v, "derived", token).Wrap(t.Context(), secret, binding); !errs.Is(err, errs.Invalid) {
		t.Errorf("derived: %v", err)
	}
	for _, typ := range []string{"aes128-gcm96", "chacha20-poly1305"} {
		v.Call(t, http.MethodPost, "transit/keys/"+typ, map[string]any{"type": typ})
		c := realKey(t, v, typ, token)
		w, err := c.Wrap(t.Context(), secret, binding)
		if err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
		if out, err := c.Unwrap(t.Context(), w, binding); err != nil || !bytes.Equal(out, secret) {
			t.Errorf("%s: %v", typ, err)
		}
	}

	// Sealed, and open again.
	v.Call(t, http.MethodPut, "sys/seal", map[string]any{})
	fails("sealed", c, errs.Unavailable)
	v.Call(t, http.MethodPut, "sys/unseal", map[string]any{"key": v.Unseal})
	if out, err := c.Unwrap(t.Context(), old, binding); err != nil || !bytes.Equal(out, secret) {
		t.Errorf("after it was unsealed: %v", err)
	}

	// The version that wrapped is retired, then the key is gone.
	v.Call(t, http.MethodPost, "transit/keys/site/rotate", map[string]any{})
	v.Call(t, http.MethodPost, "transit/keys/site/config", map[string]any{"min_decryption_version": 2, "deletion_allowed": true})
	fails("a retired version", c, errs.Denied)
	v.Call(t, http.MethodDelete, "transit/keys/site", map[string]any{})
	_, err = c.Unwrap(t.Context(), old, binding)
	if k := errs.KindOf(err); k != errs.Denied && k != errs.NotFound {
		t.Errorf("a deleted key: %v", err)
	}
	if _, err := c.Wrap(t.Context(), secret, binding); !errs.Is(err, errs.NotFound) {
		t.Errorf("wrapping with a deleted key: %v", err)
	}
}

func realKeyAt(t *testing.T, v *kmstest.Vault, mount, token string) *Client {
	t.Helper()
	u, err := kms.ParseURI("vault+http://" + v.Address + "/" + mount + "/site")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(u, Options{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
