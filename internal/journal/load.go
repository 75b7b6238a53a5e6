package journal

import (
	"context"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
)

// loaded is a journal object's head, tail and footer, without its frames.
type loaded struct {
	number dr.ObjectNumber
	key    string
	size   int64

	header   segment.Header
	headErr  error // the header is not readable
	digest   segment.Digest
	tailErr  error // the digest and the footer's place are not readable
	footer   *segment.Footer
	bodyErr  error // the footer is not what was written
	missing  bool  // gone, or not yet there
	headRaw  []byte
	frameEnd int64  // where the footer begins
	whole    []byte // the object, when one read took all of it
}

// link is what the chain needs to know of it. The digest of a fence is taken
// from its header and not from its tail, which anybody can write: what follows
// names the digest under a seal, so that no forged fence has anything behind it.
func (l *loaded) link() link {
	k := link{
		number: l.number, kind: l.header.Kind, epoch: l.header.Epoch, prev: l.header.Prev, digest: l.digest,
		before: l.header.PrevObject, behind: l.header.PrevNumber, object: l.header.Object,
	}
	if k.kind == segment.Fence {
		k.digest = segment.FenceDigest(l.headRaw)
	}
	return k
}

// damaged says why the object's content cannot be used, or nil.
func (l *loaded) damaged() error {
	for _, err := range []error{l.headErr, l.tailErr, l.bodyErr} {
		if err != nil {
			return err
		}
	}
	return nil
}

// load reads the ends of journal object n of size bytes with two or three
// ranged reads. What the bytes themselves are guilty of is noted in the
// result; an error is the store's and says nothing about the object.
func (c *Container) load(ctx context.Context, t dr.TimelineID, n dr.ObjectNumber, size int64) (*loaded, error) {
	return c.loadRef(ctx, index.ObjectID{Timeline: t, Number: n}, size)
}

// loadRef is load for journal and data objects.
func (c *Container) loadRef(ctx context.Context, id index.ObjectID, size int64) (*loaded, error) {
	return c.loadEnds(ctx, id, size, 0)
}

// loadEnds is loadRef which takes objects of up to whole bytes with one read.
func (c *Container) loadEnds(ctx context.Context, id index.ObjectID, size, whole int64) (*loaded, error) {
	l := &loaded{number: id.Number, key: ObjectName(id), size: size}
	if size < segment.HeaderSize+segment.TailSize || size > segment.MaxObjectSize {
		err := errs.New("journal.load", errs.Corrupt, l.key, "the object's size is not one an object has")
		l.headErr, l.tailErr = err, err
		return l, nil
	}
	first := int64(guessTail + segment.HeaderSize)
	if size <= whole {
		first = size
	}
	end := make([]byte, min(size, first))
	if err := l.read(ctx, c, end, size-int64(len(end))); err != nil || l.missing || l.headErr != nil {
		return l, err
	}
	if int64(len(end)) == size {
		l.headRaw = end[:segment.HeaderSize]
		l.keepWhole(end)
	} else {
		l.headRaw = make([]byte, segment.HeaderSize)
		if err := l.read(ctx, c, l.headRaw, 0); err != nil || l.missing || l.headErr != nil {
			return l, err
		}
	}
	l.parseHeader(c, id)
	return l, l.parseEnd(ctx, c, end)
}

// keepWhole keeps the object's last bytes when they are all of it.
func (l *loaded) keepWhole(end []byte) {
	if int64(len(end)) == l.size {
		l.whole = end
	}
}

// read fills p; a store that says that the object is damaged is believed.
func (l *loaded) read(ctx context.Context, c *Container, p []byte, off int64) error {
	err := readExact(ctx, c.st, l.key, p, off)
	switch {
	case err == nil:
		return nil
	case errs.Is(err, errs.NotFound):
		l.missing = true
		return nil
	case errs.Is(err, errs.Corrupt):
		l.headErr, l.tailErr = err, err
		return nil
	}
	return errs.E("journal.load", errs.Internal, l.key, err)
}

