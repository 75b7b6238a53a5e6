package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// PublisherOptions say who publishes what. The zero value publishes the
// current timeline.
type PublisherOptions struct {
	Timeline dr.TimelineID // zero: the current one
	Host     string        // stored, sealed, in the epoch's claim; for people
	Clock    Clock         // nil: the system's
	Logger   *slog.Logger  // nil: none
	// Lock holds every object the publisher creates against deletion, from the
	// request on that creates it, and keeps held what else a recovery needs
	// (see Container.Hold). Zero: nothing is held.
	Lock LockOptions

	backoff func(try int) time.Duration // nil: backoff; tests are less patient
}

// Publisher is one reign over a timeline: the only one who adds to its
// history, until it is closed or fenced. Methods are safe for concurrent use.
//
//	open --foreign object, or a higher epoch--> stopped (kind Fenced)
//	     --a name or object the store refuses-> stopped
//	     --Close------------------------------> stopped (kind Canceled)
type Publisher struct {
	// Immutable after OpenPublisher.
	c        *Container
	timeline dr.TimelineID
	epoch    dr.Epoch
	clock    Clock
	log      *slog.Logger
	backoff  func(try int) time.Duration
	lastSeq  dr.Seq
	lastCP   *CheckpointInfo
	ctx      context.Context // ends with the publisher
	cancel   context.CancelFunc
	requests chan request   // written by Publish, read by run, never closed
	results  chan landing   // written by put, read by run; room for every put under way
	checks   chan checked   // written by checkEpoch, read by run; room for the one under way
	stopped  chan struct{}  // closed by run when err is set
	ended    chan struct{}  // closed when run and all its helpers have ended
	helpers  sync.WaitGroup // started by run, and one before it

	// Owned by run.
	w         *writer
	pending   map[dr.ObjectNumber]*Pending
	lastCheck instant
	checking  bool

	mu        sync.Mutex // guards all below
	err       error      // why it stopped; set once
	published dr.ObjectNumber
	underWay  map[dr.ObjectNumber]time.Time // number given, not yet published
	lastErr   error                         // of the newest failed try; nil once everything landed
	tries     int                           // failed tries since lastErr was nil
	heldUntil time.Time
	holdErr   error // of the last try to hold
}

type request struct {
	b     *segment.Builder
	reply chan<- reply // room for one
}

type reply struct {
	p   *Pending
	err error
}

type landing struct {
	n   dr.ObjectNumber
	err error // nil: it is in the store; else stop for good
}

type checked struct {
	at    instant // when the look began
	above dr.Epoch
	found bool
}

