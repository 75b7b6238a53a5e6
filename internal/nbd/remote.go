package nbd

import (
	"context"
	"io"
	"sync"
	"time"

	"holdfast/internal/errs"
)

// RemoteOptions say which export a Remote stands for.
type RemoteOptions struct {
	// Network and Address are "unix" and a path, or "tcp" and host:port. No
	// address: it cannot be reached before Move, and operations fail at once.
	Network, Address string
	Export           string // "" is the server's default export
	Size             int64  // bytes; the export must have as many
	// WriteThrough says that the server keeps every write it acknowledged
	// whatever happens to it, as one does that syncs each. Without it a Remote
	// whose connection broke while acknowledged writes were not flushed is of
	// no use any more: nobody knows whether the server still has them.
	WriteThrough bool
	// Retry bounds how long an operation waits for a connection; 0: 5 s.
	Retry time.Duration
	// Timeout bounds one operation; 0: 30 s. A server that takes longer is
	// taken for dead.
	Timeout time.Duration
}

// Remote is a disk served by another NBD server: a primary, as File is, that
// is reached over a connection. It connects when the first operation comes and
// again after a connection broke. Operations that were under way then fail
// (Unavailable), and so does what finds no connection in time: nothing hangs.
//
// All methods are safe for concurrent use, Close excepted: it is called once,
// when no export uses the Remote any more. Writes are durable after a Flush,
// or with FUA.
type Remote struct {
	opt  RemoteOptions // Address and Export are guarded by mu
	work workers

	mu         sync.Mutex
	moves      uint64  // guarded by mu; counts changes of the address
	client     *Client // guarded by mu; nil: not connected
	generation uint64  // guarded by mu; counts connections
	written    uint64  // guarded by mu; writes acknowledged
	flushed    uint64  // guarded by mu; those of them that a flush covers
	broken     error   // guarded by mu; why it is of no use any more

	dialing chan struct{} // holds one token: the right to connect
}

// NewRemote returns a disk that is not connected yet. Errors: Invalid.
func NewRemote(o RemoteOptions) (*Remote, error) {
	if o.Size <= 0 || o.Size > maxDiskSize {
		return nil, errs.New("nbd.NewRemote", errs.Invalid, o.Address, "a size is needed")
	}
	if o.Retry <= 0 {
		o.Retry = defaultRemoteRetry
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultRemoteTimeout
	}
	r := &Remote{opt: o, dialing: make(chan struct{}, 1)}
	r.dialing <- struct{}{}
	r.work.init(clientSlots, r.execute)
	return r, nil
}

// Size returns the disk's size in bytes.
func (r *Remote) Size() int64 { return r.opt.Size }

// Close ends the connection. No operation may be in flight; nothing is flushed.
func (r *Remote) Close() error {
	r.work.close()
	r.mu.Lock()
	c := r.client
	r.client = nil
	r.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.Close()
}

