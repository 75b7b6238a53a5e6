package ondemand

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/errs"
	"holdfast/internal/journal"
	"holdfast/internal/rocva/frame"
)

// sink is where fetched blocks go: a local disk, or a read-only one's cache.
type sink interface {
	// lacks is which of a chunk's blocks are not there.
	lacks(chunk uint32, blocks uint16) uint16
	// put takes blocks of a frame, those of take, of which some may be there by
	// now. b holds the blocks of mask.
	put(chunk uint32, take, mask uint16, b []byte) error
	// from appends the frames that give blocks of a chunk.
	from(dst []ref, w want) []ref
	// number tells sinks apart.
	number() uint16
}

// fetcher brings blocks from the container to sinks, each once for all who
// want it at the same time. Safe for concurrent use.
type fetcher struct {
	img   *journal.Image
	shelf *shelf
	limit time.Duration // how long a guest's operation waits
	reads chan struct{} // a token for each read for a guest under way
	guest busy          // guests' reads under way
	boot  *lull         // all guests' reads
	pace  pace
	// How blocks are fetched for a guest, and in the background.
	demand, behind manner
	raw            sync.Pool // *[]byte, of a span

	fetched atomic.Int64 // bytes from the store
	stall   stall

	mu      sync.Mutex
	flights map[flightKey]*flight // guarded by mu
}

// manner is how blocks are fetched.
type manner struct {
	most  time.Duration // bounds one request
	hands chan struct{} // a token for each processor that opens frames; nil: no bound
}

// flight is a chunk of a sink that is being fetched.
type flight struct{ landed chan struct{} }

type flightKey struct {
	sink  uint16
	chunk uint32
}

func newFetcher(c *journal.Container, img *journal.Image, o Options) *fetcher {
	return &fetcher{img: img, shelf: &shelf{c: c, img: img, open: map[uint32]*shelved{}}, limit: o.StallLimit,
		reads: make(chan struct{}, demandReads), pace: pace{rate: o.Rate}, boot: newLull(max(0, o.BootWindow)), flights: map[flightKey]*flight{},
		demand: manner{most: tryMost}, behind: manner{backMost, make(chan struct{}, backHands())}}
}

// hold returns when all that is wanted is there: for a guest, ahead of all that
// is fetched in the background, and for no longer than the limit. Kind
// Unavailable when the store did not give it in time.
func (f *fetcher) hold(ctx context.Context, s sink, list []want) error {
	const op = "ondemand.read"
	f.guest.enter()
	defer f.guest.leave()
	ctx, cancel := context.WithTimeoutCause(ctx, f.limit, errStalled)
	defer cancel()
	select {
	case f.reads <- struct{}{}:
	case <-ctx.Done():
		return f.late(op, ctx, nil)
	}
	defer func() { <-f.reads }()
	for {
		mine, others := f.claim(s, list)
		if len(mine) == 0 && len(others) == 0 {
			return nil
		}
		if len(mine) > 0 {
			err := f.persist(ctx, func() error { return f.fetch(ctx, s, mine, f.demand) })
			f.land(s, mine)
			if err != nil {
				return f.late(op, ctx, err)
			}
		}
		for _, o := range others {
			select {
			case <-o.landed:
			case <-ctx.Done():
				return f.late(op, ctx, nil)
			}
		}
	}
}

var errStalled = errors.New("the store did not answer in time")

// late makes a guest's error of an operation that failed: EIO when its time was
// over, whatever the last try died of.
func (f *fetcher) late(op string, ctx context.Context, err error) error {
	if err == nil || errs.Is(err, errs.Canceled) {
		err = errors.Join(context.Cause(ctx), f.stall.why())
	}
	if errors.Is(context.Cause(ctx), errStalled) {
		return errs.E(op, errs.Unavailable, "", err).
			WithRemedy("bring the store back; what is not here yet cannot be read without it")
	}
	return frame.Explain(op, f.img, errs.E(op, errs.Internal, "", err))
}

// claim takes flights for what is absent and nobody fetches; others are the
// flights of what somebody does.
func (f *fetcher) claim(s sink, list []want) (mine []want, others []*flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range list {
		// Looked at under the lock: who lands has put before.
		if w.blocks = s.lacks(w.chunk, w.blocks); w.blocks == 0 {
			continue
		}
		k := flightKey{s.number(), w.chunk}
		if o := f.flights[k]; o != nil {
			others = append(others, o)
			continue
		}
		f.flights[k] = &flight{landed: make(chan struct{})}
		mine = append(mine, w)
	}
	return mine, others
}

// land ends flights.
func (f *fetcher) land(s sink, list []want) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range list {
		k := flightKey{s.number(), w.chunk}
		close(f.flights[k].landed)
		delete(f.flights, k)
	}
}

