package control

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/errs"
)

// linkBuffer is the size of the buffers below TLS, in bytes. crypto/tls writes
// one 16 KiB record per system call and reads two for each; collecting them
// saves about 60 system calls per MiB each way.
const linkBuffer = 256 << 10

// handshakeLimit bounds a handshake, so that a silent peer holds nothing.
const handshakeLimit = 10 * time.Second

// Credentials are a box's certificate and the authority it trusts. A certificate that
// is renewed in the directory is taken for the next link: nothing is restarted. For
// concurrent use.
type Credentials struct {
	pool *x509.CertPool
	dir  string

	mu    sync.Mutex
	cert  *tls.Certificate
	since os.FileInfo // the file of the certificate
}

// current is the newest certificate in the directory. One that cannot be read leaves
// the one before: it is being written, or its remedy is at the box that writes it.
func (c *Credentials) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	path := filepath.Join(c.dir, certFile)
	st, err := os.Stat(path)
	// A new certificate is a new file: times alone are too coarse to tell.
	if err != nil || os.SameFile(st, c.since) && st.ModTime().Equal(c.since.ModTime()) {
		return c.cert
	}
	if cert, err := tls.LoadX509KeyPair(path, filepath.Join(c.dir, keyFile)); err == nil {
		c.cert, c.since = &cert, st
	}
	return c.cert
}

// LoadCredentials reads a directory made by Issue. The private key must not be
// readable by others.
func LoadCredentials(dir string) (*Credentials, error) {
	const op = "control.LoadCredentials"
	kp := filepath.Join(dir, keyFile)
	st, err := os.Stat(kp)
	if err != nil {
		return nil, errs.E(op, errs.NotFound, kp, err).
			WithRemedy("issue certificates with: holdfast cert issue")
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, errs.E(op, errs.Denied, kp, fmt.Errorf("private key has mode %#o: others can read it", st.Mode().Perm())).
			WithRemedy("chmod 600 " + kp)
	}
	// Before the certificate is read: one that comes meanwhile is then read again.
	written, err := os.Stat(filepath.Join(dir, certFile))
	if err != nil {
		return nil, errs.E(op, errs.NotFound, dir, err).WithRemedy("issue certificates with: holdfast cert issue")
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), kp)
	if err != nil {
		return nil, errs.E(op, errs.Invalid, dir, err)
	}
	ca, err := readPEM(filepath.Join(dir, caCertFile), "CERTIFICATE")
	if err != nil {
		return nil, errs.E(op, errs.Internal, dir, err)
	}
	c, err := x509.ParseCertificate(ca)
	if err != nil {
		return nil, errs.E(op, errs.Corrupt, dir, err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return &Credentials{pool: pool, dir: dir, cert: &cert, since: written}, nil
}

func (c *Credentials) config(expect Role) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.current(), nil },
		RootCAs:              c.pool,
		ClientCAs:            c.pool,
		ClientAuth:           tls.RequireAndVerifyClientCert,
		// Small first records favour a browser's first paint; a link carries
		// bulk from the first byte.
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			role, _, err := identity(s)
			if err != nil {
				return err
			}
			if role != expect {
				return fmt.Errorf("the other side is a %s, not a %s", role, expect)
			}
			return nil
		},
	}
}

// Link is a connection to a box that has proved who it is. One reader and one
// writer at a time, as with any connection; Close at any time.
//
// A link that was dialled gathers writes below TLS: after a Write the caller
// must Flush before it waits for an answer. An accepted link sends what a Write
// was given before it returns.
type Link struct {
	*tls.Conn
	buf    *bufferedConn
	gather bool
}

// Write encrypts p. The TLS records of one call go out together.
func (l *Link) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if err == nil && !l.gather {
		err = l.buf.Flush()
	}
	return n, err
}

// Flush sends what Write has gathered.
func (l *Link) Flush() error { return l.buf.Flush() }

// Handshake proves both sides to each other, within the connection's deadline.
// Needed once on a link from a Listener; a dialled link has done it. Kinds:
// Denied when the other side is not who it should be, Unavailable when the
// connection ended before that was known.
func (l *Link) Handshake(ctx context.Context) error {
	if err := l.HandshakeContext(ctx); err != nil {
		if brokenOff(err) {
			return errs.E("control.Handshake", errs.Unavailable, l.RemoteAddr().String(), err)
		}
		return errs.E("control.Handshake", errs.Denied, l.RemoteAddr().String(), err).
			WithRemedy("check that both boxes have certificates of the same site authority, for the right role and address")
	}
	l.buf.hold.Store(true)
	return nil
}

