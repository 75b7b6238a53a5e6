package control

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// MaxNames bounds the names of one certificate: a DRVA's domains.
const MaxNames = 64

// Box names one thing a certificate stands for.
type Box struct {
	Role Role
	Name string
}

// Subject is what a certificate is to say.
type Subject struct {
	Boxes []Box // the first is what a Link takes the box for
	Addrs []string
	// Validity counts from now; a certificate is good an hour before as well, for
	// clocks that are behind.
	Validity time.Duration
}

// Authority signs the certificates of a site's boxes. It is immutable; its key is
// never logged.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority in memory.
func NewAuthority(site string) (*Authority, error) {
	const op = "control.NewAuthority"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, errs.E(op, errs.Internal, site, err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Holdfast site " + site},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              now.Add(authorityValidity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, errs.E(op, errs.Internal, site, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errs.E(op, errs.Internal, site, err)
	}
	return &Authority{cert, key}, nil
}

// LoadAuthority reads the authority in a directory made by InitAuthority.
func LoadAuthority(dir string) (*Authority, error) {
	const op = "control.LoadAuthority"
	remedy := "create one with: holdfast cert init " + dir
	certDER, err := readPEM(filepath.Join(dir, caCertFile), "CERTIFICATE")
	if err != nil {
		return nil, errs.E(op, errs.Internal, dir, err).WithRemedy(remedy)
	}
	keyDER, err := readPEM(filepath.Join(dir, caKeyFile), "PRIVATE KEY")
	if err != nil {
		return nil, errs.E(op, errs.Internal, dir, err).WithRemedy(remedy)
	}
	return ParseAuthority(certDER, keyDER)
}

// ParseAuthority makes an authority of its certificate and PKCS #8 key, both DER.
// Kind Corrupt for what is no authority, or a key that is not its own.
func ParseAuthority(certDER, keyDER []byte) (*Authority, error) {
	const op = "control.ParseAuthority"
	cert, err := ParseRoot(certDER)
	if err != nil {
		return nil, errs.E(op, errs.Corrupt, "authority", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, errs.E(op, errs.Corrupt, "authority's key", err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errs.New(op, errs.Corrupt, "authority's key", "it is not the key of the authority's certificate")
	}
	return &Authority{cert, key}, nil
}

// ParseRoot reads the certificate of an authority, whoever's: self-signed, allowed
// to sign, with a kind of key we make. Kind Invalid.
func ParseRoot(der []byte) (*x509.Certificate, error) {
	const op = "control.ParseRoot"
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errs.E(op, errs.Invalid, "authority", err)
	}
	if !cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errs.New(op, errs.Invalid, "authority", "the certificate is not an authority's")
	}
	if err := checkKey(op, cert.PublicKey); err != nil {
		return nil, err
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return nil, errs.E(op, errs.Invalid, "authority", err)
	}
	return cert, nil
}

// checkKey refuses kinds of keys that no box of ours makes.
func checkKey(op string, pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	}
	return errs.New(op, errs.Invalid, "public key", fmt.Sprintf("a %T of this kind is not possible", pub)).WithRemedy("use ECDSA on P-256 or P-384, or Ed25519")
}

// Root is the authority's certificate.
func (a *Authority) Root() *x509.Certificate { return a.cert }

// KeyDER renders the private key as PKCS #8.
func (a *Authority) KeyDER() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(a.key) }

// Sign makes a certificate, DER, for a public key. Kind Invalid for no name, more than
// MaxNames, or a key of another kind than boxes make.
func (a *Authority) Sign(pub crypto.PublicKey, s Subject) ([]byte, error) {
	const op = "control.Sign"
	if len(s.Boxes) == 0 || len(s.Boxes) > MaxNames {
		return nil, errs.New(op, errs.Invalid, "certificate", fmt.Sprintf("a certificate has 1 to %d names, not %d", MaxNames, len(s.Boxes)))
	}
	if err := checkKey(op, pub); err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: string(s.Boxes[0].Role) + " " + s.Boxes[0].Name},
		NotBefore:    now.Add(-clockSlack),
		NotAfter:     now.Add(s.Validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	tmpl.URIs = URIs(s.Boxes...)
	for _, addr := range s.Addrs {
		if ip := net.ParseIP(addr); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, addr)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
	if err != nil {
		return nil, errs.E(op, errs.Internal, s.Boxes[0].Name, err)
	}
	return der, nil
}

// URIs are the names of boxes as certificates have them.
func URIs(boxes ...Box) (uris []*url.URL) {
	for _, b := range boxes {
		uris = append(uris, boxURI(b.Role, b.Name))
	}
	return uris
}

// BoxesOf are what a certificate stands for.
func BoxesOf(c *x509.Certificate) (boxes []Box) {
	for _, u := range c.URIs {
		if u.Scheme == "holdfast" && len(u.Path) > 1 {
			boxes = append(boxes, Box{Role(u.Host), u.Path[1:]})
		}
	}
	return boxes
}

// WriteCredentials makes the certificate directory of a box, as LoadCredentials reads
// it: root and certificate are DER. Durable on return.
func WriteCredentials(out string, root, cert []byte, key *ecdsa.PrivateKey) error {
	const op = "control.WriteCredentials"
	if err := durable.MkdirAll(durable.OS{}, out); err != nil {
		return errs.E(op, errs.Internal, out, err)
	}
	if err := writePEM(filepath.Join(out, caCertFile), "CERTIFICATE", root); err != nil {
		return errs.E(op, errs.Internal, out, err)
	}
	return writePair(op, out, certFile, keyFile, cert, key)
}

// LoadKey reads the private key of a certificate directory, to ask for another
// certificate with. Kinds as of LoadCredentials.
func LoadKey(dir string) (*ecdsa.PrivateKey, error) {
	const op = "control.LoadKey"
	c, err := LoadCredentials(dir)
	if err != nil {
		return nil, err
	}
	key, ok := c.current().PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errs.New(op, errs.Invalid, dir, "its key is not an ECDSA key").WithRemedy("enrol the box again")
	}
	return key, nil
}

// WriteCertificate replaces the certificate of a directory by one for the same key, in
// one step: whoever loads the directory finds the old one or the new one. Durable on
// return. Kind Invalid for one of another key.
func WriteCertificate(dir string, cert *x509.Certificate) error {
	const op = "control.WriteCertificate"
	key, err := LoadKey(dir)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return errs.New(op, errs.Invalid, dir, "the certificate is of another key")
	}
	return writePEM(filepath.Join(dir, certFile), "CERTIFICATE", cert.Raw)
}

// EncodePEM renders a certificate for people and for other programs.
func EncodePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// maxPEM bounds what is taken for a certificate, bytes.
const maxPEM = 16 << 10

// DecodePEM reads what EncodePEM renders: one certificate and nothing else. Kind
// Invalid.
func DecodePEM(text string) ([]byte, error) {
	if len(text) <= maxPEM {
		if b, rest := pem.Decode([]byte(text)); b != nil && b.Type == "CERTIFICATE" && len(rest) == 0 {
			return b.Bytes, nil
		}
	}
	return nil, errs.New("control.DecodePEM", errs.Invalid, "certificate", "it is not one certificate in PEM form")
}
