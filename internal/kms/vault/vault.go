// Package vault wraps secrets with the transit engine of HashiCorp Vault or
// OpenBao, over its HTTP interface.
//
// It needs of the token's policy: read on MOUNT/keys/KEY, update on
// MOUNT/encrypt/KEY, and to open, update on MOUNT/decrypt/KEY. The key must be
// of a type with associated data (aes256-gcm96, which is the default, or
// aes128-gcm96 or chacha20-poly1305).
//
// A client owns no goroutine between calls. Redirects are not followed: they
// would take the token along.
package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"holdfast/internal/errs"
	"holdfast/internal/kms"
)

const (
	// defaultTimeout bounds one request: a service that needs longer is not
	// there.
	defaultTimeout = 15 * time.Second
	// maxAnswer bounds an answer, in bytes: a key with thousands of versions.
	maxAnswer = 1 << 20
	// maxSmallFile bounds a token file and a file of CA certificates, in bytes.
	maxSmallFile = 1 << 20
	// maxToken bounds a token, in bytes.
	maxToken = 8 << 10
)

// Options are the credentials and the way to the service. They print without
// the token.
type Options struct {
	Token     string        // required; secret
	CAFile    string        // PEM; empty: the system's
	Namespace string        // used where the URI names none
	Timeout   time.Duration // of one request; zero: 15 s
}

// String tells nothing secret.
func (o Options) String() string { return "vault options (redacted)" }

// Format keeps the token out of every verb of fmt.
func (o Options) Format(s fmt.State, _ rune) { fmt.Fprint(s, o.String()) }