// localError is a failure on this side: waiting mends it only if room is
// missing.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// persist repeats a try until it succeeds, fails for a reason that time does
// not mend, or ctx ends.
func (f *fetcher) persist(ctx context.Context, try func() error) error {
	wait, damaged := retryFirst, 0
	for {
		err := try()
		var local localError
		switch {
		case err == nil:
			f.stall.over()
			return nil
		case ctx.Err() != nil, errors.As(err, &local) && !errs.Is(err, errs.Full):
			return err
		case errs.Is(err, errs.Corrupt):
			if damaged++; damaged == corruptTries {
				return err
			}
		case errs.Is(err, errs.Transient), errs.Is(err, errs.Unavailable), errs.Is(err, errs.Full), errs.Is(err, errs.Canceled):
			f.stall.begin(err)
		default:
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
		wait = min(2*wait, retryMost)
	}
}

// fetch brings what is wanted and absent, object by object at the same time.
func (f *fetcher) fetch(ctx context.Context, s sink, list []want, how manner) error {
	byObject := map[uint32][]ref{}
	var refs []ref
	for _, w := range list {
		if w.blocks = s.lacks(w.chunk, w.blocks); w.blocks == 0 {
			continue
		}
		if refs = s.from(refs[:0], w); len(refs) == 0 {
			// Who waits for it would ask again and again.
			return errs.New("ondemand.fetch", errs.Corrupt, fmt.Sprintf("chunk %d", w.chunk), "blocks are missing that the checkpoint has no content for")
		}
		for _, r := range refs {
			byObject[r.object] = append(byObject[r.object], r)
		}
	}
	if len(byObject) == 1 { // as nearly always: no goroutine for it
		for object, refs := range byObject {
			return f.object(ctx, s, object, refs, how)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxParallel)
	for object, refs := range byObject {
		g.Go(func() error { return f.object(ctx, s, object, refs, how) })
	}
	return g.Wait()
}

// object brings some frames of one object.
func (f *fetcher) object(ctx context.Context, s sink, i uint32, refs []ref, how manner) error {
	o, err := within(ctx, how.most, func(ctx context.Context) (*frame.Object, error) { return f.shelf.get(ctx, i) })
	if err != nil {
		return err
	}
	parts := make([]frame.Part, len(refs))
	for k, r := range refs {
		parts[k] = o.Part(int(r.frame))
	}
	frame.Sort(parts)
	for _, span := range frame.Spans(parts, spanSize) {
		if err := f.span(ctx, s, o, span, how); err != nil {
			return err
		}
	}
	return nil
}

// within runs a request that takes no longer than most: one that hangs is tried
// again rather than waited for.
func within[T any](ctx context.Context, most time.Duration, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	return do(ctx)
}

// span reads side-by-side frames by one request, proves them and puts them.
func (f *fetcher) span(ctx context.Context, s sink, o *frame.Object, span frame.Span, how manner) error {
	n := int(span.End - span.Off)
	buf := f.buffer(n)
	defer f.raw.Put(buf)
	raw := (*buf)[:n]
	_, err := within(ctx, how.most, func(ctx context.Context) (struct{}, error) { return struct{}{}, o.ReadAt(ctx, raw, span.Off) })
	if err != nil {
		return err
	}
	f.fetched.Add(int64(n))
	if how.hands != nil {
		how.hands <- struct{}{} // held while frames are opened, by nobody who waits
		defer func() { <-how.hands }()
	}
	room := f.buffer(frameSize)
	defer f.raw.Put(room)
	for _, p := range span.Parts {
		b, err := o.Blocks((*room)[:0], p, span.Sealed(raw, p), true)
		if err != nil {
			return err
		}
		if err := s.put(p.Entry.Chunk, p.Take, p.Entry.Mask, b); err != nil {
			return localError{err}
		}
	}
	return nil
}

// buffer returns memory for n bytes.
func (f *fetcher) buffer(n int) *[]byte {
	if b, ok := f.raw.Get().(*[]byte); ok && cap(*b) >= n {
		return b
	}
	b := make([]byte, max(n, 128<<10))
	return &b
}

// background brings what is wanted and absent and nobody fetches yet, behind
// guests' reads. What somebody else fetches is left to him.
func (f *fetcher) background(ctx context.Context, s sink, list []want, size int64) error {
	if err := f.yield(ctx, size); err != nil {
		return err
	}
	mine, _ := f.claim(s, list)
	if len(mine) == 0 {
		return nil
	}
	defer f.land(s, mine)
	return f.persist(ctx, func() error { return f.fetch(ctx, s, mine, f.behind) })
}

// yield lets guests' reads go first, and keeps the pace.
func (f *fetcher) yield(ctx context.Context, size int64) error {
	if err := f.pace.wait(ctx, size); err != nil {
		return err
	}
	f.guest.wait(ctx, yieldMost)
	return ctx.Err()
}

// stall is since when the store gives nothing.
type stall struct {
	mu    sync.Mutex
	since time.Time // guarded by mu; zero: it gives
	err   error     // guarded by mu
}

func (s *stall) begin(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		s.since = time.Now()
	}
	s.err = err
}

func (s *stall) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since, s.err = time.Time{}, nil
}

func (s *stall) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *stall) now() (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since, s.err
}

// busy counts what guests wait for.
type busy struct {
	mu   sync.Mutex
	n    int           // guarded by mu
	idle chan struct{} // guarded by mu; closed when n is 0 again
}

func (b *busy) enter() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n++; b.n == 1 {
		b.idle = make(chan struct{})
	}
}

func (b *busy) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n--; b.n == 0 {
		close(b.idle)
	}
}

// wait returns when no guest waits, or after most all the same.
func (b *busy) wait(ctx context.Context, most time.Duration) {
	b.mu.Lock()
	n, idle := b.n, b.idle
	b.mu.Unlock()
	if n == 0 {
		return
	}
	limit := time.NewTimer(most)
	defer limit.Stop()
	select {
	case <-idle:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// pace spreads bytes over time. The zero value does not.
type pace struct {
	rate int64 // bytes per second; 0: no bound
	mu   sync.Mutex
	next time.Time // guarded by mu; when the next read may begin
}

func (p *pace) wait(ctx context.Context, n int64) error {
	if p.rate == 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	p.next = slices.MaxFunc([]time.Time{p.next, now}, time.Time.Compare)
	wait := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
