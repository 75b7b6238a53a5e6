package enrol

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/db/dbtest"
	"holdfast/internal/msa/pki"
	"holdfast/internal/msa/seal"
	"holdfast/internal/msa/site"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// manager is as much of one as boxes need.
type manager struct {
	URL  string
	t    *testing.T
	ctx  context.Context
	db   *db.DB
	pki  *pki.PKI
	auth *auth.Auth
	// drop has answers to a path get lost, after what was asked for was done.
	drop func(path string) bool
}

func newManager(t *testing.T, url, site string) *manager {
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
	p, err := pki.Open(t.Context(), pki.Options{DB: d, Box: box, Site: site, Names: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{t: t, ctx: t.Context(), db: d, pki: p, auth: auth.New(auth.Options{DB: d, Certificates: []auth.CertificateFunc{Holder(d, p)}})}
	mux := http.NewServeMux()
	handle(m, mux, JoinPath, func(tx *db.Tx, r *http.Request, _ *auth.Principal, in Request) (any, error) {
		return Accept(r.Context(), tx, p, in, r.RemoteAddr)
	})
	handle(m, mux, BeatPath, func(tx *db.Tx, r *http.Request, who *auth.Principal, in Beat) (any, error) {
		return Note(r.Context(), tx, siteName(who), who.Proof(), in, r.RemoteAddr)
	})
	handle(m, mux, RenewPath, func(tx *db.Tx, r *http.Request, who *auth.Principal, in Renewal) (any, error) {
		return Renew(r.Context(), tx, p, siteName(who), who.Proof(), in.CSR)
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux, TLSConfig: p.Server(), ErrorLog: log.New(io.Discard, "", 0)}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	m.URL = "https://" + ln.Addr().String()
	return m
}

func siteName(p *auth.Principal) site.Name { return site.Name(p.Box()) }

func handle[T any](m *manager, mux *http.ServeMux, path string, f func(*db.Tx, *http.Request, *auth.Principal, T) (any, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var in T
		var out any
		err := json.NewDecoder(r.Body).Decode(&in)
		var who *auth.Principal
		if err == nil && path != JoinPath {
			if who, err = m.auth.Authenticate(r.Context(), r); err == nil && !who.May(auth.BoxBeat, "") {
				err = errs.New("x", errs.Denied, "", "not a box")
			}
		}
		if err == nil {
			err = m.db.Tx(r.Context(), func(tx *db.Tx) error { out, err = f(tx, r, who, in); return err })
		}
		if m.drop != nil && m.drop(path) {
			panic(http.ErrAbortHandler)
		}
		if err != nil {
			w.WriteHeader(http.StatusForbidden)
			out = map[string]string{"kind": errs.KindOf(err).String(), "detail": err.Error(), "remedy": errs.RemedyOf(err)}
		}
		_ = json.NewEncoder(w).Encode(out)
	})
}

func (m *manager) tx(f func(*db.Tx) error) error { return m.db.Tx(m.ctx, f) }

func (m *manager) must(f func(*db.Tx) error) {
	m.t.Helper()
	if err := m.tx(f); err != nil {
		m.t.Fatal(err)
	}
}

func (m *manager) invite(inv Invitation) (token string) {
	m.t.Helper()
	inv.Manager = m.URL
	m.must(func(tx *db.Tx) (err error) { token, err = Invite(m.ctx, tx, m.pki, inv, "root"); return err })
	return token
}

func (m *manager) join(inv Invitation, id string) (dir string) {
	m.t.Helper()
	dir = filepath.Join(m.t.TempDir(), "tls")
	if _, err := Join(m.ctx, m.invite(inv), dir, id, "1.0"); err != nil {
		m.t.Fatal(err)
	}
	return dir
}

func (m *manager) get(name site.Name) (b Box) {
	m.t.Helper()
	m.must(func(tx *db.Tx) (err error) { b, err = Get(m.ctx, tx, name); return err })
	return b
}

func (m *manager) beat(dir string) error {
	a := &Agent{Dir: dir, Release: "1.0", Figures: func() map[string]int64 { return map[string]int64{"cpus": 2} }}
	h, err := a.home()
	if err != nil {
		return err
	}
	return a.beat(m.ctx, h)
}

func leaf(t *testing.T, dir string) *x509.Certificate {
	t.Helper()
	c, err := control.LoadCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c.Certificate().Leaf
}

// TestLife follows a DRVA and a host component through their lives: they enrol, prove
// each other on the data path, get a domain, renew, are replaced, are revoked.
func TestLife(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		m := newManager(t, url, "berlin")
		drva := m.join(Invitation{Name: "drva-1", Role: site.DRVA, Addresses: []string{"127.0.0.1", "drva.example"}}, "")
		hostID := dr.NewUUID().String()
		host := m.join(Invitation{Name: "host-1", Role: site.IOFilter}, hostID)
		if b := m.get("host-1"); b.State != Enrolled || b.BoxID != hostID || b.Health != Unseen || !slices.Equal(b.Addresses, []string{"127.0.0.1"}) {
			t.Errorf("%+v", b)
		}
		for _, dir := range []string{drva, host} {
			if err := m.beat(dir); err != nil {
				t.Fatal(err)
			}
		}
		if b := m.get("drva-1"); b.Health != Alive || b.Release != "1.0" || b.Capacity["cpus"] != 2 || b.SeenAt == 0 {
			t.Errorf("%+v", b)
		}
		// A domain: told with the next beat, and in the certificate after it.
		d := dr.DomainID{UUID: dr.NewUUID()}
		m.must(func(tx *db.Tx) error { return Assign(m.ctx, tx, "drva-1", []dr.DomainID{d}) })
		before := leaf(t, drva)
		if err := m.beat(drva); err != nil {
			t.Fatal(err)
		}
		after := leaf(t, drva)
		if after.Equal(before) || !slices.Contains(control.BoxesOf(after), control.Box{Role: control.RoleDRVA, Name: d.String()}) {
			t.Errorf("the certificate stands for %v", control.BoxesOf(after))
		}
		if !before.PublicKey.(*ecdsa.PublicKey).Equal(after.PublicKey) {
			t.Error("a renewal changes the key")
		}
		prove(t, host, drva, hostID, d)
		// Replaced: the old box is out, although its certificate is good.
		heir := m.join(Invitation{Name: "drva-1", Role: site.DRVA, Replace: true}, "")
		if err := m.beat(drva); !errs.Is(err, errs.Denied) || errs.RemedyOf(err) == "" {
			t.Errorf("the replaced box: %v", err)
		}
		if err := m.beat(heir); err != nil {
			t.Error(err)
		}
		if b := m.get("drva-1"); b.Generation != 2 || len(b.Domains) != 1 {
			t.Errorf("%+v", b)
		}
		m.must(func(tx *db.Tx) error { return Revoke(m.ctx, tx, "drva-1") })
		if err := m.beat(heir); !errs.Is(err, errs.Denied) {
			t.Errorf("the revoked box: %v", err)
		}
		m.must(func(tx *db.Tx) error { return Remove(m.ctx, tx, "drva-1") })
		if err := m.beat(heir); !errs.Is(err, errs.Denied) {
			t.Errorf("the removed box: %v", err)
		}
	})
}