// Move says where the disk is reached from now on. Operations under way at the
// former place fail (Unavailable). No effect when it is the same place.
func (r *Remote) Move(address, export string) {
	r.mu.Lock()
	if r.opt.Address == address && r.opt.Export == export {
		r.mu.Unlock()
		return
	}
	r.opt.Address, r.opt.Export = address, export
	r.moves++
	c := r.client
	if c != nil {
		r.loseLocked()
	}
	r.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

// Resize says that the disk has another size now. Called only while no export
// uses the Remote and nobody reads it. Error: Invalid.
func (r *Remote) Resize(size int64) error {
	if size <= 0 || size > maxDiskSize {
		return errs.New("nbd.Remote.Resize", errs.Invalid, r.where(), "no size for a disk")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opt.Size = size
	return nil
}

// where is the address, for people.
func (r *Remote) where() string {
	address, _, _ := r.place()
	return address
}

func (r *Remote) place() (address, export string, moves uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opt.Address, r.opt.Export, r.moves
}

// Flush makes every write acknowledged so far durable.
func (r *Remote) Flush() error {
	return r.try(func(ctx context.Context, c *Client) error {
		if !c.Info().CanFlush {
			return nil
		}
		return c.Flush(ctx)
	}, Flush, 0)
}

// Submit starts op; it is carried out by a goroutine that waits for the server.
func (r *Remote) Submit(op *Op) { r.work.push(op) }

func (r *Remote) execute(op *Op) {
	switch op.Kind {
	case Read, Write, Flush, Trim, WriteZeroes:
		op.Complete(r.try(func(ctx context.Context, c *Client) error { return remoteOp(ctx, c, op) }, op.Kind, op.Flags))
	default:
		op.Complete(errs.New("nbd.Remote", errs.Invalid, r.where(), "unknown operation"))
	}
}

// remoteOp does one operation as the server offers it.
func remoteOp(ctx context.Context, c *Client, op *Op) (err error) {
	info := c.Info()
	flags := op.Flags
	late := flags&FUA != 0 && !info.CanFUA // the flush has to follow
	if late {
		flags &^= FUA
	}
	switch op.Kind {
	case Read:
		_, err = c.ReadAt(ctx, op.Data, op.Offset)
		return err
	case Write:
		_, err = c.WriteAt(ctx, op.Data, op.Offset, flags)
	case Trim:
		if info.CanTrim {
			err = c.Trim(ctx, op.Offset, op.Length, flags)
		}
	case WriteZeroes:
		err = remoteZero(ctx, c, op.Offset, op.Length, flags)
	case Flush:
		late = true
	}
	if err == nil && late && info.CanFlush {
		err = c.Flush(ctx)
	}
	return err
}

// remoteZero zeroes a range on a server that may not know how.
func remoteZero(ctx context.Context, c *Client, off, n int64, flags Flags) error {
	if flags&FastZero != 0 && !c.Info().CanFastZero {
		return ErrNotSupported
	}
	if c.Info().CanZero {
		return c.WriteZeroes(ctx, off, n, flags)
	}
	zeroes := make([]byte, min(n, zeroStep))
	for n > 0 {
		step := min(n, zeroStep)
		if _, err := c.WriteAt(ctx, zeroes[:step], off, flags&FUA); err != nil {
			return err
		}
		off, n = off+step, n-step
	}
	return nil
}

// try runs one operation over the connection there is, or a new one, and keeps
// account of what a flush has to cover.
func (r *Remote) try(do func(context.Context, *Client) error, kind Kind, flags Flags) error {
	if kind == Flush && r.nothingToFlush() {
		return nil
	}
	c, generation, before, err := r.connected()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.opt.Timeout)
	defer cancel()
	err = do(ctx, c)
	if err != nil && (ctx.Err() != nil || errs.Is(err, errs.Unavailable)) && c.isBroken(ctx.Err() != nil) {
		r.drop(c)
		return errs.E("nbd.Remote", errs.Unavailable, r.where(), err)
	}
	if err != nil {
		return err
	}
	return r.account(kind, flags, generation, before)
}

// nothingToFlush reports whether a flush need not wait for a connection: there
// is none, and every write acknowledged so far is durable. A hypervisor flushes
// a disk that it is about to let go of, when the server may be gone already.
func (r *Remote) nothingToFlush() bool {
	c, _, written, err := r.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	return c == nil && err == nil && written == r.flushed
}

// account notes a success. A write that was acknowledged over a connection
// which is gone already can no longer be covered by any flush.
func (r *Remote) account(kind Kind, flags Flags, generation, before uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch kind {
	case Flush:
		if generation == r.generation {
			r.flushed = max(r.flushed, before)
		}
	case Write, Trim, WriteZeroes:
		if flags&FUA != 0 || r.opt.WriteThrough {
			return nil
		}
		if generation != r.generation {
			return errs.New("nbd.Remote", errs.Unavailable, r.opt.Address, "the connection broke before the write was safe")
		}
		r.written++
	case Read:
	}
	return nil
}

// drop forgets a connection that broke.
func (r *Remote) drop(c *Client) {
	r.mu.Lock()
	if r.client == c {
		r.loseLocked()
	}
	r.mu.Unlock()
	c.Close()
}

func (r *Remote) loseLocked() {
	r.client = nil
	r.generation++
	if r.written > r.flushed && !r.opt.WriteThrough && r.broken == nil {
		r.broken = errs.New("nbd.Remote", errs.Unavailable, r.opt.Address,
			"the connection broke while acknowledged writes were not flushed: the server may have lost them")
	}
}

// connected returns the connection, its generation, and how many writes a
// flush over it covers.
func (r *Remote) connected() (*Client, uint64, uint64, error) {
	if c, g, n, err := r.current(); c != nil || err != nil {
		return c, g, n, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.opt.Retry)
	defer cancel()
	select {
	case <-r.dialing:
	case <-ctx.Done():
		return nil, 0, 0, errs.New("nbd.Remote", errs.Unavailable, r.where(), "no connection in "+r.opt.Retry.String())
	}
	defer func() { r.dialing <- struct{}{} }()
	if c, g, n, err := r.current(); c != nil || err != nil {
		return c, g, n, err // somebody else was first
	}
	c, err := r.dial(ctx)
	if err != nil {
		return nil, 0, 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.client = c.Client
	if c.moves != r.moves { // it moved while we dialed
		r.loseLocked()
		go c.Close()
		return nil, 0, 0, errs.New("nbd.Remote", errs.Unavailable, r.opt.Address, "the disk has moved")
	}
	return r.client, r.generation, r.written, nil
}

func (r *Remote) current() (*Client, uint64, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return nil, 0, 0, r.broken
	}
	if r.client != nil && r.client.isBroken(false) {
		r.loseLocked()
		if r.broken != nil {
			return nil, 0, 0, r.broken
		}
	}
	return r.client, r.generation, r.written, nil
}

// dialed is a connection, and how often the disk had moved before it was tried.
type dialed struct {
	*Client
	moves uint64
}

// dial connects, however often that takes within ctx.
func (r *Remote) dial(ctx context.Context) (dialed, error) {
	for {
		address, export, moves := r.place()
		if address == "" {
			return dialed{}, errs.New("nbd.Remote", errs.Unavailable, export, "nobody has said yet where the disk is reached")
		}
		c, err := Dial(ctx, r.opt.Network, address, DialOptions{Export: export, Timeout: r.opt.Retry})
		if err == nil && c.Size() != r.opt.Size {
			c.Close()
			return dialed{}, errs.New("nbd.Remote", errs.Invalid, address, "the export is of another size than the disk")
		}
		if err == nil {
			return dialed{c, moves}, nil
		}
		select {
		case <-ctx.Done():
			return dialed{}, errs.E("nbd.Remote", errs.Unavailable, address, err)
		case <-time.After(remoteRedial):
		}
	}
}

// isBroken reports whether the connection is of no use; now makes it so.
func (c *Client) isBroken(now bool) bool {
	if now {
		c.fail(errs.New("nbd.Client", errs.Unavailable, "", "the server did not answer in time"))
	}
	select {
	case <-c.dead:
		return true
	default:
		return false
	}
}

// ReadAt fills p from the disk. As io.ReaderAt: io.EOF when p reaches beyond
// the end.
func (r *Remote) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errs.New("nbd.Remote.ReadAt", errs.Invalid, r.where(), "negative offset")
	}
	if off >= r.opt.Size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), r.opt.Size-off)]
	err := r.try(func(ctx context.Context, c *Client) error {
		_, err := c.ReadAt(ctx, want, off)
		return err
	}, Read, 0)
	if err != nil {
		return 0, err
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(p), nil
}

// NextData tells where the next extent that may hold data lies.
func (r *Remote) NextData(off int64) (start, end int64, err error) {
	for off < r.opt.Size {
		n := min(rangeStep, r.opt.Size-off)
		var extents []Extent
		err := r.try(func(ctx context.Context, c *Client) error {
			var err error
			extents, err = c.BlockStatus(ctx, off, n)
			if errs.Is(err, errs.Full) { // too many to count: everything may be data
				extents, err = []Extent{{Offset: off, Length: n}}, nil
			}
			return err
		}, Read, 0)
		if err != nil {
			return 0, 0, err
		}
		if start, end, ok := firstData(extents); ok {
			return start, end, nil
		}
		off += n
	}
	return r.opt.Size, r.opt.Size, nil
}

// firstData returns the first run of extents that do not read as zeroes.
func firstData(extents []Extent) (start, end int64, ok bool) {
	for _, e := range extents {
		switch {
		case e.Zero && ok:
			return start, end, true
		case e.Zero:
		case !ok:
			start, end, ok = e.Offset, e.Offset+e.Length, true
		default:
			end = e.Offset + e.Length
		}
	}
	return start, end, ok
}

var _ Disk = (*Remote)(nil)
