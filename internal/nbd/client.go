package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"time"

	"holdfast/internal/errs"
)

// DialOptions choose what a client connects to.
type DialOptions struct {
	Export string // "" is the server's default export
	// TLS, if set, is demanded of the server before anything else is said.
	TLS *tls.Config
	// Timeout bounds connecting and negotiating; 0 is 10 s.
	Timeout time.Duration
}

// Client is one connection to an export. All methods are safe for concurrent
// use; their requests are pipelined, at most clientSlots at a time. After the
// connection broke, every call fails with the reason, kind Unavailable.
type Client struct {
	conn     net.Conn
	size     int64
	flags    uint16
	info     ExportInfo
	extended replyModes

	slots chan uint32 // free slots; len(table) in all
	dead  chan struct{}

	send chan struct{} // capacity 1; holds a token while a request is written

	mu      sync.Mutex
	table   [clientSlots]call // guarded by mu, but for what a reader owns while filling
	broken  error
	reading sync.WaitGroup
}

// ExportInfo is what the server said of the export.
type ExportInfo struct {
	Name, Description    string
	ReadOnly             bool
	CanFlush, CanFUA     bool
	CanTrim, CanZero     bool
	CanFastZero          bool
	CanMultiConn         bool
	CanCache             bool
	MinBlock, MaxPayload uint32 // MaxPayload: the largest request that is sent
}

// replyModes are what was negotiated for replies.
type replyModes struct {
	structured, allocation bool
	contextID              uint32
}

// Extent is a run of an export in one state.
type Extent struct {
	Offset, Length int64
	Hole           bool // no space is allocated
	Zero           bool // reads as zeroes
}

// call is one request in flight. Slot numbers are the low half of a cookie,
// the generation the high half: a reply that comes twice finds nobody.
type call struct {
	generation uint32
	busy       bool
	abandoned  bool // the caller left; the reader frees the slot
	filling    bool // the reader writes into buf
	cmd        uint16
	offset     int64
	length     int64
	buf        []byte // nil once the caller left
	filled     int64  // bytes that content chunks have covered
	extents    []Extent
	err        error
	done       chan struct{} // capacity 1; written by the reader
}

