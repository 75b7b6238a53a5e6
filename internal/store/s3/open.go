package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

// Options are what an address does not say. The zero value is right outside
// of tests.
type Options struct {
	// Getenv reads the variables named in the package comment; nil: os.Getenv.
	Getenv func(name string) string
	// Transport is used instead of connections of our own; the address's
	// option ca then has no effect.
	Transport http.RoundTripper
}

// Store is a container in a bucket. Safe for concurrent use, also by several
// processes.
type Store struct {
	core   minio.Core
	creds  *credentials.Credentials
	bucket string
	prefix string // of all keys; empty or ending in a slash

	versions atomic.Bool // the bucket keeps versions
	locks    atomic.Bool // the bucket has Object Lock

	walkPage int // of Reveal's walk, for tests; 0: as many as the store gives
}

var (
	_ store.Store  = (*Store)(nil)
	_ store.Locker = (*Store)(nil)
)

// defaultRegion is what stores that know no regions call theirs, and Amazon's
// first.
const defaultRegion = "us-east-1"

// New returns the container at an address without asking whether it is there;
// Check must follow before Delete and locks are used. Kinds: Invalid (the
// address, the certificates), Denied (no credentials).
func New(u store.URL, opts Options) (*Store, error) {
	const op = "s3.New"
	if u.Scheme != store.SchemeS3 || u.Bucket == "" {
		return nil, errs.New(op, errs.Invalid, u.String(), "is no address of S3")
	}
	if strings.HasSuffix(u.Bucket, "--x-s3") {
		return nil, errs.New(op, errs.Invalid, u.Bucket, "a directory bucket lists keys in no order").WithRemedy("use a general purpose bucket")
	}
	if opts.Getenv == nil {
		opts.Getenv = os.Getenv
	}
	host, secure, err := endpointOf(u)
	if err != nil {
		return nil, err
	}
	rt := opts.Transport
	if rt == nil {
		if rt, err = newTransport(u.CA); err != nil {
			return nil, err
		}
	}
	s := &Store{bucket: u.Bucket}
	if u.Prefix != "" {
		s.prefix = u.Prefix + "/"
	}
	if s.creds, err = newCredentials(opts.Getenv); err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupAuto
	if u.PathStyle {
		lookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(host, &minio.Options{
		Creds: s.creds, Secure: secure, Transport: guard{rt}, BucketLookup: lookup,
		Region:     firstOf(u.Region, opts.Getenv("AWS_REGION"), opts.Getenv("AWS_DEFAULT_REGION"), defaultRegion), // unset, each bucket's would be asked for
		MaxRetries: 1,                                                                                              // store/retry repeats
	})
	if err != nil {
		return nil, errs.E(op, errs.Invalid, u.Endpoint, err)
	}
	core.SetAppInfo("holdfast", "1")
	s.core = *core
	return s, nil
}

func firstOf(names ...string) string {
	for _, name := range names {
		if name != "" {
			return name
		}
	}
	return ""
}

// endpointOf returns the host that answers and whether it does so encrypted.
func endpointOf(u store.URL) (host string, secure bool, err error) {
	const op = "s3.New"
	if u.Endpoint == "" {
		return "s3.amazonaws.com", true, nil
	}
	e, err := url.Parse(u.Endpoint)
	switch {
	case err != nil || e.Host == "":
		return "", false, errs.New(op, errs.Invalid, u.Endpoint, "is no endpoint").WithRemedy("write it as https://host:port")
	case e.Path != "":
		return "", false, errs.New(op, errs.Invalid, u.Endpoint, "an S3 endpoint has no path").WithRemedy("write it as https://host:port")
	case e.Scheme == "http" && !u.Insecure && !loopback(e.Hostname()):
		return "", false, errs.New(op, errs.Invalid, u.Endpoint, "http would send everything unencrypted").
			WithRemedy("use https, with ca=/file for a certificate of your own, or add insecure=true")
	}
	return e.Host, e.Scheme == "https", nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// newTransport returns connections that trust the system's certificates, or
// only those in the file ca.
func newTransport(ca string) (http.RoundTripper, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, errs.E("s3.New", errs.Invalid, ca, err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errs.New("s3.New", errs.Invalid, ca, "holds no certificate").WithRemedy("name a file with certificates in PEM form")
		}
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: dialLimit}).DialContext,
		TLSHandshakeTimeout:    handshakeLimit,
		TLSClientConfig:        conf,
		MaxIdleConnsPerHost:    maxConnections,
		MaxConnsPerHost:        maxConnections,
		IdleConnTimeout:        idleLimit,
		ResponseHeaderTimeout:  requestBase,
		MaxResponseHeaderBytes: maxHeader,
		WriteBufferSize:        socketBuffer,
		ReadBufferSize:         socketBuffer,
		DisableCompression:     true, // ranges are of the bytes as they are
	}, nil
}

