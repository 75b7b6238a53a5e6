//go:build kmsreal

package cli

import (
	"net/http"
	"testing"

	"holdfast/internal/kms/kmstest"
)

// TestRealKeyServiceFromCreationToRestore: with a running Vault, and a token
// that has the rights docs/operate/keys.md asks for and no other.
func TestRealKeyServiceFromCreationToRestore(t *testing.T) {
	v := kmstest.StartVault(t)
	v.Call(t, http.MethodPost, "transit/keys/site", map[string]any{})
	t.Setenv("VAULT_TOKEN", v.TokenFor(t, "holdfast", `
path "transit/keys/+"       { capabilities = ["read"] }
path "transit/encrypt/site" { capabilities = ["update"] }
path "transit/decrypt/site" { capabilities = ["update"] }
`))
	keyServiceLife(t, "vault+http://"+v.Address+"/transit/site")
}
