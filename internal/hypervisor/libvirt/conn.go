package libvirt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	golibvirt "github.com/digitalocean/go-libvirt"

	"holdfast/internal/errs"
)

// conn is the connection to one daemon, made again when it breaks. Safe for
// concurrent use.
type conn struct {
	socket string // immutable, as uri
	uri    string
	calls  chan struct{} // holds a token for each call under way

	dialing chan struct{} // holds one token: the right to connect

	mu     sync.Mutex
	client *golibvirt.Libvirt // guarded by mu; nil: not connected
	nc     net.Conn           // guarded by mu; what client talks over, or is about to
	closed bool               // guarded by mu
}

func newConn(opt Options) *conn {
	c := &conn{socket: opt.Socket, uri: opt.URI, calls: make(chan struct{}, maxCalls), dialing: make(chan struct{}, 1)}
	c.dialing <- struct{}{}
	return c
}

// current returns a client that was connected a moment ago, or nil.
func (c *conn) current() (*golibvirt.Libvirt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errs.New("libvirt.Connect", errs.Unavailable, c.socket, "the driver was closed")
	}
	if c.client != nil && c.client.IsConnected() {
		return c.client, nil
	}
	return nil, nil
}

// get returns a client, after connecting if need be. A daemon that takes the
// connection and says nothing holds it up until close.
func (c *conn) get() (*golibvirt.Libvirt, error) {
	if client, err := c.current(); client != nil || err != nil {
		return client, err
	}
	<-c.dialing
	defer func() { c.dialing <- struct{}{} }()
	if client, err := c.current(); client != nil || err != nil {
		return client, err // somebody else did it meanwhile
	}
	client := golibvirt.NewWithDialer(c)
	if err := client.ConnectToURI(golibvirt.ConnectURI(c.uri)); err != nil {
		return nil, errs.E("libvirt.Connect", errs.Unavailable, c.socket, err).
			WithRemedy("see that libvirtd (or virtqemud) runs and that this user may use its socket")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client = client
	return client, nil
}

// Dial connects to the daemon's socket: the client's way in.
func (c *conn) Dial() (net.Conn, error) {
	nc, err := net.DialTimeout("unix", c.socket, dialLimit)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		nc.Close()
		return nil, net.ErrClosed
	}
	c.nc = nc
	return &framed{Conn: nc}, nil
}

// ask runs one or more calls on the daemon and returns what fn does. The
// protocol knows no cancelling: a call whose ctx ends goes on without its
// caller, and may still take effect.
func ask[T any](ctx context.Context, c *conn, op, object string, fn func(*golibvirt.Libvirt) (T, error)) (T, error) {
	var none T
	if ctx.Err() != nil {
		return none, errs.E(op, errs.Canceled, object, context.Cause(ctx))
	}
	select {
	case c.calls <- struct{}{}:
	default:
		return none, errs.New(op, errs.Full, object, "too many calls wait for the libvirt daemon")
	}
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		defer func() { <-c.calls }()
		var a answer
		var client *golibvirt.Libvirt
		if client, a.err = c.get(); a.err == nil {
			a.value, a.err = fn(client)
		}
		done <- a
	}()
	select {
	case a := <-done:
		return a.value, classify(op, object, a.err)
	case <-ctx.Done():
		return none, errs.E(op, errs.Canceled, object, context.Cause(ctx))
	}
}

// tell is ask for calls that return nothing.
func tell(ctx context.Context, c *conn, op, object string, fn func(*golibvirt.Libvirt) error) error {
	_, err := ask(ctx, c, op, object, func(l *golibvirt.Libvirt) (struct{}, error) { return struct{}{}, fn(l) })
	return err
}

// close ends the connection for good. Calls under way end with it.
func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.nc != nil {
		c.nc.Close() // to the daemon a hang-up is as good as a farewell
	}
}

// kinds says what may be done about an error of libvirt.
var kinds = map[golibvirt.ErrorNumber]errs.Kind{
	golibvirt.ErrNoDomain:          errs.NotFound,
	golibvirt.ErrNoDomainMetadata:  errs.NotFound,
	golibvirt.ErrDomExist:          errs.Exists,
	golibvirt.ErrOperationInvalid:  errs.Conflict,
	golibvirt.ErrBlockCopyActive:   errs.Conflict,
	golibvirt.ErrResourceBusy:      errs.Conflict,
	golibvirt.ErrOperationTimeout:  errs.Transient,
	golibvirt.ErrAgentUnsynced:     errs.Transient,
	golibvirt.ErrOperationAborted:  errs.Transient,
	golibvirt.ErrAgentUnresponsive: errs.Transient,
	golibvirt.ErrXMLError:          errs.Invalid,
	golibvirt.ErrXMLDetail:         errs.Invalid,
	golibvirt.ErrXMLInvalidSchema:  errs.Invalid,
	golibvirt.ErrInvalidArg:        errs.Invalid,
	golibvirt.ErrConfigUnsupported: errs.Invalid,
	golibvirt.ErrOperationDenied:   errs.Denied,
	golibvirt.ErrAccessDenied:      errs.Denied,
	golibvirt.ErrAuthFailed:        errs.Denied,
}

// classify gives an error of a call its kind.
func classify(op, object string, err error) error {
	if err == nil {
		return nil
	}
	var said golibvirt.Error
	switch {
	case errors.As(err, &said):
		kind, known := kinds[golibvirt.ErrorNumber(said.Code)]
		if !known {
			kind = errs.Unavailable
		}
		return errs.E(op, kind, object, err)
	case errs.KindOf(err) != errs.Internal:
		return errs.E(op, errs.Internal, object, err) // keeps the kind it has
	}
	return errs.E(op, errs.Unavailable, object, err) // the connection broke
}

// code returns libvirt's own number of an error, 0 when it has none.
func code(err error) golibvirt.ErrorNumber {
	var said golibvirt.Error
	if errors.As(err, &said) {
		return golibvirt.ErrorNumber(said.Code)
	}
	return 0
}

// packetHeader is the least length of a message: its length and six words.
const packetHeader = 28

// framed checks the length in front of every message before the client
// believes it: it makes room for as much as it is told. One reader.
type framed struct {
	net.Conn
	head [4]byte // length of the message that begins
	have int     // bytes of head that have come
	body int     // bytes of the message that have not come yet
}

func (f *framed) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	for rest := b[:n]; len(rest) > 0; {
		if f.body > 0 {
			skip := min(f.body, len(rest))
			f.body, rest = f.body-skip, rest[skip:]
			continue
		}
		took := copy(f.head[f.have:], rest)
		f.have, rest = f.have+took, rest[took:]
		if f.have < len(f.head) {
			continue
		}
		length := binary.BigEndian.Uint32(f.head[:])
		if length < packetHeader || length > maxPacket {
			f.Conn.Close()
			return 0, fmt.Errorf("a message of %d bytes: %w", length, io.ErrUnexpectedEOF)
		}
		f.have, f.body = 0, int(length)-len(f.head)
	}
	return n, err
}