// OpenPublisher takes the timeline over: it claims the next epoch, walks the
// history and fences whoever published before. ctx covers the opening alone.
//
// Kinds: Invalid when the timeline is dropped, or when objects are to be held
// and the store cannot, Fenced when someone with a higher epoch was faster,
// Corrupt when the history is damaged so that nothing published behind it
// could be recovered, or the store's. After any error it may be called again.
func (c *Container) OpenPublisher(ctx context.Context, opts PublisherOptions) (*Publisher, error) {
	const op = "journal.OpenPublisher"
	if len(opts.Host) > maxName {
		return nil, errs.New(op, errs.Invalid, "", "the host's name is longer than 255 bytes")
	}
	if opts.Clock == nil {
		opts.Clock = systemClock{}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.backoff == nil {
		opts.backoff = backoff
	}
	plain := c
	c, err := plain.locking(op, opts.Lock, opts.Clock)
	if err != nil {
		return nil, err
	}
	t, err := c.pickTimeline(ctx, opts.Timeline)
	if err != nil {
		return nil, err
	}
	if err := c.refuseDropped(ctx, op, t); err != nil {
		return nil, err
	}
	now := opts.Clock.Wall()
	check := readClock(opts.Clock)
	epoch, err := c.claimEpoch(ctx, t, opts.Host, now)
	if err != nil {
		return nil, err
	}
	h, err := c.openHistory(ctx, t, nil)
	if err != nil {
		return nil, err
	}
	w, err := c.takeOver(ctx, h, epoch, now)
	if err != nil {
		return nil, err
	}
	p := newPublisher(ctx, c, h, w, opts)
	p.lastCheck = check
	if !opts.Lock.IsZero() {
		p.helpers.Go(func() { p.holdOn(plain, opts.Lock) })
	}
	go p.run()
	return p, nil
}

func newPublisher(ctx context.Context, c *Container, h *History, w *writer, opts PublisherOptions) *Publisher {
	p := &Publisher{
		c:         c,
		timeline:  h.timeline,
		epoch:     w.epoch,
		clock:     opts.Clock,
		log:       opts.Logger.With("timeline", h.timeline.String(), "epoch", uint32(w.epoch)),
		backoff:   opts.backoff,
		lastSeq:   h.LastSeq(),
		requests:  make(chan request),
		results:   make(chan landing, w.window),
		checks:    make(chan checked, 1),
		stopped:   make(chan struct{}),
		ended:     make(chan struct{}),
		w:         w,
		pending:   make(map[dr.ObjectNumber]*Pending),
		published: w.published,
		underWay:  make(map[dr.ObjectNumber]time.Time),
	}
	if points := h.Checkpoints(); len(points) > 0 {
		p.lastCP = &points[len(points)-1]
	}
	// The publisher lives on when the caller's opening is over.
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return p
}

// Timeline returns the timeline that is published.
func (p *Publisher) Timeline() dr.TimelineID { return p.timeline }

// Epoch returns the epoch of this reign.
func (p *Publisher) Epoch() dr.Epoch { return p.epoch }

// LastSeq returns the newest seq the history held when the publisher was
// opened: publishing resumes with the record after it. 0 when there is none.
func (p *Publisher) LastSeq() dr.Seq { return p.lastSeq }

// LastCheckpoint returns the newest checkpoint of the history when the
// publisher was opened; ok is false when there is none.
func (p *Publisher) LastCheckpoint() (cp CheckpointInfo, ok bool) {
	if p.lastCP == nil {
		return CheckpointInfo{}, false
	}
	return *p.lastCP, true
}

// Published returns the number up to which everything is published.
func (p *Publisher) Published() dr.ObjectNumber {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.published
}

// Pending is an object on its way into the history.
type Pending struct {
	number dr.ObjectNumber
	digest segment.Digest
	size   int
	done   chan struct{} // closed by run
	err    error         // set before done is closed
}

// Number is the object's place in the history.
func (q *Pending) Number() dr.ObjectNumber { return q.number }

// Size is the object's size in bytes.
func (q *Pending) Size() int { return q.size }

// Done is closed when Wait would return at once.
func (q *Pending) Done() <-chan struct{} { return q.done }

// Wait returns nil once the object and all before it are published: every
// reader sees them from now on, for ever. Otherwise why they never will be by
// this publisher (kind Fenced, Canceled after Close…), or kind Canceled when
// ctx ended first, which decides nothing.
func (q *Pending) Wait(ctx context.Context) error {
	select {
	case <-q.done:
		return q.err
	case <-ctx.Done():
		select {
		case <-q.done:
			return q.err
		default:
			return errs.E("journal.Wait", errs.Canceled, "", context.Cause(ctx))
		}
	}
}

// Write path, step 8: publish. Creating the object under the next dense number
// is the commit point.

// Publish gives the object in b the next number, closes it and begins to
// create it in the store; it returns when that is under way. It waits while
// Window numbers are beyond the published prefix. Failures that may pass are
// retried without end, see Status.
//
// b belongs to the publisher until Wait returned nil or Close returned; only
// then may it be Reset. Kinds: Invalid when b cannot be finished (the
// publisher goes on), Canceled when ctx ended while waiting for room, or why
// the publisher stopped.
func (p *Publisher) Publish(ctx context.Context, b *segment.Builder) (*Pending, error) {
	answer := make(chan reply, 1)
	select {
	case <-p.stopped:
		return nil, p.failure()
	default:
	}
	select {
	case p.requests <- request{b, answer}:
	case <-p.stopped:
		return nil, p.failure()
	case <-ctx.Done():
		return nil, errs.E("journal.Publish", errs.Canceled, "", context.Cause(ctx))
	}
	r := <-answer // run answers every request it took
	return r.p, r.err
}

// Close stops publishing and waits until nothing is under way. Objects whose
// Wait has not returned may or may not become part of the history: the next
// OpenPublisher finds out. It always returns nil; calling it again is harmless.
func (p *Publisher) Close() error {
	p.cancel()
	<-p.ended
	return nil
}

func (p *Publisher) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

var errClosed = errors.New("the publisher was closed")

// run owns the writer. It ends when the publisher stops.
func (p *Publisher) run() {
	defer close(p.ended)
	defer p.helpers.Wait()
	for {
		var requests <-chan request // nil: no room, callers wait
		if p.w.room() {
			requests = p.requests
		}
		var stop error
		select {
		case r := <-requests:
			p.begin(r)
		case l := <-p.results:
			stop = p.landed(l)
		case c := <-p.checks:
			stop = p.epochChecked(c)
		case <-p.ctx.Done():
			stop = errs.E("journal.Publish", errs.Canceled, p.timeline.String(), errClosed)
		}
		if stop != nil {
			p.stop(stop)
			return
		}
	}
}

// begin places, closes and sends off one object.
func (p *Publisher) begin(r request) {
	n, prev := p.w.place()
	body, digest, err := r.b.Finish(segment.Header{
		Kind: segment.Journal, Timeline: p.timeline, Epoch: p.epoch, Number: n, Prev: prev, PrevObject: p.w.last, PrevNumber: p.w.at,
		Key: p.c.current().id, Window: Window, Created: p.clock.Wall(),
	})
	if err != nil {
		r.reply <- reply{err: errs.E("journal.Publish", errs.Internal, objectKey(p.timeline, n), err)}
		return
	}
	p.w.seal(digest, r.b.Object())
	q := &Pending{number: n, digest: digest, size: len(body), done: make(chan struct{})}
	p.pending[n] = q
	p.mu.Lock()
	p.underWay[n] = p.clock.Wall()
	p.mu.Unlock()
	p.helpers.Go(func() { p.put(n, body, digest) })
	r.reply <- reply{p: q}
}

func (p *Publisher) landed(l landing) error {
	if l.err != nil {
		return l.err
	}
	p.w.land(l.n)
	p.countPublished()
	return nil
}

// countPublished counts what landed, if the last look at the epoch claims is
// fresh; else it looks first.
func (p *Publisher) countPublished() {
	if p.w.prefix() == p.w.published || p.checking {
		return
	}
	if now := readClock(p.clock); !p.lastCheck.fresh(now) {
		p.checking = true
		p.helpers.Go(func() { p.checkEpoch(now) })
		return
	}
	from := p.w.published
	to := p.w.count()
	p.mu.Lock()
	p.published = to
	for n := from + 1; n <= to; n++ {
		delete(p.underWay, n)
	}
	if len(p.underWay) == 0 {
		p.lastErr, p.tries = nil, 0
	}
	p.mu.Unlock()
	for n := from + 1; n <= to; n++ {
		close(p.pending[n].done)
		delete(p.pending, n)
	}
}

func (p *Publisher) epochChecked(c checked) error {
	p.checking = false
	if c.found {
		return fencedBy("journal.Publish", p.timeline, c.above, p.epoch)
	}
	p.lastCheck = c.at
	p.countPublished()
	return nil
}

// stop ends the reign for good.
func (p *Publisher) stop(err error) {
	p.w.stop()
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	p.cancel()
	close(p.stopped)
	for n, q := range p.pending {
		q.err = err
		close(q.done)
		delete(p.pending, n)
	}
	if !errs.Is(err, errs.Canceled) {
		p.log.Error("publisher stopped for good", "err", err, "remedy", errs.RemedyOf(err))
	}
}

// PublisherStatus tells how publishing goes.
type PublisherStatus struct {
	Epoch     dr.Epoch
	Published dr.ObjectNumber // everything up to here is published
	UnderWay  int             // objects that have a number and are not published
	Oldest    time.Duration   // how long the oldest of them has been under way
	Failures  int             // failed tries since all was well
	LastError error           // of the newest failed try; nil when all is well
	Stopped   error           // why it stopped for good; nil while it publishes
	HeldUntil time.Time       // with locks: what a recovery needs besides data is held at least so long; zero: not yet
	HoldError error           // why the last try to hold that failed; nil when all is well
}

// Status tells how publishing goes now.
func (p *Publisher) Status() PublisherStatus {
	now := p.clock.Wall()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PublisherStatus{Epoch: p.epoch, Published: p.published, UnderWay: len(p.underWay), Failures: p.tries, LastError: p.lastErr, Stopped: p.err,
		HeldUntil: p.heldUntil, HoldError: p.holdErr}
	for _, since := range p.underWay {
		s.Oldest = max(s.Oldest, now.Sub(since))
	}
	return s
}

// String is for logs.
func (s PublisherStatus) String() string {
	return fmt.Sprintf("epoch %d, published %d, %d under way (oldest %v), %d failures, last error %v, stopped %v",
		s.Epoch, s.Published, s.UnderWay, s.Oldest, s.Failures, s.LastError, s.Stopped)
}
