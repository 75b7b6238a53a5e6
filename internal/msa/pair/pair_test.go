package pair

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/internal/control"
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

// manager is as much of one as peers need.
type manager struct {
	URL  string
	t    *testing.T
	ctx  context.Context
	db   *db.DB
	pki  *pki.PKI
	mon  *Monitor
	away atomic.Bool
}

func newManager(t *testing.T, url, name string) *manager {
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
	p, err := pki.Open(t.Context(), pki.Options{DB: d, Box: box, Site: name, Names: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{t: t, ctx: t.Context(), db: d, pki: p, mon: &Monitor{DB: d, PKI: p, Release: "1.0", every: time.Nanosecond}}
	m.mon.Logger = slog.New(slog.DiscardHandler)
	a := auth.New(auth.Options{DB: d, Certificates: []auth.CertificateFunc{Holder(d)}})
	mux := http.NewServeMux()
	handle(m, a, mux, PresentPath, func(tx *db.Tx, r *http.Request, _ *auth.Principal, in Presentation) (any, error) {
		return Present(r.Context(), tx, p, in, r.RemoteAddr)
	})
	handle(m, a, mux, BeatPath, func(tx *db.Tx, r *http.Request, who *auth.Principal, in Beat) (any, error) {
		return Note(r.Context(), tx, p, site.Name(who.Peer()), in, "1.0")
	})
	handle(m, a, mux, LeavePath, func(tx *db.Tx, r *http.Request, who *auth.Principal, _ struct{}) (any, error) {
		return nil, Left(r.Context(), tx, site.Name(who.Peer()))
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

func handle[T any](m *manager, a *auth.Auth, mux *http.ServeMux, path string, f func(*db.Tx, *http.Request, *auth.Principal, T) (any, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		if m.away.Load() {
			panic(http.ErrAbortHandler)
		}
		var in T
		var out any
		var who *auth.Principal
		err := json.NewDecoder(r.Body).Decode(&in)
		if err == nil && path != PresentPath {
			if who, err = a.Authenticate(r.Context(), r); err == nil && !who.May(auth.PeerBeat, "") {
				err = errs.New("x", errs.Denied, "", "not a peer")
			}
		}
		if err == nil {
			err = m.db.Tx(r.Context(), func(tx *db.Tx) error { out, err = f(tx, r, who, in); return err })
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

func (m *manager) invite(name site.Name) (token string) {
	m.t.Helper()
	m.must(func(tx *db.Tx) (err error) { token, err = Invite(m.ctx, tx, m.pki, name, m.URL, 0, "root"); return err })
	return token
}

func (m *manager) get(name site.Name) (p Pair) {
	m.t.Helper()
	m.must(func(tx *db.Tx) (err error) { p, err = Get(m.ctx, tx, name); return err })
	return p
}

func (m *manager) accept(name site.Name, token string) (p Pair, err error) {
	a, err := Accept(m.ctx, m.pki, name, token, m.URL)
	if err != nil {
		return Pair{}, err
	}
	return p, m.tx(func(tx *db.Tx) error { p, err = a.Trust(m.ctx, tx); return err })
}

func (m *manager) confirm(name site.Name, fingerprint string) error {
	return m.tx(func(tx *db.Tx) error { _, err := Confirm(m.ctx, tx, m.pki, name, fingerprint); return err })
}

func (m *manager) round() {
	m.t.Helper()
	if err := m.mon.round(m.ctx); err != nil {
		m.t.Fatal(err)
	}
}

func (m *manager) want(name site.Name, s Status) Pair {
	m.t.Helper()
	p := m.get(name)
	if p.Status != s {
		m.t.Errorf("%s is %s at %s, not %s: %+v", name, p.Status, m.pki.Site(), s, p)
	}
	return p
}

// pairUp pairs two managers: a's pair is called as b's site, and the other way round.
func pairUp(a, b *manager) {
	a.t.Helper()
	an, bn := site.Name(a.pki.Site()), site.Name(b.pki.Site())
	if _, err := b.accept(an, a.invite(bn)); err != nil {
		a.t.Fatal(err)
	}
	if err := a.confirm(bn, b.pki.Fingerprint()); err != nil {
		a.t.Fatal(err)
	}
}

// TestLife follows a pair: token, comparison, status of both directions, one that is
// away, un-pairing.
func TestLife(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		a, b := newManager(t, url, "berlin"), newManager(t, dbtest.SQLite(t), "rome")
		token := a.invite("rome")
		a.want("rome", StatusInvited)
		p, err := b.accept("berlin", token)
		if err != nil || p.Trust != site.Trusted || p.Fingerprint != a.pki.Fingerprint() || p.PeerSite != "berlin" {
			t.Fatalf("%+v, %v", p, err)
		}
		shown := a.want("rome", StatusPresented)
		if shown.Presented != b.pki.Fingerprint() || shown.PresentedWords == "" || shown.Trust != site.Presented || shown.Fingerprint != "" {
			t.Errorf("%+v", shown)
		}
		// Until somebody has compared, B is nobody at A.
		b.round()
		if p := b.want("berlin", StatusRefused); p.OutError == "" || p.OutRemedy == "" {
			t.Errorf("%+v", p)
		}
		if err := a.confirm("rome", a.pki.Fingerprint()); !errs.Is(err, errs.Conflict) {
			t.Errorf("another fingerprint: %v", err)
		}
		if err := a.confirm("rome", b.pki.Fingerprint()); err != nil {
			t.Fatal(err)
		}
		if err := a.confirm("rome", b.pki.Fingerprint()); !errs.Is(err, errs.Conflict) {
			t.Errorf("twice: %v", err)
		}
		a.want("rome", StatusLost)
		b.round()
		a.want("rome", StatusOneWay)
		b.want("berlin", StatusOneWay)
		a.round()
		if p := a.want("rome", StatusOK); p.SkewMS > 60000 || p.Release != "1.0" || p.InAt == 0 || p.OutOKAt == 0 {
			t.Errorf("%+v", p)
		}
		b.want("berlin", StatusOK)
		// B is away: A notices at once that it does not answer.
		b.away.Store(true)
		a.round()
		if p := a.want("rome", StatusOneWay); p.OutError == "" {
			t.Errorf("%+v", p)
		}
		a.must(func(tx *db.Tx) error {
			_, err := tx.Exec(a.ctx, `UPDATE peers SET in_at = in_at - $1`, 2*LostAfter.Milliseconds())
			return err
		})
		a.want("rome", StatusLost)
		b.away.Store(false)
		a.round()
		b.round()
		a.want("rome", StatusOK)
		// B un-pairs, and tells A.
		if err := b.mon.Leave(b.ctx, "berlin"); err != nil {
			t.Fatal(err)
		}
		b.must(func(tx *db.Tx) error { return Remove(b.ctx, tx, "berlin") })
		a.want("rome", StatusRevoked)
		a.round()
		if err := b.tx(func(tx *db.Tx) error { _, err := Get(b.ctx, tx, "berlin"); return err }); !errs.Is(err, errs.NotFound) {
			t.Error(err)
		}
		// And pairs again, under the same name.
		pairUp(a, b)
		a.round()
		b.round()
		a.want("rome", StatusOK)
	})
}

// TestSeveralPeers: one site with two; neither counts for the other.
func TestSeveralPeers(t *testing.T) {
	a, b, c := newManager(t, dbtest.SQLite(t), "berlin"), newManager(t, dbtest.SQLite(t), "rome"), newManager(t, dbtest.SQLite(t), "oslo")
	pairUp(a, b)
	pairUp(a, c)
	for _, m := range []*manager{a, b, c} {
		m.round()
	}
	for _, n := range []site.Name{"rome", "oslo"} {
		a.want(n, StatusOK)
	}
	b.away.Store(true)
	a.round()
	a.want("rome", StatusOneWay)
	a.want("oslo", StatusOK)
	if err := a.tx(func(tx *db.Tx) error { return Remove(a.ctx, tx, "rome") }); err != nil {
		t.Fatal(err)
	}
	b.round()
	b.want("berlin", StatusRefused)
	a.want("oslo", StatusOK)
}

// TestAuthorityChanged: a site whose authority is another one is refused by both until
// they are paired again, and the old trust holds until the new one is confirmed.
func TestAuthorityChanged(t *testing.T) {
	a, b := newManager(t, dbtest.SQLite(t), "berlin"), newManager(t, dbtest.SQLite(t), "rome")
	pairUp(a, b)
	a.round()
	// Rome's manager is set up anew, at the address where it was.
	b2 := newManager(t, dbtest.SQLite(t), "rome")
	a.must(func(tx *db.Tx) error {
		_, err := tx.Exec(a.ctx, `UPDATE peers SET address = $1`, b2.URL)
		return err
	})
	a.round()
	if p := a.want("rome", StatusRefused); !strings.Contains(p.OutRemedy, "pair them again") {
		t.Errorf("%+v", p)
	}
	if _, err := b2.accept("berlin", a.invite("rome")); err != nil {
		t.Fatal(err)
	}
	if p := a.want("rome", StatusPresented); p.Trust != site.Trusted || p.Fingerprint != b.pki.Fingerprint() {
		t.Errorf("the old trust is gone before the new one is confirmed: %+v", p)
	}
	b.round()
	if p := b.get("berlin"); p.OutError != "" {
		t.Errorf("the old manager before the confirmation: %+v", p)
	}
	if err := a.confirm("rome", b2.pki.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	b.round()
	b.want("berlin", StatusRefused)
	a.round()
	b2.round()
	a.want("rome", StatusOK)
}

// TestTokens: what is not a good token pairs nobody, and a stolen one is found out by
// the comparison.
func TestTokens(t *testing.T) {
	a, b, thief := newManager(t, dbtest.SQLite(t), "berlin"), newManager(t, dbtest.SQLite(t), "rome"), newManager(t, dbtest.SQLite(t), "milan")
	token := a.invite("rome")
	if _, err := thief.accept("berlin", token); err != nil {
		t.Fatal(err)
	}
	if _, err := b.accept("berlin", token); !errs.Is(err, errs.Denied) {
		t.Errorf("a token that was used: %v", err)
	}
	if err := a.confirm("rome", b.pki.Fingerprint()); !errs.Is(err, errs.Conflict) || errs.RemedyOf(err) == "" {
		t.Errorf("the thief is taken for B: %v", err)
	}
	older := a.invite("rome")
	token = a.invite("rome")
	if _, err := b.accept("berlin", older); !errs.Is(err, errs.Denied) {
		t.Errorf("an older token: %v", err)
	}
	if _, err := a.accept("self", token); !errs.Is(err, errs.Conflict) {
		t.Errorf("with oneself: %v", err)
	}
	// Another manager answers at the address in the token.
	tk, err := parseTicket(a.invite("rome"))
	if err != nil {
		t.Fatal(err)
	}
	tk.Manager = thief.URL
	if _, err := b.accept("berlin", tk.String()); !errs.Is(err, errs.Denied) {
		t.Errorf("another manager in its place: %v", err)
	}
	for _, bad := range []string{"", "hfp1.", "hfp1.e30", "hfp1.!", "hfe1.e30", strings.Repeat("x", 10000)} {
		if _, err := b.accept("berlin", bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// One site is one pair.
	pairUp(a, b)
	if _, err := b.accept("berlin2", a.invite("rome2")); !errs.Is(err, errs.Conflict) {
		t.Errorf("one site twice: %v", err)
	}
	for name, in := range map[string]Presentation{
		"no authority": {Site: "x"}, "no site": {Authority: control.EncodePEM(thief.pki.Root().Raw)},
		"a leaf":   {Site: "x", Authority: control.EncodePEM(must(thief.pki.Own()).Leaf.Raw)},
		"address":  {Site: "x", Authority: control.EncodePEM(thief.pki.Root().Raw), Address: "http://x"},
		"our name": {Site: "berlin", Authority: control.EncodePEM(thief.pki.Root().Raw)},
		"our own":  {Site: "x", Authority: control.EncodePEM(a.pki.Root().Raw)},
	} {
		tk, err := parseTicket(a.invite("x"))
		if err != nil {
			t.Fatal(err)
		}
		in.Secret = tk.Secret
		if err := a.tx(func(tx *db.Tx) error { _, err := Present(a.ctx, tx, a.pki, in, ""); return err }); !errs.Is(err, errs.Invalid) && !errs.Is(err, errs.Conflict) {
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

// TestPeersAuthoritySpeaksForItsManagerAlone: what a paired site's authority signs is
// nobody here unless it is that site's manager: no box, no manager of another name,
// nobody of a site that is not trusted.
func TestPeersAuthoritySpeaksForItsManagerAlone(t *testing.T) {
	a, b, c := newManager(t, dbtest.SQLite(t), "berlin"), newManager(t, dbtest.SQLite(t), "rome"), newManager(t, dbtest.SQLite(t), "oslo")
	pairUp(a, b)
	ask := func(chain ...*x509.Certificate) (*auth.Principal, error) { return Holder(a.db)(a.ctx, chain) }
	own := must(b.pki.Own()).Leaf
	if p, err := ask(own); err != nil || p.Peer() != "rome" || p.Box() != "" || p.May(auth.PlanRun, "") || p.May(auth.BoxBeat, "") || !p.May(auth.PeerBeat, "") {
		t.Errorf("%+v, %v", p, err)
	}
	issue := func(boxes ...control.Box) *x509.Certificate {
		der, err := b.pki.Issue(own.PublicKey, boxes, nil)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	for name, c := range map[string]struct {
		cert *x509.Certificate
		kind errs.Kind
	}{
		"a box of theirs":      {issue(control.Box{Role: control.RoleBox, Name: "drva-1"}), errs.Denied},
		"a box of ours":        {issue(control.Box{Role: control.RoleDRVA, Name: "d"}, control.Box{Role: control.RoleBox, Name: "drva-1"}), errs.Denied},
		"our manager":          {issue(control.Box{Role: control.RoleManager, Name: "berlin"}), errs.Denied},
		"another site's":       {issue(control.Box{Role: control.RoleManager, Name: "oslo"}), errs.Denied},
		"their authority":      {b.pki.Root(), errs.Denied},
		"a site that is none":  {must(c.pki.Own()).Leaf, errs.NotFound},
		"our own manager's":    {must(a.pki.Own()).Leaf, errs.NotFound},
		"their root beside it": {must(c.pki.Own()).Leaf, errs.NotFound},
	} {
		if p, err := ask(c.cert, b.pki.Root()); !errs.Is(err, c.kind) || p != nil {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	if _, err := ask(); !errs.Is(err, errs.NotFound) {
		t.Errorf("none: %v", err)
	}
}

// TestReplicas: of two replicas one beats in each interval.
func TestReplicas(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, url string) {
		a, b := newManager(t, url, "berlin"), newManager(t, dbtest.SQLite(t), "rome")
		pairUp(a, b)
		other := &Monitor{DB: a.db, PKI: a.pki, Logger: slog.New(slog.DiscardHandler), every: time.Hour}
		a.mon.every = time.Hour
		first, err := a.mon.claim(a.ctx)
		if err != nil {
			t.Fatal(err)
		}
		second, err := other.claim(a.ctx)
		if err != nil || len(first) != 1 || len(second) != 0 {
			t.Errorf("%d and %d beats in one interval, %v", len(first), len(second), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		a.mon.every = time.Millisecond
		go func() { done <- a.mon.Run(ctx) }()
		for b.get("berlin").InAt == 0 {
			if ctx.Err() != nil {
				break
			}
			time.Sleep(time.Millisecond) // between looks; what is there decides
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func FuzzTicket(f *testing.F) {
	f.Add(ticket{"https://x", strings.Repeat("00", 32), "s", "n"}.String())
	f.Add("hfp1.e30")
	f.Fuzz(func(t *testing.T, s string) {
		if tk, err := parseTicket(s); err == nil && (tk.Secret == "" || !validAddress(tk.Manager)) {
			t.Errorf("%q: %+v", s, tk)
		}
	})
}
