package rocva

import (
	"context"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/durable"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/journal"
	"holdfast/internal/rocva/frame"
)

// Options tune a rehydration. The zero value is fine.
type Options struct {
	Parallel   int  // objects fetched at once; 0: 6; at most 64
	SkipHashes bool // do not compare blocks with the hashes taken at capture; seals are always checked
	Force      bool // overwrite an existing file; needed for a block device
	// Hold, for Update, leaves the disks under their partial names, and takes
	// what lies under these for what Plan says of the disks: for a caller who
	// updates them again and again and notes down himself what they hold.
	Hold bool
	// SaveEvery is how often progress is made durable: the work that a crash
	// repeats. 0: 5 s.
	SaveEvery time.Duration
	// Progress, if not nil, is called now and then, by one goroutine at a time.
	Progress func(Progress)
	Logger   *slog.Logger // nil: none
	FS       durable.FS   // nil: the operating system's
}

// Progress tells how far a rehydration has come.
type Progress struct {
	Objects, ObjectsTotal int
	Bytes, BytesTotal     int64 // of the disks' content
	Fetched               int64 // from the store, bytes
}

// Result is a finished rehydration.
type Result struct {
	Checkpoint dr.CheckpointID
	Disks      []DiskResult
	Objects    int   // objects fetched by this run
	Skipped    int   // already done by an earlier one
	Fetched    int64 // from the store, bytes
	Written    int64 // to the targets, bytes; zeroes are not written
	Elapsed    time.Duration
}

// DiskResult is a disk that was built.
type DiskResult struct {
	Disk  dr.DiskID
	Path  string
	Size  int64 // bytes
	Bytes int64 // of content; the rest is zeroes
}

// run is one call of Full.
type run struct {
	c       *journal.Container
	img     *journal.Image
	opts    Options
	fs      durable.FS
	targets []*target
	byDisk  map[uint16]*target // by index in Image.Disks
	id      string
	log     *slog.Logger
	started time.Time

	// openObject opens an object of the image.
	openObject func(ctx context.Context, id index.ObjectID, size int64) (*journal.Object, error)

	gap    int64              // how many unwanted bytes are read along
	hashes *journal.HashCache // of comparisons

	fetchedBytes, contentBytes, compared atomic.Int64

	mu      sync.Mutex // guards all below
	done    []bool     // of img.Objects: written, perhaps not synced
	count   int        // done
	skipped int
	total   int64 // content bytes
}

// Full builds the disks of img that targets name. It returns when all of them
// are whole, durable and under their own names.
//
// After an error or when ctx ends, what was done stays beside the targets, and
// the same call goes on from there. Kinds: Invalid (targets make no sense),
// Exists (a target is there and Force is not set), Full (no room), Denied (not
// writable), Conflict (another run has the target), Corrupt (an object is
// damaged; the words name object, disk, chunk and checkpoint), Canceled, or
// the store's.
func Full(ctx context.Context, c *journal.Container, img *journal.Image, targets []Target, opts Options) (Result, error) {
	if err := opts.complete(); err != nil {
		return Result{}, err
	}
	ts, err := pickTargets(opts.FS, img, targets)
	if err != nil {
		return Result{}, err
	}
	r := &run{c: c, img: img, opts: opts, fs: opts.FS, targets: ts, byDisk: make(map[uint16]*target), gap: frame.GapSize, openObject: c.OpenSized,
		log: opts.Logger.With("checkpoint", uint64(img.Checkpoint.ID)), started: time.Now()}
	for _, t := range ts {
		r.byDisk[uint16(t.index)] = t
		r.total += t.disk.Bytes
		defer t.close()
	}
	r.id = runID(c.Domain().ID, img, ts, journal.PointRef{})
	if err := r.prepare(ctx); err != nil {
		return Result{}, err
	}
	if err := r.fetch(ctx); err != nil {
		return Result{}, err
	}
	if err := r.finish(); err != nil {
		return Result{}, err
	}
	return r.result(), nil
}

// complete checks o and fills in what is not set.
func (o *Options) complete() error {
	if o.Parallel < 0 || o.Parallel > maxParallel {
		return errs.New("rocva.Options", errs.Invalid, "", fmt.Sprintf("parallel is not within 0..%d", maxParallel))
	}
	if o.Parallel == 0 {
		o.Parallel = defaultParallel
	}
	if o.SaveEvery <= 0 {
		o.SaveEvery = cursorEvery
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = durable.OS{}
	}
	return nil
}