// prove has a host component and a DRVA shake hands as they do on the data path.
func prove(t *testing.T, host, drva, hostID string, d dr.DomainID) {
	t.Helper()
	h, err := control.LoadCredentials(host)
	if err != nil {
		t.Fatal(err)
	}
	v, err := control.LoadCredentials(drva)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := v.Listen("127.0.0.1:0", control.RoleHost)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			accepted <- err.Error()
			return
		}
		l := c.(*control.Link)
		if err := l.Handshake(context.Background()); err != nil {
			accepted <- err.Error()
			return
		}
		_, name := l.Peer()
		accepted <- name
		l.Close()
	}()
	l, err := h.Dial(t.Context(), ln.Addr().String(), control.RoleDRVA)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := <-accepted; got != hostID || !l.Is(control.RoleDRVA, d.String()) {
		t.Errorf("the DRVA sees %q", got)
	}
}

// TestRenewal: a box renews when it is told to; one whose answer is lost gets in with
// the old certificate and renews again; a third certificate gets nobody in.
func TestRenewal(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		m := newManager(t, url, "berlin")
		dir := m.join(Invitation{Name: "drva-1", Role: site.DRVA}, "")
		if err := m.beat(dir); err != nil {
			t.Fatal(err)
		}
		young := leaf(t, dir)
		if err := m.beat(dir); err != nil || !leaf(t, dir).Equal(young) {
			t.Errorf("renewed without need: %v", err)
		}
		old := filepath.Join(t.TempDir(), "old")
		if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(old, "key.pem"), 0o600); err != nil {
			t.Fatal(err)
		}
		age := func() {
			m.must(func(tx *db.Tx) error {
				_, err := tx.Exec(m.ctx, `UPDATE enrolments SET cert_until = $1`, tx.Now()+time.Hour.Milliseconds())
				return err
			})
		}
		age()
		m.drop = func(path string) bool { return path == RenewPath }
		if err := m.beat(dir); !errs.Is(err, errs.Unavailable) {
			t.Errorf("an answer that is lost: %v", err)
		}
		m.drop = nil
		if err := m.beat(dir); err != nil || leaf(t, dir).Equal(young) {
			t.Errorf("the old certificate: %v", err)
		}
		// The new one was not used yet: the old one still counts. Then no more.
		if err := m.beat(old); err != nil {
			t.Errorf("before the new one is used: %v", err)
		}
		if err := m.beat(dir); !errs.Is(err, errs.Denied) {
			t.Errorf("the copy has renewed: this one is over: %v", err)
		}
		if err := m.beat(old); err != nil {
			t.Error(err)
		}
	})
}