// FromEnv takes the options from the environment: VAULT_TOKEN or BAO_TOKEN, or
// a file named by VAULT_TOKEN_FILE or BAO_TOKEN_FILE; VAULT_CACERT or BAO_CACERT; VAULT_NAMESPACE or
// BAO_NAMESPACE. Kind Denied when there is no token or others may read its file.
func FromEnv(getenv func(string) string) (Options, error) {
	first := func(name string) string {
		if v := getenv("VAULT_" + name); v != "" {
			return v
		}
		return getenv("BAO_" + name)
	}
	o := Options{Token: first("TOKEN"), CAFile: first("CACERT"), Namespace: first("NAMESPACE")}
	if o.Token != "" {
		return o, nil
	}
	path := first("TOKEN_FILE")
	if path == "" {
		return o, errs.New("vault.FromEnv", errs.Denied, "", "there is no token for the key service").
			WithRemedy("set VAULT_TOKEN, or VAULT_TOKEN_FILE to a file of mode 0600 that holds it")
	}
	b, err := readSmall(path)
	if err != nil {
		return o, err
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm()&0o077 != 0 {
		return o, errs.New("vault.FromEnv", errs.Denied, path, "others may read this token").WithRemedy("chmod 600 " + path)
	}
	o.Token = strings.TrimSpace(string(b))
	return o, nil
}

func readSmall(path string) ([]byte, error) {
	const op = "vault.readFile"
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.E(op, errs.NotFound, path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err != nil {
		return nil, errs.E(op, errs.Unavailable, path, err)
	}
	if len(b) > maxSmallFile {
		return nil, errs.New(op, errs.Invalid, path, "the file is larger than 1 MiB")
	}
	return b, nil
}

// Client is a key of a transit engine.
type Client struct {
	uri   kms.URI
	base  string // https://host/v1/mount/
	token string
	ns    string
	http  *http.Client
}

var _ kms.Client = (*Client)(nil)

// Open returns a client of the key at u; it asks the service nothing yet. Kind
// Invalid for options that cannot be.
func Open(u kms.URI, o Options) (*Client, error) {
	const op = "vault.Open"
	if u.Scheme != "vault" {
		return nil, errs.New(op, errs.Invalid, u.String(), "not the address of a transit key")
	}
	if o.Token == "" || len(o.Token) > maxToken || strings.ContainsFunc(o.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errs.New(op, errs.Invalid, u.String(), "the token for the key service is none")
	}
	roots, err := caPool(o.CAFile)
	if err != nil {
		return nil, err
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	scheme := "https"
	if u.Plain {
		scheme = "http"
	}
	ns := u.Namespace
	if ns == "" {
		ns = o.Namespace
	}
	return &Client{
		uri: u, base: scheme + "://" + u.Host + "/v1/" + u.Mount + "/", token: o.Token, ns: ns,
		http: &http.Client{
			Timeout: o.Timeout,
			Transport: &http.Transport{
				Proxy:             http.ProxyFromEnvironment,
				TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
				DisableKeepAlives: true, // calls are rare, and a client has nothing to close
				ForceAttemptHTTP2: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func caPool(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	b, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, errs.New("vault.Open", errs.Invalid, path, "the file holds no certificate")
	}
	return pool, nil
}

// URI implements kms.Client.
func (c *Client) URI() string { return c.uri.String() }

// String is the key's address.
func (c *Client) String() string { return c.URI() }

// Format keeps the token out of every verb of fmt.
func (c *Client) Format(s fmt.State, _ rune) { fmt.Fprint(s, c.URI()) }

// Describe implements kms.Client.
func (c *Client) Describe(ctx context.Context) (kms.Info, error) {
	const op = "vault.Describe"
	var r struct {
		Data struct {
			Type    string `json:"type"`
			Latest  int    `json:"latest_version"`
			Encrypt bool   `json:"supports_encryption"`
			Derived bool   `json:"derived"`
		} `json:"data"`
	}
	if err := c.call(ctx, op, http.MethodGet, "keys/", nil, &r); err != nil {
		return kms.Info{}, err
	}
	switch r.Data.Type {
	case "aes256-gcm96", "aes128-gcm96", "chacha20-poly1305":
	default:
		return kms.Info{}, c.fail(op, errs.Invalid, "the key's type has no authenticated encryption with associated data").
			WithRemedy("make a key of type aes256-gcm96, which is the transit engine's default")
	}
	if r.Data.Derived || !r.Data.Encrypt || r.Data.Latest < 1 {
		return kms.Info{}, c.fail(op, errs.Invalid, "the key is derived or does not encrypt").
			WithRemedy("make a key of type aes256-gcm96 without derivation")
	}
	return kms.Info{URI: c.URI(), Type: r.Data.Type, Version: "v" + strconv.Itoa(r.Data.Latest)}, nil
}

// Wrap implements kms.Client. It looks at the key first, because the engine
// makes a key that is encrypted with and does not exist.
func (c *Client) Wrap(ctx context.Context, secret, binding []byte) (kms.Wrapped, error) {
	const op = "vault.Wrap"
	plain, err := kms.Bind(secret, binding)
	if err != nil {
		return kms.Wrapped{}, err
	}
	defer clear(plain)
	if _, err := c.Describe(ctx); err != nil {
		return kms.Wrapped{}, err
	}
	var r struct {
		Data struct {
			Ciphertext string `json:"ciphertext"`
		} `json:"data"`
	}
	in := map[string]string{"plaintext": b64(plain), "associated_data": b64(binding)}
	if err := c.call(ctx, op, http.MethodPost, "encrypt/", in, &r); err != nil {
		return kms.Wrapped{}, err
	}
	parts := strings.SplitN(r.Data.Ciphertext, ":", 3) // vault:v1:…
	if len(parts) != 3 || len(r.Data.Ciphertext) > kms.MaxWrapped {
		return kms.Wrapped{}, c.fail(op, errs.Corrupt, "the key service's answer makes no sense")
	}
	return kms.Wrapped{Version: parts[1], Data: []byte(r.Data.Ciphertext)}, nil
}

// Unwrap implements kms.Client.
func (c *Client) Unwrap(ctx context.Context, w kms.Wrapped, binding []byte) ([]byte, error) {
	const op = "vault.Unwrap"
	if err := kms.CheckWrapped(w, binding); err != nil {
		return nil, err
	}
	var r struct {
		Data struct {
			Plaintext string `json:"plaintext"`
		} `json:"data"`
	}
	in := map[string]string{"ciphertext": string(w.Data), "associated_data": b64(binding)}
	err := c.call(ctx, op, http.MethodPost, "decrypt/", in, &r)
	if errs.Is(err, errs.Invalid) {
		return nil, c.fail(op, errs.Denied, "this key did not wrap it, or for something else, or the version that did is retired")
	} else if err != nil {
		return nil, err
	}
	plain, err := base64.StdEncoding.DecodeString(r.Data.Plaintext)
	if err != nil {
		return nil, c.fail(op, errs.Corrupt, "the key service's answer makes no sense")
	}
	return kms.Unbind(plain, binding)
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// call makes one request for the key. Nothing that the service says goes into
// an error: it may repeat what it was given.
func (c *Client) call(ctx context.Context, op, method, verb string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return c.fail(op, errs.Internal, "the request cannot be encoded")
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+verb+c.uri.Key, body)
	if err != nil {
		return c.fail(op, errs.Invalid, "the key's address is none")
	}
	req.Header.Set("X-Vault-Token", c.token)
	req.Header.Set("X-Vault-Request", "true")
	if c.ns != "" {
		req.Header.Set("X-Vault-Namespace", c.ns)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(ctx, op, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.refused(op, resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return c.unreachable(ctx, op, err)
	}
	defer clear(b)
	if len(b) > maxAnswer || json.Unmarshal(b, out) != nil {
		return c.fail(op, errs.Corrupt, "the key service's answer makes no sense")
	}
	return nil
}

func (c *Client) fail(op string, kind errs.Kind, words string) *errs.Error {
	return errs.New(op, kind, c.URI(), words)
}

func (c *Client) unreachable(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return errs.E(op, errs.Canceled, c.URI(), ctx.Err())
	}
	var unknown x509.UnknownAuthorityError
	e := errs.E(op, errs.Unavailable, c.URI(), err)
	if errors.As(err, &unknown) {
		return e.WithRemedy("set VAULT_CACERT to the file with the certificate of the service's CA")
	}
	return e.WithRemedy("check that the key service runs and can be reached from here")
}

// refused maps a status of the service to a kind.
func (c *Client) refused(op string, status int) error {
	words := fmt.Sprintf("the key service answers with status %d", status)
	switch {
	case status == http.StatusBadRequest:
		return c.fail(op, errs.Invalid, words)
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return c.fail(op, errs.Denied, words+": the token does not allow it").
			WithRemedy("use a token whose policy allows read on keys/, update on encrypt/ and decrypt/ of this key")
	case status == http.StatusNotFound:
		return c.fail(op, errs.NotFound, "the key service has no such key or engine")
	case status == http.StatusServiceUnavailable:
		return c.fail(op, errs.Unavailable, "the key service is sealed or under maintenance").
			WithRemedy("unseal it, or wait")
	case status/100 == 3:
		return c.fail(op, errs.Unavailable, words+": it sends us elsewhere").
			WithRemedy("give the address of the active node")
	case status == http.StatusTooManyRequests, status == http.StatusPreconditionFailed, status >= 500:
		return c.fail(op, errs.Transient, words)
	}
	return c.fail(op, errs.Invalid, words)
}