// brokenOff reports whether a handshake failed because the connection ended,
// and not because a side disliked what it saw: crypto/tls tells that, its own
// verdict and the other side's, as network errors of these operations.
func brokenOff(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var e *net.OpError
	return errors.As(err, &e) && e.Op != "remote error" && e.Op != "local error"
}

// Peer returns the role and name the other side has proved in the handshake.
func (l *Link) Peer() (Role, string) {
	role, name, err := identity(l.ConnectionState())
	if err != nil {
		return "", "" // no handshake yet: the handshake verifies the same
	}
	return role, name
}

// Is reports whether the other side has proved in the handshake that it is the
// box of that role and name, or one that stands for it among others.
func (l *Link) Is(role Role, name string) bool {
	certs := l.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return false
	}
	for _, u := range certs[0].URIs {
		if *u == *boxURI(role, name) {
			return true
		}
	}
	return false
}

// Names are the names this side's own certificate has for a role.
func (c *Credentials) Names(role Role) (names []string) {
	cert := c.current()
	if cert.Leaf == nil {
		return nil
	}
	for _, u := range cert.Leaf.URIs {
		if u.Scheme == "holdfast" && u.Host == string(role) {
			names = append(names, strings.TrimPrefix(u.Path, "/"))
		}
	}
	return names
}

// Dial connects to a box of the expected role at addr (host:port). Kinds:
// Unavailable, Denied.
func (c *Credentials) Dial(ctx context.Context, addr string, expect Role) (*Link, error) {
	const op = "control.Dial"
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, errs.E(op, errs.Invalid, addr, err)
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, errs.E(op, errs.Unavailable, addr, err)
	}
	cfg := c.config(expect)
	cfg.ServerName = host
	buf := newBufferedConn(raw)
	l := &Link{Conn: tls.Client(buf, cfg), buf: buf, gather: true}
	if err := l.Handshake(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Listener accepts links whose other side has not proved anything yet: the
// caller sets a deadline and calls Handshake.
type Listener struct {
	net.Listener
	cfg *tls.Config
}

// Listen accepts boxes of the expected role on addr (host:port; port 0: any).
// Kind Unavailable when the address cannot be had.
func (c *Credentials) Listen(addr string, expect Role) (*Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, errs.E("control.Listen", errs.Unavailable, addr, err).
			WithRemedy("choose an address of this machine and a port nobody listens on")
	}
	return &Listener{Listener: ln, cfg: c.config(expect)}, nil
}

// Accept returns the next connection, a *Link.
func (ln *Listener) Accept() (net.Conn, error) {
	raw, err := ln.Listener.Accept()
	if err != nil {
		return nil, err
	}
	buf := newBufferedConn(raw)
	return &Link{Conn: tls.Server(buf, ln.cfg), buf: buf}, nil
}

func identity(s tls.ConnectionState) (Role, string, error) {
	if len(s.PeerCertificates) == 0 {
		return "", "", fmt.Errorf("the other side has no certificate")
	}
	for _, u := range s.PeerCertificates[0].URIs {
		if u.Scheme == "holdfast" {
			return Role(u.Host), strings.TrimPrefix(u.Path, "/"), nil
		}
	}
	return "", "", fmt.Errorf("the other side's certificate names no Holdfast box")
}

// bufferedConn collects small writes and reads ahead. Until hold is set
// (during the handshake) every write goes out at once.
type bufferedConn struct {
	net.Conn
	r    *bufio.Reader
	mu   sync.Mutex // guards w: Close's alert may race with a writer
	w    *bufio.Writer
	hold atomic.Bool
}

func newBufferedConn(c net.Conn) *bufferedConn {
	return &bufferedConn{Conn: c, r: bufio.NewReaderSize(c, linkBuffer), w: bufio.NewWriterSize(c, linkBuffer)}
}

func (b *bufferedConn) Read(p []byte) (int, error) { return b.r.Read(p) }

func (b *bufferedConn) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.w.Write(p)
	if err == nil && !b.hold.Load() {
		err = b.w.Flush()
	}
	return n, err
}

// Close sends what is buffered, if nobody is writing (TLS's farewell), and
// closes. A writer that is blocked is not waited for.
func (b *bufferedConn) Close() error {
	if b.mu.TryLock() {
		_ = b.w.Flush() // the other side learns of the end by the close
		b.mu.Unlock()
	}
	return b.Conn.Close()
}

// Flush writes out what is buffered.
func (b *bufferedConn) Flush() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.w.Flush()
}

// Certificate is the box's newest certificate, with its key, for connections that are
// no links.
func (c *Credentials) Certificate() *tls.Certificate { return c.current() }
