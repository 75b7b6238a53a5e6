package azblob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"holdfast/internal/errs"
)

// errTooLong ends the reading of an answer that is longer than any should be.
var errTooLong = fmt.Errorf("answer is longer than %d bytes", maxAnswer)

// newTransport returns the way to the service. ca is a file of certificates
// to trust instead of the system's, or empty.
func newTransport(ca string) (*http.Transport, error) {
	roots, err := loadCA(ca)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return stallConn{conn}, nil
		},
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		MaxIdleConns:           maxConns,
		MaxIdleConnsPerHost:    maxConns,
		MaxConnsPerHost:        maxConns,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxAnswerHeader,
		DisableCompression:     true, // bytes are to arrive as they were written
		WriteBufferSize:        64 << 10,
		ReadBufferSize:         64 << 10,
	}, nil
}

func loadCA(path string) (*x509.CertPool, error) {
	const op = "azblob.New"
	if path == "" {
		return nil, nil
	}
	const remedy = "name a file of certificates in PEM form, readable to this program, in the address's option ca"
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.E(op, errs.Invalid, path, err).WithRemedy(remedy)
	}
	defer f.Close()
	pem, err := io.ReadAll(io.LimitReader(f, maxCA+1))
	if err != nil {
		return nil, errs.E(op, errs.Invalid, path, err).WithRemedy(remedy)
	}
	roots := x509.NewCertPool()
	if len(pem) > maxCA || !roots.AppendCertsFromPEM(pem) {
		return nil, errs.New(op, errs.Invalid, path, "holds no certificates").WithRemedy(remedy)
	}
	return roots, nil
}

// stallConn fails when nothing moves for stallTimeout. Writing counts as
// movement for reading too: while a long body goes out, no answer is due.
type stallConn struct{ net.Conn }

func (c stallConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c stallConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// newClient bounds what rt answers and follows no redirection: it would carry
// credentials to wherever it points.
func newClient(rt http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     bounded{rt},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// bounded limits the length of answers that are read whole: all but the
// content of objects, of which only what was asked for is taken.
type bounded struct{ inner http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.inner.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	q := req.URL.Query()
	content := req.Method == http.MethodGet && q.Get("comp") == "" && q.Get("restype") == "" && resp.StatusCode < http.StatusMultipleChoices
	if !content && resp.Body != nil {
		resp.Body = &boundedBody{inner: resp.Body, left: maxAnswer}
	}
	return resp, nil
}

type boundedBody struct {
	inner io.ReadCloser
	left  int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		if n, err := b.inner.Read(make([]byte, 1)); n == 0 {
			return 0, err
		}
		return 0, errTooLong
	}
	n, err := b.inner.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func (b *boundedBody) Close() error { return b.inner.Close() }

// sendBody reads from a caller's slice until release: net/http may go on to
// read a request's body after the answer is there, when the caller has its
// slice back and may write to it.
type sendBody struct {
	mu   sync.Mutex
	body []byte // guarded by mu; nil when released
	off  int    // guarded by mu
	gone bool   // guarded by mu
}

var errReleased = errors.New("request is over")

func (b *sendBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.body, b.gone = nil, true
}

// Read implements io.Reader.
func (b *sendBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return 0, errReleased
	}
	if b.off >= len(b.body) {
		return 0, io.EOF
	}
	n := copy(p, b.body[b.off:])
	b.off += n
	return n, nil
}

// Seek implements io.Seeker.
func (b *sendBody) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += int64(b.off)
	case io.SeekEnd:
		offset += int64(len(b.body))
	}
	if offset < 0 || offset > int64(len(b.body)) {
		return 0, errors.New("offset is outside the body")
	}
	b.off = int(offset)
	return offset, nil
}

// Close implements io.Closer; release is what ends the use of the slice.
func (b *sendBody) Close() error { return nil }