func (l *loaded) parseHeader(c *Container, id index.ObjectID) {
	h, err := segment.ParseHeader(l.headRaw)
	if err == nil && id.Data.IsZero() {
		err = c.checkPlace(&h, id.Timeline, id.Number)
	} else if err == nil {
		err = c.checkData(&h, id.Data)
	}
	if err != nil {
		l.headErr = errs.E("journal.load", errs.Internal, l.key, err)
		return
	}
	l.header = h
}

// checkPlace compares what a header says about where it belongs with where it
// was found.
func (c *Container) checkPlace(h *segment.Header, t dr.TimelineID, n dr.ObjectNumber) error {
	what := ""
	switch {
	case h.Domain != c.domain.ID:
		what = "the object belongs to another container"
	case h.Timeline != t:
		what = "the object belongs to another timeline"
	case h.Number != n:
		what = "the object was written under another number"
	case h.Window != Window:
		what = "the object has another window"
	}
	if what != "" {
		return errs.New("journal.load", errs.Corrupt, "", what)
	}
	if h.Kind == segment.Journal {
		if _, err := c.dataKey(h.Key); err != nil {
			return errs.New("journal.load", errs.Corrupt, "", err.Error())
		}
	}
	return nil
}

// checkData is checkPlace for a data object.
func (c *Container) checkData(h *segment.Header, id dr.UUID) error {
	what := ""
	switch {
	case h.Domain != c.domain.ID:
		what = "the object belongs to another container"
	case h.Kind != segment.Data:
		what = "the object is no data object"
	case h.Object != id:
		what = "the object was written under another name"
	}
	if what != "" {
		return errs.New("journal.load", errs.Corrupt, "", what)
	}
	return nil
}

// parseEnd takes tail and footer from the object's last bytes, reading more
// when the footer is longer than they are.
func (l *loaded) parseEnd(ctx context.Context, c *Container, end []byte) error {
	const op = "journal.load"
	off, n, digest, err := segment.ParseTail(end[len(end)-segment.TailSize:])
	if err == nil && (off+n+segment.TailSize != l.size || n > maxStoredFooter) {
		err = errs.New(op, errs.Corrupt, "", "the tail does not fit the object's size")
	}
	if err != nil {
		l.tailErr = errs.E(op, errs.Internal, l.key, err)
		return nil
	}
	l.digest, l.frameEnd = digest, off
	if l.headErr != nil {
		return nil
	}
	if l.header.Kind == segment.Fence {
		if digest != segment.FenceDigest(l.headRaw) || l.size != segment.HeaderSize+segment.TailSize {
			l.tailErr = errs.New(op, errs.Corrupt, l.key, "the fence is not the one its tail was written for")
		}
		return nil
	}
	var sealed []byte
	if at := int64(len(end)) - segment.TailSize - n; at >= 0 {
		sealed = end[at : at+n]
	} else {
		sealed = make([]byte, n)
		if err := l.read(ctx, c, sealed, off); err != nil || l.missing || l.headErr != nil {
			return err
		}
	}
	key, err := c.dataKey(l.header.Key)
	if err == nil {
		l.footer, err = segment.OpenFooter(key, l.header, l.headRaw, sealed)
	}
	if err != nil {
		l.bodyErr = errs.E(op, errs.Internal, l.key, err)
	}
	return nil
}

// sized is a journal object as a list shows it.
type sized struct {
	number dr.ObjectNumber
	size   int64
}

// loadAll loads objects concurrently; the result has their order. Its memory
// is that of the footers of one list page.
func (c *Container) loadAll(ctx context.Context, t dr.TimelineID, objects []sized) ([]*loaded, error) {
	return loadEach(ctx, t, objects, c.load)
}

// loadEach is loadAll by one of the ways to load an object.
func loadEach(ctx context.Context, t dr.TimelineID, objects []sized,
	load func(context.Context, dr.TimelineID, dr.ObjectNumber, int64) (*loaded, error)) ([]*loaded, error) {
	out := make([]*loaded, len(objects))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readParallel)
	for i, o := range objects {
		g.Go(func() (err error) {
			out[i], err = load(ctx, t, o.number, o.size)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}
