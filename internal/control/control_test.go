package control

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/internal/errs"
)

// site makes an authority and one box of each role in a temporary directory.
func site(t *testing.T) (ca, host, drva string) {
	t.Helper()
	d := t.TempDir()
	ca, host, drva = filepath.Join(d, "ca"), filepath.Join(d, "host"), filepath.Join(d, "drva")
	if err := InitAuthority(ca, "a"); err != nil {
		t.Fatal(err)
	}
	if err := Issue(ca, host, RoleHost, "h1", nil); err != nil {
		t.Fatal(err)
	}
	if err := Issue(ca, drva, RoleDRVA, "d1", []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	return ca, host, drva
}

func load(t *testing.T, dir string) *Credentials {
	t.Helper()
	c, err := LoadCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connect dials from one box to another over loopback and returns both ends.
func connect(t *testing.T, client, server *Credentials, clientExpects, serverExpects Role) (c, s *Link, err error) {
	t.Helper()
	ln, lerr := server.Listen("127.0.0.1:0", serverExpects)
	if lerr != nil {
		t.Fatal(lerr)
	}
	defer ln.Close()
	type result struct {
		l   *Link
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			accepted <- result{nil, err}
			return
		}
		l := nc.(*Link)
		err = l.Handshake(context.Background())
		if err != nil {
			l.Close()
		}
		accepted <- result{l, err}
	}()
	c, cerr := client.Dial(t.Context(), ln.Addr().String(), clientExpects)
	r := <-accepted
	if c != nil {
		t.Cleanup(func() { c.Close() })
	}
	if r.l != nil {
		t.Cleanup(func() { r.l.Close() })
	}
	return c, r.l, errors.Join(cerr, r.err)
}

func TestLinkProvesBothSides(t *testing.T) {
	_, host, drva := site(t)
	c, s, err := connect(t, load(t, host), load(t, drva), RoleDRVA, RoleHost)
	if err != nil {
		t.Fatal(err)
	}
	if role, name := s.Peer(); role != RoleHost || name != "h1" {
		t.Fatalf("server sees %s %s", role, name)
	}
	if role, name := c.Peer(); role != RoleDRVA || name != "d1" {
		t.Fatalf("client sees %s %s", role, name)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
	// The accepting side sends at once, in one piece however large.
	big := make([]byte, 1<<20)
	go s.Write(big)
	if _, err := io.ReadFull(c, big); err != nil {
		t.Fatal(err)
	}
}

// TestCloseWaitsForNoWriter: a peer that does not read must not hold up Close.
func TestCloseWaitsForNoWriter(t *testing.T) {
	_, host, drva := site(t)
	c, s, err := connect(t, load(t, host), load(t, drva), RoleDRVA, RoleHost)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := s.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
	}()
	if _, err := io.ReadFull(c, make([]byte, 3<<20)); err != nil { // the writer is at work
		t.Fatal(err)
	}
	s.Close()
	<-failed
}

func TestLinkRefusals(t *testing.T) {
	_, host, drva := site(t)
	_, strangerHost, _ := site(t)
	for name, c := range map[string]struct {
		client        string
		expect, admit Role
	}{
		"other authority":      {strangerHost, RoleDRVA, RoleHost},
		"host where drva due":  {host, RoleHost, RoleHost},
		"wrong role of dialer": {drva, RoleDRVA, RoleHost},
	} {
		_, _, err := connect(t, load(t, c.client), load(t, drva), c.expect, c.admit)
		if !errs.Is(err, errs.Denied) && !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: got %v, want denied", name, err)
		}
		if errs.Is(err, errs.Unavailable) {
			t.Errorf("%s: %v is taken for a broken connection", name, err)
		}
	}
}

// TestHandshakeBrokenOff: a box that ends while it is dialled has refused
// nobody, and the certificates are not to blame.
func TestHandshakeBrokenOff(t *testing.T) {
	_, host, _ := site(t)
	for name, end := range map[string]func(*net.TCPConn){
		"closed": func(c *net.TCPConn) {},
		"reset":  func(c *net.TCPConn) { _ = c.SetLinger(0) },
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1)) // the dialler has begun
			end(c.(*net.TCPConn))
			c.Close()
		}()
		_, err = load(t, host).Dial(t.Context(), ln.Addr().String(), RoleDRVA)
		if !errs.Is(err, errs.Unavailable) || errs.RemedyOf(err) != "" {
			t.Errorf("%s: %v, remedy %q; want unavailable and nothing to do", name, err, errs.RemedyOf(err))
		}
		ln.Close()
	}
}

func TestAuthorityIsNotReplaced(t *testing.T) {
	ca, _, _ := site(t)
	if err := InitAuthority(ca, "again"); !errs.Is(err, errs.Exists) {
		t.Fatalf("got %v, want exists", err)
	}
}

func TestKeysArePrivate(t *testing.T) {
	_, host, _ := site(t)
	key := filepath.Join(host, keyFile)
	st, err := os.Stat(key)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCredentials(host); !errs.Is(err, errs.Denied) {
		t.Fatalf("readable key: got %v, want denied", err)
	}
}

