package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"holdfast/internal/control"
	"holdfast/internal/errs"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/seal"
)

// How long certificates are good. A manager's is made anew by itself, a box's when
// its box asks, both after two thirds of that.
const (
	managerValidity = 90 * 24 * time.Hour
	// BoxValidity is short because a box that was stolen keeps what other boxes
	// take for it until it ends: the manager refuses it at once, they do not ask.
	BoxValidity = 30 * 24 * time.Hour
	// maxNames bounds the names a manager is reached by.
	maxNames = 32
)

// keySecret names the sealed key of the authority.
const keySecret = "pki/authority"

// Options are what a PKI needs.
type Options struct {
	DB   *db.DB
	Box  *seal.Box
	Site string // the manager's own site, a site.Name
	// Names are the host names and addresses by which the manager is reached.
	Names []string
	// Import is a directory made by `holdfast cert init`, whose authority becomes the
	// site's if there is none yet; "": a new one is made.
	Import string

	now func() time.Time // of tests; nil: time.Now
}

// PKI holds the site's authority and the manager's certificate.
type PKI struct {
	site      string
	authority *control.Authority
	names     []string
	now       func() time.Time

	mu    sync.Mutex
	own   *tls.Certificate
	renew time.Time
}

// Open finds the site's authority, or makes it: of replicas that start at once, one
// does. Kinds: Invalid (names), Conflict (another site's database), Denied and
// Corrupt (the sealed key), those of db.Tx.
func Open(ctx context.Context, o Options) (*PKI, error) {
	p := &PKI{site: o.Site, now: o.now}
	if p.now == nil {
		p.now = time.Now
	}
	var err error
	if p.names, err = cleanNames(o.Names); err != nil {
		return nil, err
	}
	fresh, err := makeAuthority(o)
	if err != nil {
		return nil, err
	}
	return p, o.DB.Tx(ctx, func(tx *db.Tx) error {
		if err := store(ctx, tx, o, fresh); err != nil {
			return err
		}
		p.authority, err = load(ctx, tx, o)
		return err
	})
}

// cleanNames refuses what cannot be in a certificate.
func cleanNames(names []string) (clean []string, err error) {
	const op = "pki.Open"
	if len(names) > maxNames {
		return nil, errs.New(op, errs.Invalid, "names", "the manager has too many names").WithRemedy("name it by 32 at most")
	}
	for _, n := range names {
		if !ValidHost(n) {
			return nil, errs.New(op, errs.Invalid, db.Text(n, 255), "it is neither a host name nor an address").WithRemedy("name the manager as msa-a.example.com or 192.0.2.1")
		}
		clean = append(clean, n)
	}
	return clean, nil
}

// ValidHost reports whether s is an IP address without a zone, or a host name.
func ValidHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == ""
	}
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
			return false
		}
	}
	return true
}

func makeAuthority(o Options) (*control.Authority, error) {
	if o.Import != "" {
		return control.LoadAuthority(o.Import)
	}
	return control.NewAuthority(o.Site)
}

// store makes an authority the site's if there is none.
func store(ctx context.Context, tx *db.Tx, o Options, a *control.Authority) error {
	n, err := tx.Exec(ctx, `INSERT INTO authority (id, site, cert, created_at) VALUES ('site', $1, $2, $3) ON CONFLICT DO NOTHING`,
		o.Site, control.EncodePEM(a.Root().Raw), tx.Now())
	if err != nil || n == 0 {
		return err
	}
	key, err := a.KeyDER()
	if err != nil {
		return errs.E("pki.Open", errs.Internal, "authority", err)
	}
	defer clear(key)
	return o.Box.Put(ctx, tx, keySecret, key, "")
}

func load(ctx context.Context, tx *db.Tx, o Options) (a *control.Authority, err error) {
	const op = "pki.Open"
	var site, text string
	if _, err := tx.Row(ctx, `SELECT site, cert FROM authority WHERE id = 'site'`, nil, &site, &text); err != nil {
		return nil, err
	}
	if site != o.Site {
		return nil, errs.New(op, errs.Conflict, o.Site, "the database is that of the manager of site "+site).
			WithRemedy("start the manager as that site's, or give it another database")
	}
	der, err := control.DecodePEM(text)
	if err != nil {
		return nil, errs.E(op, errs.Corrupt, "authority", err)
	}
	return a, o.Box.Use(ctx, tx, keySecret, func(key []byte) error {
		a, err = control.ParseAuthority(der, key)
		if err == nil && o.Import != "" {
			var other *control.Authority
			if other, err = control.LoadAuthority(o.Import); err == nil && !other.Root().Equal(a.Root()) {
				err = errs.New(op, errs.Conflict, o.Import, "the site has another authority already").
					WithRemedy("start without importing one: boxes and peers know the site by the one it has")
			}
		}
		return err
	})
}

// Site is the manager's own site.
func (p *PKI) Site() string { return p.site }

// Root is the authority's certificate.
func (p *PKI) Root() *x509.Certificate { return p.authority.Root() }

// Fingerprint is what people compare: see control.Fingerprint and control.Words.
func (p *PKI) Fingerprint() string { return control.Fingerprint(p.Root()) }

// Own is the manager's certificate, with its key and its authority's certificate: as
// a server, and as the client of other managers. Kind Internal.
func (p *PKI) Own() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.own != nil && p.now().Before(p.renew) {
		return p.own, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, errs.E("pki.Own", errs.Internal, p.site, err)
	}
	der, err := p.authority.Sign(key.Public(), control.Subject{
		Boxes: []control.Box{{Role: control.RoleManager, Name: p.site}}, Addrs: p.names, Validity: managerValidity})
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errs.E("pki.Own", errs.Internal, p.site, err)
	}
	p.own = &tls.Certificate{Certificate: [][]byte{der, p.Root().Raw}, PrivateKey: key, Leaf: leaf}
	p.renew = p.now().Add(managerValidity / 3 * 2)
	return p.own, nil
}

// Server is the TLS of the manager's API: 1.3 alone. A client may send a certificate,
// of a box or of a paired manager; whose it is, and whether it still counts, is found
// out with each request ([auth.Certificates]), because a connection outlives both.
func (p *PKI) Server() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(p.Root())
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return p.Own()
		},
		ClientAuth: tls.RequestClientCert,
		// Named to clients as the authority wanted, so that browsers with certificates
		// of other authorities ask nobody which of them to send.
		ClientCAs:  pool,
		NextProtos: []string{"h2", "http/1.1"},
	}
}

// Client is the TLS of a client of another site's manager, known by its fingerprint.
func (p *PKI) Client(fingerprint string) (*tls.Config, error) {
	own, err := p.Own()
	if err != nil {
		return nil, err
	}
	return control.Pinned(fingerprint, control.RoleManager, own), nil
}

// Issue signs a certificate, DER, for a box's public key.
func (p *PKI) Issue(pub crypto.PublicKey, boxes []control.Box, addrs []string) ([]byte, error) {
	return p.authority.Sign(pub, control.Subject{Boxes: boxes, Addrs: addrs, Validity: BoxValidity})
}

// Names are the host names and addresses of the manager's own certificate.
func (p *PKI) Names() []string { return p.names }

// HostOf is the host of an address "host:port", or the text itself.
func HostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