// Dial connects to an export over network "unix" or "tcp".
//
// Errors: Unavailable, NotFound (no such export), Denied (TLS refused or
// demanded), Invalid (the peer does not speak the protocol), Canceled.
func Dial(ctx context.Context, network, address string, o DialOptions) (*Client, error) {
	if o.Timeout <= 0 {
		o.Timeout = defaultHandshake
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, errs.E("nbd.Dial", kindOfDial(err), address, err)
	}
	c, err := NewClient(ctx, nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func kindOfDial(err error) errs.Kind {
	if errors.Is(err, context.Canceled) {
		return errs.Canceled
	}
	return errs.Unavailable
}

// NewClient negotiates over a connection that exists, which belongs to the
// client from then on, even if NewClient fails.
func NewClient(ctx context.Context, nc net.Conn, o DialOptions) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	n := negotiation{conn: nc, export: o.Export, tls: o.TLS}
	err := n.run(ctx)
	if !stop() && err == nil {
		err = errs.E("nbd.Dial", errs.Canceled, "", ctx.Err())
	}
	if err != nil {
		n.conn.Close()
		if ctx.Err() != nil {
			err = errs.E("nbd.Dial", kindOfDial(ctx.Err()), "", ctx.Err())
		}
		return nil, err
	}
	c := &Client{conn: n.conn, size: n.size, flags: n.flags, info: n.exportInfo(), extended: n.modes,
		slots: make(chan uint32, clientSlots), send: make(chan struct{}, 1), dead: make(chan struct{})}
	for i := range uint32(clientSlots) {
		c.table[i].done = make(chan struct{}, 1)
		c.slots <- i
	}
	c.reading.Go(c.receive)
	return c, nil
}

// Size returns the export's size in bytes.
func (c *Client) Size() int64 { return c.size }

// Info returns what the server said of the export.
func (c *Client) Info() ExportInfo { return c.info }

// Close says goodbye and hangs up. Calls in flight fail.
func (c *Client) Close() error {
	var b [requestSize]byte
	putRequest(b[:], &request{cmd: cmdDisc})
	select {
	case c.send <- struct{}{}:
		c.conn.SetWriteDeadline(time.Now().Add(stallLimit))
		_, _ = c.conn.Write(b[:]) // politeness; the close says it too
		<-c.send
	default: // a request is stuck half written: no word can follow it
	}
	c.fail(errs.New("nbd.Client", errs.Unavailable, "", "the client was closed"))
	c.reading.Wait()
	return nil
}

// ReadAt fills p from off. Unlike io.ReaderAt it fails when p reaches beyond
// the end. After an error the content of p is undefined, but nothing writes
// to it any more.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := c.inside("nbd.Client.ReadAt", off, int64(len(p))); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		n := min(len(p)-done, int(c.info.MaxPayload))
		r := request{cmd: cmdRead, offset: uint64(off) + uint64(done), length: uint32(n)}
		if _, err := c.do(ctx, "nbd.Client.ReadAt", &r, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// WriteAt writes p at off. flags may be FUA. When ctx ends early the write
// may or may not have happened.
func (c *Client) WriteAt(ctx context.Context, p []byte, off int64, flags Flags) (int, error) {
	if err := c.inside("nbd.Client.WriteAt", off, int64(len(p))); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		n := min(len(p)-done, int(c.info.MaxPayload))
		r := request{cmd: cmdWrite, flags: flags & FUA, offset: uint64(off) + uint64(done), length: uint32(n), payload: p[done : done+n]}
		if _, err := c.do(ctx, "nbd.Client.WriteAt", &r, nil); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// Flush makes every write completed before it durable.
func (c *Client) Flush(ctx context.Context) error {
	_, err := c.do(ctx, "nbd.Client.Flush", &request{cmd: cmdFlush}, nil)
	return err
}

// Trim gives a range back; what it reads as afterwards is the server's choice.
func (c *Client) Trim(ctx context.Context, off, n int64, flags Flags) error {
	return c.ranged(ctx, "nbd.Client.Trim", cmdTrim, flags&FUA, off, n)
}

// WriteZeroes makes a range read as zeroes. flags: FUA, NoHole, FastZero.
func (c *Client) WriteZeroes(ctx context.Context, off, n int64, flags Flags) error {
	return c.ranged(ctx, "nbd.Client.WriteZeroes", cmdWriteZeroes, flags&(FUA|NoHole|FastZero), off, n)
}

// Cache asks the server to read a range ahead.
func (c *Client) Cache(ctx context.Context, off, n int64) error {
	return c.ranged(ctx, "nbd.Client.Cache", cmdCache, 0, off, n)
}

func (c *Client) ranged(ctx context.Context, op string, cmd uint16, flags Flags, off, n int64) error {
	if err := c.inside(op, off, n); err != nil {
		return err
	}
	for n > 0 {
		step := min(n, rangeStep)
		if _, err := c.do(ctx, op, &request{cmd: cmd, flags: flags, offset: uint64(off), length: uint32(step)}, nil); err != nil {
			return err
		}
		off, n = off+step, n-step
	}
	return nil
}

// BlockStatus returns the extents of [off, off+n), in order, without gaps.
// A server that cannot tell gives one extent of data.
func (c *Client) BlockStatus(ctx context.Context, off, n int64) ([]Extent, error) {
	const op = "nbd.Client.BlockStatus"
	if err := c.inside(op, off, n); err != nil {
		return nil, err
	}
	if !c.extended.allocation && n > 0 {
		return []Extent{{Offset: off, Length: n}}, nil
	}
	var all []Extent
	for end := off + n; off < end; {
		r := request{cmd: cmdBlockStatus, offset: uint64(off), length: uint32(min(end-off, rangeStep))}
		got, err := c.do(ctx, op, &r, nil)
		if err != nil {
			return nil, err
		}
		for _, e := range got {
			e.Length = min(e.Length, end-e.Offset) // the last may reach beyond what was asked
			if e.Length > 0 {
				all = append(all, e)
				off = e.Offset + e.Length
			}
		}
		if len(all) > maxClientExtents {
			return nil, errs.New(op, errs.Full, "", "too many extents: ask for a smaller range")
		}
	}
	return all, nil
}

func (c *Client) inside(op string, off, n int64) error {
	if off < 0 || n < 0 || off > c.size || n > c.size-off {
		return errs.New(op, errs.Invalid, "", "outside the export")
	}
	return nil
}

// do sends one request and waits for its reply, ctx or the connection's end.
func (c *Client) do(ctx context.Context, op string, r *request, buf []byte) ([]Extent, error) {
	slot, err := c.take(ctx, op, r, buf)
	if err != nil {
		return nil, err
	}
	if err := c.write(ctx, r); err != nil {
		c.fail(errs.E("nbd.Client", errs.Unavailable, "", err))
	}
	k := &c.table[slot]
	select {
	case <-k.done:
	case <-c.dead:
		c.reading.Wait() // the reader may still be writing to buf
		select {
		case <-k.done: // the reply came before the end
		default:
			return nil, c.reason(op)
		}
	case <-ctx.Done():
		if !c.abandon(slot) {
			break // the reply won
		}
		return nil, errs.E(op, errs.Canceled, "", ctx.Err())
	}
	c.mu.Lock()
	extents, err := k.extents, k.err
	c.free(slot)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return extents, nil
}

// take gets a slot and enters the request in the table.
func (c *Client) take(ctx context.Context, op string, r *request, buf []byte) (uint32, error) {
	var slot uint32
	select {
	case slot = <-c.slots:
	case <-c.dead:
		return 0, c.reason(op)
	case <-ctx.Done():
		return 0, errs.E(op, errs.Canceled, "", ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return 0, errs.E(op, errs.Unavailable, "", c.broken)
	}
	k := &c.table[slot]
	*k = call{generation: k.generation + 1, busy: true, cmd: r.cmd, offset: int64(r.offset), length: int64(r.length), buf: buf, done: k.done}
	r.cookie = uint64(k.generation)<<32 | uint64(slot)
	return slot, nil
}

// free gives a slot back. The caller holds mu.
func (c *Client) free(slot uint32) {
	k := &c.table[slot]
	*k = call{generation: k.generation, done: k.done}
	c.slots <- slot // never blocks: capacity is the number of slots
}

// abandon leaves a request to the reader; false when its reply is there. A
// reply that is just being received into the caller's buffer is waited for;
// a server that stalls in the middle of it costs the connection.
func (c *Client) abandon(slot uint32) bool {
	k := &c.table[slot]
	c.mu.Lock()
	filling := k.filling
	if !filling && len(k.done) == 0 {
		k.abandoned, k.buf = true, nil
		c.mu.Unlock()
		return true
	}
	c.mu.Unlock()
	if !filling {
		<-k.done
		return false
	}
	patience := time.NewTimer(stallLimit)
	defer patience.Stop()
	select {
	case <-k.done:
		return false
	case <-c.dead:
	case <-patience.C:
		c.fail(errs.New("nbd.Client", errs.Unavailable, "", "the server stalled in the middle of a reply"))
	}
	c.reading.Wait()
	return true
}

// write sends a request. When ctx ends in the middle of it, the stream is
// broken and so is the connection.
func (c *Client) write(ctx context.Context, r *request) error {
	select {
	case c.send <- struct{}{}:
	case <-c.dead:
		return nil // the reason is known
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.send }()
	stop := context.AfterFunc(ctx, func() { c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	var b [requestSize]byte
	putRequest(b[:], r)
	vec := net.Buffers{b[:]}
	if len(r.payload) > 0 {
		vec = append(vec, r.payload)
	}
	_, err := vec.WriteTo(c.conn)
	if !stop() && err == nil {
		err = ctx.Err() // the deadline may be set at any moment: not safe for the next request
	}
	return err
}

// fail breaks the connection for good, with the first reason given.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return
	}
	c.broken = err
	close(c.dead)
	c.conn.Close()
}

func (c *Client) reason(op string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errs.E(op, errs.Unavailable, "", c.broken)
}

// receive is the reader goroutine.
func (c *Client) receive() {
	err := c.replies()
	if errors.Is(err, io.EOF) {
		err = errors.New("the server closed the connection")
	}
	c.fail(errs.E("nbd.Client", errs.Unavailable, "", err))
}

// Bounds of the client.
const (
	clientSlots      = 64      // requests in flight; more wait for a slot
	rangeStep        = 1 << 30 // bytes of one trim, zeroing or status request
	maxClientExtents = 1 << 20 // extents of one BlockStatus call (32 MiB)
	maxChunkExtents  = 1 << 16 // extents of one chunk: a server that sends more is refused
	maxErrorText     = 4096    // bytes of an error chunk's message
	stallLimit       = time.Second
	maxDiskSize      = math.MaxInt64 / 2
)
