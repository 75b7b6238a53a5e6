package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/seal"
)

func options(t *testing.T, url string) Options {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := seal.Create(durable.OS{}, path, nil); err != nil {
		t.Fatal(err)
	}
	box, err := seal.Open(t.Context(), d, durable.OS{}, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return Options{DB: d, Box: box, Site: "berlin", Names: []string{"msa.example", "127.0.0.1"}}
}

func mustOpen(t *testing.T, o Options) *PKI {
	t.Helper()
	p, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestOneAuthority: replicas that start at once, and later, have one authority.
func TestOneAuthority(t *testing.T) {
	func(t *testing.T, url string) { // on PostgreSQL, packages enrol and pair open it
		o := options(t, url)
		var wg sync.WaitGroup
		prints := make(chan string, 6)
		for range cap(prints) {
			wg.Go(func() {
				p, err := Open(context.Background(), o)
				if err != nil {
					t.Error(err)
					prints <- ""
					return
				}
				prints <- p.Fingerprint()
			})
		}
		wg.Wait()
		first := mustOpen(t, o).Fingerprint()
		for range cap(prints) {
			if got := <-prints; got != first {
				t.Errorf("%s and %s", got, first)
			}
		}
		if w := control.Words(first); strings.Count(w, "-") != 7 || control.Words("x") != "" {
			t.Errorf("words %q", w)
		}
		o.Site = "rome"
		if _, err := Open(t.Context(), o); !errs.Is(err, errs.Conflict) {
			t.Errorf("another site: %v", err)
		}
	}(t, dbtest.SQLite(t))
}

func TestImport(t *testing.T) {
	o := options(t, dbtest.SQLite(t))
	dir := filepath.Join(t.TempDir(), "ca")
	if err := control.InitAuthority(dir, "berlin"); err != nil {
		t.Fatal(err)
	}
	a, err := control.LoadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	o.Import = dir
	if p := mustOpen(t, o); p.Fingerprint() != control.Fingerprint(a.Root()) {
		t.Error("the authority was not taken")
	}
	mustOpen(t, o) // again is no harm
	o.Import = filepath.Join(t.TempDir(), "other")
	if err := control.InitAuthority(o.Import, "berlin"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), o); !errs.Is(err, errs.Conflict) {
		t.Errorf("another authority: %v", err)
	}
	o.Import = ""
	o.Names = []string{"bad name"}
	if _, err := Open(t.Context(), o); !errs.Is(err, errs.Invalid) {
		t.Errorf("a name that is none: %v", err)
	}
}

// dial makes a handshake with a manager's TLS and says how it went for the client.
func dial(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := tls.Server(b, server)
		_ = s.Handshake() // the client's word decides
		s.Close()
	}()
	c := tls.Client(a, client)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	err := c.Handshake()
	a.Close()
	<-done
	return err
}

func TestPinned(t *testing.T) {
	berlin := mustOpen(t, options(t, dbtest.SQLite(t)))
	o := options(t, dbtest.SQLite(t))
	o.Site = "rome"
	rome := mustOpen(t, o)
	if err := dial(t, berlin.Server(), control.Pinned(berlin.Fingerprint(), control.RoleManager, nil)); err != nil {
		t.Errorf("the manager itself: %v", err)
	}
	if err := dial(t, berlin.Server(), control.PinnedTo(berlin.Fingerprint(), control.RoleManager, "berlin", nil)); err != nil {
		t.Errorf("the manager by name: %v", err)
	}
	// As a browser or a library that trusts the authority sees it.
	pool := x509.NewCertPool()
	pool.AddCert(berlin.Root())
	if err := dial(t, berlin.Server(), &tls.Config{RootCAs: pool, ServerName: "msa.example"}); err != nil {
		t.Errorf("by host name: %v", err)
	}
	if err := dial(t, berlin.Server(), &tls.Config{RootCAs: pool, ServerName: "msa.example", MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is spoken")
	}
	// A box of the same site is no manager, whatever it answers with.
	key, _ := rome.Own()
	der, err := berlin.Issue(key.Leaf.PublicKey, []control.Box{{Role: control.RoleDRVA, Name: "d"}, {Role: control.RoleBox, Name: "b"}}, []string{"msa.example"})
	if err != nil {
		t.Fatal(err)
	}
	box := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der, berlin.Root().Raw}, PrivateKey: key.PrivateKey}}}
	// One that shows our root beside a certificate it did not sign.
	liar := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{key.Certificate[0], berlin.Root().Raw}, PrivateKey: key.PrivateKey}}}
	for name, c := range map[string]struct {
		server *tls.Config
		client *tls.Config
	}{
		"another site":    {rome.Server(), control.Pinned(berlin.Fingerprint(), control.RoleManager, nil)},
		"another's name":  {berlin.Server(), control.PinnedTo(berlin.Fingerprint(), control.RoleManager, "rome", nil)},
		"a box":           {box, control.Pinned(berlin.Fingerprint(), control.RoleManager, nil)},
		"a borrowed root": {liar, control.Pinned(berlin.Fingerprint(), control.RoleManager, nil)},
		"no fingerprint":  {berlin.Server(), control.Pinned("", control.RoleManager, nil)},
		"the leaf's":      {berlin.Server(), control.Pinned(control.Fingerprint(must(berlin.Own()).Leaf), control.RoleManager, nil)},
	} {
		if err := dial(t, c.server, c.client); !errs.Is(err, errs.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func must(c *tls.Certificate, err error) *tls.Certificate {
	if err != nil {
		panic(err)
	}
	return c
}

// TestOwnIsRenewed: the manager's certificate changes before it expires, and who knows
// the authority notices nothing.
func TestOwnIsRenewed(t *testing.T) {
	o := options(t, dbtest.SQLite(t))
	now := time.Now()
	o.now = func() time.Time { return now }
	p := mustOpen(t, o)
	first := must(p.Own())
	now = now.Add(managerValidity / 2)
	if must(p.Own()) != first {
		t.Error("renewed too early")
	}
	now = now.Add(managerValidity / 5)
	second := must(p.Own())
	if second == first || !now.Before(first.Leaf.NotAfter) {
		t.Error("not renewed in time")
	}
	if err := dial(t, p.Server(), control.Pinned(p.Fingerprint(), control.RoleManager, nil)); err != nil {
		t.Error(err)
	}
}

func TestHosts(t *testing.T) {
	for h, want := range map[string]bool{"a": true, "a.b-c.d": true, "192.0.2.1": true, "2001:db8::1": true, "fe80::1%eth0": false, "": false, "a..b": false,
		"-a": false, "a_b": false, "*.example": false, "a b": false, strings.Repeat("a", 64): false, "a.b:443": false} {
		if ValidHost(h) != want {
			t.Errorf("%q: %v", h, !want)
		}
	}
	if HostOf("[2001:db8::1]:443") != "2001:db8::1" || HostOf("x") != "x" {
		t.Error("HostOf")
	}
}