// prepare locks and opens the targets and finds out what an earlier run did.
func (r *run) prepare(ctx context.Context) error {
	for _, t := range r.targets {
		if err := t.take(); err != nil {
			return err
		}
	}
	complete, err := r.earlier()
	if err != nil {
		return err
	}
	for i, d := range r.done {
		if d {
			r.skipped++
			r.contentBytes.Add(r.content(r.img.Objects[i].Frames))
		}
	}
	r.count = r.skipped
	for _, t := range r.targets {
		if err := r.open(ctx, t, complete); err != nil {
			return err
		}
	}
	if r.skipped > 0 {
		r.log.Info("rehydration goes on where it was interrupted", "objects_done", r.skipped, "objects", len(r.img.Objects))
	}
	return nil
}

// content is how many bytes frames give to the targets.
func (r *run) content(frames []journal.Take) (n int64) {
	for _, p := range frames {
		if r.byDisk[p.Disk] != nil {
			n += int64(bits.OnesCount16(p.Take)) * dr.BlockSize
		}
	}
	return n
}

// earlier sets done to what the cursors of all targets agree on; nothing when
// one is missing or of another run. complete says that the run got to its end
// but for names and tidying up: then a target may also be there under its own
// name, its cursor removed.
func (r *run) earlier() (complete bool, err error) {
	r.done = make([]bool, len(r.img.Objects))
	if r.hasDevice() {
		return false, nil // what a device holds cannot be trusted
	}
	agree := slices.Repeat([]bool{true}, len(r.img.Objects))
	whole, ended := 0, 0
	for _, t := range r.targets {
		c, err := readCursor(r.fs, t.cursor())
		if err != nil {
			return false, err
		}
		if c == nil && t.ended() {
			ended++
			continue
		}
		if c == nil || c.Run != r.id {
			return false, nil
		}
		if c.Complete {
			whole++
		}
		for i, d := range doneOf(len(r.img.Objects), c.Done) {
			agree[i] = agree[i] && d
		}
	}
	complete = whole > 0 && whole+ended == len(r.targets)
	if complete || ended == 0 {
		r.done = agree
	}
	return complete, nil
}

func (r *run) hasDevice() bool {
	for _, t := range r.targets {
		if t.device {
			return true
		}
	}
	return false
}

// open opens one target for writing, or finds that it is done.
func (r *run) open(ctx context.Context, t *target, complete bool) error {
	const op = "rocva.Full"
	there, err := exists(r.fs, t.Path)
	if err != nil {
		return errs.E(op, errs.Internal, t.Path, err)
	}
	partial, err := exists(r.fs, t.partial())
	if err != nil {
		return errs.E(op, errs.Internal, t.partial(), err)
	}
	if there && complete && !partial && !r.opts.Force && t.untouched() {
		t.final = true
		return nil
	}
	if there && !r.opts.Force {
		if t.device {
			return errs.New(op, errs.Exists, t.Path, "everything on the device would be overwritten").
				WithRemedy("say so (force), or choose another target")
		}
		return errs.New(op, errs.Exists, t.Path, "the target exists already").
			WithRemedy("choose another path, or say that it is to be overwritten (force)")
	}
	if t.device {
		size, err := deviceSize(t.Path)
		if err != nil {
			return err
		}
		return t.openDevice(ctx, size)
	}
	fresh := r.skipped == 0
	if !fresh && !partial {
		return errs.New(op, errs.Conflict, t.partial(), "the cursor beside it says that this file is partly built, and it is gone").
			WithRemedy("remove " + t.cursor() + " and start again from the beginning")
	}
	if err := t.checkRoom(); err != nil {
		return err
	}
	if fresh {
		// A cursor of another run must not outlive the data it speaks of.
		if err := durable.Remove(r.fs, t.cursor()); err != nil {
			return errs.E(op, errs.Internal, t.cursor(), err)
		}
	}
	return t.openFile(fresh)
}

// gives reports whether an object gives anything to the targets.
func (r *run) gives(o *journal.ImageObject) bool {
	return slices.ContainsFunc(o.Frames, func(p journal.Take) bool { return r.byDisk[p.Disk] != nil })
}

