package journal

import (
	"context"
	"fmt"
	"sync"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/index"
	"holdfast/internal/segment"
)

// Object is an open journal or data object: its footer, and the means to read
// and open its frames. It is immutable and safe for concurrent use, and has
// nothing to close.
type Object struct {
	Ref    index.ObjectID
	Number dr.ObjectNumber // of a journal object
	Key    string
	Size   int64 // bytes
	Header segment.Header
	Footer *segment.Footer // read-only

	c      *Container
	opener *segment.Opener

	once      sync.Once
	byCounter []uint32 // place in Footer.Entries
}

// OpenObject opens journal object n of timeline t. Kinds as of OpenRef.
func (c *Container) OpenObject(ctx context.Context, t dr.TimelineID, n dr.ObjectNumber) (*Object, error) {
	return c.OpenRef(ctx, index.ObjectID{Timeline: t, Number: n})
}

// OpenRef opens a journal or data object. Kind NotFound when it does not
// exist, Corrupt when it is damaged or another one lies under its name,
// Invalid for a fence, or the store's.
func (c *Container) OpenRef(ctx context.Context, id index.ObjectID) (*Object, error) {
	const op = "journal.OpenRef"
	if !id.Valid() {
		return nil, errs.New(op, errs.Invalid, id.String(), "it names no object")
	}
	in, err := c.st.Stat(ctx, ObjectName(id))
	if err != nil {
		return nil, errs.E(op, errs.Internal, ObjectName(id), err)
	}
	return c.OpenSized(ctx, id, in.Size)
}

// OpenSized is OpenRef for an object whose size is known, as an Image knows
// it: one request less.
func (c *Container) OpenSized(ctx context.Context, id index.ObjectID, size int64) (*Object, error) {
	l, err := c.loadRef(ctx, id, size)
	if err != nil {
		return nil, err
	}
	return c.opened(l)
}

// opened is the object that was loaded, if it can be used.
func (c *Container) opened(l *loaded) (*Object, error) {
	const op = "journal.OpenRef"
	if l.missing {
		return nil, errs.New(op, errs.NotFound, l.key, "the object is gone")
	}
	if err := l.damaged(); err != nil {
		return nil, errs.E(op, errs.Corrupt, l.key, err)
	}
	if l.footer == nil {
		return nil, errs.New(op, errs.Invalid, l.key, "the object is a fence and has no content")
	}
	return c.object(l)
}

// OpenWhole is OpenSized that also returns all the object's bytes, by one
// request. Nothing has verified them but who opens or copies a frame.
func (c *Container) OpenWhole(ctx context.Context, id index.ObjectID, size int64) (*Object, []byte, error) {
	l, err := c.loadEnds(ctx, id, size, size)
	if err != nil {
		return nil, nil, err
	}
	o, err := c.opened(l)
	return o, l.whole, err
}

func (c *Container) object(l *loaded) (*Object, error) {
	opener, err := segment.NewPackedOpener(c.dataKey, l.header, l.footer)
	if err != nil {
		return nil, errs.E("journal.OpenRef", errs.Internal, l.key, err)
	}
	id := index.ObjectID{Timeline: l.header.Timeline, Number: l.number}
	if l.header.Kind == segment.Data {
		id = index.ObjectID{Data: l.header.Object}
	}
	return &Object{Ref: id, Number: l.number, Key: l.key, Size: l.size, Header: l.header, Footer: l.footer, c: c, opener: opener}, nil
}

// Is returns nil when the object is the one with a fingerprint, or any when that
// is zero; kind Corrupt when the store has exchanged it for another valid one.
func (o *Object) Is(f Fingerprint) error {
	if f.differs(o.Header.Object) {
		return swapped("journal.OpenRef", o.Key)
	}
	return nil
}

// Entries returns the frames of which an image takes something, in the order
// of io.Frames. Kind Corrupt when the object is not the one that was resolved:
// a frame is not there, is of another disk, has not the blocks, or they have
// another size all together.
func (o *Object) Entries(m *Image, io *ImageObject) ([]*segment.Entry, error) {
	const op = "journal.Entries"
	if err := o.Is(io.Print); err != nil {
		return nil, err
	}
	out := make([]*segment.Entry, len(io.Frames))
	var stored int64
	for i, t := range io.Frames {
		e, err := o.Entry(t.Frame)
		if err != nil {
			return nil, err
		}
		if int(t.Disk) >= len(m.Disks) || o.Footer.Disks[e.Disk] != m.Disks[t.Disk].ID || e.Chunk != t.Chunk || t.Take&^e.Mask != 0 || t.Take == 0 {
			return nil, errs.New(op, errs.Corrupt, o.Key, fmt.Sprintf("frame %d is not the one the checkpoint was resolved with", t.Frame))
		}
		stored += int64(e.Stored)
		out[i] = e
	}
	if o.Ref != io.Ref || stored != io.Stored {
		return nil, errs.New(op, errs.Corrupt, o.Key, "the object is not the one the checkpoint was resolved with")
	}
	return out, nil
}

// Entry returns the frame with a counter, as an Image names it. Kind Corrupt
// when the object has no such frame: then it is not the one that was resolved.
func (o *Object) Entry(counter uint32) (*segment.Entry, error) {
	o.once.Do(func() {
		o.byCounter = make([]uint32, len(o.Footer.Entries))
		for i := range o.Footer.Entries {
			o.byCounter[o.Footer.Entries[i].Counter] = uint32(i) // counters are dense: the footer's parser has checked it
		}
	})
	if int64(counter) >= int64(len(o.byCounter)) {
		return nil, errs.New("journal.Entry", errs.Corrupt, o.Key, fmt.Sprintf("the object has no frame %d", counter)).
			WithRemedy("run an index check on the container")
	}
	return &o.Footer.Entries[o.byCounter[counter]], nil
}

// ReadAt fills p with the object's bytes from off. Kind Corrupt when it ends
// before that, or the store's.
func (o *Object) ReadAt(ctx context.Context, p []byte, off int64) error {
	err := readExact(ctx, o.c.st, o.Key, p, off)
	return wrapErr("journal.ReadAt", o.Key, err)
}

// Recovery path, step 7: open. Nothing leaves here that is not what the filter
// captured.

// OpenFrame opens frame e of this object from its stored bytes and appends
// its blocks to dst. With verify they are compared with their hashes too. Kind
// Corrupt when they are not what was captured.
func (o *Object) OpenFrame(dst []byte, e *segment.Entry, sealed []byte, verify bool) ([]byte, error) {
	const op = "journal.OpenFrame"
	from := len(dst)
	out, err := o.opener.Frame(dst, o.Footer.Disks[e.Disk], e, sealed)
	if err == nil && verify {
		err = o.opener.CheckBlocks(o.Footer, e, out[from:])
	}
	if err != nil {
		return dst, errs.E(op, errs.Internal, o.Key, err)
	}
	return out, nil
}