// newCredentials finds where credentials come from; see the package comment.
func newCredentials(getenv func(string) string) (*credentials.Credentials, error) {
	id, secret := getenv("AWS_ACCESS_KEY_ID"), getenv("AWS_SECRET_ACCESS_KEY")
	if id != "" && secret != "" {
		return credentials.NewStaticV4(id, secret, getenv("AWS_SESSION_TOKEN")), nil
	}
	const remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, write the shared credentials file, or give the machine a role"
	if id != "" || secret != "" {
		return nil, errs.New("s3.New", errs.Denied, "", "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set").WithRemedy(remedy)
	}
	file := credentials.NewFileAWSCredentials(getenv("AWS_SHARED_CREDENTIALS_FILE"), getenv("AWS_PROFILE"))
	switch v, err := file.GetWithContext(nil); {
	case err == nil && v.AccessKeyID != "":
		return file, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return nil, errs.New("s3.New", errs.Denied, "", "the shared credentials file cannot be used").WithRemedy(remedy)
	case strings.EqualFold(getenv("AWS_EC2_METADATA_DISABLED"), "true"):
		return nil, errs.New("s3.New", errs.Denied, "", "no credentials").WithRemedy(remedy)
	}
	return credentials.NewIAM(""), nil
}

// Open is New followed by Check.
func Open(ctx context.Context, u store.URL, opts Options) (*Store, error) {
	s, err := New(u, opts)
	if err != nil {
		return nil, err
	}
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Check asks whether the bucket is there, and whether it keeps versions and
// locks, which decides how Delete works and what Capabilities declares. Kinds:
// NotFound (no such bucket), Denied, Invalid (another region), Unavailable,
// Transient, Canceled.
func (s *Store) Check(ctx context.Context) error {
	const op = "s3.Open"
	c, done, err := s.begin(ctx, op, s.bucket, 0)
	if err != nil {
		return err
	}
	defer done()
	versioning, err := s.core.GetBucketVersioning(c, s.bucket)
	if err != nil && !unknownRequest(err) {
		if codeOf(err) == minio.NoSuchBucket {
			// At start a wrong name is likelier than anything else, and it is
			// the bucket that is asked for.
			return errs.New(op, errs.NotFound, s.bucket, "no such bucket").WithRemedy(bucketRemedy)
		}
		return s.fail(ctx, op, s.bucket, err)
	}
	s.versions.Store(versioning.Status != "")
	enabled, _, _, _, err := s.core.GetObjectLockConfig(c, s.bucket)
	if err != nil && !noLock(err) && !unknownRequest(err) {
		return s.fail(ctx, op, s.bucket, err)
	}
	s.locks.Store(err == nil && enabled == minio.Enabled && versioning.Status != "")
	return nil
}

// begin starts a call that moves n bytes: the context for its requests, which
// done ends.
func (s *Store) begin(ctx context.Context, op, key string, n int) (c context.Context, done func(), err error) {
	if err := store.Canceled(ctx, op, key); err != nil {
		return nil, nil, err
	}
	limit := requestBase + time.Duration(n)*time.Second/slowest
	c, done = context.WithTimeoutCause(ctx, limit, fmt.Errorf("the store did not finish within %v", limit))
	return c, done, nil
}

// Capabilities implements store.Store. CreateOnce and Delete are what the
// protocol has: whether this store keeps the condition and these credentials
// may delete shows only when it is tried. Lock is what Check found.
func (s *Store) Capabilities() store.Capabilities {
	return store.Capabilities{Name: "s3", CreateOnce: true, Delete: true, Lock: s.locks.Load()}
}
