package kms

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"holdfast/internal/errs"
)

const (
	// MaxSecret bounds a secret, in bytes: with the digest of its context it
	// fits RSA-OAEP-256 under a 2048-bit key, which takes 190.
	MaxSecret = 128
	// MaxContext bounds a context, in bytes.
	MaxContext = 1024
	// MaxWrapped bounds a wrapped secret, in bytes: an RSA key of 16384 bits.
	MaxWrapped = 4096
	// maxURI bounds the address of a key, in bytes.
	maxURI = 1024
)

// Wrapped is a wrapped secret, to be stored by the caller.
type Wrapped struct {
	Version string // of the key that wrapped it, as the service calls it
	Data    []byte
}

// Info is what a service says about a key.
type Info struct {
	URI     string
	Type    string // as the service calls it
	Version string // the one that wraps now
}

// Client wraps and unwraps with one key of one service. It is safe for
// concurrent use and holds nothing to close. Secrets and credentials are in no
// error and no log line.
//
// Errors of all calls: Denied when the service refuses the caller, NotFound
// when it has no such key, Unavailable or Transient when it does not answer or
// is sealed, Canceled when ctx ended, Invalid for arguments out of bounds or a
// key of an unusable type, Corrupt for answers that make no sense.
type Client interface {
	// URI is the key's address, as given, without credentials.
	URI() string
	// Wrap wraps a secret under the key's newest version and binds it to
	// context. It never makes a key.
	Wrap(ctx context.Context, secret, context []byte) (Wrapped, error)
	// Unwrap is the inverse, under whatever version wrapped it. Kind Denied
	// when this key did not wrap it or not with this context.
	Unwrap(ctx context.Context, w Wrapped, context []byte) ([]byte, error)
	// Describe asks for the key. It is how a key is tried out.
	Describe(ctx context.Context) (Info, error)
}

// Bind puts the digest of context before secret. Every driver wraps that, so
// that the binding holds with services that know no associated data, or ignore
// it. Kind Invalid for lengths out of bounds.
func Bind(secret, context []byte) ([]byte, error) {
	if len(secret) == 0 || len(secret) > MaxSecret || len(context) > MaxContext {
		return nil, errs.New("kms.Wrap", errs.Invalid, "", fmt.Sprintf("a secret of %d bytes or a context of %d is out of bounds", len(secret), len(context)))
	}
	sum := sha256.Sum256(context)
	return append(sum[:], secret...), nil
}

// Unbind is the inverse of Bind: kind Denied for another context, Corrupt for
// what Bind never made.
func Unbind(plain, context []byte) ([]byte, error) {
	const op = "kms.Unwrap"
	sum := sha256.Sum256(context)
	if len(plain) <= len(sum) || len(plain) > len(sum)+MaxSecret {
		return nil, errs.New(op, errs.Corrupt, "", "the key service's answer is no secret of ours")
	}
	if !bytes.Equal(plain[:len(sum)], sum[:]) {
		return nil, errs.New(op, errs.Denied, "", "the secret was wrapped for something else")
	}
	return plain[len(sum):], nil
}

// CheckWrapped reports lengths out of bounds, kind Invalid.
func CheckWrapped(w Wrapped, context []byte) error {
	if len(w.Data) == 0 || len(w.Data) > MaxWrapped || len(w.Version) > maxURI || len(context) > MaxContext {
		return errs.New("kms.Unwrap", errs.Invalid, "", "a wrapped secret of a length that none has")
	}
	return nil
}

// URI is the address of a key.
type URI struct {
	Scheme    string // "vault" or "azurekv"
	Plain     bool   // without TLS: this machine alone
	Host      string // host[:port]
	Mount     string // vault: where the transit engine is mounted
	Key       string
	Version   string // azurekv: one version alone; empty: the newest
	Namespace string // vault: empty: the root
}

// ParseURI reads the address of a key. Kind Invalid; the text is not repeated
// when it holds a credential.
func ParseURI(s string) (URI, error) {
	const op = "kms.ParseURI"
	bad := func(words string) error {
		return errs.New(op, errs.Invalid, "", words).
			WithRemedy("write vault://HOST[:PORT]/MOUNT/KEY or azurekv://NAME.vault.azure.net/KEY[/VERSION]")
	}
	if len(s) > maxURI {
		return URI{}, bad("the address of a key is longer than 1024 bytes")
	}
	p, err := url.Parse(s)
	if err != nil {
		return URI{}, bad("not the address of a key")
	}
	if p.User != nil || p.Fragment != "" {
		return URI{}, bad("the address of a key holds no user, password or fragment: credentials come from the environment")
	}
	u := URI{Scheme: p.Scheme, Host: p.Host, Namespace: p.Query().Get("namespace")}
	if u.Scheme == "vault+http" {
		u.Scheme, u.Plain = "vault", true
	}
	query := p.Query()
	if query.Del("namespace"); len(query) > 0 {
		return URI{}, bad("the address of a key has a parameter that is not known")
	}
	parts := strings.Split(strings.Trim(p.Path, "/"), "/")
	names := parts
	if u.Namespace != "" {
		names = append(slices.Clone(parts), strings.Split(u.Namespace, "/")...)
	}
	if slices.ContainsFunc(names, func(n string) bool { return !nameOK(n) }) {
		return URI{}, bad("a name in the address of a key is empty or has characters that none has")
	}
	switch n := len(parts); {
	case u.Host == "":
		return URI{}, bad("the address of a key has no host")
	case u.Plain && !loopback(p.Hostname()):
		return URI{}, bad("a key service that is not on this machine is not spoken to without TLS")
	case u.Scheme == "vault" && n >= 2:
		u.Mount, u.Key = strings.Join(parts[:n-1], "/"), parts[n-1]
	case u.Scheme == "azurekv" && (n == 1 || n == 2) && u.Namespace == "":
		u.Key = parts[0]
		if n == 2 {
			u.Version = parts[1]
		}
	default:
		return URI{}, bad("not the address of a key")
	}
	if u.Key == "" || u.Mount == "" && u.Scheme == "vault" {
		return URI{}, bad("the address of a key names none")
	}
	return u, nil
}

// String is the address, as ParseURI reads it.
func (u URI) String() string {
	scheme, path := u.Scheme, "/"+u.Key
	switch {
	case u.Scheme == "vault":
		path = "/" + u.Mount + path
	case u.Version != "":
		path += "/" + u.Version
	}
	if u.Plain {
		scheme += "+http"
	}
	if u.Namespace != "" {
		path += "?namespace=" + url.QueryEscape(u.Namespace)
	}
	return scheme + "://" + u.Host + path
}

func nameOK(s string) bool {
	if s == "" || s == "." || s == ".." {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r) {
			return false
		}
	}
	return true
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
