// Package kmstest is the contract of kms.Client as a test suite. Every driver
// passes the same one.
package kmstest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"holdfast/internal/errs"
	"holdfast/internal/kms"
)

// Service is a key service with two keys.
type Service struct {
	Client  kms.Client // of a key
	Other   kms.Client // of another key of the same service
	Missing kms.Client // of a key that does not exist
	Refused kms.Client // of the first key, for someone the service does not let
	Rotate  func()     // makes a new version of Client's key
	Secrets []string   // credentials that must show nowhere
}

// Run tests the service that start makes.
func Run(t *testing.T, start func(t *testing.T) Service) {
	secret, binding := []byte("0123456789abcdef0123456789abcdef"), []byte("container 7")
	t.Run("Inverse", func(t *testing.T) {
		s := start(t)
		for _, n := range []int{1, 32, 64, kms.MaxSecret} {
			in := bytes.Repeat([]byte{byte(n)}, n)
			w, err := s.Client.Wrap(t.Context(), in, binding)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(w.Data, in[:min(n, 16)]) && n > 8 {
				t.Fatal("the wrapped secret shows the secret")
			}
			if out, err := s.Client.Unwrap(t.Context(), w, binding); err != nil || !bytes.Equal(out, in) {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
	})
	t.Run("Bound", func(t *testing.T) { bound(t, start(t), secret, binding) })
	t.Run("Bounds", func(t *testing.T) {
		s := start(t)
		for _, n := range []int{0, kms.MaxSecret + 1} {
			if _, err := s.Client.Wrap(t.Context(), make([]byte, n), binding); !errs.Is(err, errs.Invalid) {
				t.Errorf("a secret of %d bytes: %v", n, err)
			}
		}
		for _, w := range []kms.Wrapped{{}, {Version: "v1", Data: make([]byte, kms.MaxWrapped+1)}} {
			if _, err := s.Client.Unwrap(t.Context(), w, binding); !errs.Is(err, errs.Invalid) {
				t.Errorf("%d bytes to unwrap: %v", len(w.Data), err)
			}
		}
	})
	t.Run("Rotation", func(t *testing.T) {
		s := start(t)
		old := must(t, s.Client, secret, binding)
		s.Rotate()
		now := must(t, s.Client, secret, binding)
		info, err := s.Client.Describe(t.Context())
		if err != nil || info.Version != now.Version || now.Version == old.Version || info.URI != s.Client.URI() {
			t.Fatalf("%+v, wrapped by %s after %s: %v", info, now.Version, old.Version, err)
		}
		for _, w := range []kms.Wrapped{old, now} {
			if out, err := s.Client.Unwrap(t.Context(), w, binding); err != nil || !bytes.Equal(out, secret) {
				t.Fatalf("version %s: %v", w.Version, err)
			}
		}
	})
	t.Run("Refused", func(t *testing.T) { refused(t, start(t), secret, binding) })
	t.Run("Canceled", func(t *testing.T) {
		s := start(t)
		w := must(t, s.Client, secret, binding)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Client.Unwrap(ctx, w, binding); !errs.Is(err, errs.Canceled) {
			t.Error(err)
		}
		if _, err := s.Client.Wrap(ctx, secret, binding); !errs.Is(err, errs.Canceled) {
			t.Error(err)
		}
	})
}

func bound(t *testing.T, s Service, secret, binding []byte) {
	w := must(t, s.Client, secret, binding)
	changed := kms.Wrapped{Version: w.Version, Data: bytes.Clone(w.Data)}
	changed.Data[len(changed.Data)-3] ^= 1
	for name, c := range map[string]struct {
		client  kms.Client
		w       kms.Wrapped
		binding string
	}{
		"another context": {s.Client, w, "container 8"},
		"no context":      {s.Client, w, ""},
		"another key":     {s.Other, w, string(binding)},
		"changed":         {s.Client, changed, string(binding)},
	} {
		_, err := c.client.Unwrap(t.Context(), c.w, []byte(c.binding))
		if k := errs.KindOf(err); err == nil || k != errs.Denied && k != errs.NotFound {
			t.Errorf("%s: %v", name, err)
		}
		silent(t, s, err, secret)
	}
}

func refused(t *testing.T, s Service, secret, binding []byte) {
	w := must(t, s.Client, secret, binding)
	for _, c := range []struct {
		client kms.Client
		kind   errs.Kind
	}{{s.Missing, errs.NotFound}, {s.Refused, errs.Denied}} {
		_, werr := c.client.Wrap(t.Context(), secret, binding)
		_, derr := c.client.Describe(t.Context())
		for _, err := range []error{werr, derr} {
			if !errs.Is(err, c.kind) {
				t.Errorf("%v: want %v", err, c.kind)
			}
			silent(t, s, err, secret)
		}
		_, err := c.client.Unwrap(t.Context(), w, binding)
		if k := errs.KindOf(err); err == nil || k != c.kind && k != errs.Denied {
			t.Errorf("unwrap: %v", err)
		}
		silent(t, s, err, secret)
	}
	// Asking for a key that does not exist has not made it.
	if _, err := s.Missing.Describe(t.Context()); !errs.Is(err, errs.NotFound) {
		t.Errorf("the missing key: %v", err)
	}
	silent(t, s, fmt.Errorf("%v %+v %#v %s", s.Client, s.Client, s.Client, s.Client), secret)
}

// silent fails when an error repeats a secret or a credential.
func silent(t *testing.T, s Service, err error, secret []byte) {
	t.Helper()
	if err == nil {
		return
	}
	words := err.Error() + errs.RemedyOf(err)
	for _, x := range append([]string{string(secret)}, s.Secrets...) {
		for _, form := range []string{x, hex.EncodeToString([]byte(x)), base64.StdEncoding.EncodeToString([]byte(x))} {
			if strings.Contains(words, form) {
				t.Errorf("an error repeats a secret: %s", words)
			}
		}
	}
}

func must(t *testing.T, c kms.Client, secret, binding []byte) kms.Wrapped {
	t.Helper()
	w, err := c.Wrap(t.Context(), secret, binding)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