func TestInvitations(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		m := newManager(t, url, "berlin")
		dir := func() string { return filepath.Join(t.TempDir(), "tls") }
		token := m.invite(Invitation{Name: "drva-1", Role: site.DRVA})
		// Of many boxes that have one token one gets in.
		var wg sync.WaitGroup
		results := make(chan error, 5)
		for range cap(results) {
			d := dir()
			wg.Go(func() { _, err := Join(m.ctx, token, d, "", ""); results <- err })
		}
		wg.Wait()
		won := 0
		for range cap(results) {
			if err := <-results; err == nil {
				won++
			} else if !errs.Is(err, errs.Denied) {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d boxes have joined", won)
		}
		if err := m.tx(func(tx *db.Tx) error {
			_, err := Invite(m.ctx, tx, m.pki, Invitation{Name: "drva-1", Role: site.DRVA, Manager: m.URL}, "root")
			return err
		}); !errs.Is(err, errs.Exists) {
			t.Errorf("a name that is taken: %v", err)
		}
		// The newest token of a box alone is good; a removed box's is not.
		first := m.invite(Invitation{Name: "x", Role: site.RocVA})
		second := m.invite(Invitation{Name: "x", Role: site.RocVA})
		if _, err := Join(m.ctx, first, dir(), "", ""); !errs.Is(err, errs.Denied) {
			t.Errorf("an older token: %v", err)
		}
		m.must(func(tx *db.Tx) error { return Remove(m.ctx, tx, "x") })
		if _, err := Join(m.ctx, second, dir(), "", ""); !errs.Is(err, errs.Denied) {
			t.Errorf("a removed box's token: %v", err)
		}
		third := m.invite(Invitation{Name: "x", Role: site.RocVA})
		m.must(func(tx *db.Tx) error {
			_, err := tx.Exec(m.ctx, `UPDATE single_tokens SET expires_at = created_at`)
			return err
		})
		if _, err := Join(m.ctx, third, dir(), "", ""); !errs.Is(err, errs.Denied) {
			t.Errorf("too late: %v", err)
		}
		// A host component that was copied.
		id := dr.NewUUID().String()
		m.join(Invitation{Name: "host-1", Role: site.IOFilter}, id)
		if _, err := Join(m.ctx, m.invite(Invitation{Name: "host-2", Role: site.IOFilter}), dir(), id, ""); !errs.Is(err, errs.Exists) {
			t.Errorf("a copied id: %v", err)
		}
		if _, err := Join(m.ctx, m.invite(Invitation{Name: "host-3", Role: site.IOFilter}), dir(), "", ""); !errs.Is(err, errs.Invalid) {
			t.Errorf("no id: %v", err)
		}
		// A token for another manager: the pin does not fit.
		other := newManager(t, dbtest.SQLite(t), "rome")
		tk, err := parseTicket(other.invite(Invitation{Name: "y", Role: site.RocVA}))
		if err != nil {
			t.Fatal(err)
		}
		tk.Manager = m.URL
		if _, err := Join(m.ctx, tk.String(), dir(), "", ""); !errs.Is(err, errs.Denied) {
			t.Errorf("a manager in another's place: %v", err)
		}
		for name, inv := range map[string]Invitation{
			"name": {Name: "A b", Role: site.DRVA, Manager: m.URL}, "role": {Name: "a", Role: "boss", Manager: m.URL},
			"address": {Name: "a", Role: site.DRVA, Manager: m.URL, Addresses: []string{"a b"}}, "manager": {Name: "a", Role: site.DRVA, Manager: "http://x"},
			"long": {Name: "a", Role: site.DRVA, Manager: m.URL, Good: 100 * 24 * time.Hour},
		} {
			if err := m.tx(func(tx *db.Tx) error { _, err := Invite(m.ctx, tx, m.pki, inv, ""); return err }); !errs.Is(err, errs.Invalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		m.must(func(tx *db.Tx) error {
			list, err := List(m.ctx, tx, "", 100)
			if len(list) != 5 {
				t.Errorf("%d boxes", len(list))
			}
			return err
		})
	})
}

// TestRequestsDecideNothing: whatever a request for a certificate says of who it is
// for, the manager says who that is; and no key of another kind is signed.
func TestRequestsDecideNothing(t *testing.T) {
	m := newManager(t, dbtest.SQLite(t), "berlin")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	accept := func(csr string) (r Reply, err error) {
		tk, err := parseTicket(m.invite(Invitation{Name: "drva-1", Role: site.DRVA, Replace: true}))
		if err != nil {
			t.Fatal(err)
		}
		return r, m.tx(func(tx *db.Tx) error {
			r, err = Accept(m.ctx, tx, m.pki, Request{Secret: tk.Secret, CSR: csr}, "192.0.2.9:1")
			return err
		})
	}
	der := func(key any, tmpl x509.CertificateRequest) []byte {
		b, err := x509.CreateCertificateRequest(rand.Reader, &tmpl, key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b64 := base64.StdEncoding.EncodeToString
	r, err := accept(b64(der(key, x509.CertificateRequest{DNSNames: []string{"msa.example"}, URIs: control.URIs(control.Box{Role: control.RoleManager, Name: "berlin"})})))
	if err != nil {
		t.Fatal(err)
	}
	certDER, err := control.DecodePEM(r.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(certDER)
	if err != nil || len(c.DNSNames) != 0 || c.IsCA || !slices.Equal(control.BoxesOf(c), []control.Box{{Role: control.RoleBox, Name: "drva-1"}}) || c.IPAddresses[0].String() != "192.0.2.9" {
		t.Errorf("%v %v %v", c.DNSNames, control.BoxesOf(c), err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	broken := der(key, x509.CertificateRequest{})
	broken[len(broken)-1] ^= 1
	for name, csr := range map[string]string{
		"RSA": b64(der(weak, x509.CertificateRequest{})), "signature": b64(broken), "empty": "", "no base64": "!", "no DER": "AAAA", "long": strings.Repeat("A", maxRequest+4),
	} {
		if _, err := accept(csr); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStrangers: certificates that are not of a box of this site get nobody in.
func TestStrangers(t *testing.T) {
	m := newManager(t, dbtest.SQLite(t), "berlin")
	other := newManager(t, dbtest.SQLite(t), "rome")
	dir := m.join(Invitation{Name: "drva-1", Role: site.DRVA}, "")
	ask := func(chain ...*x509.Certificate) error { _, err := Holder(m.db, m.pki)(m.ctx, chain); return err }
	good := leaf(t, dir)
	if err := ask(good); err != nil {
		t.Error(err)
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	issue := func(p *pki.PKI, boxes ...control.Box) *x509.Certificate {
		der, err := p.Issue(key.Public(), boxes, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	box := control.Box{Role: control.RoleBox, Name: "drva-1"}
	own, _ := m.pki.Own()
	for name, c := range map[string]struct {
		cert *x509.Certificate
		kind errs.Kind
	}{
		"another site's":         {leaf(t, other.join(Invitation{Name: "drva-1", Role: site.DRVA}, "")), errs.NotFound},
		"not the newest":         {issue(m.pki, box), errs.Denied},
		"of nobody":              {issue(m.pki, control.Box{Role: control.RoleBox, Name: "nobody"}), errs.Denied},
		"of holdfast cert issue": {issue(m.pki, control.Box{Role: control.RoleHost, Name: "h"}), errs.Denied},
		"the manager's own":      {own.Leaf, errs.Denied},
		"the authority's own":    {m.pki.Root(), errs.Denied},
	} {
		if err := ask(c.cert); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := ask(); !errs.Is(err, errs.NotFound) {
		t.Errorf("none: %v", err)
	}
	for _, capacity := range []map[string]int64{{"": 1}, {"a\x00": 1}, {strings.Repeat("x", 100): 1}} {
		if err := m.tx(func(tx *db.Tx) error {
			_, err := Note(m.ctx, tx, "drva-1", digestOf(good), Beat{Capacity: capacity}, "")
			return err
		}); !errs.Is(err, errs.Invalid) {
			t.Errorf("%v: %v", capacity, err)
		}
	}
	m.must(func(tx *db.Tx) error {
		_, err := Note(m.ctx, tx, "drva-1", digestOf(good), Beat{At: 1 << 62}, "")
		return err
	})
	if b := m.get("drva-1"); b.Health != Skewed {
		t.Errorf("a clock that is far ahead: %s", b.Health)
	}
	m.must(func(tx *db.Tx) error {
		_, err := tx.Exec(m.ctx, `UPDATE enrolments SET seen_at = seen_at - $1`, 2*SilentAfter.Milliseconds())
		return err
	})
	if b := m.get("drva-1"); b.Health != Silent {
		t.Errorf("a box that says nothing: %s", b.Health)
	}
}

// TestAgent: it beats by itself, goes on when the manager is away, and ends when it is
// told to.
func TestAgent(t *testing.T) {
	m := newManager(t, dbtest.SQLite(t), "berlin")
	dir := m.join(Invitation{Name: "drva-1", Role: site.DRVA}, "")
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan Answer, 100)
	var mu sync.Mutex
	away := false
	m.drop = func(string) bool { mu.Lock(); defer mu.Unlock(); return away }
	done := make(chan error, 1)
	a := &Agent{Dir: dir, Told: func(a Answer) { told <- a }, every: time.Millisecond}
	go func() { done <- a.Run(ctx) }()
	<-told
	mu.Lock()
	away = true
	mu.Unlock()
	for range 3 { // of the time before
		select {
		case <-told:
		case <-time.After(20 * time.Millisecond):
		}
	}
	mu.Lock()
	away = false
	mu.Unlock()
	if a := <-told; a.At == 0 {
		t.Errorf("%+v", a)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := (&Agent{Dir: t.TempDir()}).Run(t.Context()); !errs.Is(err, errs.NotFound) {
		t.Errorf("a box that is not enrolled: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, homeFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); !errs.Is(err, errs.Corrupt) {
		t.Errorf("a damaged file: %v", err)
	}
}

func FuzzTicket(f *testing.F) {
	f.Add(ticket{"https://x", "00", "s", "n", site.DRVA}.String())
	f.Add("hfe1.e30")
	f.Fuzz(func(t *testing.T, s string) {
		if tk, err := parseTicket(s); err == nil && (tk.Secret == "" || !tk.Name.Valid()) {
			t.Errorf("%q: %+v", s, tk)
		}
	})
}

func FuzzCSR(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	csr, err := request(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Fuzz(func(t *testing.T, s string) {
		if pub, err := parseCSR(s); err == nil && pub == nil {
			t.Errorf("%q has no key", s)
		}
	})
}
