package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
)

// Role is the kind of box a certificate stands for.
type Role string

const (
	RoleHost Role = "host" // a host component; name = dr.HostID
	RoleDRVA Role = "drva" // a DR virtual appliance; name = dr.DomainID it serves
)

// Validity of what this package issues. A site authority outlives its
// appliances; a box certificate is renewed with the box.
const (
	authorityValidity = 10 * 365 * 24 * time.Hour
	boxValidity       = 397 * 24 * time.Hour
	clockSlack        = time.Hour // hosts' clocks may be behind ours
)

// The files of a certificate directory.
const (
	caCertFile = "ca.pem"
	caKeyFile  = "ca-key.pem"
	certFile   = "cert.pem"
	keyFile    = "key.pem"
)

// InitAuthority creates a site's certificate authority in dir (created with
// mode 0700): ca.pem and ca-key.pem. Kind Exists when there is one already.
func InitAuthority(dir, site string) error {
	const op = "control.InitAuthority"
	if err := durable.MkdirAll(durable.OS{}, dir); err != nil {
		return errs.E(op, errs.Internal, dir, err)
	}
	if _, err := os.Stat(filepath.Join(dir, caKeyFile)); err == nil {
		return errs.New(op, errs.Exists, dir, "this directory already holds an authority").
			WithRemedy("use it, or choose another directory; replacing it would cut off every box it has issued for")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return errs.E(op, errs.Internal, dir, err)
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
		return errs.E(op, errs.Internal, dir, err)
	}
	return writePair(op, dir, caCertFile, caKeyFile, der, key)
}

// Issue creates a box's certificate directory out, signed by the authority in
// caDir: ca.pem, cert.pem, key.pem. addrs are the names or IP addresses the
// box listens on; a box that only dials needs none.
func Issue(caDir, out string, role Role, name string, addrs []string) error {
	return IssueNames(caDir, out, role, []string{name}, addrs)
}

// MaxNames bounds the names of one certificate: a DRVA's domains.
const MaxNames = 64

// IssueNames is Issue for a box that stands for several: a DRVA that serves
// several domains. Kind Invalid for no name or more than MaxNames.
func IssueNames(caDir, out string, role Role, names, addrs []string) error {
	const op = "control.Issue"
	if len(names) == 0 || len(names) > MaxNames {
		return errs.New(op, errs.Invalid, out, fmt.Sprintf("a certificate has 1 to %d names, not %d", MaxNames, len(names)))
	}
	caCert, caKey, err := loadAuthority(op, caDir)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return errs.E(op, errs.Internal, out, err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: string(role) + " " + names[0]},
		NotBefore:    now.Add(-clockSlack),
		NotAfter:     now.Add(boxValidity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		tmpl.URIs = append(tmpl.URIs, boxURI(role, name))
	}
	for _, a := range addrs {
		if ip := net.ParseIP(a); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, a)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, caCert, key.Public(), caKey)
	if err != nil {
		return errs.E(op, errs.Internal, out, err)
	}
	if err := durable.MkdirAll(durable.OS{}, out); err != nil {
		return errs.E(op, errs.Internal, out, err)
	}
	if err := writePEM(filepath.Join(out, caCertFile), "CERTIFICATE", caCert.Raw); err != nil {
		return errs.E(op, errs.Internal, out, err)
	}
	return writePair(op, out, certFile, keyFile, der, key)
}

func boxURI(role Role, name string) *url.URL {
	return &url.URL{Scheme: "holdfast", Host: string(role), Path: "/" + name}
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic("control: the system's random source failed: " + err.Error())
	}
	return n.Add(n, big.NewInt(1))
}

func loadAuthority(op, dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	remedy := "create one with: holdfast cert init " + dir
	certDER, err := readPEM(filepath.Join(dir, caCertFile), "CERTIFICATE")
	if err != nil {
		return nil, nil, errs.E(op, errs.Internal, dir, err).WithRemedy(remedy)
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, nil, errs.E(op, errs.Corrupt, filepath.Join(dir, caCertFile), err)
	}
	keyDER, err := readPEM(filepath.Join(dir, caKeyFile), "PRIVATE KEY")
	if err != nil {
		return nil, nil, errs.E(op, errs.Internal, dir, err).WithRemedy(remedy)
	}
	k, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, nil, errs.E(op, errs.Corrupt, filepath.Join(dir, caKeyFile), err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, errs.New(op, errs.Corrupt, filepath.Join(dir, caKeyFile), "not an ECDSA key")
	}
	return cert, key, nil
}

func writePair(op, dir, certName, keyName string, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return errs.E(op, errs.Internal, dir, err)
	}
	// The key first: a certificate without its key is the one useless order.
	if err := writePEM(filepath.Join(dir, keyName), "PRIVATE KEY", keyDER); err != nil {
		return errs.E(op, errs.Internal, dir, err)
	}
	if err := writePEM(filepath.Join(dir, certName), "CERTIFICATE", der); err != nil {
		return errs.E(op, errs.Internal, dir, err)
	}
	return nil
}

func writePEM(path, kind string, der []byte) error {
	return durable.WriteFile(durable.OS{}, path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func readPEM(path, kind string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.E("control.read", errs.NotFound, path, errors.New("no such file"))
	}
	if err != nil {
		return nil, errs.E("control.read", errs.Unavailable, path, err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != kind {
		return nil, errs.E("control.read", errs.Corrupt, path, fmt.Errorf("not a PEM file of type %s", kind))
	}
	return block.Bytes, nil
}
