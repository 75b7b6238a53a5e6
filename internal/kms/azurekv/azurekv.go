// Package azurekv wraps secrets with a key of Azure Key Vault or Managed HSM
// by RSA-OAEP-256.
//
// It needs the permissions get, wrapKey and unwrapKey on the key. Key Vault
// has no associated data for RSA: the context is bound by its digest inside
// what is wrapped. The service is reached over HTTPS alone, and a token is
// given only to the vault that the address names.
package azurekv

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"holdfast/internal/errs"
	"holdfast/internal/kms"
)

// defaultTimeout bounds one call with its repetitions.
const defaultTimeout = 30 * time.Second

// maxRetries of one request; the caller decides about more.
const maxRetries = 2

// Options are the credentials and the way to the service.
type Options struct {
	Credential azcore.TokenCredential // required
	Transport  policy.Transporter     // nil: the SDK's
	Timeout    time.Duration          // of one call; zero: 30 s
}

// FromEnv takes the credential as all Azure tools do: AZURE_* variables,
// workload identity, managed identity, or who is logged in. Kind Denied when there is none.
func FromEnv() (Options, error) {
	cred, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return Options{}, errs.New("azurekv.FromEnv", errs.Denied, "", "there is no Azure credential in the environment").
			WithRemedy("set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or give this machine a managed identity")
	}
	return Options{Credential: cred}, nil
}

// Client is a key of a vault.
type Client struct {
	uri     kms.URI
	keys    *azkeys.Client
	timeout time.Duration
}

var _ kms.Client = (*Client)(nil)

// Open returns a client of the key at u; it asks the service nothing yet.
func Open(u kms.URI, o Options) (*Client, error) {
	const op = "azurekv.Open"
	if u.Scheme != "azurekv" || o.Credential == nil {
		return nil, errs.New(op, errs.Invalid, u.String(), "not the address of a Key Vault key, or no credential")
	}
	opts := azkeys.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: o.Transport,
		Retry:     policy.RetryOptions{MaxRetries: maxRetries},
		Telemetry: policy.TelemetryOptions{Disabled: true},
	}}
	keys, err := azkeys.NewClient("https://"+u.Host, o.Credential, &opts)
	if err != nil {
		return nil, errs.E(op, errs.Invalid, u.String(), err)
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	return &Client{uri: u, keys: keys, timeout: o.Timeout}, nil
}

// URI implements kms.Client.
func (c *Client) URI() string { return c.uri.String() }

// String is the key's address.
func (c *Client) String() string { return c.URI() }

// Format prints the key's address whatever the verb.
func (c *Client) Format(s fmt.State, _ rune) { fmt.Fprint(s, c.URI()) }

// Describe implements kms.Client.
func (c *Client) Describe(ctx context.Context) (kms.Info, error) {
	const op = "azurekv.Describe"
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.keys.GetKey(ctx, c.uri.Key, c.uri.Version, nil)
	if err != nil {
		return kms.Info{}, c.failed(ctx, op, err)
	}
	if r.Key == nil || r.Key.KID == nil || r.Key.Kty == nil {
		return kms.Info{}, c.fail(op, errs.Corrupt, "the key service's answer makes no sense")
	}
	if t := *r.Key.Kty; t != azkeys.KeyTypeRSA && t != azkeys.KeyTypeRSAHSM {
		return kms.Info{}, c.fail(op, errs.Invalid, "the key is not an RSA key").
			WithRemedy("make a key of type RSA with at least 2048 bits")
	}
	return kms.Info{URI: c.URI(), Type: string(*r.Key.Kty), Version: r.Key.KID.Version()}, nil
}

// Wrap implements kms.Client.
func (c *Client) Wrap(ctx context.Context, secret, binding []byte) (kms.Wrapped, error) {
	const op = "azurekv.Wrap"
	plain, err := kms.Bind(secret, binding)
	if err != nil {
		return kms.Wrapped{}, err
	}
	defer clear(plain)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.keys.WrapKey(ctx, c.uri.Key, c.uri.Version, parameters(plain), nil)
	if err != nil {
		return kms.Wrapped{}, c.failed(ctx, op, err)
	}
	if r.KID == nil || r.KID.Version() == "" || len(r.Result) == 0 || len(r.Result) > kms.MaxWrapped {
		return kms.Wrapped{}, c.fail(op, errs.Corrupt, "the key service's answer makes no sense")
	}
	return kms.Wrapped{Version: r.KID.Version(), Data: r.Result}, nil
}

// Unwrap implements kms.Client.
func (c *Client) Unwrap(ctx context.Context, w kms.Wrapped, binding []byte) ([]byte, error) {
	const op = "azurekv.Unwrap"
	if err := kms.CheckWrapped(w, binding); err != nil {
		return nil, err
	}
	if strings.ContainsFunc(w.Version, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') }) {
		return nil, c.fail(op, errs.Invalid, "the key's version is none")
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := c.keys.UnwrapKey(ctx, c.uri.Key, w.Version, parameters(w.Data), nil)
	if err != nil {
		err := c.failed(ctx, op, err)
		if errs.Is(err, errs.Invalid) {
			return nil, c.fail(op, errs.Denied, "this key did not wrap it")
		}
		return nil, err
	}
	return kms.Unbind(r.Result, binding)
}

func parameters(value []byte) azkeys.KeyOperationParameters {
	alg := azkeys.EncryptionAlgorithmRSAOAEP256
	return azkeys.KeyOperationParameters{Algorithm: &alg, Value: value}
}

func (c *Client) fail(op string, kind errs.Kind, words string) *errs.Error {
	return errs.New(op, kind, c.URI(), words)
}

// failed maps an error of the SDK to a kind. Its words stay out: they quote
// whole answers.
func (c *Client) failed(ctx context.Context, op string, err error) error {
	var r *azcore.ResponseError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return errs.E(op, errs.Canceled, c.URI(), ctx.Err())
	case errors.As(err, &r):
		return c.refused(op, r.StatusCode)
	}
	var auth *azidentity.AuthenticationFailedError
	if errors.As(err, &auth) {
		return c.fail(op, errs.Denied, "Azure does not accept the credential").
			WithRemedy("check the AZURE_* variables or the machine's managed identity")
	}
	return c.fail(op, errs.Unavailable, "the key service does not answer").
		WithRemedy("check that the vault's address is right and can be reached from here")
}

func (c *Client) refused(op string, status int) error {
	words := fmt.Sprintf("the key service answers with status %d", status)
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return c.fail(op, errs.Denied, words+": the credential does not allow it, or the key is disabled").
			WithRemedy("allow get, wrapKey and unwrapKey on this key")
	case status == http.StatusNotFound:
		return c.fail(op, errs.NotFound, "the vault has no such key")
	case status == http.StatusTooManyRequests, status >= 500:
		return c.fail(op, errs.Transient, words)
	}
	return c.fail(op, errs.Invalid, words)
}
