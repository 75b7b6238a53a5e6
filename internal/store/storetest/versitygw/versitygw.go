// Package versitygw runs the Versity S3 gateway over a directory: an S3 store
// that keeps conditions on writes, versions and Object Lock, for tests and
// benchmarks of the S3 driver.
//
// It starts no goroutine but those of package emulator.
package versitygw

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/store"
	"holdfast/internal/store/storetest/emulator"
)

const (
	// Region is what the gateway calls its own.
	Region = "us-east-1"
	// portTries bounds the starts when somebody else takes the free port.
	portTries = 3
	// certLife outlives any test by far.
	certLife = 30 * 24 * time.Hour
)

// Options say how it is run. The zero value is right for most tests.
type Options struct {
	Dir string // where it keeps everything; Start makes one; Run needs one
	TLS bool   // serve https with a certificate of its own
	// KeepAlive lets connections carry more than one request, which is faster.
	// It is off unless asked for, as in the program itself: after a body that
	// it refused early the gateway takes the rest of it for the next request.
	KeepAlive bool
}

// Server is a running gateway. Its fields do not change.
type Server struct {
	Endpoint  string // http://127.0.0.1:port or https://…
	CA        string // with TLS: file with the certificate to trust
	AccessKey string // of the owner, who may do everything
	SecretKey string

	spec    emulator.Spec
	process *emulator.Process
}

// Start runs the gateway until the test ends. The test fails, with the make
// target that installs it, when there is none.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	s, err := Run(t.Context(), opts)
	if err != nil {
		t.Fatalf("%v (%s)", err, errs.RemedyOf(err))
	}
	t.Cleanup(s.Stop)
	return s
}

// Run starts the gateway and returns when it answers; it runs until Stop.
func Run(ctx context.Context, opts Options) (*Server, error) {
	root, err := emulator.Root()
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		s, err := prepare(root, opts)
		if err != nil {
			return nil, errs.E("versitygw.Run", errs.Internal, opts.Dir, err)
		}
		if s.process, err = emulator.Start(ctx, s.spec); err == nil {
			return s, nil
		}
		if try == portTries || !errs.Is(err, errs.Unavailable) {
			return nil, err
		}
	}
}

// prepare makes the directories, keys and certificate, and finds a port.
func prepare(root string, opts Options) (*Server, error) {
	data, versions := filepath.Join(opts.Dir, "data"), filepath.Join(opts.Dir, "versions")
	for _, dir := range []string{data, versions} { // Object Lock needs the second
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	port, err := emulator.FreePort()
	if err != nil {
		return nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	s := &Server{Endpoint: "http://" + address, AccessKey: "holdfast", SecretKey: rand.Text()}
	args := []string{"--port", address, "--region", Region, "--quiet"}
	if opts.KeepAlive {
		args = append(args, "--keep-alive")
	}
	if opts.TLS {
		s.Endpoint = "https://" + address
		s.CA = filepath.Join(opts.Dir, "cert.pem")
		key := filepath.Join(opts.Dir, "key.pem")
		if err := writeCertificate(s.CA, key); err != nil {
			return nil, err
		}
		args = append(args, "--cert", s.CA, "--key", key)
	}
	s.spec = emulator.Spec{
		Program: filepath.Join(root, "bin", "versitygw"),
		Target:  "emulators",
		Args:    append(args, "posix", "--versioning-dir", versions, data),
		Env:     []string{"ROOT_ACCESS_KEY=" + s.AccessKey, "ROOT_SECRET_KEY=" + s.SecretKey},
		Ready:   s.Endpoint,
	}
	return s, nil
}

// Stop ends the gateway.
func (s *Server) Stop() { s.process.Stop() }

// Kill ends it as a crash would.
func (s *Server) Kill() { s.process.Kill() }

// Restart runs it again, after Kill or Stop, at the same address over the
// same directory. Not to be called at the same time as Stop and Kill.
func (s *Server) Restart(ctx context.Context) error {
	p, err := emulator.Start(ctx, s.spec)
	if err == nil {
		s.process = p
	}
	return err
}

// URL is the address of a container in a bucket.
func (s *Server) URL(bucket, prefix string) store.URL {
	return store.URL{Scheme: store.SchemeS3, Bucket: bucket, Prefix: prefix, Endpoint: s.Endpoint, Region: Region, PathStyle: true, CA: s.CA}
}

// Env are the variables with the owner's credentials.
func (s *Server) Env() map[string]string {
	return map[string]string{"AWS_ACCESS_KEY_ID": s.AccessKey, "AWS_SECRET_ACCESS_KEY": s.SecretKey}
}

// MakeBucket makes a bucket, with Object Lock (and therefore versions) if
// lock is set.
func (s *Server) MakeBucket(ctx context.Context, name string, lock bool) error {
	client, err := s.Client()
	if err == nil {
		err = client.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: Region, ObjectLocking: lock})
	}
	if err != nil {
		return errs.E("versitygw.MakeBucket", errs.Internal, name, err)
	}
	return nil
}

// Client returns the owner's way in beside the driver: for what tests do
// behind its back.
func (s *Server) Client() (*minio.Client, error) {
	opts := &minio.Options{Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: Region}
	if s.CA != "" {
		pemBytes, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pemBytes)
		opts.Secure = true
		opts.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	_, address, _ := strings.Cut(s.Endpoint, "://")
	return minio.New(address, opts)
}

// writeCertificate makes a certificate for loopback, signed by itself.
func writeCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "holdfast test store"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(certLife),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(durable.OS{}, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})); err != nil {
		return err
	}
	return durable.WriteFile(durable.OS{}, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}
