package nbd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// certificates makes a server that is nbd.example and a client that knows it.
func certificates(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	server, leaf := authority(t)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return server, &tls.Config{RootCAs: pool, ServerName: "nbd.example"}
}

// peerCertificates makes a server and a directory as GnuTLS users lay it out.
func peerCertificates(t *testing.T) (server *tls.Config, dir string) {
	t.Helper()
	server, leaf := authority(t)
	dir = t.TempDir()
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca-cert.pem"), block, 0o600); err != nil {
		t.Fatal(err)
	}
	return server, dir
}

// authority makes a self-signed server certificate.
func authority(t *testing.T) (*tls.Config, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nbd.example"}, DNSNames: []string{"nbd.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, leaf
}
