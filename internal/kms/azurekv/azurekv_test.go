package azurekv

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys/fake"

	"holdfast/internal/errs"
	"holdfast/internal/kms"
	"holdfast/internal/kms/kmstest"
)

const host = "unit.vault.azure.net"

// vault stands for the service behind the SDK's fake transport: real RSA, real
// requests of the SDK, no network. It proves the driver against the SDK's
// understanding of the service, not against the service.
type vault struct {
	mu   sync.Mutex
	keys map[string][]*rsa.PrivateKey
	deny bool
}

var testKeys = sync.OnceValue(func() (out []*rsa.PrivateKey) {
	for range 3 {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		out = append(out, k)
	}
	return out
})

func (v *vault) id(name string, n int) *azkeys.ID {
	name, _, _ = strings.Cut(name, "/")
	id := azkeys.ID(fmt.Sprintf("https://%s/keys/%s/%032x", host, name, n))
	return &id
}

// find returns a version's key, the newest when version is empty, and its number.
func (v *vault) find(name, version string) (*rsa.PrivateKey, int) {
	// The fake transport's pattern takes the version for a part of the name.
	if n, ver, ok := strings.Cut(name, "/"); ok && version == "" {
		name, version = n, ver
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	ks := v.keys[name]
	for i, k := range ks {
		if version == fmt.Sprintf("%032x", i+1) || version == "" && i == len(ks)-1 {
			return k, i + 1
		}
	}
	return nil, 0
}

func (v *vault) refuses(r *azfake.ErrorResponder, k *rsa.PrivateKey) bool {
	switch {
	case v.deny:
		r.SetResponseError(http.StatusForbidden, "Forbidden")
	case k == nil:
		r.SetResponseError(http.StatusNotFound, "KeyNotFound")
	default:
		return false
	}
	return true
}

func (v *vault) transport() policy.Transporter {
	return prompt{fake.NewServerTransport(&fake.Server{
		GetKey: func(_ context.Context, name, version string, _ *azkeys.GetKeyOptions) (resp azfake.Responder[azkeys.GetKeyResponse], errResp azfake.ErrorResponder) {
			k, n := v.find(name, version)
			if !v.refuses(&errResp, k) {
				kty := azkeys.KeyTypeRSA
				resp.SetResponse(http.StatusOK, azkeys.GetKeyResponse{KeyBundle: azkeys.KeyBundle{Key: &azkeys.JSONWebKey{KID: v.id(name, n), Kty: &kty}}}, nil)
			}
			return resp, errResp
		},
		WrapKey: func(_ context.Context, name, version string, p azkeys.KeyOperationParameters, _ *azkeys.WrapKeyOptions) (resp azfake.Responder[azkeys.WrapKeyResponse], errResp azfake.ErrorResponder) {
			k, n := v.find(name, version)
			if v.refuses(&errResp, k) {
				return resp, errResp
			}
			out, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &k.PublicKey, p.Value, nil)
			if err != nil || *p.Algorithm != azkeys.EncryptionAlgorithmRSAOAEP256 {
				errResp.SetResponseError(http.StatusBadRequest, "BadParameter")
				return resp, errResp
			}
			resp.SetResponse(http.StatusOK, azkeys.WrapKeyResponse{KeyOperationResult: azkeys.KeyOperationResult{KID: v.id(name, n), Result: out}}, nil)
			return resp, errResp
		},
		UnwrapKey: func(_ context.Context, name, version string, p azkeys.KeyOperationParameters, _ *azkeys.UnwrapKeyOptions) (resp azfake.Responder[azkeys.UnwrapKeyResponse], errResp azfake.ErrorResponder) {
			k, n := v.find(name, version)
			if v.refuses(&errResp, k) {
				return resp, errResp
			}
			out, err := rsa.DecryptOAEP(sha256.New(), nil, k, p.Value, nil)
			if err != nil {
				errResp.SetResponseError(http.StatusBadRequest, "BadParameter")
				return resp, errResp
			}
			resp.SetResponse(http.StatusOK, azkeys.UnwrapKeyResponse{KeyOperationResult: azkeys.KeyOperationResult{KID: v.id(name, n), Result: out}}, nil)
			return resp, errResp
		},
	})}
}

// prompt ends requests whose context is over, at which the fake transport
// panics now and then.
type prompt struct{ policy.Transporter }

func (p prompt) Do(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return p.Transporter.Do(r)
}

func client(t *testing.T, v *vault, key string) *Client {
	t.Helper()
	u, err := kms.ParseURI("azurekv://" + host + "/" + key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(u, Options{Credential: &azfake.TokenCredential{}, Transport: v.transport()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestContract(t *testing.T) {
	kmstest.Run(t, func(t *testing.T) kmstest.Service {
		ks := testKeys()
		v := &vault{keys: map[string][]*rsa.PrivateKey{"site": {ks[0]}, "other": {ks[1]}}}
		return kmstest.Service{
			Client: client(t, v, "site"), Other: client(t, v, "other"), Missing: client(t, v, "missing"),
			Refused: client(t, &vault{keys: v.keys, deny: true}, "site"),
			Rotate: func() {
				v.mu.Lock()
				defer v.mu.Unlock()
				v.keys["site"] = append(v.keys["site"], ks[2])
			},
		}
	})
}

// refusing is a credential the directory does not accept.
type refusing struct{}

func (refusing) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, errors.New("secret words of the directory")
}

func TestACredentialThatIsRefused(t *testing.T) {
	v := &vault{keys: map[string][]*rsa.PrivateKey{"site": testKeys()[:1]}}
	u, err := kms.ParseURI("azurekv://" + host + "/site")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(u, Options{Credential: refusing{}, Transport: v.transport()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wrap(t.Context(), []byte("x"), nil); err == nil || strings.Contains(err.Error(), "secret words") || errs.RemedyOf(err) == "" {
		t.Errorf("%v", err)
	}
}
