package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
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
	RoleHost    Role = "host"      // a host component; name = dr.HostID
	RoleDRVA    Role = "drva"      // a DR virtual appliance; name = dr.DomainID it serves
	RoleRocVA   Role = "rocva"     // a recovery appliance; name = its appliance's
	RoleManager Role = "manager"   // a site's manager; name = the site's
	RoleBox     Role = "appliance" // any box a manager has enrolled, whatever it is besides; name = its appliance's
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
	a, err := NewAuthority(site)
	if err != nil {
		return err
	}
	return writePair(op, dir, caCertFile, caKeyFile, a.cert.Raw, a.key)
}

// Issue creates a box's certificate directory out, signed by the authority in
// caDir: ca.pem, cert.pem, key.pem. addrs are the names or IP addresses the
// box listens on; a box that only dials needs none.
func Issue(caDir, out string, role Role, name string, addrs []string) error {
	return IssueNames(caDir, out, role, []string{name}, addrs)
}

// IssueNames is Issue for a box that stands for several: a DRVA that serves
// several domains. Kind Invalid for no name or more than MaxNames.
func IssueNames(caDir, out string, role Role, names, addrs []string) error {
	const op = "control.Issue"
	a, err := LoadAuthority(caDir)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return errs.E(op, errs.Internal, out, err)
	}
	s := Subject{Addrs: addrs, Validity: boxValidity}
	for _, name := range names {
		s.Boxes = append(s.Boxes, Box{role, name})
	}
	der, err := a.Sign(key.Public(), s)
	if err != nil {
		return err
	}
	return WriteCredentials(out, a.cert.Raw, der, key)
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