// fetch does all objects that are not done.
func (r *run) fetch(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	next := make(chan int)
	g.Go(func() error {
		defer close(next)
		return r.feed(gctx, next)
	})
	for range r.opts.Parallel {
		g.Go(func() error {
			f := &fetcher{r: r}
			for i := range next {
				if err := f.object(gctx, i); err != nil {
					return err
				}
				r.mark(i)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return r.interrupted(ctx, err)
	}
	return nil
}

// feed hands out objects in order and saves progress now and then.
func (r *run) feed(ctx context.Context, next chan<- int) error {
	saved := time.Now()
	for i := range r.img.Objects {
		if r.done[i] { // only this object's worker changes it, later
			continue
		}
		select {
		case next <- i:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if time.Since(saved) >= r.opts.SaveEvery {
			if err := r.save(false); err != nil {
				return err
			}
			saved = time.Now()
		}
	}
	return nil
}

func (r *run) mark(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done[i] = true
	r.count++
	if r.opts.Progress != nil {
		r.opts.Progress(Progress{Objects: r.count, ObjectsTotal: len(r.img.Objects),
			Bytes: r.contentBytes.Load(), BytesTotal: r.total, Fetched: r.fetchedBytes.Load()})
	}
}

func (r *run) fetched(n int64) { r.fetchedBytes.Add(n) }

// gave counts content that was taken from an object.
func (r *run) gave(n int64) { r.contentBytes.Add(n) }

// save syncs the targets and then writes their cursors: what was done before
// the sync began.
func (r *run) save(complete bool) error {
	r.mu.Lock()
	c := cursor{Run: r.id, Checkpoint: r.img.Checkpoint.ID, Complete: complete, Done: ranges(r.done)}
	r.mu.Unlock()
	for _, t := range r.targets {
		if err := t.sync(); err != nil {
			return err
		}
	}
	for _, t := range r.targets {
		if t.device || t.final {
			continue
		}
		c.Update = t.mark
		if err := writeCursor(r.fs, t.cursor(), c); err != nil {
			return err
		}
	}
	return nil
}

// interrupted saves what was done and says how to go on.
func (r *run) interrupted(ctx context.Context, cause error) error {
	const op = "rocva.Full"
	if errs.Is(cause, errs.Corrupt) || ctx.Err() == nil && errs.Is(cause, errs.Full) {
		if err := r.save(false); err != nil {
			r.log.Warn("progress could not be saved", "err", err)
		}
		return cause
	}
	if err := r.save(false); err != nil {
		return errs.E(op, errs.Internal, "", fmt.Errorf("%w; besides, progress could not be saved: %w", cause, err))
	}
	r.mu.Lock()
	words := fmt.Sprintf("stopped after %d of %d objects", r.count, len(r.img.Objects))
	r.mu.Unlock()
	remedy := "run the same rehydration again: it goes on where it stopped"
	if r.hasDevice() {
		remedy = "run the same rehydration again: onto a block device it begins anew"
	}
	if ctx.Err() != nil {
		return errs.E(op, errs.Canceled, "", fmt.Errorf("%s: %w", words, context.Cause(ctx))).WithRemedy(remedy)
	}
	return errs.E(op, errs.Internal, "", fmt.Errorf("%s: %w", words, cause)).WithRemedy(remedy)
}

// Recovery path, step 8: finish. Only a whole and durable disk gets its name.

// finish makes everything durable and gives the files their own names. Order:
// data, cursors that say so, names, and only then are the cursors removed.
func (r *run) finish() error {
	if r.opts.Hold {
		return r.hold()
	}
	if err := r.save(true); err != nil {
		return err
	}
	for _, t := range r.targets {
		if err := t.rename(); err != nil {
			return err
		}
	}
	for _, t := range r.targets {
		if err := t.tidy(); err != nil {
			return err
		}
	}
	r.log.Info("rehydration finished", "objects", len(r.img.Objects), "elapsed", time.Since(r.started))
	return nil
}

// hold ends a run whose disks keep their partial names.
func (r *run) hold() error {
	for _, t := range r.targets {
		if err := t.sync(); err != nil {
			return err
		}
	}
	for _, t := range r.targets {
		if err := t.forgetCursor(); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) result() Result {
	res := Result{Checkpoint: r.img.Checkpoint.ID, Objects: r.count - r.skipped, Skipped: r.skipped,
		Fetched: r.fetchedBytes.Load(), Elapsed: time.Since(r.started)}
	for _, t := range r.targets {
		res.Written += t.written.Load()
		res.Disks = append(res.Disks, DiskResult{t.Disk, t.Path, t.disk.Size, t.disk.Bytes})
	}
	return res
}

// explain adds to a damaged object which checkpoint it costs.
func (r *run) explain(err error) error { return frame.Explain("rocva.Full", r.img, err) }