func TestLocalCalls(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- ServeLocal(ctx, socket, map[string]Handler{
			"/echo": func(_ context.Context, b []byte) (any, error) { return string(b), nil },
			"/fail": func(context.Context, []byte) (any, error) {
				return nil, errs.New("x.Y", errs.Full, "disk", "no room").WithRemedy("make room")
			},
		})
	}()
	deadline := time.Now().Add(time.Minute)
	var out string
	for {
		err := CallLocal(ctx, socket, "/echo", "hi", &out)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if strings.TrimSpace(out) != `"hi"` {
		t.Fatalf("echo: %q", out)
	}
	err := CallLocal(ctx, socket, "/fail", nil, &out)
	if !errs.Is(err, errs.Full) || errs.RemedyOf(err) != "make room" {
		t.Fatalf("error arrived as %v, remedy %q", err, errs.RemedyOf(err))
	}
	if err := ServeLocal(ctx, socket, nil); !errs.Is(err, errs.Exists) {
		t.Fatalf("second server: got %v, want exists", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Fatal("socket is left behind")
	}
}

func TestLocalSocketErrorsNameTheRemedy(t *testing.T) {
	for _, socket := range []string{
		filepath.Join(t.TempDir(), "missing", "s.sock"),
		filepath.Join(t.TempDir(), strings.Repeat("x", 120)),
	} {
		err := ServeLocal(t.Context(), socket, nil)
		if err == nil || errs.RemedyOf(err) == "" {
			t.Errorf("%s: %v, remedy %q", socket, err, errs.RemedyOf(err))
		}
	}
}

// TestOneCertificateForSeveralDomains: each of its names is proved, and no other.
func TestOneCertificateForSeveralDomains(t *testing.T) {
	ca, host, _ := site(t)
	out := filepath.Join(t.TempDir(), "drva")
	if err := IssueNames(ca, out, RoleDRVA, []string{"erp", "mail"}, []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	if err := IssueNames(ca, out+"2", RoleDRVA, nil, nil); !errs.Is(err, errs.Invalid) {
		t.Errorf("no name: %v", err)
	}
	own := load(t, out)
	if n := own.Names(RoleDRVA); len(n) != 2 || n[0] != "erp" || n[1] != "mail" || own.Names(RoleHost) != nil {
		t.Errorf("names %v", n)
	}
	c, s, err := connect(t, load(t, host), own, RoleDRVA, RoleHost)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	defer s.Close()
	if !c.Is(RoleDRVA, "erp") || !c.Is(RoleDRVA, "mail") || c.Is(RoleDRVA, "web") || c.Is(RoleHost, "erp") {
		t.Error("the certificate's names are not told apart")
	}
}

// TestRenewedCertificateIsTaken: a box whose certificate was renewed in its directory
// shows the new one with its next link; a file that is not one changes nothing.
func TestRenewedCertificateIsTaken(t *testing.T) {
	ca, host, drva := site(t)
	a, err := LoadAuthority(ca)
	if err != nil {
		t.Fatal(err)
	}
	server := load(t, drva)
	before := server.Certificate().Leaf
	key, err := LoadKey(drva)
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.Sign(key.Public(), Subject{Boxes: []Box{{RoleDRVA, "d2"}}, Addrs: []string{"127.0.0.1"}, Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteCertificate(drva, renewed); err != nil {
		t.Fatal(err)
	}
	l, _, err := connect(t, load(t, host), server, RoleDRVA, RoleHost)
	if err != nil || !l.Is(RoleDRVA, "d2") || l.Is(RoleDRVA, "d1") {
		t.Errorf("the old certificate is shown: %v", err)
	}
	if n := server.Names(RoleDRVA); len(n) != 1 || n[0] != "d2" || server.Certificate().Leaf.Equal(before) {
		t.Errorf("names %v", n)
	}
	if err := os.WriteFile(filepath.Join(drva, certFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !server.Certificate().Leaf.Equal(renewed) {
		t.Error("a damaged file has taken the certificate away")
	}
	other, err := LoadKey(host)
	if err != nil {
		t.Fatal(err)
	}
	if der, err = a.Sign(other.Public(), Subject{Boxes: []Box{{RoleHost, "h1"}}, Validity: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if c, err := x509.ParseCertificate(der); err != nil || WriteCertificate(host, c) != nil {
		t.Errorf("its own key's: %v", err)
	}
	if err := WriteCertificate(host, renewed); !errs.Is(err, errs.Invalid) {
		t.Errorf("another key's: %v", err)
	}
}

// TestRoots: what is no authority is not taken for one.
func TestRoots(t *testing.T) {
	ca, _, _ := site(t)
	a, err := LoadAuthority(ca)
	if err != nil {
		t.Fatal(err)
	}
	key, err := a.KeyDER()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := ParseAuthority(a.Root().Raw, key); err != nil || Fingerprint(b.Root()) != Fingerprint(a.Root()) {
		t.Error(err)
	}
	b, err := NewAuthority("b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseAuthority(b.Root().Raw, key); !errs.Is(err, errs.Corrupt) {
		t.Errorf("another's key: %v", err)
	}
	der, err := a.Sign(b.key.Public(), Subject{Boxes: []Box{{RoleBox, "x"}}, Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseRoot(der); !errs.Is(err, errs.Invalid) {
		t.Errorf("a box's certificate: %v", err)
	}
	if _, err := a.Sign(b.key.Public(), Subject{}); !errs.Is(err, errs.Invalid) {
		t.Errorf("a certificate of nothing: %v", err)
	}
	text := EncodePEM(der)
	if got, err := DecodePEM(text); err != nil || !bytes.Equal(got, der) {
		t.Error(err)
	}
	for _, bad := range []string{"", "x", text + text, strings.Replace(text, "CERTIFICATE", "PRIVATE KEY", 2), strings.Repeat("x", maxPEM+1)} {
		if _, err := DecodePEM(bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func FuzzRoot(f *testing.F) {
	a, err := NewAuthority("a")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Root().Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		if c, err := ParseRoot(der); err == nil && !c.IsCA {
			t.Error("no authority")
		}
	})
}
